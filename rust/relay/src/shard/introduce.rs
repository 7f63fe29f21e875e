//! From a request head to the switch: what Python decides, step by step.

use std::sync::Arc;

use crate::bucket::Bucket;
use crate::conn::{Conn, Local, NEVER, Stage, Switched};
use crate::connections::Connections;
use crate::frame::read_header;
use crate::id::ConnId;
use crate::net::Net;
use crate::pending::Phase;
use crate::proxy;
use crate::route::Routes;
use crate::seam::{Event, Member, Reason, Role, Totals};

use super::{Errand, Shard, receive};

/// How much of what came behind a head goes with it: a client's login, which it sends right behind if it can.
const AHEAD: usize = 1_024;
/// How long a peer that sends no more is served.
const HANGUP_PAUSE: u64 = 5_000;

impl<N: Net> Shard<N> {
    /// The TLS handshake is done: a client sends its request head, of a node that we dialled Python wants to know.
    pub(super) fn shake_hands(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.tls = conn.transport.tls_version();
        conn.step(Phase::Waiting, self.now);
        if conn.transport.is_challenge() {
            // An ACME server has seen what it came for.
            return self.close(id, Reason::code("acme_challenge"));
        }
        match conn.transport.dialled_chain() {
            None => conn.stage = Stage::Head { scanned: 0 },
            Some(chain) => {
                self.park(id);
                self.events.push(Event::Connected { conn: id, chain });
            }
        }
    }

    /// Notes a step forward of a connection before login.
    pub(super) fn step(&mut self, id: ConnId, phase: Phase) {
        let now = self.now;
        if let Some(conn) = self.conns.get_mut(id) {
            conn.step(phase, now);
        }
    }

    pub(super) fn await_head(&mut self, id: ConnId) {
        if self.is_parked(id) {
            self.enter(id, Stage::Head { scanned: 0 }, self.shared.settings.setup_timeout);
            self.step(id, Phase::Waiting);
            self.resume(id);
        }
    }

    pub(super) fn await_frame(&mut self, id: ConnId, most: usize) {
        if self.is_parked(id) {
            self.enter(id, Stage::Frame { most }, self.shared.settings.login_timeout);
            self.step(id, Phase::Waiting);
            self.resume(id);
        }
    }

    pub(super) fn await_body(&mut self, id: ConnId, left: u64) {
        if self.is_parked(id) {
            self.enter(id, Stage::Body { left, unused: 0 }, self.shared.settings.setup_timeout);
            self.step(id, Phase::Waiting);
            self.resume(id);
        }
    }

    /// Everything that comes is Python's, until the connection ends; how long it may take is for both ends to say.
    pub(super) fn stream(&mut self, id: ConnId) {
        if self.is_parked(id) {
            self.enter(id, Stage::Stream { unused: 0 }, NEVER);
            if let Some(conn) = self.conns.get_mut(id) {
                conn.write_timeout = NEVER;
                // The caller, which asked for the stream, limits their number.
                conn.settle_in();
            }
            self.resume(id);
        }
    }

    pub(super) fn consumed(&mut self, id: ConnId, len: usize) {
        if let Some(Conn { stage: Stage::Body { unused, .. } | Stage::Stream { unused }, .. }) =
            self.conns.get_mut(id).map(Box::as_mut)
        {
            *unused = unused.saturating_sub(len);
            self.settle(id);
        }
    }

    pub(super) fn skip(&mut self, id: ConnId, len: usize) {
        if self.is_parked(id)
            && let Some(conn) = self.conns.get_mut(id)
        {
            conn.input.drain(..len.min(conn.input.len()));
        }
    }

    /// The peer of a connection that is not read sends no more. What it asked for is still written, for a while: it
    /// may read on, as programs do that end their request so. If not, whoever writes hears of its end in time.
    pub(super) fn hang_up(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && matches!(conn.stage, Stage::Parked)
        {
            conn.deadline = conn.deadline.min(self.now + HANGUP_PAUSE);
            self.settle(id);
        }
    }

    /// The same, said through TLS behind the last bytes that were read.
    pub(super) fn end_of_stream(&mut self, id: ConnId) -> Result<(), Reason> {
        if !self.is_parked(id) {
            return Err(Reason::code("eof"));
        }
        self.hang_up(id);
        Ok(())
    }

    pub(super) fn is_parked(&self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(|conn| matches!(conn.stage, Stage::Parked) && !conn.is_leaving)
    }

