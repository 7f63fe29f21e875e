//! One client's connection, from the first SYN to the last packet, without ever blocking.
//!
//! Bytes in: socket → records (TLS) → HTTP answer (plain) → frames. Bytes out: frames are sealed where they
//! will be sent from. After the login nothing here allocates per packet.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Socket, Type};

use crate::fleet::Target;
use crate::frames::{self, Deframer, Frame};
use crate::login::{self, Identity, LoginBox};
use crate::records::{self, Records};
use crate::tls::{Handshake, Progress};
use crate::websocket;

/// Where bytes are read to and opened: one for all connections, since each leaves behind only what is
/// incomplete.
pub(crate) struct Scratch(Vec<u8>);

/// What one reading takes at most.
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
    /// The beginning of a record whose end has not come yet.
    incomplete: Vec<u8>,
    /// The beginning of the HTTP answer to the upgrade, while it is awaited.
    answer: Vec<u8>,
    deframer: Deframer,
    /// Present where frames travel in WebSocket messages.
    websocket: Option<websocket::Decoder>,
    out: Vec<u8>,
    /// How much of `out` the kernel has taken already; `out` is empty when it is all of it.
    taken: usize,
    /// A frame that does not fit a record, on its way to be cut.
    oversize: Vec<u8>,
    /// The server asked for an answer outside of any mode's own traffic: the owner must flush.
    answers_queued: bool,
}

enum Wire {
    Plain,
    Shaking(Option<Handshake>),
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

/// Whether all went out, or the kernel takes no more for now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    All,
    Blocked,
}

impl Conn {
    /// Start to connect as this client. To be called on when writable.
    pub(crate) fn connect(target: &Target, identity: Identity) -> Result<Self> {
        let server = target.address;
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&server.into()) {
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
            other => other.with_context(|| format!("connecting to {server}"))?,
        }
        let wire = match &target.tls {
            Some(config) => Wire::Shaking(Some(Handshake::new(Arc::clone(config), server.ip())?)),
            None => Wire::Plain,
        };
        Ok(Self {
            socket: socket.into(),
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
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
    }

    /// Bytes that wait for the kernel to take them.
    pub(crate) fn queued(&self) -> usize {
        self.out.len() - self.taken
    }

    /// Whether reading left answers behind that wait for a flush.
    pub(crate) fn has_answers(&mut self) -> bool {
        std::mem::take(&mut self.answers_queued)
    }

    /// The socket takes data: finish connecting, or go on sending.
    pub(crate) fn writable(&mut self) -> Result<Flushed> {
        if matches!(self.stage, Stage::Connecting) {
            if let Some(error) = self.socket.take_error()? {
                return Err(error).context("connecting");
            }
            if let Wire::Shaking(_) = self.wire {
                self.stage = Stage::Handshake;
                self.shake_hands(&mut [])?;
            } else {
                self.ask_to_upgrade()?;
            }
        }
        self.flush()
    }

    /// Read once, and give every frame that came after the login to `sink`. Sends what the login needs.
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
            let used = self.shake_hands(bytes)?;
            bytes = &mut bytes[used..];
        }
        let Self {
            wire, stage, identity, deframer, websocket, out, incomplete, answers_queued, answer, ..
        } = self;
        let mut answers = Vec::new();
        let mut frame =
            |stage: &mut Stage, frame: Frame<'_>| match take(stage, identity, &frame, &mut answers)? {
                Taken::ByLogin => Ok(()),
                Taken::No => sink(frame),
            };
        let mut feed = |mut bytes: &[u8]| {
            if let Stage::Upgrade = stage {
                answer.extend_from_slice(bytes);
                let Some(head) = login::upgrade_answer(answer)? else { return Ok(()) };
                *stage = Stage::ServerKey { sealed: None };
                // What came before these bytes held no end of the answer.
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
            Wire::Shaking(_) => incomplete.extend_from_slice(bytes),
        }
        if !answers.is_empty() {
            self.answers_queued = true;
            self.queue_message(&answers)?;
        }
        Ok(())
    }

    /// Put one frame, whose payload of `length` bytes `write` fills in, where the next flush takes it from:
    /// over TLS in a record of its own, as real clients send.
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
            Wire::Shaking(_) => bail!("a frame before the handshake is done"),
        }
    }

    /// Send what is queued, with one system call if the kernel takes it.
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

    /// Go on with the handshake; once it is done, send the request and the login each as real clients do.
    fn shake_hands(&mut self, incoming: &mut [u8]) -> Result<usize> {
        let Wire::Shaking(handshake) = &mut self.wire else { bail!("no handshake in progress") };
        let handshake = handshake.take().context("a handshake that failed goes on")?;
        let (progress, used) = handshake.advance(incoming, &mut self.out)?;
        match progress {
            Progress::Blocked(handshake) => self.wire = Wire::Shaking(Some(handshake)),
            Progress::Done(established) if self.websocket.is_some() => {
                self.wire = Wire::Tls(Box::new(established.records));
                self.ask_to_upgrade()?;
            }
            Progress::Done(established) => {
                self.wire = Wire::Tls(Box::new(established.records));
                self.queue_bytes(login::FAST_REQUEST.as_bytes())?;
                ensure!(self.flush()? == Flushed::All, "the kernel takes no request");
                let mut info = Vec::new();
                let sealed = self.identity.client_info(established.server_key, &mut info)?;
                self.queue_bytes(&info)?;
                self.stage = Stage::ServerKey { sealed: Some(Box::new(sealed)) };
            }
        }
        ensure!(self.flush()? == Flushed::All, "the kernel takes no handshake");
        Ok(used)
    }

    /// Send the request whose answer has to come before anything else.
    fn ask_to_upgrade(&mut self) -> Result<()> {
        self.stage = Stage::Upgrade;
        let request = if self.websocket.is_some() { login::WEBSOCKET_REQUEST } else { login::REQUEST };
        self.queue_bytes(request.as_bytes())
    }

    /// Queue whole frames: in WebSocket one message.
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
            Wire::Shaking(_) => bail!("application data before the handshake is done"),
        }
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

enum Taken {
    ByLogin,
    No,
}

/// Handle the frames that are not the mode's business: those of the login, and pings. What they need to be
/// answered with is appended to `answers`.
fn take(stage: &mut Stage, identity: &Identity, frame: &Frame<'_>, answers: &mut Vec<u8>) -> Result<Taken> {
    match stage {
        Stage::Ready => match (frame.kind, frame.payload.first_chunk::<8>()) {
            (frames::PING, Some(echo)) => {
                answers.extend(frames::header(frames::PONG, echo.len()));
                answers.extend(echo);
            }
            (frames::RESTARTING, _) => bail!("the server says that it restarts"),
            _ => return Ok(Taken::No),
        },
        Stage::ServerKey { sealed } => {
            ensure!(frame.kind == frames::SERVER_KEY, "frame {:#x} where ServerKey belongs", frame.kind);
            let key = login::server_key(frame.payload)?;
            let sealed = match sealed.take() {
                Some(sealed) => sealed,
                None => Box::new(identity.client_info(key, answers)?),
            };
            *stage = Stage::ServerInfo(sealed);
        }
        Stage::ServerInfo(sealed) => {
            ensure!(frame.kind == frames::SERVER_INFO, "frame {:#x} where ServerInfo belongs", frame.kind);
            sealed.server_info(frame.payload)?;
            *stage = Stage::Ready;
        }
        Stage::Connecting | Stage::Handshake | Stage::Upgrade => bail!("a frame before the upgrade"),
    }
    Ok(Taken::ByLogin)
}
