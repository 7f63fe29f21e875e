//! The bounds of one tick's work, and the order in which connections are visited.
//!
//! Work is counted in units of about a quarter of a microsecond: system calls, records, frames, look-ups, departures,
//! bytes. A tick has one bound for reads, one for ended connections, and one for writes. The rest is carried over to
//! the next tick, which polls for newly ready connections first. So the time between two visits to a connection is
//! bounded by what a tick may do, whatever the other connections send.
//!
//! A connection that is ready is *fresh*. Each visit may use up one slice. A connection that has used it up is *late*:
//! it waits after all other late ones, and fresh ones go first. The more connections are ready, the smaller a slice is.
//! So a first round over all of them stays short.

use std::collections::VecDeque;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::messages::Reason;
use crate::shard::conn::Stage;

use super::{READ_BUDGET, Shard};

/// Work that a tick may do, in units of about a quarter of a microsecond. One piece of work may exceed each bound.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Reading, opening and relaying.
    pub visits: i64,
    /// Reading, opening and relaying during one visit to a connection, while few connections are ready.
    pub slice: i64,
    /// Ending connections, with a notice to each connection that got packets from their keys.
    pub departures: i64,
    /// Sealing and writing.
    pub writes: i64,
}

impl Default for Work {
    fn default() -> Self {
        Self { visits: 12_000, slice: 512, departures: 8_000, writes: 16_000 }
    }
}

/// One read of a socket.
pub(super) const READ: i64 = 16;
/// One frame whose route is known.
pub(super) const FRAME: i64 = 1;
/// A look-up in a table that is in no CPU cache.
pub(super) const LOOK_UP: i64 = 2;
/// A new route.
pub(super) const NEW_ROUTE: i64 = 8;
/// Dropping a route.
pub(super) const ROUTE_DROPPED: i64 = 1;
/// Writing one connection's outbox.
pub(super) const WRITE: i64 = 20;
/// Ending one connection: its last bytes, and closing its socket.
pub(super) const DEPARTURE: i64 = 80;
/// Notifying one connection that a key has left.
pub(super) const NOTICE: i64 = 2;
/// Bytes read, opened or relayed for one unit, as a power of two.
pub(super) const BYTES_SHIFT: u32 = 10;
/// Bytes sealed and written for one unit, as a power of two.
pub(super) const WRITE_BYTES_SHIFT: u32 = 9;

/// Ready connections up to which each may bring [`READ_BUDGET`] and use up a whole slice.
const FEW: usize = 32;
/// The minimum size of a read and of a slice, however many connections are ready.
const LEAST_READ: usize = 4 * 1024;
const LEAST_SLICE: i64 = 64;

/// The queue of [`Turn`] that holds a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Waits {
    #[default]
    No,
    Fresh,
    Late,
    Handshake,
}

/// A connection that is to end.
struct Leaving {
    id: ConnId,
    reason: Reason,
    /// Whether its outbox is written first.
    flush_first: bool,
}

/// The work that is left, and how much of it this tick may do.
#[derive(Default)]
pub(super) struct Turn {
    /// Invariant of all three queues: `Conn::waits` names the queue that holds the connection.
    fresh: VecDeque<ConnId>,
    late: VecDeque<ConnId>,
    /// Connections in the TLS handshake; only [`HANDSHAKES_A_TICK`](super::HANDSHAKES_A_TICK) may advance in one tick.
    handshakes: VecDeque<ConnId>,
    /// Invariant: `Conn::is_leaving` is set for the connections in it, and for no others.
    leaving: VecDeque<Leaving>,
    visits: i64,
    departures: i64,
    writes: i64,
    /// The rest of the slice of the connection that is visited.
    slice: i64,
    /// A whole slice, and the maximum bytes of a read, in this tick.
    whole_slice: i64,
    read: usize,
}

impl Turn {
    /// Whether anything is left for the next tick; a congested shard relays nothing.
    pub(super) fn is_unfinished(&self, congested: bool) -> bool {
        let waits = !self.leaving.is_empty() || !self.fresh.is_empty() || !self.handshakes.is_empty();
        waits || (!self.late.is_empty() && !congested)
    }

    /// Counts work for the connection that is visited.
    pub(super) fn spend(&mut self, units: i64) {
        self.slice -= units;
    }

    /// The rest of the slice of the connection that is visited; work on records is subtracted from it.
    pub(super) fn slice(&mut self) -> &mut i64 {
        &mut self.slice
    }

    pub(super) fn is_slice_over(&self) -> bool {
        self.slice <= 0
    }

    /// Maximum bytes of one read.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// Counts work for a connection that ends, and for its notices.
    pub(super) fn spend_on_departure(&mut self, units: i64) {
        self.departures = self.departures.saturating_sub(units);
    }

    /// Whether this tick has used up its work on departures.
    pub(super) fn are_departures_over(&self) -> bool {
        self.departures <= 0
    }

