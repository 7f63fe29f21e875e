"""A server under a service manager: inherited sockets, and notifications to the manager (sd_notify(3)).

systemd itself does not run where tests do. `systemd-socket-activate` is systemd's own program for this, and a datagram
socket receives the notifications.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from derpwire import HOST, SECONDS, Client, RelayAddress
from httpwire import read_answer, request
from relays import free_port
from serving import Server

from derper.config import Supervision
from derper.server.life.supervisor import Supervisor

if TYPE_CHECKING:
    from derper.dataplane import DataPlane


class Manager:
    """The service manager's socket."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(SECONDS)
        self._socket.bind(self.address)

    def receive(self) -> str:
        return self._socket.recv(4096).decode()

    def receive_until(self, state: str) -> None:
        """Wait for a message that begins with `state`."""
        while not self.receive().startswith(state):
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def test_the_manager_is_notified_of_ready_reload_and_stop(tmp_path: Path, manager: Manager) -> None:
    with Server(tmp_path, before=("env", f"NOTIFY_SOCKET={manager.address}")) as server:
        assert manager.receive() == "READY=1\nSTATUS=serving"
        os.kill(server.process.pid, signal.SIGHUP)
        assert manager.receive().startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert manager.receive().startswith("READY=1")
        assert server.stop() == 0
        assert manager.receive().startswith("STOPPING=1")


def test_the_manager_gets_watchdog_messages_at_its_interval(tmp_path: Path, manager: Manager) -> None:
    words = ("env", f"NOTIFY_SOCKET={manager.address}", "WATCHDOG_USEC=300000")
    with Server(tmp_path, before=words):
        assert manager.receive().startswith("READY=1")
        assert [manager.receive() for _ in range(4)] == ["WATCHDOG=1"] * 4


def test_no_watchdog_message_is_sent_while_a_shard_does_not_tick(manager: Manager) -> None:
    # A single thread cannot be stopped from outside, so the shards' answers are fakes.
    class Plane:
        ticks = iter([[1, 1], [2, 2], [3, 2], [4, 3]])

        def pulse(self) -> list[int]:
            return next(self.ticks)

    supervisor = Supervisor(Supervision(notify_socket=manager.address, watchdog=1.0))
    plane = cast("DataPlane", Plane())
    for state in ("first", "both ticked", "one did not", "both ticked again"):
        supervisor.notify_watchdog(plane)
        supervisor.tell(state)
    heard = [manager.receive() for _ in range(7)]
    assert heard == [
        "WATCHDOG=1",
        "first",
        "WATCHDOG=1",
        "both ticked",
        "one did not",
        "WATCHDOG=1",
        "both ticked again",
    ]


def test_an_absent_manager_causes_one_log_line(tmp_path: Path) -> None:
    with Server(tmp_path, before=("env", f"NOTIFY_SOCKET={tmp_path}/none")) as server:
        server.logged("cannot notify the service manager")


PASSED = ("PATH", "HOME", "PYTHONPATH")


@contextmanager
def activated(folder: Path, *sockets: str, names: str = "", flags: tuple[str, ...] = ()) -> Iterator[None]:
    """Run a server that the first connection to one of its sockets starts; at the end it has stopped cleanly."""
    words = ["systemd-socket-activate", *(f"--listen={at}" for at in sockets), *(f"-E{name}" for name in PASSED)]
    words += [f"--fdname={names}"] if names else []
    command = Server(folder, *flags, before=words).command
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"HOME": str(folder)}
    ) as process:
        assert process.stderr is not None
        for _ in sockets:
            assert "Listening" in process.stderr.readline()
        yield
        process.terminate()
        assert process.wait(SECONDS) == 0


def test_it_serves_on_the_inherited_socket_and_loses_no_connection(tmp_path: Path) -> None:
    port = free_port()
    with activated(tmp_path, f"{HOST}:{port}"), Client.join(RelayAddress(port)) as client:
        client.ping()


@pytest.mark.parametrize("names", ["main:http", ""])
def test_sockets_are_matched_by_name_or_by_port(tmp_path: Path, names: str) -> None:
    main, http = free_port(), free_port()
    flags = ("-certmode", "manual", "-certdir", str(tmp_path), "-http-port", str(http))
    with (
        activated(tmp_path, f"{HOST}:{main}", f"{HOST}:{http}", names=names, flags=flags),
        RelayAddress(http).connect() as wire,
    ):
        wire.send(request("GET", "/x"))
        assert read_answer(wire).status == 302


def test_an_inherited_socket_without_a_use_is_a_start_up_error(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as main, socket.create_server((HOST, 0)) as stray:
        # In the shell, a redirection sets a descriptor's number.
        moved = f'LISTEN_PID=$$ LISTEN_FDS=2 exec "$@" 3<&{main.fileno()} 4<&{stray.fileno()}'
        done = subprocess.run(
            ["bash", "-c", moved, "bash", *Server(tmp_path).command],
            pass_fds=(main.fileno(), stray.fileno()), capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "was handed over and nothing is served on it" in done.stderr
    assert "Traceback" not in done.stderr
