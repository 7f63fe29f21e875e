"""DERP clients whose frames travel in WebSocket messages.

`WebClient` is the `Client` of the other tests on a wire that is a WebSocket: a hand-written one, which may send invalid
input (`ByHand`), that of a library (`Library`), or a browser's (`browser.Page`). They implement the methods of a wire
that a client needs: `send`, `some` and `close`.
"""

from collections.abc import Iterable
from typing import Final, Self

from derpwire import HOST, SECONDS, Client, RelayAddress, Wire, WireError
from websockets.exceptions import ConnectionClosed
from websockets.frames import Close, Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol
from websockets.utils import apply_mask

from derper.protocol.frames import MAX_PACKET
from derper.protocol.keys import NodePrivate, NodePublic
from derper.protocol.login import LoginBox, ServerKey

BIGGEST_MESSAGE: Final = 1 << 20
"""Length in bytes of the biggest message that the server accepts."""
MOST_SENT: Final = 32_768
"""Payload bytes of the biggest message that the server sends, the limit of Go's library."""
SIZES: Final = (0, 1, 88, 89, 1_280, MOST_SENT - 37, MOST_SENT - 36, MOST_SENT, MAX_PACKET - 37, MAX_PACKET)
"""Sizes of packets for which a frame or its message ends at a limit or just above it."""
UPGRADE: Final = (
    f"GET /derp HTTP/1.1\r\nHost: {HOST}\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: derp\r\n\r\n"
).encode()
_MASK: Final = bytes.fromhex("11223344")


def url_of(door: RelayAddress) -> str:
    return f"{'ws' if door.tls is None else 'wss'}://{HOST}:{door.port}/derp"


def masked(first_byte: int, payload: bytes = b"", *, mask: bytes = _MASK, length: int | None = None) -> bytes:
    """Return a client's frame with any first byte; `length` overrides the payload's length in its header."""
    claimed = len(payload) if length is None else length
    if claimed < 126:
        header = bytes([first_byte, 0x80 | claimed])
    elif claimed < 1 << 16:
        header = bytes([first_byte, 0xFE]) + claimed.to_bytes(2, "big")
    else:
        header = bytes([first_byte, 0xFF]) + claimed.to_bytes(8, "big")
    return header + mask + apply_mask(payload, mask)


class ByHand(Wire):
    """A WebSocket with every byte under the test's control. `came` has the server's frames."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire.sock)
        self.wire = wire
        self.answer = b""
        self.came: list[Frame] = []

    @classmethod
    def open(cls, door: RelayAddress) -> Self:
        """Connect and read the 101."""
        socket = cls(door.connect())
        socket.wire.send(UPGRADE)
        socket.read_answer()
        return socket

    def read_answer(self) -> None:
        self.answer = self.wire.head()
        assert self.answer.startswith(b"HTTP/1.1 101 "), self.answer

    def next(self) -> Frame:
        """Return the server's next frame of any kind."""
        first, second = self.wire.exactly(2)
        assert second < 0x80, "a server's frames have no mask"
        length = second
        if second > 125:
            length = int.from_bytes(self.wire.exactly(2 if second == 126 else 8), "big")
        frame = Frame(
            Opcode(first & 0x0F),
            self.wire.exactly(length),
            first >= 0x80,
            *(bool(first & bit) for bit in (0x40, 0x20, 0x10)),
        )
        frame.check()
        self.came.append(frame)
        return frame

    def read_close(self) -> Close:
        """Read to the server's close frame, which must be the last frame, and return it."""
        while (frame := self.next()).opcode is not Opcode.CLOSE:
            pass
        rest = self.wire.rest()
        assert rest == b"", f"{len(rest)} bytes after the closing frame: {rest[:64].hex()}"
        return Close.parse(frame.data)

    def send(self, data: bytes) -> None:
        self.wire.send(masked(0x82, data))

    def some(self) -> bytes:
        while (frame := self.next()).opcode is not Opcode.BINARY:
            if frame.opcode is Opcode.CLOSE:
                return b""
        return bytes(frame.data)


class Library(Wire):
    """The WebSocket of a widely used library."""

    def __init__(self, connection: ClientConnection) -> None:
        super().__init__(connection.socket)
        self.connection = connection

    @classmethod
    def open(cls, door: RelayAddress, *, takes: int = BIGGEST_MESSAGE) -> Self:
        """Connect; offer compression, as by default, and accept messages of at most `takes` bytes."""
        connection = connect(
            url_of(door), ssl=door.tls, subprotocols=[Subprotocol("derp")], compression="deflate", max_size=takes,
            open_timeout=SECONDS, close_timeout=SECONDS, ping_interval=None, proxy=None, legacy=True,
        )  # fmt: skip
        assert isinstance(connection, ClientConnection)
        return cls(connection)

    def send(self, data: bytes) -> None:
        self.connection.send(data)

    def send_fragments(self, pieces: Iterable[bytes]) -> None:
        """Send one message, in a frame for each piece."""
        self.connection.send(pieces)

    def some(self) -> bytes:
        try:
            message = self.connection.recv(SECONDS)
        except ConnectionClosed:
            return b""
        except TimeoutError:
            raise WireError(f"no message came within {SECONDS:.0f} s") from None
        assert isinstance(message, bytes), "a text message came"
        return message

    def close(self) -> None:
        self.connection.close()


class WebClient(Client):
    """A client on a wire that is already a WebSocket."""

    @classmethod
    def over(cls, wire: Wire, key: NodePrivate | None = None) -> Self:
        """Log in."""
        client = cls(wire, key)
        client.upgrade()
        client.log_in()
        return client

    def upgrade(self, host: str = HOST, *, fast_start: bool = False) -> NodePublic:
        """Read ServerKey, the rest of the upgrade."""
        assert host == HOST, "that is said already"
        assert not fast_start, "there is none with WebSocket"
        server = ServerKey.decode(self.frame()).key
        self.expect(server)
        return server

    def expect(self, server: NodePublic) -> None:
        """Use this key of the server before it has sent ServerKey."""
        self._box = LoginBox(self.private, server)


def packet_of(size: int, seed: int = 0) -> bytes:
    """Return a packet of this size without repeated parts."""
    return b"".join((seed + at).to_bytes(4, "big") for at in range(0, size, 4))[:size]


def relay_both_ways(a: Client, b: Client) -> None:
    """Send packets of every size both ways; each client must get exactly these."""
    for sender, receiver in ((a, b), (b, a)):
        for size in SIZES:
            sender.send(receiver.key, packet_of(size, seed=size))
            came = receiver.packet()
            assert came.source == sender.key
            assert came.packet == packet_of(size, seed=size), f"{len(came.packet)} bytes came of a packet of {size}"
