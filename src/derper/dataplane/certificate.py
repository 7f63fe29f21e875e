"""Certificates of the data plane, and the clients that each is served to (docs/protocol/tls.md)."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class Serves:
    """The clients of a certificate; created by one of the class methods."""

    how: Literal["any", "name", "local_ip", "challenge"]
    of_name: str | None = None
    of_ip: IPv4Address | IPv6Address | None = None

    @classmethod
    def any_client(cls) -> Self:
        """Match all clients without a better match, with any server name or none."""
        return cls("any")

    @classmethod
    def name(cls, name: str) -> Self:
        """Match clients that send this server name; letter case is ignored."""
        return cls("name", of_name=name)

    @classmethod
    def local_ip(cls, ip: IPv4Address | IPv6Address) -> Self:
        """Match clients that reached us at this address, and sent no name or the address."""
        return cls("local_ip", of_ip=ip)

    @classmethod
    def challenge(cls, name: str) -> Self:
        """Match a CA that checks this name by TLS-ALPN-01; its connection closes after the handshake."""
        return cls("challenge", of_name=name)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A TLS server's certificate and key, and its clients."""

    serves: Serves
    chain: tuple[bytes, ...] = field(repr=False)  # DER, leaf first
    key: bytes = field(repr=False)  # the leaf's, PKCS #8 DER
