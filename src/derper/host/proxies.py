"""Proxies for outgoing requests: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, read as Go's programs read them.

A proxy speaks HTTP, HTTPS or SOCKS5. `host.outgoing` and the ACME client use each kind.

aiohttp and requests read these variables, too. But they use a proxy for this machine itself, and send passwords of a
`.netrc` to any host. So they get the proxy from here. No I/O; the caller passes the environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, Self
from urllib.parse import urlsplit

VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""Upper case, or lower case if that is not set."""

_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies, by the scheme of the request; the URLs may contain a password."""

    by_scheme: Mapping[str, str] = field(default_factory=dict, repr=False)
    exceptions: tuple[str, ...] = ()  # the entries of NO_PROXY: no proxy for these

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> tuple[Self, list[str]]:
        """Return the proxies in the variables, and the names of the variables with an invalid proxy."""
        http, https, exceptions = (environ.get(name) or environ.get(name.lower(), "") for name in VARIABLES)
        found, unusable = {}, []
        for scheme, name, text in (("http", "HTTP_PROXY", http), ("https", "HTTPS_PROXY", https)):
            proxy = _proxy(text) if text else None
            if proxy is not None:
                found[scheme] = proxy
            elif text:
                unusable.append(name)
        entries = (entry.strip().lower() for entry in exceptions.split(","))
        return cls(found, tuple(filter(None, entries))), unusable

    def of(self, url: str) -> str | None:
        """Return the proxy for a URL, or None for a direct request. Loopback addresses never use a proxy."""
        parts = urlsplit(url)
        proxy, host = self.by_scheme.get(parts.scheme), (parts.hostname or "").rstrip(".")
        if proxy is None or host == "localhost":
            return None
        address = _address(host)
        if address is not None and address.is_loopback:
            return None
        port = parts.port or _PORTS[parts.scheme]
        return None if any(_is_excepted(entry, host, address, port) for entry in self.exceptions) else proxy


def _is_excepted(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ip_network(entry, strict=False)
        except ValueError:
            return False
    if _address(entry.strip("[]")) is None and entry.rpartition(":")[2].isdecimal():
        entry, _, wanted = entry.rpartition(":")
        if int(wanted) != port:
            return False
    if address is not None:
        return _address(entry.strip("[]")) == address
    entry = entry.removeprefix("*")
    return host.endswith(entry if entry.startswith(".") else f".{entry}") or host == entry


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _proxy(text: str) -> str | None:
    """Return the proxy's URL; None if it is invalid. `:7890` is a port of this machine, as in Go."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or port == 0 or not (parts.hostname or port):
        return None
    credentials, at, _ = parts.netloc.rpartition("@")
    host = parts.hostname or "localhost"
    where = f"[{host}]" if ":" in host else host
    # The SOCKS proxy resolves names, for socks5 and socks5h, as in Go.
    scheme = "socks5h" if parts.scheme == "socks5" else parts.scheme
    return f"{scheme}://{credentials}{at}{where}:{port or _PORTS[parts.scheme]}"
