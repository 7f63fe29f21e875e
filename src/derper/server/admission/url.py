"""An admission controller behind a URL, such as Headscale's `/verify` (docs/protocol/admission.md, 2).

Where the page leaves a choice we do as Go's HTTP client does: redirects are followed, ten at most (301 to 303 turn the
question into a GET, 307 and 308 keep it), and what counts as "no answer" ends with the answer's head: a body that does
not come, or makes no sense, rejects.
"""

import logging
import ssl
from http import HTTPStatus
from types import SimpleNamespace
from typing import Final

import aiohttp
from yarl import URL

from derper import log
from derper.errors import ProtocolError
from derper.host import outgoing
from derper.host.deadline import deadline
from derper.protocol import gojson
from derper.server.admission.answers import KNOWN, Answer, Cause, ClientIdentity, not_asked, refused, unknown
from derper.server.admission.turns import NoTurnError, Turns
from derper.server.bounded_log import BoundedLog

SECONDS: Final = 5.0
"""For one question, from its turn on."""
IN_FLIGHT: Final = 1_024
MAX_ANSWER: Final = 4_096
MAX_REDIRECTS: Final = 10
_TOLD: Final = "the relay's operator does not allow it"

_NO_VERDICTS: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""Beside everything outside of 400 to 499: these are about the asking, not about the client."""


class UrlCheck:
    """One controller. `fails_open`: whether it admits while it cannot be reached."""

    def __init__(self, url: str, *, fails_open: bool, tls: ssl.SSLContext | None, proxy: str | None) -> None:
        self._url = URL(url)
        self._shown = str(self._url.with_user(None).with_query(None).with_fragment(None))  # without its secrets
        self._proxy = proxy
        self._http_proxy: str | None = None  # the same, unless it speaks SOCKS; set with the session
        self._fails_open = fails_open
        self._tls = tls
        self._turns = Turns(IN_FLIGHT)
        self._session: aiohttp.ClientSession | None = None
        self._admitted = BoundedLog(
            "admission controller unreachable; allowing client",
            "admission controller unreachable; more clients allowed",
            level=logging.WARNING,
        )

    async def ask(self, client: ClientIdentity) -> Answer:
        """Return whether the controller allows a client; a client that gets no turn is not asked about."""
        try:
            async with self._turns.turn(client):
                return await self._ask(client)
        except NoTurnError as error:
            return not_asked(str(error))

    async def _ask(self, client: ClientIdentity) -> Answer:
        question = gojson.compact({"NodePublic": str(client.key), "Source": client.ip})
        response: aiohttp.ClientResponse | None = None
        try:
            async with deadline(SECONDS):
                response = await self._post(question)
                async with response:
                    return await self._verdict(response, client)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if outgoing.is_own_shortage(error):
                return not_asked(log.in_one_line(error))
            slow = isinstance(error, TimeoutError)
            reason = f"no answer in {SECONDS:.0f} s" if slow else log.in_one_line(error)
            if response is not None:
                return unknown(f"admission controller: its answer broke off: {reason}")
            return self._unreachable(client, reason)

    async def close(self) -> None:
        """Let go of the session."""
        self._admitted.stop()
        if self._session is not None:
            await self._session.close()

    def _unreachable(self, client: ClientIdentity, reason: str) -> Answer:
        if self._fails_open:
            self._admitted.write("unverified", key=client.key, remote=client.ip, url=self._shown, reason=reason)
        return unknown(f"admission controller unreachable: {self._shown}: {reason}", is_waived=self._fails_open)

    async def _post(self, question: bytes) -> aiohttp.ClientResponse:
        """Ask; once more where a connection from the last time turns out to have been closed meanwhile."""
        if self._session is None:
            self._session = self._new_session()
        for is_first in (True, False):
            path = SimpleNamespace(is_used=False)
            try:
                return await self._session.post(
                    self._url,
                    data=question,
                    proxy=self._http_proxy,
                    max_redirects=MAX_REDIRECTS,
                    skip_auto_headers=["Content-Type"],
                    trace_request_ctx=path,
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not (is_first and path.is_used):
                    raise
        raise AssertionError("the second try returns or raises")

    def _new_session(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()

        async def note_use(_session: aiohttp.ClientSession, context: SimpleNamespace, _parameters: object) -> None:
            context.trace_request_ctx.is_used = True

        trace.on_connection_reuseconn.append(note_use)
        connector, self._http_proxy = outgoing.connector(
            self._proxy, limit=0, ssl=True if self._tls is None else self._tls
        )
        return outgoing.session(
            connector,
            timeout=aiohttp.ClientTimeout(total=None),
            traces=[trace],
        )

    async def _verdict(self, response: aiohttp.ClientResponse, client: ClientIdentity) -> Answer:
        status = response.status
        if status != HTTPStatus.OK:
            reason = f"admission controller: {status} {response.reason}"
            speaks_of_client = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
            if speaks_of_client and status not in _NO_VERDICTS:
                return refused(Cause.CONTROLLER, reason, _TOLD)
            return unknown(reason)
        try:
            allows = await _allows(response)
        except ProtocolError as error:
            return unknown(f"admission controller: its answer makes no sense ({error})")
        if not allows:
            reason = f"admission controller: {client.key}/{client.ip} not allowed"
            return refused(Cause.CONTROLLER, reason, _TOLD)
        return KNOWN


async def _allows(response: aiohttp.ClientResponse) -> bool:
    """Read the answer as far as its object goes; what follows may never come."""
    body = b""
    while len(body) < MAX_ANSWER and (part := await response.content.read(MAX_ANSWER - len(body))):
        body += part
        if b"}" in part:
            try:
                return _allow_in(body)
            except ProtocolError:
                continue  # not whole yet, or never
    return _allow_in(body)


def _allow_in(body: bytes) -> bool:
    allow = False
    for name, value in gojson.members(body, max_values=MAX_ANSWER, ignore_rest=True):
        if name == "allow" and value is not None:
            allow = gojson.boolean(value, "Allow")
    return allow
