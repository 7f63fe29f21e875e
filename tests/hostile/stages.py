"""Connections that stop at one stage before login: each is brought there, and then sends little or nothing."""

import os
import select
import ssl
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from derpwire import HOST, Client, RelayAddress, Wire

from derper.protocol.upgrade import upgrade_request

_ENDED: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


@dataclass
class Opened:
    """A connection at its stage.

    Attributes:
        wire: the connection.
        drip: bytes that follow, one at a time.
    """

    wire: Wire
    drip: bytes = b""


Opening = Callable[[RelayAddress], Opened]


def no_byte(door: RelayAddress) -> Opened:
    return Opened(Wire(door.tcp()))


def half_a_client_hello(door: RelayAddress) -> Opened:
    hello = client_hello(door)
    return _sent(door, hello[: len(hello) // 2])


def client_hello_byte_by_byte(door: RelayAddress) -> Opened:
    return Opened(Wire(door.tcp()), client_hello(door))


def after_the_server_hello(door: RelayAddress) -> Opened:
    opened = _sent(door, client_hello(door))
    opened.wire.some()
    return opened


def after_the_handshake(door: RelayAddress) -> Opened:
    return Opened(door.connect())


def half_a_head(door: RelayAddress) -> Opened:
    request = upgrade_request(HOST)
    opened = Opened(door.connect(), request[len(request) // 2 : -1])
    opened.wire.send(request[: len(request) // 2])
    return opened


def half_a_login_frame(door: RelayAddress) -> Opened:
    client = Client(door.connect())
    client.upgrade()
    frame = client.client_info()
    client.wire.send(frame[: len(frame) // 2])
    return Opened(client.wire, frame[len(frame) // 2 : -1])


def the_wrong_login(door: RelayAddress) -> Opened:
    """Log in with a box that the server cannot open: the costliest rejection."""
    client = Client(door.connect())
    client.upgrade()
    frame = bytearray(client.client_info())
    frame[-16:] = os.urandom(16)
    client.wire.send(bytes(frame))
    return Opened(client.wire)


PLAIN_STAGES: Final[tuple[Opening, ...]] = (no_byte, half_a_head, half_a_login_frame)
TLS_STAGES: Final[tuple[Opening, ...]] = (
    no_byte,
    half_a_client_hello,
    client_hello_byte_by_byte,
    after_the_server_hello,
    after_the_handshake,
    half_a_head,
    half_a_login_frame,
)


def stages_of(door: RelayAddress) -> tuple[Opening, ...]:
    """Return the stages of a connection with or without TLS."""
    return PLAIN_STAGES if door.tls is None else TLS_STAGES


def client_hello(door: RelayAddress) -> bytes:
    """Return a new ClientHello record."""
    assert door.tls is not None
    out = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        door.tls.wrap_bio(ssl.MemoryBIO(), out, server_hostname=HOST).do_handshake()
    return out.read()


def hold(opened: Iterable[Opened], seconds: float) -> list[float | None]:
    """Send one byte a second on each connection until the relay has closed all of them or the time is over.

    Return, per connection, the seconds until it was closed, or None if it was still open.
    """
    connections = list(opened)
    began = time.monotonic()
    ended: list[float | None] = [None] * len(connections)
    places = {connection.wire.sock.fileno(): place for place, connection in enumerate(connections)}
    poll = select.poll()
    for descriptor in places:
        poll.register(descriptor, _ENDED)
    dripped = 0
    while places and (now := time.monotonic() - began) < seconds:
        if now >= dripped:
            for place in places.values():
                connections[place].wire.offer(connections[place].drip[dripped : dripped + 1])
            dripped += 1
        for descriptor, _ in poll.poll(200):
            poll.unregister(descriptor)
            ended[places.pop(descriptor)] = time.monotonic() - began
    for connection in connections:
        connection.wire.close()
    return ended


def _sent(door: RelayAddress, data: bytes) -> Opened:
    wire = Wire(door.tcp())
    wire.send(data)
    return Opened(wire)
