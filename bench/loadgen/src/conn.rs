//! One client's connection, from the first SYN to the last packet, without ever blocking.
//!
//! Bytes in: socket → records (TLS) → HTTP answer (without fast start) → frames. Bytes out: frames are sealed in
//! the send buffer. After the login nothing here allocates for a packet.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

use crate::frames::{self, Deframer, Frame};
use crate::login::{self, Identity, LoginBox};
use crate::records::{self, Records};
use crate::target::Target;
use crate::tls::{Handshake, Progress};
use crate::websocket;

/// The buffer in which bytes are read and opened. All connections share it: each copies an incomplete record out
/// before the next one reads.
pub(crate) struct Scratch(Vec<u8>);

/// The most bytes of one read.
const READ: usize = 256 * 1024;

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(vec![0; READ + records::MAX_PLAINTEXT + 512])
    }
}

/// A connection.
pub(crate) struct Conn {
    socket: TcpStream,
    wire: Wire,
    stage: Stage,
    pub(crate) identity: Identity,
    /// The beginning of an incomplete record.
    incomplete: Vec<u8>,
    /// The beginning of an incomplete HTTP answer.
    answer: Vec<u8>,
    deframer: Deframer,
    /// None without WebSocket.
    websocket: Option<websocket::Decoder>,
    out: Vec<u8>,
    /// The number of bytes of `out` that are sent. When all bytes are sent, `out` is cleared.
    taken: usize,
    /// A buffer for a frame that is longer than a record.
    oversize: Vec<u8>,
    /// Answers to pings or to TLS are queued: the owner must flush.
    answers_queued: bool,
    /// Bytes already sent of the frame that `queue_update_and_byte` sends byte by byte.
    trickled: usize,
}

enum Wire {
    Plain,
    Handshake(Option<Handshake>),
    Tls(Box<Records>),
}

enum Stage {
    Connecting,
    Handshake,
    Upgrade,
    ServerKey { sealed: Option<Box<LoginBox>> },
    ServerInfo(Box<LoginBox>),
    Ready,
}

/// Whether a flush sent everything, or the socket is full.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    All,
    Blocked,
}

