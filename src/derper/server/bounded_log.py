"""Bounds for log lines that strangers can cause: a few lines a minute are written, the others are counted.

Each kind of line has a `BoundedLog`. Once per interval it writes one more line with the number of omitted lines. At the
level debug every line is written. So a port scan or a flood of logins cannot fill a disk, and a quiet relay logs every
line.
"""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from derper.server.admission.turns import network_of

_log: FilteringBoundLogger = structlog.get_logger()

_MOST_REMOTES: Final = 1_000
"""Addresses counted separately within an interval; 1000 means "1000 or more"."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The number of lines of one kind that are written."""

    first: int = 20  # after a quiet interval
    later: int = 5  # added to the allowance after each interval
    interval: float = 60.0  # seconds


USUAL: Final = Bounds()


class BoundedLog:
    """A bounded kind of line with the event `event`; the event of its counting line is `more`.

    One network (/24 of IPv4, /48 of IPv6) gets at most half of the allowance, so that it cannot suppress the lines of
    all others. For the loop's thread.
    """

    def __init__(self, event: str, more: str, *, level: int = logging.INFO, bounds: Bounds = USUAL) -> None:
        self._event = event
        self._more = more
        self._level = level
        self._bounds = bounds
        self._allowance = bounds.first  # lines that may still be written
        self._share = _half(bounds.first)  # the lines of each network in this interval
        self._networks: Counter[str] = Counter()  # lines in this interval, counted while the allowance lasted
        self._kinds: Counter[str] = Counter()  # omitted lines in this interval
        self._remotes: set[str] = set()  # their addresses
        self._timer: asyncio.TimerHandle | None = None  # None if the allowance is full

    def write(self, kind: str, **facts: object) -> None:
        """Write a line, or count it under `kind`, which names a member of the counting line.

        If `facts` contain `remote` (an IP address), the line counts against the share of its network.
        """
        remote = str(facts["remote"]) if "remote" in facts else None
        if self._timer is None:
            self._begin()
        if self._allowance and self._has_share(remote):
            self._allowance -= 1
            _log.log(self._level, self._event, **facts)
            return
        _log.debug(self._event, **facts)
        self._kinds[kind] += 1
        if remote is not None and len(self._remotes) < _MOST_REMOTES:
            self._remotes.add(remote)

    def stop(self) -> None:
        """Write the counts of the current interval."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._write_counts()

    def _has_share(self, remote: str | None) -> bool:
        """Count a line against the share of the address's network; return whether the share was not used up."""
        if remote is None:
            return True
        network = network_of(remote)
        self._networks[network] += 1
        return self._networks[network] <= self._share

    def _begin(self) -> None:
        self._share = _half(self._allowance)
        self._networks.clear()
        self._timer = asyncio.get_running_loop().call_later(self._bounds.interval, self._end)

    def _end(self) -> None:
        left_out = self._write_counts()
        later = self._bounds.later if left_out else max(self._bounds.later, 1)
        self._allowance = min(self._bounds.first, self._allowance + later)
        if left_out or self._allowance < self._bounds.first:
            self._begin()
        else:
            self._timer = None

    def _write_counts(self) -> bool:
        """Write the number of omitted lines and reset it; return whether it was above zero."""
        if not self._kinds:
            return False
        remotes = {"remotes": len(self._remotes)} if self._remotes else {}
        kinds = dict(self._kinds.most_common())
        _log.log(self._level, self._more, count=self._kinds.total(), **remotes, **kinds)
        self._kinds.clear()
        self._remotes.clear()
        return True


def _half(lines: int) -> int:
    return (lines + 1) // 2
