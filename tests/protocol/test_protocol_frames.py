from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import pytest
from golden import Case, app_names, by_name, feedings, frames_of, load, node, node_keys, one_frame
from hypothesis import given
from hypothesis import strategies as st

from derper.errors import ProtocolError
from derper.protocol.decode import (
    CLIENT_LIMITS,
    MAX_FROM_SERVER,
    MAX_IGNORED_FROM_CLIENT,
    SERVER_LIMITS,
    FromClient,
    FromServer,
    decode_from_client,
    decode_from_server,
)
from derper.protocol.disco import is_disco
from derper.protocol.frames import (
    MAX_PACKET,
    ClosePeer,
    Endpoint,
    ForwardPacket,
    FrameType,
    Health,
    KeepAlive,
    NotePreferred,
    PeerFlags,
    PeerGone,
    PeerGoneReason,
    PeerPresent,
    Ping,
    Pong,
    RecvPacket,
    Restarting,
    SendPacket,
    WatchConns,
)
from derper.protocol.keys import NodePublic
from derper.protocol.reader import HEADER_LEN, FrameReader, RawFrame

if TYPE_CHECKING:
    from collections.abc import Callable

FRAMES = load("frames")
KEYS = FRAMES["keys"]

FROM_FIELDS: dict[str, Callable[[Any], FromClient | Pong]] = {
    "SendPacket": lambda f: SendPacket(node(f["destination"]), bytes.fromhex(f["packet"])),
    "ForwardPacket": lambda f: ForwardPacket(node(f["source"]), node(f["destination"]), bytes.fromhex(f["packet"])),
    "NotePreferred": lambda f: NotePreferred(f["preferred"]),
    "Ping": lambda f: Ping(bytes.fromhex(f["data"])),
    "Pong": lambda f: Pong(bytes.fromhex(f["data"])),
    "WatchConns": lambda _: WatchConns(),
    "ClosePeer": lambda f: ClosePeer(node(f["peer"])),
}


def _present(d: Case) -> PeerPresent:
    endpoint = None if d["ip"] is None else Endpoint(ip_address(d["ip"]), d["port"])
    return PeerPresent(node(d["peer"]), endpoint, PeerFlags(d["flags"]), d["app_name"])


FROM_DECODED: dict[str, Callable[[Any], FromServer]] = {
    "ReceivedPacket": lambda d: RecvPacket(node(d["source"]), bytes.fromhex(d["data"])),
    "KeepAlive": lambda _: KeepAlive(),
    "PeerGone": lambda d: PeerGone(node(d["peer"]), d["reason"]),
    "PeerPresent": _present,
    "Ping": lambda d: Ping(bytes.fromhex(d["data"])),
    "Pong": lambda d: Pong(bytes.fromhex(d["data"])),
    "Health": lambda d: Health(d["problem"]),
    "Restarting": lambda d: Restarting(d["reconnect_in_ms"], d["try_for_ms"]),
}


def test_frame_types_have_the_numbers_of_the_reference() -> None:
    names = {f"{kind:02x}": "".join(word.capitalize() for word in kind.name.split("_")) for kind in FrameType}
    assert names == FRAMES["type_names"]


@feedings
@pytest.mark.parametrize("case", by_name(FRAMES["client_to_server"]))
def test_client_frames_are_written_and_read_as_the_reference_does(case: Case, how: str) -> None:
    frame = FROM_FIELDS[case["type_name"]](case["fields"])
    assert case["type"] == frame.TYPE
    assert frame.encode().hex() == case["frame"]
    raw = one_frame(FrameReader(CLIENT_LIMITS), frame.encode(), how)
    read = decode_from_client(raw, mesh_peer=case["login"] == "mesh")
    assert read == (None if isinstance(frame, Pong) else frame)


def test_the_biggest_packet_fits_and_one_byte_more_is_not_sent() -> None:
    case = FRAMES["client_to_server_big"]
    to = node(case["destination"])
    encoded = SendPacket(to, bytes(i % 256 for i in range(MAX_PACKET))).encode()
    assert len(encoded) == case["frame_bytes"]
    assert hashlib.sha256(encoded).hexdigest() == case["frame_sha256"]
    for too_big in (
        SendPacket(to, bytes(MAX_PACKET + 1)),
        RecvPacket(to, bytes(MAX_PACKET + 1)),
        ForwardPacket(to, to, bytes(MAX_PACKET + 1)),
    ):
        with pytest.raises(ValueError, match="65,536"):
            too_big.encode()


def _sent(case: Case) -> bytes:
    if "send" in case:
        return bytes.fromhex(case["send"])
    header = bytes.fromhex(case["header"])
    length = int.from_bytes(header[1:])
    if case["then"].startswith("key "):
        key = bytes.fromhex(case["then"].split()[1].rstrip(","))
        return header + key + bytes(i % 256 for i in range(length - len(key)))
    return header + bytes((i + 1) % 256 for i in range(length))


