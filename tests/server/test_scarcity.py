"""A server without free descriptors, or with full queues, still serves the connected clients."""

import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from bystanders import Bystanders
from derpwire import Client
from httpwire import read_answer, request
from serving import Server

MEGABYTE = 1 << 20
DEPTH = 32  # packets, of a queue
LIMIT = 48
SPARE = 8  # of a quarter, as several shards may accept at once
AGAIN = r'event="cannot accept connections.*reason=.*Too many open files'
CANNOT = f"level=error {AGAIN}"  # the first in each minute; at the level debug, each


@pytest.fixture(params=[1, 2], ids=["one shard", "two shards"])
def few_descriptors(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server with a low hard limit of descriptors."""
    shards: int = request.param
    with Server(tmp_path, "-shards", str(shards), before=("prlimit", f"--nofile={LIMIT}:{LIMIT}")) as server:
        yield server


def test_out_of_descriptors_it_serves_connected_clients_and_accepts_again_later(few_descriptors: Server) -> None:
    assert resource.prlimit(few_descriptors.process.pid, resource.RLIMIT_NOFILE) == (LIMIT, LIMIT)
    with Bystanders(few_descriptors.door) as bystanders, ExitStack() as crowd:
        began = time.monotonic()
        wires = [crowd.enter_context(few_descriptors.door.connect()) for _ in range(4 * LIMIT)]
        few_descriptors.logged(CANNOT)
        bystanders.relay_on(50)
        in_use = len(list(Path(f"/proc/{few_descriptors.process.pid}/fd").iterdir()))
        assert in_use <= LIMIT - SPARE, "the last ones are for other things"
        # The kernel holds the connections that were not accepted; they are not lost.
        wires[-1].send(request("GET", "/robots.txt"))
        since = few_descriptors.mark()
        few_descriptors.logged(AGAIN, since)
        bystanders.relay_on(50)
        lines = few_descriptors.log().count("cannot accept")
        assert lines <= 2 * (time.monotonic() - began + 2), "it logs more than once a second and shard"
        for wire in wires[:-1]:
            wire.close()
        assert read_answer(wires[-1]).status == 200
        with Client.join(few_descriptors.door) as late:
            assert late.fence() == []
        bystanders.relay_on()


def test_out_of_descriptors_silent_connections_make_room_for_a_new_client(few_descriptors: Server) -> None:
    with Bystanders(few_descriptors.door) as bystanders, ExitStack() as crowd:
        for _ in range(LIMIT):
            crowd.enter_context(few_descriptors.door.connect())
        few_descriptors.logged(CANNOT)
        with Client.join(few_descriptors.door) as late:
            assert late.fence() == []
            bystanders.relay_on()


@pytest.mark.parametrize("limited", [True, False])
def test_packets_for_clients_that_do_not_read_stay_below_the_memory_limit(
    tmp_path: Path,
    limited: bool,  # noqa: FBT001
) -> None:
    flags = ("-max-queued-bytes", str(MEGABYTE)) if limited else ()
    with Server(tmp_path, *flags) as server, ExitStack() as crowd, Bystanders(server.door) as bystanders:
        stuck = [crowd.enter_context(Client.join(server.door, receive_buffer=4096)) for _ in range(32)]
        sender = crowd.enter_context(Client.join(server.door))
        memory = server.memory()
        for _ in range(DEPTH):
            for receiver in stuck:
                sender.send(receiver.key, bytes(60_000))
        bystanders.relay_on(50)
        grown = server.memory() - memory
        # Socket buffers are the kernel's. Without the limit, the same load uses memory: DEPTH packets per queue.
        assert (grown < 16 * MEGABYTE) is limited, f"it grew by {grown:,} bytes"
