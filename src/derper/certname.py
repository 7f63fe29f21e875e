"""The check that clients of a relay make: is a certificate valid for a name and a time (docs/protocol/tls.md)?

Names are compared with the SAN extension. The server checks before it serves a certificate, the client after the
handshake.
"""

import hashlib
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from cryptography import x509

PIN: Final = "sha256-raw:"
"""The prefix of a pin."""


def pin_of(certificate: bytes) -> str:
    """Return the pin of a certificate in DER: the DERP map's `CertName` for clients that trust this one alone."""
    return PIN + hashlib.sha256(certificate).hexdigest()


def plain(name: str) -> str:
    """Return a DNS name in normal form for comparison."""
    return name.removesuffix(".").lower()


def is_for(leaf: x509.Certificate, host: str | IPv4Address | IPv6Address) -> bool:
    """Return whether a certificate is for this DNS name or address; an address may also be text.

    A `*` in the certificate matches one whole label.
    """
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        return ip_address(host) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        wanted = plain(str(host))
    _, _, parent = wanted.partition(".")
    patterns = {plain(pattern) for pattern in names.get_values_for_type(x509.DNSName)}
    return wanted in patterns or (bool(parent) and f"*.{parent}" in patterns)


def date_problem(begins: datetime, ends: datetime, now: datetime) -> str:
    """Return why clients reject a certificate with these dates at `now`; empty if they accept it.

    All times have a timezone.
    """
    if now > ends:
        return f"certificate has expired: it was valid until {ends:%Y-%m-%d %H:%M} UTC"
    if now < begins:
        return (
            f"certificate is not yet valid: it is valid from {begins:%Y-%m-%d %H:%M} UTC, "
            f"and now is {now:%Y-%m-%d %H:%M} UTC"
        )
    return ""
