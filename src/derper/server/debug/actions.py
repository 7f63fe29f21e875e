"""What an operator may do to a running server over the admin listener, beside reloading: `derper ctl` asks for it.

Each is a POST whose words stand in the query. What is wrong with them is told in a line, with 400.
"""

import os
import signal
from typing import Final

import structlog
from aiohttp import web
from structlog.typing import FilteringBoundLogger

from derper.dataplane import DataPlane
from derper.errors import ProtocolError
from derper.protocol.frames import Health
from derper.protocol.keys import NodePublic

_log: FilteringBoundLogger = structlog.get_logger()

LONGEST_TEXT: Final = 1_000  # characters


class Actions:
    """The actions on one data plane, and on this process."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def routes(self) -> list[web.RouteDef]:
        """Give them for the admin listener."""
        return [
            web.post("/drain", self._drain),
            web.post("/disconnect", self._disconnect),
            web.post("/health", self._health),
        ]

    async def _drain(self, _request: web.Request) -> web.Response:
        """Do what SIGTERM does; asked again, end at once, as it does then."""
        _log.info("told to drain by the operator")
        os.kill(os.getpid(), signal.SIGTERM)
        return web.json_response({"draining": True}, status=202)

    async def _disconnect(self, request: web.Request) -> web.Response:
        """Close all connections of a key. Nothing keeps it from coming back."""
        try:
            key = NodePublic.from_text(request.query.get("key", ""))
        except ProtocolError as error:
            return web.Response(status=400, text=f"key: {error}\n")
        here = sum(member.who().peer == key for member in await self._plane.members())
        self._plane.close_key(key, "operator", "disconnected by the operator")
        _log.info("disconnected by the operator", key=key, connections=here)
        return web.json_response({"key": str(key), "connections": here}, status=200 if here else 404)

    async def _health(self, request: web.Request) -> web.Response:
        """Have all clients show their users a text; without one, that all is well again."""
        text = request.query.get("text", "")
        if len(text) > LONGEST_TEXT:
            return web.Response(status=400, text=f"text: wanted at most {LONGEST_TEXT:,} characters\n")
        self._plane.write_all(Health(text).encode())
        _log.info("told all clients by the operator", text=text)
        return web.json_response({"text": text})
