"""The rows of the comparison: load, servers, figures, and demands on our server.

A new row is an entry in `ROWS`; a new kind of load is a class in `loads.py`.
"""

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from loads import (
    Attack,
    ClosedLoop,
    GreedySender,
    Idle,
    Load,
    Logins,
    OpenLoop,
    ReconnectStorm,
    SlowReaders,
    Stun,
    Unread,
)
from machine import ROOT
from servers import GO, OURS, Subject, by_turns


class Bound(Enum):
    """The kind of a demand; smaller figures are better, except for KEPT."""

    RATIO = "≥ {limit:g}"  # the other's figure ÷ ours is at least the limit
    SHARE = "≤ {limit:g} x {other}'s"  # ours is at most the limit times the other's
    VALUE = "≤ {limit:g} {unit}"  # ours is at most the limit
    KEPT = "≥ {limit:g} {unit}"  # ours is at least the limit


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
            case Bound.KEPT:
                return ours >= limit

    def text(self, limit: float, unit: str, other: str) -> str:
        return self.bound.value.format(limit=limit, unit=unit, other=other).rstrip()


@dataclass(frozen=True)
class Figure:
    """One number of a row.

    Args:
        key: Its name in the load.
        title: Its name in the table.
        demand: None if the figure is shown only to explain others.
    """

    key: str
    title: str
    unit: str
    demand: Demand | None = None


@dataclass(frozen=True)
class Row:
    """`subject` compared with `other`, under one load."""

    name: str
    title: str
    load: Load
    figures: tuple[Figure, ...]
    subject: Subject = OURS
    other: Subject = GO
    faults: tuple[str, ...] = ("lost", "misordered")  # figures that must be 0, or the row is void


def cpu(must: float, aim: float) -> Figure:
    return Figure("cpu_us_per_packet", "CPU per packet", "µs", Demand(must, aim))


# With two shards the goodput depends on both cores, and the generator uses part of one; its cost is a figure, too.
SHARED_CPU: Final = Figure("cpu_us_per_packet", "CPU per packet", "µs", Demand(1.8, 1.2, Bound.SHARE))
DELIVERED: Final = Figure("packets_per_second", "delivered", "/s")


def p99(must: float = 1, aim: float = 1, at: str = "") -> Figure:
    return Figure(f"latency_p99_us{at}", "p99 latency", "µs", Demand(must, aim, Bound.SHARE))


RATES: Final = (30_000, 100_000, 250_000, 400_000, 800_000)


def _open_figures() -> tuple[Figure, ...]:
    figures = []
    for rate in RATES:
        at, thousand = f"_at_{rate}", f"at {rate // 1000} k/s"
        figures += [
            Figure(f"offered_per_second{at}", f"{thousand}: offered", "/s"),
            Figure(f"packets_per_second{at}", f"{thousand}: delivered", "/s"),
            Figure(f"missing_share{at}", f"{thousand}: missing", "of 1"),
            Figure(f"server_busy{at}", f"{thousand}: server's core", "of 1"),
            Figure(f"generator_busy{at}", f"{thousand}: generator's core", "of 1"),
            replace(p99(at=at), title=f"{thousand}: p99 latency"),
        ]
    kept = Demand(0.95, 1, Bound.KEPT)
    return (*figures, Figure("goodput_of_peak", "delivered of the best, above it", "of 1", kept))


# The latency of a pair during an attack.
VICTIM: Final = (
    p99(must=2),
    Figure("latency_p50_us", "median latency", "µs"),
    Figure("latency_max_us", "slowest packet", "µs"),
    Figure("attack_packets", "packets of the attack that arrived", ""),
)
QUEUED_BYTES: Final = 16_000_000
BOUNDED: Final = replace(OURS, flags=(*OURS.flags, "-max-queued-bytes", str(QUEUED_BYTES)))

RATE_LIMITS: Final = ROOT / "bench" / "rates.json"
"""A limit that no client of a benchmark reaches, but that is checked for each frame."""

# Optional features switched on or off; everything else is the same.
PLAIN: Final = replace(OURS, name="all off", env={"TS_DERP_DISABLE_RTT_STATS": "true"})
FULL: Final = replace(
    OURS,
    name="all on",
    flags=(*OURS.flags, "-rate-config", str(RATE_LIMITS)),
    env={"TS_DERP_SENDER_CARDINALITY": "true"},
)
ONE_SHARD: Final = replace(OURS, name="1 shard", both_cores=True)
TWO_SHARDS: Final = replace(OURS, name="2 shards", flags=("-shards", "2"), both_cores=True)
# The clients of a pair log in one after the other. With one key per turn, all traffic crosses shards; with two keys per
# turn, none does.
APART: Final = replace(TWO_SHARDS, name="2 shards, apart", relay=by_turns(1))
TOGETHER: Final = replace(TWO_SHARDS, name="2 shards, together", relay=by_turns(2))

