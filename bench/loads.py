"""The kinds of load: what the generator does to a running server, and the figures that come of it.

A load gets a server that was started for it alone, and gives named numbers. It judges nothing.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from machine import Cores, CoreTimes, pinned
from servers import HOST, Relay

Figures = dict[str, float]
Phase = dict[str, object]


class LoadError(Exception):
    """The generator could not do its work; what it says is on the standard error."""


@dataclass(frozen=True)
class Bench:
    """What all measurements of one comparison share: the generator, the cores, how long to take."""

    generator: Path
    cores: Cores
    seconds: float
    warmup: float
    settle: float


class Load(Protocol):
    """A kind of load."""

    @property
    def tls(self) -> bool:
        """Whether the clients speak TLS."""

    def measure(self, relay: Relay, bench: Bench) -> Figures:
        """Load the server, and tell what that cost."""


@dataclass(frozen=True)
class Closed:
    """Pairs of clients, in each a fixed number of packets on their way: `derp-loadgen closed`."""

    pairs: int
    in_flight: int
    size: int = 1_312
    tls: bool = True

    def measure(self, relay: Relay, bench: Bench) -> Figures:
        words = [f"--pairs={self.pairs}", f"--in-flight={self.in_flight}", f"--size={self.size}"]
        words += [f"--seconds={bench.seconds}", f"--warmup={bench.warmup}", f"--server-pid={relay.pid}"]
        with _generator("closed", relay, bench, words) as generator:
            generator.expect("measuring")
            before = CoreTimes.read(bench.cores)
            result = generator.expect("result")
            around = CoreTimes.read(bench.cores) - before
        return self._figures(result, around)

    def _figures(self, result: Phase, around: CoreTimes) -> Figures:
        delivered, seconds = _number(result, "delivered"), _number(result, "seconds")
        server, generator = _number(result, "server_cpu_seconds"), _number(result, "generator_cpu_seconds")
        latencies = result["latency_us"]
        if not isinstance(latencies, dict):
            raise LoadError(f"nothing was delivered: {result}")
        return {
            "cpu_us_per_packet": server / delivered * 1e6,
            "latency_p50_us": _number(latencies, "p50"),
            "latency_p99_us": _number(latencies, "p99"),
            "packets_per_second": delivered / seconds,
            "packets_per_read": _number(result, "packets_per_read"),
            "lost": _number(result, "lost"),
            "misordered": _number(result, "misordered"),
            "generator_cpu_us_per_packet": generator / delivered * 1e6,
            "server_busy": server / seconds,
            "generator_busy": generator / seconds,
            "foreign_on_server_core": max(0.0, around.server_busy - server) / around.elapsed,
            "foreign_on_generator_core": max(0.0, around.generator_busy - generator) / around.elapsed,
        }


@dataclass(frozen=True)
class Idle:
    """Clients that have logged in and say nothing: `derp-loadgen idle`. What the first `few` cost is not counted."""

    few: int
    many: int
    tls: bool = True

    def measure(self, relay: Relay, bench: Bench) -> Figures:
        with _generator("idle", relay, bench, [f"--clients={self.few},{self.many}"]) as generator:
            at: list[float] = []
            for clients in (self.few, self.many):
                if _number(generator.expect("logged_in"), "clients") != clients:
                    raise LoadError(f"not {clients} clients")
                time.sleep(bench.settle)
                at.append(_private_kb(relay.pid))
                generator.go_on()
        return {
            "private_kb_per_client": (at[1] - at[0]) / (self.many - self.few),
            "private_kb_at_few": at[0],
            "private_kb_at_many": at[1],
        }


class _Generator:
    """A running generator: it tells its phases, one JSON object a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def expect(self, phase: str) -> Phase:
        """The next phase of this name; those before it are of no interest."""
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        for line in self._process.stdout:
            told = json.loads(line)
            if told["phase"] == phase:
                return dict(told)
        raise LoadError(f"the generator ended before the phase {phase!r}")

    def go_on(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was started with a pipe
        self._process.stdin.write("\n")
        self._process.stdin.flush()


@contextmanager
def _generator(mode: str, relay: Relay, bench: Bench, words: list[str]) -> Iterator[_Generator]:
    command = [bench.generator, mode, f"--addr={HOST}:{relay.port}", "--tls" if relay.tls else "--plain", *words]
    with pinned(bench.cores.generator):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield _Generator(process)
        process.communicate()
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise LoadError(f"the generator ended with {process.returncode}")


def _private_kb(pid: int) -> float:
    """The memory that is this process's alone: the heap and all it has written to, without shared libraries."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return float(sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))))


def _number(phase: Phase, key: str) -> float:
    value = phase[key]
    if not isinstance(value, int | float):
        raise LoadError(f"{key} is {value!r}, not a number")
    return value
