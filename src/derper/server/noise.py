"""The noise of an open port, folded: how connections of strangers end is told in one line a minute.

Port scanners and broken clients come in floods, so the first to end badly after a quiet minute is told at once, with
all that is known of it, and whoever follows within a minute is counted. At the level debug each is a line of its own.
"""

import asyncio
from collections import Counter
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

_log: FilteringBoundLogger = structlog.get_logger()

INTERVAL: Final = 60.0
_MOST_REMOTES: Final = 1_000
"""Addresses that are told apart within a minute; more are "1000 or more"."""


class Noise:
    """What is folded; used from the loop's thread alone."""

    def __init__(self, interval: float = INTERVAL) -> None:
        self._interval = interval
        self._reasons = Counter[str]()
        self._remotes: set[str] = set()
        self._turn: asyncio.TimerHandle | None = None  # there while the minute runs

    def heard(self, remote: str, reason: str, detail: str) -> None:
        """Take note of a connection that ended before anybody had logged in on it."""
        facts = {"remote": remote, "reason": reason, "detail": detail or None}
        if self._turn is None:
            _log.info("connection closed", **facts)
            self._turn = asyncio.get_running_loop().call_later(self._interval, self._next_minute)
            return
        _log.debug("connection closed", **facts)
        self._reasons[reason] += 1
        if len(self._remotes) < _MOST_REMOTES:
            self._remotes.add(remote)

    def stop(self) -> None:
        """Tell what was counted last."""
        if self._turn is not None:
            self._turn.cancel()
            self._tell()

    def _next_minute(self) -> None:
        was_noisy = self._tell()
        self._turn = asyncio.get_running_loop().call_later(self._interval, self._next_minute) if was_noisy else None

    def _tell(self) -> bool:
        """Say how many there were and begin anew; whether there was anything to say."""
        if not self._reasons:
            return False
        _log.info(
            "more connections closed before anybody logged in", count=self._reasons.total(),
            remotes=len(self._remotes), **dict(self._reasons.most_common()),
        )  # fmt: skip
        self._reasons.clear()
        self._remotes.clear()
        return True
