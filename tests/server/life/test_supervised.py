"""A server under a service manager: sockets that are handed over, and what the manager is told (sd_notify(3)).

systemd itself does not run where tests do: `systemd-socket-activate` is its own program for this, and a datagram socket
hears what the manager would hear.
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

    def hears(self) -> str:
        return self._socket.recv(4096).decode()

    def hears_at_last(self, state: str) -> None:
        """Wait for a message that begins with this."""
        while not self.hears().startswith(state):
            pass

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def test_the_manager_hears_when_it_is_ready_reloads_and_stops(tmp_path: Path, manager: Manager) -> None:
    with Server(tmp_path, before=("env", f"NOTIFY_SOCKET={manager.address}")) as server:
        assert manager.hears() == "READY=1\nSTATUS=serving"
        os.kill(server.process.pid, signal.SIGHUP)
        assert manager.hears().startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert manager.hears().startswith("READY=1")
        assert server.stop() == 0
        assert manager.hears().startswith("STOPPING=1")


def test_the_manager_gets_signs_of_life_as_often_as_it_wants_them(tmp_path: Path, manager: Manager) -> None:
    words = ("env", f"NOTIFY_SOCKET={manager.address}", "WATCHDOG_USEC=300000")
    with Server(tmp_path, before=words):
        assert manager.hears().startswith("READY=1")
        assert [manager.hears() for _ in range(4)] == ["WATCHDOG=1"] * 4


def test_a_sign_of_life_is_not_given_while_a_shard_does_not_tick(manager: Manager) -> None:
    # A thread cannot be stopped alone from outside, so what the shards say is made up here.
    class Plane:
        ticks = iter([[1, 1], [2, 2], [3, 2], [4, 3]])

        def pulse(self) -> list[int]:
            return next(self.ticks)

    supervisor = Supervisor(Supervision(notify_socket=manager.address, watchdog=1.0))
    plane = cast("DataPlane", Plane())
    for state in ("first", "both ticked", "one did not", "both ticked again"):
        supervisor.notify_watchdog(plane)
        supervisor.tell(state)
    heard = [manager.hears() for _ in range(7)]
    assert heard == [
        "WATCHDOG=1",
        "first",
        "WATCHDOG=1",
        "both ticked",
        "one did not",
        "WATCHDOG=1",
        "both ticked again",
    ]


def test_a_manager_that_has_gone_costs_a_line_in_the_log(tmp_path: Path) -> None:
    with Server(tmp_path, before=("env", f"NOTIFY_SOCKET={tmp_path}/none")) as server:
        server.logged("cannot notify the service manager")


PASSED = ("PATH", "HOME", "PYTHONPATH")


@contextmanager
def activated(folder: Path, *sockets: str, names: str = "", flags: tuple[str, ...] = ()) -> Iterator[None]:
    """A server that is started by the first connection to one of its sockets; in the end it has stopped in order."""
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


def test_it_serves_on_the_socket_that_was_opened_for_it_and_misses_no_connection(tmp_path: Path) -> None:
    port = free_port()
    with activated(tmp_path, f"{HOST}:{port}"), Client.join(RelayAddress(port)) as client:
        client.ping()


@pytest.mark.parametrize("names", ["main:http", ""])
def test_sockets_are_known_by_their_names_or_by_their_ports(tmp_path: Path, names: str) -> None:
    main, http = free_port(), free_port()
    flags = ("-certmode", "manual", "-certdir", str(tmp_path), "-http-port", str(http))
    with (
        activated(tmp_path, f"{HOST}:{main}", f"{HOST}:{http}", names=names, flags=flags),
        RelayAddress(http).connect() as wire,
    ):
        wire.send(request("GET", "/x"))
        assert read_answer(wire).status == 302


def test_a_socket_that_nothing_is_served_on_is_a_start_up_error(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as main, socket.create_server((HOST, 0)) as stray:
        # Redirections are the shell's way to give a descriptor its number.
        moved = f'LISTEN_PID=$$ LISTEN_FDS=2 exec "$@" 3<&{main.fileno()} 4<&{stray.fileno()}'
        done = subprocess.run(
            ["bash", "-c", moved, "bash", *Server(tmp_path).command],
            pass_fds=(main.fileno(), stray.fileno()), capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert "was handed over and nothing is served on it" in done.stderr
    assert "Traceback" not in done.stderr
