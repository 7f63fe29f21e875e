//! Bytes in: from the socket, through TLS, to the connection's stage.

use crate::id::ConnId;
use crate::io::epoll::{Net, Stream};
use crate::messages::{CloseReason, Reason, Role};
use crate::shard::conn::{Conn, NEVER, Stage, Transport};
use crate::tls::session::{MAX_PARTIAL, Progress};
use crate::wire::frame::{self, BadFrame, HEADER, Writer};
use crate::wire::websocket::{self, Flow};

use super::turn::{BYTES_SHIFT, FRAME, READ};
use super::{BODY_CREDIT, READ_BUDGET, Shard};

/// Bytes of room before the plaintext, for the held part of a frame.
const HELD: usize = HEADER + 2 * frame::KEY + frame::MAX_PACKET;

/// Buffers for one read; lent to the function that reads.
#[derive(Default)]
pub(super) struct Buffers {
    /// Ciphertext, after the rest of the last TLS record.
    sealed: Vec<u8>,
    /// Plaintext, after [`HELD`] bytes.
    plain: Vec<u8>,
}

impl Buffers {
    pub(super) fn new() -> Self {
        const SEALED: usize = MAX_PARTIAL + READ_BUDGET;
        Self { sealed: vec![0; SEALED], plain: vec![0; HELD + SEALED] }
    }
}

impl<N: Net> Shard<N> {
    /// Handles an error of the socket, which a read returns.
    pub(super) fn broken(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.interest.read {
            self.note_ready(id);
        } else {
            // The connection is not read, so nothing would return the error, and epoll would report it forever.
            self.finish(id, Reason::code(CloseReason::Reset));
        }
    }

