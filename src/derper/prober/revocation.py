"""Certificate revocation lists: fetched, checked, cached for an hour at most.

A list usually comes over plain HTTP from another server, so its signature is checked before anything else.
"""

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import aiohttp
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from derper import log
from derper.errors import NetworkError
from derper.host import outgoing
from derper.host.proxies import Proxies

MAX_BYTES: Final = 10_000_000
KEPT_SECONDS: Final = 3_600.0
MOST_KEPT: Final = 32
"""Maximum cached lists; a list can be large, and a CA splits its own into many."""


_ISSUER_KEYS: Final = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
_SHA256: Final = hashes.SHA256()


_clock = time.monotonic


class RevocationLists:
    """A cache of lists by URL."""

    def __init__(self, proxies: Proxies) -> None:
        self._proxies = proxies
        self._kept: dict[tuple[str, bytes], tuple[float, x509.CertificateRevocationList]] = {}

    async def check(self, leaf: x509.Certificate, url: str, issuers: Iterable[x509.Certificate]) -> None:
        """Check that the leaf is not on its revocation list.

        Args:
            leaf: The certificate.
            url: The address of its list.
            issuers: Certificates, one of which is that of the leaf's issuer.

        Raises:
            NetworkError: The leaf is revoked; or the list cannot be fetched, or is not signed by the leaf's issuer.
        """
        issuer = next((one for one in issuers if _issued(one, leaf)), None)
        if issuer is None:
            raise NetworkError("the certificate's issuer is not among those that the server showed or that are trusted")
        listed = await self._get(url, issuer)
        revoked = listed.get_revoked_certificate_by_serial_number(leaf.serial_number)
        if revoked is not None:
            raise NetworkError(f"the certificate was revoked at {revoked.revocation_date_utc:%F %T} UTC, says {url}")

    async def _get(self, url: str, issuer: x509.Certificate) -> x509.CertificateRevocationList:
        now = _clock()
        self._kept = {at: entry for at, entry in self._kept.items() if entry[0] > now}
        name = (url, issuer.fingerprint(_SHA256))
        if name in self._kept:
            return self._kept[name][1]
        data = await _fetch(url, self._proxies.of(url))
        # In a thread: a list may have millions of entries to parse and verify.
        listed = await asyncio.to_thread(_checked, url, data, issuer)
        while len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[name] = (now + min(KEPT_SECONDS, _seconds_until_next(listed)), listed)
        return listed


def _issued(issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    if issuer.subject != leaf.issuer:
        return False
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


async def _fetch(url: str, proxy: str | None) -> bytes:
    try:
        connector, http_proxy = outgoing.connector(proxy)
        async with outgoing.session(connector) as session:
            return await outgoing.fetch(session, url, f"fetching the revocation list {url}", MAX_BYTES, http_proxy)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NetworkError(f"fetching the revocation list {url}: {log.in_one_line(error)}") from error


def _checked(url: str, data: bytes, issuer: x509.Certificate) -> x509.CertificateRevocationList:
    try:
        listed = x509.load_der_x509_crl(data)
        key = issuer.public_key()
        is_signed = isinstance(key, _ISSUER_KEYS) and listed.is_signature_valid(key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise NetworkError(f"what is at {url} is not a revocation list: {error}") from error
    if not is_signed or listed.issuer != issuer.subject:
        raise NetworkError(f"the revocation list {url} is not signed by the certificate's issuer")
    return listed


def _seconds_until_next(listed: x509.CertificateRevocationList) -> float:
    if listed.next_update_utc is None:
        return KEPT_SECONDS
    return max(0.0, (listed.next_update_utc - datetime.now(UTC)).total_seconds())
