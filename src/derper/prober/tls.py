"""The TLS probe: checks that a client that knows only the node's name accepts its certificates, also in a week.

`CertName` and the map's addresses are ignored, so a node that is trusted by a pin alone fails here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from derper.client import dial
from derper.client.connection import DIAL_SECONDS
from derper.client.streams import TcpStream
from derper.client.target import Target
from derper.errors import NetworkError
from derper.prober.revocation import RevocationLists
from derper.prober.trust import Trust
from derper.protocol.derpmap import Node
from derper.protocol.metacert import is_meta

EXPIRES_SOON: Final = timedelta(days=7)
_NAMES_LISTS_SINCE: Final = datetime(2025, 5, 7, tzinfo=UTC)
"""Let's Encrypt's certificates name a revocation list since then."""


@dataclass(frozen=True, slots=True)
class TlsCheck:
    """One node."""

    node: Node
    trust: Trust
    lists: RevocationLists

    async def __call__(self) -> None:
        """Shake hands and check the certificates.

        Raises:
            NetworkError: A client would reject them, now or in a week.
        """
        plain = replace(self.node, ipv4="", ipv6="", cert_name="", insecure_for_tests=False)
        sock = await dial.connect_within(plain, DIAL_SECONDS)
        stream = await TcpStream.open(Target(plain), self.trust.context, sock)
        await stream.close()
        shown = stream.tls.chain if stream.tls else ()
        chain = [x509.load_der_x509_certificate(der) for der in shown if not is_meta(der)]
        check_dates(chain, datetime.now(UTC))
        await self._check_revocation(chain)

    async def _check_revocation(self, chain: Sequence[x509.Certificate]) -> None:
        leaf = chain[0]
        if url := list_url(leaf):
            await self.lists.check(leaf, url, [*chain[1:], *self.trust.named(leaf.issuer)])
        elif must_name_list(leaf):
            raise NetworkError("the certificate is from Let's Encrypt and names no revocation list")


def check_dates(chain: Sequence[x509.Certificate], now: datetime) -> None:
    """Check that every certificate is valid, and will be for a week.

    A certificate is skipped if its two key identifiers are equal or absent, as those of roots are.
    """
    for certificate in chain:
        if _own_key_id(certificate) == _issuers_key_id(certificate):
            continue
        name = certificate.subject.rfc4514_string()
        if certificate.not_valid_before_utc > now:
            raise NetworkError(f"certificate {name} is not valid before {certificate.not_valid_before_utc:%F %T} UTC")
        if certificate.not_valid_after_utc < now + EXPIRES_SOON:
            ends = f"{certificate.not_valid_after_utc:%F %T} UTC"
            raise NetworkError(f"certificate {name} expires at {ends}, in less than {EXPIRES_SOON.days} days")


def list_url(certificate: x509.Certificate) -> str:
    """Return the URL of the first revocation list that the certificate names, if any."""
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return ""
    names = [name for point in points for name in point.full_name or ()]
    urls = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    return next((url for url in urls if url.startswith(("http://", "https://"))), "")


def _own_key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return None


def _issuers_key_id(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None


def must_name_list(certificate: x509.Certificate) -> bool:
    """Return whether a certificate of this issuer and age should name a revocation list."""
    names = certificate.issuer.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    is_of_lets_encrypt = any(name.value == "Let's Encrypt" for name in names)
    return is_of_lets_encrypt and certificate.not_valid_before_utc >= _NAMES_LISTS_SINCE
