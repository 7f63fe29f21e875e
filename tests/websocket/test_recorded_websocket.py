"""Every recorded WebSocket of the reference: our server sends the same frames, or better ones.

The recordings are `websocket` of `tests/vectors/http.json`, and its `exchanges` that request a WebSocket.
"""

from typing import Any

import pytest
from serving import Recorded, Server, vectors
from webclient import ByHand, masked
from websockets.frames import Close, Frame, Opcode

from derper.protocol.decode import SERVER_LIMITS
from derper.protocol.frames import MAX_PACKET, FrameType, Ping, Pong, SendPacket
from derper.protocol.keys import NodePrivate
from derper.protocol.login import LoginBox, ServerInfo, open_server_info
from derper.protocol.reader import FrameReader

pytest_plugins = ["hall"]

Case = dict[str, Any]

CASES: list[Case] = vectors("http")["websocket"]
OPENINGS: list[Case] = [
    exchange
    for exchange in vectors("http")["exchanges"]
    if "sec-websocket-protocol" in exchange.get("request", "").lower()
]
SESSION: Case = vectors("login")["sessions"][0]
SERVER_INFO = "{server info}"
MARK = b"the end."

BETTER: dict[str, tuple[list[str], str]] = {
    "frame without mask: closed": (
        ["close 1002"],
        "a breach of the protocol is called one (RFC 6455, 5.1); the reference says that all is well",
    ),
    "message of 32,769 bytes: the reference closes with status 1009": (
        ["RecvPacket of 32732 bytes"],
        "longer messages are taken (docs/protocol/protocol.md, WebSocket)",
    ),
}
"""Intended frames after the login instead of the recorded ones, with reasons."""


@pytest.fixture(params=[False, True], ids=["ws", "wss"])
def server(request: pytest.FixtureRequest, recorded: Recorded) -> Server:
    return recorded("websocket", tls=request.param)


def by_name(case: Case) -> str:
    name: str = case["name"]
    return name


def key_of(who: str) -> NodePrivate:
    return NodePrivate(bytes.fromhex(SESSION[f"{who}_private"]))


def writes_of(case: Case) -> list[bytes]:
    """Return the client's writes, piece by piece: as recorded, or built from their description."""
    if "client_sends" in case:
        return [bytes.fromhex(data) for data in case["client_sends"]]
    login = masked(0x82, bytes.fromhex(SESSION["client_info_frame"]))
    me = key_of("client").public()
    frame = SendPacket(me, b"x" * MAX_PACKET).encode()
    if "cut into messages of 20,000 bytes" in case["client_sends_described"]:
        return [login, *(masked(0x82, frame[at : at + 20_000]) for at in range(0, len(frame), 20_000))]
    length = 32_768 if "32,768" in case["client_sends_described"] else 32_769
    return [login, masked(0x82, SendPacket(me, b"x" * (length - len(frame) + MAX_PACKET)).encode())]


def told(derp: FrameReader) -> list[str]:
    """Return the received whole DERP frames as text; parts that differ in each run are opened and checked."""
    words = []
    while (frame := derp.next_frame()) is not None:
        if frame.type == FrameType.SERVER_INFO:
            box = LoginBox(key_of("client"), key_of("server").public())
            assert open_server_info(frame, box) == ServerInfo()
            words.append(SERVER_INFO)
        elif frame.type == FrameType.RECV_PACKET and len(frame.payload) > 1_000:
            assert frame.payload == key_of("client").public().raw + b"x" * (len(frame.payload) - 32)
            words.append(f"RecvPacket of {len(frame.payload) - 32} bytes")
        else:
            words.append(frame.encode().hex())
    return words


def recorded_words(case: Case) -> list[str]:
    """Return the reference's DERP frames, whatever their messages, and its WebSocket control frames."""
    words = []
    long = 0
    for sent in case["server_sends"]:
        payload: str = sent["payload"]
        if sent["first_byte"] == "88":
            words.append(f"close {sent['close_status']}")
        elif sent["first_byte"] == "8a":
            words.append(f"pong {payload}")
        elif "length" in sent:
            long += sent["length"]
        else:
            assert sent["first_byte"] == "82"
            words.append(SERVER_INFO if payload.endswith(SERVER_INFO) else payload)
    return [*words, f"RecvPacket of {long - 37} bytes"] if long else words


def words_of(frame: Frame, derp: FrameReader) -> list[str]:
    """Return the text for a frame of our server."""
    match frame.opcode:
        case Opcode.BINARY:
            assert frame.fin
            derp.feed(bytes(frame.data))
            return told(derp)
        case Opcode.CLOSE:
            return [f"close {Close.parse(frame.data).code if frame.data else None}"]
        case Opcode.PONG:
            return [f"pong {bytes(frame.data).hex()}"]
        case _:
            raise AssertionError(f"the server sent {frame}")


def wanted_of(case: Case) -> list[str]:
    words = recorded_words(case)
    if case["name"] in BETTER:
        better, _reason = BETTER[case["name"]]
        return [*words[:-1], *better]
    return words


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_the_frames_are_those_of_the_recording(server: Server, case: Case) -> None:
    wanted = wanted_of(case)
    closes = wanted[-1].startswith("close ")
    derp = FrameReader(SERVER_LIMITS)
    words: list[str] = []
    *writes, last = writes_of(case)
    with ByHand.open(server.door) as socket:
        for data in writes:
            socket.wire.send(data)
        if closes:
            # A client that leaves before the login's answer does not get it.
            while len(words) < len(wanted) - 1:
                words += words_of(socket.next(), derp)
        socket.wire.offer(last)
        if not closes:
            socket.send(Ping(MARK).encode())
            wanted.append(Pong(MARK).encode().hex())
        while len(words) < len(wanted):
            words += words_of(socket.next(), derp)
        assert sorted(words) == sorted(wanted)
        assert without_pongs(words) == without_pongs(wanted)
        if closes:
            assert socket.wire.rest() == b""


def without_pongs(words: list[str]) -> list[str]:
    """Return the frames with a fixed order: pongs of WebSocket and of DERP may overtake."""
    return [word for word in words if not word.startswith(("pong", f"{FrameType.PONG:02x}"))]


def test_every_listed_difference_has_a_tested_case() -> None:
    assert BETTER.keys() <= {by_name(case) for case in CASES}


def headers_of(lines: list[str]) -> dict[str, str]:
    """Return headers with lower-case names, without the date and the length of Go's own texts."""
    pairs = (line.split(": ", 1) for line in lines)
    return {name.lower(): value for name, value in pairs if name.lower() not in ("date", "content-length")}


@pytest.mark.parametrize("case", OPENINGS, ids=by_name)
def test_the_opening_handshake_is_answered_as_recorded(server: Server, case: Case) -> None:
    with server.door.connect() as wire:
        wire.send(case["request"].encode())
        status, *lines = wire.head().decode().split("\r\n")[:-2]
        assert status == case["status_line"]
        assert headers_of(lines) == {
            name.lower(): value for name, value in case["headers"] if name not in ("Date", "Content-Length")
        }
        if "after_headers_hex" in case:
            came = ByHand(wire).next()
            recorded = bytes.fromhex(case["after_headers_hex"])
            if recorded[0] == 0x88:
                assert Close.parse(came.data).code == int.from_bytes(recorded[2:4], "big")
                assert wire.rest() == b""
            else:
                assert came.serialize(mask=False) == recorded
