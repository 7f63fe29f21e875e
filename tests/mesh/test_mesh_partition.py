"""A node that loses its region silently, as in a network failure. The tests need root.

The other node runs in its own network namespace; the test takes its end of the cable down.
"""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from authority import Authority
from derpwire import Client, RelayAddress
from region import OurNode
from relays import free_port
from serving import client_context

from derper.protocol.frames import Restarting

PROMPTLY = 10.0  # seconds, on a machine that is ten times slower
CLIENTS = 40
HERE, THERE = "10.213.98.1", "10.213.98.2"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


class Cable:
    """Two meshed nodes, one of them at the other end of a cable."""

    def __init__(self, folder: Path) -> None:
        self.namespace = f"derper-{os.getpid()}"
        self.end = f"dc{os.getpid()}"
        authority = Authority(folder)
        ports = free_port(), free_port()
        self.ours = OurNode(
            folder / "ours", ports[0], authority, f"{THERE}:{ports[1]}", "-a", f":{ports[0]}", hostname=HERE
        )
        self.other = OurNode(
            folder / "other", ports[1], authority, f"{HERE}:{ports[0]}", "-a", f":{ports[1]}", hostname=THERE,
            before=("ip", "netns", "exec", self.namespace),
        )  # fmt: skip
        context = client_context(authority.file)
        context.check_hostname = False  # the node's clients are on the same machine
        self.door = RelayAddress(ports[0], context)

    def lay(self) -> None:
        ip("link", "add", self.end, "type", "veth", "peer", "name", "far", "netns", self.namespace)
        ip("addr", "add", f"{HERE}/30", "dev", self.end)
        ip("link", "set", self.end, "up")
        ip("-n", self.namespace, "addr", "add", f"{THERE}/30", "dev", "far")
        ip("-n", self.namespace, "link", "set", "far", "up")

    def cut(self) -> None:
        ip("-n", self.namespace, "link", "set", "far", "down")


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    made = Cable(tmp_path)
    ip("netns", "add", made.namespace)
    try:
        made.lay()
        yield made
        ip("link", "del", made.end)
    finally:
        made.ours.kill()
        made.other.kill()
        ip("netns", "del", made.namespace)


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_node_that_is_cut_off_disconnects_its_clients_at_once(cable: Cable, *, is_cut: bool) -> None:
    cable.other.start()
    cable.ours.start()
    cable.ours.logged("mesh link up")
    with ExitStack() as stack:
        clients = [stack.enter_context(Client.join(cable.door)) for _ in range(CLIENTS)]
        if is_cut:
            cable.cut()
        since = cable.ours.mark()
        began = time.monotonic()
        assert cable.ours.stop() == 0
        took = time.monotonic() - began
        for client in clients:
            assert isinstance(client.next(), Restarting)
    assert cable.ours.logged(r"event=draining .*taken_over=(\w+)", since)[1] == str(not is_cut).lower()
    cable.ours.logged("event=drained left=0", since)
    assert took < PROMPTLY
