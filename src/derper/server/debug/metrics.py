"""The values of the metric families (docs/protocol/metrics.md); their names and help texts are in `families`.

Values are collected on request and not kept: the data plane and other modules count. Families of a part that does not
run are omitted, not shown as zero.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from derper import log
from derper.config import Config
from derper.dataplane import DataPlane, Rate
from derper.metrics import process
from derper.metrics.exposition import Family, Histogram, Labelled, Value
from derper.server.admission.answers import Cause
from derper.server.certificates import tls as certificates
from derper.server.certificates.tls import Certificates
from derper.server.connections import ConnectionHandler
from derper.server.debug.families import KINDS, PLAIN_COUNTERS, RELAY, SERVER
from derper.server.http import bootstrap
from derper.server.http.bootstrap import BootstrapDns
from derper.server.mesh import LINKS, Mesh

METRICS: Final = (
    *RELAY,
    process.FILE_DESCRIPTORS,
    *SERVER,
    LINKS,
    *certificates.METRICS,
    *bootstrap.METRICS,
    *process.OF_PROGRAM,
    *process.OF_LIBRARY,
)
"""All families that /debug/varz may show, in the page's order."""

_BY_NAME: Final = {metric.name: metric for metric in METRICS}
_NEVER_HERE: Final = ("dup_client", "queue_tail", "write_error")
"""Drop reasons of the Go server that we never have; zero samples exist for its dashboards."""
_STUN: Final = (
    ("stun_requests", ("success", "not_stun", "read_error", "write_error")),
    ("stun_addrfamily", ("ipv4", "ipv6")),
)
_RTT_LABELS: Final = ("10ms", "20ms", "50ms", "100ms", "150ms", "250ms", "500ms", "inf")


