"""A control group whose memory the relay's clients use up: socket buffers in the kernel count as well."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from beside import MEGABYTE, TLS_WIRES, Beside, Target, Wire
from derpwire import Client
from disks import root_only
from relays import Relay

pytest_plugins = ["attacktable"]

GROUPS = Path("/sys/fs/cgroup/memory")
pytestmark = [
    root_only,
    pytest.mark.skipif(
        not (GROUPS / "memory.limit_in_bytes").exists(), reason="no memory controller of version 1 here"
    ),
]

MEMORY = 160 * MEGABYTE
STALLED = 100
PACKETS = 40
LARGE = 60_000  # bytes; in total more than the group's limit


@pytest.fixture
def group() -> Iterator[Path]:
    """A control group with little memory and no swap."""
    place = GROUPS / f"derper-test-{os.getpid()}"
    place.mkdir()
    (place / "memory.limit_in_bytes").write_text(str(MEMORY))
    try:
        yield place
    finally:
        place.rmdir()


@pytest.mark.parametrize("wire", TLS_WIRES)
def test_packets_for_clients_that_never_read(beside: Beside, group: Path, wire: Wire) -> None:
    """Our relay sheds packets at its default limit, a quarter of the group's memory."""

    def start(kind: type[Relay], folder: Path, flags: Sequence[str]) -> Relay:
        join = f'echo $$ >{group}/cgroup.procs && exec "$@"'
        return kind(folder, tls=True, flags=flags, before=("sh", "-c", join, "sh"))

    def attack(target: Target) -> str:
        with ExitStack() as exits:
            stalled = [exits.enter_context(Client.join(target.door, receive_buffer=4_096)) for _ in range(STALLED)]
            sender = exits.enter_context(Client.join(target.door))
            for _ in range(PACKETS):
                for client in stalled:
                    sender.send(client.key, bytes(LARGE))
            sender.ping()
            peak = int((group / "memory.max_usage_in_bytes").read_text())
        (group / "memory.max_usage_in_bytes").write_text("0")
        return f"the group used {peak // MEGABYTE} MB at most"

    name = (
        f"{STALLED * PACKETS * LARGE // MEGABYTE} MB for {STALLED} clients that never read, "
        f"in a control group with {MEMORY // MEGABYTE} MB"
    )
    beside(name, attack, wire=wire, start=start).ours.is_unharmed()
