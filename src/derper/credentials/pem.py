"""Certificate files: reading, and checking that TLS clients of a host would accept them.

Returned certificates can be served. So a wrong file causes an error when it is read, not a failed handshake later.
Blocking: for start-up and for threads.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import PublicKeyAlgorithmOID

from derper import certname
from derper.addresses import IPAddress
from derper.config import Tls
from derper.errors import ConfigError
from derper.host import files

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Host = str | IPAddress
"""A certificate's host: a DNS name in lower case without a trailing dot, or an address."""

RSA_LEAST_BITS: Final = 2048  # what the data plane's TLS library takes
RSA_MOST_BITS: Final = 8192
CHECK_CLOCK: Final = "check this machine's clock"

_PRIVATE_KEY_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY)-----.*?-----END \1-----", re.DOTALL)
_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A chain of certificates with the key of its leaf."""

    chain: tuple[bytes, ...] = field(repr=False)  # DER: the leaf, then its intermediates
    key: bytes = field(repr=False)  # PKCS #8 DER
    begins: datetime  # timezone-aware, as all times here
    ends: datetime
    self_signed: bool

    @property
    def pin(self) -> str:
        """The DERP map's `CertName` for clients that trust this leaf alone."""
        return certname.pin_of(self.chain[0])

    @property
    def life(self) -> timedelta:
        """The duration from begin to end."""
        return self.ends - self.begins

    def date_problem(self, now: datetime) -> str:
        """Return why clients reject the certificate at `now`; empty if its dates are right."""
        return certname.date_problem(self.begins, self.ends, now)


def host_of(tls: Tls) -> Host:
    """Return the host of the configured certificate."""
    return certname.plain(tls.hostname) if tls.ip is None else tls.ip


def load(certificate_path: Path, key_path: Path, host: Host) -> Certificate:
    """Return the certificate in two files, or in one that contains both; it is for this host, with any dates.

    Raises:
        ConfigError: The files cannot be used for the host.
    """
    chain = files.read(certificate_path, "the certificate")
    key = parse_key(files.read(key_path, "the private key"), key_path)
    return parse(chain, certificate_path, key, key_path, host)


def parse(chain: bytes, chain_from: Path | str, key: PrivateKey, key_from: Path | str, host: Host) -> Certificate:
    """Return the certificate of a chain in PEM and its leaf's key; errors name the sources."""
    leaf, *others = parse_chain(chain, chain_from)
    if not _belongs_to(key, leaf):
        check_leaf_is_first([leaf, *others], chain_from, lambda certificate: _belongs_to(key, certificate))
        raise ConfigError(f"the private key {key_from} is not that of the certificate {chain_from}")
    if leaf.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSASSA_PSS:
        raise ConfigError(f"the certificate {chain_from} is for an RSA-PSS key; use ECDSA P-256 or RSA")
    if not certname.is_for(leaf, host):
        raise ConfigError(f"the certificate {chain_from} is not valid for -hostname={host}")
    try:
        return Certificate(
            chain=tuple(certificate.public_bytes(Encoding.DER) for certificate in (leaf, *others)),
            key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
            begins=leaf.not_valid_before_utc,
            ends=leaf.not_valid_after_utc,
            self_signed=leaf.issuer == leaf.subject,
        )
    except ValueError as error:  # fields are parsed on access
        raise ConfigError(f"the certificate {chain_from} cannot be parsed; replace the file") from error


def check_leaf_is_first(
    chain: Sequence[x509.Certificate], source: Path | str, is_leaf: Callable[[x509.Certificate], bool]
) -> None:
    """Raise `ConfigError` if the leaf is in the chain, but not its first certificate."""
    if not is_leaf(chain[0]) and any(map(is_leaf, chain[1:])):
        raise ConfigError(
            f"{source} begins with the certificate of {chain[0].subject.rfc4514_string() or 'an empty subject'}: "
            "the leaf must come first, then its intermediates; put the file in this order"
        )


def check_dates(certificate: Certificate, path: Path | str, now: datetime, remedy: str = "renew it") -> None:
    """Raise `ConfigError` if the certificate has expired, or is not yet valid."""
    if problem := certificate.date_problem(now):
        raise ConfigError(f"{path}: {problem}; {remedy if now > certificate.ends else CHECK_CLOCK}")


def parse_chain(data: bytes, source: Path | str) -> list[x509.Certificate]:
    """Return the certificates in PEM, at least one.

    Raises:
        ConfigError: there is none, or one is malformed.
    """
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ConfigError(f"the certificate {source} is not one in PEM form, leaf first; replace the file") from error


def parse_key(data: bytes, path: Path) -> PrivateKey:
    """Return the first private key in a file's PEM blocks.

    Raises:
        ConfigError: The file has no usable private key.
    """
    block = _PRIVATE_KEY_BLOCK.search(data)
    if block is None:
        raise ConfigError(f"the private key {path} is not one in PEM form; replace the file")
    try:
        key = load_pem_private_key(block[0], password=None)
    except TypeError as error:
        raise ConfigError(f"the private key {path} is encrypted with a password; store it unencrypted") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"the private key {path} cannot be parsed; replace the file") from error
    if isinstance(key, rsa.RSAPrivateKey) and not RSA_LEAST_BITS <= key.key_size <= RSA_MOST_BITS:
        raise ConfigError(
            f"the private key {path} is an RSA key of {key.key_size} bits, and TLS takes {RSA_LEAST_BITS} to "
            f"{RSA_MOST_BITS} bits; make a new key, best ECDSA P-256, and have a certificate issued for it"
        )
    if isinstance(key, rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, _CURVES):
        return key
    raise ConfigError(f"the private key {path} has a type that TLS clients do not accept; use ECDSA P-256 or RSA")


def _belongs_to(key: PrivateKey, leaf: x509.Certificate) -> bool:
    try:
        certified = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm):  # an unsupported kind of key
        return False
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return certified.public_bytes(*form) == key.public_key().public_bytes(*form)
