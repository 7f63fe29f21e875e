//! In-memory connections: the stream that a shard holds, and the readiness of all streams.
//!
//! Readiness is level-triggered, as epoll's is. Tests choose what a network would do to a stream: accept no bytes or a
//! few bytes, deliver a few bytes, end or break.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::seeded::Seeded;
use crate::id::ConnId;
use crate::io::epoll::{Interest, Net, Ready, Stream};
use crate::io::listener::{Listener, ListenerId};

/// The state of a connection as its party sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// Both directions are open.
    Open,
    /// The server has ended its direction, but still reads.
    Finished,
    /// The server has closed.
    Closed,
    /// The server has closed with bytes unread, for which a kernel sends a reset.
    Reset,
}

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) to_server: Vec<u8>,
    pub(super) to_party: Vec<u8>,
    /// Bytes that the direction to the party still takes; `None`: any number.
    pub(super) room: Option<usize>,
    /// Maximum bytes of one read.
    pub(super) piece: usize,
    /// Draws a new `piece` before each read.
    pub(super) chopped: Option<Seeded>,
    /// The party has ended its direction.
    pub(super) party_finished: bool,
    pub(super) party_reset: bool,
    server_finished: bool,
    server_closed: Option<Ending>,
}

impl Wire {
    pub(super) fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            to_server: Vec::new(),
            to_party: Vec::new(),
            room: None,
            piece: usize::MAX,
            chopped: None,
            party_finished: false,
            party_reset: false,
            server_finished: false,
            server_closed: None,
        }))
    }

    pub(super) fn ending(&self) -> Ending {
        self.server_closed.unwrap_or(if self.server_finished { Ending::Finished } else { Ending::Open })
    }

    /// The readiness that epoll would report for `interest`.
    fn readiness(&self, id: ConnId, interest: Interest) -> Option<Ready> {
        let read = interest.read && (!self.to_server.is_empty() || self.party_finished || self.party_reset);
        let write = interest.write && (self.room != Some(0) || self.party_reset);
        let broken = self.party_reset || (self.party_finished && self.server_finished);
        let hangup = interest.hangup && (self.party_finished || self.party_reset);
        (read || write || hangup || broken).then_some(Ready::Conn { id, read, write, hangup, broken })
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shard's end of a connection.
#[derive(Debug)]
pub(crate) struct End(Arc<Mutex<Wire>>);

impl Drop for End {
    fn drop(&mut self) {
        let mut wire = lock(&self.0);
        let unread = !wire.to_server.is_empty();
        wire.server_closed = Some(if unread { Ending::Reset } else { Ending::Closed });
    }
}

impl Stream for End {
    fn local(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 443)))
    }

    fn rtt(&self) -> io::Result<Duration> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut wire = lock(&self.0);
        if wire.party_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if wire.to_server.is_empty() {
            return if wire.party_finished { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        let there = wire.to_server.len();
        if let Some(seeded) = &mut wire.chopped {
            wire.piece = 1 + seeded.below(there);
        }
        let len = buffer.len().min(there).min(wire.piece);
        buffer[..len].copy_from_slice(&wire.to_server[..len]);
        wire.to_server.drain(..len);
        Ok(len)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut wire = lock(&self.0);
        if wire.party_reset || wire.server_finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let taken = wire.room.map_or(offered, |room| room.min(offered));
        if taken == 0 && offered > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(room) = &mut wire.room {
            *room -= taken;
        }
        let before = wire.to_party.len();
        for slice in slices {
            wire.to_party.extend_from_slice(slice);
        }
        wire.to_party.truncate(before + taken);
        Ok(taken)
    }

    fn finish(&mut self) {
        lock(&self.0).server_finished = true;
    }
}

/// A connection that a shard may accept.
pub(super) struct Waiting {
    pub(super) wire: Arc<Mutex<Wire>>,
    pub(super) from: SocketAddr,
    pub(super) tls: bool,
    /// The shard that the kernel wakes for it.
    pub(super) shard: usize,
}

/// Connections that no shard has accepted yet.
pub(super) type Backlog = Arc<Mutex<Vec<Waiting>>>;

struct Watched {
    wire: Weak<Mutex<Wire>>,
    id: ConnId,
    interest: Interest,
}

/// All connections and listeners, as one shard sees them.
pub(super) struct Wires {
    shard: usize,
    backlog: Backlog,
    listeners: Vec<(ListenerId, Arc<Listener>)>,
    watched: Vec<Watched>,
}

impl Wires {
    pub(super) fn new(shard: usize, backlog: Backlog) -> Self {
        Self { shard, backlog, listeners: Vec::new(), watched: Vec::new() }
    }

    /// Returns everything that is ready.
    pub(super) fn ready(&mut self) -> Vec<Ready> {
        // A closed stream is not watched any more, as with the kernel.
        self.watched
            .retain(|watched| watched.wire.upgrade().is_some_and(|wire| lock(&wire).server_closed.is_none()));
        let backlog = lock(&self.backlog);
        let listeners = self.listeners.iter().filter(|(_, listener)| {
            backlog.iter().any(|waiting| waiting.shard == self.shard && waiting.tls == listener.tls)
        });
        let conns = self
            .watched
            .iter()
            .filter_map(|watched| lock(&*watched.wire.upgrade()?).readiness(watched.id, watched.interest));
        listeners.map(|(id, _)| Ready::Listener(*id)).chain(conns).collect()
    }

    fn find(&mut self, stream: &End) -> Option<usize> {
        let wire = Arc::downgrade(&stream.0);
        self.watched.iter().position(|watched| watched.wire.ptr_eq(&wire))
    }
}

impl Net for Wires {
    type Stream = End;

    fn listen(&mut self, id: ListenerId, listener: &Arc<Listener>) -> io::Result<()> {
        self.listeners.push((id, Arc::clone(listener)));
        Ok(())
    }

    fn unlisten(&mut self, listener: &Listener) {
        self.listeners.retain(|(_, known)| !std::ptr::eq(&**known, listener));
    }

    fn accept(&mut self, listener: &Listener) -> io::Result<(End, SocketAddr)> {
        let mut backlog = lock(&self.backlog);
        let mine = |waiting: &Waiting| waiting.shard == self.shard && waiting.tls == listener.tls;
        let Some(at) = backlog.iter().position(mine) else { return Err(io::ErrorKind::WouldBlock.into()) };
        let waiting = backlog.remove(at);
        Ok((End(waiting.wire), waiting.from))
    }

    fn spare_descriptors(&self) -> usize {
        usize::MAX
    }

    fn take_over(&mut self, _: OwnedFd) -> io::Result<End> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn add(&mut self, stream: &End, id: ConnId, interest: Interest) -> io::Result<()> {
        if self.find(stream).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.watched.push(Watched { wire: Arc::downgrade(&stream.0), id, interest });
        Ok(())
    }

    fn change(&mut self, stream: &End, id: ConnId, interest: Interest) -> io::Result<()> {
        let at = self.find(stream).ok_or(io::ErrorKind::NotFound)?;
        (self.watched[at].id, self.watched[at].interest) = (id, interest);
        Ok(())
    }

    fn remove(&mut self, stream: &End) -> io::Result<()> {
        let at = self.find(stream).ok_or(io::ErrorKind::NotFound)?;
        self.watched.remove(at);
        Ok(())
    }
}
