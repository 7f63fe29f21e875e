"""The bandwidth probe: the time of a transfer between two nodes, over DERP alone or as TCP through DERP.

Random bytes are sent in packets of 64 KiB, at most thirty in flight, and must arrive in order and unchanged. With a TUN
device, a TCP connection of this machine transfers them, and its packets pass through DERP (`tunnel`).
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from derper.errors import NetworkError
from derper.prober.clients import Clients, Pair
from derper.prober.mesh import INTRODUCTION_SECONDS
from derper.prober.probe import Sample
from derper.prober.together import together
from derper.prober.tunnel import Tunnel
from derper.protocol.derpmap import Node

PACKET_LEN: Final = 65_536
MAX_IN_FLIGHT: Final = 30


@dataclass(slots=True)
class Transferred:
    """The measurements of a bandwidth probe."""

    size: int
    through_tun: bool
    seconds: float = 0.0
    octets: int = 0

    def samples(self) -> Iterator[tuple[str, Sample]]:
        """Return its samples."""
        yield "derp_bw_probe_size_bytes", ("", {}, self.size)
        yield "derp_bw_transfer_time_seconds_total", ("", {}, self.seconds)
        if self.through_tun:
            yield "derp_bw_bytes_total", ("", {}, self.octets)

    def describe(self) -> str:
        """Describe the throughput over all runs."""
        return f"{self.octets / self.seconds / 1e6:,.1f} MB/s" if self.seconds else ""

    def carried(self, octets: int) -> None:
        """Count bytes that arrived."""
        self.octets += octets

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Measure the time of a transfer, also of a failed one."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - began


@dataclass(frozen=True, slots=True)
class BandwidthCheck:
    """A transfer from one node to another, or to itself."""

    name: str
    nodes: tuple[Node, Node]
    clients: Clients
    size: int
    tunnel: Tunnel | None
    transferred: Transferred = field(compare=False)

    async def __call__(self) -> None:
        """Transfer the bytes; raises `DerperError` if they do not arrive as sent."""
        async with self.clients.pair(self.name, self.nodes) as pair:
            if self.nodes[0] != self.nodes[1]:
                await asyncio.sleep(INTRODUCTION_SECONDS)
            with self.transferred.timed():
                if self.tunnel is None:
                    await _carry(pair, self.size, self.transferred.carried)
                else:
                    await self.tunnel.transfer(pair, self.size, self.transferred.carried)


async def _carry(pair: Pair, size: int, carried: Callable[[int], None]) -> None:
    """Send and receive packets, with a maximum in flight."""
    in_flight: deque[bytes] = deque()
    room = asyncio.Semaphore(MAX_IN_FLIGHT)

    async def send() -> None:
        for at in range(0, size, PACKET_LEN):
            packet = os.urandom(min(PACKET_LEN, size - at))
            await room.acquire()
            in_flight.append(packet)
            await pair.send(packet)

    async def receive() -> None:
        left = size
        while left:
            came = await pair.receiver.packet()
            if came.source != pair.sender.key:
                raise NetworkError(f"got a packet from {came.source}; want one from {pair.sender.key}")
            if not in_flight or came.packet != in_flight[0]:
                raise NetworkError(f"after {size - left:,} bytes of {size:,} a packet was lost or overtaken")
            in_flight.popleft()
            left -= len(came.packet)
            carried(len(came.packet))
            room.release()

    await together(send(), receive())