def _relayed(frame: FromClient | None) -> list[bytes]:
    """Return the frames for a packet's destination; a packet from the zero key is dropped, not sent without a key."""
    sender = node(KEYS["a_public"])
    match frame:
        case SendPacket(_, packet):
            return [RecvPacket(sender, packet).encode()]
        case ForwardPacket(source, _, packet) if not source.is_zero:
            return [RecvPacket(source, packet).encode()]
    return []


def _answered(frame: FromClient | None) -> list[bytes]:
    """Return the frames for the sender: the echo of its ping, its own packet, or PeerGone (not here)."""
    match frame:
        case Ping():
            return [frame.answer().encode()]
        case SendPacket(destination, _) if destination.hex() == KEYS["a_public"]:
            return _relayed(frame)
        case SendPacket(destination, packet) | ForwardPacket(_, destination, packet) if is_disco(packet):
            return [PeerGone(destination, PeerGoneReason.NOT_HERE).encode()]
    return []


def _as_listed(frames: list[bytes]) -> list[str]:
    short = 1_000
    return [
        f.hex() if len(f) < short else f"{f[:HEADER_LEN].hex()}… {len(f)} bytes, sha256 {hashlib.sha256(f).hexdigest()}"
        for f in frames
    ]


@pytest.mark.parametrize(
    "case", by_name(FRAMES["client_to_server_unusual"], without=lambda c: c["login"] == "ordinary-eof")
)
def test_unusual_client_frames_close_or_pass_as_in_the_reference(case: Case) -> None:
    reader = FrameReader(CLIENT_LIMITS)
    try:
        (raw,) = frames_of(reader, _sent(case))
        frame = decode_from_client(raw, mesh_peer=case["login"] == "mesh")
    except ProtocolError:
        assert case["outcome"] == "close"
        return
    if frame == ClosePeer(node(KEYS["a_public"])):
        return  # well formed; the switchboard closes its sender
    assert case["outcome"] == "continue"
    assert _as_listed(_answered(frame)) == case.get("sender_gets", [])
    if "b_gets" in case and not (isinstance(frame, ForwardPacket) and frame.source.is_zero):
        assert _as_listed(_relayed(frame)) == case["b_gets"]


@pytest.mark.parametrize(
    "case", by_name(FRAMES["client_to_server_unusual"], without=lambda c: c["login"] != "ordinary-eof")
)
def test_a_truncated_frame_is_not_a_frame(case: Case) -> None:
    reader = FrameReader(CLIENT_LIMITS)
    assert frames_of(reader, bytes.fromhex(case["send"]), "bytes") == []
    assert reader.held == len(case["send"]) // 2


@pytest.mark.parametrize(
    "case", by_name(FRAMES["client_to_server_unusual"], without=lambda c: c["outcome"] != "close" or "header" not in c)
)
def test_an_overlong_client_frame_is_rejected_before_its_payload(case: Case) -> None:
    reader = FrameReader(CLIENT_LIMITS)
    reader.feed(bytes.fromhex(case["header"]))
    with pytest.raises(ProtocolError):
        reader.next_frame()


@feedings
@pytest.mark.parametrize("case", by_name(FRAMES["server_to_client"]))
def test_server_frames_are_written_and_read_as_the_reference_does(case: Case, how: str) -> None:
    frame = FROM_DECODED[case["decoded"]["message"]](case["decoded"])
    assert case["type"] == frame.TYPE
    assert frame.encode().hex() == case["frame"]
    assert decode_from_server(one_frame(FrameReader(SERVER_LIMITS), frame.encode(), how)) == frame


@feedings
@pytest.mark.parametrize("case", by_name(FRAMES["server_to_client_tolerant"]))
def test_a_client_understands_servers_older_and_newer_than_itself(case: Case, how: str) -> None:
    frame = decode_from_server(one_frame(FrameReader(SERVER_LIMITS), bytes.fromhex(case["frame"]), how))
    if case["outcome"] == "ignore":
        assert frame is None
    else:
        assert frame == FROM_DECODED[case["decoded"]["message"]](case["decoded"])


@pytest.mark.parametrize("case", by_name(FRAMES["server_to_client_limits"]))
def test_a_client_accepts_a_mebibyte_and_no_byte_more(case: Case) -> None:
    header = bytes.fromhex(case["header"])
    length = int.from_bytes(header[1:])
    reader = FrameReader(SERVER_LIMITS)
    reader.feed(header)
    if case["outcome"] == "accept":
        frame = decode_from_server(one_frame(reader, bytes(length)))
        assert isinstance(frame, RecvPacket)
        assert len(frame.packet) == length - 32
    else:
        with pytest.raises(ProtocolError, match=r"1,048,577 bytes, wanted at most 1,048,576"):
            reader.next_frame()
        with pytest.raises(ProtocolError, match=r"1,048,577"):
            decode_from_server(RawFrame(header[0], bytes(length)))


