"""A DERP client for tests: one socket, every step explicit, every wait bounded.

`Wire` moves bytes and splits heads and frames; `Client` is a wire that has logged in. Both use `derper.protocol` for
all that they send. A reset counts as the end of the stream, as a close does: the server's log distinguishes them.
"""

import errno
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Self

from derper.protocol.decode import SERVER_LIMITS, FromServer, decode_from_server
from derper.protocol.frames import KeepAlive, Ping, Pong, RecvPacket, SendPacket
from derper.protocol.keys import NodePrivate, NodePublic
from derper.protocol.login import (
    LOGIN_LIMITS,
    NONCE_LEN,
    ClientInfo,
    LoginBox,
    ServerInfo,
    ServerKey,
    client_info_frame,
    open_server_info,
)
from derper.protocol.reader import FrameReader, RawFrame
from derper.protocol.upgrade import UpgradeAnswer, head_length, upgrade_request

HOST: Final = "127.0.0.1"
SECONDS: Final = 10.0
"""Timeout of a read or write in seconds: far more than any server needs, far less than a test run."""
_CHUNK: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset and discards unsent bytes


class WireError(AssertionError):
    """The server did not do what the test waited for."""


@dataclass(frozen=True)
class RelayAddress:
    """A server's listening address, and its TLS settings."""

    port: int
    tls: ssl.SSLContext | None = None

    def tcp(self, receive_buffer: int | None = None) -> socket.socket:
        """Return a connected socket before any TLS; a small receive buffer makes it block its sender early."""
        sock = socket.socket()
        sock.settimeout(SECONDS)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.connect((HOST, self.port))
        return sock

    def connect(self, receive_buffer: int | None = None) -> "Wire":
        """Return a connection ready for bytes."""
        sock = self.tcp(receive_buffer)
        return Wire(sock if self.tls is None else self.tls.wrap_socket(sock, server_hostname=HOST))