    /// Handles input that was left when the connection's slice ran out.
    pub(super) fn resume_cut(&mut self, id: ConnId) -> Result<(), Reason> {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.is_cut && conn.interest.read) else {
            return Ok(());
        };
        if conn.is_derp() && self.congested {
            return Ok(());
        }
        conn.is_cut = false;
        self.advance(id)?;
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.wanted(BODY_CREDIT).read) else {
            return Ok(());
        };
        let Transport::Tls(session) = &mut conn.transport else { return Ok(()) };
        if !session.is_cut() {
            return Ok(());
        }
        if self.turn.is_slice_over() {
            conn.is_cut = true;
            return Ok(());
        }
        let mut buffers = std::mem::take(&mut self.buffers);
        let len = session.partial().len();
        buffers.sealed[..len].copy_from_slice(session.partial());
        let result = self.decrypt(id, &mut buffers.sealed[..len], &mut buffers.plain);
        self.buffers = buffers;
        result
    }

    /// Reads a connection that has bytes, its end, or an error.
    pub(super) fn readable(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(id).filter(|conn| conn.interest.read && !conn.is_leaving) else {
            return;
        };
        match conn.stage {
            Stage::Switched(_) | Stage::Linked(_) if self.congested => return self.settle(id),
            Stage::ClientHello | Stage::Handshake if self.handshakes_left == 0 => {
                return self.note_handshake(id);
            }
            Stage::Linked(_) => self.extend_silence(id),
            Stage::ClientHello | Stage::Handshake => self.handshakes_left -= 1,
            _ => {}
        }
        let now = self.now;
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.is_derp()
            && let Some(permit) = &mut conn.permit
        {
            permit.note_input(now);
        }
        let mut buffers = std::mem::take(&mut self.buffers);
        let result = self.read(id, &mut buffers);
        self.buffers = buffers;
        self.conclude(id, result);
    }

    /// Ends a connection that failed. Otherwise, registers what the connection waits for.
    pub(super) fn conclude(&mut self, id: ConnId, result: Result<(), Reason>) {
        match result {
            Ok(()) => self.settle(id),
            Err(reason) => self.finish(id, reason),
        }
    }

    fn read(&mut self, id: ConnId, buffers: &mut Buffers) -> Result<(), Reason> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        let conn = conn.as_mut();
        let most = self.turn.read();
        let Transport::Tls(session) = &mut conn.transport else {
            let came = conn.take_from_socket(&mut buffers.plain[HELD..HELD + most])?;
            if came > 0 {
                self.turn.spend(READ + (came >> BYTES_SHIFT) as i64);
            }
            return self.take_in(id, &mut buffers.plain, came);
        };
        let start = session.partial().len();
        buffers.sealed[..start].copy_from_slice(session.partial());
        let came = conn.take_from_socket(&mut buffers.sealed[start..start + most])?;
        if came == 0 {
            return Ok(());
        }
        self.turn.spend(READ + (came >> BYTES_SHIFT) as i64);
        self.decrypt(id, &mut buffers.sealed[..start + came], &mut buffers.plain)
    }

    /// Begins the handshake: as the server, with the client's first message; as the client, with no bytes.
    pub(super) fn begin_handshake(&mut self, id: ConnId, mut first: Vec<u8>) -> Result<(), Reason> {
        // The client's message came through the shard's buffers, so these are lent now. Data hardly ever follows the
        // message.
        let mut plain = std::mem::take(&mut self.spare_plain);
        plain.resize(plain.len().max(HELD + first.len()), 0);
        let result = self.decrypt(id, &mut first, &mut plain);
        self.spare_plain = plain;
        result
    }

    fn decrypt(&mut self, id: ConnId, sealed: &mut [u8], plain: &mut [u8]) -> Result<(), Reason> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        let Transport::Tls(session) = &mut conn.transport else { return Ok(()) };
        let is_new = matches!(conn.stage, Stage::Handshake);
        let mut answer = Vec::new();
        let (came, progress) = session.receive(sealed, &mut plain[HELD..], &mut answer, self.turn.slice());
        conn.is_cut |= session.is_cut();
        if is_new {
            session.limit_key(self.shared.settings.records_per_key);
        }
        if !answer.is_empty() {
            self.commit(id, &answer);
        }
        // A client may have closed its stream already, right after its request.
        if is_new && (matches!(progress, Ok(Progress::Established)) || came > 0) {
            self.end_handshake(id);
        }
        let mut result = self.take_in(id, plain, came);
        if result.is_ok() && !matches!(progress, Ok(Progress::Established | Progress::Handshaking)) {
            result = self.take_in_the_rest(id);
        }
        match progress {
            Ok(Progress::Established | Progress::Handshaking) => result,
            Ok(Progress::PeerClosed) => result.and_then(|()| self.end_of_stream(id)),
            Err(error) => {
                // The alert reports the reason to the peer. This is the last chance to write it.
                self.flush(id);
                Err(Reason::with(CloseReason::TlsError, error.to_string()))
            }
        }
    }

    /// Handles all input of a stream that has ended: nothing more will be read from it.
    fn take_in_the_rest(&mut self, id: ConnId) -> Result<(), Reason> {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.is_cut) else { return Ok(()) };
        conn.is_cut = false;
        let left = std::mem::replace(self.turn.slice(), i64::MAX);
        let result = self.advance(id);
        let spent = i64::MAX - *self.turn.slice();
        *self.turn.slice() = left - spent;
        result
    }

    /// Handles plaintext: `came` bytes in `buffer`, after room for [`HELD`].
    fn take_in(&mut self, id: ConnId, buffer: &mut [u8], came: usize) -> Result<(), Reason> {
        let Some(conn) = self.conns.get_mut(id).filter(|_| came > 0) else { return Ok(()) };
        let plain = &buffer[HELD..HELD + came];
        if conn.websocket.is_some() {
            return self.unframe(id, plain);
        }
        if !conn.is_derp() || conn.input.len() > HELD {
            conn.input.extend_from_slice(plain);
            return self.advance(id);
        }
        // Frames are parsed in place, after the held part of the first one.
        let held = std::mem::take(&mut conn.input);
        let start = HELD - held.len();
        buffer[start..HELD].copy_from_slice(&held);
        self.keep_spare(held);
        let bytes = &buffer[start..HELD + came];
        let used = self.frames(id, bytes)?;
        self.hold(id, &bytes[used..]);
        Ok(())
    }

    /// The stream is WebSocket from here on, beginning with the bytes that came early.
    pub(super) fn begin_websocket(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.websocket = Some(Box::default());
        let ahead = std::mem::take(&mut conn.input);
        self.in_a_slice(|shard| {
            let result = shard.unframe(id, &ahead);
            shard.conclude(id, result);
        });
    }

    /// Decodes WebSocket frames, and handles their payload.
    fn unframe(&mut self, id: ConnId, bytes: &[u8]) -> Result<(), Reason> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        let Some(websocket) = &mut conn.websocket else { return Ok(()) };
        let mut answers = Vec::new();
        let flow = websocket.decode(bytes, &mut conn.input, &mut answers);
        if flow == Ok(Flow::Open) {
            if !answers.is_empty() && !self.is_behind(id) {
                self.raw(id, &answers);
            }
            return self.advance(id);
        }
        // Input before the end is answered first: nothing may follow the close frame.
        self.advance(id)?;
        let reason = match flow {
            Ok(_) => Reason::code(CloseReason::Eof),
            Err(violation) => {
                websocket::append_close(&mut answers, violation.status);
                Reason::with(CloseReason::ProtocolError, violation.what)
            }
        };
        if self.raw(id, &answers)
            && let Some(conn) = self.conns.get_mut(id)
        {
            // That was the close frame.
            conn.websocket = None;
        }
        self.close(id, reason);
        Ok(())
    }

    /// Keeps the start of a frame until the rest of it comes.
    fn hold(&mut self, id: ConnId, rest: &[u8]) {
        if rest.is_empty() {
            return;
        }
        let mut input = self.spare_inputs.pop().unwrap_or_default();
        input.extend_from_slice(rest);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.input = input;
        }
    }

    /// Relays the whole frames that wait in a switched connection's input.
    pub(super) fn relay_input(&mut self, id: ConnId) -> Result<(), Reason> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        let mut input = std::mem::take(&mut conn.input);
        let used = self.frames(id, &input)?;
        if used == input.len() {
            self.keep_spare(input);
        } else if let Some(conn) = self.conns.get_mut(id) {
            input.drain(..used);
            conn.input = input;
        }
        Ok(())
    }

    /// Keeps an empty buffer for the next connection that holds a part of a frame.
    fn keep_spare(&mut self, mut input: Vec<u8>) {
        const SPARES: usize = 64;
        if input.capacity() > 0 && self.spare_inputs.len() < SPARES {
            input.clear();
            self.spare_inputs.push(input);
        }
    }

    /// Relays every whole frame at the front of `bytes`. Returns the number of bytes used.
    fn frames(&mut self, id: ConnId, bytes: &[u8]) -> Result<usize, Reason> {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            // Looked up for each frame: relaying the last one may have ended the connection.
            let Some(conn) = self.conns.get_mut(id).filter(|conn| !conn.is_leaving) else { return Ok(at) };
            if self.turn.is_slice_over() && !rest.is_empty() {
                conn.is_cut = true;
                return Ok(at);
            }
            if conn.skip > 0 {
                let discarded = conn.skip.min(rest.len());
                conn.skip -= discarded;
                at += discarded;
                if conn.skip > 0 {
                    return Ok(at);
                }
                continue;
            }
            let (writer, is_mesh) = match &conn.stage {
                Stage::Switched(switched) => (Writer::Client, switched.member.role == Role::MeshPeer),
                Stage::Linked(_) => (Writer::Node, false),
                _ => return Ok(at),
            };
            let Some((kind, len)) = frame::read_header(rest) else { return Ok(at) };
            if writer == Writer::Client && !is_mesh && frame::needs_mesh(kind) {
                let detail =
                    format!("insufficient permissions: frame type {kind:#04x} from an ordinary client");
                return Err(Reason::with(CloseReason::ProtocolError, detail));
            }
            let known = frame::admit(writer, kind, len).map_err(|BadFrame(why)| {
                if kind == frame::Type::Ping as u8 {
                    self.counters().got_ping.add(1); // a rejected one counts, too
                }
                Reason::with(CloseReason::ProtocolError, why)
            })?;
            if !known {
                if writer == Writer::Client && !is_mesh && self.is_throttled(id, len) {
                    return Ok(at);
                }
                let Some(conn) = self.conns.get_mut(id) else { return Ok(at) };
                conn.skip = len;
                self.turn.spend(FRAME);
                if writer == Writer::Client {
                    self.counters().unknown_frames.add(1);
                    self.mark_active(id);
                }
                at += HEADER;
                continue;
            }
            let Some(payload) = rest.get(HEADER..HEADER + len) else { return Ok(at) };
            if writer == Writer::Client && !is_mesh && self.is_throttled(id, len) {
                return Ok(at);
            }
            self.turn.spend(FRAME + (len >> BYTES_SHIFT) as i64);
            self.relay(id, frame::parse(writer, kind, payload));
            at += HEADER + len;
        }
    }
}

