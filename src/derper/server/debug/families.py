"""What the relay counts: each family's name, type, labels and meaning (docs/protocol/metrics.md). No numbers.

Those of bootstrap DNS, certificates, links and the process stand where they are counted; `metrics` has them all.
"""

from typing import Final

from derper.metrics.exposition import Metric, Type

KINDS: Final = ("disco", "other")

PLAIN_COUNTERS: Final = {
    "bytes_received": "Bytes of these packets, without headers",
    "packets_sent": "Packets written to clients",
    "bytes_sent": "Bytes of these packets, without headers",
    "packets_forwarded_out": "Packets that were to be forwarded to another node of the region",
    "packets_forwarded_in": "Packets that another node forwarded to here",
    "got_ping": "Pings read",
    "sent_pong": "Pongs written",
    "peer_gone_disconnected_frames": "Times that somebody was told that a peer has disconnected, watchers too",
    "peer_gone_not_here_frames": "Times that a sender was told that nobody here has the key that it wants",
    "multiforwarder_created": "Keys to which a second node of the region began to forward",
    "multiforwarder_deleted": "Keys for which a single one was left again",
    "packet_forwarder_delete_other_value": "Ways to a key that were given up when they were not in use any more",
    "sclient_write_timeouts": "Connections closed because their peer took no bytes for `-tcp-write-timeout`",
    "total_dup_client_conns": "Logins whose key was connected already",
    "home_moves_in": "Clients that made this their home relay, later than 5 s after they had logged in",
    "home_moves_out": "Clients for which it ceased to be that, in the same way",
}
"""Those whose names in the data plane are the metrics', without `derp_`."""

_GAUGES: Final = {
    "current_connections": "Connections that are logged in, those of other nodes and second ones of a key included",
    "current_home_connections": "Those whose client says that this is its home relay",
    "current_notideal_connections": "Those whose client says that it would rather be at another node of the region",
    "clients_local": "Different keys that are connected here",
    "clients_total": "Different keys that are known in the region",
    "clients_remote": "The difference of the two",
    "watchers": "Connections that watch who is here",
    "current_dup_client_keys": "Keys with more than one connection",
    "current_dup_client_conns": "Connections of such keys",
}

_DROP_LABELS: Final = ("reason", "kind")

RELAY: Final = (
    Metric("derp_accepts", Type.COUNTER, "Connections that asked to relay, also those that then could not log in"),
    Metric("derp_websocket_accepts", Type.COUNTER, "Those of them that speak WebSocket"),
    *(Metric(f"derp_{name}", Type.GAUGE, told) for name, told in _GAUGES.items()),
    Metric("derp_packets_received", Type.COUNTER, "Packets that clients sent; forwarded ones are not among them"),
    Metric("derp_packets_received_kind", Type.COUNTER, "The same packets by kind: disco, other", ("kind",)),
    *(Metric(f"derp_{name}", Type.COUNTER, told) for name, told in PLAIN_COUNTERS.items()),
    Metric("derp_unknown_frames", Type.COUNTER, "Always 0, as in the reference"),
    Metric("derper_unknown_frames", Type.COUNTER, "Frames of types that mean nothing here, read and thrown away"),
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
    Metric("derp_average_queue_duration_ms", None, "Milliseconds that packets waited in a queue, a moving average"),
    Metric(
        "derp_tcp_rtt",
        Type.COUNTER,
        "Round trips of connections as the kernel knows them, every 10 s, each in one bucket; not cumulative",
        ("le",),
    ),
    Metric("derp_buffered_write_frames", Type.HISTOGRAM, "Frames in one write to a client"),
    Metric("derp_mesh_update_batch_size", Type.HISTOGRAM, "Changes in one batch to a watcher"),
    Metric("derp_mesh_update_loop_count", Type.HISTOGRAM, "Batches written to a watcher in a row"),
    Metric("derp_rate_limit_per_client_bytes_per_second", None, "What a client may send a second; with `-rate-config`"),
    Metric("derp_rate_limit_per_client_burst_bytes", None, "What may come at once beyond that; with `-rate-config`"),
    Metric("derp_rate_limit_per_client_waited", Type.COUNTER, "Frames that had to wait for it; with `-rate-config`"),
    Metric(
        "derper_rate_limit_total_waited",
        Type.COUNTER,
        "Frames that had to wait for the rate limit of all clients together; with `-rate-config`",
    ),
)

SERVER: Final = (
    Metric("derper_tls_request_version", None, "Requests over TLS, by its version", ("version",)),
    Metric("derper_tls_active_version", Type.GAUGE, "Those that are being served now, relaying included", ("version",)),
    Metric("tls_listener_accepted_connections", Type.COUNTER, "Connections that the TLS listener took; with TLS"),
    Metric(
        "tls_listener_rejected_connections",
        Type.COUNTER,
        "Those over `-accept-connection-limit`, closed at once; with TLS",
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
        "Log lines dropped because nobody read standard error in time, or it could not be written",
    ),
    Metric("stun_requests", Type.COUNTER, "Datagrams to the STUN port, by what became of them", ("disposition",)),
    Metric("stun_addrfamily", Type.COUNTER, "Good STUN requests, by the family of their sender's address", ("family",)),
    Metric("stun_no_local_addr", Type.COUNTER, "STUN answers whose sending address the kernel had to choose"),
    Metric("stun_kernel_drops", Type.COUNTER, "Datagrams that the kernel dropped before they were read"),
)
