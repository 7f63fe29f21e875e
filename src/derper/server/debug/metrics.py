"""What is counted, and from where: every family of docs/protocol/metrics.md that this server has.

Gathered when somebody asks and kept nowhere: the data plane and the introducer count, this only names. A family that
belongs to a part which does not run is left out, rather than shown as zero.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from derper.config import Config
from derper.dataplane import DataPlane, Rate
from derper.metrics.exposition import Family, Histogram, Labelled, Type
from derper.server.certificates.tls import Certificates
from derper.server.http.bootstrap import BootstrapDns
from derper.server.introduce import Introducer
from derper.server.mesh import Mesh

_PLAIN_COUNTERS: Final = (
    "bytes_received",
    "packets_sent",
    "bytes_sent",
    "packets_forwarded_out",
    "packets_forwarded_in",
    "got_ping",
    "sent_pong",
    "peer_gone_disconnected_frames",
    "peer_gone_not_here_frames",
    "multiforwarder_created",
    "multiforwarder_deleted",
    "packet_forwarder_delete_other_value",
    "sclient_write_timeouts",
    "unknown_frames",
    "total_dup_client_conns",
    "home_moves_in",
    "home_moves_out",
)
"""Those whose names in the data plane are the metrics', without `derp_`."""

_NEVER_HERE: Final = ("dup_client", "queue_tail", "write_error")
"""Reasons for which the reference drops, or once did, and we never do: their samples are there for its dashboards."""
_KINDS: Final = ("disco", "other")
_STUN: Final = (
    ("stun_requests", "disposition", ("success", "not_stun", "read_error", "write_error")),
    ("stun_addrfamily", "family", ("ipv4", "ipv6")),
)
_RTT_LABELS: Final = ("10ms", "20ms", "50ms", "100ms", "150ms", "250ms", "500ms", "inf")


