"""Log lines that strangers can cause, bounded: a few a minute are written whole, the others are counted.

Each kind of line has a `BoundedLog`. Per interval it writes one more line, which counts the lines that it left out. At
the level debug every line is written. So neither a port scan nor a flood of logins fills a disk, and on a quiet relay
every line is there.
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
"""Addresses that are counted apart within an interval; more are "1000 or more"."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many lines of one kind are written whole."""

    first: int = 20  # after a quiet interval
    later: int = 5  # by which the allowance grows again in each interval
    interval: float = 60.0  # seconds


USUAL: Final = Bounds()


class BoundedLog:
    """Lines with the event `event`; `more` is the event of the line that counts further ones. For the loop's thread.

    One network (/24 of IPv4, /48 of IPv6) gets at most half of the allowance, so that it cannot hide all others.
    """

    def __init__(self, event: str, more: str, *, level: int = logging.INFO, bounds: Bounds = USUAL) -> None:
        self._event = event
        self._more = more
        self._level = level
        self._bounds = bounds
        self._allowance = bounds.first  # lines that may still be written whole
        self._share = _half(bounds.first)  # of each network, in this interval
        self._networks: Counter[str] = Counter()  # lines in this interval, while there was an allowance
        self._kinds: Counter[str] = Counter()  # lines left out in this interval
        self._remotes: set[str] = set()  # theirs
        self._timer: asyncio.TimerHandle | None = None  # None in quiet times, with a whole allowance

    def write(self, kind: str, **facts: object) -> None:
        """Write a line, or count it under `kind`, a name for a member of the counting line.

        The line takes from the share of the network of `remote`, an IP address, where it is one of the facts.
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
        """Write the counts of the interval that runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._write_counts()

    def _has_share(self, remote: str | None) -> bool:
        """Take a line out of the share of an address's network; return whether there was one left."""
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
        """Write how many lines were left out, and begin anew; return whether there were any."""
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
