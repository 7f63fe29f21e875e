"""Allowed senders and lengths of frames.

A relay reads its clients strictly: a known frame of a wrong length, or a mesh frame without the mesh key, closes the
connection. A client reads its server tolerantly, because servers may be older or newer. It ignores a frame that is too
short, and cuts one that is too long. Both ignore unknown types. See docs/protocol/protocol.md, Frames after login.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from derper.errors import ProtocolError
from derper.protocol.frames import (
    MAX_PACKET,
    PING_LEN,
    ClosePeer,
    ForwardPacket,
    FrameType,
    Health,
    KeepAlive,
    NotePreferred,
    PeerGone,
    PeerPresent,
    Ping,
    Pong,
    RecvPacket,
    Restarting,
    SendPacket,
    WatchConns,
)
from derper.protocol.keys import KEY_LEN
from derper.protocol.reader import Limits, RawFrame

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FROM_SERVER = 1_048_576  # the longest payload that a client accepts
MAX_IGNORED_FROM_CLIENT = 65_568  # the longest payload that a relay ignores

MAX_PING = 1_000

FromClient = SendPacket | ForwardPacket | NotePreferred | WatchConns | ClosePeer | Ping
"""Everything that `decode_from_client` returns."""
FromServer = RecvPacket | KeepAlive | PeerGone | PeerPresent | Ping | Pong | Health | Restarting
"""Everything that `decode_from_server` returns."""


class _Rule(NamedTuple):
    frame: type[FromClient]
    shortest: int
    longest: int
    mesh_only: bool = False


# Without Pong: a relay sends no Ping, so it ignores a Pong of any length.
_CLIENT_RULES: Mapping[int, _Rule] = {
    FrameType.SEND_PACKET: _Rule(SendPacket, KEY_LEN, KEY_LEN + MAX_PACKET),
    FrameType.FORWARD_PACKET: _Rule(ForwardPacket, 2 * KEY_LEN, 2 * KEY_LEN + MAX_PACKET, mesh_only=True),
    FrameType.NOTE_PREFERRED: _Rule(NotePreferred, 1, 1),
    FrameType.WATCH_CONNS: _Rule(WatchConns, 0, 0, mesh_only=True),
    FrameType.CLOSE_PEER: _Rule(ClosePeer, KEY_LEN, KEY_LEN, mesh_only=True),
    FrameType.PING: _Rule(Ping, PING_LEN, MAX_PING),
}

# The type, and its minimum payload length.
_SERVER_FRAMES: Mapping[int, tuple[type[FromServer], int]] = {
    FrameType.RECV_PACKET: (RecvPacket, KEY_LEN),
    FrameType.KEEP_ALIVE: (KeepAlive, 0),
    FrameType.PEER_GONE: (PeerGone, KEY_LEN),
    FrameType.PEER_PRESENT: (PeerPresent, KEY_LEN),
    FrameType.PING: (Ping, PING_LEN),
    FrameType.PONG: (Pong, PING_LEN),
    FrameType.HEALTH: (Health, 0),
    FrameType.RESTARTING: (Restarting, Restarting.LAYOUT.size),
}

CLIENT_LIMITS = Limits(MAX_IGNORED_FROM_CLIENT, {kind: rule.longest for kind, rule in _CLIENT_RULES.items()})
"""Limits for frames of a client after login: a header is rejected if `decode_from_client` would reject the frame."""
SERVER_LIMITS = Limits(MAX_FROM_SERVER)
"""Limits for frames of a server after login."""


def decode_from_client(frame: RawFrame, *, mesh_peer: bool) -> FromClient | None:
    """Parse a client's frame, strictly, as a relay does.

    Args:
        frame: The frame, of any type and length.
        mesh_peer: Whether the sender logged in with the mesh key.

    Returns:
        The frame; None: the type is unknown, ignore it.

    Raises:
        ProtocolError: A known type with the wrong length, a mesh frame without the mesh key, an unknown type with more
            than 65,568 bytes.

    Source: docs/protocol/protocol.md, Frames after login.
    """
    rule = _CLIENT_RULES.get(frame.type)
    length = len(frame.payload)
    if rule is None:
        if length > MAX_IGNORED_FROM_CLIENT:
            limit = MAX_IGNORED_FROM_CLIENT
            raise ProtocolError(f"frame type {frame.type:#04x} of {length:,} bytes, wanted at most {limit:,}")
        return None
    name = rule.frame.__name__
    if rule.mesh_only and not mesh_peer:
        raise ProtocolError(f"{name} from a client without the mesh key")
    if not rule.shortest <= length <= rule.longest:
        raise ProtocolError(f"{name} of {length:,} bytes, wanted {rule.shortest:,} to {rule.longest:,}")
    return rule.frame.from_payload(frame.payload)


def decode_from_server(frame: RawFrame) -> FromServer | None:
    """Parse a server's frame, tolerantly, as a client does.

    Args:
        frame: The frame, of any type and length.

    Returns:
        The frame; None: the type is unknown or the payload too short, ignore it.

    Raises:
        ProtocolError: The payload has more than 1,048,576 bytes.

    Source: docs/protocol/protocol.md, Frames after login.
    """
    if len(frame.payload) > MAX_FROM_SERVER:
        raise ProtocolError(f"frame of {len(frame.payload):,} bytes from the server, at most {MAX_FROM_SERVER:,}")
    kind, shortest = _SERVER_FRAMES.get(frame.type, (None, 0))
    if kind is None or len(frame.payload) < shortest:
        return None
    return kind.from_payload(frame.payload)
