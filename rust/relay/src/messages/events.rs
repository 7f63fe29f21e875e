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

/// An event for Python.
#[derive(Debug)]
pub enum Event {
    /// A socket to another node was taken over; its TLS handshake has begun.
    Dialled {
        /// The token of [`Command::Dial`].
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
    /// A node that we dialled has announced its first key: it accepts us as a node of its region.
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
        /// The first bytes after the head. They stay in the connection's input; [`Command::Skip`] drops them.
        ahead: Vec<u8>,
        /// The other end.
        remote: SocketAddr,
        /// Whether the other end is a proxy whose PROXY header names no client.
        is_anonymous: bool,
        /// Our end.
        local: SocketAddr,
        /// The listener that accepted it; 0 for a node that we dialled.
        listener: ListenerId,
        /// The TLS version in use, if any.
        tls: Option<&'static str>,
    },
    /// The request head exceeds its limit. The connection is parked.
    HeadTooLarge {
        /// The connection.
        conn: ConnId,
        /// The other end.
        remote: SocketAddr,
        /// The listener that accepted it.
        listener: ListenerId,
    },
    /// The frame of [`Command::AwaitFrame`]. The connection is parked.
    Frame {
        /// The connection.
        conn: ConnId,
        /// The frame's type.
        kind: u8,
        /// Its payload.
        payload: Vec<u8>,
    },
    /// A part of the body or of the stream.
    Data {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Everything written to a connection that is not switched has left; more may be written.
    Drained {
        /// The connection.
        conn: ConnId,
    },
    /// The connection relays from now on, under a new id.
    Switched {
        /// The connection's id before the switch.
        conn: ConnId,
        /// The connection's id after the switch.
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
        /// The reason.
        reason: Reason,
        /// The packets that it carried.
        totals: Totals,
    },
    /// A part of a report of the members.
    Members {
        /// The number of the report, from [`Command::Report`].
        report: u64,
        /// Snapshots of some of the shard's members.
        members: Vec<MemberSnapshot>,
        /// Whether this is the shard's last part.
        is_last: bool,
    },
    /// A connection has been impaired for ten seconds, or is not impaired any more.
    ClientImpaired {
        /// The connection.
        conn: ConnId,
        /// Its key.
        key: Key,
        /// The kind of impairment.
        how: Impairment,
        /// Whether the impairment is over.
        is_over: bool,
    },
    /// A packet for a destination of `verbose_drops` was dropped.
    Dropped {
        /// Its destination.
        to: Key,
        /// The reason, as in the metric's label.
        reason: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A TLS client was rejected for lack of a certificate. Repeated at most once a second for the same name.
    Unserved(Missing),
    /// A connection could not be accepted; the shard tries again in a second.
    AcceptFailed {
        /// The shard.
        shard: usize,
        /// The system's error message.
        error: String,
    },
    /// STUN requests could not be read. The reader tries again, and repeats this event at most once a minute.
    StunFailed {
        /// The system's error message.
        error: String,
    },
}

impl Event {
    /// Whether the event is not urgent.
    pub(crate) fn can_wait(&self) -> bool {
        matches!(self, Self::Switched { .. } | Self::Closed { .. } | Self::Dropped { .. })
    }
}

/// Events on their way from the shards to Python.
#[derive(Debug)]
pub struct EventQueue {
    events: Mutex<Vec<Event>>,
    /// Wakes Python.
    pub waker: Waker,
}

impl EventQueue {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self { events: Mutex::default(), waker: Waker::new()? })
    }

    /// Appends the events of one tick, and wakes Python.
    pub(crate) fn append(&self, batch: &mut Vec<Event>) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).append(batch);
        self.waker.wake();
    }

    /// Number of events that wait for Python.
    pub(crate) fn len(&self) -> usize {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes all events. The next event wakes the caller.
    pub fn drain(&self) -> Vec<Event> {
        self.waker.will_sleep();
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
