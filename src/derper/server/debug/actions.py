"""Actions on a running server over the admin listener, used by `derper ctl`; reloading is in `life`.

Each is a POST with its arguments in the query. An invalid argument is answered with 400 and a line of text.
"""

import os
import signal
from collections.abc import Iterable
from typing import Final

import structlog
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from derper.dataplane import CloseReason, DataPlane
from derper.errors import ProtocolError
from derper.protocol.frames import Health
from derper.protocol.keys import NodePublic, node_key_prefix

_log: FilteringBoundLogger = structlog.get_logger()

LONGEST_TEXT: Final = 1_000  # characters


class Actions:
    """The actions on one data plane, and on this process."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def routes(self) -> list[web.RouteDef]:
        """Return the routes of the admin listener."""
        return [
            web.post("/drain", self._drain),
            web.post("/disconnect", self._disconnect),
            web.post("/health", self._health),
        ]

    async def _drain(self, _request: web.Request) -> web.Response:
        """Drain as after SIGTERM; a second request ends the server at once, as a second SIGTERM does."""
        _log.info("drain requested by the operator")
        os.kill(os.getpid(), signal.SIGTERM)
        return web.json_response({"draining": True}, status=202)

    async def _disconnect(self, request: web.Request) -> web.Response:
        """Close all connections of a key, or of the only connected key with this prefix. The client may reconnect."""
        text = request.query.get("key", "")
        try:
            prefix = node_key_prefix(text)
        except ProtocolError as error:
            return web.Response(status=400, text=f"key: {error}\n")
        connected = [member.peer_present().peer for member in await self._plane.members()]
        found = with_prefix(prefix, connected)
        if len(found) != 1:
            return web.json_response(
                {"key": text, "connections": 0, "matches": list(map(str, found))}, status=409 if found else 404
            )
        (key,) = found
        here = connected.count(key)
        self._plane.close_key(key, CloseReason.OPERATOR, "client disconnected by the operator")
        _log.info("client disconnected by the operator", key=key, connections=here)
        return web.json_response({"key": str(key), "connections": here}, status=200 if here else 404)

    async def _health(self, request: web.Request) -> web.Response:
        """Send all clients a Health message for their users; without a text, one that ends the problem."""
        text = request.query.get("text", "")
        if len(text) > LONGEST_TEXT:
            return web.Response(status=400, text=f"text: wanted at most {LONGEST_TEXT:,} characters\n")
        self._plane.write_all(Health(text).encode())
        _log.info("message sent to all clients by the operator", text=text)
        return web.json_response({"text": text})


def with_prefix(prefix: str, keys: Iterable[NodePublic]) -> list[NodePublic]:
    """Return the distinct keys whose hex form begins with the prefix, in order."""
    return sorted({key for key in keys if key.hex().startswith(prefix)}, key=str)
