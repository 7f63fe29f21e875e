"""The kinds of load: the generator's work on running servers, and the resulting figures.

A load gets servers that were started for it alone, and returns named numbers. It makes no judgement.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from generator import Bench, Figures, LoadError, Phase, generating, number, percentile
from servers import HOST, Node

PACKET = 1_312
VICTIM_RATE = 200  # packets a second


class Load(Protocol):
    """A kind of load."""

    @property
    def tls(self) -> bool:
        """Return whether the clients use TLS."""

    @property
    def nodes(self) -> int:
        """Return the number of servers of one region that the load needs."""

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        """Load the servers; return the figures."""


@dataclass(frozen=True)
class ClosedLoop:
    """Pairs of clients, each with a fixed number of packets in flight: `derp-loadgen pairs`.

    With two nodes the senders are on the first and the receivers on the second.
    """

    pairs: int
    in_flight: int
    size: int = PACKET
    tls: bool = True
    websocket: bool = False
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        words = [f"--pairs={self.pairs}", f"--in-flight={self.in_flight}", f"--size={self.size}"]
        words += ["--websocket"] if self.websocket else []
        return _pairs(nodes, bench, words, tls=self.tls)


@dataclass(frozen=True)
class OpenLoop:
    """Packets at fixed times, regardless of losses, at one rate after the other, over ten pairs."""

    rates: tuple[int, ...]
    tls: bool = True
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        figures: Figures = {}
        goodputs: list[float] = []
        for rate in self.rates:
            result = _pairs(nodes, bench, [f"--rate={rate}"], tls=self.tls)
            goodputs.append(result["packets_per_second"])
            figures |= {f"{name}_at_{rate}": value for name, value in result.items()}
            figures[f"short_at_{rate}"] = float(result["offered_per_second"] < 0.95 * rate)
        # At the best rate and above, the server is saturated. The figure is the lowest goodput there, relative to the
        # best.
        best = goodputs.index(max(goodputs))
        figures["goodput_of_peak"] = min(goodputs[best:]) / goodputs[best]
        return figures


@dataclass(frozen=True)
class SlowReaders:
    """Ten closed pairs together with ten pairs whose receiver never reads."""

    tls: bool = True
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        before = _peak_kb(nodes[0].pid)
        figures = _pairs(nodes, bench, ["--stuck=10"], tls=self.tls)
        return figures | {"grown_mb": (_peak_kb(nodes[0].pid) - before) / 1024}


@dataclass(frozen=True)
class GreedySender:
    """Ten light pairs alone, then together with a sender at full speed."""

    rate: int = 1_000
    tls: bool = True
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        idle = _pairs(nodes, bench, [f"--rate={self.rate}"], tls=self.tls)
        figures = _pairs(nodes, bench, [f"--rate={self.rate}", "--flood=1"], tls=self.tls)
        return figures | {
            "idle_p50_us": idle["latency_p50_us"],
            "p50_of_idle": figures["latency_p50_us"] / idle["latency_p50_us"],
        }


@dataclass(frozen=True)
class Idle:
    """Idle clients: `derp-loadgen idle`. The cost of the first `few` is not counted."""

    few: int
    many: int
    tls: bool = True
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        (node,) = nodes
        with generating("idle", bench, *_to(node, self), f"--clients={self.few},{self.many}") as generator:
            at: list[float] = []
            for clients in (self.few, self.many):
                if number(generator.expect("logged_in"), "clients") != clients:
                    raise LoadError(f"not {clients} clients")
                time.sleep(bench.settle)
                at.append(private_kb(node.pid))
                generator.go_on()
        return {
            "private_kb_per_client": (at[1] - at[0]) / (self.many - self.few),
            "private_kb_at_few": at[0],
            "private_kb_at_many": at[1],
        }


@dataclass(frozen=True)
class Logins:
    """Clients that log in and disconnect, with a fixed number at once."""

    at_once: int
    total: int
    tls: bool = True
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        (node,) = nodes
        words = [f"--clients={self.total}", f"--in-flight={self.at_once}", f"--server-pid={node.pid}"]
        with generating("logins", bench, *_to(node, self), *words) as generator:
            result, figures = generator.result()
        logins = number(result, "logins")
        return figures | {
            "cpu_us_per_login": number(result, "server_cpu_seconds") / logins * 1e6,
            "generator_cpu_us_per_login": number(result, "generator_cpu_seconds") / logins * 1e6,
            "logins_per_second": logins / number(result, "seconds"),
        }


@dataclass(frozen=True)
class ReconnectStorm:
    """All clients except ten active pairs disconnect and reconnect at once."""

    clients: int
    tls: bool = True
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        (node,) = nodes
        words = [f"--clients={self.clients}", f"--server-pid={node.pid}"]
        with generating("storm", bench, *_to(node, self), *words) as generator:
            result, figures = generator.result()
        return figures | {
            "seconds_until_all_in": number(result, "seconds"),
            "lost": number(result, "lost"),
            "latency_max_us": percentile(result, "max"),
        }


@dataclass(frozen=True)
class Attack:
    """Measure a pair that exchanges 200 packets a second while clients of another process attack the server.

    The attackers run on the pair's core, at a lower priority.
    """

    kind: str
    clients: int
    tls: bool = True
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        (node,) = nodes
        words = [f"--kind={self.kind}", f"--clients={self.clients}", f"--seconds={bench.seconds}"]
        victim = ["--pairs=1", f"--rate={VICTIM_RATE}", f"--seconds={bench.seconds}", f"--warmup={bench.warmup}"]
        victim += [f"--server-pid={node.pid}", *_to(node, self)]
        with generating("attack", bench, *_to(node, self), *words, nice=10) as attackers:
            attackers.expect("logged_in")
            time.sleep(bench.settle)
            with generating("pairs", bench, *victim) as pair:
                result, figures = pair.result(attackers.go_on)
            attack = attackers.expect("result")
            attackers.go_on()
        return figures | {
            "latency_p50_us": percentile(result, "p50"),
            "latency_p99_us": percentile(result, "p99"),
            "latency_max_us": percentile(result, "max"),
            "lost": number(result, "lost"),
            "misordered": number(result, "misordered"),
            "attack_packets": number(attack, "delivered"),
            "attackers_ended": number(attack, "ended"),
        }


@dataclass(frozen=True)
class Unread:
    """Measure the growth of resident memory when large packets are sent to clients that never read."""

    clients: int
    limit: int
    tls: bool = True
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        (node,) = nodes
        words = ["--kind=unread", f"--clients={self.clients}", f"--seconds={bench.seconds}"]
        with generating("attack", bench, *_to(node, self), *words) as attackers:
            attackers.expect("logged_in")
            time.sleep(bench.settle)
            idle = _resident_kb(node.pid)
            Path(f"/proc/{node.pid}/clear_refs").write_text("5")  # reset VmHWM to the memory in use now
            attackers.go_on()
            attack = attackers.expect("result")
            peak = _peak_kb(node.pid)
            time.sleep(bench.settle)
            after = _resident_kb(node.pid)
            attackers.go_on()
        return {
            "grown_of_limit": (peak - idle) * 1024 / self.limit,
            "grown_mb": (peak - idle) / 1024,
            "kept_mb": (after - idle) / 1024,
            "attackers_ended": number(attack, "ended"),
            "lost": 0.0,
            "misordered": 0.0,
        }


@dataclass(frozen=True)
class Stun:
    """STUN requests, with a fixed number in flight."""

    in_flight: int
    tls: bool = True
    nodes: int = 1

    def measure(self, nodes: Sequence[Node], bench: Bench) -> Figures:
        (node,) = nodes
        words = [f"--in-flight={self.in_flight}", f"--seconds={bench.seconds}", f"--warmup={bench.warmup}"]
        words += [f"--addr={HOST}:{node.stun_port}", f"--server-pid={node.pid}"]
        with generating("stun", bench, *words) as generator:
            result, figures = generator.result()
        answered = number(result, "answered")
        return figures | {
            "cpu_us_per_request": number(result, "server_cpu_seconds") / answered * 1e6,
            "answers_per_second": answered / number(result, "seconds"),
            "lost": number(result, "lost"),
        }


def _pairs(nodes: Sequence[Node], bench: Bench, words: Sequence[str], *, tls: bool) -> Figures:
    """Return the figures of pairs; CPU time is the sum of all nodes."""
    first, *others = nodes
    words = [f"--addr={HOST}:{first.port}", "--tls" if tls else "--plain", *words]
    words += [f"--receivers-at={HOST}:{other.port}" for other in others]
    words += [f"--server-pid={node.pid}" for node in nodes]
    words += [f"--seconds={bench.seconds}", f"--warmup={bench.warmup}"]
    with generating("pairs", bench, *words) as generator:
        result, figures = generator.result()
    return figures | _figures(result)


def _figures(result: Phase) -> Figures:
    delivered, seconds, offered = (number(result, key) for key in ("delivered", "seconds", "offered"))
    return {
        "cpu_us_per_packet": number(result, "server_cpu_seconds") / delivered * 1e6,
        "latency_p50_us": percentile(result, "p50"),
        "latency_p99_us": percentile(result, "p99"),
        "packets_per_second": delivered / seconds,
        "offered_per_second": offered / seconds,
        "refused": number(result, "refused"),
        "missing_share": max(0.0, 1 - delivered / offered),
        "packets_per_read": number(result, "packets_per_read"),
        "lost": number(result, "lost"),
        "misordered": number(result, "misordered"),
        "generator_cpu_us_per_packet": number(result, "generator_cpu_seconds") / delivered * 1e6,
    }


def _to(node: Node, load: Load) -> tuple[str, str]:
    return f"--addr={HOST}:{node.port}", "--tls" if load.tls else "--plain"


def private_kb(pid: int) -> float:
    """Return the private memory of a process in kB: the heap and all written pages, without shared libraries."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return float(sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))))


def _peak_kb(pid: int) -> float:
    """Return the maximum resident memory in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def _resident_kb(pid: int) -> float:
    """Return the current resident memory in kB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS:")))
