//! A check of every invariant that must hold between two ticks. For tests only.

use std::ops::AddAssign;
use std::sync::Arc;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::shard::conn::{Conn, NEVER, Stage, Switched};
use crate::shard::mailbox::Batch;

use super::send::LINK_DEPTH;
use super::{BODY_CREDIT, Shard};

/// The number of connections, packets and other objects on a shard.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct InvariantCounts {
    /// Connections, logged in or not.
    pub connections: usize,
    /// Logged-in connections.
    pub members: usize,
    /// Distinct keys of these connections.
    pub keys: usize,
    /// Disco packets that wait for a socket.
    pub queued_disco: usize,
    /// Other packets that wait for a socket.
    pub queued_other: usize,
    /// Bytes of memory of all outboxes.
    pub waiting_bytes: usize,
    /// Connections counted as pending.
    pub pending: usize,
    /// Connections of watchers.
    pub watchers: usize,
    /// Routes of all senders.
    pub routes: usize,
    /// Hints in the timer wheel.
    pub hints: usize,
}

impl AddAssign for InvariantCounts {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.members += other.members;
        self.keys += other.keys;
        self.queued_disco += other.queued_disco;
        self.queued_other += other.queued_other;
        self.waiting_bytes += other.waiting_bytes;
        self.pending += other.pending;
        self.watchers += other.watchers;
        self.routes += other.routes;
        self.hints += other.hints;
    }
}

impl<N: Net> Shard<N> {
    /// Checks all invariants, and counts what the shard holds.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub(crate) fn check(&self) -> InvariantCounts {
        let dirty = self.conns.ids().filter(|id| self.conns.get(*id).is_some_and(|conn| conn.dirty)).count();
        assert!(dirty <= self.dirty.len(), "a connection was forgotten that has something to be written");
        assert_eq!(
            self.events.is_empty(),
            self.events_due == NEVER,
            "events wait for their time, or there are none"
        );
        assert!(self.congested || self.outgoing.iter().all(Batch::is_empty), "parcels were not published");
        let mut counts = InvariantCounts { hints: self.wheel.check(), ..InvariantCounts::default() };
        let mut queued = 0;
        for id in self.conns.ids() {
            let Some(conn) = self.conns.get(id) else { continue };
            conn.check(id);
            counts.connections += 1;
            counts.pending += usize::from(conn.permit.as_ref().is_some_and(|permit| permit.is_pending()));
            if let Some(outbox) = &conn.outbox {
                outbox.check();
                queued += outbox.memory();
                counts.queued_disco += outbox.disco.len();
                counts.queued_other += outbox.other.len();
                let is_link = matches!(conn.stage, Stage::Linked(_));
                let most = if is_link { LINK_DEPTH } else { self.shared.settings.queue_depth };
                let deepest = outbox.disco.len().max(outbox.other.len());
                assert!(deepest <= most, "{id:?} has {deepest} packets queued, {most} at most");
            }
            match &conn.stage {
                Stage::Switched(switched) => {
                    counts.members += 1;
                    self.check_member(id, switched);
                }
                Stage::Linked(linked) => {
                    for key in &linked.keys {
                        let forwards = self.shared.switchboard.is_forwarder(key, id);
                        assert!(forwards, "{id:?} gets packets for what it announced");
                    }
                }
                _ => {}
            }
        }
        queued += self.spare_outboxes.iter().map(|outbox| outbox.memory()).sum::<usize>();
        assert_eq!(self.queued, queued, "the memory of all outboxes is counted");
        counts.waiting_bytes = queued;
        let routes: usize = self.locals.iter().flatten().map(|local| local.routes.len()).sum();
        assert_eq!(self.routes, routes, "all routes are counted");
        counts.routes = routes;
        for (key, index) in &self.local_by_key {
            let Some(local) = &self.locals[*index] else { panic!("a key without a place") };
            counts.keys += 1;
            for id in local.connections.iter() {
                let switched = self.conns.get(id).and_then(|conn| conn.switched());
                assert_eq!(
                    switched.map(|switched| switched.member.key),
                    Some(*key),
                    "{id:?} has another key"
                );
            }
        }
        assert!(self.free_locals.iter().all(|index| self.locals[*index].is_none()), "a place is not free");
        assert_eq!(
            self.locals.len(),
            counts.keys + self.free_locals.len(),
            "each place has a key or is free"
        );
        for id in &self.watchers {
            let switched = self.conns.get(*id).and_then(|conn| conn.switched());
            assert!(switched.is_some_and(|switched| switched.watch.is_some()), "{id:?} does not watch");
            counts.watchers += 1;
        }
        counts
    }

    fn check_member(&self, id: ConnId, switched: &Switched) {
        let key = &switched.member.key;
        assert_eq!(self.local_by_key.get(key), Some(&switched.local), "{id:?} knows the place of its key");
        let Some(local) = &self.locals[switched.local] else { panic!("{id:?} has no local key") };
        let times = local.connections.iter().filter(|other| *other == id).count();
        assert_eq!(times, 1, "{id:?} stands {times} times under its key");
        assert_eq!(switched.peer.shard(), self.index, "{id:?} lives on another shard than its key");
        assert_eq!(Some(switched.peer.active()), local.connections.last(), "the active one spoke last");
        let table = self.shared.switchboard.find(key);
        assert!(table.is_some_and(|peer| Arc::ptr_eq(&peer, &switched.peer)), "{id:?} is not in the table");
    }
}

impl<S> Conn<S> {
    fn check(&self, id: ConnId) {
        if self.dirty {
            // The other invariants hold again after the next tick has written the outbox.
            return;
        }
        let waits = self.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty());
        assert_eq!(self.blocked, waits, "{id:?}: something waits, and only for the socket");
        assert_eq!(self.interest, self.wanted(BODY_CREDIT), "{id:?}: what is watched is what is wanted");
        let late = self.armed_at.saturating_sub(self.next_deadline());
        assert!(late <= crate::shard::timer::TICK_MS, "{id:?} would be looked at {late} ms too late");
    }
}
