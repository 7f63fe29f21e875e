"""Health messages to impaired clients (docs/limits.md).

The data plane reports an impairment after ten seconds, and at most once a minute. A client shows one Health message at
a time, so each message lists all impairments of its key. An empty message ends them.
"""

from typing import Final

from derper.dataplane import ClientImpaired, Conn, DataPlane
from derper.protocol.frames import Health
from derper.protocol.keys import NodePublic
from derper.server.bounded_log import BoundedLog

_PROBLEMS: Final = {
    "limited": "this relay limits this device's sending rate, and the device is over the limit",
    "fighting": "another device uses the same node key, so both lose packets; log out and in again on one of them",
}


class ImpairmentNotices:
    """Impairments by key, kept until the data plane reports their end.

    All connections of a key are notified: devices that share a key are different devices, each with a user.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._lines = BoundedLog("client impaired", "more clients impaired")
        self._now: dict[NodePublic, set[tuple[Conn, str]]] = {}

    def on_impaired(self, event: ClientImpaired) -> None:
        """Record a change and notify the key's connections."""
        key, impairment = NodePublic(event.key), (event.conn, event.how)
        impairments = self._now.setdefault(key, set())
        if event.is_over:
            impairments.discard(impairment)
        else:
            impairments.add(impairment)
            self._lines.write(event.how, key=key, how=event.how)
        if not impairments:
            del self._now[key]
        problems = sorted({_PROBLEMS[how] for _, how in impairments})
        self._plane.write_to(key, Health("; ".join(problems)).encode())

    def stop(self) -> None:
        """Write the counts of the omitted log lines."""
        self._lines.stop()
