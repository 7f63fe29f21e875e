//! New connections: accepted from listeners, or dialled to other nodes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::id::ConnId;
use crate::io::epoll::{Interest, Net, Stream};
use crate::io::listener::{Listener, ListenerId};
use crate::messages::{CloseReason, Command, Event, Reason};
use crate::shard::conn::{Conn, Ends, NEVER, Stage, Transport};
use crate::tls::session::Session;

use super::Shard;

/// Milliseconds without accepting after the system had no descriptor or memory for a connection.
const ACCEPT_PAUSE: u64 = 1_000;
/// Milliseconds without accepting while too many events wait for Python.
const BACKLOG_PAUSE: u64 = 50;
/// Events waiting for Python above which nothing more is accepted.
const EVENT_BACKLOG: usize = 32_768;
/// Connections accepted in one tick.
const ACCEPTS_A_TICK: usize = 32;
/// Maximum milliseconds without accepting while no pending connection may be evicted: a place may become free.
const ROOM_PAUSE: u64 = 50;
/// Milliseconds without accepting after connections of other shards were evicted for lack of descriptors.
const EVICTION_PAUSE: u64 = 5;
/// Connections evicted at once for lack of descriptors: the other shards close them one after the other.
const EVICTIONS_AT_ONCE: usize = 8;

impl<N: Net> Shard<N> {
    pub(super) fn listen(&mut self, id: ListenerId, listener: Arc<Listener>) {
        let watched = self.net.listen(id, &listener);
        // The listener is kept even if it cannot be watched now, because the shard tries again later.
        self.listeners.insert(id, listener);
        if let Err(error) = watched {
            self.accept_failed(&error);
        }
    }

    pub(super) fn unlisten(&mut self, id: ListenerId) {
        if let Some(listener) = self.listeners.remove(&id) {
            self.net.unlisten(&listener);
        }
    }

