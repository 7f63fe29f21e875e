"""Strangers cannot fill a disk with log lines: each act, however often repeated, logs a few lines a minute."""

import re
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from derpwire import HOST, Client, Wire, new_key
from serving import Server

from derper.protocol.frames import FrameType, SendPacket
from derper.protocol.reader import frame_bytes
from derper.protocol.upgrade import upgrade_request

TIMES = 150
MOST_LINES = 45
"""For one repeated act: 20 whole lines of two kinds, and the summary lines of the minutes on a slow machine."""
MOST_BYTES = 2_000  # of a line

LONG = b"\xff\x1b\n" * 20_000


@contextmanager
def wire(server: Server) -> Iterator[Wire]:
    with server.door.connect() as connected:
        yield connected


def log_in_and_leave(server: Server) -> None:
    with Client.join(server.door):
        pass


def log_in_and_send_garbage(server: Server) -> None:
    with Client.join(server.door) as client:
        client.wire.offer(frame_bytes(FrameType.SEND_PACKET, b"short"))
        client.wire.rest()


def log_in_twice_with_one_key(server: Server) -> None:
    key = new_key()
    with Client.join(server.door, key) as one, Client.join(server.door, key) as other:
        one.wire.offer(SendPacket(key.public(), b"to itself").encode())
        other.wire.offer(SendPacket(key.public(), b"to itself").encode())


def try_to_log_in(server: Server) -> None:
    with Client(server.door.connect(), new_key()) as client:
        client.upgrade()
        client.wire.offer(client.client_info())
        client.wire.finish()
        client.wire.rest()


def send(data: bytes) -> Callable[[Server], None]:
    def act(server: Server) -> None:
        with wire(server) as connected:
            connected.offer(data)
            connected.finish()
            connected.rest()

    return act


def ask_and_reset(server: Server) -> None:
    with socket.create_connection((HOST, server.port)) as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connected.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")


def bare(data: bytes) -> Callable[[Server], None]:
    """Send bytes without TLS to a TLS port."""

    def act(server: Server) -> None:
        with server.raw_door.connect() as connected:
            connected.offer(data)
            connected.finish()
            connected.rest()

    return act


UPGRADE = upgrade_request(HOST)
WEBSOCKET = (
    b"GET /derp HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%b\r\n"
)
ACTS: dict[str, Callable[[Server], None]] = {
    "a login": log_in_and_leave,
    "a login and garbage": log_in_and_send_garbage,
    "two logins with one key": log_in_twice_with_one_key,
    "a page": send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    "a page that does not exist": send(b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    "the debug pages": send(b"GET /debug/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
    "a page and a reset": ask_and_reset,
    "a cut body": send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"),
    "a chunked body": send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a bad request": send(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"),
    "garbage": send(LONG),
    "a bad request of 60 kB": send(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"\xff\x1b" * 30_000 + b"\r\n\r\n"),
    "a method of 60 kB": send(b"A" * 60_000 + b" / HTTP/1.1\r\n\r\n"),
    "a target of 60 kB": send(b"GET " + b"\xff" * 60_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a head without an end": send(b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000),
    "a tunnel": send(b"CONNECT " + b"a" * 9_000 + b":443 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "no login": send(UPGRADE),
    "a login that is garbage": send(UPGRADE + frame_bytes(FrameType.CLIENT_INFO, bytes(100))),
    "a login of 60 kB": send(UPGRADE + frame_bytes(FrameType.CLIENT_INFO, bytes(60_000))),
    "another frame": send(UPGRADE + frame_bytes(FrameType.PING, bytes(8))),
    "a WebSocket": send(WEBSOCKET % b""),
    "a WebSocket and garbage": send(WEBSOCKET % b"Sec-WebSocket-Protocol: derp\r\n" + LONG),
}
TLS_ACTS: dict[str, Callable[[Server], None]] = {
    "plain HTTP": bare(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "garbage": bare(LONG),
    "half a handshake": bare(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "nothing": bare(b""),
    "a login": log_in_and_leave,
    "no login": send(UPGRADE),
}
REFUSING: dict[str, tuple[str, ...]] = {
    "a list of keys": ("-allow-keys", "keys"),
    "a controller that is away": ("-verify-client-url", "http://127.0.0.1:1/", "-verify-client-url-fail-open=false"),
    "a controller that is away and fails open": ("-verify-client-url", "http://127.0.0.1:1/"),
    "a tailscaled that is away": ("-verify-clients", "-socket", "/nonexistent/tailscaled.sock"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("plain"), "-log-level", "info") as server:
        yield server


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("tls"), "-log-level", "info", tls=True) as server:
        yield server


@pytest.mark.parametrize("act", ACTS)
def test_a_repeated_act_on_a_plain_port_logs_a_few_lines(plain: Server, act: str) -> None:
    repeat(plain, ACTS[act])


@pytest.mark.parametrize("act", TLS_ACTS)
def test_a_repeated_act_on_a_tls_port_logs_a_few_lines(tls: Server, act: str) -> None:
    repeat(tls, TLS_ACTS[act])


@pytest.mark.parametrize("name", REFUSING)
def test_a_repeated_login_that_admission_rejects_logs_a_few_lines(tmp_path: Path, name: str) -> None:
    keys = tmp_path / "keys"
    keys.write_text("")
    flags = [str(keys) if flag == "keys" else flag for flag in REFUSING[name]]
    with Server(tmp_path, "-log-level", "info", *flags) as server:
        repeat(server, try_to_log_in)
        since = server.mark()
        server.stop()
        (counted,) = re.findall(r'event=".*more clients (?:rejected|allowed)" count=(\d+)', server.log(since))
    assert 100 <= int(counted) < TIMES


def repeat(server: Server, act: Callable[[Server], None]) -> None:
    since = server.mark()
    for _ in range(TIMES):
        act(server)
    lines = server.log(since).splitlines()
    assert len(lines) <= MOST_LINES, "\n".join(lines[:10])
    assert all(len(line) < MOST_BYTES for line in lines), max(lines, key=len)[:3000]
    assert "Traceback" not in "".join(lines)
