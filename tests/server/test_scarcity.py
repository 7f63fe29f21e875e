"""A server that has no descriptor left for a new connection says so, serves who is there, and takes the next later."""

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

LIMIT = 48
SPARE = 8  # of a quarter, as shards may come in together
CANNOT = r'level=error event="cannot accept connections.*reason=.*Too many open files'


@pytest.fixture(params=[1, 2], ids=["one shard", "two shards"])
def poor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """A server that may have few descriptors, hard limit and all."""
    shards: int = request.param
    with Server(tmp_path, "-shards", str(shards), before=("prlimit", f"--nofile={LIMIT}:{LIMIT}")) as server:
        yield server


def test_out_of_descriptors_it_serves_who_is_there_and_accepts_again_when_it_can(poor: Server) -> None:
    assert resource.prlimit(poor.process.pid, resource.RLIMIT_NOFILE) == (LIMIT, LIMIT)
    with Bystanders(poor.door) as bystanders, ExitStack() as crowd:
        began = time.monotonic()
        wires = [crowd.enter_context(poor.door.connect()) for _ in range(LIMIT)]
        poor.logged(CANNOT)
        bystanders.relay_on(50)
        in_use = len(list(Path(f"/proc/{poor.process.pid}/fd").iterdir()))
        assert in_use <= LIMIT - SPARE, "the last ones are for other things"
        # The kernel holds those that were not accepted; they are not lost.
        wires[-1].send(request("GET", "/robots.txt"))
        since = poor.mark()
        poor.logged(CANNOT, since)
        bystanders.relay_on(50)
        lines = poor.log().count("cannot accept")
        assert lines <= 2 * (time.monotonic() - began + 2), "it logs more than once a second and shard"
        for wire in wires[:-1]:
            wire.close()
        assert read_answer(wires[-1]).status == 200
        with Client.join(poor.door) as late:
            assert late.fence() == []
        bystanders.relay_on()