    /// Lifts the bound on departures from now on.
    pub(super) fn end_all(&mut self) {
        self.departures = i64::MAX;
        self.leaving.clear();
    }

    pub(super) fn spend_on_write(&mut self, bytes: usize) {
        self.writes -= WRITE + (bytes >> WRITE_BYTES_SHIFT) as i64;
    }

    pub(super) fn are_writes_over(&self) -> bool {
        self.writes <= 0
    }
}

impl<N: Net> Shard<N> {
    /// Sets the bounds of a new tick.
    pub(super) fn begin_turn(&mut self) {
        let work = self.shared.settings.work;
        let turn = &mut self.turn;
        (turn.visits, turn.departures, turn.writes) = (work.visits, work.departures, work.writes);
        self.divide_turn();
    }

    /// Divides the reads of a tick among the ready connections.
    pub(super) fn divide_turn(&mut self) {
        let whole = self.shared.settings.work.slice;
        let turn = &mut self.turn;
        // Commands used up work, too. Ready connections always keep half.
        turn.visits = turn.visits.max(self.shared.settings.work.visits / 2);
        let ready = (turn.fresh.len() + turn.late.len()).max(FEW);
        turn.whole_slice = (whole * FEW as i64 / ready as i64).max(LEAST_SLICE.min(whole));
        turn.read = (READ_BUDGET * FEW / ready).max(LEAST_READ);
    }

    /// Queues a visit to a connection that has bytes, its end, or an error.
    pub(super) fn note_ready(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.waits == Waits::No
            && !conn.is_leaving
        {
            conn.waits = Waits::Fresh;
            self.turn.fresh.push_back(id);
        }
    }

    /// Queues another slice for a connection that has input left.
    pub(super) fn note_late(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.waits == Waits::No
            && !conn.is_leaving
        {
            conn.waits = Waits::Late;
            self.turn.late.push_back(id);
        }
    }

    /// Puts off a connection whose handshake may not advance in this tick.
    pub(super) fn note_handshake(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.waits = Waits::Handshake;
            self.turn.handshakes.push_back(id);
        }
    }

    /// Visits connections until the tick's work is used up. Fresh ones go first, but a quarter of the work is kept for
    /// late ones.
    pub(super) fn visit_ready(&mut self) {
        while self.handshakes_left > 0 {
            let Some(id) = self.turn.handshakes.pop_front() else { break };
            self.visit(id);
        }
        let kept = if self.turn.late.is_empty() { 0 } else { self.shared.settings.work.visits / 4 };
        self.visit_fresh(kept);
        while self.turn.visits > 0 && !self.congested {
            let Some(id) = self.turn.late.pop_front() else { break };
            self.visit(id);
        }
        self.visit_fresh(0);
    }

    fn visit_fresh(&mut self, kept: i64) {
        while self.turn.visits > kept {
            let Some(id) = self.turn.fresh.pop_front() else { break };
            self.visit(id);
        }
    }

    fn visit(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.waits = Waits::No;
        if conn.is_leaving {
            return;
        }
        let spent = self.in_a_slice(|shard| {
            let result = shard.resume_cut(id);
            if result.is_ok() && !shard.turn.is_slice_over() {
                shard.readable(id);
            } else {
                shard.conclude(id, result);
            }
        });
        // Expensive input may be used up completely. The connection's next bytes wait for their turn all the same.
        if spent > self.turn.whole_slice
            && self.conns.get(id).is_some_and(|conn| conn.interest.read && conn.is_derp())
        {
            self.note_late(id);
        }
    }

    /// Does something for one connection with a slice of its own. Returns the units that this used up.
    pub(super) fn in_a_slice(&mut self, work: impl FnOnce(&mut Self)) -> i64 {
        self.turn.slice = self.turn.whole_slice;
        work(self);
        let spent = (self.turn.whole_slice - self.turn.slice).max(1);
        self.turn.visits -= spent;
        spent
    }

    /// Puts off the end of a connection. From now on it is not read, and nothing is queued for it.
    pub(super) fn leave_later(&mut self, id: ConnId, reason: Reason, flush_first: bool) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.is_leaving = true;
        if !flush_first {
            let key = match &conn.stage {
                Stage::Switched(switched) => switched.member.key,
                _ => [0; 32],
            };
            self.drop_outbox(id, &key);
        }
        self.turn.leaving.push_back(Leaving { id, reason, flush_first });
        self.settle(id);
    }

    /// Ends connections whose end was put off.
    pub(super) fn depart(&mut self) {
        while !self.turn.are_departures_over() {
            let Some(Leaving { id, reason, flush_first }) = self.turn.leaving.pop_front() else { break };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.is_leaving = false;
            if flush_first {
                self.close(id, reason);
            } else {
                self.finish(id, reason);
            }
        }
    }
}
