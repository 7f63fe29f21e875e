"""The load generator as a process, pinned to its core, with its phases."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from machine import Cores, CoreTimes, pinned

Figures = dict[str, float]
Phase = dict[str, object]


class LoadError(Exception):
    """The generator failed; the reason is on standard error."""


@dataclass(frozen=True)
class Bench:
    """The shared settings of a comparison: the generator, the cores, the durations."""

    generator: Path
    cores: Cores
    seconds: float
    warmup: float
    settle: float


class Generator:
    """A running generator, which reports its phases, one JSON object a line."""

    def __init__(self, process: subprocess.Popen[str], cores: Cores) -> None:
        self._process = process
        self._cores = cores

    def expect(self, phase: str) -> Phase:
        """Return the next phase with this name; earlier ones are discarded."""
        assert self._process.stdout is not None  # noqa: S101 - it was started with a pipe
        for line in self._process.stdout:
            message = json.loads(line)
            if message["phase"] == phase:
                return dict(message)
        raise LoadError(f"the generator ended before the phase {phase!r}")

    def go_on(self) -> None:
        assert self._process.stdin is not None  # noqa: S101 - it was started with a pipe
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def result(self, meanwhile: Callable[[], None] = lambda: None) -> tuple[Phase, Figures]:
        """Return the result of the measured window, and the load of both cores in it, including other processes.

        Args:
            meanwhile: Called as soon as the window has begun.
        """
        self.expect("measuring")
        meanwhile()
        before = CoreTimes.read(self._cores)
        result = self.expect("result")
        around = CoreTimes.read(self._cores) - before
        seconds = number(result, "seconds")
        server, generator = number(result, "server_cpu_seconds"), number(result, "generator_cpu_seconds")
        return result, {
            "server_busy": server / seconds,
            "generator_busy": generator / seconds,
            "foreign_on_server_core": max(0.0, around.server_busy - server) / around.elapsed,
            "foreign_on_generator_core": max(0.0, around.generator_busy - generator) / around.elapsed,
        }


@contextmanager
def generating(mode: str, bench: Bench, *words: str, nice: int = 0) -> Iterator[Generator]:
    """Run a generator in this mode; raises LoadError if it fails."""
    with pinned(bench.cores.generator):
        process = subprocess.Popen(
            ["nice", f"-n{nice}", bench.generator, mode, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    try:
        yield Generator(process, bench.cores)
        process.communicate()
    finally:
        process.kill()
        process.wait()
    if process.returncode != 0:
        raise LoadError(f"the generator ended with {process.returncode}")


def number(phase: Phase, key: str) -> float:
    value = phase[key]
    if not isinstance(value, int | float):
        raise LoadError(f"{key} is {value!r}, not a number")
    return value


def percentile(phase: Phase, key: str) -> float:
    latencies = phase["latency_us"]
    if not isinstance(latencies, dict):
        raise LoadError(f"nothing was delivered: {phase}")
    return number(latencies, key)
