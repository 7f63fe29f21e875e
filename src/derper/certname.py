"""Whether a certificate is for a name and a time, as clients of a relay check it (docs/protocol/tls.md).

The name is looked up in the SAN extension. The server asks before it shows a certificate, the client after that.
"""

from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address

from cryptography import x509


def plain(name: str) -> str:
    """Normalize a DNS name for comparison."""
    return name.removesuffix(".").lower()


def is_for(leaf: x509.Certificate, host: str | IPv4Address | IPv6Address) -> bool:
    """Return whether a certificate is for this DNS name or address, which may be text, too.

    A `*` in the certificate stands for one whole label.
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
    """Return why clients reject a certificate with these dates at `now`; empty if they do not. All times are aware."""
    if now > ends:
        return f"certificate has expired: it was valid until {ends:%Y-%m-%d %H:%M} UTC"
    if now < begins:
        return (
            f"certificate is not yet valid: it is valid from {begins:%Y-%m-%d %H:%M} UTC, "
            f"and now is {now:%Y-%m-%d %H:%M} UTC"
        )
    return ""