impl Conn {
    /// Start to connect. Call `writable` when the socket is writable.
    pub(crate) fn connect(target: &Target, identity: Identity) -> Result<Self> {
        let server = target.address;
        let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = TcpStream::from(socket(family, SockType::Stream, flags, None)?);
        socket.set_nodelay(true)?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
            Err(Errno::EINPROGRESS) => {}
            other => other.with_context(|| format!("connecting to {server}"))?,
        }
        let wire = match &target.tls {
            Some(config) => Wire::Handshake(Some(Handshake::new(Arc::clone(config), server.ip())?)),
            None => Wire::Plain,
        };
        Ok(Self {
            socket,
            wire,
            stage: Stage::Connecting,
            identity,
            incomplete: Vec::new(),
            answer: Vec::new(),
            deframer: Deframer::default(),
            websocket: target.websocket.then(websocket::Decoder::default),
            out: Vec::new(),
            taken: 0,
            oversize: Vec::new(),
            answers_queued: false,
            trickled: 0,
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    /// Return the number of bytes that are queued and not sent.
    pub(crate) fn queued(&self) -> usize {
        self.out.len() - self.taken
    }

    /// Return whether `readable` queued answers, and forget that it did.
    pub(crate) fn has_answers(&mut self) -> bool {
        std::mem::take(&mut self.answers_queued)
    }

    /// The socket is writable: finish connecting, or continue to send.
    pub(crate) fn writable(&mut self) -> Result<Flushed> {
        if matches!(self.stage, Stage::Connecting) {
            if let Some(error) = self.socket.take_error()? {
                return Err(error).context("connecting");
            }
            if let Wire::Handshake(_) = self.wire {
                self.stage = Stage::Handshake;
                self.continue_handshake(&mut [])?;
            } else {
                self.queue_upgrade_request()?;
            }
        }
        self.flush()
    }

    /// Read once, and pass every frame after the login to `sink`. Sends the frames of the login.
    pub(crate) fn readable(
        &mut self,
        scratch: &mut Scratch,
        mut sink: impl FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        let kept = self.incomplete.len();
        scratch.0[..kept].copy_from_slice(&self.incomplete);
        self.incomplete.clear();
        let came = match self.socket.read(&mut scratch.0[kept..kept + READ]) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(came) => came,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error).context("reading"),
        };
        let mut bytes = &mut scratch.0[..kept + came];
        if let Stage::Handshake = self.stage {
            let used = self.continue_handshake(bytes)?;
            bytes = &mut bytes[used..];
        }
        let Self {
            wire, stage, identity, deframer, websocket, out, incomplete, answers_queued, answer, ..
        } = self;
        let mut answers = Vec::new();
        let mut frame = |stage: &mut Stage, frame: Frame<'_>| match handle_login(
            stage,
            identity,
            &frame,
            &mut answers,
        )? {
            Handled::Yes => Ok(()),
            Handled::No => sink(frame),
        };
        let mut feed = |mut bytes: &[u8]| {
            if let Stage::Upgrade = stage {
                answer.extend_from_slice(bytes);
                let Some(head) = login::upgrade_answer(answer)? else { return Ok(()) };
                *stage = Stage::ServerKey { sealed: None };
                // The bytes before these did not contain the end of the answer.
                bytes = &bytes[head - (answer.len() - bytes.len())..];
                *answer = Vec::new();
            }
            match websocket {
                Some(decoder) => {
                    decoder.feed(bytes, |payload| deframer.feed(payload, |each| frame(stage, each)))
                }
                None => deframer.feed(bytes, |each| frame(stage, each)),
            }
        };
        match wire {
            Wire::Tls(records) => {
                let queued = out.len();
                while let Some(length) = records::complete(bytes)? {
                    let (record, rest) = std::mem::take(&mut bytes).split_at_mut(length);
                    feed(records.open(record, out)?)?;
                    bytes = rest;
                }
                *answers_queued |= out.len() > queued;
                incomplete.extend_from_slice(bytes);
            }
            Wire::Plain => feed(bytes)?,
            Wire::Handshake(_) => incomplete.extend_from_slice(bytes),
        }
        if !answers.is_empty() {
            self.answers_queued = true;
            self.queue_message(&answers)?;
        }
        Ok(())
    }

    /// Queue one frame; `write` fills in its payload of `length` bytes. Over TLS it gets a record of its own, as from
    /// real clients.
    pub(crate) fn queue_frame(
        &mut self,
        kind: u8,
        length: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        let length = frames::HEADER + length;
        let before = if self.websocket.is_some() { websocket::prefix(length) } else { 0 };
        let whole = |message: &mut [u8]| {
            let (header, payload) = message[before..].split_at_mut(frames::HEADER);
            header.copy_from_slice(&frames::header(kind, payload.len()));
            write(payload);
            if before > 0 {
                websocket::frame(message, length);
            }
        };
        let length = before + length;
        match &mut self.wire {
            Wire::Tls(records) if length <= records::MAX_PLAINTEXT => {
                records.seal(&mut self.out, length, whole)
            }
            Wire::Tls(records) => {
                self.oversize.resize(length, 0);
                whole(&mut self.oversize);
                for piece in self.oversize.chunks(records::MAX_PLAINTEXT) {
                    records.seal(&mut self.out, piece.len(), |record| record.copy_from_slice(piece))?;
                }
                Ok(())
            }
            Wire::Plain => {
                let start = self.out.len();
                self.out.resize(start + length, 0);
                whole(&mut self.out[start..]);
                Ok(())
            }
            Wire::Handshake(_) => bail!("a frame before the handshake is done"),
        }
    }

    /// Queue a TLS key update and one byte of data, each in a record of its own.
    pub(crate) fn queue_update_and_byte(&mut self) -> Result<()> {
        let Wire::Tls(records) = &mut self.wire else { bail!("no TLS, no change of its key") };
        records.update_sending_key(&mut self.out)?;
        // The bytes belong to frames of an unknown type, which a server skips.
        const FRAME: [u8; frames::HEADER] = frames::header(0x70, 0xffff);
        let byte = FRAME.get(self.trickled).copied().unwrap_or(0);
        self.trickled = (self.trickled + 1) % (FRAME.len() + 0xffff);
        records.seal(&mut self.out, 1, |record| record[0] = byte)
    }

    /// Send the queued bytes, with one system call if the socket accepts all.
    pub(crate) fn flush(&mut self) -> Result<Flushed> {
        while self.taken < self.out.len() {
            match self.socket.write(&self.out[self.taken..]) {
                Ok(written) => self.taken += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.out.drain(..self.taken);
                    self.taken = 0;
                    return Ok(Flushed::Blocked);
                }
                Err(error) => return Err(error).context("writing"),
            }
        }
        self.out.clear();
        self.taken = 0;
        Ok(Flushed::All)
    }

    /// Continue the handshake. When it is complete, send the request and the login in one record each, as real clients
    /// do.
    fn continue_handshake(&mut self, incoming: &mut [u8]) -> Result<usize> {
        let Wire::Handshake(handshake) = &mut self.wire else { bail!("no handshake in progress") };
        let handshake = handshake.take().context("the handshake failed before")?;
        let (progress, used) = handshake.advance(incoming, &mut self.out)?;
        match progress {
            Progress::Blocked(handshake) => self.wire = Wire::Handshake(Some(handshake)),
            Progress::Done(established) if self.websocket.is_some() => {
                self.wire = Wire::Tls(Box::new(Records::new(established.connection)?));
                self.queue_upgrade_request()?;
            }
            Progress::Done(established) => {
                self.wire = Wire::Tls(Box::new(Records::new(established.connection)?));
                self.queue_bytes(login::FAST_REQUEST.as_bytes())?;
                ensure!(self.flush()? == Flushed::All, "the socket is full before the upgrade request");
                let mut info = Vec::new();
                let sealed = self.identity.client_info(established.server_key, &mut info)?;
                self.queue_bytes(&info)?;
                self.stage = Stage::ServerKey { sealed: Some(Box::new(sealed)) };
            }
        }
        ensure!(self.flush()? == Flushed::All, "the socket is full during the handshake");
        Ok(used)
    }

    /// Queue the upgrade request; its answer comes before the first frame.
    fn queue_upgrade_request(&mut self) -> Result<()> {
        self.stage = Stage::Upgrade;
        let request = if self.websocket.is_some() { login::WEBSOCKET_REQUEST } else { login::REQUEST };
        self.queue_bytes(request.as_bytes())
    }

    /// Queue whole frames; over WebSocket they are one message.
    fn queue_message(&mut self, frames: &[u8]) -> Result<()> {
        if self.websocket.is_none() {
            return self.queue_bytes(frames);
        }
        let mut message = vec![0; websocket::prefix(frames.len())];
        message.extend_from_slice(frames);
        websocket::frame(&mut message, frames.len());
        self.queue_bytes(&message)
    }

    fn queue_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.wire {
            Wire::Tls(records) => {
                records.seal(&mut self.out, bytes.len(), |record| record.copy_from_slice(bytes))
            }
            Wire::Plain => {
                self.out.extend_from_slice(bytes);
                Ok(())
            }
            Wire::Handshake(_) => bail!("application data before the handshake is done"),
        }
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

