"""Attacks on a relay, ours and Go's, each with a victim: a pair of clients that exchanges packets all the time.

How to add an attack:

1. Write a function that takes a `Target` and returns one short sentence: what the relay did to the attacker. Use
   `target.door` for connections, bound it in time (`for_seconds()`) and in count, and close what it opens.
2. Write a test in a module of this folder that has `pytest_plugins = ["attacktable"]`, and hand
   that function to `beside`:

       def test_a_flood_of_pings(beside: Beside) -> None:
           ours = beside("20,000 pings from a client that never reads", flood_of_pings, wire="TLS 1.3").ours
           ours.is_unharmed()

   Under `make hostile`, `beside` starts both relays, one after the other, each with a victim of its own, and records
   one row of the table that is printed. `flags` go to both relays, `our_flags` to ours alone; `go=False` where Go
   lacks the feature. What happens to Go's relay is recorded and never asserted.
3. Assert on structure, with room for a machine that is ten times slower: no packet lost, no client cut, each newcomer
   logged in, memory below a number that follows from a limit. Latency is recorded; targets for it belong in `bench/`.
4. Copy the new row into SECURITY.md.

A test run attacks only our relay, for a second each, because CI's time is bounded. `make hostile` sets
`DERPER_ATTACK_SECONDS` and `DERPER_ATTACK_GO`: longer attacks, on Go's relay as well.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from derpwire import RelayAddress
from relays import GoDerper, OurDerper, Relay, RelayError
from victim import Figures, context_of

from derper.protocol.keys import MeshKey

HERE: Final = Path(__file__).resolve().parent
ATTACK_SECONDS: Final = float(os.environ.get("DERPER_ATTACK_SECONDS", "1"))
ATTACK_GO: Final = os.environ.get("DERPER_ATTACK_GO") == "yes"
VICTIM_SECONDS: Final = 60.0  # for the victim's login and its report
MEGABYTE: Final = 1 << 20

Wire = Literal["plain", "TLS 1.2", "TLS 1.3"]
WIRES: Final[tuple[Wire, ...]] = ("plain", "TLS 1.2", "TLS 1.3")
TLS_WIRES: Final[tuple[Wire, ...]] = ("TLS 1.2", "TLS 1.3")


def for_seconds(seconds: float = ATTACK_SECONDS) -> Iterator[None]:
    """Return an iterator that ends after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def tls_version(wire: Wire) -> str:
    """Return the version number of TLS on that wire; empty without TLS."""
    return wire.removeprefix("TLS ") if wire != "plain" else ""


@dataclass(frozen=True)
class Target:
    """The relay under attack."""

    relay: Relay
    wire: Wire
    mesh_key: MeshKey | None

    @property
    def door(self) -> RelayAddress:
        """The relay's port, with TLS as the row's wire has it."""
        return RelayAddress(self.relay.port, context_of(tls_version(self.wire)))

    @property
    def raw_door(self) -> RelayAddress:
        """The relay's port without TLS."""
        return RelayAddress(self.relay.port)

    @property
    def is_ours(self) -> bool:
        return isinstance(self.relay, OurDerper)

    def memory(self) -> int:
        """Return the relay's resident memory in bytes."""
        return resident(self.relay.pid)


Attack = Callable[[Target], str]


@dataclass
class Outcome:
    """The result of one attack on one relay."""

    happened: str
    figures: Figures
    alive: bool
    memory_before: int
    memory_peak: int
    log_bytes: int

    @property
    def grown(self) -> int:
        """The most memory in bytes that the attack added."""
        return max(0, self.memory_peak - self.memory_before)

    def is_unharmed(self, *, log_bytes: int | None = None) -> None:
        """Assert that the victim lost nothing and that newcomers logged in."""
        figures = self.figures
        assert self.alive, f"the relay died: {self}"
        assert not figures.cut, f"a connection of the victim ended: {self}"
        assert figures.sent > 0, f"the victim sent nothing: {self}"
        assert figures.lost == 0, f"the victim lost packets: {self}"
        assert figures.out_of_order == 0, f"the victim's packets changed their order: {self}"
        assert figures.logins > 0, f"no newcomer tried to log in: {self}"
        assert figures.logins_failed == 0, f"newcomers were refused: {self}"
        if log_bytes is not None:
            assert self.log_bytes <= log_bytes, f"the attack filled the log: {self}"

    def cells(self) -> str:
        """Return this as cells of the table."""
        figures = self.figures
        if not figures.sent:
            return f" | | | | | {self.happened}"
        lost = figures.cut or f"{figures.lost} of {figures.sent:,}"
        logins = f"{figures.logins - figures.logins_failed} of {figures.logins}"
        memory = f"+{self.grown / MEGABYTE:.0f}"
        return (
            f"{lost} | {figures.p99:.0f} | {figures.longest_silence:.0f} | {logins} | {memory} | "
            f"{self.happened}{'' if self.alive else '; it died'}"
        )


