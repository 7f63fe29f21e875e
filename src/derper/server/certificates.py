"""Certificates given by hand: read, checked, or made for a host that is only an IP address.

What comes out is what the data plane serves, the meta certificate included, so a wrong file is a sentence at start-up
and not a failed handshake later. ACME is not here. Blocking: for start-up and for threads.
"""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from derper.config import IPAddress, Tls
from derper.errors import ConfigError
from derper.protocol import metacert
from derper.protocol.keys import NodePublic
from derper.server import files

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

SELF_SIGNED_LIFE = timedelta(days=365)
META_LIFE = timedelta(days=30)  # each way from now
CLOCK_SKEW = timedelta(days=1)  # a new certificate is good for clients whose clock is behind ours

_PRIVATE_KEY_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True, slots=True)
class ServingCertificate:
    """What a TLS server needs for one name."""

    chain: tuple[bytes, ...] = field(repr=False)  # DER: the leaf, its intermediates, last the meta certificate
    key: bytes = field(repr=False)  # PKCS #8 DER, of the leaf
    sni: str | None  # lower case: the one name that is served; None: any name, and none

    @property
    def pin(self) -> str:
        """What the DERP map's `CertName` holds for clients that trust this leaf alone."""
        return f"sha256-raw:{hashlib.sha256(self.chain[0]).hexdigest()}"

    def with_meta(self, server_key: NodePublic, now: datetime) -> Self:
        """The same with a new meta certificate, whose 30 days are over sooner than a relay's life."""
        return replace(self, chain=(*self.chain[:-1], _meta(server_key, now)))


def load_manual(tls: Tls, server_key: NodePublic, now: datetime) -> ServingCertificate:
    """The certificate in `<certdir>/<hostname>.crt` and `.key`; for an IP address without files, a new one.

    `now` is an aware time. Raises `ConfigError` when the files cannot serve this host name now.
    """
    certificate_path, key_path = certificate_paths(tls)
    if tls.ip is not None and not certificate_path.exists() and not key_path.exists():
        _make_self_signed(tls.ip, certificate_path, key_path, now)
    chain = _read_chain(certificate_path)
    key = _read_key(key_path)
    leaf = chain[0]
    if not _belongs_to(key, leaf):
        raise ConfigError(f"the private key {key_path} is not that of the certificate {certificate_path}")
    if not _is_valid_for(leaf, tls):
        raise ConfigError(f"the certificate {certificate_path} is not valid for -hostname={tls.hostname}")
    if now > leaf.not_valid_after_utc:
        raise ConfigError(
            f"the certificate {certificate_path} ended on {leaf.not_valid_after_utc:%Y-%m-%d}; "
            + ("renew it" if tls.ip is None else f"renew it, or remove it and {key_path} for a new one with a new pin")
        )
    if now < leaf.not_valid_before_utc:
        raise ConfigError(
            f"the certificate {certificate_path} begins only on {leaf.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; "
            "check this machine's clock"
        )
    return ServingCertificate(
        chain=(*(certificate.public_bytes(Encoding.DER) for certificate in chain), _meta(server_key, now)),
        key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        sni=_plain_name(tls.hostname) if tls.ip is None else None,
    )


def certificate_paths(tls: Tls) -> tuple[Path, Path]:
    """Where the certificate and its key lie: the host name without what has no place in a file name."""
    if tls.directory is None:
        raise ConfigError("there is no directory for certificates; name one with -certdir")
    name = re.sub(r"[^a-zA-Z0-9.-]", "", tls.hostname)
    return tls.directory / f"{name}.crt", tls.directory / f"{name}.key"


def derp_map_node(tls: Tls, certificate: ServingCertificate) -> str | None:
    """The DERP map's node for clients that can trust this server by its pin alone; `None` where a CA vouches for it."""
    leaf = x509.load_der_x509_certificate(certificate.chain[0])
    if tls.ip is None or leaf.issuer != leaf.subject:
        return None
    node = {"Name": "custom", "RegionID": 900, "HostName": tls.hostname, "CertName": certificate.pin}
    return json.dumps(node, separators=(",", ":"))


def _read_chain(path: Path) -> list[x509.Certificate]:
    data = files.read(path, "the certificate")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ConfigError(f"the certificate {path} is not one in PEM form, leaf first; replace the file") from error


def _read_key(path: Path) -> PrivateKey:
    block = _PRIVATE_KEY_BLOCK.search(files.read(path, "the private key"))
    if block is None:
        raise ConfigError(f"the private key {path} is not one in PEM form; replace the file")
    try:
        key = load_pem_private_key(block[0], password=None)
    except TypeError as error:
        raise ConfigError(f"the private key {path} is locked with a password; store it without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"the private key {path} cannot be understood; replace the file") from error
    if isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    raise ConfigError(f"the private key {path} is of a kind that TLS clients do not take; use ECDSA P-256 or RSA")


def _belongs_to(key: PrivateKey, leaf: x509.Certificate) -> bool:
    try:
        certified = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):  # of a kind that no key of ours can be
        return False
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certified.public_bytes(*form) == key.public_key().public_bytes(*form)


def _is_valid_for(leaf: x509.Certificate, tls: Tls) -> bool:
    """Whether a TLS client that dials the host name takes the leaf's names: those of the SAN extension only."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    if tls.ip is not None:
        return tls.ip in names.get_values_for_type(x509.IPAddress)
    wanted = _plain_name(tls.hostname)
    _, _, parent = wanted.partition(".")
    patterns = {_plain_name(name) for name in names.get_values_for_type(x509.DNSName)}
    return wanted in patterns or (bool(parent) and f"*.{parent}" in patterns)


def _plain_name(name: str) -> str:
    return name.removesuffix(".").lower()


def _meta(server_key: NodePublic, now: datetime) -> bytes:
    return metacert.build(server_key, ed25519.Ed25519PrivateKey.generate(), now - META_LIFE, now + META_LIFE)


def _make_self_signed(ip: IPAddress, certificate_path: Path, key_path: Path, now: datetime) -> None:
    """Write a certificate that clients can only trust by its pin, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(ip))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + SELF_SIGNED_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files.write(key_path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "the private key")
    files.write(certificate_path, certificate.public_bytes(Encoding.PEM), "the certificate", mode=0o644)
