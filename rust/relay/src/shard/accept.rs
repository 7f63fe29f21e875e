//! Connections in: taken from listeners, or dialled to other nodes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::conn::{Conn, Ends, NEVER, Stage, Transport};
use crate::id::ConnId;
use crate::net::{Interest, Net, Stream};
use crate::seam::{Event, Listener, ListenerId};
use crate::tls::Session;

use super::Shard;

/// How long nothing is accepted after the system had no descriptor or memory for a connection.
const ACCEPT_PAUSE: u64 = 1_000;
/// How long nothing is accepted while Python has too much to read already.
const BACKLOG_PAUSE: u64 = 50;
/// Events that may wait for Python before nothing more is accepted.
const EVENT_BACKLOG: usize = 32_768;
/// Connections accepted in one tick.
const ACCEPTS_A_TICK: usize = 32;

impl<N: Net> Shard<N> {
    pub(super) fn listen(&mut self, id: ListenerId, listener: Arc<Listener>) {
        let watched = self.net.listen(id, &listener);
        // Kept even if it cannot be watched now: it is tried again.
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
        let spare = self.net.spare_descriptors();
        if spare == 0 {
            // Those who wait are the kernel's until there is room again.
            return self.accept_failed(&io::Error::from(rustix::io::Errno::MFILE));
        }
        for _ in 0..ACCEPTS_A_TICK.min(spare) {
            match self.net.accept(&listener) {
                Ok((stream, remote)) => {
                    let is_proxy = listener.proxies.iter().any(|network| network.contains(remote.ip()));
                    let Some(mut seat) = self.shared.crowd.admit() else {
                        self.counters().connections_rejected_introducing.add(1);
                        continue;
                    };
                    if let Some(most) = listener.per_ip
                        && !is_proxy
                        && !seat.come_from(remote.ip(), most)
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
                    // Fails for one that was reset meanwhile.
                    let Ok(local) = stream.local() else { continue };
                    let stage = match listener.tls {
                        tls if is_proxy => Stage::Proxy { tls, per_ip: listener.per_ip },
                        true => Stage::Hello,
                        false => Stage::Head { scanned: 0 },
                    };
                    let mut conn = Conn::new(stream, stage, Ends { remote, local }, id);
                    conn.seat = Some(seat);
                    self.introduce(conn);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Whoever was next in line has given up already.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return self.accept_failed(&error),
            }
        }
    }

    /// Stops accepting for a while: no descriptors or no memory, and polling on would only burn time.
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

    /// Shakes hands, as a client, with another node.
    pub(super) fn dial(&mut self, token: u64, socket: OwnedFd, remote: SocketAddr, session: Box<Session>) {
        let mut id = ConnId::NOBODY;
        match self.net.take_over(socket) {
            Ok(stream) => {
                let local = stream.local().unwrap_or(remote);
                let mut conn = Conn::new(stream, Stage::Handshake, Ends { remote, local }, 0);
                conn.transport = Transport::Tls(session);
                id = self.introduce(conn);
            }
            Err(error) => self.accept_failed(&error),
        }
        self.events.push(Event::Dialled { token, conn: id });
        // The client speaks first.
        self.in_a_slice(|shard| {
            let result = shard.greet(id, Vec::new());
            shard.conclude(id, result);
        });
    }

    fn introduce(&mut self, mut conn: Conn<N::Stream>) -> ConnId {
        let settings = &self.shared.settings;
        conn.deadline = self.now + settings.setup_timeout;
        conn.write_timeout = settings.setup_timeout;
        conn.interest = Interest { read: true, ..Interest::default() };
        let id = self.conns.insert(Box::new(conn));
        let watched = self.conns.get(id).map_or(Ok(()), |conn| self.net.add(&conn.stream, id, conn.interest));
        if let Err(error) = watched {
            self.conns.remove(id);
            self.accept_failed(&error);
            return ConnId::NOBODY;
        }
        self.arm(id);
        id
    }
}
