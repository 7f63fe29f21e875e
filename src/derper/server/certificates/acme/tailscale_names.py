"""Names of Tailscale's own relays, which are never ordered from a public CA: only Tailscale can prove them.

`derp.tailscale.com` is the default of `-hostname`, so a server without that flag would order it. CAs limit failed
orders per account and address. Pure. An operator's own CA may issue any name.
"""

import re
from typing import Final
from urllib.parse import urlsplit

from derper import certname
from derper.credentials.pem import Host

DEFAULT_NAME: Final = "derp.tailscale.com"
_NAME: Final = re.compile(r"derp[a-z0-9-]{0,59}\.tailscale\.com")
_PUBLIC_CAS: Final = ("letsencrypt.org", "pki.goog")


def is_one(host: Host) -> bool:
    """Return whether a host is a relay of Tailscale's."""
    return isinstance(host, str) and _NAME.fullmatch(certname.plain(host)) is not None


def reason_not_to_order(host: Host, directory: str) -> str:
    """Return why no certificate for a host is ordered from an ACME directory; empty if it may be ordered."""
    ca = certname.plain(urlsplit(directory).hostname or "")
    if not is_one(host) or not any(ca == public or ca.endswith(f".{public}") for public in _PUBLIC_CAS):
        return ""
    default = ", the default of -hostname and" if host == DEFAULT_NAME else ","
    return (
        f"no certificate is ordered for {host}{default} a name of Tailscale's own relays; "
        "set -hostname to the DNS name of this relay"
    )
