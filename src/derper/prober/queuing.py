"""The probe of queuing delays: small packets all the time, and how long each takes from one node to another.

It ends only when a connection does. A packet that is not there after the timeout is a drop, also if it comes later.
"""

import asyncio
import os
import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate, count
from typing import Final, NoReturn

from derper.errors import NetworkError
from derper.prober.clients import Clients, Pair
from derper.prober.mesh import INTRODUCTION_SECONDS, listen
from derper.prober.probe import Sample
from derper.prober.together import together
from derper.protocol.derpmap import Node

PACKET_LEN: Final = 260
"""About what a client's CallMeMaybe has."""

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

_NUMBER: Final = struct.Struct(">Q")
_LATEST: Final = 1_000
_PERCENTILES: Final = (50, 90, 99)


@dataclass(slots=True)
class Delays:
    """What this probe counts."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0
    dropped: int = 0
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=_LATEST))

    def took(self, seconds: float) -> None:
        """Count a packet that arrived."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds
        self.latest.append(seconds)

    def samples(self) -> Iterator[tuple[str, Sample]]:
        """Return its samples."""
        yield "derp_qd_probe_dropped_packets", ("", {}, self.dropped)
        bounds = [*(f"{bound:g}" for bound in BOUNDS), "+Inf"]
        for bound, so_far in zip(bounds, accumulate(self.counts), strict=True):
            yield "derp_qd_probe_delays_seconds", ("_bucket", {"le": bound}, so_far)
        yield "derp_qd_probe_delays_seconds", ("_sum", {}, self.sum)
        yield "derp_qd_probe_delays_seconds", ("_count", {}, sum(self.counts))

    def told(self) -> str:
        """Describe the latest packets' latency by percentiles."""
        if not self.latest:
            return ""
        ordered = sorted(self.latest)
        parts = [f"p{part} {ordered[(len(ordered) - 1) * part // 100] * 1_000:,.1f} ms" for part in _PERCENTILES]
        return f"{', '.join(parts)}, {self.dropped:,} dropped"


@dataclass(frozen=True, slots=True)
class QueuingCheck:
    """From one node to another, or to itself."""

    name: str
    nodes: tuple[Node, Node]
    clients: Clients
    packets_per_second: int
    timeout: float
    delays: Delays = field(compare=False)

    async def __call__(self) -> None:
        """Send and receive for ever; raises `DerperError` when a connection ends."""
        async with self.clients.pair(self.name, self.nodes) as pair:
            if self.nodes[0] != self.nodes[1]:
                await asyncio.sleep(INTRODUCTION_SECONDS)
            under_way: dict[int, float] = {}  # since when, by number; the oldest first
            try:
                await together(self._send(pair, under_way), self._receive(pair, under_way), listen(pair))
            finally:
                self.delays.dropped += len(under_way)

    async def _send(self, pair: Pair, under_way: dict[int, float]) -> NoReturn:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number in count():
            await asyncio.sleep(due - loop.time())
            # What this machine was too late for is left out: a burst would measure itself.
            due = max(due + 1 / self.packets_per_second, loop.time())
            self._give_up(under_way, loop.time())
            under_way[number] = loop.time()
            packet = _NUMBER.pack(number) + os.urandom(PACKET_LEN - _NUMBER.size)
            if not await pair.sender.send(pair.receiver.key, packet) and pair.sender.connected is None:
                raise NetworkError("the sender's connection was lost")
        raise AssertionError

    async def _receive(self, pair: Pair, under_way: dict[int, float]) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            came = await pair.receiver.packet()
            self._give_up(under_way, loop.time())
            if came.source == pair.sender.key and len(came.packet) == PACKET_LEN:
                (number,) = _NUMBER.unpack_from(came.packet)
                if (since := under_way.pop(number, None)) is not None:
                    self.delays.took(loop.time() - since)

    def _give_up(self, under_way: dict[int, float], now: float) -> None:
        while under_way:
            oldest = next(iter(under_way))
            if now - under_way[oldest] <= self.timeout:
                return
            del under_way[oldest]
            self.delays.dropped += 1
