//! The language between the shards and whoever decides (Python): events out, commands in.
//!
//! Both ways in batches. A batch wakes its reader only when the reader is not already going to look.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::bucket::{Bucket, Rate};
use crate::certificates::Missing;
use crate::frame::Key;
use crate::id::ConnId;
use crate::proxy::Network;
use crate::sleep::Sleep;
use crate::tls::Session;

pub use crate::limits::Limits;
pub use crate::standing::{Act, Standing, Struggle};

/// What a connection may do once it is switched (`docs/protocol/mesh.md`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// An ordinary client.
    Client,
    /// It logged in with the mesh key: it may watch, forward and close.
    MeshPeer,
}

/// Who a connection is, as the login settled it.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its address.
    pub key: Key,
    /// What it may do.
    pub role: Role,
    /// How other nodes are told of it: a whole `PeerPresent` frame.
    pub presence: Arc<[u8]>,
    /// The version of the protocol that it said it speaks.
    pub version: i64,
    /// Its number among all connections that ever came to log in: whoever reads of it tells them apart by that.
    pub number: u64,
    /// Where it comes from, as its introduction settled it.
    pub remote: SocketAddr,
}

/// Why a connection ended: a code for metrics and logs, and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// One of a small set of words, `login_timeout` for instance.
    pub code: Cow<'static, str>,
    /// The rest of the sentence; may be empty.
    pub detail: String,
}

impl Reason {
    pub(crate) const fn code(code: &'static str) -> Self {
        Self { code: Cow::Borrowed(code), detail: String::new() }
    }

    pub(crate) fn with(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), detail: detail.into() }
    }
}

/// What a switched connection has carried: `SendPacket`s from it, `RecvPacket`s to it, bytes without key and header.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Packets read from it.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets written to it.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
}

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
        members: Vec<Standing>,
        /// Whether these were that shard's last.
        is_last: bool,
    },
    /// A connection has had a hard time for ten seconds, or has it no more.
    Struggling {
        /// The connection.
        conn: ConnId,
        /// Its key.
        key: Key,
        /// With what.
        how: Struggle,
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

/// What Python says. A command for a connection that is gone, or not in a state for it, does nothing.
pub enum Command {
    /// Queue bytes: of an HTTP answer, or whole frames for a switched connection.
    Write {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether to say [`Event::Drained`] when they have left.
        tell_drained: bool,
    },
    /// Collect a request head.
    AwaitHead(ConnId),
    /// The stream is WebSocket from here on, both ways.
    BeginWebsocket(ConnId),
    /// Collect one frame of at most so many payload bytes.
    AwaitFrame(ConnId, usize),
    /// Hand over the next so many bytes as they come.
    AwaitBody(ConnId, u64),
    /// Hand over whatever comes, until the connection ends.
    Stream(ConnId),
    /// So many bytes of the body or of the stream have been used: more may be read.
    Consumed(ConnId, usize),
    /// So much of what has come ahead on a parked connection was read in an event.
    Skip(ConnId, usize),
    /// Relay from now on; `first` is written before any packet.
    Switch {
        /// The connection.
        conn: ConnId,
        /// Who it is.
        member: Member,
        /// Whole frames.
        first: Vec<u8>,
    },
    /// Shake hands as a TLS client on a connected socket; `token` is said back.
    Dial {
        /// Whatever tells the dialler its connections apart.
        token: u64,
        /// The socket, connected.
        socket: OwnedFd,
        /// The other end.
        remote: SocketAddr,
        /// The client's end of TLS.
        session: Box<Session>,
    },
    /// The node that was dialled has let us in: forward to it, and believe what it announces.
    Link {
        /// The connection.
        conn: ConnId,
        /// Whole frames, written before anything else.
        first: Vec<u8>,
    },
    /// Write what is queued, then close.
    Close(ConnId, Reason),
    /// Close a connection at once, to make room for another; one shard sends this to another.
    Evict(ConnId),
    /// Do this to every connection of a key.
    ToKey(Key, Act),
    /// Do this to every client of the shard, and to its mesh peers if these are not spared.
    ToAll {
        /// What.
        act: Act,
        /// Whether connections of other nodes are left alone.
        spare_mesh_peers: bool,
    },
    /// Say how every member of the shard stands, in events that bear this number.
    Report(u64),
    /// Accept on this listener from now on.
    Listen(ListenerId, Arc<Listener>),
    /// Stop accepting there, and let go of the socket.
    Unlisten(ListenerId),
    /// Read no more than this from clients from now on.
    LimitClients(Arc<Limits>),
    /// Tick.
    Pulse,
    /// End the shard; its connections are dropped.
    Stop,
    /// Fail as a bug would: for the tests of what happens then.
    Panic,
}

impl Event {
    /// Whether nobody waits for it.
    pub(crate) fn can_wait(&self) -> bool {
        matches!(self, Self::Switched { .. } | Self::Closed { .. } | Self::Dropped { .. })
    }
}

/// Names a listener.
pub type ListenerId = u32;

/// A listening socket that all shards accept from.
#[derive(Debug)]
pub struct Listener {
    /// The socket, bound and listening. Accepted sockets inherit the options that are set on it.
    pub socket: OwnedFd,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// How many connections are taken; the others are closed at once.
    pub limit: Option<Mutex<AcceptLimit>>,
    /// Whence connections begin with a PROXY header, all of them; from elsewhere none may.
    pub proxies: Vec<Network>,
    /// Networks of HTTP proxies: each of their connections belongs to another client.
    pub trusted: Vec<Network>,
    /// How many connections one address may have, wherever they came in.
    pub per_ip: Option<u32>,
}

/// How many connections a listener takes.
#[derive(Debug)]
pub struct AcceptLimit {
    rate: Rate,
    bucket: Bucket,
}

impl AcceptLimit {
    /// So many a second, after a burst.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { rate, bucket: Bucket::full() }
    }
}

impl Listener {
    /// Whether one more connection may come in.
    pub(crate) fn admits(&self, now: u64) -> bool {
        self.limit.as_ref().is_none_or(|limit| {
            let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
            let rate = limit.rate;
            limit.bucket.take(rate, 1.0, now).is_ok()
        })
    }
}

/// Wakes a thread that sleeps in a poll call, through an eventfd, and only if it sleeps.
#[derive(Debug)]
pub struct Waker {
    eventfd: OwnedFd,
    sleep: Sleep,
}

impl Waker {
    pub(crate) fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self { eventfd: eventfd(0, flags)?, sleep: Sleep::new() })
    }

    /// Says that the caller is about to sleep. It has to look for work once more after this, before it does.
    pub fn will_sleep(&self) {
        self.sleep.begin();
    }

    pub(crate) fn is_awake(&self) {
        self.sleep.end();
    }

    /// Whether nobody has woken the sleeper since it said that it will sleep.
    #[cfg(any(test, feature = "stepping"))]
    pub(crate) fn is_asleep(&self) -> bool {
        self.sleep.goes_on()
    }

    /// Resets the eventfd after it woke the caller.
    pub fn clear(&self) {
        // Nothing to read means that nobody has written: what was wanted.
        let _ = rustix::io::read(&self.eventfd, &mut [0; 8]);
    }

    pub(crate) fn wake(&self) {
        if self.sleep.interrupt() {
            // The only failure is a full counter, and then it is readable already.
            let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
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
