"""A check by an admission controller at a URL, such as Headscale's `/verify` (docs/protocol/admission.md, 2).

Where the protocol leaves a choice, this follows Go's HTTP client. Up to ten redirects are followed: 301 to 303 turn the
request into a GET, 307 and 308 keep it. Only an answer's head can mean "no answer"; a missing or invalid body rejects
the client.
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
"""Deadline for one question, counted from its turn."""
IN_FLIGHT: Final = 1_024
MAX_ANSWER: Final = 4_096
MAX_REDIRECTS: Final = 10
_USER_MESSAGE: Final = "the relay's operator does not allow it"

_NO_VERDICTS: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS})
"""Statuses that count as no answer, besides all outside of 400 to 499: they are about the request only."""


class UrlCheck:
    """One controller; `fails_open` admits clients while it is unreachable."""

    def __init__(self, url: str, *, fails_open: bool, tls: ssl.SSLContext | None, proxy: str | None) -> None:
        self._url = URL(url)
        self._shown = str(self._url.with_user(None).with_query(None).with_fragment(None))  # without credentials
        self._proxy = proxy
        self._http_proxy: str | None = None  # the HTTP proxy, unless it is a SOCKS proxy; set with the session
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
        """Return whether the controller allows a client; without a turn, the client is not checked."""
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
        """Close the session."""
        self._admitted.stop()
        if self._session is not None:
            await self._session.close()

    def _unreachable(self, client: ClientIdentity, reason: str) -> Answer:
        if self._fails_open:
            self._admitted.write("unverified", key=client.key, remote=client.ip, url=self._shown, reason=reason)
        return unknown(f"admission controller unreachable: {self._shown}: {reason}", is_waived=self._fails_open)

    async def _post(self, question: bytes) -> aiohttp.ClientResponse:
        """Send the question; retry once if the controller had closed the kept connection."""
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

        async def count_reuse(_session: aiohttp.ClientSession, context: SimpleNamespace, _parameters: object) -> None:
            context.trace_request_ctx.is_used = True

        trace.on_connection_reuseconn.append(count_reuse)
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
            is_about_client = HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR
            if is_about_client and status not in _NO_VERDICTS:
                return refused(Cause.CONTROLLER, reason, _USER_MESSAGE)
            return unknown(reason)
        try:
            allows = await _allows(response)
        except ProtocolError as error:
            return unknown(f"admission controller: its answer makes no sense ({error})")
        if not allows:
            reason = f"admission controller: {client.key}/{client.ip} not allowed"
            return refused(Cause.CONTROLLER, reason, _USER_MESSAGE)
        return KNOWN


async def _allows(response: aiohttp.ClientResponse) -> bool:
    """Read the answer to the end of its JSON object; the rest of the body may never come."""
    body = b""
    while len(body) < MAX_ANSWER and (part := await response.content.read(MAX_ANSWER - len(body))):
        body += part
        if b"}" in part:
            try:
                return _allow_in(body)
            except ProtocolError:
                continue  # incomplete
    return _allow_in(body)


def _allow_in(body: bytes) -> bool:
    allow = False
    for name, value in gojson.members(body, max_values=MAX_ANSWER, ignore_rest=True):
        if name == "allow" and value is not None:
            allow = gojson.boolean(value, "Allow")
    return allow
