"""Repeated admission checks of connected clients: a rejected client is sent the reason and disconnected.

Without an answer the client stays. Mesh peers are not checked. A check has one of two causes. Each client is checked
once per interval, spread evenly, so that the verifier's load is even. A key that left the list of allowed keys is
checked at once.
"""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Final

import structlog
from structlog.typing import FilteringBoundLogger

from derper.dataplane import CloseReason, DataPlane
from derper.protocol.keys import NodePublic
from derper.server.admission.allowlist import AllowList
from derper.server.admission.answers import ClientIdentity
from derper.server.admission.policy import AdmissionPolicy
from derper.server.life.reload import Facts, Reload, reload_all

_log: FilteringBoundLogger = structlog.get_logger()

LIST: Final = "the allowed keys"
IN_FLIGHT: Final = 16
IDLE_SECONDS: Final = 1.0
"""Interval between two checks for clients while none is connected."""


class Review:
    """The reviews of one server; `interval` is in seconds, and 0 disables the periodic check."""

    def __init__(self, plane: DataPlane, policy: AdmissionPolicy, interval: float) -> None:
        self._plane = plane
        self._policy = policy
        self._interval = interval
        self._turns = asyncio.Semaphore(IN_FLIGHT)
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the tasks that the configuration needs, and warn of daemons that are not reachable."""
        self._spawn(self._warn_of_unreachable())
        if self._interval > 0 and self._policy.asks_others:
            self._spawn(self._review_all())
        if self._policy.allow_list is not None:
            self._spawn(self._watch_list(self._policy.allow_list))

    async def stop(self) -> None:
        """Cancel all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def reload(self) -> Facts:
        """Read the list of allowed keys again, and disconnect clients whose key was removed.

        Raises:
            ConfigError: The list cannot be read; the old one stays in force.
        """
        allow_list = self._policy.allow_list
        if allow_list is None:
            return {}
        if removed := await allow_list.reload():
            await self._revoke(removed)
        return {"keys": len(allow_list.keys), "removed": len(removed)}

    async def _warn_of_unreachable(self) -> None:
        for text in await self._policy.unreachable():
            _log.warning(text)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _review_all(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            clients = await self._clients()
            begun, apart = loop.time(), self._interval / max(len(clients), 1)
            for number, client in enumerate(clients.values(), 1):
                await asyncio.sleep(begun + number * apart - loop.time())
                await self._turns.acquire()
                self._spawn(self._ask_about(client))
            if not clients:
                await asyncio.sleep(min(self._interval, IDLE_SECONDS))

    async def _watch_list(self, allow_list: AllowList) -> None:
        while True:
            await allow_list.changed()
            await reload_all([Reload(LIST, self.reload)])

    async def _revoke(self, removed: Iterable[NodePublic]) -> None:
        clients = await self._clients()
        for key in removed:
            if key in clients:
                await self._turns.acquire()
                self._spawn(self._ask_about(clients[key]))

    async def _clients(self) -> dict[NodePublic, ClientIdentity]:
        """Return all clients except mesh peers, one connection per key."""
        members = [(member, member.peer_present()) for member in await self._plane.members()]
        mesh_peers = {present.peer for member, present in members if member.is_mesh_peer}
        return {
            present.peer: ClientIdentity(present.peer, str(present.endpoint.ip), was_known=True)
            for _, present in members
            if present.peer not in mesh_peers and present.endpoint is not None
        }

    async def _ask_about(self, client: ClientIdentity) -> None:
        """Check a client, with a turn already taken, and disconnect it if it is refused."""
        try:
            answer = await self._policy.review(client)
        finally:
            self._turns.release()
        if answer is not None:
            _log.warning("client no longer admitted", key=client.key, remote=client.ip, reason=answer.reason)
            self._plane.close_key(client.key, CloseReason.REFUSED, answer.reason, frames=answer.rejection_frame)
