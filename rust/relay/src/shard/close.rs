//! The end of a connection, and the notices that it causes.

use crate::id::ConnId;
use crate::io::epoll::{Net, Stream};
use crate::limits::pending::Phase;
use crate::messages::{CloseReason, Event, Reason, Totals};
use crate::shard::conn::{Conn, Ending, NEVER, Stage, Transport};
use crate::stats::counter::DropReason;
use crate::switchboard::table::Left;
use crate::wire::frame::Key;
use crate::wire::websocket;

use super::Shard;
use super::turn::{DEPARTURE, NOTICE};

/// Milliseconds that an answered peer has for reading the answer and closing.
const LINGER: u64 = 2_000;

impl<S> Conn<S> {
    /// Whether the connection only has to be written out and closed.
    pub(super) fn is_closing(&self) -> bool {
        self.is_leaving || matches!(self.stage, Stage::Closing(_) | Stage::Lingering(_))
    }
}

impl<N: Net> Shard<N> {
    /// Closes a connection after its control frames are written. Its key is free at once, and its packets are dropped.
    pub(super) fn close(&mut self, id: ConnId, reason: Reason) {
        if self.conns.get(id).is_none_or(|conn| conn.is_closing()) {
            return;
        }
        if self.turn.are_departures_over() {
            return self.leave_later(id, reason, true);
        }
        let ending = self.leave(id, reason);
        self.enter(id, Stage::Closing(ending), self.shared.settings.setup_timeout);
        // Its work is done, so it is the first to be evicted.
        self.step(id, Phase::Opening);
        self.flush(id);
        self.close_if_written(id);
        self.settle(id);
    }

    /// Moves from writing to lingering after everything is written.
    pub(super) fn close_if_written(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Stage::Closing(ending) = &conn.stage else { return };
        if conn.outbox.as_ref().is_some_and(|outbox| !outbox.is_empty()) {
            return;
        }
        let ending = ending.clone();
        conn.write_end();
        conn.input = Vec::new();
        self.enter(id, Stage::Lingering(ending), LINGER);
        self.settle(id);
    }

    /// Ends a connection now.
    pub(super) fn finish(&mut self, id: ConnId, reason: Reason) {
        if self.conns.get(id).is_none_or(|conn| conn.is_leaving) {
            return;
        }
        if self.turn.are_departures_over() {
            return self.leave_later(id, reason, false);
        }
        let ending = self.leave(id, reason);
        let Some(mut conn) = self.remove(id) else { return };
        if !conn.blocked && !matches!(conn.stage, Stage::Lingering(_)) {
            conn.write_end();
        }
        let Ending { reason, key, totals } = ending;
        self.events.push(Event::Closed { conn: id, remote: conn.remote, key, reason, totals });
    }

    /// Removes a connection, with its outbox, from this shard.
    pub(super) fn remove(&mut self, id: ConnId) -> Option<Box<Conn<N::Stream>>> {
        let mut conn = self.conns.remove(id)?;
        if let Some(outbox) = &mut conn.outbox {
            outbox.uncount(&mut self.queued);
        }
        Some(conn)
    }

    /// Removes a connection from the region, if present. If it is already closing, its close reason stays.
    fn leave(&mut self, id: ConnId, reason: Reason) -> Ending {
        let mut ending = Ending { reason, key: None, totals: Totals::default() };
        let Some(conn) = self.conns.get_mut(id) else { return ending };
        self.turn.spend_on_departure(DEPARTURE);
        match std::mem::replace(&mut conn.stage, Stage::Parked) {
            Stage::Switched(mut switched) => {
                (ending.key, ending.totals) = (Some(switched.member.key), switched.totals);
                let tls = conn.tls;
                self.end_impairments(id, &mut switched);
                self.count_out(&switched, tls);
                if switched.watch.is_some() {
                    self.stop_watching(id);
                }
                self.unregister(id, &switched.member.key, switched.last_route);
                self.drop_packets(id, &switched.member.key);
            }
            Stage::Linked(linked) => {
                self.lost_links.push_back((id, linked.keys.into_iter()));
                self.drop_packets(id, &[0; 32]);
            }
            Stage::Closing(earlier) => ending = earlier,
            Stage::Lingering(earlier) => {
                ending = earlier.clone();
                conn.stage = Stage::Lingering(earlier);
            }
            _ => {}
        }
        ending
    }

