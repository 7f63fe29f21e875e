"""Blocking calls in a thread: files on a slow disk, and libraries that wait for other servers.

One call at a time, each in a daemon thread, so that neither the loop nor the end of the program waits for one. A call
that exceeds its time is abandoned: it may still complete, and its result is discarded.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Blocking: TypeAlias = Callable[[], T]


class Worker:
    """Runs one call after another, for one loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = asyncio.Lock()

    async def run(self, call: Blocking[T], seconds: float) -> T:
        """Return the call's result or raise its exception.

        Raises:
            TimeoutError: The call took longer than `seconds`, not counting its wait for other calls.
        """
        async with self._turn:
            done: Future[T] = Future()
            done.set_running_or_notify_cancel()
            threading.Thread(target=_settle, args=(done, call), name=self._name, daemon=True).start()
            # Not wait_for: in Python 3.11 it loses a cancellation if the call has just ended.
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(done)


def _settle(done: Future[T], call: Blocking[T]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001  raised again in the caller
        done.set_exception(error)
    else:
        done.set_result(result)
