"""Byte streams to a relay: TCP, TLS, or the messages of a WebSocket.

`open` returns once DERP can be written: encrypted, and with the certificate checked. `connection` interprets the bytes.
"""

import asyncio
import socket
import ssl
from contextlib import suppress
from typing import Any, Protocol, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection

from derper.client import dial, tls
from derper.client.target import Target
from derper.client.tls import TlsInfo
from derper.errors import NetworkError, ProtocolError
from derper.protocol.upgrade import SUBPROTOCOL

CHUNK = 65_536
CLOSE_SECONDS = 1.0  # for closing handshakes; then the connection is aborted

Address = tuple[str, int]


class Stream(Protocol):
    """A connection to a relay. Reading and writing raise `NetworkError` once it is lost."""

    tls: TlsInfo | None  # None without TLS
    local: Address
    remote: Address

    async def read(self) -> bytes:
        """Return some bytes; empty at the end."""

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the connection accepts no more."""

    async def close(self) -> None:
        """Close the stream, with its closing handshakes."""


class TcpStream:
    """TCP, with or without TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, info: TlsInfo | None) -> None:
        self.tls = info
        self.local: Address = writer.get_extra_info("sockname")[:2]
        self.remote: Address = writer.get_extra_info("peername")[:2]
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, target: Target, given: ssl.SSLContext | None, sock: socket.socket) -> Self:
        """Take over a connected socket; with TLS, shake hands and check the certificate."""
        try:
            context = tls.context_for(target, given) if target.tls else None
            name = target.host if context else None
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=context, server_hostname=name, limit=4 * CHUNK
            )
        except (OSError, ValueError) as error:
            sock.close()
            words = tls.failure(error) if isinstance(error, OSError) else str(error)
            raise NetworkError(f"{target}: {words}") from error
        except BaseException:
            sock.close()
            raise
        try:
            found = writer.get_extra_info("ssl_object")
            info = tls.info_of(found, target.server_name) if found else None
            if info:
                tls.check(target, info)
            return cls(reader, writer, info)
        except BaseException:
            await _cut(writer.transport)
            raise

    async def read(self) -> bytes:
        """Return some bytes; empty at the end."""
        try:
            return await self._reader.read(CHUNK)
        except OSError as error:
            raise NetworkError(f"the connection was lost: {error.strerror or error}") from error

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the connection accepts no more."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise NetworkError(f"the connection was lost: {error.strerror or error}") from error

    async def close(self) -> None:
        """Close the stream; TLS sends its closing alert, and a peer that does not answer is aborted."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                self._writer.close()
                await self._writer.wait_closed()
        except OSError:
            await _cut(self._writer.transport)
        except asyncio.CancelledError:
            self._writer.transport.abort()  # do not wait for the peer's closing alert
            raise


class WebSocketStream:
    """DERP in binary messages, whose boundaries have no meaning, as browser clients use it."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        connector: "_Connector",
        wrapped: "aiohttp.ClientWebSocketResponse[bool]",
        info: TlsInfo | None,
    ) -> None:
        self.tls = info
        self.local: Address = (wrapped.get_extra_info("sockname") or ("", 0))[:2]
        self.remote: Address = (wrapped.get_extra_info("peername") or ("", 0))[:2]
        self._session = session
        self._connector = connector
        self._socket = wrapped

    @classmethod
    async def open(cls, target: Target, given: ssl.SSLContext | None, dial_seconds: float) -> Self:
        """Connect, shake hands and check the certificate.

        A session of aiohttp connects by itself; each address has `dial_seconds`.
        """
        connector = _Connector(resolver=_Resolver(target), ssl=tls.context_for(target, given) if target.tls else True)
        session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(sock_connect=dial_seconds))
        try:
            wrapped = await session.ws_connect(
                target.websocket_url,
                protocols=(SUBPROTOCOL,),
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_SECONDS),
            )
        except (aiohttp.ClientError, OSError) as error:
            await session.close()
            raise NetworkError(f"no WebSocket with {target}: {_words(error)}") from error
        except BaseException:
            await session.close()
            raise
        found = wrapped.get_extra_info("ssl_object")
        info = tls.info_of(found, target.server_name) if found else None
        stream = cls(session, connector, wrapped, info)
        try:
            if info:
                tls.check(target, info)
            _check_subprotocol(wrapped.protocol)
        except BaseException:
            await stream.close()
            raise
        return stream

    async def read(self) -> bytes:
        """Return the bytes of a message; empty at the end."""
        while True:
            message = await self._socket.receive()
            match message.type:
                case aiohttp.WSMsgType.BINARY:
                    if message.data:
                        return bytes(message.data)
                case aiohttp.WSMsgType.CLOSE | aiohttp.WSMsgType.CLOSING | aiohttp.WSMsgType.CLOSED:
                    return b""
                case aiohttp.WSMsgType.ERROR:
                    raise NetworkError(f"the WebSocket was lost: {message.data}")
                case kind:
                    raise ProtocolError(f"wanted binary WebSocket messages, got one of type {kind.name}")

    async def write(self, data: bytes) -> None:
        """Send bytes as one message; waits while the connection accepts no more."""
        try:
            await self._socket.send_bytes(data)
        except (aiohttp.ClientError, OSError) as error:
            raise NetworkError(f"the WebSocket was lost: {_words(error)}") from error

    async def close(self) -> None:
        """Close the stream after a closing handshake."""
        with suppress(aiohttp.ClientError, OSError):
            await self._socket.close()
        await self._session.close()
        if self._connector.transport:
            await _cut(self._connector.transport)


class _Connector(aiohttp.TCPConnector):
    """A connector that stores its only connection: aiohttp keeps a TLS one open until the peer's closing alert."""

    transport: asyncio.Transport | None = None

    async def connect(self, *request: Any, **more: Any) -> Connection:  # noqa: ANN401  aiohttp's arguments
        """Connect, and store the connection."""
        connection = await super().connect(*request, **more)
        self.transport = connection.transport
        return connection


class _Resolver(AbstractResolver):
    """Resolves to the addresses of the DERP map's node, if it has any."""

    def __init__(self, target: Target) -> None:
        self._target = target

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        """Return the node's addresses, IPv6 first; `family` is always both."""
        del family
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=0)
            for kind, address in await dial.addresses(self._target.node)
        ]

    async def close(self) -> None:
        """No-op: nothing is open."""


async def _cut(transport: asyncio.WriteTransport) -> None:
    transport.abort()
    await asyncio.sleep(0)  # it closes its socket in the loop's next turn


def _check_subprotocol(chosen: str | None) -> None:
    if chosen != SUBPROTOCOL:
        raise ProtocolError(f"wanted the WebSocket subprotocol {SUBPROTOCOL}, got {chosen or 'none'}")


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.WSServerHandshakeError):
        return f"wanted status 101 for the upgrade, got {error.status}"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return tls.failure(error.certificate_error) if isinstance(error.certificate_error, OSError) else str(error)
    return str(error) or type(error).__name__