ROWS: Final = (
    Row("tls-10x16", "10 pairs, 16 in flight", ClosedLoop(pairs=10, in_flight=16), (cpu(4, 6),)),
    Row("tls-100x8", "100 pairs, 8 in flight", ClosedLoop(pairs=100, in_flight=8), (cpu(4, 6),)),
    Row("tls-100x1", "100 pairs, 1 in flight", ClosedLoop(pairs=100, in_flight=1), (cpu(1.4, 1.7),)),
    Row(
        "tls-1x1",
        "1 pair, 1 in flight",
        ClosedLoop(pairs=1, in_flight=1),
        (cpu(1.25, 1.4), Figure("latency_p50_us", "median latency", "µs", Demand(1.1, 1, Bound.SHARE))),
    ),
    Row("tls-128-bytes", "128-byte packets, 10 x 16", ClosedLoop(pairs=10, in_flight=16, size=128), (cpu(2.5, 3.5),)),
    Row("tls-16-kb", "16 kB packets, 10 x 16", ClosedLoop(pairs=10, in_flight=16, size=16_384), (cpu(3.3, 5),)),
    Row("plain-10x16", "plain HTTP, 10 x 16", ClosedLoop(pairs=10, in_flight=16, tls=False), (cpu(6, 9),)),
    Row("websocket", "WebSocket over TLS, 10 x 16", ClosedLoop(pairs=10, in_flight=16, websocket=True), (cpu(4, 5),)),
    Row(
        "mesh",
        "across a mesh link, 10 x 16, CPU of both nodes",
        ClosedLoop(pairs=10, in_flight=16, nodes=2),
        (cpu(4, 5),),
    ),
    Row("open", "open loop, 10 pairs", OpenLoop(RATES), _open_figures(), faults=()),
    Row(
        "stuck",
        "10 of 20 receivers never read",
        SlowReaders(),
        (p99(), Figure("grown_mb", "memory it grew by at most", "MB", Demand(64, 16, Bound.VALUE))),
    ),
    Row(
        "flood",
        "10 light pairs beside a sender flat out",
        GreedySender(),
        (
            Figure("p50_of_idle", "median latency, of that alone", "times", Demand(10, 3, Bound.VALUE)),
            Figure("latency_p50_us", "median latency", "µs", Demand(1, 1, Bound.SHARE)),
            Figure("server_busy", "server's core", "of 1"),
        ),
    ),
    Row(
        "idle",
        "idle TLS client",
        Idle(few=1_000, many=10_000),
        (Figure("private_kb_per_client", "private memory", "kB", Demand(8, 4.5, Bound.VALUE)),),
    ),
    Row(
        "logins-32",
        "new TLS client, 32 in progress",
        Logins(at_once=32, total=4_000),
        (Figure("cpu_us_per_login", "CPU per login", "µs", Demand(1.8, 2.3)),),
    ),
    Row(
        "logins-1",
        "new TLS client, one at a time",
        Logins(at_once=1, total=1_000),
        (Figure("cpu_us_per_login", "CPU per login", "µs", Demand(1.5, 2.5)),),
    ),
    Row(
        "storm",
        "5,000 clients reconnect at once",
        ReconnectStorm(clients=5_000),
        (
            Figure("seconds_until_all_in", "until all are in", "s", Demand(1, 0.5, Bound.SHARE)),
            Figure("latency_max_us", "slowest packet of clients that stayed", "µs"),
            Figure("generator_busy", "generator's core", "of 1"),
        ),
    ),
    Row("everyone", "a pair beside 1,500 clients that each send to each of all", Attack("everyone", 1_500), VICTIM),
    Row(
        "leave",
        "a pair beside 1,500 clients, each of which had sent to each, that leave at once",
        Attack("leave", 1_500),
        VICTIM,
    ),
    Row("one-key", "a pair beside 5,000 connections of one key that leave at once", Attack("one-key", 5_000), VICTIM),
    Row(
        "updates", "a pair beside 100 clients that change their TLS key with each byte", Attack("updates", 100), VICTIM
    ),
    Row(
        "unread",
        "60 kB packets for 2,000 clients that never read, -max-queued-bytes 16 MB",
        Unread(2_000, QUEUED_BYTES),
        (
            Figure("grown_of_limit", "growth of resident memory, of the limit", "times", Demand(1.5, 1, Bound.VALUE)),
            Figure("grown_mb", "growth of resident memory at most", "MB"),
            Figure("kept_mb", "memory still held after the attack", "MB"),
            Figure("attackers_ended", "clients that the server closed", ""),
        ),
        subject=BOUNDED,
    ),
    Row(
        "stun-64",
        "STUN, 64 in flight",
        Stun(in_flight=64),
        (Figure("cpu_us_per_request", "CPU per request", "µs", Demand(1.25, 1.4)),),
    ),
    Row(
        "stun-1",
        "STUN, 1 in flight",
        Stun(in_flight=1),
        (Figure("cpu_us_per_request", "CPU per request", "µs", Demand(1.7, 2)),),
    ),
    Row(
        "shards",
        "two shards as they fill beside one, the generator on the same two cores, 10 x 16",
        ClosedLoop(pairs=10, in_flight=16),
        (SHARED_CPU, DELIVERED),
        subject=TWO_SHARDS,
        other=ONE_SHARD,
    ),
    Row(
        "shards-together",
        "the same, half of the pairs on each shard",
        ClosedLoop(pairs=10, in_flight=16),
        (SHARED_CPU, DELIVERED),
        subject=TOGETHER,
        other=ONE_SHARD,
    ),
    Row(
        "shards-apart",
        "the same, every packet crosses the shards",
        ClosedLoop(pairs=10, in_flight=16),
        (replace(SHARED_CPU, demand=Demand(1.8, 1.8, Bound.SHARE)), DELIVERED),
        subject=APART,
        other=ONE_SHARD,
    ),
    Row(
        "features",
        "all features on beside all off, 10 x 16",
        ClosedLoop(pairs=10, in_flight=16),
        (Figure("cpu_us_per_packet", "CPU per packet", "µs", Demand(1.1, 1.03, Bound.SHARE)),),
        subject=FULL,
        other=PLAIN,
    ),
)
