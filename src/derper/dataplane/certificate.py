"""Which certificate the data plane serves to whom (docs/protocol/tls.md)."""

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, Self


@dataclass(frozen=True, slots=True)
class Serves:
    """Whom a certificate is for; made by one of the class methods."""

    how: Literal["any", "name", "local_ip", "challenge"]
    of_name: str | None = None
    of_ip: IPv4Address | IPv6Address | None = None

    @classmethod
    def any_client(cls) -> Self:
        """Every client for which there is no better certificate, whatever server name it sends, if any."""
        return cls("any")

    @classmethod
    def name(cls, name: str) -> Self:
        """Clients that ask for this server name; the case of its letters does not matter."""
        return cls("name", of_name=name)

    @classmethod
    def local_ip(cls, ip: IPv4Address | IPv6Address) -> Self:
        """Clients that reached us at this address, and ask for no name or for the address."""
        return cls("local_ip", of_ip=ip)

    @classmethod
    def challenge(cls, name: str) -> Self:
        """An ACME server that checks by TLS-ALPN-01 whether this name is ours; the connection closes after that."""
        return cls("challenge", of_name=name)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a TLS server needs, and for whom."""

    serves: Serves
    chain: tuple[bytes, ...] = field(repr=False)  # DER, leaf first
    key: bytes = field(repr=False)  # the leaf's, PKCS #8 DER
