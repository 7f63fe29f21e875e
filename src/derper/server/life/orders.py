"""Signals: SIGTERM and SIGINT stop the server, SIGHUP reloads, SIGUSR2 hands over to a successor.

The first stop signal drains the server, and a second one ends it at once. During the start, one signal ends it. A
reload or hand-over requested during the start is carried out after it.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, Protocol

from derper.host import signals


class Served(Protocol):
    """The server, as the signals see it."""

    async def __aenter__(self) -> object: ...
    async def __aexit__(self, *failure: object) -> None: ...
    async def drain(self) -> None:
        """Disconnect all clients."""

    async def hand_over(self) -> bool:
        """Start a successor; return whether it is ready."""

    async def reload(self) -> object:
        """Reload what can change while the server runs."""


async def serve(server: Served) -> int:
    """Serve until a signal ends it; return the exit code."""
    orders = _Orders(server)
    with signals.delivered(orders.receive):
        return await _serve(server, orders)


async def _serve(server: Served, orders: "_Orders") -> int:
    starting = asyncio.ensure_future(server.__aenter__())
    stopped = asyncio.ensure_future(orders.stop.wait())
    await asyncio.wait([starting, stopped], return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        return 0
    starting.result()
    try:
        orders.started.set()
        await stopped
        draining = asyncio.ensure_future(server.drain())
        await asyncio.wait(
            [draining, asyncio.ensure_future(orders.stop_at_once.wait())], return_when=asyncio.FIRST_COMPLETED
        )
        draining.cancel()
    finally:
        await server.__aexit__()
    return 0


class _Orders:
    """The signals received so far."""

    def __init__(self, server: Served) -> None:
        self.stop: Final = asyncio.Event()
        self.stop_at_once: Final = asyncio.Event()
        self.started: Final = asyncio.Event()
        self._server = server
        self._tasks: set[asyncio.Task[None]] = set()  # keeps them from being collected

    def receive(self, number: int) -> None:
        match number:
            case signal.SIGHUP:
                self._after_start(self._reload)
            case signal.SIGUSR2:
                self._after_start(self._hand_over)
            case _:
                self._stop()

    def _stop(self) -> None:
        (self.stop_at_once if self.stop.is_set() else self.stop).set()

    def _after_start(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        task = asyncio.get_running_loop().create_task(self._wait_and_do(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _wait_and_do(self, work: Callable[[], Awaitable[None]]) -> None:
        await self.started.wait()
        await work()

    async def _reload(self) -> None:
        await self._server.reload()

    async def _hand_over(self) -> None:
        if await self._server.hand_over() and not self.stop.is_set():
            self._stop()
