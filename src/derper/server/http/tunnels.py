"""The CONNECT proxy of `-ace` (docs/protocol/http.md), for clients whose network blocks the control plane.

A tunnel is a client's connection in the data plane and a socket of ours to the target. Each side is read only as fast
as the other side accepts. So a tunnel holds a few hundred kilobytes at most.

A tunnel without traffic for `IDLE_SECONDS` is closed. If there are too many, a tunnel of the address with the most
tunnels is closed: the one that has been idle longest.
"""

import asyncio
import resource
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from derper.config import Tcp
from derper.dataplane import CloseReason, Conn, DataPlane
from derper.errors import NetworkError
from derper.host.names import Names
from derper.protocol.upgrade import Refusal, RequestHead
from derper.server.http.connection import last_answer
from derper.server.listeners import tune

DIAL_SECONDS: Final = 15.0
MOST_TUNNELS: Final = 2_000
"""Maximum tunnels. Each takes two descriptors; all together take a quarter of the process's at most."""
IDLE_SECONDS: Final = 15 * 60.0
"""Seconds without traffic in either direction. The control plane sends something every minute."""
SAFE_SECONDS: Final = 2.0
"""A tunnel is evicted only after this many seconds without traffic."""
_AHEAD: Final = 64 * 1024
"""Bytes that one side may be ahead of the other before it is no longer read."""
_DOMAIN: Final = ".tailscale.com"
_PORTS: Final = ("443", "80")
_OPEN: Final = b"HTTP/1.1 200 OK\r\n\r\n"
_BAD_GATEWAY: Final = Refusal(502, "Connect failure\n")


def is_allowed(target: str) -> bool:
    """Return whether `host:port`, as sent, is in the control plane; comparison is case-sensitive."""
    host, _, port = target.rpartition(":")
    return host.endswith(_DOMAIN) and "derp" not in host and not set(host) & set(":[]/@ ") and port in _PORTS


class Tunnel(asyncio.Protocol):
    """One tunnel, from its request on; also the protocol of the socket to the target."""

    def __init__(self, plane: DataPlane, conn: Conn, tunnels: "Tunnels", network: str) -> None:
        self.network = network
        self.active_at = asyncio.get_running_loop().time()  # time of the last bytes from either side
        self._tunnels = tunnels
        self._plane = plane
        self._conn = conn
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._check_idle)
        self._task: asyncio.Task[None] | None = None  # during the dial
        self._target: asyncio.Transport | None = None
        self._target_is_full = False
        self._unconsumed = 0
        self._unsent = 0

    def dial(self, names: Callable[[], Names], target: str, tcp: Tcp) -> None:
        """Connect to the target and forward bytes, or answer that it is unreachable."""
        self._task = asyncio.create_task(self._dial(names, target, tcp))

    async def _dial(self, names: Callable[[], Names], target: str, tcp: Tcp) -> None:
        host, _, port = target.rpartition(":")
        try:
            transport = await self._reach(names, host, int(port))
        except (NetworkError, OSError) as error:
            self._plane.write(self._conn, last_answer(_BAD_GATEWAY))
            self._plane.close(self._conn, CloseReason.CONNECT_FAILED, f"{host}: {error}")
            return
        tune(transport.get_extra_info("socket"), tcp)
        self._target = transport
        self._plane.write(self._conn, _OPEN)
        self._plane.stream(self._conn)

    async def _reach(self, names: Callable[[], Names], host: str, port: int) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + DIAL_SECONDS
        known = await asyncio.to_thread(names)
        addresses = await known.addresses(host, DIAL_SECONDS)
        failure: Exception = NetworkError("no address")
        for number, address in enumerate(addresses):
            try:
                # Each address gets its share of the time left, so that one that does not answer cannot use all of it.
                async with asyncio.timeout((deadline - loop.time()) / (len(addresses) - number)):
                    transport, _ = await loop.create_connection(lambda: self, str(address), port)
                    return transport
            except TimeoutError:
                failure = NetworkError(f"no answer from {address} in time")
            except OSError as error:
                failure = error
        raise failure

    @property
    def is_open(self) -> bool:
        """True if the target was reached; then any end is a normal one."""
        return self._target is not None

    # The methods below are called for the client's side.

    def received(self, data: bytes) -> None:
        """Forward bytes of the client."""
        self._tunnels.record_activity(self)
        assert self._target is not None  # noqa: S101  it streams only after the dial
        self._unconsumed += len(data)
        self._target.write(data)
        self._request_more()

    def drained(self) -> None:
        """Read from the target again: the data plane has sent all written bytes."""
        self._unsent = 0
        if self._target is not None and not self._target.is_closing():
            self._target.resume_reading()

    def client_gone(self) -> None:
        """Send the remaining bytes to the target, and close."""
        self._idle.cancel()
        self._tunnels.ended(self)
        if self._task is not None:
            self._task.cancel()
        if self._target is not None:
            self._target.close()
            # A target that reads nothing would keep the tunnel for ever.
            asyncio.get_running_loop().call_later(DIAL_SECONDS, self._target.abort)

    def evict(self) -> None:
        """Close to make room for another tunnel."""
        self._plane.close(self._conn, CloseReason.EVICTED, "to make room: too many CONNECT tunnels")

    def _check_idle(self) -> None:
        loop = asyncio.get_running_loop()
        due = self.active_at + IDLE_SECONDS
        if loop.time() < due:
            self._idle = loop.call_at(due, self._check_idle)
        else:
            self._plane.close(self._conn, CloseReason.IDLE)

    def _request_more(self) -> None:
        if not self._target_is_full and self._unconsumed:
            self._plane.consumed(self._conn, self._unconsumed)
            self._unconsumed = 0

    # The methods below are called by asyncio for the target's side.

    def data_received(self, data: bytes) -> None:
        """Forward bytes of the target."""
        self._tunnels.record_activity(self)
        was_below = self._unsent <= _AHEAD
        self._unsent += len(data)
        is_over = was_below and self._unsent > _AHEAD
        self._plane.write(self._conn, data, tell_drained=is_over)
        if is_over and self._target is not None:
            self._target.pause_reading()

    def pause_writing(self) -> None:
        """Stop reading from the client."""
        self._target_is_full = True

    def resume_writing(self) -> None:
        """Read from the client again."""
        self._target_is_full = False
        self._request_more()

    def connection_lost(self, _error: Exception | None) -> None:
        """Close the tunnel with its target."""
        self._plane.close(self._conn, CloseReason.DONE)


