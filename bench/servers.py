"""The servers that are compared. How one is started is known to the tests; here it only gets its one core."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from machine import ROOT, pinned

sys.path.insert(0, str(ROOT / "tests" / "interop"))

from parts import PartError, program
from relays import HOST, GoDerper, OurDerper, Relay, RelayError

__all__ = ["GO", "HOST", "OURS", "PartError", "Relay", "RelayError", "go_server", "running"]

OURS: Final = "ours"
GO: Final = "Go"


@contextmanager
def running(name: str, core: int, *, tls: bool) -> Iterator[Relay]:
    """A new server on one core, with one thread that moves packets."""
    with TemporaryDirectory(prefix="derper-bench-") as folder:
        if name == OURS:
            relay: Relay = OurDerper(Path(folder), tls=tls, flags=("-shards", "1"))
        else:
            relay = GoDerper(Path(folder), tls=tls, env={"GOMAXPROCS": "1"})
        with pinned(core):
            relay.start()
        try:
            yield relay
        finally:
            relay.stop()


def go_server() -> Path:
    """The Go server's program, built if it is not there yet."""
    return program("derper")
