"""What the text of a flag or a variable means: lists, numbers, networks, URLs.

How Go spells a value is in `govalues`. Whoever asks says in an error which flag or variable it was.
"""

import re
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from derper.config import IPNetwork
from derper.protocol.keys import NodePublic


def names(text: str) -> list[str]:
    """The items of a comma-separated list, without white space environment them and without empty ones."""
    return [name for item in text.split(",") if (name := item.strip())]


def decimal(text: str) -> int:
    """A whole number, as people write it."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError
    return int(text)


def keys(text: str) -> frozenset[NodePublic]:
    """Clients, by their keys in hex."""
    return frozenset(map(NodePublic.from_hex, names(text)))


def networks(text: str) -> tuple[IPNetwork, ...]:
    """Networks; an address is one of its own."""
    return tuple(ip_network(name, strict=False) for name in names(text))


def directories(text: str) -> tuple[Path, ...]:
    """Folders, as in PATH."""
    return tuple(Path(name) for name in text.split(":") if name)


def is_http_url(text: str) -> bool:
    """Whether it names a host over HTTP or HTTPS."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
