//! Counts of members as connections come, change and go. Nothing here moves a byte.

use std::hash::BuildHasher;
use std::time::Duration;

use crate::id::ConnId;
use crate::io::epoll::{Net, Stream};
use crate::shard::conn::{NEVER, Switched};
use crate::shard::mailbox::RoutedPacket;
use crate::wire::frame;

use super::Shard;

impl<N: Net> Shard<N> {
    /// Counts a connection that relays from now on.
    pub(super) fn count_in(&mut self, id: ConnId) {
        let (now, interval) = (self.now, self.shared.settings.rtt_interval);
        let Some(conn) = self.conns.get_mut(id) else { return };
        let (tls, is_websocket) = (conn.tls, conn.websocket.is_some());
        let Some(switched) = conn.switched_mut() else { return };
        if interval > 0 && !is_websocket {
            switched.rtt_at = now + interval;
        }
        let not_ideal = frame::is_not_ideal(&switched.member.presence);
        let counters = self.counters();
        if interval > 0 && is_websocket {
            counters.rtt_non_tcp.add(1);
        }
        counters.current_notideal_connections.add(not_ideal.into());
        match tls {
            Some("1.2") => counters.current_tls12_connections.add(1),
            Some(_) => counters.current_tls13_connections.add(1),
            None => {}
        }
    }

    /// Subtracts what [`count_in`](Self::count_in) and the connection's frames have added.
    pub(super) fn count_out(&self, switched: &Switched, tls: Option<&str>) {
        let counters = self.counters();
        counters.current_home_connections.subtract(switched.home.into());
        counters.current_notideal_connections.subtract(frame::is_not_ideal(&switched.member.presence).into());
        match tls {
            Some("1.2") => counters.current_tls12_connections.subtract(1),
            Some(_) => counters.current_tls13_connections.subtract(1),
            None => {}
        }
    }

    /// Samples a connection's round-trip time if it is due. If the stream reports no round-trip time, it is not sampled
    /// again.
    pub(super) fn sample_rtt(&mut self, id: ConnId) {
        let (now, interval) = (self.now, self.shared.settings.rtt_interval);
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.switched().is_none_or(|switched| now < switched.rtt_at) {
            return;
        }
        let rtt = conn.stream.rtt();
        if let Some(switched) = conn.switched_mut() {
            switched.rtt_at = if rtt.is_ok() { now + interval } else { NEVER };
        }
        match rtt {
            Ok(rtt) => self.counters().histograms.tcp_rtt.observe(whole_ms(rtt)),
            Err(_) => self.counters().rtt_errors.add(1),
        }
    }

    /// Adds a sender to the estimate of the receiving key. Packets to a link are not counted.
    pub(super) fn note_sender(&mut self, routed: &RoutedPacket<'_>) {
        let Some(switched) = self.conns.get(routed.to).and_then(|conn| conn.switched()) else { return };
        let hash = self.hasher.hash_one(routed.from);
        if let Some(Some(local)) = self.locals.get_mut(switched.local) {
            local.senders.get_or_insert_default().note(hash);
        }
    }

    /// Counts the changes in one update of a watcher. After the last one, also counts the updates that were needed.
    pub(super) fn count_batch(&mut self, id: ConnId, changes: u64) {
        let watch = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()?.watch.as_mut());
        let Some(watch) = watch else { return };
        watch.batches += 1;
        let batches = if watch.is_empty() { std::mem::take(&mut watch.batches) } else { 0 };
        let histograms = &self.counters().histograms;
        histograms.mesh_update_batch_size.observe(changes);
        if batches > 0 {
            histograms.mesh_update_loop_count.observe(batches);
        }
    }
}

/// Milliseconds, rounded up, so that a histogram bucket holds no values above its bound.
fn whole_ms(time: Duration) -> u64 {
    time.as_micros().div_ceil(1_000) as u64
}
