"""Every recorded unusual frame: our server does with it what the reference does, or better.

The recording is `client_to_server_unusual` of `tests/vectors/frames.json`: client a sends, b is connected.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from derpwire import Client
from serving import Server, vectors

from derper.protocol.frames import FrameType
from derper.protocol.keys import MeshKey, NodePrivate
from derper.protocol.login import ClientInfo
from derper.protocol.reader import RawFrame

pytest_plugins = ["hall"]

Case = dict[str, Any]

CASES: list[Case] = vectors("frames")["client_to_server_unusual"]
SHORT_CASES: list[Case] = [case for case in CASES if "send" in case and case["outcome"] == "continue"]
KEYS: dict[str, str] = vectors("frames")["keys"]

BETTER: dict[str, tuple[Case, str]] = {
    "ForwardPacket from the zero key: the receiver gets it without a source key (protocol 1 layout)": (
        {"b_gets": []},
        "a packet from nobody is dropped (docs/protocol/protocol.md, Frames after login)",
    ),
}
"""Intended differences from the recording, with reasons. All cases are replayed: no feature is missing."""

_RECIPE = re.compile(r"(?:(key ([0-9a-f]{64})|two keys), then )?([\d,]+) bytes(, byte i is \(i\+1\) mod 256)?")


def bytes_of(case: Case) -> bytes:
    """Return the frame that a case sends: given in full, or built from its recipe."""
    if "send" in case:
        return bytes.fromhex(case["send"])
    recipe = _RECIPE.fullmatch(case["then"])
    assert recipe is not None, case["then"]
    length, first = int(recipe[3].replace(",", "")), 1 if recipe[4] else 0
    body = bytes((index + first) % 256 for index in range(length))
    keys = recipe[2] or (KEYS["c_public"] + KEYS["b_public"] if recipe[1] else "")
    return bytes.fromhex(case["header"]) + bytes.fromhex(keys) + body


def as_recorded(frame: RawFrame) -> str:
    """Return a frame in the recording's form: in full, or if it is long, as header, length and digest."""
    data = frame.encode()
    if len(data) < 1_000:
        return data.hex()
    return f"{data[:5].hex()}… {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}"


def private(name: str) -> NodePrivate:
    return NodePrivate(bytes.fromhex(KEYS[f"{name}_private"]))


@pytest.fixture
def b(either_relay: Server) -> Iterator[Client]:
    with Client.join(either_relay.door, private("b")) as client:
        yield client


def frames_before(client: Client, last: bytes) -> list[str]:
    """Return the frames before `last`, without keep-alives."""
    came: list[str] = []
    while (frame := client.frame()).encode() != last:
        if frame.type != FrameType.KEEP_ALIVE:
            came.append(as_recorded(frame))
    return came


def recv(source: Client, packet: bytes) -> bytes:
    return RawFrame(FrameType.RECV_PACKET, source.key.raw + packet).encode()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_an_unusual_frame_has_the_recorded_outcome(either_relay: Server, b: Client, case: Case) -> None:
    better, _ = BETTER.get(case["name"], ({}, ""))
    case = case | better
    mesh_key = MeshKey.from_text(KEYS["mesh_key"]) if case["login"] == "mesh" else None
    since = either_relay.mark()
    with Client.join(either_relay.door, private("a"), ClientInfo(mesh_key=mesh_key)) as a:
        if case["outcome"] == "close":
            a.wire.offer(bytes_of(case))
            if case["login"] == "ordinary-eof":
                a.wire.finish()
            assert a.wire.rest() == b""
            either_relay.logged(
                rf'event="client gone" key={a.key} .*reason=(protocol_error|eof|closed_by_mesh_peer)', since
            )
            assert b.fence() == []
        else:
            a.wire.send(bytes_of(case))
            a.send(a.key, b"the end")
            assert frames_before(a, recv(a, b"the end")) == case.get("sender_gets", [])
            a.send(b.key, b"the end")
            assert frames_before(b, recv(a, b"the end")) == case.get("b_gets", [])


@pytest.mark.parametrize("case", vectors("frames")["client_to_server"], ids=lambda case: case["name"])
def test_a_frame_as_the_reference_client_writes_it_keeps_its_sender_connected(either_relay: Server, case: Case) -> None:
    mesh_key = MeshKey.from_text(KEYS["mesh_key"]) if case["login"] == "mesh" else None
    with Client.join(either_relay.door, private("a"), ClientInfo(mesh_key=mesh_key)) as a:
        a.wire.send(bytes.fromhex(case["frame"]))
        a.fence()


@pytest.mark.parametrize("case", SHORT_CASES, ids=lambda case: case["name"])
def test_a_frame_received_byte_by_byte_has_the_same_outcome(either_relay: Server, case: Case) -> None:
    mesh_key = MeshKey.from_text(KEYS["mesh_key"]) if case["login"] == "mesh" else None
    with Client.join(either_relay.door, private("a"), ClientInfo(mesh_key=mesh_key)) as a:
        for byte in bytes_of(case):
            a.wire.send(bytes((byte,)))
        got = [as_recorded(RawFrame(frame.TYPE, frame.encode()[5:])) for frame in a.fence()]
        assert got == case.get("sender_gets", [])
