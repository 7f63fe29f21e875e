"""Every frame after login: one type each, its payload's layout in its docstring, building and parsing side by side.

`decode` checks the direction and the length of a frame before it calls `from_payload`. `encode` raises ValueError if a
packet has more than 65,536 bytes or a ping not exactly 8, and TypeError if a key or packet has another type.
All integers are big-endian.

Source: docs/protocol/protocol.md, Frames after login.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Self

from derper.protocol.keys import KEY_LEN, NodePublic, of_type
from derper.protocol.reader import frame_bytes

PROTOCOL_VERSION = 2
"""The version of DERP that both ends announce."""
MAX_PACKET = 65_536
"""The longest packet, in bytes, without keys and header."""
PING_LEN = 8
MAX_APP_NAME = 32


class FrameType(enum.IntEnum):
    """The first byte of a frame."""

    SERVER_KEY = 0x01
    CLIENT_INFO = 0x02
    SERVER_INFO = 0x03
    SEND_PACKET = 0x04
    RECV_PACKET = 0x05
    KEEP_ALIVE = 0x06
    NOTE_PREFERRED = 0x07
    PEER_GONE = 0x08
    PEER_PRESENT = 0x09
    FORWARD_PACKET = 0x0A
    WATCH_CONNS = 0x10
    CLOSE_PEER = 0x11
    PING = 0x12
    PONG = 0x13
    HEALTH = 0x14
    RESTARTING = 0x15


class PeerGoneReason(enum.IntEnum):
    """Why a peer cannot be reached here. Newer servers may send other numbers.

    Attributes:
        DISCONNECTED: The peer's last connection ended.
        NOT_HERE: The peer is not connected to this server.

    Source: docs/protocol/relay.md, Peer gone.
    """

    DISCONNECTED = 0
    NOT_HERE = 1


class PeerFlags(enum.IntFlag, boundary=enum.KEEP):
    """The kind of a peer's connection. Unknown bits are kept.

    Attributes:
        REGULAR: An ordinary client; set only if no other bit is.
        MESH_PEER: A connection that logged in with the mesh key.
        PROBER: A client that announced itself as a prober.
        NOT_IDEAL: A client that is not on its region's first node.
    """

    REGULAR = 1
    MESH_PEER = 2
    PROBER = 4
    NOT_IDEAL = 8


NO_FLAGS = PeerFlags(0)


def is_app_name(name: str) -> bool:
    """Return whether this is a valid application name: at most 32 bytes of printable ASCII, or empty."""
    return len(name) <= MAX_APP_NAME and name.isascii() and (not name or name.isprintable())


@dataclass(frozen=True, slots=True)
class SendPacket:
    """Client to server: `32 destination key | packet`.

    Attributes:
        destination: The receiver's key.
        packet: 0 to 65,536 bytes.
    """

    TYPE: ClassVar = FrameType.SEND_PACKET

    destination: NodePublic
    packet: bytes

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, _raw(self.destination, "destination") + _sendable(self.packet))

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of at least 32 bytes."""
        return cls(NodePublic(payload[:KEY_LEN]), payload[KEY_LEN:])


@dataclass(frozen=True, slots=True)
class RecvPacket:
    """Server to client: `32 source key | packet`.

    Attributes:
        source: The sender's key.
        packet: 0 to 65,536 bytes, as sent.
    """

    TYPE: ClassVar = FrameType.RECV_PACKET

    source: NodePublic
    packet: bytes

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, _raw(self.source, "source") + _sendable(self.packet))

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of at least 32 bytes."""
        return cls(NodePublic(payload[:KEY_LEN]), payload[KEY_LEN:])


@dataclass(frozen=True, slots=True)
class ForwardPacket:
    """Mesh peer to server: `32 source key | 32 destination key | packet`.

    Attributes:
        source: The key of the client that sent the packet.
        destination: The receiver's key.
        packet: 0 to 65,536 bytes.
    """

    TYPE: ClassVar = FrameType.FORWARD_PACKET

    source: NodePublic
    destination: NodePublic
    packet: bytes

    def encode(self) -> bytes:
        """Return the whole frame."""
        keys = _raw(self.source, "source") + _raw(self.destination, "destination")
        return frame_bytes(self.TYPE, keys + _sendable(self.packet))

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of at least 64 bytes."""
        keys = 2 * KEY_LEN
        return cls(NodePublic(payload[:KEY_LEN]), NodePublic(payload[KEY_LEN:keys]), payload[keys:])


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Server to client: no payload. Shows an idle client that the connection is alive."""

    TYPE: ClassVar = FrameType.KEEP_ALIVE

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, b"")

    @classmethod
    def from_payload(cls, _payload: bytes) -> Self:
        """Parse any payload; its bytes have no meaning."""
        return cls()


@dataclass(frozen=True, slots=True)
class NotePreferred:
    """Client to server: `1 byte`, 0 for False.

    Attributes:
        preferred: Whether this server is the client's home.
    """

    TYPE: ClassVar = FrameType.NOTE_PREFERRED

    preferred: bool

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, bytes((self.preferred,)))

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of one byte."""
        return cls(payload != b"\0")