class Metrics:
    """The server's own metrics; those of its process are in `process`."""

    def __init__(  # noqa: PLR0913, PLR0917  all sources of counts
        self,
        plane: DataPlane,
        connections: ConnectionHandler,
        dns: BootstrapDns,
        mesh: Mesh,
        shown: Certificates | None,
        config: Config,
    ) -> None:
        self._plane = plane
        self._mesh = mesh
        self._bootstrap = dns
        self._certificates = shown
        self._has_rate_config = config.relay.rate_file is not None
        self._connections = connections
        self._serves_tls = config.serves_tls

    def families(self) -> Iterator[Family]:
        """Return all families with their current values; for the loop's thread."""
        counters = self._plane.counters()
        yield from self._introduced()
        yield from self._present(counters)
        yield from _relayed(counters)
        yield from self._dropped()
        yield from self._spread(counters)
        yield from self._tls(counters)
        yield _by_label("derper_connections_rejected", {"per_ip": counters["connections_rejected_per_ip"]})
        yield _now("derper_pending_connections", self._plane.pending_connections())
        evicted = {"pending": counters["connections_evicted"], "tunnel": self._connections.tunnels_evicted}
        yield _by_label("derper_connections_evicted", evicted)
        yield _by_label("derper_logins_rejected", {cause: self._connections.logins_rejected[cause] for cause in Cause})
        yield _now("derper_logins_unverified", self._connections.logins_unverified)
        yield _now("derper_log_lines_dropped", log.dropped())
        yield from self._limits(counters)
        yield from self._stun()
        yield from self._bootstrap.families()
        yield from self._mesh.families()
        if self._certificates is not None:
            yield from self._certificates.families()

    def violations(self) -> list[str]:
        """Return violated invariants of the counts, usually none. Several connections of one key are no violation."""
        audit = self._plane.audit()
        found = []
        if audit.stray_keys:
            found.append(f"{audit.stray_keys} keys in the table without a connection or a forwarder")
        if audit.counted != audit.in_table:
            found.append(f"connections = {audit.counted} != clients map says of {audit.in_table}")
        return found

    def _introduced(self) -> Iterator[Family]:
        yield _now("derp_accepts", self._connections.derp_accepts)
        yield _now("derp_websocket_accepts", self._connections.websocket_accepts)

    def _present(self, counters: dict[str, int]) -> Iterator[Family]:
        table_counts = self._plane.table_counts()
        gauges = {
            "current_connections": table_counts.connections,
            "current_home_connections": counters["current_home_connections"],
            "current_notideal_connections": counters["current_notideal_connections"],
            "clients_local": table_counts.keys_local,
            "clients_total": table_counts.keys_total,
            "clients_remote": table_counts.keys_total - table_counts.keys_local,
            "watchers": table_counts.watchers,
            "current_dup_client_keys": table_counts.duplicate_keys,
            "current_dup_client_conns": table_counts.duplicate_connections,
        }
        for name, value in gauges.items():
            yield _now(f"derp_{name}", value)

    def _dropped(self) -> Iterator[Family]:
        packets = {(reason, kind): 0 for reason in _NEVER_HERE for kind in KINDS}
        octets = dict(packets)
        for drops in self._plane.drops():
            packets[drops.reason, drops.kind] = drops.packets
            octets[drops.reason, drops.kind] = drops.bytes
        for what, values in (("packets", packets), ("bytes", octets)):
            yield _now(f"derp_{what}_dropped", Labelled(("reason", "kind"), dict(sorted(values.items()))))

    def _spread(self, counters: dict[str, int]) -> Iterator[Family]:
        yield _now("derp_average_queue_duration_ms", self._plane.average_queue_ms())
        spreads = {spread.name: spread for spread in self._plane.histograms()}
        rtt = spreads.pop("tcp_rtt")
        trips = dict(zip(_RTT_LABELS, rtt.counts, strict=True))
        trips |= {"error": counters["rtt_errors"], "non-tcp": counters["rtt_non_tcp"]}
        yield _by_label("derp_tcp_rtt", _counted(trips))
        for name, spread in spreads.items():
            yield _now(f"derp_{name}", Histogram(spread.bounds, spread.counts, spread.sum))

    def _tls(self, counters: dict[str, int]) -> Iterator[Family]:
        members = Counter({"1.2": counters["current_tls12_connections"], "1.3": counters["current_tls13_connections"]})
        yield _by_label("derper_tls_request_version", self._connections.tls_requests)
        active = members + self._connections.tls_being_served()
        # A version stays after its first use, at zero: a graph would keep the last value of a gauge that vanished.
        seen = dict.fromkeys(self._connections.tls_requests, 0) | active
        yield _by_label("derper_tls_active_version", seen)
        if self._serves_tls:
            for what in ("accepted", "rejected"):
                yield _now(f"tls_listener_{what}_connections", counters[f"tls_connections_{what}"])

    def _limits(self, counters: dict[str, int]) -> Iterator[Family]:
        if not self._has_rate_config:
            return
        rate = self._plane.client_rate or Rate(0, 0)
        yield _now("derp_rate_limit_per_client_bytes_per_second", int(rate.per_second))
        yield _now("derp_rate_limit_per_client_burst_bytes", int(rate.burst))
        yield _now("derp_rate_limit_per_client_waited", counters["rate_limit_per_client_waited"])
        yield _now("derper_rate_limit_total_waited", counters["rate_limit_total_waited"])

    def _stun(self) -> Iterator[Family]:
        counted = self._plane.stun_counters()
        for name, values in _STUN:
            yield _by_label(name, {value: counted[f"{name}_{value}"] for value in values})
        for name in ("stun_no_local_addr", "stun_kernel_drops"):
            yield _now(name, counted[name])


def _now(name: str, value: Value) -> Family:
    return Family(_BY_NAME[name], value)


def _by_label(name: str, values: Mapping[str, int]) -> Family:
    (label,) = _BY_NAME[name].labels
    return _now(name, Labelled.by(label, values))


def _relayed(counters: dict[str, int]) -> Iterator[Family]:
    received = {kind: counters[f"packets_received_{kind}"] for kind in KINDS}
    yield _now("derp_packets_received", sum(received.values()))
    yield _by_label("derp_packets_received_kind", received)
    for name in PLAIN_COUNTERS:
        yield _now(f"derp_{name}", counters[name])
    yield _now("derp_unknown_frames", 0)
    yield _now("derper_unknown_frames", counters["unknown_frames"])
    yield _now("derper_connections_closed_for_memory", counters["connections_closed_for_memory"])
    yield _now("derper_routes_forgotten", counters["routes_forgotten"])
    yield _now("derper_packets_between_shards", counters["packets_crossed"])
    yield _now("derper_mesh_keys_rejected", counters["mesh_keys_refused"])


def _counted(values: Mapping[str, int]) -> dict[str, int]:
    """Return the non-zero values: a label appears with its first count."""
    return {at: value for at, value in values.items() if value}
