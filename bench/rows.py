"""The rows of the comparison: what is loaded onto a server, what is read off, and what is demanded of ours.

A new row is an entry in `ROWS`; a new kind of load is a class in `loads.py`.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from loads import Closed, Idle, Load


class Bound(Enum):
    """What a demand binds; smaller figures are better."""

    RATIO = "≥ {limit:g}"  # Go's figure ÷ ours is at least so much
    SHARE = "≤ {limit:g} x Go's"  # ours is at most so many times Go's
    VALUE = "≤ {limit:g} {unit}"  # ours is at most so much


@dataclass(frozen=True)
class Demand:
    must: float
    aim: float
    bound: Bound = Bound.RATIO

    def met(self, limit: float, ours: float, theirs: float) -> bool:
        match self.bound:
            case Bound.RATIO:
                return theirs >= limit * ours
            case Bound.SHARE:
                return ours <= limit * theirs
            case Bound.VALUE:
                return ours <= limit

    def told(self, limit: float, unit: str) -> str:
        return self.bound.value.format(limit=limit, unit=unit)


@dataclass(frozen=True)
class Figure:
    """One number of a row.

    Args:
        key: what the load calls it.
        title: what the table calls it.
    """

    key: str
    title: str
    unit: str
    demand: Demand


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    load: Load
    figures: tuple[Figure, ...]


def cpu(must: float, aim: float) -> Figure:
    return Figure("cpu_us_per_packet", "CPU per packet", "µs", Demand(must, aim))


ROWS: Final = (
    Row("tls-10x16", "10 pairs, 16 in flight", Closed(pairs=10, in_flight=16), (cpu(4, 6),)),
    Row("tls-100x8", "100 pairs, 8 in flight", Closed(pairs=100, in_flight=8), (cpu(4, 6),)),
    Row("tls-100x1", "100 pairs, 1 in flight", Closed(pairs=100, in_flight=1), (cpu(1.4, 1.7),)),
    Row(
        "tls-1x1",
        "1 pair, 1 in flight",
        Closed(pairs=1, in_flight=1),
        (cpu(1.25, 1.4), Figure("latency_p50_us", "median latency", "µs", Demand(1.1, 1, Bound.SHARE))),
    ),
    Row("tls-128-bytes", "128-byte packets, 10 x 16", Closed(pairs=10, in_flight=16, size=128), (cpu(2.5, 3.5),)),
    Row("tls-16-kb", "16 kB packets, 10 x 16", Closed(pairs=10, in_flight=16, size=16_384), (cpu(3.3, 5),)),
    Row("plain-10x16", "plain HTTP, 10 x 16", Closed(pairs=10, in_flight=16, tls=False), (cpu(6, 9),)),
    Row(
        "idle",
        "idle TLS client",
        Idle(few=1_000, many=5_000),
        (Figure("private_kb_per_client", "private memory", "kB", Demand(8, 4.5, Bound.VALUE)),),
    ),
)
