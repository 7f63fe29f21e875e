"""A bounded queue of log lines, and the thread that writes them: a blocked log never blocks the program.

`derper.log` owns the only writer of a process. `write` never blocks, and any thread may call it. Lines keep their
order, also when the stream changes. When the queue is full, new lines are dropped and counted until half of it is
written; then a line reports the number of dropped lines. It never raises if a stream fails.
"""

import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, TextIO

MAX_QUEUED_BYTES: Final = 4 << 20
"""Maximum bytes of queued lines, about ten thousand lines."""
_POLL_SECONDS: Final = 0.001


class LogWriter:
    """Writes lines to streams in its own thread.

    Args:
        report: Returns the line for a number of dropped lines; called in the writer's thread.
        max_bytes: Maximum queued bytes.
    """

    def __init__(self, report: Callable[[int], str], max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self._report = report
        self._max_bytes = max_bytes
        self._queue: SimpleQueue[tuple[TextIO, bytes]] = SimpleQueue()
        # Reentrant, because the garbage collector may log (asyncio's "never retrieved") while this thread has the lock.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._accepted = 0  # bytes queued since the start
        self._finished = 0  # bytes of these that were written or lost; at most `_accepted`
        self._is_dropping = False  # true from a full queue until half of it is written
        self._unreported = 0  # lines dropped since the last report
        self.dropped = 0
        """Lines dropped since the start: the queue was full, or the stream failed."""

    def write(self, stream: TextIO, text: str) -> None:
        """Queue text for a stream, or drop it if the queue is full."""
        data = text.encode("utf-8", "backslashreplace")
        with self._lock:
            waiting = self._accepted - self._finished
            if self._is_dropping or waiting + len(data) > self._max_bytes:
                self._is_dropping = waiting > 0
                self._drop()
                return
            self._put(stream, data)
            if self._thread is None:
                self._start()

    def flush(self, seconds: float) -> bool:
        """Wait until all lines that are queued now are written, at most `seconds`; return whether they are.

        It takes no lock, so a signal handler may call it at any moment.
        """
        wanted, deadline = self._accepted, time.monotonic() + seconds
        while self._finished < wanted:
            if time.monotonic() >= deadline:
                return False
            # `time.sleep` uses an absolute time, which is invalid under the faketime library.
            select.select((), (), (), _POLL_SECONDS)
        return True

    def _drop(self) -> None:
        self.dropped += 1
        self._unreported += 1

    def _put(self, stream: TextIO, data: bytes) -> None:
        self._accepted += len(data)
        self._queue.put((stream, data))

    def _start(self) -> None:
        # A daemon thread, so that a blocked stream cannot keep the interpreter from ending.
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no thread can be started: write a start-up error directly
            self._thread = None
            self._write_next()

    def _run(self) -> None:
        while True:
            self._write_next()

    def _write_next(self) -> None:
        stream, data = self._queue.get()
        try:
            _write_all(stream, data)
            is_written = True
        except Exception:  # noqa: BLE001  an exception of a stream must not end the thread, and cannot be logged
            is_written = False
        with self._lock:
            self._finished += len(data)
            if not is_written:
                self._drop()
            elif self._unreported and self._accepted - self._finished <= self._max_bytes // 2:
                self._report_dropped(stream)

    def _report_dropped(self, stream: TextIO) -> None:
        count, self._unreported, self._is_dropping = self._unreported, 0, False
        self._put(stream, self._report(count).encode("utf-8", "backslashreplace"))


def _write_all(stream: TextIO, data: bytes) -> None:
    """Write to the stream's descriptor, without Python's buffers.

    If a thread is blocked in these buffers, the interpreter aborts when it flushes them at its end.
    """
    try:
        fd = stream.fileno()
    except (OSError, ValueError):  # an in-memory stream; a closed one raises again
        stream.write(data.decode("utf-8"))
        stream.flush()
        return
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # another program on the same terminal has made it non-blocking
            _wait_until_writable(fd)


def _wait_until_writable(fd: int) -> None:
    waiting = select.poll()
    waiting.register(fd, select.POLLOUT)
    with contextlib.suppress(InterruptedError):
        waiting.poll()