class Metrics:
    """The server's own metrics; those of its process are in `process`."""

    def __init__(  # noqa: PLR0913, PLR0917  all who count something
        self,
        plane: DataPlane,
        introducer: Introducer,
        bootstrap: BootstrapDns,
        mesh: Mesh,
        certificates: Certificates | None,
        config: Config,
    ) -> None:
        self._plane = plane
        self._mesh = mesh
        self._bootstrap = bootstrap
        self._certificates = certificates
        self._has_rate_config = config.relay.rate_file is not None
        self._introducer = introducer
        self._serves_tls = config.serves_tls

    def families(self) -> Iterator[Family]:
        """Gather all, as they are now; on the loop's thread."""
        counters = self._plane.counters()
        yield from self._introduced()
        yield from self._present(counters)
        yield from _relayed(counters)
        yield from self._dropped()
        yield from self._spread(counters)
        yield from self._tls(counters)
        yield from _rejected(counters)
        yield from self._limits(counters)
        yield from self._stun()
        yield from self._bootstrap.families()
        yield from self._mesh.families()
        if self._certificates is not None:
            yield from self._certificates.families()

    def contradictions(self) -> list[str]:
        """Look for what does not fit together; nothing, if all does. Several connections of one key do."""
        audit = self._plane.audit()
        found = []
        if audit.stray_keys:
            found.append(f"{audit.stray_keys} keys in the table that nobody has")
        if audit.counted != audit.in_table:
            found.append(f"connections = {audit.counted} != clients map says of {audit.in_table}")
        return found

    def _introduced(self) -> Iterator[Family]:
        yield Family("derp_accepts", Type.COUNTER, self._introducer.derp_accepts)
        yield Family("derp_websocket_accepts", Type.COUNTER, self._introducer.websocket_accepts)

    def _present(self, counters: dict[str, int]) -> Iterator[Family]:
        census = self._plane.census()
        gauges = {
            "current_connections": census.connections,
            "current_home_connections": counters["current_home_connections"],
            "current_notideal_connections": counters["current_notideal_connections"],
            "clients_local": census.keys_local,
            "clients_total": census.keys_total,
            "clients_remote": census.keys_total - census.keys_local,
            "watchers": census.watchers,
            "current_dup_client_keys": census.duplicate_keys,
            "current_dup_client_conns": census.duplicate_connections,
        }
        for name, value in gauges.items():
            yield Family(f"derp_{name}", Type.GAUGE, value)

    def _dropped(self) -> Iterator[Family]:
        packets = {(reason, kind): 0 for reason in _NEVER_HERE for kind in _KINDS}
        octets = dict(packets)
        for drops in self._plane.drops():
            packets[drops.reason, drops.kind] = drops.packets
            octets[drops.reason, drops.kind] = drops.bytes
        for what, values in (("packets", packets), ("bytes", octets)):
            value = Labelled(("reason", "kind"), dict(sorted(values.items())))
            yield Family(f"derp_{what}_dropped", Type.COUNTER, value, f"DERP {what} dropped by reason and by kind")

    def _spread(self, counters: dict[str, int]) -> Iterator[Family]:
        yield Family("derp_average_queue_duration_ms", None, self._plane.average_queue_ms())
        spreads = {spread.name: spread for spread in self._plane.histograms()}
        rtt = spreads.pop("tcp_rtt")
        trips = dict(zip(_RTT_LABELS, rtt.counts, strict=True))
        trips |= {"error": counters["rtt_errors"], "non-tcp": counters["rtt_non_tcp"]}
        yield Family("derp_tcp_rtt", Type.COUNTER, Labelled.by("le", _counted(trips)))
        for name, spread in spreads.items():
            yield Family(f"derp_{name}", Type.HISTOGRAM, Histogram(spread.bounds, spread.counts, spread.sum))

    def _tls(self, counters: dict[str, int]) -> Iterator[Family]:
        members = Counter({"1.2": counters["current_tls12_connections"], "1.3": counters["current_tls13_connections"]})
        yield Family("derper_tls_request_version", None, Labelled.by("version", self._introducer.tls_requests))
        active = members + self._introducer.tls_being_served()
        # A version that was seen stays, at zero: a gauge that vanishes keeps its last value in a graph.
        seen = dict.fromkeys(self._introducer.tls_requests, 0) | active
        yield Family("derper_tls_active_version", Type.GAUGE, Labelled.by("version", seen))
        if self._serves_tls:
            for what in ("accepted", "rejected"):
                yield Family(f"tls_listener_{what}_connections", Type.COUNTER, counters[f"tls_connections_{what}"])

    def _limits(self, counters: dict[str, int]) -> Iterator[Family]:
        if not self._has_rate_config:
            return
        rate = self._plane.client_rate or Rate(0, 0)
        yield Family("derp_rate_limit_per_client_bytes_per_second", None, rate.per_second)
        yield Family("derp_rate_limit_per_client_burst_bytes", None, rate.burst)
        yield Family("derp_rate_limit_per_client_waited", Type.COUNTER, counters["rate_limit_per_client_waited"])

    def _stun(self) -> Iterator[Family]:
        counted = self._plane.stun_counters()
        for name, label, values in _STUN:
            value = Labelled.by(label, {value: counted[f"{name}_{value}"] for value in values})
            yield Family(name, Type.COUNTER, value)
        yield Family("stun_no_local_addr", Type.COUNTER, counted["stun_no_local_addr"])
        yield Family("stun_kernel_drops", Type.COUNTER, counted["stun_kernel_drops"])


def _relayed(counters: dict[str, int]) -> Iterator[Family]:
    received = {kind: counters[f"packets_received_{kind}"] for kind in _KINDS}
    yield Family("derp_packets_received", Type.COUNTER, sum(received.values()))
    yield Family("derp_packets_received_kind", Type.COUNTER, Labelled.by("kind", received))
    for name in _PLAIN_COUNTERS:
        yield Family(f"derp_{name}", Type.COUNTER, counters[name])


def _rejected(counters: dict[str, int]) -> Iterator[Family]:
    """Say how many were closed at once: their address had too many, or too many were there that did not relay yet."""
    by_reason = {reason: counters[f"connections_rejected_{reason}"] for reason in ("per_ip", "introducing")}
    yield Family("derper_connections_rejected", Type.COUNTER, Labelled.by("reason", by_reason))


def _counted(values: Mapping[str, int]) -> dict[str, int]:
    """Leave out what has not been counted yet: such a label appears with its first count."""
    return {at: value for at, value in values.items() if value}