class Tunnels:
    """All tunnels of a server; without `-ace` every CONNECT is refused."""

    def __init__(self, plane: DataPlane, tcp: Tcp, *, enabled: bool, names: Callable[[], Names] = Names) -> None:
        self._plane = plane
        self._tcp = tcp
        self._enabled = enabled
        self.names = names
        self.evicted = 0
        # By address, in the order of their last bytes; an address without tunnels has no entry.
        self._open: dict[str, OrderedDict[Tunnel, None]] = {}

    def open(self, conn: Conn, head: RequestHead, remote: str, *, tls: bool) -> Tunnel | Refusal:
        """Return the tunnel for a CONNECT request, or a refusal; `remote` is the client's address."""
        if not tls:
            return Refusal(404, "404 page not found\n")
        if not self._enabled:
            return Refusal(403, "CONNECT not enabled\n")
        if head.content_length or head.is_chunked:
            # A proxy in front of us would treat the next bytes as the body, and we would treat them as the tunnel's.
            return Refusal(400, "a CONNECT has no body\n")
        if not is_allowed(head.target):
            return Refusal(403, "Invalid CONNECT target\n")
        if sum(map(len, self._open.values())) >= _most_tunnels() and not self._make_room():
            return Refusal(503, "too many CONNECT tunnels\n")
        tunnel = Tunnel(self._plane, conn, self, _network(remote))
        self._open.setdefault(tunnel.network, OrderedDict())[tunnel] = None
        tunnel.dial(self.names, head.target, self._tcp)
        return tunnel

    def record_activity(self, tunnel: Tunnel) -> None:
        """Record that a tunnel transferred bytes."""
        tunnel.active_at = asyncio.get_running_loop().time()
        of_network = self._open.get(tunnel.network)
        if of_network is not None and tunnel in of_network:
            of_network.move_to_end(tunnel)

    def ended(self, tunnel: Tunnel) -> None:
        """Remove a tunnel."""
        of_network = self._open.get(tunnel.network)
        if of_network is not None:
            of_network.pop(tunnel, None)
            if not of_network:
                del self._open[tunnel.network]

    def _make_room(self) -> bool:
        """Close the tunnel that has been idle longest, of the addresses with the most tunnels.

        Return False if none may be closed.
        """
        crowded = max(map(len, self._open.values()), default=0)
        longest_idle = [next(iter(tunnels)) for tunnels in self._open.values() if len(tunnels) == crowded]
        tunnel = min(longest_idle, key=lambda tunnel: tunnel.active_at, default=None)
        if tunnel is None or asyncio.get_running_loop().time() < tunnel.active_at + SAFE_SECONDS:
            return False
        tunnel.evict()
        self.ended(tunnel)
        self.evicted += 1
        return True


def _most_tunnels() -> int:
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_TUNNELS if descriptors == resource.RLIM_INFINITY else min(MOST_TUNNELS, descriptors // 8)


def _network(remote: str) -> str:
    """Return the network that counts as one address: of IPv6, 64 bits, because a subscriber gets these."""
    ip = ip_address(remote)
    return str(IPv6Network((ip, 64), strict=False)) if isinstance(ip, IPv6Address) else remote