@dataclass
class Row:
    """One attack, tried on both relays."""

    attack: str
    wire: Wire
    ours: Outcome
    go: Outcome | None = None

    def lines(self) -> list[str]:
        """Return the rows of the table, one for each relay."""
        rows = [f"| {self.attack} | {self.wire} | ours | {self.ours.cells()} |"]
        if self.go is not None:
            rows.append(f"| | | Go | {self.go.cells()} |")
        return rows


HEAD: Final = (
    "| attack | wire | relay | lost | p99 ms | longest silence ms | logins | memory MB | what happened |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
)


class Victim:
    """The process of `victim.py`."""

    def __init__(self, wire: Wire) -> None:
        self._command = (sys.executable, str(HERE / "victim.py"), tls_version(wire))

    def log_in(self, url: str) -> None:
        """Log in at a relay and begin the exchange of packets."""
        self._order(url)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n", "the victim could not log in"

    def begin(self) -> None:
        """Start the measured time."""
        self._order("begin")

    def _order(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def end(self) -> Figures:
        """End the measured time and return its figures."""
        out, _ = self._process.communicate(timeout=VICTIM_SECONDS)
        assert self._process.returncode == 0, "the victim's program failed; its error stands above"
        return Figures(**json.loads(out))

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


class Beside:
    """Runs attacks on ours and on Go's relay, and holds the rows of the table."""

    def __init__(self, folder: Path, rows: list[Row]) -> None:
        self._folder = folder
        self._rows = rows

    def __call__(  # noqa: PLR0913  keywords, each of which few attacks need
        self,
        name: str,
        attack: Attack,
        *,
        wire: Wire = "TLS 1.3",
        mesh: bool = False,
        flags: Sequence[str] = (),
        our_flags: Sequence[str] = (),
        go: bool = True,
        start: Callable[[type[Relay], Path, Sequence[str]], Relay] | None = None,
    ) -> Row:
        """Try one attack and return its row.

        Args:
            name: of the attack, for the table, with the number of connections or packets.
            attack: returns what happened to the attacker.
            wire: how the attacker and the victim connect.
            mesh: give the relay a mesh key, which the target then has.
            flags: for both relays.
            our_flags: for our relay only.
            go: whether Go's relay has the attacked feature.
            start: makes a relay with a folder and flags; without it the relay of `relays.py`.
        """
        make = start or partial(_relay, tls=wire != "plain")
        mesh_key = MeshKey(b"\x5a" * 32) if mesh else None
        outcomes = []
        for kind, own in ((OurDerper, our_flags), (GoDerper, ()))[: 1 + (go and ATTACK_GO)]:
            folder = self._folder / kind.name
            folder.mkdir(parents=True)
            meshing: tuple[str, ...] = ()
            if mesh_key is not None:
                (folder / "mesh.key").write_text(mesh_key.to_text())
                meshing = ("-mesh-psk-file", str(folder / "mesh.key"))
            relay = make(kind, folder, (*meshing, *flags, *own))
            outcomes.append(attacked(relay, wire, mesh_key, attack))
        row = Row(name, wire, *outcomes)
        self._rows.append(row)
        print("\n".join((*HEAD, *row.lines())))  # noqa: T201  pytest -rP shows it
        return row


def attacked(relay: Relay, wire: Wire, mesh_key: MeshKey | None, attack: Attack) -> Outcome:
    """Start a relay, attack it beside a victim, and stop it. An error beside Go's relay is recorded as the result."""
    try:
        with Victim(wire) as victim:  # its imports take as long as the relay's start
            relay.start()
            victim.log_in(relay.url)
            with watched(relay.pid) as memory:
                before = memory[0]
                log = len(relay.log())
                victim.begin()
                try:
                    happened = attack(Target(relay, wire, mesh_key))
                except (AssertionError, OSError) as error:
                    if relay.name != GoDerper.name:
                        raise
                    happened = str(error).partition("\n")[0]
                figures = victim.end()
                outcome = Outcome(happened, figures, relay.alive(), before, max(memory), len(relay.log()) - log)
        if relay.alive():
            _stop(relay)
    finally:
        relay.kill()
    return outcome


def _stop(relay: Relay) -> None:
    try:
        code = relay.stop()
        assert code == 0, f"exit code {code} after SIGTERM:\n{relay.log()[-4000:]}"
    except RelayError:
        if relay.name != GoDerper.name:
            raise


def _relay(kind: type[Relay], folder: Path, flags: Sequence[str], *, tls: bool) -> Relay:
    return kind(folder, tls=tls, flags=flags)


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes; 0 when it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * 4096


@contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """Sample a process's memory ten times a second; the list's first member is the memory at the beginning."""
    samples = [resident(pid)]
    ended = threading.Event()

    def sample() -> None:
        while not ended.wait(0.1):
            samples.append(resident(pid))

    thread = threading.Thread(target=sample, name="memory")
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()