    pub(super) fn accept(&mut self, id: ListenerId) {
        if self.shared.events.len() > EVENT_BACKLOG {
            return self.pause_accepting(BACKLOG_PAUSE);
        }
        let Some(listener) = self.listeners.get(&id).cloned() else { return };
        let mut spare = self.net.spare_descriptors();
        if spare == 0 {
            let Some(evicted) = self.evict_for_descriptors() else {
                // New connections wait in the kernel until there is room again.
                return self.accept_failed(&io::Error::from(rustix::io::Errno::MFILE));
            };
            spare = evicted;
            if spare == 0 {
                return self.pause_accepting(EVICTION_PAUSE);
            }
        }
        for _ in 0..ACCEPTS_A_TICK.min(spare) {
            if let Some(until) = self.shared.limiter.must_wait(self.now) {
                return self.pause_accepting(until.saturating_sub(self.now).clamp(1, ROOM_PAUSE));
            }
            match self.net.accept(&listener) {
                Ok((stream, remote)) => {
                    let is_proxy = listener.proxies.iter().any(|network| network.contains(remote.ip()));
                    let mut permit = self.shared.limiter.permit();
                    if let Some(most) = listener.per_ip
                        && !is_proxy
                        && !permit.come_from(remote.ip(), most)
                    {
                        self.counters().connections_rejected_per_ip.add(1);
                        continue;
                    }
                    if !listener.admits(self.now) {
                        self.counters().tls_connections_rejected.add(1);
                        continue;
                    }
                    if listener.tls {
                        self.counters().tls_connections_accepted.add(1);
                    }
                    // This fails for a connection that was reset meanwhile.
                    let Ok(local) = stream.local() else { continue };
                    let stage = match listener.tls {
                        tls if is_proxy => Stage::Proxy { tls, per_ip: listener.per_ip },
                        true => Stage::ClientHello,
                        false => Stage::Head { scanned: 0 },
                    };
                    let mut conn = Conn::new(stream, stage, Ends { remote, local }, id);
                    conn.permit = Some(permit);
                    let id = self.watch(conn);
                    let stands_for_many =
                        is_proxy || listener.trusted.iter().any(|network| network.contains(remote.ip()));
                    self.take_place(id, (!stands_for_many).then(|| remote.ip()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The connection was aborted before it was accepted.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return self.accept_failed(&error),
            }
        }
    }

    /// Counts a pending connection. If there are too many now, another one is evicted.
    fn take_place(&mut self, id: ConnId, ip: Option<IpAddr>) {
        let now = self.now;
        let permit = self.conns.get_mut(id).and_then(|conn| conn.permit.as_mut());
        if let Some(victim) = permit.and_then(|permit| permit.enter(id, ip, now)) {
            self.evict(victim);
        }
    }

    /// Evicts pending connections because no descriptor is left. Returns the number of free descriptors afterwards.
    /// `None`: no connection may be evicted.
    fn evict_for_descriptors(&mut self) -> Option<usize> {
        let mut spare = None;
        for _ in 0..EVICTIONS_AT_ONCE {
            let Some(victim) = self.shared.limiter.evict(self.now) else { break };
            self.evict(victim);
            spare = Some(self.net.spare_descriptors());
            if spare > Some(0) {
                break;
            }
        }
        spare
    }

    /// Closes a connection that the limiter chose for eviction, on the shard where it lives.
    fn evict(&mut self, victim: ConnId) {
        if victim.shard() == self.index {
            self.end_evicted(victim);
        } else {
            self.shared.submit_to(victim.shard(), [Command::Evict(victim)]);
        }
    }

    /// Closes an evicted connection, unless it has logged in meanwhile.
    pub(super) fn end_evicted(&mut self, id: ConnId) {
        if self.conns.get(id).is_some_and(|conn| !conn.is_derp()) {
            self.counters().connections_evicted.add(1);
            self.finish(
                id,
                Reason::with(CloseReason::Evicted, "to make room: too many connections had not logged in"),
            );
        }
    }

    /// Stops accepting for a while: there are no descriptors or no memory, and further attempts would only use CPU
    /// time.
    fn accept_failed(&mut self, error: &io::Error) {
        self.pause_accepting(ACCEPT_PAUSE);
        self.events.push(Event::AcceptFailed { shard: self.index, error: error.to_string() });
    }

    fn pause_accepting(&mut self, pause: u64) {
        for listener in self.listeners.values() {
            self.net.unlisten(listener);
        }
        self.accept_again_at = self.now + pause;
    }

    pub(super) fn accept_again(&mut self) {
        self.accept_again_at = NEVER;
        let paused: Vec<_> = self.listeners.drain().collect();
        for (id, listener) in paused {
            self.listen(id, listener);
        }
    }

    /// Begins the TLS handshake, as a client, with another node.
    pub(super) fn dial(&mut self, token: u64, socket: OwnedFd, remote: SocketAddr, session: Box<Session>) {
        let mut id = ConnId::NONE;
        match self.net.take_over(socket) {
            Ok(stream) => {
                let local = stream.local().unwrap_or(remote);
                let mut conn = Conn::new(stream, Stage::Handshake, Ends { remote, local }, 0);
                conn.transport = Transport::Tls(session);
                id = self.watch(conn);
            }
            Err(error) => self.accept_failed(&error),
        }
        self.events.push(Event::Dialled { token, conn: id });
        // The client writes first.
        self.in_a_slice(|shard| {
            let result = shard.begin_handshake(id, Vec::new());
            shard.conclude(id, result);
        });
    }

    fn watch(&mut self, mut conn: Conn<N::Stream>) -> ConnId {
        let settings = &self.shared.settings;
        conn.deadline = self.now + settings.setup_timeout;
        conn.write_timeout = settings.setup_timeout;
        conn.interest = Interest { read: true, ..Interest::default() };
        let id = self.conns.insert(Box::new(conn));
        let watched = self.conns.get(id).map_or(Ok(()), |conn| self.net.add(&conn.stream, id, conn.interest));
        if let Err(error) = watched {
            self.conns.remove(id);
            self.accept_failed(&error);
            return ConnId::NONE;
        }
        self.arm(id);
        id
    }
}
