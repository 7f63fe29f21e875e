"""A coroutine function that never runs twice at a time: for work that checks, awaits, and then changes something."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Serialized(Generic[T]):
    """Runs `work` one call after the other. Calls during a run share one further run, which begins after it.

    So each caller gets the result of a run that began after its call, and a thousand calls cost two runs.
    """

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        self._work = work
        self._last: asyncio.Task[T] | None = None  # the run that began last
        self._next: asyncio.Task[T] | None = None  # the one that has not begun

    async def __call__(self) -> T:
        """Return the result of a run; cancelling a caller does not stop the run for other callers."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_task(self._run(self._last))
        return await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._last, self._next = self._next, None
        return await self._work()
