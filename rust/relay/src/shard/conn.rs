//! One connection: its stage, its partial input, its deadlines.
//!
//! A connection belongs to one shard at a time and is touched by no other. Only `shard/` changes it.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::io::epoll::Interest;
use crate::io::listener::ListenerId;
use crate::limits::bucket::Bucket;
use crate::limits::connection_limiter::Permit;
use crate::limits::duty_cycle::DutyCycle;
use crate::limits::pending::Phase;
use crate::limits::rates::Allowance;
use crate::messages::Wire;
use crate::messages::{CloseReason, LoginInfo, Reason, Totals};
use crate::shard::Waits;
use crate::shard::connections::Connections;
use crate::shard::queue::Outbox;
use crate::stats::hyperloglog::HyperLogLog;
use crate::switchboard::table::Peer;
use crate::switchboard::watch::Watch;
use crate::tls::client_hello::ACME_TLS_1;
use crate::tls::session::Session;
use crate::wire::frame::Key;
use crate::wire::websocket;

/// A time that is never reached.
pub(crate) const NEVER: u64 = u64::MAX;

/// The encryption between the socket and the connection's bytes.
pub(crate) enum Transport {
    Plain,
    Tls(Box<Session>),
}

impl Transport {
    /// Returns the certificates of a node that we dialled, once; `None` if the other end dialled us.
    pub(crate) fn dialled_chain(&mut self) -> Option<Vec<Vec<u8>>> {
        match self {
            Self::Tls(session) => session.dialled_chain(),
            Self::Plain => None,
        }
    }

    /// Whether this TLS session serves an ACME server's challenge only.
    pub(crate) fn is_challenge(&self) -> bool {
        matches!(self, Self::Tls(session) if session.protocol() == Some(ACME_TLS_1))
    }

    /// "1.2" or "1.3"; `None` without TLS.
    pub(crate) fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Tls(session) => session.version(),
            Self::Plain => None,
        }
    }
}

/// The two addresses of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// The reason why a connection ends, its key, and its totals at the end.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) reason: Reason,
    /// Its key, if it was switched.
    pub(crate) key: Option<Key>,
    pub(crate) totals: Totals,
}

/// The state of a connection.
#[derive(Debug)]
pub(crate) enum Stage {
    /// Reading the PROXY header. TLS or a request head follows.
    Proxy { tls: bool, per_ip: Option<u32> },
    /// Reading a TLS client's first message; there is no session yet.
    ClientHello,
    /// Negotiating TLS.
    Handshake,
    /// Reading a request head; the first `scanned` bytes contain no terminator.
    Head { scanned: usize },
    /// Parked for Python: nothing is read. A deadline is set only once the peer has ended its stream.
    Parked,
    /// Reading one frame of at most `most` payload bytes.
    Frame { most: usize },
    /// Handing over a body: `left` bytes are still to come. Python has not used `unused` bytes yet.
    Body { left: u64, unused: usize },
    /// Handing over all input. Python has not used `unused` bytes yet.
    Stream { unused: usize },
    /// Frames are relayed.
    Switched(Switched),
    /// A link to a node that we dialled: it announces its clients, and gets the packets for them.
    Linked(Linked),
    /// Writing what is queued; then the connection ends.
    Closing(Ending),
    /// Everything is written. Further input is discarded, because a reset could destroy the answer before the peer
    /// reads it.
    Lingering(Ending),
}

/// A logged-in connection's place in the region.
#[derive(Debug)]
pub(crate) struct Switched {
    pub(crate) member: LoginInfo,
    pub(crate) peer: Arc<Peer>,
    /// Index of its key in the shard's table of local keys.
    pub(crate) local: usize,
    /// Index of the route that its last packet took: most senders have few destinations at a time.
    pub(crate) last_route: usize,
    pub(crate) totals: Totals,
    /// The notices that a watcher has not been sent yet; present for watchers.
    pub(crate) watch: Option<Box<Watch>>,
    pub(crate) since_ms: u64,
    pub(crate) keep_alive_at: u64,
    /// When its round-trip time is sampled next.
    pub(crate) rtt_at: u64,
    /// Its last `NotePreferred` frame was positive.
    pub(crate) home: bool,
    /// "Not here" answers that it may still be sent.
    pub(crate) not_here: Bucket,
    /// Bytes that may still be read from this connection; `None` until a frame is first checked against a rate limit.
    pub(crate) allowance: Option<Box<Allowance>>,
    /// It is not read before this time; 0 if it need not wait.
    pub(crate) throttled_until: u64,
    /// How often this connection has become its key's active connection in place of another. `None` if not recently.
    pub(crate) contest: Option<Box<DutyCycle>>,
    /// When it is checked for impairments next.
    pub(crate) impairment_check_at: u64,
}

