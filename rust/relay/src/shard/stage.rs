//! The stages of a connection before login: request head, login frame, request body, stream, parked.
//!
//! Python chooses the next stage of a parked connection; the bytes that have come decide when the stage ends.

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::limits::pending::Phase;
use crate::messages::{CloseReason, Event, Reason};
use crate::shard::conn::{Conn, NEVER, Stage};
use crate::wire::frame::read_header;
use crate::wire::proxy;

use super::{Shard, receive};

/// Bytes after a request head that `Event::Head` carries. A client that can do so sends its login right after the head.
const AHEAD: usize = 1_024;
/// Milliseconds for which a peer is served after it has closed its sending side.
const HANGUP_PAUSE: u64 = 5_000;

impl<N: Net> Shard<N> {
    /// Ends the TLS handshake: a client's request head comes next; a node that we dialled is reported to Python.
    pub(super) fn end_handshake(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.tls = conn.transport.tls_version();
        conn.step(Phase::Waiting, self.now);
        if conn.transport.is_challenge() {
            // The ACME server has validated the challenge.
            return self.close(id, Reason::code(CloseReason::AcmeChallenge));
        }
        match conn.transport.dialled_chain() {
            None => conn.stage = Stage::Head { scanned: 0 },
            Some(chain) => {
                self.park(id);
                self.events.push(Event::Connected { conn: id, chain });
            }
        }
    }

    /// Records the progress of a connection before login.
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

    /// Passes all bytes to Python until the connection ends. There is no deadline: both ends set their own.
    pub(super) fn stream(&mut self, id: ConnId) {
        if self.is_parked(id) {
            self.enter(id, Stage::Stream { unused: 0 }, NEVER);
            if let Some(conn) = self.conns.get_mut(id) {
                conn.write_timeout = NEVER;
                // The caller limits the number of streams.
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

    /// Handles the end of the peer's stream while the connection is parked. Its answer is still written, for a while:
    /// programs that end their request this way go on reading. If the peer is gone, a write reports it.
    pub(super) fn hang_up(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id)
            && matches!(conn.stage, Stage::Parked)
        {
            conn.deadline = conn.deadline.min(self.now + HANGUP_PAUSE);
            self.settle(id);
        }
    }

    /// Handles the end of the peer's stream as TLS reports it, after the last bytes.
    pub(super) fn end_of_stream(&mut self, id: ConnId) -> Result<(), Reason> {
        if !self.is_parked(id) {
            return Err(Reason::code(CloseReason::Eof));
        }
        self.hang_up(id);
        Ok(())
    }

    pub(super) fn is_parked(&self, id: ConnId) -> bool {
        self.conns.get(id).is_some_and(|conn| matches!(conn.stage, Stage::Parked) && !conn.is_leaving)
    }

    /// Handles bytes that came while the connection was parked.
    pub(super) fn resume(&mut self, id: ConnId) {
        self.in_a_slice(|shard| {
            let result = shard.advance(id);
            shard.conclude(id, result);
        });
    }

    /// Handles the bytes received so far by the connection's stage, until more are needed.
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
                    // The frame may have come with the request, whose answer is not written yet.
                    self.flush(id);
                    return Err(Reason::with(CloseReason::LoginFailed, detail));
                }
                let whole = crate::wire::frame::HEADER + len;
                if conn.input.len() >= whole {
                    let mut frame = receive::take_front(&mut conn.input, whole);
                    let payload = frame.split_off(crate::wire::frame::HEADER);
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
            Stage::ClientHello => return self.answer_hello(id),
            Stage::Switched(switched) if switched.throttled_until > 0 => {}
            Stage::Switched(_) | Stage::Linked(_) => return self.relay_input(id),
            Stage::Lingering(_) => conn.input = Vec::new(),
            Stage::Handshake | Stage::Parked | Stage::Closing(_) => {}
        }
        Ok(())
    }

    /// Stops reading until Python chooses the next stage.
    fn park(&mut self, id: ConnId) {
        self.enter(id, Stage::Parked, NEVER);
        self.step(id, Phase::Served);
        self.settle(id);
    }
}

/// Returns the length of the first request head in `input`, with its blank line; the bytes before `from` hold no end.
///
/// A line may end in a bare line feed, as HTTP servers have always accepted. Python checks the rest of the head.
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
