//! How a connection ends, and who has to be told.

use std::sync::Arc;

use crate::conn::{Conn, NEVER, Stage, Transport};
use crate::frame::{Gone, Key};
use crate::id::ConnId;
use crate::net::{Net, Stream};
use crate::seam::{Event, Reason, Totals};
use crate::stats::Drop;
use crate::switchboard::Peer;

use super::send::OVERHEAD;
use super::{Errand, Shard};

/// How long a connection that has been answered may take to read it and to close.
const LINGER: u64 = 2_000;

impl<S> Conn<S> {
    /// Whether the connection only has to be written out and closed.
    pub(super) fn is_closing(&self) -> bool {
        matches!(self.stage, Stage::Closing(_) | Stage::Lingering(_))
    }
}

impl<N: Net> Shard<N> {
    /// Python wants a connection closed, after what is queued for it has left.
    pub(super) fn close(&mut self, id: ConnId, reason: Reason) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.switched().is_some() {
            // Its key has to be free at once; what may not wait is offered to the socket, once.
            self.flush(id);
            self.finish(id, reason);
        } else if !conn.is_closing() {
            self.close_after_writing(id, reason);
        }
    }

    pub(super) fn close_after_writing(&mut self, id: ConnId, reason: Reason) {
        self.enter(id, Stage::Closing(reason), self.shared.settings.setup_timeout);
        self.flush(id);
        self.close_if_written(id);
        self.settle(id);
    }

    /// Goes from writing to lingering once everything is written.
    pub(super) fn close_if_written(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Stage::Closing(reason) = &conn.stage else { return };
        if conn.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty()) {
            return;
        }
        let reason = reason.clone();
        conn.say_goodbye();
        conn.input = Vec::new();
        self.enter(id, Stage::Lingering(reason), LINGER);
        self.settle(id);
    }

    /// Closes every connection of a key of this shard.
    pub(super) fn close_key(&mut self, key: &Key) {
        let Some(local) = self.local_by_key.get(key).and_then(|index| self.locals[*index].as_ref()) else { return };
        for id in local.connections.clone() {
            self.finish(id, Reason::code("closed_by_mesh_peer"));
        }
    }

    /// Ends a connection now.
    pub(super) fn finish(&mut self, id: ConnId, reason: Reason) {
        let Some(mut conn) = self.conns.remove(id) else { return };
        let lingered = matches!(conn.stage, Stage::Lingering(_));
        if !conn.blocked && !lingered {
            conn.say_goodbye();
        }
        let (mut key, mut totals) = (None, Totals::default());
        if let Some(switched) = conn.switched() {
            (key, totals) = (Some(switched.member.key), switched.totals);
            self.unregister(id, &switched.member.key, &switched.peer);
            self.count_lost(&conn);
        }
        self.events.push(Event::Closed { conn: id, remote: conn.remote, key, reason, totals });
    }

    /// Takes a connection out of its key's set. With the last one the key leaves, and its partners are told.
    pub(super) fn unregister(&mut self, id: ConnId, key: &Key, peer: &Arc<Peer>) {
        let key_left = self.shared.switchboard.release(key, peer);
        let Some(&index) = self.local_by_key.get(key) else { return };
        let Some(local) = &mut self.locals[index] else { return };
        local.connections.retain(|other| *other != id);
        if !key_left {
            // None is left here while the key's next connection is on its way from another shard.
            peer.set_active(local.connections.last().copied().unwrap_or(ConnId::NOBODY));
            return;
        }
        let Some(local) = self.locals[index].take() else { return };
        self.free_locals.push(index);
        self.local_by_key.remove(key);
        for to in local.routes.told() {
            if to.shard() == self.index {
                self.tell_gone(to, &local.key, Gone::Disconnected);
            } else {
                let errand = Errand::PeerGone { to, key: local.key, why: Gone::Disconnected };
                self.outgoing[to.shard()].errands.push(errand);
            }
        }
    }

    fn count_lost(&self, conn: &Conn<N::Stream>) {
        let Some(outbox) = &conn.outbox else { return };
        for disco in [true, false] {
            for len in outbox.queue(disco).frame_lens() {
                self.counters().dropped(Drop::GoneDisconnected, disco, len - OVERHEAD);
            }
        }
    }

    /// Ends every connection, as the shard's last act.
    pub(crate) fn close_all(&mut self) {
        for id in self.conns.ids().collect::<Vec<_>>() {
            self.finish(id, Reason::code("stopped"));
        }
    }
}

impl<S: Stream> Conn<S> {
    /// Tells the peer, through every layer, that nothing more comes.
    fn say_goodbye(&mut self) {
        if let Transport::Tls(session) = &mut self.transport {
            let mut alert = Vec::new();
            session.close_notify(&mut alert);
            // The connection ends whether or not there is room for this.
            let _ = self.stream.write(&[std::io::IoSlice::new(&alert)]);
        }
        self.stream.finish();
        self.deadline = NEVER;
    }
}
