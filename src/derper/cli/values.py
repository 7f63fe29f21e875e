"""The meaning of a flag's or variable's text: lists, numbers, networks, URLs.

Go's spellings are in `derper.govalues`. The caller adds the flag's or variable's name to an error.
"""

import re
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

from derper.config import IPNetwork
from derper.protocol.keys import NodePublic


def names(text: str) -> list[str]:
    """Return the items of a comma-separated list, without surrounding white space and without empty ones."""
    return [name for item in text.split(",") if (name := item.strip())]


def decimal(text: str) -> int:
    """Return a decimal integer."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        raise ValueError
    return int(text)


def keys(text: str) -> frozenset[NodePublic]:
    """Return the client keys in a text, in hex."""
    return frozenset(map(NodePublic.from_hex, names(text)))


def networks(text: str) -> tuple[IPNetwork, ...]:
    """Return the networks in a text; a single address is a network, too."""
    return tuple(ip_network(name, strict=False) for name in names(text))


def directories(text: str) -> tuple[Path, ...]:
    """Return the directories in a text, separated as in PATH."""
    return tuple(Path(name) for name in text.split(":") if name)


def is_http_url(text: str) -> bool:
    """Return whether a text is an HTTP or HTTPS URL with a host."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname)
