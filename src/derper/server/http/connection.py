"""HTTP over the data plane's connections: an aiohttp server without sockets.

`HttpConnection` is the asyncio transport that aiohttp writes to. It gets one request at a time: the head, then the body
by Content-Length. Between two requests the data plane collects the next head. So `connections` checks every head in one
place: upgrades, malformed heads, contradicting lengths. A chunked body is not read: the answer is sent, then the
connection closes.
"""

import asyncio
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from derper.dataplane import CloseReason, Conn, DataPlane, Remote
from derper.protocol.upgrade import MAX_HEAD, MAX_LINES, Refusal, RequestHead
from derper.web import serving

_WRITE_LIMIT = 64 * 1024
"""Unsent bytes above which aiohttp is asked to pause writing."""
_TURNS_TO_BEGIN = 2
"""Turns of the loop until aiohttp has begun a request: it starts its task in one, the handler in the next.

aiohttp raises in both if the connection ended before. A head and the end of its connection often arrive in one turn.
"""


def plain_answer(status: HTTPStatus) -> bytes:
    """Return a complete answer to a malformed request; the connection closes after it."""
    text = f"{status.value} {status.phrase}"
    head = f"HTTP/1.1 {text}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    return (head + text).encode("ascii")


def last_answer(refusal: Refusal) -> bytes:
    """Return a complete answer to a request that aiohttp does not see; the connection closes after it."""
    phrase = HTTPStatus(refusal.status).phrase
    headers = (
        *refusal.headers,
        ("Connection", "close"),
        ("Content-Length", str(len(refusal.body))),
        ("Date", formatdate(usegmt=True)),
    )
    lines = [f"HTTP/1.1 {refusal.status} {phrase}", *(f"{name}: {value}" for name, value in headers), "", refusal.body]
    return "\r\n".join(lines).encode("ascii")


class HttpConnection(asyncio.Transport):
    """The transport between one connection of the data plane and aiohttp's protocol."""

    def __init__(self, plane: DataPlane, conn: Conn, remote: Remote, protocol: asyncio.Protocol) -> None:
        super().__init__(extra={"peername": remote})
        self.remote = remote
        self._plane = plane
        self._conn = conn
        self._protocol = protocol
        # the answer to the current request, if it was refused before aiohttp saw it
        self.refusal: Refusal | None = None
        self._answered = True
        self._head_is_awaited = False
        self._body_left = 0
        self._body_is_chunked = False
        self._unconsumed = 0
        self._reading = True
        self._unsent = 0
        self._closing = False
        protocol.connection_made(self)

    def request_received(self, head: RequestHead, refusal: Refusal | None) -> None:
        """Pass the next request to aiohttp; only after the last one was answered."""
        self.refusal = refusal
        self._answered = False
        self._head_is_awaited = False
        self._body_is_chunked = head.is_chunked
        self._body_left = 0 if head.is_chunked else head.content_length
        if self._body_left:
            self._plane.await_body(self._conn, self._body_left)
        self._protocol.data_received(head.encode())

    def received(self, data: bytes) -> None:
        """Pass a part of the request's body to aiohttp."""
        self._body_left -= len(data)
        self._unconsumed += len(data)
        self._protocol.data_received(data)
        self._request_more()

    def answered(self) -> None:
        """Mark the request as answered: aiohttp has written the whole answer."""
        self._answered = True
        if self._body_is_chunked:
            self.close()
        self._request_more()

    def drained(self) -> None:
        """Let aiohttp write again: the data plane has sent all written bytes."""
        self._unsent = 0
        self._protocol.resume_writing()

    def connection_lost(self) -> None:
        """End aiohttp's side: the connection is closed, or is no longer used for HTTP."""
        self._closing = True
        self._after_turns(_TURNS_TO_BEGIN)

    def _after_turns(self, turns: int) -> None:
        """Notify aiohttp of the end after this number of turns of the loop."""
        if turns:
            asyncio.get_running_loop().call_soon(self._after_turns, turns - 1)
        else:
            self._protocol.connection_lost(None)

    @property
    def is_serving(self) -> bool:
        """True if a request has no complete answer yet."""
        return not self._answered

    def _request_more(self) -> None:
        if self._closing:
            return
        if self._reading and self._unconsumed:
            self._plane.consumed(self._conn, self._unconsumed)
            self._unconsumed = 0
        if self._answered and not self._body_left and not self._head_is_awaited:
            self._head_is_awaited = True
            self._plane.await_head(self._conn)

    # The methods below are called by aiohttp, see asyncio.Transport.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing:
            return
        was_below = self._unsent <= _WRITE_LIMIT
        self._unsent += len(data)
        is_over = was_below and self._unsent > _WRITE_LIMIT
        self._plane.write(self._conn, bytes(data), tell_drained=is_over)
        if is_over:
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self._unsent

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._plane.close(self._conn, CloseReason.DONE)

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._request_more()

    def is_reading(self) -> bool:
        return self._reading

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def can_write_eof(self) -> bool:
        return False


class _AnsweredLogger(AbstractAccessLogger):
    """Reports the end of an answer: an entry in aiohttp's access log is the only sign of that."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if isinstance(request.transport, HttpConnection):
            request.transport.answered()


class HttpServer:
    """Pages of one listener; `relays` is True if it also serves `/derp`."""

    def __init__(self, *, relays: bool) -> None:
        self.relays = relays
        self._runner: web.AppRunner | None = None

    async def start(self, application: web.Application) -> None:
        """Start the aiohttp server for an application."""
        self._runner = serving.runner(
            application,
            access_log_class=_AnsweredLogger,
            keepalive_timeout=86_400,  # not used: the data plane's deadlines apply
            tcp_keepalive=False,
            # The data plane has checked the head, so aiohttp must accept its size.
            max_line_size=MAX_HEAD,
            max_field_size=MAX_HEAD,
            max_headers=MAX_LINES,
            auto_decompress=False,
        )
        await self._runner.setup()

    async def stop(self) -> None:
        """Let running requests finish."""
        if self._runner is not None:
            await self._runner.cleanup()

    def connect(self, plane: DataPlane, conn: Conn, remote: Remote) -> HttpConnection:
        """Return the HTTP side of a connection that has sent its first request head."""
        server = None if self._runner is None else self._runner.server
        if server is None:
            raise RuntimeError("the HTTP server was not started")
        return HttpConnection(plane, conn, remote, server())
