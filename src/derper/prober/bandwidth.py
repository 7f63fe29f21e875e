"""The bandwidth probe: how long so many bytes take from one node to another, over DERP alone or as TCP inside of it.

Random bytes go in packets of 64 KiB, at most thirty of them under way at a time, and arrive in order and unchanged.
With a TUN device a TCP connection of this machine carries them, whose packets go over DERP (`tunnel`).
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
MOST_UNDER_WAY: Final = 30


@dataclass(slots=True)
class Transferred:
    """What a bandwidth probe counts."""

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

    def told(self) -> str:
        """Describe the throughput over all runs."""
        return f"{self.octets / self.seconds / 1e6:,.1f} MB/s" if self.seconds else ""

    def carried(self, octets: int) -> None:
        """Count bytes that have arrived."""
        self.octets += octets

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of a transfer, however it ends."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - began


@dataclass(frozen=True, slots=True)
class BandwidthCheck:
    """From one node to another, or to itself."""

    name: str
    nodes: tuple[Node, Node]
    clients: Clients
    size: int
    tunnel: Tunnel | None
    transferred: Transferred = field(compare=False)

    async def __call__(self) -> None:
        """Carry the bytes; raises `DerperError` when they do not arrive as they were sent."""
        async with self.clients.pair(self.name, self.nodes) as pair:
            if self.nodes[0] != self.nodes[1]:
                await asyncio.sleep(INTRODUCTION_SECONDS)
            with self.transferred.timed():
                if self.tunnel is None:
                    await _carry(pair, self.size, self.transferred.carried)
                else:
                    await self.tunnel.transfer(pair, self.size, self.transferred.carried)


async def _carry(pair: Pair, size: int, carried: Callable[[int], None]) -> None:
    """Send packets and receive them, at most so many on their way."""
    under_way: deque[bytes] = deque()
    room = asyncio.Semaphore(MOST_UNDER_WAY)

    async def send() -> None:
        for at in range(0, size, PACKET_LEN):
            packet = os.urandom(min(PACKET_LEN, size - at))
            await room.acquire()
            under_way.append(packet)
            await pair.send(packet)

    async def receive() -> None:
        left = size
        while left:
            came = await pair.receiver.packet()
            if came.source != pair.sender.key:
                raise NetworkError(f"got a packet from {came.source}; want one from {pair.sender.key}")
            if not under_way or came.packet != under_way[0]:
                raise NetworkError(f"after {size - left:,} bytes of {size:,} a packet was lost or overtaken")
            under_way.popleft()
            left -= len(came.packet)
            carried(len(came.packet))
            room.release()

    await together(send(), receive())
