"""Every recorded login is accepted or rejected as the reference does, or better.

The recordings are `client_info` and `sessions` of `tests/vectors/login.json`.
"""

import hashlib
from typing import Any

import pytest
from derpwire import HOST, Client
from serving import Recorded, Server, vectors

from derper.protocol.frames import ClosePeer, Health, PeerFlags, PeerPresent, WatchConns
from derper.protocol.keys import MeshKey, NodePrivate
from derper.protocol.login import MAX_SERVER_INFO, ClientInfo, LoginBox, ServerInfo, client_info_frame
from derper.protocol.reader import FrameReader, Limits, RawFrame, frame_bytes
from derper.protocol.upgrade import UpgradeAnswer, upgrade_request

pytest_plugins = ["hall"]

Case = dict[str, Any]

RECORDED: Case = vectors("login")["client_info"]
PRIVATE = NodePrivate(bytes.fromhex(RECORDED["client_private"]))
SERVER = NodePrivate(bytes.fromhex(RECORDED["server_private"])).public()
BETTER: dict[str, tuple[str, str]] = {
    "client key of low order (1): anyone can make this box, the shared secret is zero": (
        "close",
        "such a key proves nothing, and no real client has one (docs/protocol/protocol.md, Login)",
    ),
}
"""Intended differences from the recording, with reasons."""


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def server(request: pytest.FixtureRequest, recorded: Recorded) -> Server:
    return recorded("plain", tls=request.param)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def meshless(request: pytest.FixtureRequest, recorded: Recorded) -> Server:
    return recorded("meshless", tls=request.param, with_mesh_key=False)


def log_in_with(server: Server, frame: bytes) -> Client:
    client = Client(server.door.connect(), PRIVATE)
    client.upgrade()
    client.wire.offer(frame)
    return client


def flags_of(server: Server, client: Client) -> PeerFlags:
    """Return this client's flags as a watcher gets them."""
    mesh_key = MeshKey.from_text(RECORDED["server_mesh_key"])
    with Client.join(server.door, info=ClientInfo(mesh_key=mesh_key)) as watcher:
        watcher.wire.send(WatchConns().encode())
        while True:
            frame = watcher.next()
            if isinstance(frame, PeerPresent) and frame.peer == client.key:
                return frame.flags


def check(server: Server, case: Case, frame: bytes) -> None:
    outcome, _ = BETTER.get(case["name"], (case["outcome"], ""))
    since = server.mark()
    with log_in_with(server, frame) as client:
        if outcome == "close":
            assert client.wire.rest() == b""
            ending = 'event="connection closed" .*reason=login_failed detail='
        else:
            client.welcome()
            assert client.server_info == ServerInfo()
            # The key of no client, which only a mesh peer may close.
            client.wire.send(ClosePeer(NodePrivate(bytes([7] * 32)).public()).encode())
            if case["is_mesh_peer"]:
                assert client.fence() == []
                assert flags_of(server, client) == case["present_flags"]
                ending = 'event="client gone" .*reason=eof'
            else:
                assert client.wire.rest() == b""
                ending = 'event="client gone" .*reason=protocol_error .*insufficient permissions'
    server.logged(ending, since)


@pytest.mark.parametrize(
    "case", [case for case in RECORDED["cases"] if case.get("server_has_mesh_key", True)], ids=lambda case: case["name"]
)
def test_a_login_has_the_recorded_outcome(server: Server, case: Case) -> None:
    check(server, case, bytes.fromhex(case["send"]))


@pytest.mark.parametrize(
    "case",
    [case for case in RECORDED["cases"] if not case.get("server_has_mesh_key", True)],
    ids=lambda case: case["name"],
)
def test_a_server_without_a_mesh_key_ignores_a_clients_mesh_key(meshless: Server, case: Case) -> None:
    check(meshless, case, bytes.fromhex(case["send"]))


@pytest.mark.parametrize("case", RECORDED["sizes"], ids=lambda case: case["name"])
def test_a_login_frame_has_at_most_262144_bytes(server: Server, case: Case) -> None:
    json = case["json_start"].encode().ljust(case["json_padded_with_spaces_to"])
    box = LoginBox(PRIVATE, SERVER)
    frame = frame_bytes(2, PRIVATE.public().raw + box.seal(json, bytes.fromhex(case["nonce"])))
    assert (len(frame), hashlib.sha256(frame).hexdigest()) == (case["frame_bytes"], case["frame_sha256"])
    check(server, case, frame)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("session", vectors("login")["sessions"], ids=lambda session: session["name"])
