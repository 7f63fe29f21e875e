"""The client for programs: keeps one key connected to a relay.

`DerpClient` logs in, reads in the background, and reconnects after a lost connection: after a growing pause, or at the
time that a restarting relay announced. Sent packets are datagrams: a packet that cannot be sent now is dropped and
counted, never queued.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from derper.client.bucket import TokenBucket
from derper.client.connection import DIAL_SECONDS, Connected, Connection, Disconnected, Message, Options
from derper.client.target import Target
from derper.errors import ConfigError, DerperError, NetworkError
from derper.protocol.derpmap import Node, Region
from derper.protocol.frames import (
    PING_LEN,
    ClosePeer,
    ForwardPacket,
    NotePreferred,
    Ping,
    Pong,
    RecvPacket,
    Restarting,
    SendPacket,
    WatchConns,
)
from derper.protocol.keys import KEY_LEN, NodePrivate, NodePublic, of_type
from derper.protocol.login import ServerInfo

NODE_SECONDS = 1.5
"""Deadline for the TCP connection to each node of a region."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
STEADY_SECONDS: Final = 10.0  # a connection that lasted this long resets the pauses
RESTART_PAUSE: Final = 0.2  # between attempts while a relay restarts
LONGEST_RESTART: Final = 120.0
"""Upper limit for both times that a restarting relay announces, in seconds."""

_QUEUED_MESSAGES: Final = 64
"""Maximum messages received and not yet read by the program; then the relay must wait, and drops packets."""


Where = str | Node | Region | Target


@dataclass(slots=True)
class Counts:
    """Packets since the client was created.

    Attributes:
        sent: Packets written to a connection.
        received: Packets received.
        over_limit: Packets not sent because they exceeded the rate limit that the relay announced.
        unconnected: Packets not sent because there was no connection.

    Source: docs/client.md, Lost connections.
    """

    sent: int = 0
    received: int = 0
    over_limit: int = 0
    unconnected: int = 0


class _Closed:
    """The end of the messages in the queue."""

    def __init__(self, reason: Exception | None) -> None:
        self.reason = reason  # None: the program closed the client


