"""Five hundred clients of the Go library while a node restarts, or hands over: nobody is silent for long.

Each client sends itself a packet every 50 ms, and notes the longest time in which none came back: that contains the end
of the old connection, the dial, TLS and the login. What it comes to is printed (`pytest -rP`), and bounded generously:
a machine that is busy with other things makes five hundred handshakes slow.
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
    """The running clients; the verdict is there once they have been told to end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.verdict: dict[str, Any] = {}

    def end(self) -> None:
        told, _ = self._process.communicate()
        self.verdict = json.loads(told)


@contextmanager
def fleet(*ports: int, roots: Path) -> Iterator[Fleet]:
    """Clients of the nodes on these ports, from the moment on that all are in until the block is left."""
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


def nobody_was_silent_for_long(verdict: Mapping[str, Any], *, moved: int) -> None:
    sys.stdout.write(f"{verdict['notes']}\n")
    assert verdict["ok"], verdict
    assert verdict["notes"]["moved"] >= moved
    assert verdict["notes"]["longest_silence_ms"] < BOUND_MS


def test_a_node_that_rolls_sends_its_clients_to_the_other_one(tmp_path: Path) -> None:
    with Region(tmp_path, "ours", "ours") as region:
        ports = [node.door.port for node in region.nodes]
        with fleet(*ports, roots=tmp_path / "authority.pem") as clients:
            node = region.ours(0)
            assert node.stop() == 0
            assert "taken_over=true" in node.log()
            node.start()
        nobody_was_silent_for_long(clients.verdict, moved=CLIENTS // 2)


def test_one_node_alone_hands_all_its_clients_over_to_its_successor(tmp_path: Path) -> None:
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
    nobody_was_silent_for_long(clients.verdict, moved=CLIENTS)


def test_one_node_alone_that_restarts_has_its_clients_back(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with OurNode(tmp_path / "node", free_port(), authority, "", mesh_key=None) as node:
        with fleet(node.door.port, roots=authority.file) as clients:
            assert node.stop() == 0
            node.start()
        nobody_was_silent_for_long(clients.verdict, moved=CLIENTS)