/// A link to another node of the region.
#[derive(Default, Debug)]
pub(crate) struct Linked {
    /// The keys that it has announced. Invariant: for each of them the switchboard lists this link as a forwarder.
    pub(crate) keys: HashSet<Key>,
    /// Whether it has announced any key. A node that does not know our mesh key closes the connection instead.
    pub(crate) announced: bool,
}

/// One connection.
pub(crate) struct Conn<S> {
    pub(crate) stream: S,
    pub(crate) transport: Transport,
    /// "1.2" or "1.3" after the TLS handshake.
    pub(crate) tls: Option<&'static str>,
    /// Present once the stream is framed as WebSocket.
    pub(crate) websocket: Option<Box<websocket::Decoder>>,
    pub(crate) stage: Stage,
    /// Payload bytes of an ignored frame that are still to be discarded.
    pub(crate) skip: usize,
    /// Unused input bytes: less than a frame if switched, bytes that came early if parked.
    pub(crate) input: Vec<u8>,
    /// Present while bytes or frames wait for the socket.
    pub(crate) outbox: Option<Box<Outbox>>,
    /// The socket refused bytes and has not become writable since. Invariant: then `outbox` is present.
    pub(crate) blocked: bool,
    /// Queued to be flushed at the end of the tick.
    pub(crate) dirty: bool,
    /// The queue of its shard in which it waits for a visit.
    pub(crate) waits: Waits,
    /// Its slice ran out, and it has input left that needs no read.
    pub(crate) is_cut: bool,
    /// The shard has queued this connection for closing. Nothing more is read from it or queued for it.
    pub(crate) is_leaving: bool,
    /// Python waits for the event that reports that all written bytes have left.
    pub(crate) tell_drained: bool,
    /// The interest that epoll has registered.
    pub(crate) interest: Interest,
    /// When the present stage times out.
    pub(crate) deadline: u64,
    /// When the socket last took bytes, while blocked.
    pub(crate) progress_at: u64,
    /// Milliseconds that a write may make no progress; [`NEVER`]: no limit.
    pub(crate) write_timeout: u64,
    /// When the wheel's earliest timer for this connection fires.
    pub(crate) armed_at: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// The listener that accepted it; 0 if we dialled.
    pub(crate) listener: ListenerId,
    /// The PROXY header named no client, so the addresses are those of the proxy's own connection.
    pub(crate) is_anonymous: bool,
    /// Its place in the connection limiter. None if we dialled, or after the switch if addresses are not counted.
    pub(crate) permit: Option<Box<Permit>>,
    /// Bytes that went over the socket so far.
    pub(crate) wire: Wire,
}

impl<S> Conn<S> {
    /// A connection without input.
    pub(crate) fn new(stream: S, stage: Stage, ends: Ends, listener: ListenerId) -> Self {
        let Ends { remote, local } = ends;
        Self {
            stream,
            transport: Transport::Plain,
            tls: None,
            websocket: None,
            stage,
            skip: 0,
            input: Vec::new(),
            outbox: None,
            blocked: false,
            dirty: false,
            waits: Waits::No,
            is_cut: false,
            is_leaving: false,
            tell_drained: false,
            interest: Interest::default(),
            deadline: NEVER,
            progress_at: 0,
            write_timeout: NEVER,
            armed_at: NEVER,
            remote,
            local,
            listener,
            is_anonymous: false,
            permit: None,
            wire: Wire::default(),
        }
    }

    /// Notes progress before login.
    pub(crate) fn step(&mut self, phase: Phase, now: u64) {
        if let Some(permit) = &mut self.permit {
            permit.step(phase, now);
        }
    }

