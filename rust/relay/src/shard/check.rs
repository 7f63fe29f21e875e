//! A walk over everything that must hold between two ticks. For tests alone.

use std::ops::AddAssign;
use std::sync::Arc;

use crate::conn::{Conn, Transport};
use crate::id::ConnId;
use crate::net::Net;

use super::{BODY_CREDIT, Shard};

/// What a shard holds.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Census {
    /// Connections, logged in or not.
    pub connections: usize,
    /// Logged-in connections.
    pub members: usize,
    /// Their distinct keys.
    pub keys: usize,
    /// Disco packets that wait for a socket.
    pub queued_disco: usize,
    /// Other packets that wait for a socket.
    pub queued_other: usize,
    /// Hints in the timer wheel.
    pub hints: usize,
}

impl AddAssign for Census {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.members += other.members;
        self.keys += other.keys;
        self.queued_disco += other.queued_disco;
        self.queued_other += other.queued_other;
        self.hints += other.hints;
    }
}

impl<N: Net> Shard<N> {
    /// Counts what is here.
    ///
    /// # Panics
    /// When something does not hold.
    pub(crate) fn check(&self) -> Census {
        assert!(self.dirty.is_empty() && self.events.is_empty(), "a tick left something undone");
        assert!(
            self.congested || self.outgoing.iter().all(|batch| batch.is_empty()),
            "parcels were not published"
        );
        let mut census = Census { hints: self.wheel.check(), ..Census::default() };
        for id in self.conns.ids() {
            let Some(conn) = self.conns.get(id) else { unreachable!("a name of the table") };
            conn.check(id);
            census.connections += 1;
            if let Some(outbox) = &conn.outbox {
                outbox.check();
                census.queued_disco += outbox.disco.len();
                census.queued_other += outbox.other.len();
                let depth = self.shared.settings.queue_depth;
                let deepest = outbox.disco.len().max(outbox.other.len());
                assert!(deepest <= depth, "{id:?} has {deepest} packets queued, {depth} at most");
            }
            let Some(switched) = conn.switched() else { continue };
            census.members += 1;
            let key = &switched.member.key;
            let local = self.locals[switched.local].as_ref();
            let local = local.unwrap_or_else(|| panic!("{id:?} has no local key"));
            assert_eq!(
                self.local_by_key.get(key),
                Some(&switched.local),
                "{id:?} stands under another's key"
            );
            let times = local.connections.iter().filter(|other| **other == id).count();
            assert_eq!(times, 1, "{id:?} stands {times} times under its key");
            assert_eq!(switched.peer.shard(), self.index, "{id:?} lives on another shard than its key");
            assert_eq!(Some(&switched.peer.active()), local.connections.last(), "the active one spoke last");
            let table = self.shared.switchboard.find(key);
            assert!(
                table.is_some_and(|peer| Arc::ptr_eq(&peer, &switched.peer)),
                "{id:?} is not in the table"
            );
        }
        for (index, local) in self.locals.iter().enumerate() {
            let Some(local) = local else {
                assert!(self.free_locals.contains(&index), "a place without a key is free");
                continue;
            };
            census.keys += 1;
            for id in &local.connections {
                let switched = self.conns.get(*id).and_then(|conn| conn.switched());
                assert_eq!(switched.map(|switched| switched.local), Some(index), "{id:?} knows its place");
            }
        }
        assert_eq!(self.local_by_key.len(), census.keys);
        assert_eq!(self.locals.len(), census.keys + self.free_locals.len());
        census
    }
}

impl<S> Conn<S> {
    fn check(&self, id: ConnId) {
        assert!(!self.dirty, "{id:?} was not flushed");
        assert!(!matches!(self.transport, Transport::Busy(_)), "{id:?} lost its session");
        let waits = self.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty());
        assert_eq!(self.blocked, waits, "{id:?}: something waits, and only for the socket");
        assert_eq!(self.interest, self.wanted(BODY_CREDIT), "{id:?}: what is watched is what is wanted");
        let late = self.armed_at.saturating_sub(self.next_deadline());
        assert!(late <= crate::timer::TICK_MS, "{id:?} would be looked at {late} ms too late");
    }
}
