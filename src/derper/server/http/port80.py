"""The plain HTTP listener beside TLS (docs/protocol/http.md, Port 80): a few pages, and a redirect to HTTPS.

Captive-portal detection and a CA's challenges need plain HTTP; all other requests are redirected.
"""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final

from aiohttp import web

from derper.config import Config
from derper.protocol.upgrade import Refusal
from derper.server.certificates.challenges import PATH, Challenges
from derper.server.http.pages import ANYTHING, NO_CONTENT, application_of, home, redirect, refuse
from derper.web.access import may_see

_USE_HTTPS: Final = Refusal(400, "Use HTTPS\n")


def application(
    config: Config, debug: Iterable[web.AbstractRouteDef], challenges: Challenges | None
) -> web.Application:
    """Return the application; `debug` are the routes of the debug pages, `challenges` those of ACME or None."""

    async def challenge(request: web.Request) -> web.Response:
        assert challenges is not None  # noqa: S101  the route exists only with challenges
        answer = challenges.answer(request.headers.get("Host", ""), request.match_info["token"])
        return refuse(answer) if isinstance(answer, Refusal) else web.Response(text=answer)

    async def to_https(request: web.Request) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return refuse(_USE_HTTPS)
        path = request.raw_path
        if path == "/" and await may_see(request, config.public_debug):
            path = "/debug/"
        return redirect(request, HTTPStatus.FOUND, f"https://{request.headers.get('Host', '')}{path}")

    return application_of(
        [
            NO_CONTENT,
            *([web.route("*", f"{PATH}{{token:.*}}", challenge)] if challenges is not None else []),
            *debug,
            web.route("*", f"/debug{ANYTHING}", home(config)),
            web.route("*", f"/{ANYTHING}", to_https),
        ]
    )
