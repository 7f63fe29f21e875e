"""What clients are told of their own hard times (docs/limits.md).

The data plane says who struggles, after ten seconds of it and once a minute at most; here are the words. A client
shows one problem at a time, so each message has all that its key struggles with; an empty one says that it is
over.
"""

from typing import Final

from derper.dataplane import ClientImpaired, Conn, DataPlane
from derper.protocol.frames import Health
from derper.protocol.keys import NodePublic
from derper.server.bounded_log import BoundedLog

_PROBLEMS: Final = {
    "limited": "this relay limits how much this device may send, and it wants to send more",
    "fighting": "another device has this one's key, and they take each other's packets; log one of them in anew",
}


class ImpairmentNotices:
    """Who struggles now, by key; as many as the data plane says, and forgotten when it says so.

    All connections of a key are told, because those that fight for it are different devices, each with a user.
    """

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self._lines = BoundedLog("client struggles", "more clients struggle")
        self._now: dict[NodePublic, set[tuple[Conn, str]]] = {}

    def heard(self, event: ClientImpaired) -> None:
        """Take what the data plane says, and tell whom it is about."""
        key, struggle = NodePublic(event.key), (event.conn, event.how)
        struggles = self._now.setdefault(key, set())
        if event.is_over:
            struggles.discard(struggle)
        else:
            struggles.add(struggle)
            self._lines.write(event.how, key=key, how=event.how)
        if not struggles:
            del self._now[key]
        problems = sorted({_PROBLEMS[how] for _, how in struggles})
        self._plane.write_to(key, Health("; ".join(problems)).encode())

    def stop(self) -> None:
        """Write the counts of the lines that were left out of the log."""
        self._lines.stop()
