"""The certificates that a client trusts: by the system's roots, by a pin, or, in tests, any.

The rules for `CertName` are those of clients that read DERP maps (docs/protocol/tls.md). It is a pin, or another name
that the certificate must have while the handshake still sends the host's. Checks that Python's `ssl` does not make
follow after the handshake, before the first byte is written.
"""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from derper import certname
from derper.client.target import Target
from derper.errors import NetworkError
from derper.protocol import metacert
from derper.protocol.metacert import MetaCertificate


@dataclass(frozen=True, slots=True)
class TlsInfo:
    """The result of a TLS handshake.

    Attributes:
        version: The version of TLS, such as "TLSv1.3".
        cipher: The cipher suite, by OpenSSL's name.
        server_name: The name in the handshake (SNI); empty for an address.
        chain: The certificates that the server presented, in DER: the leaf, its intermediates, the meta certificate.

    Source: docs/protocol/tls.md.
    """

    version: str
    cipher: str
    server_name: str
    chain: tuple[bytes, ...] = field(repr=False)

    @property
    def meta(self) -> MetaCertificate | None:
        """The server's meta certificate; None without one, and below TLS 1.3, which does not encrypt certificates."""
        return metacert.find(self.chain) if self.version == "TLSv1.3" else None


def context_for(target: Target, given: ssl.SSLContext | None) -> ssl.SSLContext:
    """Return the settings for one handshake.

    Args:
        target: The relay; `InsecureForTests` and `CertName` are used.
        given: The program's own settings: its roots and versions. None: the system's, as SSL_CERT_FILE changes them.
    """
    node = target.node
    named = bool(node.cert_name) and not node.cert_name.startswith(certname.PIN)
    if not node.insecure_for_tests and not node.cert_name:
        return given or ssl.create_default_context()
    # The program's own settings must not change, so the relevant ones are copied.
    context = ssl.create_default_context() if given is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if given is not None:
        context.minimum_version, context.maximum_version = given.minimum_version, given.maximum_version
        context.verify_flags = given.verify_flags
        for root in given.get_ca_certs(binary_form=True):
            context.load_verify_locations(cadata=root)
    context.check_hostname = False  # `check` compares the other name
    if not named or node.insecure_for_tests:
        context.verify_mode = ssl.CERT_NONE
    return context


def check(target: Target, info: TlsInfo) -> None:
    """Make the checks that the handshake did not make.

    Raises:
        NetworkError: The certificate does not match the DERP map; the message contains the expected one.
    """
    node = target.node
    if node.insecure_for_tests or not node.cert_name:
        return
    if node.cert_name.startswith(certname.PIN):
        check_pin(node.cert_name, info.chain, target.server_name, datetime.now(UTC))
    elif not info.chain or not certname.is_for(_read(info.chain[0]), node.cert_name):
        raise NetworkError(f"the certificate of {target.host} is not for {node.cert_name}, which the map expects")


def check_pin(cert_name: str, chain: tuple[bytes, ...], server_name: str, now: datetime) -> None:
    """Accept exactly one certificate besides the meta certificate: the pinned one, in its time, for the dialled name.

    Args:
        cert_name: The pin, `sha256-raw:` and 64 lower-case hex digits.
        chain: The presented certificates, DER.
        server_name: The name in the handshake; empty: not checked.
        now: The time, with a timezone.

    Raises:
        NetworkError: A check failed.
    """
    leaves = [certificate for certificate in chain if not metacert.is_meta(certificate)]
    if len(leaves) != 1:
        raise NetworkError(f"a pin wants one certificate beside the meta certificate, {len(leaves)} were presented")
    found = certname.pin_of(leaves[0])
    if found != cert_name:
        raise NetworkError(f"the relay's certificate is {found}, wanted {cert_name}")
    leaf = _read(leaves[0])
    if problem := certname.date_problem(leaf.not_valid_before_utc, leaf.not_valid_after_utc, now):
        raise NetworkError(f"the pinned {problem}")
    if server_name and not certname.is_for(leaf, server_name):
        raise NetworkError(f"the pinned certificate is not for {server_name}")


def info_of(tls: ssl.SSLObject | ssl.SSLSocket, server_name: str) -> TlsInfo:
    """Return the facts of a finished handshake."""
    cipher = tls.cipher()
    return TlsInfo(tls.version() or "", cipher[0] if cipher else "", server_name, presented_chain(tls))


def presented_chain(tls: ssl.SSLObject | ssl.SSLSocket) -> tuple[bytes, ...]:
    """Return the certificates that the peer presented, in its order, DER.

    Python 3.13 has a public method for it. 3.11 and 3.12 have the same method on a private object; these versions no
    longer change, so it will stay there.
    """
    if hasattr(tls, "get_unverified_chain"):
        return tuple(tls.get_unverified_chain() or ())
    inner: Any = tls._sslobj  # type: ignore[union-attr]  # noqa: SLF001  see above
    chain = inner.get_unverified_chain() if inner else None
    return tuple(ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain or ())


def failure(error: OSError) -> str:
    """Return a short description of a failed handshake."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"no TLS with it: {error.reason.replace('_', ' ').lower()}"
    return f"no TLS with it: {error.strerror or str(error) or 'it hung up'}"


def _read(certificate: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(certificate)
    except ValueError as error:
        raise NetworkError(f"the relay's certificate of {len(certificate):,} bytes cannot be read") from error
