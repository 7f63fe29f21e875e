"""A TUN device of this machine: created with an address, read and written packet by packet, removed when closed."""

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

from derper.errors import ConfigError

MTU: Final = 1_280

_DEVICE: Final = Path("/dev/net/tun")
_NAME: Final = b"derpprobe%d"  # the kernel inserts the number
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8914, 0x8916, 0x891C, 0x8922
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_REQUEST: Final = struct.Struct("16s24s")  # an interface's name, and data of the request
_SOCKET_ADDRESS: Final = struct.Struct("=HH4s")  # family, port, address
_PACKETS_AT_ONCE: Final = 64
_LONGEST: Final = 65_536


class TunDevice:
    """One device; `received` is called with each packet that the kernel sends to it."""

    def __init__(self, interface: IPv4Interface, received: Callable[[bytes], None]) -> None:
        self._interface = interface
        self._received = received
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._descriptor = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise ConfigError(f"-bw-tun-ipv4-addr needs {_DEVICE}, and opening it fails: {error.strerror}") from error
        try:
            self._set_up()
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(
                f"a TUN device cannot be made ({error.strerror}); run as root or with the capability NET_ADMIN"
            ) from error
        asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def write(self, packet: bytes) -> None:
        """Pass a packet to the kernel; it is lost if the kernel has no room for it."""
        try:
            os.write(self._descriptor, packet)
        except BlockingIOError:
            return

    def _read(self) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            try:
                packet = os.read(self._descriptor, _LONGEST)
            except BlockingIOError:
                return
            self._received(packet)

    def _set_up(self) -> None:
        flags = struct.pack("=H", _IFF_TUN | _IFF_NO_PI)
        answer = fcntl.ioctl(self._descriptor, _TUNSETIFF, _REQUEST.pack(_NAME, flags))
        name = _REQUEST.unpack(answer)[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for request, value in (
                (_SIOCSIFADDR, _socket_address(self._interface.ip)),
                (_SIOCSIFNETMASK, _socket_address(self._interface.netmask)),
                (_SIOCSIFMTU, struct.pack("=i", MTU)),
                (_SIOCSIFFLAGS, struct.pack("=H", _IFF_UP | _IFF_RUNNING)),
            ):
                fcntl.ioctl(control, request, _REQUEST.pack(name, value))


def _socket_address(address: IPv4Address) -> bytes:
    return _SOCKET_ADDRESS.pack(socket.AF_INET, 0, address.packed)
