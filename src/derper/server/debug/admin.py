"""The admin listener (`-admin`): the debug pages and actions that change the server, away from the public ports.

On a unix socket every request is allowed, because only the file's owner can connect. On TCP, reads need debug access
(`access`) or the token; changes always need the token. The checks of Host and Origin reject requests that a web page
makes through an operator's browser. aiohttp's own server serves it: no relay client connects here.
"""

import asyncio
import hmac
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from structlog.typing import FilteringBoundLogger

from derper.config import Admin, Config
from derper.credentials.tokens import read_token
from derper.errors import ConfigError
from derper.protocol.upgrade import Refusal
from derper.server.http.pages import application_of, redirect, refuse
from derper.server.listeners import address_of
from derper.web import serving
from derper.web.access import may_see

_log: FilteringBoundLogger = structlog.get_logger()

MOST_CONNECTIONS: Final = 64
LAST_REQUESTS: Final = 0.3
"""Seconds for requests on connections that were accepted just before a hand-over."""
_LOOK_AGAIN: Final = 0.01
FIRST_REQUEST: Final = 10.0
"""Seconds until a new connection must have made an allowed request."""
_LINGER_SECONDS: Final = 1.0
"""Seconds for reading the rest of a body after the answer; a broken connection keeps its place meanwhile."""
SAFE_SECONDS: Final = 2.0
"""Minimum age in seconds before the only connection of an address can be evicted."""
KEEP_ALIVE: Final = 75.0
"""Seconds between two requests of one connection."""
_READING: Final = ("GET", "HEAD")
_FOREIGN: Final = Refusal(403, "the Host or Origin of this request is not this server's\n")
_TOKEN_WANTED: Final = Refusal(
    401, "this needs the header 'Authorization: Bearer TOKEN' or the admin socket\n", (("WWW-Authenticate", "Bearer"),)
)


