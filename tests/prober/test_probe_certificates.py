"""The TLS probe's rules for certificates, one by one, with certificates made for the tests."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from derper.errors import NetworkError
from derper.host.proxies import Proxies
from derper.prober import revocation
from derper.prober.revocation import RevocationLists
from derper.prober.tls import check_dates, list_url, must_name_list

NOW: Final = datetime(2026, 6, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
KEY: Final = ec.generate_private_key(ec.SECP256R1())
OWN: Final = x509.SubjectKeyIdentifier(b"own")
OTHER: Final = x509.AuthorityKeyIdentifier(b"another", None, None)
SAME: Final = x509.AuthorityKeyIdentifier(b"own", None, None)


def certificate(
    *extensions: x509.ExtensionType,
    since: datetime = NOW - DAY,
    until: datetime = NOW + 90 * DAY,
    issuer: str = "An authority",
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.test")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, issuer)]))
        .public_key(KEY.public_key())
        .serial_number(7)
        .not_valid_before(since)
        .not_valid_after(until)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(KEY, hashes.SHA256())


@pytest.mark.parametrize(
    ("since", "until", "word"),
    [
        (NOW - DAY, NOW + 7 * DAY + timedelta(seconds=1), ""),
        (NOW - DAY, NOW + 7 * DAY - timedelta(seconds=1), "in less than 7 days"),
        (NOW - DAY, NOW - timedelta(seconds=1), "in less than 7 days"),
        (NOW + timedelta(seconds=1), NOW + 90 * DAY, "is not valid before"),
    ],
    ids=["good for a week", "ends within a week", "ended", "not yet valid"],
)
def test_a_certificate_has_to_be_valid_now_and_for_a_week(since: datetime, until: datetime, word: str) -> None:
    good = certificate(OWN, OTHER)
    one = certificate(OWN, OTHER, since=since, until=until)
    for chain in ([one, good], [good, one]):
        if not word:
            check_dates(chain, NOW)
            continue
        with pytest.raises(NetworkError, match=word):
            check_dates(chain, NOW)


@pytest.mark.parametrize(
    ("identifiers", "is_looked_at"),
    [((OWN, OTHER), True), ((OWN,), True), ((OTHER,), True), ((OWN, SAME), False), ((), False)],
    ids=["different", "own alone", "issuer's alone", "equal", "neither"],
)
def test_certificates_with_equal_or_no_key_identifiers_are_skipped(
    identifiers: Sequence[x509.ExtensionType],
    is_looked_at: bool,  # noqa: FBT001  a parameter of the table
) -> None:
    chain = [certificate(*identifiers, until=NOW + DAY)]
    if not is_looked_at:
        check_dates(chain, NOW)
        return
    with pytest.raises(NetworkError):
        check_dates(chain, NOW)


@pytest.mark.parametrize(
    ("issuer", "since", "must"),
    [
        ("Let's Encrypt", datetime(2025, 5, 7, tzinfo=UTC), True),
        ("Let's Encrypt", datetime(2025, 5, 6, 23, 59, 59, tzinfo=UTC), False),
        ("Another authority", datetime(2025, 5, 7, tzinfo=UTC), False),
    ],
)
def test_new_certificates_of_lets_encrypt_must_name_a_revocation_list(
    issuer: str,
    since: datetime,
    must: bool,  # noqa: FBT001  a parameter of the table
) -> None:
    assert must_name_list(certificate(issuer=issuer, since=since)) is must


def test_the_first_list_that_can_be_fetched_is_used() -> None:
    urls = ("ldap://a.test/x", "http://a.test/1.crl", "http://a.test/2.crl")
    names = [x509.UniformResourceIdentifier(url) for url in urls]
    points = [x509.DistributionPoint([name], None, None, None) for name in names]
    assert list_url(certificate(x509.CRLDistributionPoints(points))) == "http://a.test/1.crl"
    assert list_url(certificate()) == ""


async def test_a_list_is_kept_for_an_hour_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "An authority")])
    now = datetime.now(UTC)
    listed = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(now - DAY)
        .next_update(now + 9 * DAY)
        .sign(KEY, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    fetched, clock = [], [1_000.0]

    async def fetch(url: str, _proxy: str | None) -> bytes:
        fetched.append(url)
        return listed

    monkeypatch.setattr(revocation, "_fetch", fetch)
    monkeypatch.setattr(revocation, "_clock", lambda: clock[0])
    root = (
        x509.CertificateBuilder()
        .subject_name(issuer)
        .issuer_name(issuer)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .sign(KEY, hashes.SHA256())
    )
    lists = RevocationLists(Proxies())
    for seconds, times in ((0, 1), (3_599, 1), (3_601, 2)):
        clock[0] = 1_000.0 + seconds
        await lists.check(certificate(), "http://a.test/1.crl", [root])
        assert len(fetched) == times
