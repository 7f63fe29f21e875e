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
use crate::messages::{LoginInfo, Reason, Totals};
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

/// A time that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// What lies between the socket and the bytes that mean something.
pub(crate) enum Transport {
    Plain,
    Tls(Box<Session>),
}

impl Transport {
    /// The certificates of a node that we dialled, to be asked once; none where the other end dialled us.
    pub(crate) fn dialled_chain(&mut self) -> Option<Vec<Vec<u8>>> {
        match self {
            Self::Tls(session) => session.dialled_chain(),
            Self::Plain => None,
        }
    }

    /// Whether this is TLS for the check of an ACME server, and for nothing else.
    pub(crate) fn is_challenge(&self) -> bool {
        matches!(self, Self::Tls(session) if session.protocol() == Some(ACME_TLS_1))
    }

    /// "1.2" or "1.3", or none without TLS.
    pub(crate) fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Tls(session) => session.version(),
            Self::Plain => None,
        }
    }
}

/// Between whom a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
}

/// How a connection ends: why, and what it was until then.
#[derive(Clone, Debug)]
pub(crate) struct Ending {
    pub(crate) reason: Reason,
    /// Its key, if it was switched.
    pub(crate) key: Option<Key>,
    pub(crate) totals: Totals,
}

/// What a connection is doing.
#[derive(Debug)]
pub(crate) enum Stage {
    /// A proxy's word is being collected of whom it stands for; then comes TLS, or a request head.
    Proxy { tls: bool, per_ip: Option<u32> },
    /// A TLS client's first message is being collected; there is no session yet.
    ClientHello,
    /// TLS is being agreed on.
    Handshake,
    /// A request head is being collected; so many bytes of it hold no end.
    Head { scanned: usize },
    /// Python has the floor: nothing is read. There is a deadline only once the peer has said that it sends no more.
    Parked,
    /// One frame of at most so many payload bytes is being collected.
    Frame { most: usize },
    /// So many bytes are still to be handed over as they come; `unused` of those handed over were not used yet.
    Body { left: u64, unused: usize },
    /// Whatever comes is handed over; `unused` bytes of that were not used yet.
    Stream { unused: usize },
    /// Frames are relayed.
    Switched(Switched),
    /// We dialled this node: it announces its clients, and is sent what is for them.
    Linked(Linked),
    /// What is queued is written, then the connection ends.
    Closing(Ending),
    /// All is written and said; what still comes is thrown away, so that the answer is not lost to a reset.
    Lingering(Ending),
}

/// A logged-in connection's place in the region.
#[derive(Debug)]
pub(crate) struct Switched {
    pub(crate) member: LoginInfo,
    pub(crate) peer: Arc<Peer>,
    /// Index of its key in the shard's table of local keys.
    pub(crate) local: usize,
    /// Index of the route that its last packet took: most senders have few partners at a time.
    pub(crate) last_route: usize,
    pub(crate) totals: Totals,
    /// What it has yet to be told, if it watches.
    pub(crate) watch: Option<Box<Watch>>,
    pub(crate) since_ms: u64,
    pub(crate) keep_alive_at: u64,
    /// When its round trip is looked up next.
    pub(crate) rtt_at: u64,
    /// Its last `NotePreferred` said yes.
    pub(crate) home: bool,
    /// "Not here" answers that may still be sent.
    pub(crate) not_here: Bucket,
    /// What may still be read from it; present once it was limited.
    pub(crate) allowance: Option<Box<Allowance>>,
    /// Nothing is read from it before this time; 0 where it does not have to wait.
    pub(crate) throttled_until: u64,
    /// How it takes the active place of its key from others; present if it did of late.
    pub(crate) contest: Option<Box<DutyCycle>>,
    /// When it is looked whether it struggles.
    pub(crate) impairment_check_at: u64,
}

/// A link to another node of the region.
#[derive(Default, Debug)]
pub(crate) struct Linked {
    /// The keys that it has announced. Invariant: for each of them the switchboard knows this link as a forwarder.
    pub(crate) keys: HashSet<Key>,
    /// Whether it has announced any. A node that does not know our mesh key closes the connection instead.
    pub(crate) announced: bool,
}