class Wire:
    """One connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._ahead = b""  # received after the last head

    def send(self, data: bytes) -> None:
        """Send all."""
        self.sock.sendall(data)

    def offer(self, data: bytes) -> None:
        """Send as much as the server accepts; it may close the connection meanwhile."""
        with suppress(ConnectionError, ssl.SSLError):
            self.sock.sendall(data)

    def some(self) -> bytes:
        """Return the next bytes, or empty bytes at the end of the stream."""
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        try:
            return self.sock.recv(_CHUNK)
        except ConnectionError:
            return b""
        except TimeoutError:
            raise WireError(f"the server neither sent anything nor closed within {SECONDS:.0f} s") from None

    def rest(self) -> bytes:
        """Return all bytes until the server closes."""
        return b"".join(iter(self.some, b""))

    def head(self) -> bytes:
        """Return the next HTTP head, its blank line included."""
        data = b""
        while (length := head_length(data)) is None:
            came = self.some()
            if not came:
                raise WireError(f"wanted an HTTP head, got {data!r} and the end")
            data += came
        self._ahead = data[length:]
        return data[:length]

    def exactly(self, length: int) -> bytes:
        """Return this number of bytes."""
        data = b""
        while len(data) < length:
            came = self.some()
            if not came:
                raise WireError(f"wanted {length} bytes, got {data!r} and the end")
            data += came
        self.unread(data[length:])
        return data[:length]

    def send_without_tls(self, data: bytes) -> None:
        """Send bytes past the TLS session."""
        socket.socket.sendall(self.sock, data)

    def unread(self, data: bytes) -> None:
        """Put back bytes that were read too early."""
        self._ahead = data + self._ahead

    @property
    def alpn(self) -> str | None:
        """The protocol that ALPN chose."""
        assert isinstance(self.sock, ssl.SSLSocket)
        return self.sock.selected_alpn_protocol()

    def finish(self) -> None:
        """Shut down the sending side without close_notify, as a killed program does, if the server has not reset it."""
        try:
            socket.socket.shutdown(self.sock, socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Client:
    """A wire on the way through login, and afterwards a client of the relay."""

    def __init__(self, wire: Wire, key: NodePrivate | None = None) -> None:
        self.wire = wire
        self.private = new_key() if key is None else key
        self.key = self.private.public()
        self.server_info: ServerInfo | None = None
        self._reader = FrameReader(LOGIN_LIMITS)
        self._box: LoginBox | None = None

    @classmethod
    def join(
        cls,
        door: RelayAddress,
        key: NodePrivate | None = None,
        info: ClientInfo | None = None,
        receive_buffer: int | None = None,
    ) -> Self:
        """Connect and log in."""
        client = cls(door.connect(receive_buffer), key)
        client.upgrade()
        client.log_in(info)
        return client

    def upgrade(self, host: str = HOST, *, fast_start: bool = False) -> NodePublic:
        """Request the upgrade to DERP and read up to ServerKey; return the server's key."""
        self.wire.send(upgrade_request(host, fast_start=fast_start))
        if not fast_start:
            UpgradeAnswer.parse(self.wire.head())
        return self.greeted()

    def greeted(self) -> NodePublic:
        """Read ServerKey."""
        server = ServerKey.decode(self.frame()).key
        self._box = LoginBox(self.private, server)
        return server

    def client_info(self, info: ClientInfo | None = None) -> bytes:
        """Return the ClientInfo frame for this server."""
        assert self._box is not None, "upgrade first"
        return client_info_frame(self.key, info or ClientInfo(can_ack_pings=True), self._box, os.urandom(NONCE_LEN))

    def log_in(self, info: ClientInfo | None = None) -> None:
        """Log in and read the answer."""
        self.wire.send(self.client_info(info))
        self.welcome()

    def welcome(self) -> None:
        """Read ServerInfo; all later frames are the relay's."""
        assert self._box is not None, "upgrade first"
        self.server_info = open_server_info(self.frame(), self._box)
        self._reader.allow(SERVER_LIMITS)

    def frame(self) -> RawFrame:
        """Return the next frame of any type."""
        while (frame := self._reader.next_frame()) is None:
            data = self.wire.some()
            if not data:
                raise WireError(f"wanted a frame, got {self._reader.held} bytes of one and the end")
            self._reader.feed(data)
        return frame

    def next(self) -> FromServer:
        """Return the next frame other than a keep-alive."""
        while True:
            frame = decode_from_server(self.frame())
            if frame is not None and not isinstance(frame, KeepAlive):
                return frame

    def packet(self) -> RecvPacket:
        """Return the next frame, which must be a packet."""
        frame = self.next()
        if not isinstance(frame, RecvPacket):
            raise WireError(f"wanted a packet, got {frame}")
        return frame

    def send(self, to: NodePublic, packet: bytes) -> None:
        """Send one packet."""
        self.wire.send(SendPacket(to, packet).encode())

    def ping(self, data: bytes = b"ping ...") -> None:
        """Send a ping and wait for its pong, which must be the next frame."""
        self.wire.send(Ping(data).encode())
        frame = self.next()
        if frame != Pong(data):
            raise WireError(f"wanted the pong, got {frame}")

    def fence(self, data: bytes = b"the end.") -> list[FromServer]:
        """Return all frames received before a packet that the client sends to itself.

        A ping would not do: its answer overtakes packets.
        """
        self.send(self.key, data)
        before: list[FromServer] = []
        while (frame := self.next()) != RecvPacket(self.key, data):
            before.append(frame)
        return before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()


def new_key() -> NodePrivate:
    return NodePrivate.from_entropy(os.urandom(32))


@contextmanager
def closing(*wires: Wire | Client) -> Iterator[None]:
    """Close all these at the end of the block."""
    try:
        yield
    finally:
        for wire in wires:
            (wire.wire if isinstance(wire, Client) else wire).close()
