//! The switch: a connection that has logged in moves to its key's shard and relays from there on.

use std::sync::Arc;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::limits::bucket::Bucket;
use crate::messages::{CloseReason, Event, LoginInfo, Reason, Role, Totals};
use crate::shard::conn::{Conn, Local, NEVER, Stage, Switched};
use crate::shard::connections::Connections;
use crate::switchboard::route::Routes;

use super::{Shard, ShardMessage};

impl<N: Net> Shard<N> {
    /// Moves a connection that has logged in to its key's shard; it relays from there on.
    pub(super) fn switch(&mut self, id: ConnId, member: LoginInfo, first: &[u8]) {
        if !self.is_parked(id) {
            return;
        }
        self.control(id, first);
        let settings = &self.shared.settings;
        let write_timeout = match member.role {
            Role::Client if settings.write_timeout == 0 => NEVER,
            Role::Client => settings.write_timeout,
            Role::MeshPeer => settings.mesh_write_timeout,
        };
        let shared = Arc::clone(&self.shared);
        let peer = shared.switchboard.claim(&member.key, |near| shared.place(near));
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.write_timeout = write_timeout;
        conn.deadline = NEVER;
        conn.remote = member.remote;
        conn.settle_in();
        conn.stage = Stage::Switched(Switched {
            member,
            peer: Arc::clone(&peer),
            local: usize::MAX,
            last_route: 0,
            totals: Totals::default(),
            watch: None,
            since_ms: self.now,
            keep_alive_at: NEVER,
            rtt_at: NEVER,
            home: false,
            not_here: Bucket::full(),
            allowance: None,
            throttled_until: 0,
            contest: None,
            impairment_check_at: NEVER,
        });
        let shard = peer.shard();
        if shard == self.index {
            self.register(id, id);
        } else if let Some(conn) = self.remove(id) {
            // This cannot fail: epoll watched the stream until now, and its descriptor is open.
            let _ = self.net.remove(&conn.stream);
            self.outgoing[shard].messages.push(ShardMessage::Adopt(conn, id));
        }
    }

    /// Takes over a connection that logged in on another shard.
    pub(super) fn adopt(&mut self, mut conn: Box<Conn<N::Stream>>, old: ConnId) {
        conn.dirty = false;
        conn.waits = super::Waits::No;
        conn.armed_at = NEVER;
        conn.interest = conn.wanted(super::BODY_CREDIT);
        // The other shard may have read the clock later than this one.
        conn.progress_at = conn.progress_at.min(self.now);
        if let Some(switched) = conn.switched_mut() {
            switched.since_ms = self.now;
        }
        let (key, remote) = (conn.switched().map(|switched| switched.member.key), conn.remote);
        if let Some(outbox) = &mut conn.outbox {
            outbox.recount(&mut self.queued);
        }
        let id = self.conns.insert(conn);
        let watched = self.conns.get(id).map_or(Ok(()), |conn| self.net.add(&conn.stream, id, conn.interest));
        if let Err(error) = watched {
            self.remove(id);
            if let Some(key) = key {
                self.unregister(id, &key, 0);
            }
            let reason = Reason::with(CloseReason::NoResources, error.to_string());
            self.events.push(Event::Closed { conn: old, remote, key, reason, totals: Totals::default() });
            return;
        }
        self.register(id, old);
    }

    /// Makes a connection the active one of its key, and handles the bytes that came before the switch.
    fn register(&mut self, id: ConnId, old: ConnId) {
        let free = self.free_locals.last().copied().unwrap_or(self.locals.len());
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        let (key, presence) = (switched.member.key, Arc::clone(&switched.member.presence));
        let local = self.local_by_key.get(&key).copied().unwrap_or(free);
        switched.local = local;
        self.shared.switchboard.arrive(&key, id, presence);
        if let Some(Some(entry)) = self.locals.get(local) {
            if !entry.connections.is_empty() {
                self.counters().total_dup_client_conns.add(1);
            }
        } else {
            let routes = Routes::default();
            let entry = Some(Local { connections: Connections::default(), routes, senders: None });
            match self.free_locals.pop() {
                Some(index) => self.locals[index] = entry,
                None => self.locals.push(entry),
            }
            self.local_by_key.insert(key, local);
        }
        if let Some(entry) = &mut self.locals[local] {
            entry.connections.push(id);
        }
        self.announce(&key);
        self.events.push(Event::Switched { conn: old, member: id });
        self.count_in(id);
        self.plan_keep_alive(id);
        self.mark_dirty(id);
        self.settle(id);
        self.resume(id);
    }
}
