"""A new process of the same program that takes over from this one without a gap: it accepts on the same sockets first.

It is started with the words that this one was started with, so it may be a newer version with newer settings. Once it
says that it serves, this one has nothing left to do but to send its clients away.
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
"""Descriptors below this are given out anew in the successor."""


async def start(sockets: Mapping[str, socket]) -> int | None:
    """Start a successor that serves on these sockets and return its process id; None if it does not, which is logged.

    If the caller is cancelled, the successor is killed: it would be left behind, serving on the same port.
    """
    ready, tell = os.pipe()
    try:
        successor = _spawn(sockets, tell)
    finally:
        os.close(tell)
    _log.info("starting a successor", pid=successor)
    serves = False
    try:
        serves = await _says_ready(ready)
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
    # A sign of life is wanted of the process that it was wanted of, which the service manager will hear is another.
    environment.pop("LISTEN_PID", None)
    environment.pop("WATCHDOG_PID", None)
    # Copies that no target number can hit before they were copied.
    sources = [
        fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _OUT_OF_THE_WAY) for fd in (*map(socket.fileno, sockets.values()), tell)
    ]
    try:
        actions = [(os.POSIX_SPAWN_DUP2, source, FIRST_SOCKET + at) for at, source in enumerate(sources)]
        return os.posix_spawn(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment, file_actions=actions)
    finally:
        for source in sources:
            os.close(source)


async def _says_ready(ready: int) -> bool:
    """Wait for its byte; the end without one means that it has ended."""
    loop = asyncio.get_running_loop()
    said = asyncio.Event()
    loop.add_reader(ready, said.set)
    try:
        async with asyncio.timeout(START_SECONDS):
            await said.wait()
        return bool(os.read(ready, 1))
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(ready)
