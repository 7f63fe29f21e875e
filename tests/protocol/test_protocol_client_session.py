"""The client's side of a connection, compared with recorded logins byte by byte."""

from __future__ import annotations

import pytest
from golden import Case, by_name, feedings, load, node, portions

from derper.errors import ProtocolError
from derper.protocol.frames import Health, KeepAlive, Ping, Pong, RecvPacket
from derper.protocol.keys import NodePrivate
from derper.protocol.login import ClientInfo, LoginBox, ServerInfo, ServerKey, server_info_frame
from derper.protocol.reader import frame_bytes
from derper.protocol.session import ClientSession, Said
from derper.protocol.upgrade import DerpUpgrade

LOGINS = load("login")["sessions"]
PLAIN = LOGINS[0]
NOBODY = node("11" * 32)


def session_of(case: Case, *, knows_key: bool = False, awaits_answer: bool = False) -> ClientSession:
    info = ClientInfo.from_json(case["client_info_json"].encode())
    return ClientSession(
        NodePrivate(bytes.fromhex(case["client_private"])),
        info,
        bytes.fromhex(case["client_info_nonce"]),
        server_key=node(case["server_public"]) if knows_key else None,
        awaits_answer=awaits_answer,
    )


def answer(case: Case) -> bytes:
    return DerpUpgrade(fast_start=False, ideal_node=None).answer(node(case["server_public"]))


def play(session: ClientSession, stream: bytes, how: str = "whole") -> tuple[list[Said], bytes]:
    """Feed the session; return its messages and the bytes that it sends."""
    said, sent = [], session.data_to_send()
    for portion in portions(stream, how):
        session.feed(portion)
        while message := session.next_message():
            said.append(message)
        sent += session.data_to_send()
    return said, sent


@feedings
@pytest.mark.parametrize("knows_key", [False, True], ids=["waits", "knows the key"])
@pytest.mark.parametrize("case", by_name(LOGINS))
def test_it_logs_in_as_the_reference_client_does(case: Case, knows_key: bool, how: str) -> None:  # noqa: FBT001
    stream = bytes.fromhex(case["server_key_frame"]) + bytes.fromhex(case["server_info_frame"])
    for head in (b"", answer(case)):
        session = session_of(case, knows_key=knows_key, awaits_answer=bool(head))
        said, sent = play(session, head + stream, how)
        assert sent.hex() == case["client_info_frame"]
        assert said == [ServerInfo(version=2)]
        assert session.server_info == said[0]
        assert session.server_key == node(case["server_public"])


def test_with_a_known_key_it_sends_client_info_before_it_receives_anything() -> None:
    assert session_of(PLAIN, knows_key=True).data_to_send().hex() == PLAIN["client_info_frame"]
    assert session_of(PLAIN, knows_key=False).data_to_send() == b""


def test_a_key_other_than_the_known_one_ends_the_session() -> None:
    session = session_of(PLAIN, knows_key=True)
    session.feed(ServerKey(NOBODY).encode())
    with pytest.raises(ProtocolError, match=f"wanted the server's key nodekey:{PLAIN['server_public']}"):
        session.next_message()


@pytest.mark.parametrize(
    "first",
    [KeepAlive().encode(), ServerInfo().to_json(), frame_bytes(3, bytes(60)), ServerKey(node("00" * 32)).encode()],
    ids=["a keep-alive", "no frame", "ServerInfo", "a key of low order"],
)
def test_the_first_frame_has_to_be_a_valid_server_key(first: bytes) -> None:
    session = session_of(PLAIN)
    session.feed(first)
    with pytest.raises(ProtocolError):
        session.next_message()


@pytest.mark.parametrize("head", [b"HTTP/1.1 426 Upgrade Required\r\n\r\n", b"SSH-2.0-x\r\n\r\n", bytes(70_000)])
def test_an_answer_without_an_upgrade_ends_the_session(head: bytes) -> None:
    with pytest.raises(ProtocolError):
        session_of(PLAIN, awaits_answer=True).feed(head)


def test_after_the_login_it_returns_messages_answers_pings_and_skips_other_frames() -> None:
    session = session_of(PLAIN)
    play(session, bytes.fromhex(PLAIN["server_key_frame"]) + bytes.fromhex(PLAIN["server_info_frame"]))
    frames = [
        KeepAlive().encode(),
        RecvPacket(NOBODY, b"a packet").encode(),
        Ping(b"12345678").encode(),
        frame_bytes(0xEE, b"unknown"),
        Pong(b"87654321").encode(),
        frame_bytes(0x08, b"cut"),
        Health("").encode(),
    ]
    said, sent = play(session, b"".join(frames))
    assert said == [RecvPacket(NOBODY, b"a packet"), Pong(b"87654321"), Health("")]
    assert sent == Pong(b"12345678").encode()


def test_server_info_may_be_received_again_with_other_limits() -> None:
    session = session_of(PLAIN)
    box = LoginBox(NodePrivate(bytes.fromhex(PLAIN["server_private"])), node(PLAIN["client_public"]))
    infos = [ServerInfo(2, rate, 70_000) for rate in (0, 1_000)]
    frames = b"".join(server_info_frame(info, box, bytes(24)) for info in infos)
    said, _ = play(session, bytes.fromhex(PLAIN["server_key_frame"]) + frames)
    assert said == infos
    assert session.server_info == infos[1]


def test_the_header_of_a_too_long_frame_ends_the_session() -> None:
    session = session_of(PLAIN)
    play(session, bytes.fromhex(PLAIN["server_key_frame"]) + bytes.fromhex(PLAIN["server_info_frame"]))
    session.feed(b"\xee" + (1_048_577).to_bytes(4, "big"))
    with pytest.raises(ProtocolError, match="1,048,577 bytes"):
        session.next_message()
