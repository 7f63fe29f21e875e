"""TCP over DERP: connections of this machine whose packets pass through a TUN device and DERP.

The device has an address in a /30. The kernel sends packets for the other host address there to the device. One client
sends such a packet unchanged to the other. On arrival it returns to the device with source and destination swapped. So
a connection to the other address ends at a listener on our own, and each packet has crossed the relay. Sums over both
addresses do not depend on their order, so checksums stay valid.

All probes share one device. A packet's probe is identified by the port that it listens on, so probes do not wait for
each other.
"""

import asyncio
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from typing import Final, NoReturn

from derper import log
from derper.errors import NetworkError
from derper.prober.clients import Pair
from derper.prober.together import first
from derper.prober.tundevice import TunDevice

_CHUNK: Final = 65_536
_QUEUED: Final = 256
"""Maximum packets queued for one probe's relay; further ones are dropped, and TCP sends them again."""

_IPV4_HEADER: Final = 20
_PROTOCOL, _TCP = 9, 6
_ADDRESSES: Final = slice(12, 20)
_PORTS: Final = struct.Struct(">HH")

_block: Final = os.urandom(_CHUNK)


@dataclass(frozen=True, slots=True)
class _Path:
    """One probe's path through DERP."""

    pair: Pair
    waiting: asyncio.Queue[bytes] = field(default_factory=lambda: asyncio.Queue(_QUEUED))


class Tunnel:
    """The device that probes share; it exists during transfers."""

    def __init__(self, interface: IPv4Interface) -> None:
        self._interface = interface
        self._other = next(host for host in interface.network.hosts() if host != interface.ip)
        self._sent = interface.ip.packed + self._other.packed  # addresses as the kernel sends
        self._returned = self._other.packed + interface.ip.packed
        self._paths: dict[int, _Path] = {}  # by the listener's port
        self._device: TunDevice | None = None
        self._users = 0  # the device exists if above 0
        self._closing = ExitStack()

    async def transfer(self, pair: Pair, size: int, carried: Callable[[int], None]) -> None:
        """Transfer `size` bytes through a TCP connection from one client to the other.

        Args:
            pair: The clients.
            size: The number of bytes.
            carried: Called with the number of bytes that arrived.

        Raises:
            ConfigError: The device cannot be created.
            NetworkError: The connection failed or was lost, or other bytes arrived.
        """
        with self._in_use() as device:
            arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            async def receive(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
                if out.get_extra_info("peername")[0] != str(self._other):  # another program of this machine
                    out.transport.abort()
                    return
                try:
                    await _receive(stream, size, carried)
                except (OSError, NetworkError) as error:
                    arrived.set_exception(NetworkError(f"TCP in TCP: {log.in_one_line(error)}"))
                else:
                    arrived.set_result(None)
                finally:
                    out.transport.abort()

            async with await asyncio.start_server(receive, str(self._interface.ip), 0, backlog=1) as server:
                port = server.sockets[0].getsockname()[1]
                path = self._paths[port] = _Path(pair)
                try:
                    await first(self._send(port, size, arrived), _outward(path), self._inward(pair, device))
                finally:
                    del self._paths[port]

    @contextmanager
    def _in_use(self) -> Iterator[TunDevice]:
        if self._device is None:
            self._device = self._closing.enter_context(TunDevice(self._interface, self._dispatch))
        self._users += 1
        try:
            yield self._device
        finally:
            self._users -= 1
            if not self._users:
                self._device = None
                self._closing.close()

    async def _send(self, port: int, size: int, arrived: asyncio.Future[None]) -> None:
        try:
            _, out = await asyncio.open_connection(str(self._other), port)
        except OSError as error:
            raise NetworkError(f"TCP in TCP: cannot connect: {log.in_one_line(error)}") from error
        try:
            for at in range(0, size, _CHUNK):
                out.write(_pattern(at, min(_CHUNK, size - at)))
                await out.drain()
            await arrived
        except ConnectionError as error:
            raise NetworkError(f"TCP in TCP: {log.in_one_line(error)}") from error
        finally:
            out.transport.abort()

    def _dispatch(self, packet: bytes) -> None:
        """Pass a packet from the kernel to its probe."""
        if len(packet) < _IPV4_HEADER or packet[_ADDRESSES] != self._sent or packet[_PROTOCOL] != _TCP:
            return
        header = (packet[0] & 0xF) * 4
        if len(packet) < header + _PORTS.size:
            return
        source, destination = _PORTS.unpack_from(packet, header)
        path = self._paths.get(destination) or self._paths.get(source)
        if path is not None and not path.waiting.full():
            path.waiting.put_nowait(packet)

    async def _inward(self, pair: Pair, device: TunDevice) -> NoReturn:
        while True:
            packet = (await pair.receiver.packet()).packet
            # Packets of other senders to this key must not enter our device.
            if len(packet) >= _IPV4_HEADER and packet[_ADDRESSES] == self._sent:
                device.write(packet[: _ADDRESSES.start] + self._returned + packet[_ADDRESSES.stop :])


async def _outward(path: _Path) -> NoReturn:
    while True:
        await path.pair.send(await path.waiting.get())


async def _receive(stream: asyncio.StreamReader, size: int, carried: Callable[[int], None]) -> None:
    at = 0
    while at < size:
        data = await stream.read(_CHUNK)
        if not data:
            raise NetworkError(f"the connection ended after {at:,} bytes of {size:,}")
        if data != _pattern(at, len(data)):
            raise NetworkError(f"after {at:,} bytes of {size:,} others arrived than were sent")
        at += len(data)
        carried(len(data))


def _pattern(at: int, length: int) -> bytes:
    """Return `length` bytes (at most 65,536) of an endless pattern that both ends know."""
    at %= _CHUNK
    return (_block[at:] + _block[:at])[:length]
