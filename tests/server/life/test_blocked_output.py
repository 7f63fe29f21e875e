"""Blocked outputs: logins, watchdog messages, reloads and the server's stop go on.

Each output is a full pipe or a full socket from before the start.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from derpwire import HOST, SECONDS, Client, RelayAddress
from relays import free_port
from serving import START_SECONDS, Server
from test_supervised import Manager


class FullPipe:
    """A pipe that blocks writers until it is read."""

    def __init__(self) -> None:
        self._reads, self.writes = os.pipe()
        os.set_blocking(self.writes, False)
        self.filled = 0
        with suppress(BlockingIOError):
            while True:
                self.filled += os.write(self.writes, b"." * 65_536)
        os.set_blocking(self.writes, True)

    def read(self) -> str:
        """Read until all writers have closed; return the bytes after the initial filling."""
        os.close(self.writes)
        with os.fdopen(self._reads, "rb") as stream:
            return stream.read()[self.filled :].decode()


@dataclass
class BlockedServer:
    """A server with one or all outputs blocked."""

    process: subprocess.Popen[bytes]
    door: RelayAddress

    def wait_until_it_serves(self) -> None:
        """Return when the server accepts connections; its log cannot be read."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self.process.poll() is None, "the server ended"
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self.door.port)) == 0:
                    return
            assert time.monotonic() < deadline, "the server does not serve"
            time.sleep(0.02)  # a refused connection leaves no event to wait for


@contextmanager
def blocked(folder: Path, outputs: Mapping[str, int], **environ: str) -> Iterator[BlockedServer]:
    """Start a server with these descriptors as its `stdout` and `stderr`."""
    port = free_port()
    command = Server(folder, "-a", f"{HOST}:{port}", "-shards", "1").command
    environment = os.environ | {"HOME": str(folder)} | environ
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=outputs.get("stdout"),
        stderr=outputs.get("stderr"),
        env=environment,
    )
    try:
        yield BlockedServer(process, RelayAddress(port))
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("outputs", [("stderr",), ("stdout",), ("stdout", "stderr")], ids="+".join)
def test_with_blocked_outputs_clients_log_in_settings_are_reloaded_and_the_server_stops(
    outputs: tuple[str, ...], tmp_path: Path
) -> None:
    pipes = {name: FullPipe() for name in outputs}
    manager = Manager(tmp_path)
    writes = {name: pipe.writes for name, pipe in pipes.items()}
    with (
        blocked(tmp_path, writes, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="300000") as server,
        ExitStack() as stack,
    ):
        server.wait_until_it_serves()
        manager.receive_until("READY=1")
        for _ in range(400):  # some 100 kB of lines, more than a pipe holds
            with Client.join(server.door) as client:
                client.ping()
        stays = stack.enter_context(Client.join(server.door))
        server.process.send_signal(signal.SIGHUP)
        manager.receive_until("RELOADING=1")
        for _ in range(3):
            manager.receive_until("WATCHDOG=1")
        stays.ping()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(SECONDS) == 0
    manager.close()
    for pipe in pipes.values():
        assert pipe.read() == ""


def test_a_log_that_is_read_late_has_all_lines_in_order(tmp_path: Path) -> None:
    pipe = FullPipe()
    manager = Manager(tmp_path)
    with blocked(tmp_path, {"stderr": pipe.writes}, NOTIFY_SOCKET=manager.address) as server:
        manager.receive_until("READY=1")
        for _ in range(20):
            with Client.join(server.door) as client:
                client.ping()
        server.process.send_signal(signal.SIGHUP)
        manager.receive_until("RELOADING=1")
        manager.receive_until("READY=1")
        server.process.send_signal(signal.SIGTERM)
        text = pipe.read()
        assert server.process.wait(SECONDS) == 0
    manager.close()
    assert text.count('event="client gone"') == 20
    at = [text.index(event) for event in ("event=serving", 'event="client gone"', "event=reloaded", "event=drained")]
    assert at == sorted(at)
    assert "dropped" not in text


def test_a_service_manager_that_reads_nothing_does_not_block_the_server(tmp_path: Path) -> None:
    manager = Manager(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                filler.sendto(b"full", manager.address)
    with Server(tmp_path, before=("env", f"NOTIFY_SOCKET={manager.address}", "WATCHDOG_USEC=30000")) as server:
        with Client.join(server.door) as client:
            client.ping()
        server.logged("cannot notify the service manager")
    manager.close()


def test_a_start_up_error_ends_the_process_even_if_it_is_not_read(tmp_path: Path) -> None:
    pipe = FullPipe()
    command = Server(tmp_path, "-a", "nowhere").command
    assert subprocess.run(command, stderr=pipe.writes, timeout=START_SECONDS, check=False).returncode == 1
    assert pipe.read() == ""