class AdminListener:
    """The listener; `pages` are read, `actions` are POSTed and change something."""

    def __init__(
        self, config: Config, admin: Admin, pages: Iterable[web.RouteDef], actions: Iterable[web.RouteDef]
    ) -> None:
        self.address = ""  # with the port that the kernel chose, set by `start`
        self._config = config
        self._admin = admin
        self._routes = [web.get("/", _redirect_to_index), *actions, *pages]
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None
        # Deadlines of connections without an allowed request, oldest first.
        self._deadlines: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        self._inode = 0  # of the socket's file, which another server may have replaced

    async def start(self, listening: socket.socket | None) -> None:
        """Start serving; on TCP, on a copy of the listening socket.

        Raises:
            ConfigError: The address or path cannot be bound, or the token cannot be read.
        """
        if self._admin.token_file is not None:
            read_token(self._admin.token_file)
        sock = self._bind() if listening is None else listening.dup()
        self.address = self.address or address_of(sock)
        application = application_of(self._routes)
        application.middlewares.append(self._check_access)
        self._runner = serving.runner(
            application, access_log=None, lingering_time=_LINGER_SECONDS, keepalive_timeout=KEEP_ALIVE
        )
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        create = loop.create_server if self._admin.socket is None else loop.create_unix_server
        self._listener = await create(self._connect, sock=sock)
        _log.info("serving admin", address=self.address)

    async def hand_over(self) -> None:
        """Leave new connections to the successor; finish requests on accepted ones."""
        if self._listener is not None:
            # asyncio drops a connection that it accepts in the turn in which its server is closed.
            for sock in self._listener.sockets:
                asyncio.get_running_loop().remove_reader(sock.fileno())
            await asyncio.sleep(0)
        self._stop_accepting()
        end = time.monotonic() + LAST_REQUESTS
        while self._deadlines and time.monotonic() < end:  # noqa: ASYNC110  no event marks the last request
            await asyncio.sleep(_LOOK_AGAIN)

    def _stop_accepting(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def stop(self) -> None:
        """Stop serving, and remove the socket's file."""
        self._stop_accepting()
        for deadline in self._deadlines.values():
            deadline.cancel()
        self._deadlines.clear()
        if self._runner is not None:
            await self._runner.cleanup()
        path = self._admin.socket
        with suppress(OSError):
            if path is not None and path.stat().st_ino == self._inode:
                path.unlink()

    def _bind(self) -> socket.socket:
        assert self._admin.socket is not None  # noqa: S101  exactly one of the two is set
        path = self._admin.socket
        sock = _bind_unix(path)
        self._inode = path.stat().st_ino
        self.address = f"unix:{path}"
        return sock

    def _connect(self) -> asyncio.BaseProtocol:
        server = None if self._runner is None else self._runner.server
        if server is None or (len(server.connections) >= MOST_CONNECTIONS and not self._make_room()):
            return _OverLimit()
        handler = server()
        self._deadlines[handler] = asyncio.get_running_loop().call_later(FIRST_REQUEST, self._abort, handler)
        return handler

    def _make_room(self) -> bool:
        """Evict the oldest connection without an allowed request, of the address with the most such connections.

        Return False if none may be evicted. The only connection of an address is kept for `SAFE_SECONDS`.
        """
        by_address: dict[object, list[web.RequestHandler]] = {}
        for handler in self._deadlines:
            if handler.transport is not None:
                peer = handler.transport.get_extra_info("peername") or (None,)
                by_address.setdefault(peer[0], []).append(handler)
        if not by_address:
            return False
        largest = max(by_address.values(), key=len)  # of several the first, which has the oldest connection
        age = FIRST_REQUEST - (self._deadlines[largest[0]].when() - asyncio.get_running_loop().time())
        if len(largest) == 1 and age < SAFE_SECONDS:
            return False
        self._deadlines[largest[0]].cancel()
        self._abort(largest[0])
        return True

    def _abort(self, handler: web.RequestHandler) -> None:
        del self._deadlines[handler]
        if handler.transport is not None:
            handler.transport.abort()

    @web.middleware
    async def _check_access(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = await self._refusal(request)
        if refusal is not None:
            return refuse(refusal)
        deadline = self._deadlines.pop(request.protocol, None)
        if deadline is not None:
            deadline.cancel()
        return await handler(request)

    async def _refusal(self, request: web.Request) -> Refusal | None:
        host = request.headers.get("Host", "")
        if not _is_same_origin(request.headers.getall("Origin", ()), host):
            return _FOREIGN
        if self._admin.socket is not None or await self._has_token(request):
            return None
        if not self._is_ours(host):
            return _FOREIGN
        if request.method in _READING and await may_see(request, self._config.pages.debug):
            return None
        return _TOKEN_WANTED

    async def _has_token(self, request: web.Request) -> bool:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if self._admin.token_file is None or scheme.lower() != "bearer":
            return False
        try:
            # The file is read for each request, so that a token removed from it is invalid at once.
            wanted = await asyncio.to_thread(read_token, self._admin.token_file)
        except ConfigError as error:
            _log.error("cannot read the admin token", reason=str(error))
            return False
        return hmac.compare_digest(token.strip().encode("utf-8", "surrogateescape"), wanted)

    def _is_ours(self, host: str) -> bool:
        """Return whether a Host header is trustworthy: a stranger can point a DNS name at any address."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in ("localhost", self._config.tls.hostname.lower()):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


class _OverLimit(asyncio.Protocol):
    """The protocol of a connection over the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  always set for a stream
        transport.abort()


def _bind_unix(path: Path) -> socket.socket:
    """Listen on a socket that only its owner may open; replace an existing one, perhaps another server's."""
    if path.exists() and not path.is_socket():
        raise ConfigError(f"-admin=unix:{path} exists and is not a socket; choose another path")
    # Use a temporary name until the socket listens, so that a successor takes over without a gap.
    new = path.with_name(f".{path.name}.{os.getpid()}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            sock.bind(str(new))
        finally:
            os.umask(before)
        sock.listen()
        new.replace(path)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise ConfigError(
            f"cannot listen on the admin socket {path} ({reason}); use a path that this user may write to"
        ) from error
    return sock


def _is_same_origin(origins: Iterable[str], host: str) -> bool:
    return all(origin.partition("://")[2].lower() == host.lower() for origin in origins)


async def _redirect_to_index(request: web.Request) -> web.Response:
    return redirect(request, HTTPStatus.FOUND, "/debug/")
