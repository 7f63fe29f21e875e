"""A server stops at once and cleanly, whatever its clients do."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from derpwire import HOST, Client, Wire, closing
from httpwire import read_answer, request
from serving import Server

from derper.protocol.upgrade import upgrade_request

PROMPTLY = 10.0  # seconds, on a machine that is ten times slower


def logged_in(server: Server) -> Wire:
    return Client.join(server.door).wire


def before_tls(server: Server) -> Wire:
    return server.raw_door.connect()


def silent(server: Server) -> Wire:
    return server.door.connect()


def half_a_head(server: Server) -> Wire:
    wire = server.door.connect()
    wire.send(b"GET / HT")
    return wire


def half_a_login(server: Server) -> Wire:
    wire = server.door.connect()
    wire.send(upgrade_request(HOST))
    wire.head()
    return wire


def kept_by_http(server: Server) -> Wire:
    wire = server.door.connect()
    wire.send(request("GET", "/robots.txt"))
    assert read_answer(wire).status == 200
    return wire


def answered_with_half_its_body_to_come(server: Server) -> Wire:
    wire = server.door.connect()
    wire.send(request("POST", "/robots.txt", "Content-Length: 9"))
    assert read_answer(wire).status == 200
    return wire


@pytest.mark.parametrize(
    ("how", "tls", "shards"),
    [(signal.SIGTERM, False, 1), (signal.SIGINT, False, 1), (signal.SIGTERM, True, 2)],
    ids=["SIGTERM-plain-1", "SIGINT-plain-1", "SIGTERM-tls-2"],
)
def test_it_stops_at_once_and_cleanly_with_clients_connected(
    tmp_path: Path,
    how: signal.Signals,
    tls: bool,  # noqa: FBT001
    shards: int,
) -> None:
    server = Server(tmp_path, "-shards", str(shards), tls=tls).start()
    with closing(*(step(server) for step in (logged_in, logged_in, silent, half_a_head, half_a_login, before_tls))):
        began = time.monotonic()
        assert server.stop(how) == 0
        assert time.monotonic() - began < PROMPTLY
    server.logged("event=draining clients=2")
    assert "Traceback" not in server.log()


@pytest.mark.parametrize("step", [kept_by_http, answered_with_half_its_body_to_come])
def test_it_stops_at_once_with_an_http_connection_open(tmp_path: Path, step: Callable[[Server], Wire]) -> None:
    server = Server(tmp_path).start()
    with step(server) as wire:
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < PROMPTLY
        wire.rest()
    assert "Traceback" not in server.log()


def test_its_clients_see_the_end_of_their_connections(tmp_path: Path) -> None:
    server = Server(tmp_path, tls=True).start()
    with closing(*(wires := [step(server) for step in (logged_in, half_a_head, half_a_login)])):
        assert server.stop() == 0
        for wire in wires:
            wire.rest()


@pytest.mark.parametrize("shards", [1, 2])
def test_it_stops_at_once_if_no_client_ever_connected(tmp_path: Path, shards: int) -> None:
    server = Server(tmp_path, "-shards", str(shards)).start()
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < PROMPTLY


def test_a_receiver_that_does_not_read_does_not_delay_the_stop(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    with Client.join(server.door, receive_buffer=8_192) as blocked, Client.join(server.door) as sender:
        for _ in range(300):
            sender.send(blocked.key, bytes(8_000))
        sender.fence()
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < PROMPTLY


def test_the_port_is_free_at_once_after_the_stop(tmp_path: Path) -> None:
    with Server(tmp_path) as server, Client.join(server.door):
        port = server.port
    with Server(tmp_path, "-a", f"{HOST}:{port}") as server:
        assert server.port == port


def test_a_second_server_on_the_port_fails_with_an_error_of_one_sentence(tmp_path: Path) -> None:
    with Server(tmp_path / "first") as server:
        second = Server(tmp_path / "second", "-a", f"{HOST}:{server.port}")
        done = subprocess.run(second.command, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 1
        assert "another program uses that port" in done.stderr
        assert "Traceback" not in done.stderr
        with Client.join(server.door) as client:
            client.ping()