def test_errors_have_the_expected_and_the_actual_value_but_not_the_payload() -> None:
    with pytest.raises(ProtocolError, match=r"^NotePreferred of 6 bytes, wanted 1 to 1$"):
        decode_from_client(RawFrame(FrameType.NOTE_PREFERRED, b"secret"), mesh_peer=False)
    with pytest.raises(ProtocolError, match=r"^ForwardPacket from a client without the mesh key$"):
        decode_from_client(RawFrame(FrameType.FORWARD_PACKET, b"secret"), mesh_peer=False)
    with pytest.raises(ProtocolError, match=r"^frame type 0xff of 65,569 bytes, wanted at most 65,568$"):
        decode_from_client(RawFrame(0xFF, bytes(MAX_IGNORED_FROM_CLIENT + 1)), mesh_peer=True)


def test_errors_of_the_caller_are_value_errors() -> None:
    peer = NodePublic(bytes(32))
    for encode in (
        Ping(b"short").encode,
        Pong(b"too long!").encode,
        PeerPresent(peer, Endpoint(IPv4Address(1), 1), app_name="é").encode,
        lambda: PeerPresent(peer, app_name="x"),
    ):
        with pytest.raises(ValueError, match=r"wanted|has"):
            encode()


endpoints = st.builds(
    Endpoint,
    # An IPv4-mapped address is read as an IPv4 address.
    st.ip_addresses(v=4)
    | st.ip_addresses(v=6).filter(lambda ip: not isinstance(ip, IPv6Address) or not ip.ipv4_mapped),
    st.integers(0, 65_535),
)
uint32 = st.integers(0, 2**32 - 1)
packets = st.binary(max_size=200)
eight_bytes = st.binary(min_size=8, max_size=8)
pings = st.builds(Ping, eight_bytes)
client_frames = st.one_of(
    st.builds(SendPacket, node_keys, packets),
    st.builds(ForwardPacket, node_keys, node_keys, packets),
    st.builds(NotePreferred, st.booleans()),
    st.just(WatchConns()),
    st.builds(ClosePeer, node_keys),
    pings,
)
server_frames = st.one_of(
    st.builds(RecvPacket, node_keys, packets),
    st.just(KeepAlive()),
    st.builds(PeerGone, node_keys, st.integers(0, 255)),
    st.builds(PeerPresent, node_keys),
    st.builds(PeerPresent, node_keys, endpoints, st.integers(0, 255).map(PeerFlags), app_names),
    pings,
    st.builds(Pong, eight_bytes),
    st.builds(Health, st.text()),
    st.builds(Restarting, uint32, uint32),
)


@given(client_frames)
def test_a_server_reads_every_frame_that_a_client_writes(frame: FromClient) -> None:
    assert decode_from_client(one_frame(FrameReader(CLIENT_LIMITS), frame.encode()), mesh_peer=True) == frame


@given(server_frames)
def test_a_client_reads_every_frame_that_a_server_writes(frame: FromServer) -> None:
    assert decode_from_server(one_frame(FrameReader(SERVER_LIMITS), frame.encode())) == frame


@given(server_frames, st.binary(max_size=40))
def test_a_client_ignores_further_bytes_of_future_servers(frame: FromServer, more: bytes) -> None:
    longer = RawFrame(frame.TYPE, frame.encode()[HEADER_LEN:] + more)
    read = decode_from_server(longer)
    if isinstance(frame, RecvPacket):
        assert read == RecvPacket(frame.source, frame.packet + more)
    elif isinstance(frame, PeerPresent) and frame.endpoint is None:
        assert isinstance(read, PeerPresent)
        assert read.peer == frame.peer
    elif not isinstance(frame, Health):
        assert read == frame


@given(st.integers(0, 255), st.binary(max_size=1_100), st.booleans())
def test_any_client_payload_is_a_frame_none_or_a_protocol_error(kind: int, payload: bytes, mesh_peer: bool) -> None:  # noqa: FBT001  hypothesis passes it by name
    try:
        frame = decode_from_client(RawFrame(kind, payload), mesh_peer=mesh_peer)
    except ProtocolError:
        return
    assert frame is None or kind == frame.TYPE


@given(st.integers(0, 255), st.binary(max_size=300))
def test_any_server_payload_is_a_frame_or_none(kind: int, payload: bytes) -> None:
    frame = decode_from_server(RawFrame(kind, payload))
    assert frame is None or kind == frame.TYPE


def test_the_limits_of_the_two_directions_are_the_published_ones() -> None:
    assert (MAX_FROM_SERVER, MAX_IGNORED_FROM_CLIENT, MAX_PACKET) == (1_048_576, 65_568, 65_536)
