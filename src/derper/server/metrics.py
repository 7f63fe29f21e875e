"""What is counted, and from where: every family of docs/protocol/metrics.md that this server has.

Gathered when somebody asks and kept nowhere: the data plane and the introducer count, this only names. A family that
belongs to a part which does not run is left out, rather than shown as zero.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from derper.dataplane import DataPlane
from derper.server.exposition import Family, Histogram, Labelled, Type
from derper.server.introduce import Introducer

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
_RTT_LABELS: Final = ("10ms", "20ms", "50ms", "100ms", "150ms", "250ms", "500ms", "inf")


class Metrics:
    """The server's own metrics; those of its process are in `process`."""

    def __init__(self, plane: DataPlane, introducer: Introducer, *, serves_tls: bool) -> None:
        self._plane = plane
        self._introducer = introducer
        self._serves_tls = serves_tls

    def families(self) -> Iterator[Family]:
        """Gather all, as they are now; on the loop's thread."""
        counters = self._plane.counters()
        yield from self._introduced()
        yield from self._present(counters)
        yield from _relayed(counters)
        yield from self._dropped()
        yield from self._spread(counters)
        yield from self._tls(counters)
        # STUN's families come here, with STUN; those of bootstrap DNS with it.

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
            yield Family("tls_listener_accepted_connections", Type.COUNTER, counters["tls_accepts"])
            # What the accept limit refuses comes here, with that limit.


def _relayed(counters: dict[str, int]) -> Iterator[Family]:
    received = {kind: counters[f"packets_received_{kind}"] for kind in _KINDS}
    yield Family("derp_packets_received", Type.COUNTER, sum(received.values()))
    yield Family("derp_packets_received_kind", Type.COUNTER, Labelled.by("kind", received))
    for name in _PLAIN_COUNTERS:
        yield Family(f"derp_{name}", Type.COUNTER, counters[name])


def _counted(values: Mapping[str, int]) -> dict[str, int]:
    """Leave out what has not been counted yet: such a label appears with its first count."""
    return {at: value for at, value in values.items() if value}
