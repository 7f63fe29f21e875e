"""Log lines about clients and closed connections; each line that strangers can cause is bounded."""

import logging
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from derper.dataplane import Closed, CloseReason, Dropped
from derper.protocol.keys import NodePublic
from derper.server.admission.answers import Answer
from derper.server.bounded_log import BoundedLog, Bounds

_log: FilteringBoundLogger = structlog.get_logger()

_IN_ORDER: Final = frozenset({CloseReason.IDLE, CloseReason.DONE, CloseReason.ACME_CHALLENGE})
"""Codes of connections that ended normally before a login; never logged."""

_SCANS: Final = Bounds(first=1, later=0)
_OUTAGES: Final = Bounds(first=1, later=1)


class ConnectionLog:
    """The log lines of one server's connections; used from the loop's thread alone."""

    def __init__(self) -> None:
        self._gone = BoundedLog("client gone", "more clients gone")
        self._rejected = BoundedLog("client rejected", "more clients rejected", level=logging.WARNING)
        self._closed = BoundedLog("connection closed", "more connections closed before login", bounds=_SCANS)
        self._bugs = BoundedLog(
            "internal error (a bug in derper); closing the connection",
            "more connections closed by a bug",
            level=logging.ERROR,
        )
        self._dropped = BoundedLog("packet dropped", "more packets dropped")
        self._accept_failed = BoundedLog(
            "cannot accept connections; retrying in 1 s", "accepting connections failed again",
            level=logging.ERROR, bounds=_OUTAGES,
        )  # fmt: skip
        self._stun_failed = BoundedLog(
            "cannot read STUN requests; retrying", "reading STUN requests failed again",
            level=logging.ERROR, bounds=_OUTAGES,
        )  # fmt: skip

    def logged_in(self, key: NodePublic, ip: str, *, mesh_peer: bool) -> None:
        """Log a login at the level debug."""
        _log.debug("client logged in", key=key, remote=ip, mesh_peer=mesh_peer)

    def rejected(self, key: NodePublic, ip: str, answer: Answer) -> None:
        """Log a login that admission rejected."""
        self._rejected.write(answer.cause, key=key, remote=ip, reason=answer.reason)

    def ended(self, event: Closed, *, was_rejected: bool, was_tunnel: bool) -> None:
        """Log the end of a connection, except of a rejected login or of a tunnel that was not evicted."""
        ip, detail = event.remote.ip, event.detail or None
        if event.key is not None:
            key = NodePublic(event.key)
            self._gone.write(event.code, key=key, remote=ip, reason=event.code, detail=detail, **event.totals._asdict())
        elif was_rejected:
            _log.debug("connection closed", remote=ip, reason=event.code, detail=detail)
        elif event.code == CloseReason.EVICTED or (event.code not in _IN_ORDER and not was_tunnel):
            self._closed.write(event.code, remote=ip, reason=event.code, detail=detail)

    def bug(self, event_type: str) -> None:
        """Log the exception that is being handled, which is a bug."""
        self._bugs.write(event_type, event_type=event_type, exc_info=True)

    def dropped(self, event: Dropped) -> None:
        """Log a dropped packet whose destination is listed in `TS_DEBUG_VERBOSE_DROPS`."""
        self._dropped.write(event.reason, to=NodePublic(event.to), reason=event.reason, bytes=event.bytes)

    def accept_failed(self, error: str) -> None:
        """Log that connections cannot be accepted at the moment."""
        self._accept_failed.write("failures", reason=error)

    def stun_failed(self, error: str) -> None:
        """Log that the STUN socket cannot be read."""
        self._stun_failed.write("failures", reason=error)

    def stop(self) -> None:
        """Write the counts of all omitted lines."""
        for lines in (
            self._gone, self._rejected, self._closed, self._bugs,
            self._dropped, self._accept_failed, self._stun_failed,
        ):  # fmt: skip
            lines.stop()
