"""Five hundred clients of the Go library while a node restarts or hands over: no client is interrupted for long.

Each client sends itself a packet every 50 ms, and records the longest time without one: this contains the end of the
old connection, the dial, TLS and the login. The test prints the result (`pytest -rP`) and has a generous bound, because
five hundred handshakes are slow on a busy machine.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from authority import Authority
from parts import program
from region import OurNode, Region
from relays import HOST, free_port
from serving import Server

CLIENTS = 500
BOUND_MS = 10_000


class Fleet:
    """The running clients; the verdict is available after `end`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.verdict: dict[str, Any] = {}

    def end(self) -> None:
        told, _ = self._process.communicate()
        self.verdict = json.loads(told)


@contextmanager
def fleet(*ports: int, roots: Path) -> Iterator[Fleet]:
    """Run clients of the nodes on these ports; the block begins when all have logged in, and they end after it."""
    first, *others = (f"127.0.0.1:{port}" for port in ports)
    words = ["-url", f"https://{first}", "-others", ",".join(others), "-clients", str(CLIENTS), "-timeout", "120s"]
    with subprocess.Popen(
        [program("derpcheck"), *words, "fleet"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"SSL_CERT_FILE": str(roots)},
    ) as process:  # fmt: skip
        assert process.stderr is not None
        before = list(takewhile(lambda line: line != "fleet: all are in\n", process.stderr))
        assert process.poll() is None, "".join(before)
        running = Fleet(process)
        yield running
        running.end()


def assert_short_interruptions(verdict: Mapping[str, Any], *, moved: int) -> None:
    sys.stdout.write(f"{verdict['notes']}\n")
    assert verdict["ok"], verdict
    assert verdict["notes"]["moved"] >= moved
    assert verdict["notes"]["longest_silence_ms"] < BOUND_MS


def test_a_node_that_restarts_moves_its_clients_to_the_other_one(tmp_path: Path) -> None:
    with Region(tmp_path, "ours", "ours") as region:
        ports = [node.door.port for node in region.nodes]
        with fleet(*ports, roots=tmp_path / "authority.pem") as clients:
            node = region.ours(0)
            assert node.stop() == 0
            assert "taken_over=true" in node.log()
            node.start()
        assert_short_interruptions(clients.verdict, moved=CLIENTS // 2)


def test_a_single_node_hands_over_all_its_clients_to_its_successor(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue(tmp_path / "node", HOST)
    server = Server(tmp_path / "node", tls=True).start()
    with fleet(server.port, roots=authority.file) as clients:
        mark = server.mark()
        os.kill(server.process.pid, signal.SIGUSR2)
        successor = int(server.logged(r"the successor is serving.* pid=(\d+)", mark, seconds=30)[1])
        assert server.process.wait(30) == 0
    os.kill(successor, signal.SIGTERM)
    server.closed_its_log()
    assert_short_interruptions(clients.verdict, moved=CLIENTS)


def test_clients_of_a_single_node_reconnect_after_its_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with OurNode(tmp_path / "node", free_port(), authority, "", mesh_key=None) as node:
        with fleet(node.door.port, roots=authority.file) as clients:
            assert node.stop() == 0
            node.start()
        assert_short_interruptions(clients.verdict, moved=CLIENTS)
