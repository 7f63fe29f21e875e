"""Pages on the public ports (docs/protocol/http.md): one handler per path, no state.

`application` is for the main listener; `port80` and `debug` have their own pages, and use the helpers here.
"""

import html
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from derper._version import version
from derper.config import Config
from derper.protocol.upgrade import Refusal
from derper.web import headers, look
from derper.web.access import may_see

_NO_STORE: Final = "no-cache, no-store, must-revalidate, no-transform, max-age=0"
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9.:_-]{1,64}")

_HOME: Final = """<section class="card">
<h1>DERP relay</h1>
<p>This is a <a href="https://tailscale.com/kb/1232/derp-servers">DERP</a> server: machines of a Tailscale or Headscale
network that cannot reach each other directly relay their packets, encrypted end to end, through it.</p>
{note}<p class="faint small">derper {version}</p>
</section>
"""
_ABUSE: Final = '<p>If you suspect abuse, write to <a href="mailto:security@tailscale.com">Tailscale</a>.</p>\n'
_TAILSCALES: Final = re.compile(r"derp[^.]*\.tailscale\.com\.?")
_STYLE: Final = "/derper.css"
_DISABLED: Final = "<p>The relay is <b>disabled</b> on this server.</p>\n"
_DEBUG: Final = '<p><a href="/debug/">Debug pages</a></p>\n'


def application(config: Config, further: Iterable[web.AbstractRouteDef]) -> web.Application:
    """Return the application for the main listener; `further` are routes of other modules."""
    routes = [
        web.route("*", "/derp", _derp),
        web.route("*", "/derp/probe", _probe),
        web.route("*", "/derp/latency-check", _probe),
        NO_CONTENT,
        web.route("*", "/robots.txt", _robots),
        web.route("*", _STYLE, _style),
        *further,
        web.route("*", f"/{ANYTHING}", home(config)),
    ]
    return application_of(routes)


def application_of(routes: Iterable[web.AbstractRouteDef]) -> web.Application:
    """Return an application with these routes, and with the path and header rules of all our applications."""
    app = web.Application(middlewares=[_any_path])
    app.on_response_prepare.append(_drop_server_header)
    app.router.add_routes(routes)
    return app


@web.middleware
async def _any_path(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer `OPTIONS *`, which has no page, and redirect a path that is not in plain form."""
    if request.raw_path == "*":
        response = web.Response()
        response.headers.popall("Content-Type", None)
        return response
    path, mark, query = request.raw_path.partition("?")
    if (plain := _plain(path)) != path:
        return redirect(request, HTTPStatus.TEMPORARY_REDIRECT, plain + mark + query)
    return await handler(request)


def _plain(path: str) -> str:
    """Return a path without empty parts and without `.` and `..`; it begins with exactly one slash."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    ending = "/" if parts and path.endswith("/") else ""
    return f"/{'/'.join(parts)}{ending}"


def redirect(
    request: web.Request, status: HTTPStatus, location: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a redirect, with a link in its body for clients that do not follow it."""
    location = quote(location, safe="!#$%&'()*+,/:;=?@[]~|\\^`{}\"<>", encoding="latin-1")
    response = web.Response(status=status, headers={**(headers or {}), "Location": location})
    if request.method == "GET":
        response.text = f'<a href="{html.escape(location)}">{status.phrase}</a>.\n\n'
    if request.method in ("GET", "HEAD"):
        response.headers["Content-Type"] = "text/html; charset=utf-8"
    else:
        response.headers.popall("Content-Type", None)
    return response


async def _drop_server_header(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)


async def _derp(request: web.Request) -> web.Response:
    refusal: Refusal | None = getattr(request.transport, "refusal", None)
    return refuse(refusal or Refusal(404, "derp server disabled\n"))


def refuse(refusal: Refusal) -> web.Response:
    """Return the response for a rejection."""
    return web.Response(status=refusal.status, body=refusal.body.encode(), headers=dict(refusal.headers))


async def _probe(request: web.Request) -> web.Response:
    if request.method not in ("GET", "HEAD"):
        return refuse(Refusal(405, "bogus probe method\n"))
    response = web.Response(headers={"Access-Control-Allow-Origin": "*"})
    response.headers.popall("Content-Type", None)
    return response


async def _generate_204(request: web.Request) -> web.Response:
    answer = {"Cache-Control": _NO_STORE}
    challenge = request.headers.get("X-Tailscale-Challenge", "")
    if _CHALLENGE.fullmatch(challenge):
        answer["X-Tailscale-Response"] = f"response {challenge}"
    return web.Response(status=204, headers=answer)


ANYTHING: Final = r"{anything:[\s\S]*}"
"""Matches the rest of a path in a route, also line ends, which `.` would not match."""
NO_CONTENT: Final = web.route("*", "/generate_204", _generate_204)


async def _style(_request: web.Request) -> web.Response:
    return web.Response(text=look.STYLESHEET, content_type="text/css", headers=headers.PUBLIC)


async def _robots(_request: web.Request) -> web.Response:
    return web.Response(text="User-agent: *\nDisallow: /\n", headers=headers.PUBLIC)


def home(config: Config) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return the handler of the home page, which serves every path without a route of its own."""
    place = config.pages.home
    note = _ABUSE if _TAILSCALES.fullmatch(config.tls.hostname) else ""
    note += "" if config.relay.enabled else _DISABLED

    async def show(request: web.Request) -> web.Response:
        if place not in ("", "blank"):
            return redirect(request, HTTPStatus.FOUND, place, headers.PUBLIC)
        debug = _DEBUG if await may_see(request, config.public_debug) else ""
        body = _HOME.format(note=note + debug, version=html.escape(version()))
        page = "" if place == "blank" else look.page("DERP relay", body, style=_STYLE)
        return web.Response(text=page, content_type="text/html", headers=headers.PUBLIC)

    return show
