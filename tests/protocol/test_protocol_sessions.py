"""Whole recorded connections: both ends' bytes, from the request head to the last frame."""

from __future__ import annotations

import pytest
from golden import Case, load, node

from derper.protocol.decode import (
    CLIENT_LIMITS,
    SERVER_LIMITS,
    FromClient,
    FromServer,
    decode_from_client,
    decode_from_server,
)
from derper.protocol.frames import ClosePeer, ForwardPacket, PeerGone, PeerPresent, RecvPacket, SendPacket
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic, admits_to_mesh
from derper.protocol.login import LOGIN_LIMITS, ClientLogin, ServerKey, open_server_info
from derper.protocol.reader import FrameReader
from derper.protocol.upgrade import DerpUpgrade, RequestHead, UpgradeAnswer, decide, head_length

SESSIONS = load("mesh_session")
CONNECTIONS = [
    pytest.param(part, conn, id=f"{part}: {conn}")
    for part in ("incoming", "dialled")
    for conn in dict.fromkeys(event["conn"] for event in SESSIONS[part]["events"] if "conn" in event)
]


class Session:
    """One recorded connection: the bytes of each end, and their description in the recording."""

    def __init__(self, part: str, conn: str) -> None:
        recorded = SESSIONS[part]
        self.server = NodePrivate(bytes.fromhex(recorded["server_private"]))
        self.mesh_key = MeshKey.from_text(recorded["mesh_key"])
        self._names: dict[NodePublic, str] = {node(key): name for name, key in recorded["keys"].items()}
        self._events: list[Case] = [event for event in recorded["events"] if event.get("conn") == conn]

    def sent(self, direction: str) -> bytes:
        return b"".join(bytes.fromhex(event["bytes"]) for event in self._events if event["dir"] == direction)

    def listed(self, direction: str) -> list[str]:
        return [text for event in self._events if event["dir"] == direction for text in event.get("frames", [])]

    def name(self, key: NodePublic) -> str:
        return self._names[key]

    def words(self, frame: FromClient | FromServer | None) -> str:
        """Describe a frame in the recording's words."""
        assert frame is not None
        match frame:
            case SendPacket(destination, packet):
                detail = f" to {self.name(destination)}, {len(packet)} bytes"
            case RecvPacket(source, packet):
                detail = f" from {self.name(source)}, {len(packet)} bytes"
            case ForwardPacket(source, destination, packet):
                detail = f" from {self.name(source)} to {self.name(destination)}, {len(packet)} bytes"
            case PeerPresent(peer, _, flags, app_name):
                detail = f" {self.name(peer)}, flags {int(flags)}" + (f", application {app_name}" if app_name else "")
            case PeerGone(peer, reason):
                detail = f" {self.name(peer)}, reason {reason}"
            case ClosePeer(peer):
                detail = f" {self.name(peer)}"
            case _:
                detail = ""
        return type(frame).__name__ + detail


def split_head(stream: bytes) -> tuple[bytes, bytes]:
    length = head_length(stream)
    assert length is not None
    return stream[:length], stream[length:]


@pytest.mark.parametrize(("part", "conn"), CONNECTIONS)
def test_a_recorded_connection_is_parsed_from_either_end(part: str, conn: str) -> None:
    session = Session(part, conn)
    head, rest = split_head(session.sent("client>server"))
    upgrade = decide(RequestHead.parse(head))
    assert isinstance(upgrade, DerpUpgrade)

    reader = FrameReader(LOGIN_LIMITS)
    reader.feed(rest)
    first = reader.next_frame()
    assert first is not None
    login = ClientLogin.open(first, session.server)
    mesh_peer = admits_to_mesh(session.mesh_key, login.info.mesh_key)
    assert mesh_peer is (conn not in {"alice", "bob", "bob2", "prober"})
    reader.allow(CLIENT_LIMITS)
    said = ["ClientInfo"]
    while frame := reader.next_frame():
        said.append(session.words(decode_from_client(frame, mesh_peer=mesh_peer)))
    assert said == session.listed("client>server")

    stream = session.sent("server>client")
    if not upgrade.fast_start:
        head, stream = split_head(stream)
        assert UpgradeAnswer.parse(head).server_key == session.server.public()
        assert head == upgrade.answer(session.server.public())
    reader = FrameReader(LOGIN_LIMITS)
    reader.feed(stream)
    greeting, info = reader.next_frame(), reader.next_frame()
    assert greeting is not None
    assert info is not None
    assert ServerKey.decode(greeting).key == session.server.public()
    assert open_server_info(info, login.box).version == 2
    reader.allow(SERVER_LIMITS)
    said = ["ServerKey", "ServerInfo"]
    while frame := reader.next_frame():
        said.append(session.words(decode_from_server(frame)))
    assert said == session.listed("server>client")
    assert reader.held == 0
