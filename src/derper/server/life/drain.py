"""How a server leaves its clients: told, flushed, closed, and at a pace that those who take them over can bear.

With nowhere to send them it is over at once: they are told, all of them are closed, and the next start has them back.
With somebody to take them over, a node of the region that we are linked to or a successor on the same sockets, the
closes are spread, so that neither is overrun; links to the region end last, so that who has moved still reaches who
has not.
"""

import asyncio
import random
import time
from collections.abc import Callable

import structlog
from structlog.typing import FilteringBoundLogger

from derper.dataplane import Conn, DataPlane
from derper.protocol.frames import Restarting

_log: FilteringBoundLogger = structlog.get_logger()

REASON = "draining"
CLIENTS_A_SECOND = 500
"""That are sent away where somebody takes them over."""
LAST_WORDS = 0.3
"""Seconds in which the last frames have to leave."""
_TRY_FOR_MS = 60_000
_BEAT = 0.02
_LOOK_AGAIN = 0.01


async def drain(plane: DataPlane, *, taken_over: bool, still: Callable[[], bool], within: float) -> None:
    """Send every client away; returns when none is left, or when there is no more time for them. Nobody is accepted.

    `taken_over`: somebody takes them over now. `still`: and goes on to; when that is no more so, the rest is sent away
    at once.
    """
    began = time.monotonic()
    members = await plane.members()
    clients = [member.conn for member in members if not member.is_mesh_peer]
    spread = min(within, len(clients) / CLIENTS_A_SECOND) if taken_over else 0.0
    _log.info("draining", clients=len(clients), seconds=round(spread, 1), taken_over=taken_over)
    if spread:
        await _send_away(plane, clients, spread, still)
    plane.close_all(REASON, frames=_restarting())
    await _until(lambda: plane.table_counts().connections <= len(members) - len(clients), LAST_WORDS)
    plane.close_all(REASON, spare_mesh_peers=False)
    await _until(lambda: plane.table_counts().connections == 0, LAST_WORDS)
    _log.info("drained", left=plane.table_counts().connections, seconds=round(time.monotonic() - began, 1))


async def _send_away(plane: DataPlane, clients: list[Conn], seconds: float, still: Callable[[], bool]) -> None:
    random.shuffle(clients)  # or those of one shard would all go first
    began, sent = time.monotonic(), 0
    while sent < len(clients) and still():
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
    while not done() and time.monotonic() < deadline:  # noqa: ASYNC110  no event tells of the last one that leaves
        await asyncio.sleep(_LOOK_AGAIN)
