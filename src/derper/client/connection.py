"""One login at one relay: from its address to a stream of messages, until it is lost. No retries here.

`derper.protocol.session` implements the protocol. This module moves the bytes, limits the time of each step, and closes
a connection that has been silent for too long.
"""

import asyncio
import os
import ssl
from dataclasses import dataclass, field
from typing import Self

from derper.client import dial
from derper.client.streams import Address, Stream, TcpStream, WebSocketStream
from derper.client.target import Target
from derper.client.tls import TlsInfo
from derper.errors import NetworkError
from derper.protocol.derpmap import Node
from derper.protocol.frames import Health
from derper.protocol.keys import MeshKey, NodePrivate, NodePublic
from derper.protocol.login import NONCE_LEN, ClientInfo, ServerInfo
from derper.protocol.session import ClientSession, Said
from derper.protocol.upgrade import upgrade_request

DIAL_SECONDS = 10.0
LOGIN_SECONDS = 10.0  # for TLS, upgrade and login together
SILENCE_SECONDS = 120.0
"""Maximum silence; a relay sends a keep-alive every 60 to 65 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of a `DerpClient`. The defaults suit an ordinary client.

    Attributes:
        mesh_key: The region's mesh key. A client with the right key may watch, forward and close peers. None: an
            ordinary client.
        app_name: The program's name, sent at login: at most 32 characters of printable ASCII.
        is_prober: Announce the client as a prober at login; servers count probers separately.
        websocket: Connect over WebSocket, as clients in a browser do.
        fast_start: Skip the HTTP answer when the TLS 1.3 handshake shows the server's key. Saves one round trip.
        tls: The program's TLS settings. None: the system's root certificates, or those that SSL_CERT_FILE names.
        cert_name: For a URL, the same as `CertName` in a DERP map: another name that the certificate must have, or a
            pin, `sha256-raw:` and 64 hex digits. Empty: the certificate must be for the URL's host. For a `Node` or a
            `Region` it has no effect.
        reconnect: Connect again after a connection was lost. False: raise the reason where messages are received.

    Source: docs/protocol/protocol.md, Login; docs/protocol/tls.md.
    """

    mesh_key: MeshKey | None = None
    app_name: str = ""
    is_prober: bool = False
    websocket: bool = False
    fast_start: bool = True
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    cert_name: str = ""
    reconnect: bool = True

    @property
    def info(self) -> ClientInfo:
        """The ClientInfo that the client sends at login."""
        return ClientInfo(mesh_key=self.mesh_key, can_ack_pings=True, is_prober=self.is_prober, app_name=self.app_name)


@dataclass(frozen=True, slots=True)
class Connected:
    """The client has logged in. The first message of each connection.

    Attributes:
        node: The relay. For a URL, a node with the URL's host and port.
        server_key: The relay's public key.
        server_info: What the relay announced at login, such as a rate limit.
        tls: The result of the TLS handshake; None over plain HTTP.
        fast_start: Whether the HTTP answer was skipped.
        local: This end's address and port.
        remote: The relay's address and port.

    Source: docs/protocol/protocol.md, Login.
    """

    node: Node
    server_key: NodePublic
    server_info: ServerInfo
    tls: TlsInfo | None
    fast_start: bool
    local: Address = ("", 0)
    remote: Address = ("", 0)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection was lost, and the client will try again. The next message is `Connected` or this again.

    Attributes:
        reason: Why the connection was lost, or why the last attempt failed; one sentence.
        retry_seconds: Seconds until the next attempt.

    Source: docs/client.md, Lost connections.
    """

    reason: str
    retry_seconds: float


Message = Connected | Disconnected | Said
"""Everything that `DerpClient.receive` returns: the client's two messages and the server's."""


class Connection:
    """A client that is logged in. Reading and writing raise `NetworkError` or `ProtocolError` once it is lost."""

    def __init__(self, target: Target, stream: Stream, session: ClientSession, connected: Connected) -> None:
        self.target = target
        self.connected = connected
        self._stream = stream
        self._session = session

    @classmethod
    async def open(
        cls,
        target: Target,
        private: NodePrivate,
        options: Options,
        *,
        dial_seconds: float = DIAL_SECONDS,
        ideal_node: str | None = None,
    ) -> Self:
        """Connect and log in.

        Args:
            target: The relay.
            private: The client's key.
            options: The settings.
            dial_seconds: Deadline for TCP; TLS, upgrade and login have ten seconds more.
            ideal_node: The name of the region's first node if the target is another one.

        Raises:
            NetworkError: The relay is unreachable, has an untrusted certificate, closed the connection or timed out.
            ProtocolError: The server does not speak DERP, or violates it.
        """
        stream: Stream | None = None
        seconds = LOGIN_SECONDS
        if options.websocket:
            seconds += dial_seconds  # a WebSocket connects by itself
        else:
            sock = await dial.connect_within(target.node, dial_seconds)
        try:
            async with asyncio.timeout(seconds):
                if options.websocket:
                    stream = await WebSocketStream.open(target, options.tls, dial_seconds)
                else:
                    stream = await TcpStream.open(target, options.tls, sock)
                return await cls._log_in(stream, target, private, options, ideal_node)
        except TimeoutError as error:
            await _close(stream)
            raise NetworkError(f"{target} did not finish TLS and login within {seconds:g} s") from error
        except BaseException:
            await _close(stream)
            raise

    @classmethod
    async def _log_in(
        cls, stream: Stream, target: Target, private: NodePrivate, options: Options, ideal_node: str | None
    ) -> Self:
        meta = stream.tls.meta if stream.tls and not options.websocket and options.fast_start else None
        fast_start = meta is not None and meta.allows_fast_start
        session = ClientSession(
            private,
            options.info,
            os.urandom(NONCE_LEN),
            server_key=meta.server_key if meta and fast_start else None,
            awaits_answer=not fast_start and not options.websocket,
        )
        head = b""
        if not options.websocket:
            head = upgrade_request(target.authority, path=target.path, fast_start=fast_start, ideal_node=ideal_node)
        await stream.write(head + session.data_to_send())
        while (message := session.next_message()) is None:
            await _send_pending(stream, session)
            data = await stream.read()
            if not data:
                raise NetworkError(f"{target} closed the connection during login; it may not admit this client")
            session.feed(data)
        if isinstance(message, Health):
            raise NetworkError(f"{target} rejected this client: {message.problem}")
        if not isinstance(message, ServerInfo) or session.server_key is None:
            raise AssertionError("the first message of a session is ServerInfo")
        connected = Connected(
            target.node, session.server_key, message, stream.tls, fast_start, stream.local, stream.remote
        )
        return cls(target, stream, session, connected)

    async def next(self) -> Said:
        """Return the next message; pings of the server are answered meanwhile."""
        await _send_pending(self._stream, self._session)
        while (message := self._session.next_message()) is None:
            await _send_pending(self._stream, self._session)
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    data = await self._stream.read()
            except TimeoutError as error:
                raise NetworkError(f"the relay sent nothing for {SILENCE_SECONDS:g} s") from error
            if not data:
                raise NetworkError("the relay closed the connection")
            self._session.feed(data)
        return message

    async def send(self, frame: bytes) -> None:
        """Send a complete frame; waits while the connection accepts no more data."""
        await self._stream.write(frame)

    async def close(self) -> None:
        """Close the connection in every layer."""
        await self._stream.close()


async def _send_pending(stream: Stream, session: ClientSession) -> None:
    if data := session.data_to_send():
        await stream.write(data)


async def _close(stream: Stream | None) -> None:
    if stream is not None:
        await stream.close()
