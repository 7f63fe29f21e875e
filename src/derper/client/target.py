"""A relay's address and protocol: a URL or a node of a DERP map, as one type.

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
    """One relay, and how it is reached: a node of a DERP map, or a URL.

    Attributes:
        node: The node; for a URL, a node with its host and port.
        tls: Connect over TLS.
        path: The path of the HTTP upgrade request.

    Source: docs/protocol/derpmap.md.
    """

    node: Node
    tls: bool = True
    path: str = PATH

    @classmethod
    def of_url(cls, url: str, cert_name: str = "") -> Self:
        """Parse a relay's URL.

        Args:
            url: `https://host[:port][/path]` or `http://host[:port][/path]`; without a path it is /derp.
            cert_name: The same as in a DERP map: another name that the certificate must have, or a pin.

        Returns:
            The target.

        Raises:
            ConfigError: The URL is invalid.
        """
        wrong = f"{url!r} is not a relay's URL; write it as https://name, https://name:port or http://name:port"
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
        """The relay's DNS name or IP address."""
        return self.node.host_name

    @property
    def server_name(self) -> str:
        """The name in the TLS handshake (SNI); empty for an IP address."""
        return "" if is_address(self.host) else self.host

    @property
    def authority(self) -> str:
        """The Host header: host, and port unless it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.node.port == (_HTTPS_PORT if self.tls else _HTTP_PORT) else f"{host}:{self.node.port}"

    @property
    def websocket_url(self) -> str:
        """The relay's URL for WebSocket, `wss://…` or `ws://…`."""
        return f"{'wss' if self.tls else 'ws'}://{self.authority}{self.path}"

    def __str__(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}"


def is_address(host: str) -> bool:
    """Return whether the host is an IP address."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
