"""Hand-over: a new process of the same program takes the listening sockets before this one stops accepting.

It is started with this process's arguments, so it may be a newer version with newer settings. Once it is ready, this
process only disconnects its clients.
"""

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from socket import socket

import structlog
from structlog.typing import FilteringBoundLogger

from derper.config import FIRST_SOCKET, PREDECESSOR

_log: FilteringBoundLogger = structlog.get_logger()

START_SECONDS = 30.0
_OUT_OF_THE_WAY = 64
"""Descriptors below this number are reassigned in the successor."""


async def start(sockets: Mapping[str, socket]) -> int | None:
    """Start a successor on these sockets; return its process id, or None if it failed, which is logged.

    If the caller is cancelled, the successor is killed: otherwise it would keep serving on the same port.
    """
    ready, tell = os.pipe()
    try:
        successor = _spawn(sockets, tell)
    finally:
        os.close(tell)
    _log.info("starting a successor", pid=successor)
    serves = False
    try:
        serves = await _is_ready(ready)
    finally:
        os.close(ready)
        if not serves:
            with suppress(ProcessLookupError):
                os.kill(successor, signal.SIGKILL)
    if serves:
        _log.info("the successor is serving", pid=successor)
        return successor
    _log.error("the successor did not start; this process keeps serving", pid=successor)
    await asyncio.to_thread(os.waitpid, successor, 0)
    return None


def _spawn(sockets: Mapping[str, socket], tell: int) -> int:
    environment = dict(os.environ) | {
        PREDECESSOR: str(os.getpid()),
        "LISTEN_FDS": str(len(sockets)),
        "LISTEN_FDNAMES": ":".join(sockets),
    }
    # The successor must send watchdog notifications if this process has to. The manager learns the successor's process
    # id.
    environment.pop("LISTEN_PID", None)
    environment.pop("WATCHDOG_PID", None)
    # Copies above all target numbers, so that no target overwrites a source.
    sources = [
        fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for fd in (*map(socket.fileno, sockets.values()), tell)
    ]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, source, FIRST_SOCKET + at) for at, source in enumerate(sources)]
        return os.posix_spawn(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment, file_actions=actions)
    finally:
        for source in sources:
            os.close(source)


async def _is_ready(ready: int) -> bool:
    """Return whether the successor sent its byte; end of file without one means that it has ended."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(ready, readable.set)
    try:
        async with asyncio.timeout(START_SECONDS):
            await readable.wait()
        return bool(os.read(ready, 1))
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(ready)
