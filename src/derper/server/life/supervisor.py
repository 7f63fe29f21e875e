"""Notifications to a service manager: ready, reloading, stopping, and the watchdog (sd_notify(3)).

The watchdog is notified only if the event loop runs *and* every shard has ticked since the last time. So a manager can
restart a server whose data plane alone hangs. Without a manager nothing is sent.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator

import structlog
from structlog.typing import FilteringBoundLogger

from derper.config import Supervision
from derper.dataplane import DataPlane

_log: FilteringBoundLogger = structlog.get_logger()


class Supervisor:
    """The service manager, if there is one."""

    def __init__(self, supervision: Supervision) -> None:
        self._address = supervision.notify_socket
        self._watchdog = supervision.watchdog
        self._ready_fd = supervision.ready_fd
        self._ticks: list[int] = []

    def tell(self, *states: str) -> None:
        """Send these lines to the service manager; a failure is logged."""
        if self._address is None:
            return
        # An abstract address starts with an @ in place of its zero byte.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto("\n".join(states).encode(), address)
            except OSError as error:
                _log.warning("cannot notify the service manager", reason=error.strerror)

    def ready(self) -> None:
        """Notify the service manager, and a predecessor, that the server is ready."""
        self.tell("READY=1", "STATUS=serving")
        if self._ready_fd is not None:
            with contextlib.suppress(OSError):  # the predecessor has ended
                os.write(self._ready_fd, b"!")
                os.close(self._ready_fd)
            self._ready_fd = None

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Notify the service manager of the start and the end of a reload."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.ready()

    async def watch(self, plane: DataPlane) -> None:
        """Send watchdog notifications while all threads run; return at once if no watchdog is set."""
        if self._watchdog is None or self._address is None:
            return
        while True:
            self.notify_watchdog(plane)
            await asyncio.sleep(self._watchdog / 3)

    def notify_watchdog(self, plane: DataPlane) -> None:
        """Send one notification, unless a shard has not ticked since the last check."""
        ticks, before = plane.pulse(), self._ticks
        stuck = [shard for shard, (now, then) in enumerate(zip(ticks, before, strict=False)) if now == then]
        self._ticks = ticks
        if stuck:
            _log.error("a shard is stuck; not sending the watchdog notification", shards=stuck)
        else:
            self.tell("WATCHDOG=1")