/// One connection.
pub(crate) struct Conn<S> {
    pub(crate) stream: S,
    pub(crate) transport: Transport,
    /// "1.2" or "1.3" once TLS is agreed on.
    pub(crate) tls: Option<&'static str>,
    /// Present once the stream is framed as WebSocket.
    pub(crate) websocket: Option<Box<websocket::Decoder>>,
    pub(crate) stage: Stage,
    /// Payload bytes of a frame of no interest that are still to be thrown away.
    pub(crate) skip: usize,
    /// Bytes that came and have not been used: less than a frame when switched, what ran ahead when parked.
    pub(crate) input: Vec<u8>,
    /// Present while something waits for the socket.
    pub(crate) outbox: Option<Box<Outbox>>,
    /// The socket refused bytes and has not asked for more since. Invariant: then `outbox` is present.
    pub(crate) blocked: bool,
    /// Queued to be flushed at the end of the tick.
    pub(crate) dirty: bool,
    /// The queue of its shard in which it waits to be looked at.
    pub(crate) waits: Waits,
    /// It was looked at for as long as may be, and has bytes left that need no read.
    pub(crate) is_cut: bool,
    /// It ends as soon as its shard comes to that; nothing is read from it, and nothing more is queued for it.
    pub(crate) is_leaving: bool,
    /// Python waits to hear that all it wrote has left.
    pub(crate) tell_drained: bool,
    /// What epoll was told.
    pub(crate) interest: Interest,
    /// When the present stage has taken too long.
    pub(crate) deadline: u64,
    /// When the socket last took something, while blocked.
    pub(crate) progress_at: u64,
    /// How long a write may make no progress; [`NEVER`]: for ever.
    pub(crate) write_timeout: u64,
    /// When the earliest hint that the wheel holds for this connection comes up.
    pub(crate) armed_at: u64,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Where it came in; 0 where we dialled.
    pub(crate) listener: ListenerId,
    /// A proxy did not say for whom it is, so the addresses are those of the proxy's own connection.
    pub(crate) is_anonymous: bool,
    /// What it counts for; nothing where we dialled, or once it is switched where addresses are not counted.
    pub(crate) permit: Option<Box<Permit>>,
    /// What went over the socket so far.
    pub(crate) wire: Wire,
}

impl<S> Conn<S> {
    /// A connection that nothing has come from.
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

    /// Notes a step forward before login.
    pub(crate) fn step(&mut self, phase: Phase, now: u64) {
        if let Some(permit) = &mut self.permit {
            permit.step(phase, now);
        }
    }

    /// Counts the connection no more among those before login.
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

    /// Whether frames are what comes.
    pub(crate) fn speaks_derp(&self) -> bool {
        matches!(self.stage, Stage::Switched(_) | Stage::Linked(_))
    }

    pub(crate) fn switched_mut(&mut self) -> Option<&mut Switched> {
        match &mut self.stage {
            Stage::Switched(switched) => Some(switched),
            _ => None,
        }
    }

    /// What the connection waits for, as its stage says.
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

    /// What has taken too long, if anything has.
    pub(crate) fn overdue(&self, now: u64) -> Option<Reason> {
        if self.blocked && now >= self.progress_at.saturating_add(self.write_timeout) {
            return Some(Reason::with(
                "write_timeout",
                format!("no progress for {} ms", now - self.progress_at),
            ));
        }
        if now < self.deadline {
            return None;
        }
        Some(match &self.stage {
            Stage::Proxy { .. } => Reason::with("proxy_header", "no whole PROXY header in time"),
            Stage::ClientHello | Stage::Handshake => {
                Reason::with("setup_timeout", "the TLS handshake was not finished in time")
            }
            Stage::Head { .. } if self.input.is_empty() => Reason::code("idle"),
            Stage::Head { .. } => {
                let came = self.input.len();
                Reason::with(
                    "setup_timeout",
                    format!("the request head was not whole in time ({came} bytes)"),
                )
            }
            Stage::Frame { .. } => Reason::with("login_timeout", "no whole ClientInfo frame in time"),
            Stage::Body { .. } => Reason::with("setup_timeout", "the request body was not whole in time"),
            Stage::Switched(_) => Reason::with("unread", "it does not read what it is told"),
            Stage::Parked => Reason::with("eof", "while it was served"),
            Stage::Linked(_) => Reason::with("silent", "not even a keep-alive"),
            Stage::Stream { .. } => Reason::code("timeout"),
            Stage::Closing(ending) | Stage::Lingering(ending) => ending.reason.clone(),
        })
    }

    /// When its next deadline is.
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
    /// Its connections; the one that spoke last, or came last, is the last and the active one.
    /// Empty only while the key's next connection is on its way here from another shard.
    pub(crate) connections: Connections,
    pub(crate) routes: crate::switchboard::route::Routes,
    /// Who has sent to it, where that is counted and anybody has.
    pub(crate) senders: Option<Box<HyperLogLog>>,
}
