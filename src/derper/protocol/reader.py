"""A byte stream cut into frames, without the stream.

Everything that knows the five-byte header lives here. The caller feeds whatever bytes it has, in any portions, and
takes frames until there is none; what a payload means is for `login` and `frames` to say.
A frame that is too long is refused by its header alone, so what is held is at most one payload and what was fed last.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from derper.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

_HEADER = struct.Struct(">BI")
HEADER_LEN = _HEADER.size


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a payload may be, in bytes: by its frame's type, else the general limit."""

    others: int
    by_type: Mapping[int, int] = field(default_factory=dict)

    def of(self, frame_type: int) -> int:
        """Give the longest payload allowed in a frame of this type."""
        return self.by_type.get(frame_type, self.others)


class RawFrame(NamedTuple):
    """One frame off the wire: `type (1 byte) | length (uint32, big-endian) | payload`."""

    type: int  # 0 to 255; also one that nobody knows
    payload: bytes

    def encode(self) -> bytes:
        """Give the frame's bytes, header and payload."""
        return frame_bytes(self.type, self.payload)


def frame_bytes(frame_type: int, payload: bytes) -> bytes:
    """Put a header before a payload (docs/protocol/protocol.md, first paragraph)."""
    return _HEADER.pack(frame_type, len(payload)) + payload


def whole_frame(data: bytes) -> RawFrame | None:
    """Give the frame that `data` begins with, if all of it is there: no limit is asked, since it cannot be longer."""
    if len(data) < HEADER_LEN:
        return None
    frame_type, length = _HEADER.unpack_from(data)
    end = HEADER_LEN + length
    return RawFrame(frame_type, data[HEADER_LEN:end]) if end <= len(data) else None


class FrameReader:
    """Cuts frames out of bytes.

    Use: `feed(data)`, then `next_frame()` until it returns None, then feed again. Pulling one at a time lets the caller
    change what it allows between two frames, as login does. After a `ProtocolError` the reader only raises it again.

    The limits in use are `login.LOGIN_LIMITS`, and then `decode.CLIENT_LIMITS` or `decode.SERVER_LIMITS`.
    """

    __slots__ = ("_held", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._held = bytearray()
        self._limits = limits

    def allow(self, limits: Limits) -> None:
        """Set the limits for the frames not yet taken."""
        self._limits = limits

    def feed(self, data: bytes) -> None:
        """Take bytes off the stream, as many or few as came."""
        self._held += data

    def next_frame(self) -> RawFrame | None:
        """Take the next whole frame, or None when more bytes are needed.

        Raises:
            ProtocolError: the next header announces more than is allowed; its payload need not have come.
        """
        if len(self._held) < HEADER_LEN:
            return None
        frame_type, length = _HEADER.unpack_from(self._held)
        limit = self._limits.of(frame_type)
        if length > limit:
            raise ProtocolError(f"frame type {frame_type:#04x} of {length:,} bytes, wanted at most {limit:,}")
        end = HEADER_LEN + length
        if len(self._held) < end:
            return None
        payload = bytes(memoryview(self._held)[HEADER_LEN:end])
        # bytearray drops its head by moving a pointer, so the work stays proportional to the bytes fed.
        del self._held[:end]
        return RawFrame(frame_type, payload)

    @property
    def held(self) -> int:
        """How many bytes wait for the rest of their frame."""
        return len(self._held)
