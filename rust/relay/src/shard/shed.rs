//! Bytes that wait in packet queues, and routes, bounded for the whole process.
//!
//! Each shard counts its own, and says at the end of a tick how many there are. When one packet more would be too much, first
//! all is written that sockets take; then the largest queues drop their oldest, down to a common level that leaves an
//! eighth free, so that they are seldom looked for.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use crate::conn::Stage;
use crate::id::ConnId;
use crate::net::Net;
use crate::stats::Drop;

use super::Shard;
use super::turn::ROUTE_FORGOTTEN;

impl<N: Net> Shard<N> {
    /// Learns how much may wait here: what the others leave.
    pub(super) fn share_room(&mut self) {
        let others = self.shared.ports.iter().enumerate().filter(|(index, _)| *index != self.index);
        let elsewhere: usize = others.map(|(_, port)| port.queued.load(Ordering::Relaxed)).sum();
        self.most_queued = self.shared.settings.max_queued_bytes.saturating_sub(elsewhere);
        let others = self.shared.ports.iter().enumerate().filter(|(index, _)| *index != self.index);
        let elsewhere: usize = others.map(|(_, port)| port.routes.load(Ordering::Relaxed)).sum();
        let most = self.shared.settings.max_routes;
        // What one shard took while the others had none, it gives back when they want their share.
        self.most_routes = most.saturating_sub(elsewhere).max(most / self.shared.ports.len());
    }

    /// Tells the others how much is held here.
    pub(super) fn tell_held(&self) {
        self.port().queued.store(self.queued, Ordering::Relaxed);
        self.port().routes.store(self.routes, Ordering::Relaxed);
    }

    /// Makes room for routes: the senders with the most forget their oldest, down to a common level.
    pub(super) fn shed_routes(&mut self) {
        let goal = self.most_routes - (self.most_routes / 64).max(1).min(self.most_routes);
        let locals = self.locals.iter().enumerate();
        let mut senders: Vec<(usize, usize)> = locals
            .filter_map(|(index, local)| Some((local.as_ref()?.routes.len(), index)))
            .filter(|(routes, _)| *routes > 0)
            .collect();
        senders.sort_unstable();
        let level = level(senders.iter().map(|(routes, _)| *routes), goal);
        for (_, index) in senders.into_iter().rev().take_while(|(routes, _)| *routes > level) {
            let Some(local) = &mut self.locals[index] else { continue };
            let forgotten = local.routes.cut_to(level);
            self.routes -= forgotten;
            self.turn.spend(ROUTE_FORGOTTEN * forgotten as i64);
            self.counters().routes_forgotten.add(forgotten as u64);
        }
    }

    /// Sees to it that `len` more bytes may be queued.
    pub(super) fn make_room(&mut self, len: usize) {
        if self.has_room(len) {
            return;
        }
        self.flush_dirty();
        if self.has_room(len) {
            return;
        }
        let goal = (self.most_queued - self.most_queued / 8).saturating_sub(len);
        let mut queues: Vec<(usize, ConnId)> = Vec::new();
        for id in self.conns.ids() {
            let waiting = self.conns.get(id).and_then(|conn| conn.outbox.as_ref());
            let bytes = waiting.map_or(0, |outbox| outbox.packet_bytes());
            if bytes > 0 {
                queues.push((bytes, id));
            }
        }
        queues.sort_unstable_by_key(|queue| Reverse(*queue));
        let level = level(queues.iter().rev().map(|(bytes, _)| *bytes), goal);
        for (_, id) in queues.into_iter().take_while(|(bytes, _)| *bytes > level) {
            self.shed(id, level);
        }
    }

    fn has_room(&self, len: usize) -> bool {
        self.queued.saturating_add(len) <= self.most_queued
    }

    /// Drops the oldest packets of a connection until at most so many bytes wait for it.
    fn shed(&mut self, id: ConnId, level: usize) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let key = match &conn.stage {
            Stage::Switched(switched) => switched.member.key,
            _ => [0; 32],
        };
        let Some(outbox) = &mut conn.outbox else { return };
        let before = outbox.packet_bytes();
        let mut dropped = Vec::new();
        while outbox.packet_bytes() > level {
            let disco = outbox.disco.bytes() > outbox.other.bytes();
            let Some(len) = outbox.queue_mut(disco).drop_oldest() else { break };
            dropped.push((disco, len));
        }
        outbox.give_back();
        self.queued -= before - outbox.packet_bytes();
        for (disco, len) in dropped {
            self.count_drop(Drop::QueueHead, &key, disco, len);
        }
        self.unblock_if_empty(id);
    }

    /// Nothing waits for the socket any more, so nothing can be late.
    fn unblock_if_empty(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.blocked && conn.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) {
            self.unblock(id);
        }
    }
}

/// The level at which queues of these sizes, the smallest first, hold `goal` bytes together, when those above it are
/// cut down to it.
fn level(sizes: impl ExactSizeIterator<Item = usize>, goal: usize) -> usize {
    let (mut left, mut goal) = (sizes.len(), goal);
    for size in sizes {
        let share = goal / left;
        if size > share {
            return share;
        }
        goal -= size;
        left -= 1;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::level;

    #[test]
    fn the_largest_queues_are_cut_down_to_one_level() {
        assert_eq!(level([10, 20, 300, 400].into_iter(), 230), 100);
        assert_eq!(level([10, 20, 300, 400].into_iter(), 630), 300);
        assert_eq!(level([10, 20, 300, 400].into_iter(), 730), usize::MAX);
        assert_eq!(level([10, 20].into_iter(), 0), 0);
        assert_eq!(level([].into_iter(), 5), usize::MAX);
    }
}
