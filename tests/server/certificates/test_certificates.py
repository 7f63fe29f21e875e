"""Certificate files. OpenSSL's program makes the input files and checks ours."""

import ssl
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key

from derper.config import Acme, CertMode, Tls
from derper.credentials import pem
from derper.credentials.pairs import Pair, pair_of
from derper.credentials.pem import Certificate
from derper.errors import ConfigError
from derper.server.certificates import manual

P256 = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")


def openssl(*words: str | Path, send: bytes = b"") -> str:
    done = subprocess.run(["openssl", *map(str, words)], input=send, capture_output=True, check=True)
    return done.stdout.decode()


def tls(directory: Path | None, hostname: str) -> Tls:
    return Tls(CertMode.MANUAL, hostname, directory, Acme())


def load(directory: Path, hostname: str) -> Certificate:
    manual.prepare(tls(directory, hostname), datetime.now(UTC))
    return manual.load(tls(directory, hostname))


def refusal(directory: Path, hostname: str) -> str:
    with pytest.raises(ConfigError) as error:
        load(directory, hostname)
    sentence = str(error.value)
    assert "\n" not in sentence
    return sentence


def make(
    directory: Path, name: str, san: str | None, *, kind: tuple[str, ...] = P256, more: tuple[str, ...] = ()
) -> None:
    """Make a self-signed certificate and its key under a host name's file names."""
    names = () if san is None else ("-addext", f"subjectAltName={san}")
    files = ("-keyout", str(directory / f"{name}.key"), "-out", str(directory / f"{name}.crt"))
    openssl("req", "-x509", "-nodes", *kind, "-days", "10", "-subj", f"/CN={name}", *names, *files, *more)


