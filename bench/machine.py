"""The measuring machine: its cores, other load on them, and the facts for the record."""

import os
import platform
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

ROOT: Final = Path(__file__).resolve().parents[1]
CPUS: Final = Path("/sys/devices/system/cpu")


class MachineError(Exception):
    """This machine cannot measure; the message says what is missing."""


@dataclass(frozen=True)
class Cores:
    """A core for the server and one for the generator: never two threads of one physical core."""

    server: int
    generator: int

    @classmethod
    def choose(cls) -> Self:
        allowed = sorted(os.sched_getaffinity(0))
        siblings = _numbers((CPUS / f"cpu{allowed[0]}/topology/thread_siblings_list").read_text())
        for other in allowed:
            if other not in siblings:
                return cls(server=allowed[0], generator=other)
        raise MachineError(f"two cores are needed, one for the server and one for the generator; allowed: {allowed}")


@contextmanager
def pinned(*cores: int) -> Iterator[None]:
    """Pin processes started inside the block to these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True)
class CoreTimes:
    """Busy seconds of the two cores, in the kernel's 10 ms ticks, and the sum with idle time."""

    server_busy: float
    generator_busy: float
    elapsed: float

    @classmethod
    def read(cls, cores: Cores) -> Self:
        lines = {words[0]: words[1:] for words in map(str.split, Path("/proc/stat").read_text().splitlines())}
        tick = 1 / os.sysconf("SC_CLK_TCK")

        def seconds(core: int) -> tuple[float, float]:
            # user, nice, system, idle, iowait, irq, softirq, steal
            times = [int(word) * tick for word in lines[f"cpu{core}"][:8]]
            return sum(times), times[3] + times[4]

        (elapsed, server_idle), (generator_all, generator_idle) = seconds(cores.server), seconds(cores.generator)
        return cls(elapsed - server_idle, generator_all - generator_idle, elapsed)

    def __sub__(self, before: "CoreTimes") -> "CoreTimes":
        return CoreTimes(
            self.server_busy - before.server_busy,
            self.generator_busy - before.generator_busy,
            self.elapsed - before.elapsed,
        )


def allow_files(wanted: int) -> None:
    """Allow this process and its children to open `wanted` files.

    Raises:
        MachineError: The hard limit is lower and cannot be raised.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError) as error:
        raise MachineError(f"{wanted} open files are needed, and the limit is {hard}: raise it (ulimit -Hn)") from error


def described() -> dict[str, object]:
    """Return the facts about the machine that are needed to judge a figure."""
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "memory": memory["MemTotal"].strip(),
        "kernel": platform.release(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> str:
    """Return the measured commit, followed by "+" if the sources differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--", "src", "rust", "bench") else "")


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _numbers(text: str) -> set[int]:
    """Return the numbers in a list of the kernel, such as "0,4-7"."""
    spans = (part.partition("-") for part in text.strip().split(","))
    return {number for low, _, high in spans for number in range(int(low), int(high or low) + 1)}
