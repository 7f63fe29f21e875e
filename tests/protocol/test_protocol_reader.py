from __future__ import annotations

import pytest
from golden import feedings, frames_of, one_frame
from hypothesis import example, given
from hypothesis import strategies as st

from derper.errors import ProtocolError
from derper.protocol.reader import HEADER_LEN, FrameReader, Limits, RawFrame, frame_bytes

raw_frames = st.builds(RawFrame, st.integers(0, 255), st.binary(max_size=70))


def test_a_frame_is_a_type_a_big_endian_length_and_a_payload() -> None:
    assert frame_bytes(0x12, b"abc") == bytes.fromhex("1200000003616263")


@feedings
def test_a_frame_is_read_from_any_portions(how: str) -> None:
    frames = [RawFrame(4, b"abc"), RawFrame(6, b""), RawFrame(0xFF, b"\0" * 300)]
    reader = FrameReader(Limits(300))
    assert frames_of(reader, b"".join(frame.encode() for frame in frames), how) == frames
    assert reader.held == (3 if how == "leftover" else 0)


def test_a_limit_of_a_frame_type_overrides_the_general_limit() -> None:
    reader = FrameReader(Limits(10, {4: 20, 5: 2}))
    assert one_frame(reader, frame_bytes(4, bytes(20))).type == 4
    assert one_frame(reader, frame_bytes(6, bytes(10))).type == 6
    reader.feed(frame_bytes(5, bytes(3)))
    with pytest.raises(ProtocolError, match=r"type 0x05 of 3 bytes, wanted at most 2"):
        reader.next_frame()


def test_a_long_frame_is_rejected_by_its_header_permanently() -> None:
    reader = FrameReader(Limits(65_568))
    reader.feed(bytes.fromhex("ff0001002100"))
    for _ in range(2):
        with pytest.raises(ProtocolError, match=r"0xff of 65,569 bytes, wanted at most 65,568"):
            reader.next_frame()


def test_limits_may_change_between_two_frames_received_together() -> None:
    reader = FrameReader(Limits(1))
    reader.feed(frame_bytes(1, b"a") + frame_bytes(2, b"bcd"))
    assert reader.next_frame() == RawFrame(1, b"a")
    reader.allow(Limits(3))
    assert reader.next_frame() == RawFrame(2, b"bcd")


def test_a_frame_of_a_mebibyte_may_be_received_byte_by_byte() -> None:
    payload = bytes(1 << 20)
    assert one_frame(FrameReader(Limits(len(payload))), frame_bytes(5, payload), "bytes").payload == payload


@given(st.lists(raw_frames, max_size=6), st.lists(st.integers(1, 50), min_size=1))
def test_the_sizes_of_portions_do_not_matter(frames: list[RawFrame], sizes: list[int]) -> None:
    data = b"".join(frame.encode() for frame in frames)
    reader = FrameReader(Limits(70))
    got = []
    at = 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        got += frames_of(reader, data[at : at + size])
        at += size
    assert got == frames
    assert reader.held == 0


@given(st.lists(st.binary(max_size=40), max_size=20))
@example([b"\0" * 100])
def test_garbage_is_frames_or_a_protocol_error_and_never_accumulates(portions: list[bytes]) -> None:
    reader = FrameReader(Limits(16))
    taken = fed = 0
    try:
        for portion in portions:
            reader.feed(portion)
            fed += len(portion)
            while frame := reader.next_frame():
                assert len(frame.payload) <= 16
                taken += HEADER_LEN + len(frame.payload)
            assert reader.held < HEADER_LEN + 16
            assert taken + reader.held == fed
    except ProtocolError:
        pass
