//! How much one tick does, and which connection is next.
//!
//! Work is counted in units of about a quarter of a microsecond: system calls, records, frames, look-ups, departures,
//! bytes. A tick has a bound for what it reads, one for the connections that it ends, and one for what it writes; the
//! rest is carried over to the next tick, which looks for newly ready connections first. So the time between two looks
//! at a connection is bounded by what a tick may do, whatever the other connections send.
//!
//! A connection that is ready is *fresh*. Each visit may use up one slice; a connection that has used it up is *late*:
//! it waits behind all other late ones, and fresh ones go first. The more connections are ready, the smaller is a
//! slice, so that a first round over all of them stays short.

use std::collections::VecDeque;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::messages::Reason;
use crate::shard::conn::Stage;

use super::{READ_BUDGET, Shard};

/// Work that a tick may do, in units of about a quarter of a microsecond. One piece of work may go over each of them.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Reading, opening and relaying.
    pub visits: i64,
    /// The same for one connection before another has its turn, while few are ready.
    pub slice: i64,
    /// Ending connections, with a notice to each connection that was sent packets of theirs.
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
/// One frame whose receiver is known.
pub(super) const FRAME: i64 = 1;
/// A look-up in a table that is not in any cache.
pub(super) const LOOK_UP: i64 = 2;
/// A destination that is new to its sender.
pub(super) const NEW_ROUTE: i64 = 8;
/// Forgetting a destination.
pub(super) const ROUTE_FORGOTTEN: i64 = 1;
/// Writing what waits for one connection.
pub(super) const WRITE: i64 = 20;
/// Ending one connection: its last words, and closing its socket.
pub(super) const DEPARTURE: i64 = 80;
/// Telling one connection that a key has left.
pub(super) const NOTICE: i64 = 2;
/// Bytes that are read, opened or relayed, for one unit.
pub(super) const BYTES_SHIFT: u32 = 10;
/// Bytes that are sealed and written, for one unit.
pub(super) const WRITE_BYTES_SHIFT: u32 = 9;

/// Ready connections up to which each may bring [`READ_BUDGET`] and use up a whole slice.
const FEW: usize = 32;
/// The least that one read asks for, and the least slice, however many connections are ready.
const LEAST_READ: usize = 4 * 1024;
const LEAST_SLICE: i64 = 64;

/// Which queue of [`Turn`] a connection stands in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Waits {
    #[default]
    No,
    Fresh,
    Late,
    Handshake,
}

/// A connection that is to be ended.
struct Leaving {
    id: ConnId,
    reason: Reason,
    /// After what waits for it was written.
    politely: bool,
}

/// What is left to do, and how much of it this tick may do.
#[derive(Default)]
pub(super) struct Turn {
    /// Invariant of all three queues: `Conn::waits` names the one in which a connection stands.
    fresh: VecDeque<ConnId>,
    late: VecDeque<ConnId>,
    /// Connections that shake hands, which few may do in one tick.
    handshakes: VecDeque<ConnId>,
    /// Invariant: `Conn::is_leaving` says that a connection stands here.
    leaving: VecDeque<Leaving>,
    visits: i64,
    departures: i64,
    writes: i64,
    /// What is left of the slice of the connection that is looked at.
    slice: i64,
    /// A whole slice, and the most bytes of a read, in this tick.
    whole_slice: i64,
    read: usize,
}

impl Turn {
    /// Whether anything is left for the next tick; a congested shard relays nothing.
    pub(super) fn is_unfinished(&self, congested: bool) -> bool {
        let waits = !self.leaving.is_empty() || !self.fresh.is_empty() || !self.handshakes.is_empty();
        waits || (!self.late.is_empty() && !congested)
    }

    /// Counts work of the connection that is looked at.
    pub(super) fn spend(&mut self, units: i64) {
        self.slice -= units;
    }

    /// What the connection that is looked at may still do; work on records is counted off it.
    pub(super) fn slice(&mut self) -> &mut i64 {
        &mut self.slice
    }

