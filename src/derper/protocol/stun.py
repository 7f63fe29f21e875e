"""STUN as DERP clients use it: one request to a relay, and its answer.

A request has the SOFTWARE attribute and the fingerprint; without these, relays do not answer. The caller passes the
transaction ID, 12 random bytes. The server's side is in the data plane. See docs/protocol/stun.md.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Self

from derper.errors import ProtocolError
from derper.protocol.frames import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

TX_ID_LEN = 12
MAX_ANSWER = 1_500  # bytes of a datagram that are parsed; a relay's answer has 32 or 44

_HEADER = struct.Struct(">HH4s12s")  # type, length of the rest, cookie, transaction ID
_ATTRIBUTE = struct.Struct(">HH")
_ADDRESS = struct.Struct(">xBH")  # the address follows
_COOKIE = bytes.fromhex("2112a442")
_REQUEST, _SUCCESS = 0x0001, 0x0101
_SOFTWARE, _FINGERPRINT = 0x8022, 0x8028
_MAPPED_ADDRESS = 0x0001
_XOR_MAPPED_ADDRESS = (0x0020, 0x8020)  # the second from before its standardisation
_SOFTWARE_NAME = b"tailnode"
_FINGERPRINT_XOR = 0x5354554E
_FAMILIES = {1: 4, 2: 16}  # bytes of an address


def request(tx_id: bytes) -> bytes:
    """Return the Binding Request of a DERP client.

    Args:
        tx_id: 12 random bytes that identify the answer.
    """
    if len(tx_id) != TX_ID_LEN:
        raise ValueError(f"a transaction ID has {TX_ID_LEN} bytes, not {len(tx_id)}")
    software = _ATTRIBUTE.pack(_SOFTWARE, len(_SOFTWARE_NAME)) + _SOFTWARE_NAME
    fingerprint_len = _ATTRIBUTE.size + 4
    unsigned = _HEADER.pack(_REQUEST, len(software) + fingerprint_len, _COOKIE, tx_id) + software
    return unsigned + struct.pack(">HHI", _FINGERPRINT, 4, zlib.crc32(unsigned) ^ _FINGERPRINT_XOR)


@dataclass(frozen=True, slots=True)
class Response:
    """A Binding Success Response: the address from which the server received the request."""

    tx_id: bytes
    seen: Endpoint

    @classmethod
    def parse(cls, datagram: bytes) -> Self:
        """Parse an answer; bytes after the message are ignored. MAPPED-ADDRESS is used without XOR-MAPPED-ADDRESS only.

        Raises:
            ProtocolError: Not STUN, not a success response, incomplete attributes, no valid address.
        """
        if len(datagram) < _HEADER.size:
            raise ProtocolError(f"STUN: wanted at least {_HEADER.size} bytes, got {len(datagram)}")
        kind, length, cookie, tx_id = _HEADER.unpack_from(datagram)
        if cookie != _COOKIE or kind != _SUCCESS:
            raise ProtocolError(f"STUN: wanted a success response, got type {kind:#06x}")
        body = datagram[_HEADER.size :]
        if length > len(body):
            raise ProtocolError(f"STUN: wanted {length:,} bytes of attributes, got {len(body):,}")
        plain = None
        for attribute, value in _attributes(body[:length]):
            if attribute in _XOR_MAPPED_ADDRESS:
                return cls(tx_id, _address(value, _COOKIE + tx_id))
            if attribute == _MAPPED_ADDRESS:
                plain = value
        if plain is None:
            raise ProtocolError("STUN: a response without an address")
        return cls(tx_id, _address(plain, bytes(len(_COOKIE) + TX_ID_LEN)))


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        if at + _ATTRIBUTE.size > len(body):
            raise ProtocolError(f"STUN: {len(body) - at} bytes left of an attribute's head of {_ATTRIBUTE.size}")
        attribute, length = _ATTRIBUTE.unpack_from(body, at)
        at += _ATTRIBUTE.size
        if at + length + -length % 4 > len(body):
            raise ProtocolError(f"STUN: attribute of {length:,} bytes, {len(body) - at:,} left")
        yield attribute, body[at : at + length]
        at += length + -length % 4


def _address(value: bytes, mask: bytes) -> Endpoint:
    """Return an address; `mask` is XORed with it, and its first two bytes with the port."""
    family, port = _ADDRESS.unpack_from(value) if len(value) >= _ADDRESS.size else (0, 0)
    raw = value[_ADDRESS.size :][: _FAMILIES.get(family, 0)]
    if not raw or len(raw) != _FAMILIES[family]:
        raise ProtocolError(f"STUN: an address of family {family} in {len(value)} bytes")
    clear = bytes(a ^ b for a, b in zip(raw, mask, strict=False))
    ip: IPv4Address | IPv6Address = IPv4Address(clear) if len(clear) == 4 else IPv6Address(clear)  # noqa: PLR2004  bytes of an IPv4 address
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped  # some servers send an IPv4-mapped address
    return Endpoint(ip, port ^ int.from_bytes(mask[:2], "big"))
