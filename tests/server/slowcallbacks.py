"""Find callbacks that block the event loop: asyncio's debug mode logs each slow callback.

The bound leaves room for a machine that is ten times slower. A blocking call (to a pipe, a file system, a name server)
takes much longer.
"""

import asyncio
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

BOUND_SECONDS: Final = 2.0
_OURS: Final = re.compile(
    r"Executing <(?!.*/tests/).* took [\d.]+ seconds"
)  # a test's coroutine is shown with its file


def watch_loop() -> None:
    """Make asyncio log the callbacks of the running loop that take longer than the bound."""
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = BOUND_SECONDS
    loop.set_debug(True)


def slow_callbacks(log: str) -> list[str]:
    """Return the lines about the server's own slow callbacks."""
    return [line for line in log.splitlines() if _OURS.search(line)]


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def none_is_slow() -> Iterator[None]:
    """Fail if one of the server's callbacks, in the running loop, takes longer than the bound."""
    logger, handler = logging.getLogger("asyncio"), _Lines()
    watch_loop()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    slow = slow_callbacks("\n".join(handler.lines))
    assert not slow, slow
