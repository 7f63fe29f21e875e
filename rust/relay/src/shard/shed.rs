//! Bounds the memory for outboxes and routes of the whole process.
//!
//! Each shard counts the memory of its outboxes, used or not, and publishes it at the end of a tick. If one packet more
//! would exceed the bound, the shard first writes what the sockets take, and frees unused memory. Then the largest
//! queues drop their oldest packets, down to a common level. That leaves an eighth free, so this search is rare. Sealed
//! bytes and partly written frames cannot be dropped. If they take more than three quarters of the bound, the shard
//! closes the connections whose sockets have taken nothing for the longest.

use std::cmp::Reverse;
use std::sync::atomic::Ordering;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::messages::{CloseReason, Reason};
use crate::shard::conn::Stage;
use crate::stats::counter::DropReason;

use super::Shard;
use super::turn::ROUTE_DROPPED;

/// The memory of one connection's outbox.
struct Waiting {
    id: ConnId,
    /// Bytes of packets, which may be dropped.
    packets: usize,
    /// All other memory of the connection's outbox.
    rest: usize,
    /// When the socket last took bytes.
    since: u64,
}

impl<N: Net> Shard<N> {
    /// Computes the limits of this shard from what the other shards hold.
    pub(super) fn share_room(&mut self) {
        let others = self.shared.handles.iter().enumerate().filter(|(index, _)| *index != self.index);
        let elsewhere: usize = others.map(|(_, handle)| handle.queued.load(Ordering::Relaxed)).sum();
        self.max_queued = self.shared.settings.max_queued_bytes.saturating_sub(elsewhere);
        let others = self.shared.handles.iter().enumerate().filter(|(index, _)| *index != self.index);
        let elsewhere: usize = others.map(|(_, handle)| handle.routes.load(Ordering::Relaxed)).sum();
        let most = self.shared.settings.max_routes;
        // A shard that took much while the others had little shrinks when the others need their share.
        self.max_routes = most.saturating_sub(elsewhere).max(most / self.shared.handles.len());
    }

    /// Publishes what this shard holds to the other shards.
    pub(super) fn publish_usage(&self) {
        self.handle().queued.store(self.queued, Ordering::Relaxed);
        self.handle().routes.store(self.routes, Ordering::Relaxed);
    }

    /// Makes room for routes: the senders with the most routes drop their oldest, down to a common level.
    pub(super) fn shed_routes(&mut self) {
        let goal = self.max_routes - (self.max_routes / 64).max(1).min(self.max_routes);
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
            self.turn.spend(ROUTE_DROPPED * forgotten as i64);
            self.counters().routes_forgotten.add(forgotten as u64);
        }
    }

    /// Makes room for `len` more bytes, if they would exceed the bound.
    pub(super) fn make_room(&mut self, len: usize) {
        if self.has_room(len) {
            return;
        }
        for mut spare in self.spare_outboxes.drain(..) {
            spare.uncount(&mut self.queued);
        }
        self.flush_dirty();
        if self.has_room(len) {
            return;
        }
        let mut waiting: Vec<Waiting> = Vec::new();
        let ids = self.conns.ids().collect::<Vec<_>>();
        for id in ids {
            let Some(conn) = self.conns.get_mut(id) else { continue };
            let Some(outbox) = &mut conn.outbox else { continue };
            if outbox.packet_bytes() + outbox.undroppable() < outbox.memory() * 3 / 4 {
                outbox.release_unused();
                outbox.recount(&mut self.queued);
            }
            waiting.push(Waiting {
                id,
                packets: outbox.packet_bytes(),
                rest: outbox.memory() - outbox.packet_bytes(),
                since: conn.progress_at,
            });
        }
        let rest = self.close_slowest(&mut waiting);
        if self.has_room(len) {
            return;
        }
        let goal = (self.max_queued - self.max_queued / 8).saturating_sub(len + rest);
        waiting.sort_unstable_by_key(|one| Reverse((one.packets, one.id)));
        let level = level(waiting.iter().rev().map(|one| one.packets), goal);
        for one in waiting.into_iter().take_while(|one| one.packets > level) {
            self.shed(one.id, level);
        }
    }

    /// Closes connections if undroppable bytes take more than three quarters of the bound. Of the connections above
    /// their share, it closes those first whose sockets have taken nothing for the longest. Returns the undroppable
    /// bytes left.
    fn close_slowest(&mut self, waiting: &mut Vec<Waiting>) -> usize {
        let mut rest: usize = waiting.iter().map(|one| one.rest).sum();
        if rest <= self.max_queued / 4 * 3 {
            return rest;
        }
        let goal = self.max_queued / 8 * 5;
        let mut sizes: Vec<usize> = waiting.iter().map(|one| one.rest).collect();
        sizes.sort_unstable();
        let share = level(sizes.into_iter(), goal);
        waiting.sort_unstable_by_key(|one| (one.since, one.id));
        waiting.retain(|one| {
            if rest <= goal || one.rest <= share {
                return true;
            }
            rest -= one.rest;
            self.counters().connections_closed_for_memory.add(1);
            self.drop_slow(one.id);
            false
        });
        rest
    }

    /// Ends a connection that reads too slowly, and frees its memory at once.
    fn drop_slow(&mut self, id: ConnId) {
        let key = self.conns.get(id).and_then(|conn| Some(conn.switched()?.member.key));
        self.drop_outbox(id, &key.unwrap_or([0; 32]));
        self.finish(
            id,
            Reason::with(CloseReason::Unread, "it reads too slowly, and -max-queued-bytes is used up"),
        );
    }

    fn has_room(&self, len: usize) -> bool {
        self.queued.saturating_add(len) <= self.max_queued
    }

    /// Drops the oldest packets of a connection until at most `level` bytes of packets wait for it.
    fn shed(&mut self, id: ConnId, level: usize) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let key = match &conn.stage {
            Stage::Switched(switched) => switched.member.key,
            _ => [0; 32],
        };
        let Some(outbox) = &mut conn.outbox else { return };
        let mut dropped = Vec::new();
        while outbox.packet_bytes() > level {
            let disco = outbox.disco.bytes() > outbox.other.bytes();
            let Some(len) = outbox.queue_mut(disco).drop_oldest() else { break };
            dropped.push((disco, len));
        }
        outbox.release_unused();
        outbox.recount(&mut self.queued);
        for (disco, len) in dropped {
            self.count_drop(DropReason::QueueHead, &key, disco, len);
        }
        self.unblock_if_empty(id);
    }

    /// Unblocks a connection whose outbox is empty now: its write timeout must not run.
    fn unblock_if_empty(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.blocked && conn.outbox.as_ref().is_some_and(|outbox| outbox.is_empty()) {
            self.unblock(id);
        }
    }
}

/// The level for cutting down queues so that they hold `goal` bytes together. `sizes` begin with the smallest; queues
/// above the level are cut down to it.
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
