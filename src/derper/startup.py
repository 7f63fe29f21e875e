"""The first statements of both programs: standard descriptors, and signals until the event loop handles them.

It imports almost nothing, so it can run before slow imports. As PID 1 of a container, the kernel discards a signal
without a handler; elsewhere a SIGHUP without a handler ends the process.
"""

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_pending: "list[int]" = []  # signals received before the loop handles them
_deliver: "Callable[[int], object] | None" = None


def begin() -> None:
    """Open missing standard descriptors and install handlers for the signals that stop a program."""
    handle(*_STOPPING)
    open_standard_streams()


def handle(*numbers: int) -> None:
    """Handle these signals from this call until the process ends, never by the system's default.

    Outside the event loop, SIGTERM and SIGINT exit with code 0; the other signals are only recorded.
    """
    for number in numbers:
        signal.signal(number, _received)


def deliver(receive: "Callable[[int], object] | None") -> None:
    """Call `receive` for each signal from now on, and for each recorded one; pass None when the event loop ends."""
    global _deliver  # noqa: PLW0603  there is one set of handlers for the process
    _deliver = receive
    if receive is not None:
        noted = list(dict.fromkeys(_pending))
        _pending.clear()
        for number in noted:
            receive(number)


def _received(number: int, _frame: object) -> None:
    if _deliver is not None:
        _deliver(number)
    elif number in _STOPPING:
        _end()
    elif number not in _pending:
        _pending.append(number)


def restore_signals() -> None:
    """Restore Python's own handlers, for a tool: Ctrl-C raises KeyboardInterrupt."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def open_standard_streams() -> None:
    """Open /dev/null for each closed descriptor of 0, 1 and 2, as Go's programs do.

    Otherwise a socket would get such a number, and printed text would go to a client.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is the closed one
    # Python has no streams for descriptors that were closed at its start. These live as long as the process.
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _end() -> None:
    """Exit at once: an exception could be swallowed by the import or finalizer that the signal interrupts."""
    log = sys.modules.get("derper.log")
    if log is not None and hasattr(log, "flush"):  # else its import is incomplete, and nothing was logged
        log.flush()
    os._exit(0)
