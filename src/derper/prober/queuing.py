"""The probe of queuing delays: continuous small packets from one node to another, with the delay of each.

It ends only if a connection does. A packet that has not arrived after the timeout counts as dropped, even if it arrives
later.
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
"""The approximate length of a client's CallMeMaybe, in bytes."""

BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

_NUMBER: Final = struct.Struct(">Q")
_LATEST: Final = 1_000
_PERCENTILES: Final = (50, 90, 99)


@dataclass(slots=True)
class Delays:
    """The measurements of this probe."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    sum: float = 0.0
    dropped: int = 0
    latest: deque[float] = field(default_factory=lambda: deque(maxlen=_LATEST))

    def record(self, seconds: float) -> None:
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

    def describe(self) -> str:
        """Describe the latest packets' latency by percentiles."""
        if not self.latest:
            return ""
        ordered = sorted(self.latest)
        parts = [f"p{part} {ordered[(len(ordered) - 1) * part // 100] * 1_000:,.1f} ms" for part in _PERCENTILES]
        return f"{', '.join(parts)}, {self.dropped:,} dropped"


@dataclass(frozen=True, slots=True)
class QueuingCheck:
    """Packets from one node to another, or to itself."""

    name: str
    nodes: tuple[Node, Node]
    clients: Clients
    packets_per_second: int
    timeout: float
    delays: Delays = field(compare=False)

    async def __call__(self) -> None:
        """Send and receive until a connection ends, then raise `DerperError`."""
        async with self.clients.pair(self.name, self.nodes) as pair:
            if self.nodes[0] != self.nodes[1]:
                await asyncio.sleep(INTRODUCTION_SECONDS)
            in_flight: dict[int, float] = {}  # send time by number, oldest first
            try:
                await together(self._send(pair, in_flight), self._receive(pair, in_flight), listen(pair))
            finally:
                self.delays.dropped += len(in_flight)

    async def _send(self, pair: Pair, in_flight: dict[int, float]) -> NoReturn:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for number in count():
            await asyncio.sleep(due - loop.time())
            # Skip packets that this machine was too late for: a burst would measure itself.
            due = max(due + 1 / self.packets_per_second, loop.time())
            self._drop_late(in_flight, loop.time())
            in_flight[number] = loop.time()
            packet = _NUMBER.pack(number) + os.urandom(PACKET_LEN - _NUMBER.size)
            if not await pair.sender.send(pair.receiver.key, packet) and pair.sender.connected is None:
                raise NetworkError("the sender's connection was lost")
        raise AssertionError

    async def _receive(self, pair: Pair, in_flight: dict[int, float]) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            came = await pair.receiver.packet()
            self._drop_late(in_flight, loop.time())
            if came.source == pair.sender.key and len(came.packet) == PACKET_LEN:
                (number,) = _NUMBER.unpack_from(came.packet)
                if (since := in_flight.pop(number, None)) is not None:
                    self.delays.record(loop.time() - since)

    def _drop_late(self, in_flight: dict[int, float], now: float) -> None:
        while in_flight:
            oldest = next(iter(in_flight))
            if now - in_flight[oldest] <= self.timeout:
                return
            del in_flight[oldest]
            self.delays.dropped += 1
