"""Bytes to and from a relay: over TCP, in TLS, or in the messages of a WebSocket.

`open` goes as far as the first byte of DERP can be written: encrypted, the certificate looked at. What the stream
carries is for `connection` to know.
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
CLOSE_SECONDS = 1.0  # for goodbyes; then the connection is cut

Address = tuple[str, int]


class Stream(Protocol):
    """A connection to a relay. Reading and writing raise `NetworkError` once it is lost."""

    tls: TlsInfo | None  # None without TLS
    local: Address
    remote: Address

    async def read(self) -> bytes:
        """Wait for some bytes; none are the end."""

    async def write(self, data: bytes) -> None:
        """Send; waits while the connection takes no more."""

    async def close(self) -> None:
        """End it, with the goodbyes that belong to it."""


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
        """Take over a connected socket, and with TLS shake hands and look at the certificate."""
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
        """Wait for some bytes; none are the end."""
        try:
            return await self._reader.read(CHUNK)
        except OSError as error:
            raise NetworkError(f"the connection was lost: {error.strerror or error}") from error

    async def write(self, data: bytes) -> None:
        """Send; waits while the connection takes no more."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except OSError as error:
            raise NetworkError(f"the connection was lost: {error.strerror or error}") from error

    async def close(self) -> None:
        """End it; TLS says goodbye, and who does not answer is cut off."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                self._writer.close()
                await self._writer.wait_closed()
        except OSError:
            await _cut(self._writer.transport)
        except asyncio.CancelledError:
            self._writer.transport.abort()  # nobody is left to wait for the peer's goodbye
            raise


class WebSocketStream:
    """DERP in binary messages, whose boundaries mean nothing: as a browser's client speaks it."""

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
        """Connect and shake hands, all of it; the certificate is looked at before DERP begins.

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
        """Wait for a message's bytes; none are the end."""
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
        """Send as one message; waits while the connection takes no more."""
        try:
            await self._socket.send_bytes(data)
        except (aiohttp.ClientError, OSError) as error:
            raise NetworkError(f"the WebSocket was lost: {_words(error)}") from error

    async def close(self) -> None:
        """Do the closing handshake, and end it."""
        with suppress(aiohttp.ClientError, OSError):
            await self._socket.close()
        await self._session.close()
        if self._connector.transport:
            await _cut(self._connector.transport)


class _Connector(aiohttp.TCPConnector):
    """Remembers its only connection: aiohttp leaves a TLS one to itself until the peer has said goodbye."""

    transport: asyncio.Transport | None = None

    async def connect(self, *request: Any, **more: Any) -> Connection:  # noqa: ANN401  whatever aiohttp hands in
        """Connect as ever."""
        connection = await super().connect(*request, **more)
        self.transport = connection.transport
        return connection


class _Resolver(AbstractResolver):
    """Sends aiohttp to the addresses of the DERP map's node, where it has some."""

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
        """Nothing is held."""


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