class DerpClient:
    """A client with one key, connected to one relay or to the first node of a region that answers.

    Use it as `async with`, which connects and closes, and raises what `connect` raises. Iterate over it to receive
    messages. Only one task at a time may receive; any number may send.

    Args:
        where: A relay's URL (`https://name`, `https://name:port`, `http://name:port`), a `Node` or a `Region` of a DERP
            map, or a `Target`.
        private_key: The client's key. None: create a new one.
        options: The settings. None: the defaults.

    Attributes:
        key: The client's public key, to which others send.
        counts: Packets sent, received and dropped.

    Raises:
        ConfigError: The URL is invalid, or the region has no node that relays.
        TypeError: The private key is not a `NodePrivate`.

    Source: docs/protocol/protocol.md, Getting to the first frame, Login and Frames after login.
    """

    key: NodePublic
    counts: Counts

    def __init__(
        self,
        where: str | Node | Region | Target,
        private_key: NodePrivate | None = None,
        options: Options | None = None,
    ) -> None:
        self.counts = Counts()
        self._options = options or Options()
        self._targets = _targets(where, self._options)
        self._dial_seconds = DIAL_SECONDS if isinstance(where, str) else NODE_SECONDS
        if private_key is None:
            private_key = NodePrivate.from_entropy(os.urandom(KEY_LEN))
        self._private = of_type(NodePrivate, private_key, "private_key")
        self.key = self._private.public()
        self._connection: Connection | None = None
        self._messages: asyncio.Queue[Message | _Closed] = asyncio.Queue(_QUEUED_MESSAGES)
        self._task: asyncio.Task[None] | None = None
        self._closed: _Closed | None = None
        self._bucket: TokenBucket | None = None
        self._pings: dict[bytes, asyncio.Future[None]] = {}
        self._watches = False
        self._preferred: bool | None = None

    @property
    def connected(self) -> Connected | None:
        """The current connection; None while there is none."""
        return self._connection.connected if self._connection else None

    async def connect(self) -> Connected:
        """Connect and log in, once. A region's nodes are tried in order.

        A URL has 10 s for TCP, a node of a DERP map 1.5 s; TLS, upgrade and login have 10 s more.

        Returns:
            The connection, which is also the first message.

        Raises:
            NetworkError: The relay cannot be reached, has an untrusted certificate, closed the connection or timed out.
            ProtocolError: The server does not speak DERP.
            RuntimeError: The client was connected or closed before.
        """
        if self._task is not None or self._closed is not None:
            raise RuntimeError("a DerpClient connects once")
        connection = await self._open(self._targets)
        await self._begin(connection)
        self._task = asyncio.create_task(self._keep_connected(connection))
        return connection.connected

    async def close(self) -> None:
        """Close the connection and stop reconnecting. A waiting `receive` raises `NetworkError`; an iteration ends."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._connection is not None:  # its first message is unread
            connection, self._connection = self._connection, None
            await connection.close()
        if self._closed is None:
            self._closed = _Closed(None)
            while not self._messages.empty():
                self._messages.get_nowait()
            self._messages.put_nowait(self._closed)

    async def send(self, to: NodePublic, packet: bytes) -> bool:
        """Send a packet through the relay. Waits while the connection accepts no more data.

        Args:
            to: The receiver's key.
            packet: At most 65,536 bytes.

        Returns:
            Whether the packet was sent; True does not mean that it arrived. False, and counted: there is no
            connection, or the packet exceeds the rate limit that the relay announced.

        Raises:
            TypeError: A key is not a `NodePublic`, or the packet is not bytes.
            ValueError: The packet has more than 65,536 bytes.
        """
        frame = SendPacket(to, packet).encode()
        if self._bucket and not self._bucket.take(len(packet), asyncio.get_running_loop().time()):
            self.counts.over_limit += 1
            return False
        if not await self._write(frame):
            self.counts.unconnected += 1
            return False
        self.counts.sent += 1
        return True

    async def receive(self) -> Message:
        """Wait for the next message of any kind.

        Returns:
            The message. A program must ignore kinds that it does not know.

        Raises:
            NetworkError: The client is closed, or, without `reconnect`, its connection was lost.
            ProtocolError: Without `reconnect`, the relay broke the protocol.
        """
        message = await self._messages.get()
        if isinstance(message, _Closed):
            self._messages.put_nowait(message)
            raise message.reason or NetworkError("the client is closed")
        return message

    async def packet(self) -> RecvPacket:
        """Wait for the next packet and discard all other messages. Raises what `receive` raises."""
        while not isinstance(message := await self.receive(), RecvPacket):
            pass
        return message

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until `close` is called. Raises what `receive` raises if the connection is lost for good."""
        while True:
            try:
                message = await self.receive()
            except NetworkError:
                if self._closed and self._closed.reason is None:
                    return
                raise
            yield message

    async def ping(self, seconds: float = 10.0) -> float:
        """Measure the round trip to the relay. A task of the program has to receive meanwhile.

        Args:
            seconds: Seconds to wait for the answer.

        Returns:
            Seconds until the answer came.

        Raises:
            NetworkError: There is no connection, or no answer came in time.
        """
        loop = asyncio.get_running_loop()
        data, answered = os.urandom(PING_LEN), loop.create_future()
        self._pings[data] = answered
        began = loop.time()
        try:
            if not await self._write(Ping(data).encode()):
                raise NetworkError("there is no connection for a ping")
            async with asyncio.timeout(seconds):
                await answered
        except TimeoutError as error:
            raise NetworkError(f"no pong within {seconds:g} s") from error
        finally:
            del self._pings[data]
        return loop.time() - began

    async def note_preferred(self, preferred: bool) -> None:  # noqa: FBT001  the only argument
        """Announce whether this relay is the key's home. Sent again after each reconnect.

        Args:
            preferred: True: this relay is the home.
        """
        self._preferred = preferred
        await self._write(NotePreferred(preferred).encode())

    async def watch(self) -> None:
        """Subscribe to `PeerPresent` and `PeerGone` of all clients, after each reconnect too; needs the mesh key."""
        self._watches = True
        await self._write(WatchConns().encode())

    async def forward(self, source: NodePublic, to: NodePublic, packet: bytes) -> bool:
        """Forward a packet as a node of the same region does; needs the mesh key.

        Args:
            source: The key of the packet's sender, a client of the forwarding node.
            to: The receiver's key, a client of this relay.
            packet: At most 65,536 bytes.

        Returns:
            Whether the packet was sent; False without a connection.

        Raises:
            TypeError: A key is not a `NodePublic`, or the packet is not bytes.
            ValueError: The packet has more than 65,536 bytes.
        """
        return await self._write(ForwardPacket(source, to, packet).encode())

    async def close_peer(self, peer: NodePublic) -> bool:
        """Ask the relay to close all connections of a key; needs the mesh key.

        Args:
            peer: The key.

        Returns:
            Whether the request was sent; False without a connection.

        Raises:
            TypeError: The key is not a `NodePublic`.
        """
        return await self._write(ClosePeer(peer).encode())

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self, targets: tuple[Target, ...]) -> Connection:
        errors = []
        for target in targets:
            # For the server's statistics only: a client on another node sends the name of the region's first node.
            ideal = None if target is self._targets[0] else self._targets[0].node.name
            try:
                return await Connection.open(
                    target, self._private, self._options, dial_seconds=self._dial_seconds, ideal_node=ideal
                )
            except DerperError as error:
                errors.append(error)
        if len(errors) == 1:
            raise errors[0]
        raise NetworkError("no node of the region: " + "; ".join(map(str, errors))) from errors[0]

    async def _begin(self, connection: Connection) -> None:
        """Use a new connection, and repeat the announcements of the last one on it."""
        self._connection = connection
        self._limit(connection.connected.server_info)
        if self._preferred is not None:
            await self._write(NotePreferred(self._preferred).encode())
        if self._watches:
            await self._write(WatchConns().encode())

    async def _keep_connected(self, connection: Connection) -> None:
        """Keep the client connected until it is closed; if it cannot be, receivers get the error."""
        try:
            reason: Exception = await self._read_and_reconnect(connection)
        except Exception as bug:  # noqa: BLE001  raised in the receiving task
            reason = bug
        self._closed = _Closed(reason)
        await self._messages.put(self._closed)

    async def _read_and_reconnect(self, connection: Connection) -> DerperError:
        """Read messages and reconnect after each loss; return the error that ended this."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            began = loop.time()
            lost, restarting = await self._read(connection)
            if not self._options.reconnect:
                return lost
            pause = FIRST_PAUSE if loop.time() - began > STEADY_SECONDS else pause
            if restarting:
                again = await self._wait_for_restart(connection.target, restarting, lost)
                if again:
                    connection = again
                    continue
            while True:
                await self._report_loss(lost, pause * random.uniform(0.5, 1))  # noqa: S311  not a secret
                pause = min(LONGEST_PAUSE, 2 * pause)
                try:
                    connection = await self._open(self._targets)
                    break
                except DerperError as error:
                    lost = error
            await self._begin(connection)

    async def _read(self, connection: Connection) -> tuple[DerperError, Restarting | None]:
        """Read messages until the connection is lost; return the error, and the announced restart, if any."""
        restarting = None
        try:
            await self._messages.put(connection.connected)
            while True:
                message = await connection.next()
                match message:
                    case Pong(data) if self._is_awaited(data):
                        continue
                    case ServerInfo():
                        self._limit(message)
                    case RecvPacket():
                        self.counts.received += 1
                    case Restarting():
                        restarting = message
                await self._messages.put(message)
        except DerperError as error:
            return error, restarting
        finally:
            self._connection = None
            await connection.close()

    def _is_awaited(self, pong: bytes) -> bool:
        answered = self._pings.get(pong)
        if answered and not answered.done():
            answered.set_result(None)
        return answered is not None

    async def _wait_for_restart(self, target: Target, restarting: Restarting, lost: DerperError) -> Connection | None:
        """Reconnect at the announced time, and retry for the announced duration; return None if that failed."""
        wait = min(restarting.reconnect_in_ms / 1000, LONGEST_RESTART)
        try_for = min(restarting.try_for_ms / 1000, LONGEST_RESTART)
        await self._report_loss(lost, wait)
        until = asyncio.get_running_loop().time() + try_for
        while True:
            try:
                connection = await self._open((target,))
            except DerperError:
                if asyncio.get_running_loop().time() + RESTART_PAUSE > until:
                    return None
                await asyncio.sleep(RESTART_PAUSE)
            else:
                await self._begin(connection)
                return connection

    async def _report_loss(self, lost: DerperError, pause: float) -> None:
        await self._messages.put(Disconnected(str(lost), pause))
        await asyncio.sleep(pause)

    def _limit(self, info: ServerInfo) -> None:
        rate, burst = info.token_bucket_bytes_per_second, info.token_bucket_bytes_burst
        self._bucket = TokenBucket(rate, burst, asyncio.get_running_loop().time()) if rate else None

    async def _write(self, frame: bytes) -> bool:
        connection = self._connection
        if connection is None:
            return False
        try:
            await connection.send(frame)
        except NetworkError:
            return False  # receivers get the error
        return True


def _targets(where: Where, options: Options) -> tuple[Target, ...]:
    if isinstance(where, Target):
        return (where,)
    if isinstance(where, str):
        return (Target.of_url(where, options.cert_name),)
    nodes = (where,) if isinstance(where, Node) else tuple(node for node in where.nodes if not node.stun_only)
    if not nodes:
        raise ConfigError("the DERP map's region has no node that relays")
    return tuple(Target(node) for node in nodes)
