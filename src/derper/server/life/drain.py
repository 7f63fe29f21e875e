"""Draining: clients get a Restarting frame and are disconnected, at a rate that other servers can accept.

If no other server can take the clients, all are notified and disconnected at once, and reconnect to the next process. A
linked node of the region, or a successor on the same sockets, can take them. Then the disconnections are spread, so
that the other server is not overloaded. Links to the region are closed last: clients that have moved can still reach
those that have not.
"""

import asyncio
import random
import time
from collections.abc import Callable

import structlog
from structlog.typing import FilteringBoundLogger

from derper.dataplane import CloseReason, Conn, DataPlane
from derper.protocol.frames import Restarting

_log: FilteringBoundLogger = structlog.get_logger()

REASON = CloseReason.DRAINING
CLIENTS_A_SECOND = 500
"""Clients disconnected per second if another server takes them."""
LAST_FRAMES_SECONDS = 0.3
"""Seconds for the last frames to be sent."""
_TRY_FOR_MS = 60_000
_BEAT = 0.02
_LOOK_AGAIN = 0.01


async def drain(plane: DataPlane, *, taken_over: bool, can_take: Callable[[], bool], within: float) -> None:
    """Stop accepting, and disconnect all clients; return when none is left or `within` seconds have passed.

    With `taken_over`, another server can take the clients now. `can_take` returns whether it still can; once it returns
    False, the remaining clients are disconnected at once.
    """
    began = time.monotonic()
    members = await plane.members()
    clients = [member.conn for member in members if not member.is_mesh_peer]
    spread = min(within, len(clients) / CLIENTS_A_SECOND) if taken_over else 0.0
    _log.info("draining", clients=len(clients), seconds=round(spread, 1), taken_over=taken_over)
    if spread:
        await _disconnect(plane, clients, spread, can_take)
    plane.close_all(REASON, frames=_restarting())
    await _until(lambda: plane.table_counts().connections <= len(members) - len(clients), LAST_FRAMES_SECONDS)
    plane.close_all(REASON, spare_mesh_peers=False)
    await _until(lambda: plane.table_counts().connections == 0, LAST_FRAMES_SECONDS)
    _log.info("drained", left=plane.table_counts().connections, seconds=round(time.monotonic() - began, 1))


async def _disconnect(plane: DataPlane, clients: list[Conn], seconds: float, can_take: Callable[[], bool]) -> None:
    random.shuffle(clients)  # else all clients of one shard would be first
    began, sent = time.monotonic(), 0
    while sent < len(clients) and can_take():
        share = min(1.0, (time.monotonic() - began) / seconds)
        due = max(sent + 1, int(len(clients) * share))
        for client in clients[sent:due]:
            plane.write(client, _restarting())
            plane.close(client, REASON)
        sent = due
        await asyncio.sleep(_BEAT)


def _restarting() -> bytes:
    return Restarting(reconnect_in_ms=0, try_for_ms=_TRY_FOR_MS).encode()


async def _until(done: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:  # noqa: ASYNC110  no event marks the last disconnection
        await asyncio.sleep(_LOOK_AGAIN)
