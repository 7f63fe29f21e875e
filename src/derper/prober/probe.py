"""One probe: its name, its check, and the record of its runs.

A probe runs when `schedule` starts it. It never overlaps itself and ends at its deadline. Any exception in it, also a
bug of ours, is a failure of this probe only.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol

import structlog
from structlog.typing import FilteringBoundLogger

from derper import log
from derper.errors import DerperError

_log: FilteringBoundLogger = structlog.get_logger()

RECENT: Final = 10
"""Runs for ratios and medians."""

HISTORY: Final = 60
"""Runs in the status page's charts."""

CONTINUOUS_SECONDS: Final = -10.0
"""The reported interval of a continuous probe; a failed one is restarted after ten seconds."""

SHARE: Final = 0.8
"""Maximum duration of a run, as a share of its interval."""

_OWN_ERRORS: Final = (DerperError, OSError, TimeoutError)


class Kind(StrEnum):
    """The classes of probes, as labels name them."""

    MAP = "derp_map"
    TLS = "tls"
    UDP = "derp_udp"
    MESH = "derp_mesh"
    BANDWIDTH = "derp_bw"
    QUEUING = "derp_qd"


class Status(StrEnum):
    """The state of a probe."""

    UNKNOWN = "unknown"  # no run has ended yet
    RUNNING = "running"  # continuous, and has not failed since its start
    SUCCEEDED = "succeeded"
    FAILED = "failed"


Sample = tuple[str, Mapping[str, str], int | float]  # suffix of the family's name, labels beside the probe's own, value


class Measure(Protocol):
    """Further measurements of a probe."""

    def samples(self) -> Iterator[tuple[str, Sample]]:
        """Yield the name of a family, without prefix, and a sample of it; a family's samples are consecutive."""

    def describe(self) -> str:
        """Describe the measurement in a few words; empty without one."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that has ended."""

    start: float  # Unix seconds
    end: float
    seconds: float
    error: str  # empty: success

    @property
    def ok(self) -> bool:
        """True if the run succeeded."""
        return not self.error


@dataclass(slots=True)
class Record:
    """The record of a probe's runs."""

    in_flight: int = 0
    start: float | None = None  # Unix seconds at the start of the last run
    last: Run | None = None  # the last run that ended
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # of successful runs
    history: deque[Run] = field(default_factory=lambda: deque(maxlen=HISTORY))
    attempts: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    seconds: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})

    def begin(self) -> None:
        """Record the start of a run."""
        self.in_flight += 1
        self.start = time.time()

    def end(self, run: Run) -> None:
        """Record the result of a run."""
        self.in_flight -= 1
        self.last = run
        self.recent.append(run.ok)
        self.history.append(run)
        self.attempts[run.ok] += 1
        self.seconds[run.ok] += run.seconds
        if run.ok:
            self.latencies.append(run.seconds)

    @property
    def success_ratio(self) -> float:
        """The share of successful runs among the recent ones, 0 to 1; 0 without runs."""
        return sum(self.recent) / len(self.recent) if self.recent else 0.0

    @property
    def median_latency(self) -> float:
        """The median of the recent successful runs, in seconds; the upper one of two; 0 without runs."""
        return sorted(self.latencies)[len(self.latencies) // 2] if self.latencies else 0.0


@dataclass(slots=True, eq=False)
class Probe:
    """One probe.

    `interval` is in seconds, `None` for a continuous probe, which only ends when it fails. `labels` are the labels
    other than name and class.
    """

    name: str
    kind: Kind
    interval: float | None
    labels: Mapping[str, str]
    check: Callable[[], Awaitable[None]]
    measure: Measure | None = None
    record: Record = field(default_factory=Record)
    _alone: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def all_labels(self) -> dict[str, str]:
        """Return its labels with name and class, sorted."""
        return dict(sorted({**self.labels, "name": self.name, "class": str(self.kind)}.items()))

    @property
    def deadline(self) -> float | None:
        """The maximum seconds of a run; `None`: unlimited."""
        return None if self.interval is None else self.interval * SHARE

    @property
    def status(self) -> Status:
        """The current state."""
        if self.interval is None and self.record.in_flight:
            return Status.RUNNING
        if self.record.last is None:
            return Status.UNKNOWN
        return Status.SUCCEEDED if self.record.last.ok else Status.FAILED

    async def run(self, *, seconds: float | None = None) -> Run:
        """Run the probe once, after the current run if there is one, and record the result.

        `seconds` limits a continuous probe, which succeeds if it runs that long.
        """
        async with self._alone:
            self.record.begin()
            began, start = time.monotonic(), time.time()
            error = "it was stopped"
            try:
                error = await self._checked(seconds)
            finally:
                run = Run(start, time.time(), time.monotonic() - began, error)
                self.record.end(run)
        if not run.ok:
            _log.warning(f"probe {self.name}: {run.error}")
        return run

    async def _checked(self, seconds: float | None) -> str:
        limit = self.deadline if seconds is None else seconds
        try:
            async with asyncio.timeout(limit) as deadline:
                await self.check()
        except _OWN_ERRORS as error:
            if deadline.expired():
                return "" if self.interval is None else f"timeout: not done after {limit:g} s"
            return log.in_one_line(error)
        except Exception as error:  # noqa: BLE001  a bug in a probe is that probe's failure
            _log.error(f"probe {self.name}: a bug", exc_info=error)
            return f"crashed: {type(error).__name__}: {log.in_one_line(error)}"
        return ""
