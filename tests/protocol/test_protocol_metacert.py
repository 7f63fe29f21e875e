from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from golden import Case, by_name, load, node_keys
from hypothesis import given
from hypothesis import strategies as st

from derper.protocol import metacert
from derper.protocol.keys import NodePrivate, NodePublic

META = load("metacert")
REFERENCE = META["reference"]
REFERENCE_DER = bytes.fromhex(REFERENCE["der"])
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SERVER_KEY = NodePrivate(bytes.fromhex(REFERENCE["server_private"])).public()
BEGIN = datetime(2026, 10, 24, 3, 10, 18, tzinfo=UTC)
END = BEGIN + timedelta(days=60)


# The common name is intentionally longer than X.520 allows.
pytestmark = pytest.mark.filterwarnings("ignore:Attribute's length:UserWarning")


@pytest.mark.parametrize("case", by_name(META["client_cases"]))
def test_a_client_finds_the_server_key_as_the_reference_does(case: Case) -> None:
    found = metacert.find([bytes.fromhex(der) for der in case["chain"]])
    assert (found.protocol_version if found else 0) == case["protocol_version"]
    assert (found is not None and found.allows_fast_start) is case["fast_start"]
    assert (found.server_key.hex() if found and found.allows_fast_start else None) == case["server_public"]


def test_ours_equals_the_reference_s_except_for_the_random_key_and_its_signature() -> None:
    theirs = x509.load_der_x509_certificate(REFERENCE_DER)
    dates = theirs.not_valid_before_utc, theirs.not_valid_after_utc
    ours = metacert.build(SERVER_KEY, SIGNER, *dates)
    their_key = theirs.public_key().public_bytes_raw()  # type: ignore[union-attr]  # an Ed25519 key has raw bytes
    our_key = SIGNER.public_key().public_bytes_raw()
    assert ours[:-64] == REFERENCE_DER[:-64].replace(their_key, our_key)


def test_ours_has_the_fields_of_the_reference_s() -> None:
    der = metacert.build(SERVER_KEY, SIGNER, BEGIN, END)
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(certificate)
    assert str(certificate.serial_number) == REFERENCE["serial"]
    (name,) = certificate.subject
    assert name.value == REFERENCE["common_name"]
    assert certificate.issuer == certificate.subject
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (BEGIN, END)
    (extension,) = certificate.extensions
    assert (extension.oid.dotted_string, extension.critical) == ("2.5.29.19", True)
    assert metacert.find([der]) == metacert.MetaCertificate(SERVER_KEY, 2)


@pytest.mark.parametrize("year", [1950, 1999, 2000, 2049, 2050, 2120])
def test_dates_of_any_year_are_kept(year: int) -> None:
    begin = datetime(year, 6, 1, tzinfo=timezone(timedelta(hours=5)))
    end = datetime(2150, 1, 1, tzinfo=UTC)
    certificate = x509.load_der_x509_certificate(metacert.build(SERVER_KEY, SIGNER, begin, end))
    assert (certificate.not_valid_before_utc, certificate.not_valid_after_utc) == (begin, end)


def test_a_date_without_a_zone_is_an_error_of_the_caller() -> None:
    with pytest.raises(ValueError, match="time zone"):
        metacert.build(SERVER_KEY, SIGNER, BEGIN.replace(tzinfo=None), END)


@given(node_keys)
def test_any_key_survives_its_meta_certificate(key: NodePublic) -> None:
    found = metacert.find([b"", metacert.build(key, SIGNER, BEGIN, END)])
    assert found == metacert.MetaCertificate(key, 2)
    assert found.allows_fast_start is not key.is_zero


def test_a_truncated_certificate_is_skipped() -> None:
    for length in range(len(REFERENCE_DER)):
        assert metacert.find([REFERENCE_DER[:length]]) is None


@given(st.lists(st.tuples(st.integers(0, len(REFERENCE_DER) - 1), st.integers(0, 255)), max_size=4), st.binary())
def test_a_garbled_certificate_is_skipped_or_read(changes: list[tuple[int, int]], garbage: bytes) -> None:
    der = bytearray(REFERENCE_DER)
    for at, value in changes:
        der[at] = value
    found = metacert.find([garbage, bytes(der)])
    assert found is None or 0 <= found.protocol_version <= 255


@pytest.mark.parametrize("der", ["3080", "3084ffffffff", "308500000000", "30", "3003020102", "30053003020102"])
def test_certificates_with_wrong_lengths_are_skipped(der: str) -> None:
    assert metacert.find([bytes.fromhex(der)]) is None