impl<S: Stream> Conn<S> {
    /// Reads the socket once. Returns the number of bytes; 0 if there are none yet.
    fn take_from_socket(&mut self, buffer: &mut [u8]) -> Result<usize, Reason> {
        match self.stream.read(buffer) {
            Ok(0) => Err(self.cut_short()),
            Ok(came) => {
                self.wire.received += came as u64;
                Ok(came)
            }
            Err(error) if is_transient(&error) => Ok(0),
            Err(error) => Err(Reason::with(CloseReason::Reset, error.to_string())),
        }
    }
}

impl<S> Conn<S> {
    /// The reason for an end of the stream at this point.
    fn cut_short(&mut self) -> Reason {
        self.deadline = NEVER;
        match &self.stage {
            Stage::Lingering(ending) => ending.reason.clone(),
            Stage::ClientHello if self.input.is_empty() => Reason::code(CloseReason::Eof),
            Stage::ClientHello | Stage::Handshake => Reason::with(CloseReason::Eof, "in the TLS handshake"),
            Stage::Head { .. } if !self.input.is_empty() => {
                Reason::with(CloseReason::Eof, "in the request head")
            }
            Stage::Frame { .. } => Reason::with(CloseReason::Eof, "in the login"),
            Stage::Body { .. } => Reason::with(CloseReason::Eof, "in the request body"),
            _ => Reason::code(CloseReason::Eof),
        }
    }
}

/// Whether a read or write that failed with `error` can succeed later.
pub(super) fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}

/// Removes and returns the first `len` bytes. An emptied buffer gives its memory away with them.
pub(super) fn take_front(input: &mut Vec<u8>, len: usize) -> Vec<u8> {
    let rest = input.split_off(len);
    std::mem::replace(input, rest)
}
