"""Several coroutines as one, which raises a single error: a probe's failure is a sentence, not an exception group."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def together(*parts: Coroutine[Any, Any, None]) -> None:
    """Run all to their ends; the first failure cancels the others and is raised."""
    for task in await _ended(parts, asyncio.FIRST_EXCEPTION):
        task.result()


async def first(*parts: Coroutine[Any, Any, T]) -> T:
    """Run all until one ends, and cancel the others; return its result or raise its error.

    If two end at once, the one listed first counts.
    """
    return (await _ended(parts, asyncio.FIRST_COMPLETED))[0].result()


async def _ended(parts: tuple[Coroutine[Any, Any, T], ...], until: str) -> list[asyncio.Task[T]]:
    tasks = [asyncio.create_task(part) for part in parts]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=until)
        return [task for task in tasks if task in ended]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
