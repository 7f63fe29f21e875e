"""The compared servers. The tests' code starts them; this module assigns cores."""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from machine import ROOT, pinned

sys.path += [str(ROOT / "tests" / folder) for folder in ("interop", "server", "mesh")]

from parts import PartError, program
from region import Region
from relays import HOST, GoDerper, OurDerper, Relay, RelayError, free_port

__all__ = ["GO", "HOST", "OURS", "Node", "PartError", "RelayError", "Subject", "by_turns", "go_server", "running"]


@dataclass(frozen=True)
class Subject:
    """A measured server.

    Args:
        relay: The program.
        both_cores: Whether it may also use the generator's core.
    """

    name: str
    relay: type[Relay]
    flags: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    both_cores: bool = False


def by_turns(keys_a_turn: int) -> type[Relay]:
    """Return our server with this number of consecutive new keys on one shard, without affinity."""

    class ByTurns(OurDerper):
        def command(self) -> list[str]:
            tuned = ROOT / "tests" / "server" / "tuned_derper.py"
            return [sys.executable, str(tuned), json.dumps({"keys_a_turn": keys_a_turn})]

    return ByTurns


OURS: Final = Subject("ours", OurDerper, ("-shards", "1"))
GO: Final = Subject("Go", GoDerper, env={"GOMAXPROCS": "1"})


@dataclass(frozen=True)
class Node:
    """A running server."""

    pid: int
    port: int
    stun_port: int


@contextmanager
def running(subject: Subject, cores: Sequence[int], *, tls: bool, nodes: int) -> Iterator[list[Node]]:
    """Run new servers, one or a whole region, on one core (or on all given cores), each with one thread for packets."""
    with TemporaryDirectory(prefix="derper-bench-") as folder, ExitStack() as stack:
        with pinned(*(cores if subject.both_cores else cores[:1])):
            if nodes == 1:
                started = [_alone(Path(folder), subject, stack, tls=tls)]
            else:
                started = _region(Path(folder), subject, stack, nodes)
        yield started


def _alone(folder: Path, subject: Subject, stack: ExitStack, *, tls: bool) -> Node:
    stun_port = free_port()
    flags = ("-stun=true", "-stun-port", str(stun_port), *subject.flags)
    relay = subject.relay(folder, tls=tls, flags=flags, env=subject.env)
    relay.start()
    stack.callback(relay.stop)
    return Node(relay.pid, relay.port, stun_port)


def _region(folder: Path, subject: Subject, stack: ExitStack, nodes: int) -> list[Node]:
    kind = "go" if subject.relay is GoDerper else "ours"
    before = dict(os.environ)
    os.environ.update(subject.env)
    try:
        region = stack.enter_context(Region(folder, *[kind] * nodes))
    finally:
        os.environ.clear()
        os.environ.update(before)
    return [Node(node.pid, node.door.port, 0) for node in region.nodes]


def go_server() -> Path:
    """Return the Go server's program; build it if it is missing."""
    return program("derper")
