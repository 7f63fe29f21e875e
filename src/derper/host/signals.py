"""Signals and the event loop: a signal wakes the loop at once, even if it is about to wait.

CPython runs a signal's handler between two bytecodes. If a signal arrives just before the loop waits for its sockets,
or in another thread, it is only recorded. Without a wake-up descriptor it is handled with the next traffic, which may
never come. `asyncio.run` sets no descriptor for its own handler of SIGINT.
"""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from derper import startup

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a program's work as `asyncio.run` does, but Ctrl-C always ends it if this is the main thread."""
    on_main_thread = threading.current_thread() is threading.main_thread()  # others get no signals
    return asyncio.run(_woken(work) if on_main_thread else work)


async def _woken(work: Coroutine[Any, Any, T]) -> T:
    with waking():
        return await work


@contextmanager
def waking() -> Iterator[None]:
    """Wake the running loop for every signal."""
    loop = asyncio.get_running_loop()
    reads, writes = socket.socketpair()
    with reads, writes:
        reads.setblocking(False)
        writes.setblocking(False)
        before = signal.set_wakeup_fd(writes.fileno(), warn_on_full_buffer=False)  # a full buffer wakes the loop, too
        loop.add_reader(reads, reads.recv, 4096)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(reads)


@contextmanager
def delivered(receive: Callable[[int], object]) -> Iterator[None]:
    """Call `receive` in the running loop with the number of each signal that `startup` handles, earlier ones first."""
    loop = asyncio.get_running_loop()
    with waking():
        startup.deliver(lambda number: loop.call_soon_threadsafe(receive, number))
        try:
            yield
        finally:
            startup.deliver(None)
