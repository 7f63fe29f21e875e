"""Measures how reports on all members delay packets: one pair of clients among many idle ones.

`python bench/members_report.py`: a closed load of one pair, without reports and with them, in turns. Server and reports
share one core, as on the smallest machine.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

import machine
from compare import build_generator
from generator import Bench
from loads import ClosedLoop
from machine import Cores, pinned
from relays import OurDerper, Relay
from servers import HOST, Node

from derper import log
from derper.cli.derper import main as derper
from derper.dataplane import DataPlane, Event
from derper.server import app

SERVE: Final = "serve"
EVERY: Final = "DERPER_BENCH_EVERY"
LOGGED: Final = re.compile(r"^reports (.*)$", re.MULTILINE)


class ReportingPlane(DataPlane):
    """A data plane that reports on its members between two SIGUSR1; it logs the seconds of each report."""

    _reporting: asyncio.Task[None] | None = None

    def start(self, on_event: Callable[[Event], None]) -> None:
        """Start, and handle the signal."""
        super().start(on_event)
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._toggle)

    def _toggle(self) -> None:
        if self._reporting is None:
            self._took: list[float] = []
            self._reporting = asyncio.get_running_loop().create_task(self._report())
        else:
            self._reporting.cancel()
            self._reporting = None
            log.verbatim("reports " + json.dumps(self._took))

    async def _report(self) -> None:
        while True:
            begun = time.monotonic()
            await self.members()
            self._took.append(time.monotonic() - begun)
            await asyncio.sleep(float(os.environ[EVERY]))


class ReportingDerper(OurDerper):
    """Our server with a `ReportingPlane`."""

    def command(self) -> list[str]:
        """Return the command line that starts it."""
        return [sys.executable, str(Path(__file__).resolve()), SERVE]

    @contextmanager
    def reporting(self) -> Iterator[list[float]]:
        """Make the server report inside the block; at its end the list has the seconds of each report."""
        took: list[float] = []
        os.kill(self.pid, signal.SIGUSR1)
        yield took
        seen = len(LOGGED.findall(self.log()))
        os.kill(self.pid, signal.SIGUSR1)
        while len(logged := LOGGED.findall(self.log())) == seen:
            time.sleep(0.01)
        took += json.loads(logged[-1])


@contextmanager
def idle(bench: Bench, relay: Relay, clients: int) -> Iterator[None]:
    """Connect this number of idle clients for the time of the block."""
    command = [str(bench.generator), "idle", f"--addr={HOST}:{relay.port}", "--plain", f"--clients={clients}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as generator:
        assert generator.stdout is not None  # noqa: S101 - it was started with a pipe
        generator.stdout.readline()
        yield
        generator.communicate()


def main() -> int:
    """Measure, and print a line for each turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=10_000, help="that are idle (%(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="without reports and with them (%(default)s)")
    parser.add_argument("--every", type=float, default=2.0, help="seconds from one report to the next (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of a turn (%(default)s)")
    options = parser.parse_args()
    machine.allow_files(options.clients + 1_000)
    bench = Bench(build_generator(), Cores.choose(), options.seconds, warmup=0.5, settle=0.0)
    load = ClosedLoop(pairs=1, in_flight=1, tls=False)
    figures: dict[str, list[tuple[float, ...]]] = {"without": [], "with": []}
    with TemporaryDirectory(prefix="derper-bench-") as folder:
        relay = ReportingDerper(Path(folder), tls=False, flags=("-shards", "1"), env={EVERY: str(options.every)})
        with pinned(bench.cores.server):
            relay.start()
        with relay_stopped(relay), idle(bench, relay, options.clients):
            for name in ("without", "with") * options.turns:
                nothing: list[float] = []
                with relay.reporting() if name == "with" else nullcontext(nothing) as took:
                    measured = load.measure([Node(relay.pid, relay.port, 0)], bench)
                shown = measured["latency_p50_us"], measured["latency_p99_us"], measured["cpu_us_per_packet"]
                figures[name].append(shown)
                reports = f", {len(took)} reports of {median(took) * 1e3:.0f} ms" if took else ""
                print(f"{name} reports: {row(shown)}{reports}", flush=True)
    for name, runs in figures.items():
        print(f"median {name} reports: {row(tuple(median(values) for values in zip(*runs, strict=True)))}")
    return 0


def row(figures: tuple[float, ...]) -> str:
    """Format the figures of a turn."""
    p50, p99, cpu = figures
    return f"p50 {p50:.0f} us, p99 {p99:.0f} us, CPU {cpu:.1f} us a packet"


@contextmanager
def relay_stopped(relay: Relay) -> Iterator[None]:
    """Stop the relay at the end of the block."""
    try:
        yield
    finally:
        relay.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == [SERVE]:
        vars(app)["DataPlane"] = ReportingPlane
        sys.exit(derper(sys.argv[2:]))
    sys.exit(main())