    pub(super) fn is_slice_over(&self) -> bool {
        self.slice <= 0
    }

    /// Most bytes that one read brings.
    pub(super) fn read(&self) -> usize {
        self.read
    }

    /// Counts a connection that ends, and its notices.
    pub(super) fn spend_on_departure(&mut self, units: i64) {
        self.departures = self.departures.saturating_sub(units);
    }

    /// Whether as many connections have ended as may in one tick.
    pub(super) fn are_departures_over(&self) -> bool {
        self.departures <= 0
    }

    /// From now on any number of connections may end.
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
    /// The bounds of a new tick.
    pub(super) fn begin_turn(&mut self) {
        let work = self.shared.settings.work;
        let turn = &mut self.turn;
        (turn.visits, turn.departures, turn.writes) = (work.visits, work.departures, work.writes);
        self.divide_turn();
    }

    /// Shares what a tick may read among those that are ready.
    pub(super) fn divide_turn(&mut self) {
        let whole = self.shared.settings.work.slice;
        let turn = &mut self.turn;
        // Commands were work, too; some is always left for those that are ready.
        turn.visits = turn.visits.max(self.shared.settings.work.visits / 2);
        let ready = (turn.fresh.len() + turn.late.len()).max(FEW);
        turn.whole_slice = (whole * FEW as i64 / ready as i64).max(LEAST_SLICE.min(whole));
        turn.read = (READ_BUDGET * FEW / ready).max(LEAST_READ);
    }

    /// A connection has bytes, or its end, or an error: it will be looked at.
    pub(super) fn note_ready(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.waits == Waits::No
            && !conn.is_leaving
        {
            conn.waits = Waits::Fresh;
            self.turn.fresh.push_back(id);
        }
    }

    /// A connection has bytes that came and were not dealt with: it waits for another slice.
    pub(super) fn note_late(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.waits == Waits::No
            && !conn.is_leaving
        {
            conn.waits = Waits::Late;
            self.turn.late.push_back(id);
        }
    }

    /// A connection cannot shake hands in this tick.
    pub(super) fn note_handshake(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.waits = Waits::Handshake;
            self.turn.handshakes.push_back(id);
        }
    }

    /// Looks at connections until the tick has done enough: fresh ones first, but for a quarter of the work.
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
            let result = shard.digest(id);
            if result.is_ok() && !shard.turn.is_slice_over() {
                shard.readable(id);
            } else {
                shard.conclude(id, result);
            }
        });
        // Costly bytes may leave nothing behind: the next ones have to wait all the same.
        if spent > self.turn.whole_slice
            && self.conns.get(id).is_some_and(|conn| conn.interest.read && conn.speaks_derp())
        {
            self.note_late(id);
        }
    }

    /// Does something for one connection, with a slice of its own; how much of it that used up.
    pub(super) fn in_a_slice(&mut self, work: impl FnOnce(&mut Self)) -> i64 {
        self.turn.slice = self.turn.whole_slice;
        work(self);
        let spent = (self.turn.whole_slice - self.turn.slice).max(1);
        self.turn.visits -= spent;
        spent
    }

    /// Puts off the end of a connection: nothing is read from it, or queued for it, from now on.
    pub(super) fn leave_later(&mut self, id: ConnId, reason: Reason, politely: bool) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.is_leaving = true;
        if !politely {
            let key = match &conn.stage {
                Stage::Switched(switched) => switched.member.key,
                _ => [0; 32],
            };
            self.lose_outbox(id, &key);
        }
        self.turn.leaving.push_back(Leaving { id, reason, politely });
        self.settle(id);
    }

    /// Goes on with the ends that were put off.
    pub(super) fn depart(&mut self) {
        while !self.turn.are_departures_over() {
            let Some(Leaving { id, reason, politely }) = self.turn.leaving.pop_front() else { break };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            conn.is_leaving = false;
            if politely {
                self.close(id, reason);
            } else {
                self.finish(id, reason);
            }
        }
    }
}