@pytest.mark.parametrize(
    "kind",
    [P256, ("-newkey", "rsa:2048"), ("-newkey", "ed25519"), ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384")],
)
def test_an_operators_certificate_is_served_unchanged(tmp_path: Path, kind: tuple[str, ...]) -> None:
    make(tmp_path, "derp.test", "DNS:derp.test", kind=kind)
    made = load(tmp_path, "derp.test")
    assert made.chain[0] == ssl.PEM_cert_to_DER_cert((tmp_path / "derp.test.crt").read_text())
    public = openssl("pkey", "-inform", "DER", "-pubout", send=made.key)
    assert public == openssl("x509", "-in", tmp_path / "derp.test.crt", "-noout", "-pubkey")


def test_the_chain_keeps_its_order(tmp_path: Path) -> None:
    make(tmp_path, "ca", None)
    make(
        tmp_path,
        "derp.test",
        "DNS:derp.test",
        more=("-CA", str(tmp_path / "ca.crt"), "-CAkey", str(tmp_path / "ca.key")),
    )
    bundle = tmp_path / "derp.test.crt"
    bundle.write_bytes(bundle.read_bytes() + (tmp_path / "ca.crt").read_bytes())
    leaf, ca = map(x509.load_der_x509_certificate, load(tmp_path, "derp.test").chain)
    assert leaf.subject.rfc4514_string() == "CN=derp.test"
    assert ca.subject.rfc4514_string() == "CN=ca"


@pytest.mark.parametrize(
    ("hostname", "san"),
    [
        ("derp.test", "DNS:other.test,DNS:derp.test"),
        ("DERP.test.", "DNS:derp.TEST"),
        ("derp.test", "DNS:*.test"),
        ("192.0.2.1", "IP:192.0.2.1"),
        ("2001:db8::1", "IP:2001:db8:0::1"),
    ],
)
def test_a_certificate_is_accepted_for_the_names_that_clients_accept(tmp_path: Path, hostname: str, san: str) -> None:
    make(tmp_path, pair_of(tls(tmp_path, hostname)).certificate.stem, san)
    load(tmp_path, hostname)


@pytest.mark.parametrize(
    ("hostname", "san"),
    [
        ("derp.test", None),
        ("derp.test", "DNS:other.test"),
        ("a.derp.test", "DNS:*.test"),
        ("test", "DNS:*.test"),
        ("derp.test", "IP:192.0.2.1"),
        ("192.0.2.1", "IP:192.0.2.2"),
        ("192.0.2.1", "DNS:192.0.2.1"),
    ],
)
def test_a_certificate_for_other_names_is_rejected(tmp_path: Path, hostname: str, san: str | None) -> None:
    make(tmp_path, hostname, san)
    assert f"not valid for -hostname={hostname}" in refusal(tmp_path, hostname)


def test_a_key_of_another_certificate_is_rejected(tmp_path: Path) -> None:
    make(tmp_path, "derp.test", "DNS:derp.test")
    make(tmp_path, "other.test", "DNS:other.test")
    (tmp_path / "other.test.key").replace(tmp_path / "derp.test.key")
    assert "is not that of the certificate" in refusal(tmp_path, "derp.test")


def test_an_error_for_a_certificate_outside_its_validity_has_the_dates_and_a_remedy(tmp_path: Path) -> None:
    make(tmp_path, "derp.test", "DNS:derp.test")
    certificate, end = load(tmp_path, "derp.test"), datetime.now(UTC) + timedelta(days=10)
    pem.check_dates(certificate, "FILE", datetime.now(UTC))
    with pytest.raises(ConfigError, match=f"FILE: certificate has expired: .* until {end:%Y-%m-%d} .*; renew it"):
        pem.check_dates(certificate, "FILE", end + timedelta(days=1))
    with pytest.raises(ConfigError, match=r"FILE: certificate is not yet valid: .*; check this machine's clock"):
        pem.check_dates(certificate, "FILE", datetime.now(UTC) - timedelta(days=1))


@pytest.mark.parametrize("suffix", [".crt", ".key"])
def test_unusable_files_are_errors_of_one_sentence(tmp_path: Path, suffix: str) -> None:
    make(tmp_path, "derp.test", "DNS:derp.test")
    path = tmp_path / f"derp.test{suffix}"
    garbled = path.read_bytes().replace(b"M", b"!")
    for data in (b"", b"\xff\x00", b"-----BEGIN CERTIFICATE-----", garbled):
        path.write_bytes(data)
        assert str(path) in refusal(tmp_path, "derp.test")
    path.unlink()
    assert "cannot be read (No such file or directory)" in refusal(tmp_path, "derp.test")


def test_a_key_with_a_password_is_rejected(tmp_path: Path) -> None:
    make(tmp_path, "derp.test", "DNS:derp.test")
    path = tmp_path / "derp.test.key"
    path.write_text(openssl("pkey", "-in", path, "-aes256", "-passout", "pass:word"))
    assert "password" in refusal(tmp_path, "derp.test")


@pytest.mark.parametrize("bits", [1024, 1536])
def test_an_rsa_key_of_an_unsupported_size_is_rejected_with_its_size(tmp_path: Path, bits: int) -> None:
    make(tmp_path, "derp.test", "DNS:derp.test", kind=("-newkey", f"rsa:{bits}"))
    sentence = refusal(tmp_path, "derp.test")
    assert f"derp.test.key is an RSA key of {bits} bits" in sentence
    assert "2048 to 8192 bits" in sentence
    assert "make a new key" in sentence


def test_an_rsa_pss_key_is_rejected_by_its_name(tmp_path: Path) -> None:
    make(tmp_path, "derp.test", "DNS:derp.test", kind=("-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048"))
    assert "is for an RSA-PSS key; use ECDSA P-256 or RSA" in refusal(tmp_path, "derp.test")


def test_a_bundle_that_does_not_begin_with_the_leaf_is_rejected_with_the_right_order(tmp_path: Path) -> None:
    make(tmp_path, "ca", None)
    authority = ("-CA", str(tmp_path / "ca.crt"), "-CAkey", str(tmp_path / "ca.key"))
    make(tmp_path, "derp.test", "DNS:derp.test", more=authority)
    bundle = tmp_path / "derp.test.crt"
    bundle.write_bytes((tmp_path / "ca.crt").read_bytes() + bundle.read_bytes())
    sentence = refusal(tmp_path, "derp.test")
    assert (
        f"{bundle} begins with the certificate of CN=ca: the leaf must come first, then its intermediates" in sentence
    )


@pytest.mark.parametrize("kind", [("-newkey", "ed448"), ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1")])
def test_a_kind_of_key_that_clients_do_not_support_is_rejected(tmp_path: Path, kind: tuple[str, ...]) -> None:
    make(tmp_path, "derp.test", "DNS:derp.test", kind=kind)
    assert "use ECDSA P-256 or RSA" in refusal(tmp_path, "derp.test")


def test_a_key_file_may_hold_other_blocks_and_the_older_forms(tmp_path: Path) -> None:
    make(tmp_path, "derp.test", "DNS:derp.test")
    path = tmp_path / "derp.test.key"
    older = openssl("ec", "-in", path)
    path.write_text(openssl("ecparam", "-name", "prime256v1") + older + (tmp_path / "derp.test.crt").read_text())
    assert "BEGIN EC PARAMETERS" in path.read_text()
    assert "BEGIN EC PRIVATE KEY" in path.read_text()
    load(tmp_path, "derp.test")


@pytest.mark.parametrize(
    ("hostname", "stem"),
    [("derp-1.test", "derp-1.test"), ("2001:db8::1", "2001db81"), ("../a/b_c", "..abc"), ("é.test", ".test")],
)
def test_file_names_are_the_host_name_without_unsafe_characters(hostname: str, stem: str) -> None:
    assert pair_of(tls(Path("/c"), hostname)) == Pair(Path(f"/c/{stem}.crt"), Path(f"/c/{stem}.key"))


def test_no_directory_is_a_start_up_error() -> None:
    with pytest.raises(ConfigError, match="-certdir"):
        pair_of(tls(None, "derp.test"))


@pytest.mark.parametrize("hostname", ["192.0.2.1", "2001:db8::1"])
def test_an_ip_host_without_files_gets_a_certificate_that_openssl_verifies(tmp_path: Path, hostname: str) -> None:
    directory = tmp_path / "made" / "certs"
    made = load(directory, hostname)
    pair = pair_of(tls(directory, hostname))
    certificate_path, key_path = pair.certificate, pair.key
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert len(list(directory.iterdir())) == 2
    verified = openssl(
        *("verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", hostname),
        *("-partial_chain", "-trusted", certificate_path, certificate_path),
    )
    assert verified.endswith(": OK\n")
    shown = openssl("x509", "-in", certificate_path, "-noout", "-text", "-nameopt", "RFC2253")
    assert f"Subject: CN={hostname}\n" in shown
    assert f"Issuer: CN={hostname}\n" in shown
    assert "ASN1 OID: prime256v1" in shown
    assert len(made.chain) == 1  # clients that pin reject more than the leaf and the meta certificate
    leaf = x509.load_der_x509_certificate(made.chain[0])
    assert timedelta(days=364) < leaf.not_valid_after_utc - datetime.now(UTC) < timedelta(days=366)


def test_a_self_signed_certificate_and_its_pin_are_kept(tmp_path: Path) -> None:
    first, again = load(tmp_path, "192.0.2.1"), load(tmp_path, "192.0.2.1")
    assert first.pin == again.pin
    assert first.key == again.key
    digest = openssl("x509", "-in", tmp_path / "192.0.2.1.crt", "-noout", "-fingerprint", "-sha256")
    assert first.pin == "sha256-raw:" + digest.split("=")[1].strip().replace(":", "").lower()


@pytest.mark.parametrize("suffix", [".crt", ".key"])
def test_an_ip_hosts_single_file_is_never_overwritten(tmp_path: Path, suffix: str) -> None:
    load(tmp_path, "192.0.2.1")
    (tmp_path / f"192.0.2.1{suffix}").unlink()
    (left,) = tmp_path.iterdir()
    before = left.read_bytes()
    assert "cannot be read" in refusal(tmp_path, "192.0.2.1")
    assert left.read_bytes() == before


def test_an_uncreatable_certificate_directory_is_an_error_of_one_sentence() -> None:
    assert "cannot be written" in refusal(Path("/proc/certs"), "192.0.2.1")


def test_the_text_of_a_certificate_has_no_private_key(tmp_path: Path) -> None:
    made = load(tmp_path, "192.0.2.1")
    load_der_private_key(made.key, None)
    assert repr(made.key) not in repr(made)