    /// Removes a connection from its key's set. With the last connection, the key leaves this node, and maybe the
    /// region.
    ///
    /// `last_route` is the index of the route that its last packet took.
    pub(super) fn unregister(&mut self, id: ConnId, key: &Key, last_route: usize) {
        let index = self.local_by_key.get(key).copied();
        let mut next_active = ConnId::NONE;
        if let Some(local) = index.and_then(|index| self.locals[index].as_mut()) {
            local.connections.remove(id);
            next_active = local.connections.last().unwrap_or(next_active);
        }
        let left = self.shared.switchboard.release(key, next_active);
        let (Some(index), true) = (index, left != Left::Here) else { return };
        let Some(local) = self.locals[index].take() else { return };
        self.free_locals.push(index);
        self.routes -= local.routes.len();
        self.local_by_key.remove(key);
        self.shared.switchboard.store_partners(key, local.routes.latest(last_route));
        self.announce(key);
        if left == Left::Elsewhere {
            // Another node has the key now. The key's receivers are notified when that node loses the key, too.
            for to in local.routes.receivers() {
                self.note_remote(key, to);
            }
            return;
        }
        for to in local.routes.receivers() {
            self.notify_gone(to, key);
            self.turn.spend_on_departure(NOTICE);
        }
        self.left_region(key);
    }

    /// Drops all data queued for a connection that is about to end, because the peer will not read the data.
    pub(super) fn drop_outbox(&mut self, id: ConnId, key: &Key) {
        self.drop_packets(id, key);
        if let Some(conn) = self.conns.get_mut(id) {
            // `blocked` stays set: half a record may have left, and then nothing can follow it.
            if let Some(mut outbox) = conn.outbox.take() {
                outbox.uncount(&mut self.queued);
            }
        }
    }

    /// Drops the packets that wait for a connection that has left.
    fn drop_packets(&mut self, id: ConnId, key: &Key) {
        let Some(mut outbox) = self.conns.get_mut(id).and_then(|conn| conn.outbox.take()) else { return };
        for disco in [true, false] {
            while let Some(len) = outbox.queue_mut(disco).drop_oldest() {
                self.count_drop(DropReason::GoneDisconnected, key, disco, len);
            }
        }
        if let Some(conn) = self.conns.get_mut(id) {
            // An empty outbox ends the write timeout.
            conn.blocked &= !outbox.is_empty();
            outbox.release_unused();
            outbox.recount(&mut self.queued);
            conn.outbox = Some(outbox);
        }
    }

    /// Ends every connection when the shard stops.
    pub(crate) fn close_all(&mut self) {
        self.turn.end_all();
        for id in self.conns.ids().collect::<Vec<_>>() {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.is_leaving = false;
            }
            self.finish(id, Reason::code(CloseReason::Stopped));
        }
    }
}

impl<S: Stream> Conn<S> {
    /// Writes the end of the stream in each layer: WebSocket, TLS, TCP.
    fn write_end(&mut self) {
        let mut bytes = Vec::new();
        if self.websocket.is_some() {
            websocket::append_close(&mut bytes, websocket::NORMAL);
        }
        if let Transport::Tls(session) = &mut self.transport {
            bytes = session.seal_last(&bytes);
        }
        // The connection ends whether or not the socket has room for this.
        let _ = self.stream.write(&[std::io::IoSlice::new(&bytes)]);
        self.stream.finish();
        self.deadline = NEVER;
    }
}