enum Handled {
    Yes,
    No,
}

/// Handle the frames of the login and pings, which no load cares about. Appends the answers to `answers`.
fn handle_login(
    stage: &mut Stage,
    identity: &Identity,
    frame: &Frame<'_>,
    answers: &mut Vec<u8>,
) -> Result<Handled> {
    match stage {
        Stage::Ready => match (frame.kind, frame.payload.first_chunk::<8>()) {
            (frames::PING, Some(echo)) => {
                answers.extend(frames::header(frames::PONG, echo.len()));
                answers.extend(echo);
            }
            (frames::RESTARTING, _) => bail!("the server is restarting"),
            _ => return Ok(Handled::No),
        },
        Stage::ServerKey { sealed } => {
            ensure!(frame.kind == frames::SERVER_KEY, "frame {:#x}, want ServerKey", frame.kind);
            let key = login::server_key(frame.payload)?;
            let sealed = match sealed.take() {
                Some(sealed) => sealed,
                None => Box::new(identity.client_info(key, answers)?),
            };
            *stage = Stage::ServerInfo(sealed);
        }
        Stage::ServerInfo(sealed) => {
            ensure!(frame.kind == frames::SERVER_INFO, "frame {:#x}, want ServerInfo", frame.kind);
            sealed.server_info(frame.payload)?;
            *stage = Stage::Ready;
        }
        Stage::Connecting | Stage::Handshake | Stage::Upgrade => bail!("a frame before the upgrade"),
    }
    Ok(Handled::Yes)
}
