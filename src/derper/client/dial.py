"""A TCP connection to a node: names are resolved, IPv6 and IPv4 raced (RFC 8305), and the first connection is used.

Each family has its own task, so that a name that cannot be resolved for one does not delay the other. IPv6 has a head
start, and each address has one before the next. After a failure the next attempt begins at once.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Literal, cast

from derper.client.target import is_address
from derper.errors import NetworkError
from derper.protocol.derpmap import Node

HEAD_START_SECONDS = 0.25

_FAMILIES: Final[dict[Literal[4, 6], socket.AddressFamily]] = {6: socket.AF_INET6, 4: socket.AF_INET}

_Address = tuple[str, int] | tuple[str, int, int, int]
_Attempt = Callable[[], Awaitable[socket.socket]]


async def connect(node: Node) -> socket.socket:
    """Return a connected, non-blocking socket.

    Raises:
        NetworkError: No address, or no connection; the message lists each attempt.
    """
    try:
        return await _first([partial(_over, family, host, node.port) for family, host in _ways(node)])
    except _AllFailedError as error:
        raise NetworkError(f"cannot connect to {node.host_name} port {node.port}: {error}") from error


async def connect_within(node: Node, seconds: float) -> socket.socket:
    """Return the result of `connect`; raise `NetworkError` after the timeout."""
    try:
        async with asyncio.timeout(seconds):
            return await connect(node)
    except TimeoutError as error:
        raise NetworkError(f"cannot connect to {node.host_name} port {node.port} within {seconds:g} s") from error


async def addresses(node: Node) -> list[tuple[socket.AddressFamily, str]]:
    """Return all addresses that `connect` would try.

    Raises:
        NetworkError: There are none.
    """
    ways = _ways(node)
    found = await asyncio.gather(*(_look_up(family, host, node.port) for family, host in ways), return_exceptions=True)
    errors = [error for error in found if isinstance(error, BaseException)]
    if len(errors) == len(ways):
        raise NetworkError(f"{node.host_name} has no address: {errors[0]}") from errors[0]
    return [
        (family, address[0])
        for (family, _), of_family in zip(ways, found, strict=True)
        if not isinstance(of_family, BaseException)
        for address in of_family
    ]


async def addresses_over(node: Node, version: Literal[4, 6]) -> list[str]:
    """Return the addresses of one family.

    Empty if the map disables the family, or if the host is an address of the other one.

    Raises:
        NetworkError: The name has none.
    """
    host, family = node.dial_host(version), _FAMILIES[version]
    if host is None or not _may_be(host, version):
        return []
    try:
        return [address[0] for address in await _look_up(family, host, node.port)]
    except OSError as error:
        raise NetworkError(f"{host} has no IPv{version} address: {_words(error)}") from error


def _ways(node: Node) -> list[tuple[socket.AddressFamily, str]]:
    ways = [
        (family, host)
        for version, family in _FAMILIES.items()
        if (host := node.dial_host(version)) and _may_be(host, version)
    ]
    if not ways:
        raise NetworkError(f"the DERP map leaves no way to {node.host_name}: it switches both IPv4 and IPv6 off")
    return ways


def _may_be(host: str, version: Literal[4, 6]) -> bool:
    return not is_address(host) or (":" in host) == (version == 6)  # noqa: PLR2004  an IP version


class _AllFailedError(OSError):
    """All attempts failed."""


async def _over(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    return await _first([partial(_to, family, address) for address in await _look_up(family, host, port)])


async def _look_up(family: socket.AddressFamily, host: str, port: int) -> list[_Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    except (UnicodeError, OverflowError) as error:
        raise OSError(f"{host!r} port {port} is nothing that can be looked up") from error
    return [cast("_Address", entry[4]) for entry in found]


async def _to(family: socket.AddressFamily, address: _Address) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _first(attempts: Sequence[_Attempt]) -> socket.socket:
    """Start the attempts one after the other, and return the first socket; the others are cancelled."""
    running: set[asyncio.Future[socket.socket]] = set()
    errors: list[str] = []
    waiting = list(attempts)
    try:
        while waiting or running:
            if waiting:
                running.add(asyncio.ensure_future(waiting.pop(0)()))
            patience = HEAD_START_SECONDS if waiting else None
            done, running = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            won = [task for task in done if not task.exception()]
            for other in won[1:]:
                other.result().close()
            if won:
                return won[0].result()
            for task in done:
                error = task.exception()
                if not isinstance(error, OSError):
                    raise error or AssertionError("an attempt failed without a reason")
                errors.append(_words(error))
        raise _AllFailedError("; ".join(dict.fromkeys(errors)))
    finally:
        await _end(running)


def _words(error: OSError) -> str:
    # asyncio adds the address to the message; a failed look-up has a number below 0.
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


async def _end(tasks: set[asyncio.Future[socket.socket]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, OSError):
            (await task).close()
