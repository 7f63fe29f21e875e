"""How a server drains its clients, and how a successor takes over."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import live
import pytest
from derpwire import HOST, SECONDS, Client
from live import config_of, serving
from serving import Server

from derper.protocol.frames import Restarting
from derper.server.life import drain

PROMPTLY = 10.0  # seconds, on a machine that is ten times slower
CLIENTS = 40


def ending(client: Client) -> list[object]:
    """Return the frames that a client receives until its connection ends, without keep-alives."""
    heard: list[object] = []
    try:
        while True:
            heard.append(client.next())
    except AssertionError:  # the end
        return heard


def test_without_a_successor_it_notifies_all_clients_and_ends_within_a_second(tmp_path: Path) -> None:
    server = Server(tmp_path, "-shards", "2", tls=True).start()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client.join(server.door)) for _ in range(CLIENTS)]
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < PROMPTLY
        for client in clients:
            assert [type(frame) for frame in ending(client)] == [Restarting]
    server.logged("event=drained left=0")


def test_packets_received_before_the_drain_arrive_before_the_restarting_frame(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    with Client.join(server.door) as sender, Client.join(server.door) as receiver:
        for number in range(20):
            sender.send(receiver.key, bytes([number]))
        sender.fence()
        assert server.stop() == 0
        assert [receiver.packet().packet[0] for _ in range(20)] == list(range(20))
        assert isinstance(ending(receiver)[-1], Restarting)  # PeerGone of the sender may precede it


@contextmanager
def succeeded(server: Server) -> Iterator[int]:
    """Let a successor take over from a running server; stop it at the end."""
    mark = server.mark()
    os.kill(server.process.pid, signal.SIGUSR2)
    successor = int(server.logged(r"the successor is serving.* pid=(\d+)", mark)[1])
    try:
        yield successor
    finally:
        os.kill(successor, signal.SIGTERM)
        server.closed_its_log()
        server.process.wait(SECONDS)


def test_a_successor_accepts_before_its_predecessor_drains_and_no_dial_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path, "-shards", "1", "-drain-timeout", "2s", tls=True).start()
    door = server.door
    with ExitStack() as stack:
        before = [stack.enter_context(Client.join(door)) for _ in range(CLIENTS)]
        with succeeded(server) as successor:
            assert successor != server.process.pid
            for client in before:
                # A drained client reconnects at once, to the same address, while others are still connected.
                assert [type(frame) for frame in ending(client)] == [Restarting]
                again = stack.enter_context(Client.join(door, client.private))
                again.ping()
            assert server.process.wait(SECONDS) == 0
            with Client.join(door) as one, Client.join(door) as other:
                one.send(other.key, b"on the successor")
                assert other.packet().packet == b"on the successor"


def test_a_successor_that_cannot_start_changes_nothing(tmp_path: Path) -> None:
    settings = tmp_path / "derper.toml"
    settings.touch()
    with Server(tmp_path, "-settings", str(settings)) as server, Client.join(server.door) as client:
        settings.write_text("hoem = 'blank'")
        mark = server.mark()
        os.kill(server.process.pid, signal.SIGUSR2)
        server.logged("the successor did not start; this process keeps serving", mark)
        client.ping()
        with Client.join(server.door) as another:
            another.ping()


@pytest.mark.parametrize("place", ["127.0.0.1:0", "unix"])
def test_a_successor_has_its_predecessors_admin_listener(place: str, tmp_path: Path) -> None:
    flag = f"unix:{tmp_path}/admin.sock" if place == "unix" else place
    server = Server(tmp_path, "-shards", "1", "-admin", flag).start()
    address = server.logged(r'event="serving admin" address=(\S+)')[1]

    def check() -> bytes:
        with socket.socket(socket.AF_UNIX if place == "unix" else socket.AF_INET) as sock:
            sock.settimeout(SECONDS)
            sock.connect(address.removeprefix("unix:") if place == "unix" else (HOST, int(address.rpartition(":")[2])))
            sock.sendall(b"GET /debug/check HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(65_536), b""))

    assert b" 200 OK" in check()
    with succeeded(server):
        assert b" 200 OK" in check()
        assert server.process.wait(SECONDS) == 0
        assert b" 200 OK" in check()


async def test_clients_are_drained_at_once_if_the_successor_dies_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "CLIENTS_A_SECOND", 1)
    monkeypatch.setattr(drain, "_BEAT", 0.5)  # and one client is drained at each
    async with serving(config_of(tmp_path)) as server:
        clients = [await live.Client.log_in(server) for _ in range(10)]
        plane, began, asked = server.parts.plane, time.monotonic(), 0

        def still() -> bool:
            nonlocal asked
            asked += 1
            return asked < 3

        await drain.drain(plane, taken_over=True, can_take=still, within=100.0)
        assert plane.table_counts().connections == 0
        assert time.monotonic() - began < 0.5 * len(clients) / 2
        assert asked == 3


def test_two_requests_to_hand_over_start_one_successor(tmp_path: Path) -> None:
    server = Server(tmp_path, "-shards", "1").start()
    os.kill(server.process.pid, signal.SIGUSR2)
    successor = int(server.logged(r"starting a successor.* pid=(\d+)")[1])
    for _ in range(3):  # while the first successor starts
        os.kill(server.process.pid, signal.SIGUSR2)
        with Client.join(server.door) as client:
            client.ping()
    assert int(server.logged(r"the successor is serving.* pid=(\d+)")[1]) == successor
    assert server.process.wait(SECONDS) == 0
    with Client.join(server.door) as one, Client.join(server.door) as other:
        one.send(other.key, b"on the only server")
        assert other.packet().packet == b"on the only server"
    os.kill(successor, signal.SIGTERM)
    server.closed_its_log()
    assert server.log().count("starting a successor") == 1
    assert server.log().count("event=serving") == 2


def test_a_request_to_stop_ends_a_successor_that_is_still_starting(tmp_path: Path) -> None:
    server = Server(tmp_path, "-shards", "1").start()
    os.kill(server.process.pid, signal.SIGUSR2)
    successor = int(server.logged(r"starting a successor.* pid=(\d+)")[1])
    os.kill(successor, signal.SIGSTOP)  # its start lasts until SIGCONT
    assert server.stop() == 0
    try:
        server.closed_its_log()
    finally:
        with suppress(ProcessLookupError):
            os.kill(successor, signal.SIGKILL)
    assert server.log().count("event=serving") == 1


def test_a_request_to_hand_over_during_the_drain_is_ignored(tmp_path: Path) -> None:
    server = Server(tmp_path, "-shards", "1").start()
    with Client.join(server.door):
        os.kill(server.process.pid, signal.SIGTERM)
        server.logged("event=draining")
        with suppress(ProcessLookupError):
            os.kill(server.process.pid, signal.SIGUSR2)
        assert server.exit_code() == 0
    assert "starting a successor" not in server.log()
