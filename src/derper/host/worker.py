"""Calls that block, off the loop: files on a slow disk, and libraries that wait for other servers.

One at a time, each in a daemon thread, so neither the loop nor the end of the program ever waits for one. A call that
outlasts its time is left behind and may still do its work, unheard.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Blocking: TypeAlias = Callable[[], T]


class Worker:
    """Runs one call after another; of one loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._turn = asyncio.Lock()

    async def run(self, call: Blocking[T], seconds: float) -> T:
        """Return the call's result or raise its exception.

        Raises:
            TimeoutError: it takes longer than this, its turn not included.
        """
        async with self._turn:
            done: Future[T] = Future()
            done.set_running_or_notify_cancel()
            threading.Thread(target=_settle, args=(done, call), name=self._name, daemon=True).start()
            # Not wait_for, which in Python 3.11 forgets that it was cancelled when the call has just ended.
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(done)


def _settle(done: Future[T], call: Blocking[T]) -> None:
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001  it is raised again where the call was asked for
        done.set_exception(error)
    else:
        done.set_result(result)
