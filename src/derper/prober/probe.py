"""One probe: what it is called, what it does, and the record of how that went.

A probe runs when `schedule` says so. It never overlaps itself, ends at its deadline, and whatever goes wrong inside it,
a bug of ours too, is its failure and nobody else's.
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
"""Runs that ratios and medians are taken of."""

HISTORY: Final = 60
"""Runs that the status page's charts show."""

CONTINUOUS_SECONDS: Final = -10.0
"""What stands for the interval of a probe that never ends; one that failed is started again after ten seconds."""

SHARE: Final = 0.8
"""Of its interval that a probe may take."""

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
    """How a probe stands."""

    UNKNOWN = "unknown"  # it has not ended yet
    RUNNING = "running"  # it is continuous and has not failed since it was started
    SUCCEEDED = "succeeded"
    FAILED = "failed"


Sample = tuple[str, Mapping[str, str], int | float]  # suffix of the family's name, labels beside the probe's own, value


class Measure(Protocol):
    """What a probe counts beside its runs."""

    def samples(self) -> Iterator[tuple[str, Sample]]:
        """Return the name of a family, without prefix, and a sample of it; a family's samples come in a row."""

    def told(self) -> str:
        """Describe the measurement in a few words; empty without one."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run that has ended."""

    start: float  # Unix seconds
    end: float
    seconds: float
    error: str  # empty: it went well

    @property
    def ok(self) -> bool:
        """Whether it went well."""
        return not self.error


@dataclass(slots=True)
class Record:
    """What is known of a probe's runs."""

    in_flight: int = 0
    start: float | None = None  # of the last run that was begun, Unix seconds
    last: Run | None = None  # the last that ended
    recent: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # of good runs alone
    history: deque[Run] = field(default_factory=lambda: deque(maxlen=HISTORY))
    attempts: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    seconds: dict[bool, float] = field(default_factory=lambda: {True: 0.0, False: 0.0})

    def begin(self) -> None:
        """Note that a run begins."""
        self.in_flight += 1
        self.start = time.time()

    def end(self, run: Run) -> None:
        """Note how it went."""
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
        """Of the recent runs, 0 to 1; 0 without any."""
        return sum(self.recent) / len(self.recent) if self.recent else 0.0

    @property
    def median_latency(self) -> float:
        """Of the recent good runs, in seconds; the upper one of two; 0 without any."""
        return sorted(self.latencies)[len(self.latencies) // 2] if self.latencies else 0.0


@dataclass(slots=True, eq=False)
class Probe:
    """One probe.

    `interval` is in seconds, `None` for a probe that only ends when it fails. `labels` are those beside name and class.
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
        """Seconds that a run may take; `None`: as long as it likes."""
        return None if self.interval is None else self.interval * SHARE

    @property
    def status(self) -> Status:
        """How it stands now."""
        if self.interval is None and self.record.in_flight:
            return Status.RUNNING
        if self.record.last is None:
            return Status.UNKNOWN
        return Status.SUCCEEDED if self.record.last.ok else Status.FAILED

    async def run(self, *, seconds: float | None = None) -> Run:
        """Run it once, after the run in progress if there is one, and put it on record.

        `seconds` bounds a continuous probe, for which having got so far is success.
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
