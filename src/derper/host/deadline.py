"""A deadline for another program's answer that excludes pauses of our own process.

`asyncio.timeout` expires by the clock. After a pause of the whole process (a busy loop, SIGSTOP, a suspended machine)
it expires in the turn in which the answer is read, although the answer had arrived in time.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

STEPS: Final = 5
"""Parts of a deadline. If the loop stood still for longer than a part, the part is repeated."""


@asynccontextmanager
async def deadline(seconds: float | None) -> AsyncIterator[asyncio.Timeout]:
    """Raise `TimeoutError` after `seconds` in which the loop could read; `None` never does.

    Pauses extend it to twice its length at most, not counting the pauses themselves.
    """
    async with asyncio.timeout(None) as timeout:
        steps = None if seconds is None else _Steps(timeout, seconds / STEPS)
        try:
            yield timeout
        finally:
            if steps is not None:
                steps.stop()


class _Steps:
    """Counts the parts of one deadline, one timer at a time."""

    def __init__(self, timeout: asyncio.Timeout, length: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout = timeout
        self._length = length
        self._left = STEPS
        self._pardons = STEPS
        self._begin()

    def stop(self) -> None:
        """Cancel the timer."""
        self._timer.cancel()

    def _begin(self) -> None:
        self._due = self._loop.time() + self._length
        self._timer = self._loop.call_at(self._due, self._end)

    def _end(self) -> None:
        late = self._loop.time() - self._due
        if late > self._length and self._pardons:
            self._pardons -= 1
        else:
            self._left -= 1
        if self._left:
            self._begin()
        else:
            self._timeout.reschedule(self._loop.time())
