"""The debug pages: process, counts and checks (docs/protocol/http.md, metrics.md).

`access` decides which clients may see them. Collecting values on the event loop's thread takes the same time however
many clients are connected, apart from one pass over the keys. Calls to the kernel run in another thread.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias
from urllib.parse import urlencode

from aiohttp import web

from derper.config import Config
from derper.dataplane import DataPlane
from derper.metrics import exposition, expvar, process
from derper.server.admission.policy import AdmissionPolicy
from derper.server.debug.members import MemberPages
from derper.server.debug.metrics import Metrics
from derper.server.debug.overview import Overview
from derper.server.http.pages import ANYTHING, redirect
from derper.web import headers
from derper.web.access import may_see, remote_address
from derper.web.look import LIVE_SCRIPT, STYLESHEET

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_NO_SNIFFING: Final = {"X-Content-Type-Options": "nosniff"}


@dataclass(frozen=True, slots=True)
class DebugPages:
    """The debug pages of one server; `routes` returns their routes."""

    config: Config
    metrics: Metrics
    policy: AdmissionPolicy
    plane: DataPlane
    overview: Overview

    def public_routes(self) -> list[web.RouteDef]:
        """Return the routes for the public ports, which check access."""
        return self._routes(self._guarded)

    def routes(self) -> list[web.RouteDef]:
        """Return the routes for a listener that has checked access."""
        return self._routes(lambda page, **_: page)

    def _routes(self, guarded: Callable[..., Handler]) -> list[web.RouteDef]:
        """Return the routes below `/debug`; the last one matches all other paths there."""
        return [
            web.route("*", "/debug", _redirect_to_index),
            web.route("*", "/debug/", guarded(self._index)),
            web.route("*", "/debug/live", guarded(self._live)),
            web.route("*", "/debug/live.js", guarded(_file(LIVE_SCRIPT, "text/javascript"))),
            web.route("*", "/debug/look.css", guarded(_file(STYLESHEET, "text/css"))),
            web.route("*", "/debug/clients", _redirect_to_clients),
            *(web.route("*", f"/debug/{name}", guarded(page, hint=True)) for name, _, page in self._pages()),
            web.route("*", f"/debug/{ANYTHING}", guarded(_nothing)),
        ]

    def _pages(self) -> list[tuple[str, str, Handler]]:
        members = MemberPages(self.plane, headers.DEBUG)
        return [
            ("vars", "Metrics (JSON)", self._vars),
            ("varz", "Metrics (Prometheus)", self._varz),
            ("check", "Consistency check", self._check),
            ("traffic", "Traffic by connection, as it goes", members.traffic),
            ("clients/", "Connected clients", members.clients),
        ]

    def _guarded(self, page: Handler, *, hint: bool = False) -> Handler:
        async def show(request: web.Request) -> web.StreamResponse:
            if await may_see(request, self.config.public_debug):
                return await page(request)
            how = f"; to permit access, set TS_ALLOW_DEBUG_IP={remote_address(request)}"
            text = f"debug access denied{how if hint and self.config.dev and self.config.admin is None else ''}\n"
            return web.Response(status=403, text=text, headers=_NO_SNIFFING)

        return show

    async def _index(self, request: web.Request) -> web.Response:
        key = request.query.get("debugkey")  # repeated in every address that the page loads
        query = f"?{urlencode({'debugkey': key})}" if key and request.method == "GET" else ""
        links = [(f"/debug/{name}", title) for name, title, _ in self._pages()]
        text = self.overview.page(links, query)
        return web.Response(text=text, content_type="text/html", headers=headers.PUBLIC)

    async def _live(self, _request: web.Request) -> web.Response:
        return web.json_response(self.overview.live(), headers=headers.DEBUG)

    async def _varz(self, _request: web.Request) -> web.Response:
        process_families = await asyncio.to_thread(lambda: [*process.server_families(), *process.library_families()])
        text = exposition.text([*self.metrics.families(), *process_families])
        return web.Response(text=text, headers=headers.DEBUG)

    async def _vars(self, _request: web.Request) -> web.Response:
        process_families = await asyncio.to_thread(lambda: [*process.server_families()])
        members = {"cmdline": process.command_line(), **expvar.variables([*self.metrics.families(), *process_families])}
        return web.Response(
            text=f"{json.dumps(members, indent=1)}\n", content_type="application/json", headers=headers.DEBUG
        )

    async def _check(self, _request: web.Request) -> web.Response:
        if found := [*self.metrics.violations(), *await self.policy.faults(), *self.overview.problems()]:
            return web.Response(status=500, text=", ".join(found), headers=headers.DEBUG)
        return web.Response(text="derp.Server ConsistencyCheck okay", headers=headers.DEBUG)


def _file(text: str, kind: str) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(text=text, content_type=kind, headers=headers.DEBUG)

    return handle


async def _redirect_to_index(request: web.Request) -> web.Response:
    return _redirect("/debug/", request)


async def _redirect_to_clients(request: web.Request) -> web.Response:
    return _redirect("/debug/clients/", request)


def _redirect(path: str, request: web.Request) -> web.Response:
    _, mark, query = request.raw_path.partition("?")
    return redirect(request, HTTPStatus.TEMPORARY_REDIRECT, f"{path}{mark}{query}")


async def _nothing(_request: web.Request) -> web.Response:
    return web.Response(status=404, text="404 page not found\n", headers=_NO_SNIFFING)
