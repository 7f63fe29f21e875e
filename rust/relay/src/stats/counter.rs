//! Counters of one shard. Each has one writer, its shard; readers sum them over the shards.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stats::histogram::{Histograms, MovingAverage};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The counters of one shard since the start (`docs/protocol/metrics.md`, Relay).
        #[derive(Default, Debug)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: Counter,)+
            /// Drops by [`DropReason`]; disco packets, then all others.
            drops: [[Dropped; 2]; DropReason::ALL.len()],
            pub(crate) histograms: Histograms,
            /// Milliseconds that packets waited in queues.
            pub(crate) queue_duration: MovingAverage,
        }

        impl Counters {
            /// Names and values. A metric's name is this with `derp_` before it.
            pub(crate) fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name.get()),)+].into_iter()
            }
        }
    };
}

counters! {
    /// `SendPacket` frames read, by kind, and their packet bytes.
    packets_received_disco,
    packets_received_other,
    bytes_received,
    /// `RecvPacket` frames written, and their packet bytes.
    packets_sent,
    bytes_sent,
    /// `ForwardPacket` frames read from other nodes, and queued for them.
    packets_forwarded_in,
    packets_forwarded_out,
    /// Packets whose receiver lives on another shard.
    packets_crossed,
    /// Connections to the TLS listener: accepted, and rejected by the accept limit.
    tls_connections_accepted,
    tls_connections_rejected,
    /// Connections closed at once, because their address had too many.
    connections_rejected_per_ip,
    /// Connections evicted before login, to make room for newer ones.
    connections_evicted,
    /// Frames that waited for their sender's rate limit, or for the total limit of all senders.
    rate_limit_per_client_waited,
    rate_limit_total_waited,
    /// Keys that gained a second forwarder, keys that went back to one forwarder, and removals of a link that was not a
    /// forwarder of the key.
    multiforwarder_created,
    multiforwarder_deleted,
    packet_forwarder_delete_other_value,
    /// Keys that a node announced beyond the limit of one link.
    mesh_keys_refused,
    /// `Ping` frames read, `Pong` frames written.
    got_ping,
    sent_pong,
    /// `PeerGone` frames written, by reason.
    peer_gone_disconnected_frames,
    peer_gone_not_here_frames,
    /// Connections closed because a write made no progress.
    sclient_write_timeouts,
    /// Connections closed because their outboxes took too much of the memory limit.
    connections_closed_for_memory,
    /// Frames of an unknown type.
    unknown_frames,
    /// Logins of keys with an older connection.
    total_dup_client_conns,
    /// `NotePreferred` changes more than 5 s after login.
    home_moves_in,
    home_moves_out,
    /// Routes dropped because senders had too many.
    routes_forgotten,
    /// Connections without a round-trip time: the kernel's query failed, or they use WebSocket.
    rtt_errors,
    rtt_non_tcp,
    /// Gauges of logged-in connections: with this node as home, with this node as not ideal, and by TLS version.
    current_home_connections,
    current_notideal_connections,
    current_tls12_connections,
    current_tls13_connections,
}

/// A number that one thread writes and any thread reads.
#[derive(Default, Debug)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning shard may call this: with one writer no locked instruction is needed.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts `n` from a gauge. Only the owning shard may call this, as with [`add`](Self::add).
    pub(crate) fn subtract(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Packets that were dropped, and their bytes without key and header.
#[derive(Default, Debug)]
struct Dropped {
    packets: Counter,
    bytes: Counter,
}

/// Why a packet was dropped (`docs/protocol/relay.md`, Queues and drops).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DropReason {
    /// No connection in the region has the destination's key.
    UnknownDestination,
    /// Another node forwarded it here, but no connection here has that key.
    UnknownDestinationOnForward,
    /// Its receiver left while it was queued.
    GoneDisconnected,
    /// It was the oldest of a full queue.
    QueueHead,
}

impl DropReason {
    const ALL: [(Self, &'static str); 4] = [
        (Self::UnknownDestination, "unknown_dest"),
        (Self::UnknownDestinationOnForward, "unknown_dest_on_fwd"),
        (Self::GoneDisconnected, "gone_disconnected"),
        (Self::QueueHead, "queue_head"),
    ];

    /// The name in metrics and logs.
    pub(crate) const fn name(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// The drops of one reason and kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drops {
    /// The reason, as in the metric's label.
    pub reason: &'static str,
    /// "disco" or "other".
    pub kind: &'static str,
    /// Number of packets.
    pub packets: u64,
    /// Their bytes, without key and header.
    pub bytes: u64,
}

impl Counters {
    pub(crate) fn dropped(&self, why: DropReason, disco: bool, bytes: usize) {
        let dropped = &self.drops[why as usize][usize::from(!disco)];
        dropped.packets.add(1);
        dropped.bytes.add(bytes as u64);
    }

    /// All drops: one entry for each reason and kind.
    pub(crate) fn drops(&self) -> impl Iterator<Item = Drops> + '_ {
        DropReason::ALL.iter().flat_map(|&(why, reason)| {
            ["disco", "other"].into_iter().zip(&self.drops[why as usize]).map(move |(kind, dropped)| Drops {
                reason,
                kind,
                packets: dropped.packets.get(),
                bytes: dropped.bytes.get(),
            })
        })
    }
}
