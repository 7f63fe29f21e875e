"""A recorded session of a mesh peer with the reference, replayed to our server, gets the same answers."""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from authority import Authority
from derpwire import Wire
from region import OurNode
from relays import free_port
from serving import vectors

from derper.credentials.keys import key_file_bytes
from derper.protocol.decode import SERVER_LIMITS, FromServer, decode_from_server
from derper.protocol.frames import FrameType, PeerPresent
from derper.protocol.keys import MeshKey, NodePrivate
from derper.protocol.login import LOGIN_LIMITS, ClientLogin, LoginBox, ServerInfo, ServerKey, open_server_info
from derper.protocol.reader import FrameReader, RawFrame
from derper.protocol.upgrade import head_length

Said = FromServer | ServerKey | ServerInfo | None

RECORDED: dict[str, Any] = vectors("mesh_session")["incoming"]
SERVER = NodePrivate(bytes.fromhex(RECORDED["server_private"]))


class Player:
    """A replay of one recorded connection, with its client's bytes unchanged."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._sent = b""
        self._readers = [FrameReader(LOGIN_LIMITS), FrameReader(LOGIN_LIMITS)]
        self._box: LoginBox | None = None

    def play(self, sent: bytes) -> None:
        self._sent += sent
        self.wire.send(sent)

    def recorded(self, received: bytes) -> list[Said]:
        """Return the frames that the client received in the recording."""
        reader = self._readers[0]
        reader.feed(received[head_length(received) or 0 :])
        frames = []
        while (frame := reader.next_frame()) is not None:
            frames.append(self._read(frame, reader))
        return frames

    def received(self, number: int, *, after_head: bool) -> list[Said]:
        """Return this number of frames received in the replay."""
        if after_head:
            self.wire.head()
        reader = self._readers[1]
        frames: list[Said] = []
        while len(frames) < number:
            if (frame := reader.next_frame()) is None:
                reader.feed(self.wire.some())
            else:
                frames.append(self._read(frame, reader))
        return frames

    def _read(self, frame: RawFrame, reader: FrameReader) -> Said:
        match frame.type:
            case FrameType.SERVER_KEY:
                return ServerKey.decode(frame)
            case FrameType.SERVER_INFO:
                reader.allow(SERVER_LIMITS)
                return open_server_info(frame, self._login_box())
            case _:
                return decode_from_server(frame)

    def _login_box(self) -> LoginBox:
        if self._box is None:
            reader = FrameReader(LOGIN_LIMITS)
            reader.feed(self._sent[head_length(self._sent) or 0 :])
            first = reader.next_frame()
            assert first is not None
            self._box = ClientLogin.open(first, SERVER).box
        return self._box


def without_ports(frames: list[Said]) -> Counter[Said]:
    """Count the frames without client ports: a flood has no fixed order, and the ports differ each time."""
    return Counter(
        replace(frame, endpoint=replace(frame.endpoint, port=0))
        if isinstance(frame, PeerPresent) and frame.endpoint is not None
        else frame
        for frame in frames
    )


@pytest.mark.parametrize("shards", ["1", "2"])
def test_a_mesh_peers_recorded_session_has_the_recorded_answers(tmp_path: Path, shards: str) -> None:
    (tmp_path / "derper.key").write_bytes(key_file_bytes(SERVER))
    mesh_key = MeshKey.from_text(RECORDED["mesh_key"])
    players: dict[str, Player] = {}
    with (
        OurNode(tmp_path, free_port(), Authority(tmp_path), "", "-shards", shards, mesh_key=mesh_key) as ours,
        ExitStack() as open_ones,
    ):
        for event in RECORDED["events"]:
            if "step" in event:
                leave(event["step"], players)
                continue
            name, data = event["conn"], bytes.fromhex(event["bytes"])
            if name not in players:
                players[name] = Player(open_ones.enter_context(ours.door.connect()))
            player = players[name]
            if event["dir"] == "client>server":
                player.play(data)
            else:
                wanted = player.recorded(data)
                came = player.received(len(wanted), after_head="http" in event)
                assert without_ports(came) == without_ports(wanted)


def leave(step: str, players: dict[str, Player]) -> None:
    """Close the connection that ends in this step, if one does."""
    for words, name in (("bob's first connection ends", "bob"), ("bob's second connection ends", "bob2")):
        if step.startswith(words):
            players[name].wire.close()
