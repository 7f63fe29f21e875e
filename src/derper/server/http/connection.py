"""HTTP over the data plane's connections: an aiohttp server that never sees a socket.

`HttpConnection` is the asyncio transport that aiohttp writes to. It is given one request at a time: head, then its body
by Content-Length. Between two requests the connection collects its next head in the data plane, so that every head is
judged in one place, by `introduce`: upgrades, malformed ones, contradicting lengths.
A chunked body is not read: the answer goes out, then the connection closes.
"""

import asyncio
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from derper.dataplane import Conn, DataPlane, Remote
from derper.protocol.upgrade import MAX_HEAD, MAX_LINES, Refusal, RequestHead
from derper.web import serving

_WRITE_LIMIT = 64 * 1024
"""Bytes written and not yet known to have left, beyond which aiohttp is asked to pause."""
_TURNS_TO_BEGIN = 2
"""Turns of the loop in which aiohttp begins a request: it starts its task in one, and the handler's in the next.

aiohttp raises in both when the connection ends before. A head and the end of its connection often come in one turn.
"""


def plain_answer(status: HTTPStatus) -> bytes:
    """Return a whole answer to what is no request; the connection closes after it."""
    text = f"{status.value} {status.phrase}"
    head = f"HTTP/1.1 {text}\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n"
    return (head + text).encode("ascii")


def last_answer(refusal: Refusal) -> bytes:
    """Return a whole answer for a request that never reaches aiohttp; the connection closes after it."""
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
    """One connection's way between the data plane and aiohttp's protocol."""

    def __init__(self, plane: DataPlane, conn: Conn, remote: Remote, protocol: asyncio.Protocol) -> None:
        super().__init__(extra={"peername": remote})
        self.remote = remote
        self._plane = plane
        self._conn = conn
        self._protocol = protocol
        self.refusal: Refusal | None = None  # what the request now served gets, if that is decided already
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
        """Hand the next request to aiohttp; only after the last one was answered."""
        self.refusal = refusal
        self._answered = False
        self._head_is_awaited = False
        self._body_is_chunked = head.is_chunked
        self._body_left = 0 if head.is_chunked else head.content_length
        if self._body_left:
            self._plane.await_body(self._conn, self._body_left)
        self._protocol.data_received(head.encode())

    def received(self, data: bytes) -> None:
        """Hand a part of the request's body to aiohttp."""
        self._body_left -= len(data)
        self._unconsumed += len(data)
        self._protocol.data_received(data)
        self._go_on()

    def answered(self) -> None:
        """Note that aiohttp has written the whole answer."""
        self._answered = True
        if self._body_is_chunked:
            self.close()
        self._go_on()

    def drained(self) -> None:
        """Note that all that was written has left."""
        self._unsent = 0
        self._protocol.resume_writing()

    def connection_lost(self) -> None:
        """Close: the connection is gone, or no longer belongs to aiohttp."""
        self._closing = True
        self._after_turns(_TURNS_TO_BEGIN)

    def _after_turns(self, turns: int) -> None:
        """Notify aiohttp of the end after this many turns of the loop."""
        if turns:
            asyncio.get_running_loop().call_soon(self._after_turns, turns - 1)
        else:
            self._protocol.connection_lost(None)

    @property
    def is_serving(self) -> bool:
        """Whether there is a request whose answer is not written yet."""
        return not self._answered

    def _go_on(self) -> None:
        if self._closing:
            return
        if self._reading and self._unconsumed:
            self._plane.consumed(self._conn, self._unconsumed)
            self._unconsumed = 0
        if self._answered and not self._body_left and not self._head_is_awaited:
            self._head_is_awaited = True
            self._plane.await_head(self._conn)

    # From here on: what aiohttp calls, as asyncio.Transport describes it.

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
            self._plane.close(self._conn, "done")

    def abort(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._go_on()

    def is_reading(self) -> bool:
        return self._reading

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def can_write_eof(self) -> bool:
        return False


class _AnsweredLogger(AbstractAccessLogger):
    """The only word that aiohttp gives when an answer is written is its access log, so this is one."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        if isinstance(request.transport, HttpConnection):
            request.transport.answered()


class HttpServer:
    """Everything that one listener serves over HTTP but the relay itself; `relays` says whether `/derp` is one."""

    def __init__(self, *, relays: bool) -> None:
        self.relays = relays
        self._runner: web.AppRunner | None = None

    async def start(self, application: web.Application) -> None:
        """Make ready to serve it."""
        self._runner = serving.runner(
            application,
            access_log_class=_AnsweredLogger,
            keepalive_timeout=86_400,  # never: the data plane's deadlines hold
            tcp_keepalive=False,
            # The head was judged before: what is right there may not be wrong here.
            max_line_size=MAX_HEAD,
            max_field_size=MAX_HEAD,
            max_headers=MAX_LINES,
            auto_decompress=False,
        )
        await self._runner.setup()

    async def stop(self) -> None:
        """Let requests that are being served end."""
        if self._runner is not None:
            await self._runner.cleanup()

    def connect(self, plane: DataPlane, conn: Conn, remote: Remote) -> HttpConnection:
        """Serve pages on a connection that has sent its first request head."""
        server = None if self._runner is None else self._runner.server
        if server is None:
            raise RuntimeError("the HTTP server was not started")
        return HttpConnection(plane, conn, remote, server())
