"""TCP in TCP: a TUN device of this machine whose packets take the way through two DERP clients.

The device has an address in a /30, and the kernel sends what is for the other host address there into the device. That
goes to one client as it is, and on arrival at the other comes back into the device with source and destination changed
over: so a connection to the other address ends at a listener on our own, each packet having crossed the relay. Sums
over both addresses do not change with their order, so checksums hold.
"""

import asyncio
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from derper import log
from derper.errors import ConfigError, NetworkError
from derper.prober.clients import Pair
from derper.prober.together import together

MTU: Final = 1_280

_DEVICE: Final = Path("/dev/net/tun")
_NAME: Final = b"derpprobe%d"  # the kernel puts the number in
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8914, 0x8916, 0x891C, 0x8922
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_REQUEST: Final = struct.Struct("16s24s")  # an interface's name, and what depends on the request
_SOCKET_ADDRESS: Final = struct.Struct("=HH4s")  # family, port, address

_IPV4_HEADER: Final = 20
_ADDRESSES: Final = slice(12, 20)
_CHUNK: Final = 65_536


class Tunnel:
    """One device, there for as long as the context lasts."""

    def __init__(self, interface: IPv4Interface) -> None:
        self._own = interface.ip
        self._other = next(host for host in interface.network.hosts() if host != interface.ip)
        self._netmask = interface.netmask
        self._device = -1

    def __enter__(self) -> Self:
        try:
            self._device = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise ConfigError(
                f"-bw-tun-ipv4-addr needs {_DEVICE}, which cannot be opened ({error.strerror})"
            ) from error
        try:
            self._set_up()
        except OSError as error:
            os.close(self._device)
            raise ConfigError(
                f"a TUN device cannot be made ({error.strerror}); run as root or with the capability NET_ADMIN"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._device)

    def _set_up(self) -> None:
        flags = struct.pack("=H", _IFF_TUN | _IFF_NO_PI)
        answer = fcntl.ioctl(self._device, _TUNSETIFF, _REQUEST.pack(_NAME, flags))
        name = _REQUEST.unpack(answer)[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, value in (
                (_SIOCSIFADDR, _socket_address(self._own)),
                (_SIOCSIFNETMASK, _socket_address(self._netmask)),
                (_SIOCSIFMTU, struct.pack("=i", MTU)),
                (_SIOCSIFFLAGS, struct.pack("=H", _IFF_UP | _IFF_RUNNING)),
            ):
                fcntl.ioctl(control, request, _REQUEST.pack(name, value))

    async def move(self, pair: Pair) -> None:
        """Carry packets from the device over DERP and back into it, until cancelled or a connection is lost."""
        await together(self._outward(pair), self._inward(pair))

    async def transfer(self, size: int, carried: Callable[[int], None]) -> None:
        """Send so many bytes through a TCP connection; `carried` is told of those that arrive.

        Raises:
            NetworkError: the connection cannot be made, breaks, or other bytes arrive.
        """
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def receive(stream: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
            try:
                await _receive(stream, size, carried)
            except (OSError, NetworkError) as error:
                arrived.set_exception(NetworkError(f"TCP in TCP: {log.in_one_line(error)}"))
            else:
                arrived.set_result(None)
            finally:
                out.transport.abort()

        async with await asyncio.start_server(receive, str(self._own), 0) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                _, out = await asyncio.open_connection(str(self._other), port)
            except OSError as error:
                raise NetworkError(f"TCP in TCP: cannot connect ({error.strerror})") from error
            try:
                for at in range(0, size, _CHUNK):
                    out.write(_pattern(at, min(_CHUNK, size - at)))
                    await out.drain()
                await arrived
            except ConnectionError as error:
                raise NetworkError(f"TCP in TCP: {log.in_one_line(error)}") from error
            finally:
                out.transport.abort()

    async def _outward(self, pair: Pair) -> None:
        wanted = self._own.packed + self._other.packed
        while True:
            packet = await self._read()
            if len(packet) >= _IPV4_HEADER and packet[_ADDRESSES] == wanted:
                await pair.send(packet)

    async def _inward(self, pair: Pair) -> None:
        wanted = self._own.packed + self._other.packed
        changed = self._other.packed + self._own.packed
        while True:
            packet = (await pair.receiver.packet()).packet
            # Whoever else may send to this key is not let into our device.
            if len(packet) >= _IPV4_HEADER and packet[_ADDRESSES] == wanted:
                os.write(self._device, packet[: _ADDRESSES.start] + changed + packet[_ADDRESSES.stop :])

    async def _read(self) -> bytes:
        while True:
            try:
                return os.read(self._device, _CHUNK)
            except BlockingIOError:
                await _readable(self._device)


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


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)


_block: Final = os.urandom(_CHUNK)


def _pattern(at: int, length: int) -> bytes:
    """Give bytes of an endless random pattern, which both ends know."""
    at %= _CHUNK
    repeated = _block[at:] + _block * (-(-(length - (_CHUNK - at)) // _CHUNK) if length > _CHUNK - at else 0)
    return repeated[:length]


def _socket_address(address: IPv4Address) -> bytes:
    return _SOCKET_ADDRESS.pack(socket.AF_INET, 0, address.packed)
