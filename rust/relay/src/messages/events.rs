//! Events from a shard to Python, and the queue in which they wait.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use crate::id::ConnId;
use crate::io::listener::ListenerId;
use crate::io::waker::Waker;
use crate::tls::certificates::Missing;
use crate::wire::frame::Key;

use super::member::{Reason, Totals};
use super::snapshot::{Impairment, MemberSnapshot};

/// What Python is told.
#[derive(Debug)]
pub enum Event {
    /// A socket to another node was taken over; its TLS handshake goes on.
    Dialled {
        /// What the dialler said.
        token: u64,
        /// The connection.
        conn: ConnId,
    },
    /// The TLS handshake with a dialled node is done. The connection is parked.
    Connected {
        /// The connection.
        conn: ConnId,
        /// The certificates that it presented, leaf first, in DER.
        chain: Vec<Vec<u8>>,
    },
    /// A node that we dialled has announced a key, the first: it takes us for a node of its region.
    Linked {
        /// The connection.
        conn: ConnId,
    },
    /// A whole request head came, up to and with its blank line. The connection is parked until an answer comes.
    Head {
        /// The connection.
        conn: ConnId,
        /// The head's bytes.
        head: Vec<u8>,
        /// The beginning of what came behind it. It stays there; [`Command::Skip`] takes it.
        ahead: Vec<u8>,
        /// The other end.
        remote: SocketAddr,
        /// Whether the other end is a proxy that did not say for whom it is.
        is_anonymous: bool,
        /// Our end.
        local: SocketAddr,
        /// Where it came in; 0 for a node that we dialled.
        listener: ListenerId,
        /// The TLS version in use, or none.
        tls: Option<&'static str>,
    },
    /// More came than a request head may have. The connection is parked.
    HeadTooLarge {
        /// The connection.
        conn: ConnId,
        /// The other end.
        remote: SocketAddr,
        /// Where it came in.
        listener: ListenerId,
    },
    /// The frame that was asked for. The connection is parked.
    Frame {
        /// The connection.
        conn: ConnId,
        /// The frame's type.
        kind: u8,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// A part of the body or of the stream that was asked for.
    Data {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// What was written to a connection that is not switched has left; more may come.
    Drained {
        /// The connection.
        conn: ConnId,
    },
    /// The connection relays from now on, under a new name.
    Switched {
        /// Its name until now.
        conn: ConnId,
        /// Its name from now on.
        member: ConnId,
    },
    /// The connection is gone.
    Closed {
        /// The connection.
        conn: ConnId,
        /// The other end.
        remote: SocketAddr,
        /// Its key, if it was switched.
        key: Option<Key>,
        /// Why.
        reason: Reason,
        /// What it carried.
        totals: Totals,
    },
    /// A part of a report of who is connected.
    Members {
        /// Which report, as [`Command::Report`] said.
        report: u64,
        /// How some of a shard's members stand.
        members: Vec<MemberSnapshot>,
        /// Whether these were that shard's last.
        is_last: bool,
    },
    /// A connection has had a hard time for ten seconds, or has it no more.
    ClientImpaired {
        /// The connection.
        conn: ConnId,
        /// Its key.
        key: Key,
        /// With what.
        how: Impairment,
        /// Whether that is over.
        is_over: bool,
    },
    /// A packet was dropped whose destination somebody is looking for.
    Dropped {
        /// Its destination.
        to: Key,
        /// Why, as the metric's label says it.
        reason: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A TLS client was refused for want of a certificate; of the same one it is not said again for a second.
    Unserved(Missing),
    /// A connection could not be accepted; the shard tries again in a second.
    AcceptFailed {
        /// The shard.
        shard: usize,
        /// The system's words.
        error: String,
    },
    /// STUN requests could not be read; it goes on, and says so again after a minute at the soonest.
    StunFailed {
        /// The system's words.
        error: String,
    },
}

impl Event {
    /// Whether nobody waits for it.
    pub(crate) fn can_wait(&self) -> bool {
        matches!(self, Self::Switched { .. } | Self::Closed { .. } | Self::Dropped { .. })
    }
}

/// Events on their way from the shards to Python.
#[derive(Debug)]
pub struct EventQueue {
    events: Mutex<Vec<Event>>,
    /// Python's.
    pub waker: Waker,
}

impl EventQueue {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { events: Mutex::default(), waker: Waker::new()? })
    }

    /// Hands over what a shard has gathered in one tick.
    pub(crate) fn append(&self, batch: &mut Vec<Event>) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).append(batch);
        self.waker.wake();
    }

    /// How many events wait for Python.
    pub(crate) fn len(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes all events. Whoever calls this will be woken for the next one.
    pub fn drain(&self) -> Vec<Event> {
        self.waker.will_sleep();
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