    /// Goes on with what came while the connection was parked.
    pub(super) fn resume(&mut self, id: ConnId) {
        self.in_a_slice(|shard| {
            let result = shard.advance(id);
            shard.conclude(id, result);
        });
    }

    /// Does what the stage says with the bytes that are there, until they do not suffice.
    pub(super) fn advance(&mut self, id: ConnId) -> Result<(), Reason> {
        let max_head = self.shared.settings.max_head;
        let Some(conn) = self.conns.get_mut(id).filter(|conn| !conn.is_leaving) else { return Ok(()) };
        match &mut conn.stage {
            Stage::Head { scanned } => {
                let end = end_of_head(&conn.input, *scanned);
                let (remote, local, listener, tls) = (conn.remote, conn.local, conn.listener, conn.tls);
                let is_anonymous = conn.is_anonymous;
                if *scanned == 0 && conn.tls.is_none() && proxy::begins(&conn.input) == Some(true) {
                    self.refuse_proxy_header(id);
                } else if end.unwrap_or(conn.input.len()) > max_head {
                    self.park(id);
                    self.events.push(Event::HeadTooLarge { conn: id, remote, listener });
                } else if let Some(end) = end {
                    let head = receive::take_front(&mut conn.input, end);
                    let ahead = conn.input[..conn.input.len().min(AHEAD)].to_vec();
                    self.park(id);
                    self.events.push(Event::Head {
                        conn: id,
                        head,
                        ahead,
                        remote,
                        is_anonymous,
                        local,
                        listener,
                        tls,
                    });
                } else {
                    // The end may begin in the last three bytes.
                    *scanned = conn.input.len().saturating_sub(3);
                }
            }
            Stage::Frame { most } => {
                let Some((kind, len)) = read_header(&conn.input) else { return Ok(()) };
                if len > *most {
                    let detail =
                        format!("login frame (type {kind:#04x}) of {len} payload bytes, at most {most}");
                    // It may have come with the request, whose answer is not written yet.
                    self.flush(id);
                    return Err(Reason::with("login_failed", detail));
                }
                let whole = crate::frame::HEADER + len;
                if conn.input.len() >= whole {
                    let mut frame = receive::take_front(&mut conn.input, whole);
                    let payload = frame.split_off(crate::frame::HEADER);
                    self.park(id);
                    self.events.push(Event::Frame { conn: id, kind, payload });
                }
            }
            Stage::Body { left, unused } => {
                let len = conn.input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                if len > 0 {
                    *left -= len as u64;
                    *unused += len;
                    let (all, bytes) = (*left == 0, receive::take_front(&mut conn.input, len));
                    if all {
                        self.park(id);
                    }
                    self.events.push(Event::Data { conn: id, bytes });
                }
            }
            Stage::Stream { unused } => {
                if !conn.input.is_empty() {
                    *unused += conn.input.len();
                    let bytes = std::mem::take(&mut conn.input);
                    self.events.push(Event::Data { conn: id, bytes });
                }
            }
            Stage::Proxy { tls, per_ip } => {
                let (tls, per_ip) = (*tls, *per_ip);
                return self.read_proxy_header(id, tls, per_ip);
            }
            Stage::Hello => return self.answer_hello(id),
            Stage::Switched(switched) if switched.throttled_until > 0 => {}
            Stage::Switched(_) | Stage::Linked(_) => return self.relay_input(id),
            Stage::Lingering(_) => conn.input = Vec::new(),
            Stage::Handshake | Stage::Parked | Stage::Closing(_) => {}
        }
        Ok(())
    }

    /// Gives Python the floor.
    fn park(&mut self, id: ConnId) {
        self.enter(id, Stage::Parked, NEVER);
        self.step(id, Phase::Served);
        self.settle(id);
    }