@dataclass(frozen=True, slots=True)
class PeerGone:
    """Server to client: `32 key | 1 reason`. Old servers send no reason, which counts as 0.

    Attributes:
        peer: The key that cannot be reached.
        reason: A `PeerGoneReason`, or a number from 0 to 255 that a newer server sends.
    """

    TYPE: ClassVar = FrameType.PEER_GONE

    peer: NodePublic
    reason: int = PeerGoneReason.DISCONNECTED

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, _raw(self.peer, "peer") + bytes((self.reason,)))

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of at least 32 bytes."""
        reason = payload[KEY_LEN] if len(payload) > KEY_LEN else PeerGoneReason.DISCONNECTED
        return cls(NodePublic(payload[:KEY_LEN]), reason)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address and a port. The server sends `::` and port 0 if it does not know a peer's endpoint.

    Attributes:
        ip: The address.
        port: 0 to 65,535.

    Source: docs/protocol/protocol.md, Frames after login; docs/protocol/stun.md.
    """

    ip: IPv4Address | IPv6Address
    port: int

    LAYOUT: ClassVar = struct.Struct(">16sH")

    def pack(self) -> bytes:
        """Return 16 bytes of address, IPv4 as IPv4-mapped IPv6 (a zone is lost), and 2 of port."""
        mapped = bytes(10) + b"\xff\xff" if self.ip.version == 4 else b""  # noqa: PLR2004  an IP version
        return self.LAYOUT.pack(mapped + self.ip.packed, self.port)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Parse `data` of 18 bytes; an IPv4-mapped address becomes IPv4."""
        raw, port = cls.LAYOUT.unpack(data)
        ip = IPv6Address(raw)
        return cls(ip.ipv4_mapped or ip, port)


@dataclass(frozen=True, slots=True)
class PeerPresent:
    """Server to mesh peer: `32 key | 16 IP | 2 port | 1 flags | 1 length n | n bytes of application name`.

    Older servers send 32 bytes (the key alone), 50 (no flags) or 51 (no name); bytes after the name are ignored. A name
    that is cut short or invalid counts as empty.

    Attributes:
        peer: The key of the connection.
        endpoint: The connection's source address; None only in the form of 32 bytes, without flags and name.
        flags: The kind of the connection; by default no bit is set.
        app_name: The name of the client's program; at most 32 characters of printable ASCII, often empty.

    Raises:
        ValueError: Flags or a name without an endpoint.
    """

    TYPE: ClassVar = FrameType.PEER_PRESENT

    peer: NodePublic
    endpoint: Endpoint | None = None
    flags: PeerFlags = NO_FLAGS
    app_name: str = ""

    _FLAGS_AT: ClassVar = KEY_LEN + Endpoint.LAYOUT.size
    _NAME_AT: ClassVar = _FLAGS_AT + 2

    def __post_init__(self) -> None:
        if self.endpoint is None and (self.flags or self.app_name):
            raise ValueError("a PeerPresent without an endpoint has no room for flags and a name")

    def encode(self) -> bytes:
        """Return the whole frame, in the longest form that the fields allow.

        Raises:
            ValueError: The name is longer than 32 characters or not printable ASCII.
        """
        if self.endpoint is None:
            return frame_bytes(self.TYPE, _raw(self.peer, "peer"))
        if not is_app_name(self.app_name):
            raise ValueError(f"wanted an application name of at most {MAX_APP_NAME} printable ASCII characters")
        tail = bytes((self.flags, len(self.app_name))) + self.app_name.encode("ascii")
        return frame_bytes(self.TYPE, _raw(self.peer, "peer") + self.endpoint.pack() + tail)

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of at least 32 bytes."""
        peer = NodePublic(payload[:KEY_LEN])
        if len(payload) < cls._FLAGS_AT:
            return cls(peer)
        endpoint = Endpoint.unpack(payload[KEY_LEN : cls._FLAGS_AT])
        flags = PeerFlags(payload[cls._FLAGS_AT]) if len(payload) > cls._FLAGS_AT else NO_FLAGS
        return cls(peer, endpoint, flags, cls._app_name(payload))

    @classmethod
    def _app_name(cls, payload: bytes) -> str:
        if len(payload) < cls._NAME_AT:
            return ""
        length = payload[cls._NAME_AT - 1]
        raw = payload[cls._NAME_AT : cls._NAME_AT + length]
        name = raw.decode("ascii", "replace")
        return name if len(raw) == length and is_app_name(name) else ""


