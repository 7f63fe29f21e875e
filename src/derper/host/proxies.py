"""Through which proxy another server is asked: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, read as Go's programs read them.

aiohttp and requests read these variables too, but ask a proxy for this very machine as well, and send passwords of a
`.netrc` to whomever it names. So they are told. No I/O; the environment is handed in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, Self
from urllib.parse import urlsplit

from derper.errors import ConfigError

VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
"""In capitals or, where that is not set, in small letters."""

_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies, by the scheme of what is asked for; they may have a password in them."""

    by_scheme: Mapping[str, str] = field(default_factory=dict, repr=False)
    spared: tuple[str, ...] = ()  # what is asked without one: the entries of NO_PROXY

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Read the variables; raises `ConfigError` for a proxy that is none."""
        http, https, spared = (environ.get(name) or environ.get(name.lower(), "") for name in VARIABLES)
        found = {"http": _proxy("HTTP_PROXY", http), "https": _proxy("HTTPS_PROXY", https)}
        entries = (entry.strip().lower() for entry in spared.split(","))
        return cls({scheme: proxy for scheme, proxy in found.items() if proxy}, tuple(filter(None, entries)))

    def of(self, url: str) -> str | None:
        """Give the proxy for a URL; None: ask directly. This machine is always asked directly."""
        parts = urlsplit(url)
        proxy, host = self.by_scheme.get(parts.scheme), (parts.hostname or "").rstrip(".")
        if proxy is None or host == "localhost":
            return None
        address = _address(host)
        if address is not None and address.is_loopback:
            return None
        port = parts.port or _PORTS[parts.scheme]
        return None if any(_spares(entry, host, address, port) for entry in self.spared) else proxy


def _spares(entry: str, host: str, address: IPv4Address | IPv6Address | None, port: int) -> bool:
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


def _proxy(name: str, text: str) -> str:
    if not text:
        return ""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in _PORTS and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one:
        raise ConfigError(
            f"the environment variable {name} is not an http or https URL of a proxy; correct or unset it"
        )
    return url
