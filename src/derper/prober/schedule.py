"""Which probe runs when: a task for each, spread over time, none of which waits for another.

`keep` is told the probes that there are to be; those with a known name go on with their record, the others come and go.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from typing import Final

from derper.prober.probe import CONTINUOUS_SECONDS, Probe

_PAUSE_AT_ONCE: Final = 0.01
"""Seconds between two probes' starts where all are to run once: a login costs this machine a few milliseconds too."""


class Schedule:
    """The probes that are alive. To be used from one loop."""

    def __init__(self, *, spread: bool) -> None:
        self._spread = spread
        self._alive: dict[str, tuple[Probe, asyncio.Task[None]]] = {}

    @property
    def probes(self) -> list[Probe]:
        """All of them, by name."""
        return [self._alive[name][0] for name in sorted(self._alive)]

    def find(self, name: str) -> Probe | None:
        """Return the probe of that name."""
        return self._alive[name][0] if name in self._alive else None

    def add(self, probe: Probe, *, delay: float = 0.0) -> None:
        """Let it run from now on."""
        task = asyncio.create_task(_live(probe, delay), name=probe.name)
        self._alive[probe.name] = (probe, task)

    def add_all(self, probes: Iterable[Probe]) -> None:
        """Let them run from now on, each at a time of its own within its interval."""
        for probe in probes:
            self.add(probe, delay=self.delay(probe))

    def remove(self, name: str) -> None:
        """Stop it and forget it."""
        _, task = self._alive.pop(name)
        task.cancel()

    async def stop(self) -> None:
        """Stop all."""
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
            # What was missed is not made up for: a late probe does not come twice.
            missed = max(0.0, loop.time() - due) // probe.interval
            due += (missed + 1) * probe.interval


async def run_once(probes: Iterable[Probe], *, spread: bool, continuous_seconds: float) -> None:
    """Run each of these once; a continuous one for so long."""
    async with asyncio.TaskGroup() as group:
        for probe in probes:
            group.create_task(probe.run(seconds=continuous_seconds if probe.interval is None else None))
            if spread:
                await asyncio.sleep(_PAUSE_AT_ONCE)
