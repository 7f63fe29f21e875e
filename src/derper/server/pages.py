"""What is served over HTTP beside the relay (docs/protocol/http.md): one handler a path, no state."""

import html
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from derper._version import version
from derper.config import Config
from derper.protocol.upgrade import Refusal
from derper.server.access import may_see

POLICY: Final = (
    "default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'self'; "
    "block-all-mixed-content; object-src 'none'"
)
BROWSER_HEADERS: Final = {
    "Strict-Transport-Security": "max-age=63072000; includeSubDomains",
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
}
_NO_STORE: Final = "no-cache, no-store, must-revalidate, no-transform, max-age=0"
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9.:_-]{1,64}")

_HOME: Final = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>DERP relay</title></head>
<body>
<h1>DERP relay</h1>
<p>This is a <a href="https://tailscale.com/kb/1232/derp-servers">DERP</a> server: machines of a Tailscale or Headscale
network that cannot reach each other directly relay their packets, encrypted end to end, through it.</p>
{note}<p>derper {version}</p>
</body>
</html>
"""
_DISABLED: Final = "<p>The relay is <b>disabled</b> on this server.</p>\n"
_DEBUG: Final = '<p><a href="/debug/">Debug pages</a></p>\n'


def application(config: Config, debug: Iterable[web.AbstractRouteDef]) -> web.Application:
    """Give the application for the main listener; `debug` are the routes of the debug pages."""
    app = web.Application(middlewares=[_any_path])
    app.on_response_prepare.append(_drop_server_header)
    app.router.add_route("*", "/derp", _derp)
    app.router.add_route("*", "/derp/probe", _probe)
    app.router.add_route("*", "/derp/latency-check", _probe)
    app.router.add_route("*", "/generate_204", _generate_204)
    app.router.add_route("*", "/robots.txt", _robots)
    app.router.add_routes(debug)
    app.router.add_route("*", "/{anything:.*}", _home(config))
    return app


@web.middleware
async def _any_path(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer `OPTIONS *`, which asks for no page but whether anybody is there."""
    if request.raw_path != "*":
        return await handler(request)
    response = web.Response()
    response.headers.popall("Content-Type", None)
    return response


async def _drop_server_header(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)


async def _derp(request: web.Request) -> web.Response:
    refusal: Refusal | None = getattr(request.transport, "refusal", None)
    return _refuse(refusal or Refusal(404, "derp server disabled\n"))


def _refuse(refusal: Refusal) -> web.Response:
    return web.Response(status=refusal.status, body=refusal.body.encode(), headers=dict(refusal.headers))


async def _probe(request: web.Request) -> web.Response:
    if request.method not in ("GET", "HEAD"):
        return _refuse(Refusal(405, "only GET and HEAD are answered here\n"))
    response = web.Response(headers={"Access-Control-Allow-Origin": "*"})
    response.headers.popall("Content-Type", None)
    return response


async def _generate_204(request: web.Request) -> web.Response:
    headers = {"Cache-Control": _NO_STORE}
    challenge = request.headers.get("X-Tailscale-Challenge", "")
    if _CHALLENGE.fullmatch(challenge):
        headers["X-Tailscale-Response"] = f"response {challenge}"
    return web.Response(status=204, headers=headers)


async def _robots(_request: web.Request) -> web.Response:
    return web.Response(text="User-agent: *\nDisallow: /\n", headers=BROWSER_HEADERS)


def _home(config: Config) -> Callable[[web.Request], Awaitable[web.Response]]:
    home = config.pages.home
    note = "" if config.relay.enabled else _DISABLED

    async def show(request: web.Request) -> web.Response:
        if home not in ("", "blank"):
            return web.Response(status=302, headers={**BROWSER_HEADERS, "Location": home})
        debug = _DEBUG if may_see(request, config.pages.debug) else ""
        page = "" if home == "blank" else _HOME.format(note=note + debug, version=html.escape(version()))
        return web.Response(text=page, content_type="text/html", headers=BROWSER_HEADERS)

    return show
