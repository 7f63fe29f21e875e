//! One client's connection, from the first SYN to the last packet, without ever blocking.
//!
//! Bytes in: socket → records (TLS) → HTTP answer (plain) → frames. Bytes out: frames are sealed where they
//! will be sent from. After the login nothing here allocates per packet.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rustls::ClientConfig;
use socket2::{Domain, Socket, Type};

use crate::frames::{self, Deframer, Frame};
use crate::login::{self, Identity, LoginBox};
use crate::records::{self, Records};
use crate::tls::{Handshake, Progress};

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
    /// The beginning of a record whose end has not come yet, or of the HTTP answer.
    incomplete: Vec<u8>,
    deframer: Deframer,
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
    /// Start to connect; over TLS if there is a configuration for it. To be called on when writable.
    pub(crate) fn connect(server: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&server.into()) {
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
            other => other.with_context(|| format!("connecting to {server}"))?,
        }
        let wire = match tls {
            Some(config) => Wire::Shaking(Some(Handshake::new(Arc::clone(config), server.ip())?)),
            None => Wire::Plain,
        };
        Ok(Self {
            socket: socket.into(),
            wire,
            stage: Stage::Connecting,
            identity: Identity::new()?,
            incomplete: Vec::new(),
            deframer: Deframer::default(),
            out: Vec::new(),
            taken: 0,
            oversize: Vec::new(),
            answers_queued: false,
        })
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.stage, Stage::Ready)
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
                self.stage = Stage::Upgrade;
                self.queue_bytes(login::REQUEST.as_bytes())?;
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
        if let Stage::Upgrade = self.stage {
            let Some(head) = login::upgrade_answer(bytes)? else {
                self.incomplete.extend_from_slice(bytes);
                return Ok(());
            };
            bytes = &mut bytes[head..];
            self.stage = Stage::ServerKey { sealed: None };
        }
        let Self { wire, stage, identity, deframer, out, incomplete, answers_queued, .. } = self;
        let mut answers = Vec::new();
        let mut frame = |frame: Frame<'_>| match take(stage, identity, &frame, &mut answers)? {
            Taken::ByLogin => Ok(()),
            Taken::No => sink(frame),
        };
        match wire {
            Wire::Tls(records) => {
                let queued = out.len();
                while let Some(length) = records::complete(bytes)? {
                    let (record, rest) = std::mem::take(&mut bytes).split_at_mut(length);
                    deframer.feed(records.open(record, out)?, &mut frame)?;
                    bytes = rest;
                }
                *answers_queued |= out.len() > queued;
                incomplete.extend_from_slice(bytes);
            }
            Wire::Plain => deframer.feed(bytes, frame)?,
            Wire::Shaking(_) => incomplete.extend_from_slice(bytes),
        }
        if !answers.is_empty() {
            self.answers_queued = true;
            self.queue_bytes(&answers)?;
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
        let whole = |frame: &mut [u8]| {
            let (header, payload) = frame.split_at_mut(frames::HEADER);
            header.copy_from_slice(&frames::header(kind, length));
            write(payload);
        };
        let length = frames::HEADER + length;
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
