"""The schedule of the probes: a task for each, spread over time, independent of each other.

`keep` replaces the probes; those with a known name keep their record.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Final

from derper.prober.probe import CONTINUOUS_SECONDS, Probe

_PAUSE_AT_ONCE: Final = 0.01
"""Seconds between two starts if all probes run once: a login costs this machine a few milliseconds."""


class Schedule:
    """The scheduled probes, for use from one loop."""

    def __init__(self, *, spread: bool) -> None:
        self._spread = spread
        self._alive: dict[str, tuple[Probe, asyncio.Task[None]]] = {}

    @property
    def probes(self) -> list[Probe]:
        """All probes, by name."""
        return [self._alive[name][0] for name in sorted(self._alive)]

    def find(self, name: str) -> Probe | None:
        """Return the probe with that name."""
        return self._alive[name][0] if name in self._alive else None

    def add(self, probe: Probe, *, delay: float = 0.0) -> None:
        """Start a probe's task."""
        task = asyncio.create_task(_live(probe, delay), name=probe.name)
        self._alive[probe.name] = (probe, task)

    def add_all(self, probes: Iterable[Probe]) -> None:
        """Start the probes' tasks, each at its own time within its interval."""
        for probe in probes:
            self.add(probe, delay=self.delay(probe))

    def remove(self, name: str) -> None:
        """Cancel a probe's task and remove the probe."""
        _, task = self._alive.pop(name)
        task.cancel()

    async def stop(self) -> None:
        """Cancel all tasks."""
        tasks = [task for _, task in self._alive.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._alive.clear()

    def delay(self, probe: Probe) -> float:
        """Return the delay of its first run in seconds: derived from its name, so that a restart keeps the schedule."""
        if not self._spread:
            return 0.0
        share = int.from_bytes(hashlib.sha256(probe.name.encode()).digest()[:4]) / 2**32
        return share * abs(probe.interval or CONTINUOUS_SECONDS)


async def _live(probe: Probe, delay: float) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time() + delay
    while True:
        await asyncio.sleep(due - loop.time())
        await probe.run()
        if probe.interval is None:
            due = loop.time() - CONTINUOUS_SECONDS
        else:
            # Missed runs are skipped: a late probe does not run twice.
            missed = max(0.0, loop.time() - due) // probe.interval
            due += (missed + 1) * probe.interval


async def run_once(probes: Iterable[Probe], *, spread: bool, continuous_seconds: float) -> None:
    """Run each probe once; a continuous one for `continuous_seconds`."""
    async with asyncio.TaskGroup() as group:
        for probe in probes:
            group.create_task(probe.run(seconds=continuous_seconds if probe.interval is None else None))
            if spread:
                await asyncio.sleep(_PAUSE_AT_ONCE)
