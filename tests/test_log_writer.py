"""The log's thread: a blocked stream loses lines, without any other effect."""

import fcntl
import io
import logging
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import pytest
import structlog

from derper import log
from derper.logwriter import LogWriter

SECONDS = 20.0
SMALL = 4096  # capacity of a test's pipe in bytes


class Pipe:
    """A pipe whose other end reads only on request."""

    def __init__(self) -> None:
        self.reads, self.writes = os.pipe()
        fcntl.fcntl(self.writes, fcntl.F_SETPIPE_SZ, SMALL)
        self.stream: TextIO = os.fdopen(self.writes, "w")
        self.waiting = 0  # bytes in the pipe before the test's output

    def fill(self) -> None:
        os.set_blocking(self.writes, False)
        with suppress(BlockingIOError):
            while True:
                self.waiting += os.write(self.writes, b".")
        os.set_blocking(self.writes, True)

    def read_until(self, end: str) -> str:
        """Read until a text has arrived; return all after the initial filling."""
        text = b""
        while not text.endswith(end.encode()):
            text += os.read(self.reads, 65_536)
        return text[self.waiting :].decode()

    def close(self) -> None:
        os.close(self.reads)  # first: a blocked writer ends with an error
        self.stream.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def report(count: int) -> str:
    return f"dropped {count}\n"


def test_lines_are_written_in_order_also_when_the_stream_changes(pipe: Pipe) -> None:
    writer = LogWriter(report)
    again = os.fdopen(os.dup(pipe.writes), "w")
    for number in range(1000):
        writer.write(again if number % 2 else pipe.stream, f"{number}\n")
    assert pipe.read_until("999\n").split() == [str(number) for number in range(1000)]
    assert writer.flush(SECONDS)
    again.close()


def test_a_full_queue_drops_the_newest_lines_and_logs_their_number_in_place(pipe: Pipe) -> None:
    writer = LogWriter(report, max_bytes=1000)
    pipe.fill()
    began = time.monotonic()
    for number in range(1000):
        writer.write(pipe.stream, f"{number:09}\n")
    assert time.monotonic() - began < SECONDS  # no call waited, although the pipe is not read
    assert not writer.flush(0.01)
    assert writer.dropped == 900
    written = [int(line) for line in pipe.read_until("dropped 900\n").split("\n")[:-2]]
    assert written == list(range(100))
    writer.write(pipe.stream, "and on\n")
    assert writer.flush(SECONDS)
    assert writer.dropped == 900


def test_a_line_larger_than_the_queue_is_dropped_and_reported_with_the_next(pipe: Pipe) -> None:
    writer = LogWriter(report, max_bytes=100)
    writer.write(pipe.stream, "x" * 101)
    writer.write(pipe.stream, "next\n")
    assert pipe.read_until("dropped 1\n") == "next\ndropped 1\n"


def test_a_stream_that_fails_loses_only_its_own_lines(pipe: Pipe) -> None:
    writer = LogWriter(report)
    with open("/dev/full", "w") as full, io.StringIO() as closed:  # noqa: PTH123  a device
        writer.write(full, "no space\n")
        closed.close()
        writer.write(closed, "closed\n")
        writer.write(pipe.stream, "next\n")
        assert pipe.read_until("dropped 2\n") == "next\ndropped 2\n"
    assert writer.dropped == 2


def test_a_non_blocking_stream_is_waited_for(pipe: Pipe) -> None:
    writer = LogWriter(report)
    os.set_blocking(pipe.writes, False)
    lines = [f"{number:09}\n" for number in range(2 * SMALL // 10)]
    for line in lines:
        writer.write(pipe.stream, line)
    assert pipe.read_until(lines[-1]) == "".join(lines)
    assert writer.dropped == 0


def test_many_threads_write_whole_lines_each_in_its_order(pipe: Pipe) -> None:
    writer = LogWriter(report)

    def write(name: str) -> None:
        for number in range(200):
            writer.write(pipe.stream, f"{name}{number}\n")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    read = ""
    while read.count("\n") < 800:
        read += os.read(pipe.reads, 65_536).decode()
    for name in "abcd":
        assert [line for line in read.split() if line[0] == name] == [f"{name}{number}" for number in range(200)]
    for thread in threads:
        thread.join()


@contextmanager
def logging_to(stream: TextIO) -> Iterator[None]:
    """Configure the log, and restore all settings at the end."""
    root, before = logging.getLogger(), (sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning)
    handlers, level = root.handlers[:], root.level
    log.configure(stream)
    log.log_uncaught_errors()
    try:
        yield
    finally:
        sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = before
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


class _Unwilling:
    def __del__(self) -> None:
        raise ValueError("in a finalizer")


def test_output_of_python_and_libraries_uses_the_same_queue(pipe: Pipe) -> None:
    with logging_to(pipe.stream), warnings.catch_warnings():
        warnings.simplefilter("always")
        log.log_uncaught_errors()
        log.verbatim("as it is")
        logging.getLogger("other").warning("of a library")
        logging.getLogger("other").warning("%d", "no number")
        warnings.warn("of a module", stacklevel=1)
        thread = threading.Thread(target=int, args=("of a thread",))
        thread.start()
        thread.join()
        _Unwilling()
        structlog.get_logger().info("the end")
        lines = pipe.read_until('event="the end"\n').splitlines()
    wanted = [
        "as it is",
        "of a library",
        "a library's log record cannot be formatted",
        "of a module",
        "of a thread",
        "in a finalizer",
        "the end",
    ]
    assert len(lines) == len(wanted)
    assert [want in line for want, line in zip(wanted, lines, strict=True)] == [True] * len(wanted)


PROGRAM = """
import structlog, sys, time
from derper import log
log.configure()
log.log_uncaught_errors()
for number in range(200):
    structlog.get_logger().info("a line", number=number, more="x" * 100)
{last}
"""


@pytest.mark.parametrize(
    ("last", "code"), [("log.flush()", 0), ("raise RuntimeError('no way')", 1), ("log.flush(); sys.exit(3)", 3)]
)
def test_an_end_writes_queued_lines_and_does_not_wait_for_a_missing_reader(last: str, code: int, pipe: Pipe) -> None:
    program = [sys.executable, "-c", PROGRAM.format(last=last)]
    done = subprocess.run(program, stderr=subprocess.PIPE, text=True, timeout=SECONDS * 3, check=False)
    assert done.returncode == code
    lines = done.stderr.splitlines()
    assert [f" number={number} " in line for number, line in enumerate(lines[:200])] == [True] * 200
    assert ("no way" in done.stderr) is (code == 1)
    pipe.fill()
    assert subprocess.run(program, stderr=pipe.stream, timeout=SECONDS * 3, check=False).returncode == code
