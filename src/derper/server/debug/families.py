"""The relay's metric families: name, type, labels and help (docs/protocol/metrics.md), without values.

Families of bootstrap DNS, certificates, links and the process are defined in the modules that count them; `metrics`
collects all.
"""

from typing import Final

from derper.metrics.exposition import Metric, Type

KINDS: Final = ("disco", "other")

PLAIN_COUNTERS: Final = {
    "bytes_received": "Bytes of these packets, without frame headers",
    "packets_sent": "Packets written to clients",
    "bytes_sent": "Bytes of these packets, without frame headers",
    "packets_forwarded_out": "Packets sent for forwarding by another node of the region",
    "packets_forwarded_in": "Packets that another node forwarded to this one",
    "got_ping": "Pings read",
    "sent_pong": "Pongs written",
    "peer_gone_disconnected_frames": "PeerGone frames sent because a peer disconnected, also to watchers",
    "peer_gone_not_here_frames": "PeerGone frames sent because the destination key is not connected here",
    "multiforwarder_created": "Keys that gained a second forwarding node",
    "multiforwarder_deleted": "Keys that lost their second forwarding node",
    "packet_forwarder_delete_other_value": "Forwarders removed while another one was in use",
    "sclient_write_timeouts": "Connections closed because their peer accepted no bytes for `-tcp-write-timeout`",
    "total_dup_client_conns": "Logins with a key that was already connected",
    "home_moves_in": "Clients that made this their home relay more than 5 s after login",
    "home_moves_out": "Clients that chose another home relay more than 5 s after login",
}
"""Counters whose data-plane names are the metric names without `derp_`."""

_GAUGES: Final = {
    "current_connections": "Logged-in connections, including mesh peers and further connections of one key",
    "current_home_connections": "Connections whose client uses this as its home relay",
    "current_notideal_connections": "Connections whose client prefers another node of the region",
    "clients_local": "Distinct keys connected to this node",
    "clients_total": "Distinct keys known in the region",
    "clients_remote": "Distinct keys connected to other nodes of the region only",
    "watchers": "Connections that watch the region's clients",
    "current_dup_client_keys": "Keys with more than one connection",
    "current_dup_client_conns": "Connections of keys with more than one connection",
}

_DROP_LABELS: Final = ("reason", "kind")

RELAY: Final = (
    Metric(
        "derp_accepts",
        Type.COUNTER,
        "Connections that requested a DERP upgrade, including those that then failed to log in",
    ),
    Metric("derp_websocket_accepts", Type.COUNTER, "DERP upgrades over WebSocket"),
    *(Metric(f"derp_{name}", Type.GAUGE, help_text) for name, help_text in _GAUGES.items()),
    Metric(
        "derp_packets_received", Type.COUNTER, "Packets received from clients, without packets forwarded by other nodes"
    ),
    Metric(
        "derp_packets_received_kind", Type.COUNTER, "Packets received from clients by kind: disco, other", ("kind",)
    ),
    *(Metric(f"derp_{name}", Type.COUNTER, help_text) for name, help_text in PLAIN_COUNTERS.items()),
    Metric("derp_unknown_frames", Type.COUNTER, "Always 0, as in the reference"),
    Metric("derper_unknown_frames", Type.COUNTER, "Frames of unknown types, ignored"),
    Metric(
        "derper_connections_closed_for_memory",
        Type.COUNTER,
        "Connections closed because they read too slowly while -max-queued-bytes was used up",
    ),
    Metric(
        "derper_routes_forgotten",
        Type.COUNTER,
        "Destinations forgotten because their sender, or all senders together, had too many; they get no PeerGone when "
        "that sender leaves",
    ),
    Metric(
        "derper_packets_between_shards",
        Type.COUNTER,
        "Packets whose receiver is on another shard (data-plane thread) than the connection that they came from",
    ),
    Metric(
        "derper_mesh_keys_rejected",
        Type.COUNTER,
        "Keys ignored because their node of the region announced more than one link may (1,000,000); they are "
        "unreachable through that node",
    ),
    Metric(
        "derp_packets_dropped", Type.COUNTER, "DERP packets dropped by reason and by kind", _DROP_LABELS, has_help=True
    ),
    Metric("derp_bytes_dropped", Type.COUNTER, "DERP bytes dropped by reason and by kind", _DROP_LABELS, has_help=True),
    Metric(
        "derp_average_queue_duration_ms",
        None,
        "Moving average of the time that packets wait in a queue, in milliseconds",
    ),
    Metric(
        "derp_tcp_rtt",
        Type.COUNTER,
        "Round-trip times of connections from the kernel, sampled every 10 s; buckets are not cumulative",
        ("le",),
    ),
    Metric("derp_buffered_write_frames", Type.HISTOGRAM, "Frames in one write to a client"),
    Metric("derp_mesh_update_batch_size", Type.HISTOGRAM, "Changes in one batch sent to a watcher"),
    Metric("derp_mesh_update_loop_count", Type.HISTOGRAM, "Batches written to a watcher in a row"),
    Metric(
        "derp_rate_limit_per_client_bytes_per_second",
        None,
        "Bytes a second that one client may send; only with `-rate-config`",
    ),
    Metric(
        "derp_rate_limit_per_client_burst_bytes", None, "Burst size of one client in bytes; only with `-rate-config`"
    ),
    Metric(
        "derp_rate_limit_per_client_waited",
        Type.COUNTER,
        "Frames delayed by the limit of one client; only with `-rate-config`",
    ),
    Metric(
        "derper_rate_limit_total_waited",
        Type.COUNTER,
        "Frames that had to wait for the rate limit of all clients together; with `-rate-config`",
    ),
)

SERVER: Final = (
    Metric("derper_tls_request_version", None, "HTTP requests over TLS by TLS version", ("version",)),
    Metric(
        "derper_tls_active_version",
        Type.GAUGE,
        "TLS connections being served, including relayed clients, by TLS version",
        ("version",),
    ),
    Metric("tls_listener_accepted_connections", Type.COUNTER, "Connections accepted by the TLS listener"),
    Metric(
        "tls_listener_rejected_connections",
        Type.COUNTER,
        "Connections closed at accept because of `-accept-connection-limit`",
    ),
    Metric(
        "derper_connections_rejected",
        Type.COUNTER,
        "Connections closed at once: over `-connections-per-ip`",
        ("reason",),
    ),
    Metric(
        "derper_logins_rejected",
        Type.COUNTER,
        "Logins rejected, by cause: the check that refused, no answer from it, not asked for want of room, or invalid",
        ("reason",),
    ),
    Metric(
        "derper_logins_unverified",
        Type.COUNTER,
        "Logins admitted because no controller of `-verify-client-url` could be reached",
    ),
    Metric(
        "derper_pending_connections", Type.GAUGE, "Connections that have not logged in, pages being served included"
    ),
    Metric(
        "derper_connections_evicted",
        Type.COUNTER,
        "Connections closed to make room for new ones, because of a flood: not logged in, or CONNECT tunnels",
        ("kind",),
    ),
    Metric(
        "derper_log_lines_dropped",
        Type.COUNTER,
        "Log lines dropped because standard error was read too slowly, or could not be written",
    ),
    Metric("stun_requests", Type.COUNTER, "Datagrams received on the STUN port by disposition", ("disposition",)),
    Metric("stun_addrfamily", Type.COUNTER, "Valid STUN requests by address family of the sender", ("family",)),
    Metric("stun_no_local_addr", Type.COUNTER, "STUN answers sent from an address chosen by the kernel"),
    Metric("stun_kernel_drops", Type.COUNTER, "Datagrams that the kernel dropped before the relay read them"),
)