@dataclass(frozen=True, slots=True)
class WatchConns:
    """Mesh peer to server: no payload. Subscribes to PeerPresent and PeerGone of all clients."""

    TYPE: ClassVar = FrameType.WATCH_CONNS

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, b"")

    @classmethod
    def from_payload(cls, _payload: bytes) -> Self:
        """Parse an empty payload."""
        return cls()


@dataclass(frozen=True, slots=True)
class ClosePeer:
    """Mesh peer to server: `32 key`. Closes all connections of that key.

    Attributes:
        peer: The key.
    """

    TYPE: ClassVar = FrameType.CLOSE_PEER

    peer: NodePublic

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, _raw(self.peer, "peer"))

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of 32 bytes."""
        return cls(NodePublic(payload))


@dataclass(frozen=True, slots=True)
class Ping:
    """Both ways: `8 bytes` for the other end to echo. A server accepts up to 1,000 and echoes the first 8.

    Attributes:
        data: Exactly 8 bytes.
    """

    TYPE: ClassVar = FrameType.PING

    data: bytes

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, _eight(self.data))

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of at least 8 bytes; the rest does not count."""
        return cls(payload[:PING_LEN])

    def answer(self) -> Pong:
        """Return the Pong that answers this Ping."""
        return Pong(self.data)


@dataclass(frozen=True, slots=True)
class Pong:
    """Both ways: the `8 bytes` of the Ping that it answers.

    Attributes:
        data: Exactly 8 bytes.
    """

    TYPE: ClassVar = FrameType.PONG

    data: bytes

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, _eight(self.data))

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of at least 8 bytes; the rest does not count."""
        return cls(payload[:PING_LEN])


@dataclass(frozen=True, slots=True)
class Health:
    """Server to client: `UTF-8 text` of a problem with this connection.

    Attributes:
        problem: The problem, for people to read; empty: healthy again.
    """

    TYPE: ClassVar = FrameType.HEALTH

    problem: str

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, self.problem.encode())

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse any `payload`; bytes that are not UTF-8 become replacement characters."""
        return cls(payload.decode("utf-8", "replace"))


@dataclass(frozen=True, slots=True)
class Restarting:
    """Server to client: `uint32 reconnect in | uint32 try for`. The server is about to restart.

    Attributes:
        reconnect_in_ms: Milliseconds to wait before reconnecting.
        try_for_ms: Milliseconds to keep trying this server after that wait, before choosing another server.
    """

    TYPE: ClassVar = FrameType.RESTARTING
    LAYOUT: ClassVar = struct.Struct(">II")

    reconnect_in_ms: int
    try_for_ms: int

    def encode(self) -> bytes:
        """Return the whole frame."""
        return frame_bytes(self.TYPE, self.LAYOUT.pack(self.reconnect_in_ms, self.try_for_ms))

    @classmethod
    def from_payload(cls, payload: bytes) -> Self:
        """Parse a `payload` of at least 8 bytes; the rest does not count."""
        return cls(*cls.LAYOUT.unpack_from(payload))


def _raw(key: NodePublic, name: str) -> bytes:
    return of_type(NodePublic, key, name).raw


def _sendable(packet: bytes) -> bytes:
    if not isinstance(packet, bytes | bytearray | memoryview):
        raise TypeError(f"a packet: want bytes, got {type(packet).__name__}")
    if len(packet) > MAX_PACKET:
        raise ValueError(f"a packet has at most {MAX_PACKET:,} bytes, not {len(packet):,}")
    return packet


def _eight(data: bytes) -> bytes:
    if len(data) != PING_LEN:
        raise ValueError(f"a ping has {PING_LEN} bytes, not {len(data)}")
    return data