def test_a_recorded_client_gets_server_key_and_server_info(recorded: Recorded, session: Case, tls: bool) -> None:  # noqa: FBT001
    is_other = session["server_private"] != RECORDED["server_private"]
    server = recorded("other-key" if is_other else "plain", tls=tls, private=session["server_private"])
    client = Client(server.door.connect(), NodePrivate(bytes.fromhex(session["client_private"])))
    with client:
        client.wire.send(upgrade_request(HOST, fast_start=True))
        assert client.wire.exactly(45).hex() == session["server_key_frame"]
        client.wire.send(bytes.fromhex(session["client_info_frame"]))
        reader = FrameReader(Limits(MAX_SERVER_INFO))
        while (frame := reader.next_frame()) is None:
            reader.feed(client.wire.some())
        box = LoginBox(client.private, NodePrivate(bytes.fromhex(session["server_private"])).public())
        assert box.open(frame.payload).decode() == session["server_info_json"]


def test_a_login_received_byte_by_byte_is_accepted(server: Server) -> None:
    client = Client(server.door.connect())
    with client:
        client.upgrade()
        for byte in client.client_info():
            client.wire.send(bytes((byte,)))
        client.welcome()
        assert client.fence() == []


def test_frames_directly_after_the_login_are_not_lost(server: Server) -> None:
    with Client.join(server.door) as peer:
        client = Client(server.door.connect())
        with client:
            client.upgrade()
            packets = [number.to_bytes(4, "big") * 100 for number in range(100)]  # as many as a socket buffers
            frames = b"".join(RawFrame(4, peer.key.raw + packet).encode() for packet in packets)
            client.wire.send(client.client_info() + frames)
            client.welcome()
            assert [peer.packet().packet for _ in packets] == packets


@pytest.mark.parametrize("padding", [0, 2_000], ids=["short", "long"])
@pytest.mark.parametrize("fast_start", [False, True], ids=["answered", "fast-start"])
def test_a_login_directly_after_the_request_is_accepted(server: Server, padding: int, fast_start: bool) -> None:  # noqa: FBT001
    box = LoginBox(PRIVATE, SERVER)
    info = ClientInfo().to_json() + b" " * padding
    with Client.join(server.door) as peer, Client(server.door.connect(), PRIVATE) as client:
        login = frame_bytes(2, PRIVATE.public().raw + box.seal(info, bytes(24)))
        packets = [RawFrame(4, peer.key.raw + bytes((number,)) * 9).encode() for number in range(3)]
        client.wire.send(upgrade_request(HOST, fast_start=fast_start) + login + b"".join(packets))
        if not fast_start:
            UpgradeAnswer.parse(client.wire.head())
        assert client.greeted() == SERVER
        client.welcome()
        assert [peer.packet().packet for _ in range(3)] == [bytes((number,)) * 9 for number in range(3)]


def test_an_undecryptable_login_directly_after_the_request_is_rejected(server: Server) -> None:
    since = server.mark()
    box = LoginBox(PRIVATE, NodePrivate(bytes([5] * 32)).public())
    with Client(server.door.connect(), PRIVATE) as client:
        login = client_info_frame(PRIVATE.public(), ClientInfo(), box, bytes(24))
        client.wire.send(upgrade_request(HOST, fast_start=True) + login)
        assert client.greeted() == SERVER
        assert client.wire.rest() == b""
    server.logged('event="connection closed" .*reason=login_failed detail=', since)


@pytest.mark.parametrize("garbage", [b"garbage, not a frame", bytes((2, 255, 255, 255, 255)), bytes(2_000)])
def test_garbage_directly_after_the_request_gets_server_key_and_is_rejected(server: Server, garbage: bytes) -> None:
    since = server.mark()
    with Client(server.door.connect()) as client:
        client.wire.send(upgrade_request(HOST, fast_start=True) + garbage)
        assert client.greeted() == SERVER
        assert client.wire.rest() == b""
    server.logged('event="connection closed" .*reason=login_failed detail=', since)


def test_a_client_of_a_rejected_application_may_not_log_in(recorded: Recorded) -> None:
    server = recorded("picky", "-disallow-app-names", "bad-app,worse app")
    since = server.mark()
    mesh_key = MeshKey.from_text(RECORDED["server_mesh_key"])
    for name in ("bad-app", "worse app"):
        client = Client(server.door.connect())
        with client:
            client.upgrade()
            client.wire.send(client.client_info(ClientInfo(app_name=name)))
            assert client.next() == Health(
                f"this relay rejected this device: the application '{name}' is not allowed here"
            )
            assert client.wire.rest() == b""
        server.logged(rf'event="connection closed" .*reason=refused detail=.*{name}', since)
    with (
        Client.join(server.door, info=ClientInfo(app_name="good-app")) as good,
        Client.join(server.door, info=ClientInfo(app_name="bad-app", mesh_key=mesh_key)) as mesh_peer,
    ):
        assert good.fence() == mesh_peer.fence() == []
