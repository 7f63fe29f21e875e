"""Splits a byte stream into frames.

All code for the five-byte header is here. The caller feeds bytes in any portions and takes frames until there is none;
`login` and `frames` parse the payloads. A frame that is too long is rejected by its header alone. So a reader buffers
at most one payload and the bytes fed last.
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
    """The longest payload that a `FrameReader` accepts.

    Attributes:
        others: Bytes, for the types that `by_type` does not name.
        by_type: Bytes for each type of frame.

    Source: docs/protocol/protocol.md, Constants.
    """

    others: int
    by_type: Mapping[int, int] = field(default_factory=dict)

    def of(self, frame_type: int) -> int:
        """Return the longest payload, in bytes, of a frame of the type `frame_type`."""
        return self.by_type.get(frame_type, self.others)


class RawFrame(NamedTuple):
    """One frame of any type: `type (1 byte) | length (uint32, big-endian) | payload`.

    Attributes:
        type: 0 to 255; a `FrameType`, or a number that this version does not know.
        payload: The bytes after the header.

    Source: docs/protocol/protocol.md, Constants.
    """

    type: int
    payload: bytes

    def encode(self) -> bytes:
        """Return the frame's bytes, header and payload."""
        return frame_bytes(self.type, self.payload)


def frame_bytes(frame_type: int, payload: bytes) -> bytes:
    """Return a header followed by a payload (docs/protocol/protocol.md, first paragraph)."""
    return _HEADER.pack(frame_type, len(payload)) + payload


def whole_frame(data: bytes) -> RawFrame | None:
    """Return the frame at the beginning of `data` if it is complete, else None; without a length limit."""
    if len(data) < HEADER_LEN:
        return None
    frame_type, length = _HEADER.unpack_from(data)
    end = HEADER_LEN + length
    return RawFrame(frame_type, data[HEADER_LEN:end]) if end <= len(data) else None


class FrameReader:
    """Splits a byte stream into frames.

    Call `feed(data)`, then `next_frame()` until it returns None, then feed again. Between two frames the caller may
    change the limits, as login does. After a `ProtocolError` the reader raises it again and nothing else.

    Args:
        limits: `LOGIN_LIMITS` during login, then `CLIENT_LIMITS` for frames of a client or `SERVER_LIMITS` for frames
            of a server.

    Source: docs/protocol/protocol.md, Constants.
    """

    __slots__ = ("_held", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._held = bytearray()
        self._limits = limits

    def allow(self, limits: Limits) -> None:
        """Set the `limits` for the frames that `next_frame` has not returned yet."""
        self._limits = limits

    def feed(self, data: bytes) -> None:
        """Add `data` from the stream, in portions of any length."""
        self._held += data

    def next_frame(self) -> RawFrame | None:
        """Return the next whole frame, or None until more bytes come.

        Raises:
            ProtocolError: The next header announces a payload over the limit. The payload need not have come.
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
        # bytearray removes its head by moving a pointer, so the work stays proportional to the bytes fed.
        del self._held[:end]
        return RawFrame(frame_type, payload)

    @property
    def held(self) -> int:
        """The number of buffered bytes of an incomplete frame."""
        return len(self._held)