    /// The login is done: the connection moves to its key's shard and relays from there on.
    pub(super) fn switch(&mut self, id: ConnId, member: Member, first: &[u8]) {
        if !self.is_parked(id) {
            return;
        }
        self.control(id, first);
        let settings = &self.shared.settings;
        let write_timeout = match member.role {
            Role::Client if settings.write_timeout == 0 => NEVER,
            Role::Client => settings.write_timeout,
            Role::MeshPeer => settings.mesh_write_timeout,
        };
        let shared = Arc::clone(&self.shared);
        let peer = shared.switchboard.claim(&member.key, |near| shared.place(near));
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.write_timeout = write_timeout;
        conn.deadline = NEVER;
        conn.remote = member.remote;
        conn.settle_in();
        conn.stage = Stage::Switched(Switched {
            member,
            peer: Arc::clone(&peer),
            local: usize::MAX,
            last_route: 0,
            totals: Totals::default(),
            watch: None,
            since_ms: self.now,
            keep_alive_at: NEVER,
            rtt_at: NEVER,
            home: false,
            not_here: Bucket::full(),
            allowance: None,
            throttled_until: 0,
            contest: None,
            strained_at: NEVER,
        });
        let shard = peer.shard();
        if shard == self.index {
            self.register(id, id);
        } else if let Some(conn) = self.remove(id) {
            // Watched until now, and the descriptor is open: this cannot fail.
            let _ = self.net.remove(&conn.stream);
            self.outgoing[shard].errands.push(Errand::Adopt(conn, id));
        }
    }

    /// Takes over a connection that was introduced on another shard.
    pub(super) fn adopt(&mut self, mut conn: Box<Conn<N::Stream>>, old: ConnId) {
        conn.dirty = false;
        conn.waits = super::Waits::No;
        conn.armed_at = NEVER;
        conn.interest = conn.wanted(super::BODY_CREDIT);
        // The other shard may have read the clock later than this one.
        conn.progress_at = conn.progress_at.min(self.now);
        if let Some(switched) = conn.switched_mut() {
            switched.since_ms = self.now;
        }
        let (key, remote) = (conn.switched().map(|switched| switched.member.key), conn.remote);
        if let Some(outbox) = &mut conn.outbox {
            outbox.recount(&mut self.queued);
        }
        let id = self.conns.insert(conn);
        let watched = self.conns.get(id).map_or(Ok(()), |conn| self.net.add(&conn.stream, id, conn.interest));
        if let Err(error) = watched {
            self.remove(id);
            if let Some(key) = key {
                self.unregister(id, &key, 0);
            }
            let reason = Reason::with("no_resources", error.to_string());
            self.events.push(Event::Closed { conn: old, remote, key, reason, totals: Totals::default() });
            return;
        }
        self.register(id, old);
    }

    /// Makes a connection the active one of its key, and goes on with what ran ahead of the switch.
    fn register(&mut self, id: ConnId, old: ConnId) {
        let free = self.free_locals.last().copied().unwrap_or(self.locals.len());
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        let (key, presence) = (switched.member.key, Arc::clone(&switched.member.presence));
        let local = self.local_by_key.get(&key).copied().unwrap_or(free);
        switched.local = local;
        self.shared.switchboard.arrive(&key, id, presence);
        if let Some(Some(entry)) = self.locals.get(local) {
            if !entry.connections.is_empty() {
                self.counters().total_dup_client_conns.add(1);
            }
        } else {
            let routes = Routes::default();
            let entry = Some(Local { connections: Connections::default(), routes, senders: None });
            match self.free_locals.pop() {
                Some(index) => self.locals[index] = entry,
                None => self.locals.push(entry),
            }
            self.local_by_key.insert(key, local);
        }
        if let Some(entry) = &mut self.locals[local] {
            entry.connections.push(id);
        }
        self.announce(&key);
        self.events.push(Event::Switched { conn: old, member: id });
        self.count_in(id);
        self.plan_keep_alive(id);
        self.mark_dirty(id);
        self.settle(id);
        self.resume(id);
    }
}

/// Where the first request head in `input` ends, its blank line included, if it ends; bytes before `from` hold no end.
///
/// Lines may end in a bare line feed, as HTTP servers have always taken them; Python judges the rest.
fn end_of_head(input: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += input.get(at..)?.iter().position(|byte| *byte == b'\n')? + 1;
        match input.get(at..)? {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::end_of_head;

    #[test]
    fn a_head_ends_with_its_first_blank_line() {
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest", 0), Some(24));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\n\nrest", 0), Some(16));
        assert_eq!(end_of_head(b"GET / HTTP/1.1\r\nA: b\r\n", 0), None);
        assert_eq!(end_of_head(b"", 0), None);
    }

    #[test]
    fn a_head_fed_byte_by_byte_ends_at_the_same_place() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut scanned = 0;
        for len in 1..head.len() {
            assert_eq!(end_of_head(&head[..len], scanned), None, "after {len} bytes");
            scanned = len.saturating_sub(3);
        }
        assert_eq!(end_of_head(head, scanned), Some(head.len()));
    }
}
