"""Where a relay is, and what is spoken there: a URL or a node of a DERP map, as one type.

Pure: nothing is resolved or dialled here.
"""

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self
from urllib.parse import urlsplit

from derper.errors import ConfigError
from derper.protocol.derpmap import Node

PATH = "/derp"
_HTTP_PORT = 80
_HTTPS_PORT = 443


@dataclass(frozen=True, slots=True)
class Target:
    """One relay."""

    node: Node  # for a URL: the node that it amounts to
    tls: bool = True
    path: str = PATH

    @classmethod
    def of_url(cls, url: str, cert_name: str = "") -> Self:
        """Read `https://host[:port][/path]` or `http://…`; without a path it is /derp.

        Args:
            url: where the relay is.
            cert_name: as in a DERP map: a name expected in the certificate instead of the host, or a pin.

        Raises:
            ConfigError: not such a URL.
        """
        wrong = f"{url!r} is no relay's URL; write it as https://name, https://name:port or http://name:port"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(wrong) from error
        if parts.scheme not in ("https", "http") or not host or parts.username or parts.query or parts.fragment:
            raise ConfigError(wrong)
        tls = parts.scheme == "https"
        port = port or (_HTTPS_PORT if tls else _HTTP_PORT)
        node = Node(name=host, region_id=0, host_name=host, cert_name=cert_name, derp_port=port)
        return cls(node, tls, parts.path.rstrip("/") or PATH)

    @property
    def host(self) -> str:
        """The relay's name, or its address."""
        return self.node.host_name

    @property
    def server_name(self) -> str:
        """The name for the TLS handshake; empty for an address, which has no place there."""
        return "" if is_address(self.host) else self.host

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.node.port == (_HTTPS_PORT if self.tls else _HTTP_PORT) else f"{host}:{self.node.port}"

    @property
    def websocket_url(self) -> str:
        """The URL of the same relay for who speaks WebSocket."""
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.path}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def is_address(host: str) -> bool:
    """Tell an IP address from a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