    /// Counts the connection no longer as pending.
    pub(crate) fn settle_in(&mut self) {
        if self.permit.as_mut().is_some_and(|permit| !permit.settle_in()) {
            self.permit = None;
        }
    }

    pub(crate) fn switched(&self) -> Option<&Switched> {
        match &self.stage {
            Stage::Switched(switched) => Some(switched),
            _ => None,
        }
    }

    /// Whether DERP frames come from the connection.
    pub(crate) fn is_derp(&self) -> bool {
        matches!(self.stage, Stage::Switched(_) | Stage::Linked(_))
    }

    pub(crate) fn switched_mut(&mut self) -> Option<&mut Switched> {
        match &mut self.stage {
            Stage::Switched(switched) => Some(switched),
            _ => None,
        }
    }

    /// The interest that the connection's stage needs.
    pub(crate) fn wanted(&self, body_credit: usize) -> Interest {
        if self.is_leaving {
            return Interest { write: self.blocked && self.outbox.is_some(), ..Interest::default() };
        }
        let read = match &self.stage {
            Stage::Parked | Stage::Closing(_) => false,
            Stage::Body { unused, .. } | Stage::Stream { unused } => *unused < body_credit,
            Stage::Switched(switched) => switched.throttled_until == 0,
            _ => true,
        };
        let hangup = matches!(self.stage, Stage::Parked) && self.deadline == NEVER;
        Interest { read, write: self.blocked, hangup }
    }

    /// The reason why the connection has timed out, if it has.
    pub(crate) fn overdue(&self, now: u64) -> Option<Reason> {
        if self.blocked && now >= self.progress_at.saturating_add(self.write_timeout) {
            return Some(Reason::with(
                CloseReason::WriteTimeout,
                format!("no progress for {} ms", now - self.progress_at),
            ));
        }
        if now < self.deadline {
            return None;
        }
        Some(match &self.stage {
            Stage::Proxy { .. } => Reason::with(CloseReason::ProxyHeader, "no whole PROXY header in time"),
            Stage::ClientHello | Stage::Handshake => {
                Reason::with(CloseReason::SetupTimeout, "the TLS handshake was not finished in time")
            }
            Stage::Head { .. } if self.input.is_empty() => Reason::code(CloseReason::Idle),
            Stage::Head { .. } => {
                let came = self.input.len();
                Reason::with(
                    CloseReason::SetupTimeout,
                    format!("the request head was not whole in time ({came} bytes)"),
                )
            }
            Stage::Frame { .. } => {
                Reason::with(CloseReason::LoginTimeout, "no whole ClientInfo frame in time")
            }
            Stage::Body { .. } => {
                Reason::with(CloseReason::SetupTimeout, "the request body was not whole in time")
            }
            Stage::Switched(_) => Reason::with(CloseReason::Unread, "it does not read what it is told"),
            Stage::Parked => Reason::with(CloseReason::Eof, "while it was served"),
            Stage::Linked(_) => Reason::with(CloseReason::Silent, "not even a keep-alive"),
            Stage::Stream { .. } => Reason::code(CloseReason::Timeout),
            Stage::Closing(ending) | Stage::Lingering(ending) => ending.reason.clone(),
        })
    }

    /// The time of its next deadline.
    pub(crate) fn next_deadline(&self) -> u64 {
        let write = if self.blocked { self.progress_at.saturating_add(self.write_timeout) } else { NEVER };
        let planned = self.switched().map_or(NEVER, |switched| {
            switched.keep_alive_at.min(switched.rtt_at).min(switched.impairment_check_at)
        });
        self.deadline.min(write).min(planned)
    }
}

/// A key that has connections on this shard.
#[derive(Debug)]
pub(crate) struct Local {
    /// Its connections. The last is the active one: the last to log in or to send.
    /// Empty only while the key's next connection is on its way here from another shard.
    pub(crate) connections: Connections,
    pub(crate) routes: crate::switchboard::route::Routes,
    /// The estimated set of keys that sent to it; present if senders are counted and there are any.
    pub(crate) senders: Option<Box<HyperLogLog>>,
}
