//! The I/O interface of a shard: byte streams and their readiness.
//!
//! A shard is generic over [`Net`]. So the same tick code runs over epoll and sockets in production, and over in-memory
//! streams with a simulated clock in tests. All sockets are non-blocking.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags};

use crate::id::ConnId;
use crate::io::listener::{Listener, ListenerId};
use crate::io::waker::Waker;

/// The events that a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// The end of the peer's stream, while nothing is read.
    pub(crate) hangup: bool,
}

/// Something that is ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ready {
    Conn { id: ConnId, read: bool, write: bool, hangup: bool, broken: bool },
    Listener(ListenerId),
}

/// One end of a byte stream.
pub(crate) trait Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Ends the writing direction of the stream.
    fn finish(&mut self);
    /// Our end's address.
    fn local(&self) -> io::Result<SocketAddr>;
    /// The round-trip time to the other end, as last estimated by the kernel.
    fn rtt(&self) -> io::Result<Duration>;
}

/// The source of streams and of their readiness.
pub(crate) trait Net {
    type Stream: Stream;
    fn listen(&mut self, id: ListenerId, listener: &Arc<Listener>) -> io::Result<()>;
    fn unlisten(&mut self, listener: &Listener);
    fn accept(&mut self, listener: &Listener) -> io::Result<(Self::Stream, SocketAddr)>;
    /// Number of connections that may be accepted before only reserved descriptors are left.
    fn spare_descriptors(&self) -> usize;
    /// Takes over a connected, non-blocking socket.
    fn take_over(&mut self, socket: OwnedFd) -> io::Result<Self::Stream>;
    /// Begins to watch a stream.
    fn add(&mut self, stream: &Self::Stream, id: ConnId, interest: Interest) -> io::Result<()>;
    fn change(&mut self, stream: &Self::Stream, id: ConnId, interest: Interest) -> io::Result<()>;
    /// Stops watching a stream that lives on elsewhere. A dropped stream needs no call.
    fn remove(&mut self, stream: &Self::Stream) -> io::Result<()>;
}

/// A TCP socket.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Stream for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::net::recv(&self.0, buffer, RecvFlags::empty())?.0)
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(match slices {
            [one] => rustix::net::send(&self.0, one, SendFlags::NOSIGNAL),
            all => {
                rustix::net::sendmsg(&self.0, all, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
            }
        }?)
    }

    fn finish(&mut self) {
        // This fails if the peer has reset the connection meanwhile, and then no end is needed.
        let _ = rustix::net::shutdown(&self.0, Shutdown::Write);
    }

    fn local(&self) -> io::Result<SocketAddr> {
        Ok(canonical(SocketAddr::try_from(rustix::net::getsockname(&self.0)?)?))
    }

    fn rtt(&self) -> io::Result<Duration> {
        sys::tcp_rtt(self.0.as_fd())
    }
}

/// Maximum events of one wait. On most servers, that is all of them, so newly ready connections are seen at once even
/// if many others have been ready for long.
const EVENTS: usize = 4_096;
/// Marks the waker among the epoll data; all other values are ids.
const WAKER: u64 = u64::MAX;
/// Marks the STUN socket.
const DATAGRAMS: u64 = u64::MAX - 1;
/// Marks listeners: ids of connections do not use this bit.
const LISTENER: u64 = 1 << 63;

/// Sockets and epoll.
pub(crate) struct Epoll {
    epoll: OwnedFd,
    /// Descriptors from this number on are reserved. The kernel always uses the lowest free number.
    ceiling: usize,
}

impl Epoll {
    pub(crate) fn new(waker: &Waker, ceiling: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, waker, EventData::new_u64(WAKER), EventFlags::IN)?;
        Ok(Self { epoll, ceiling })
    }

    /// Another handle of the same epoll instance.
    pub(crate) fn share(&self) -> io::Result<Self> {
        Ok(Self { epoll: self.epoll.try_clone()?, ceiling: self.ceiling })
    }

    /// Begins to watch the STUN socket.
    pub(crate) fn watch_datagrams(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(DATAGRAMS), EventFlags::IN)?)
    }

    /// Waits for events, the waker or the timeout. Returns whether there are datagrams.
    pub(crate) fn wait(
        &self,
        timeout_ms: Option<u64>,
        waker: &Waker,
        ready: &mut Vec<Ready>,
    ) -> io::Result<bool> {
        let timeout = timeout_ms.map(timespec);
        let mut space = [const { MaybeUninit::uninit() }; EVENTS];
        let events = match epoll::wait(&self.epoll, &mut space, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(rustix::io::Errno::INTR) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut datagrams = false;
        for event in events {
            // Copied out: the kernel's structure is packed.
            let (data, flags) = (event.data.u64(), event.flags);
            match data {
                WAKER => waker.clear(),
                DATAGRAMS => datagrams = true,
                _ if data & LISTENER != 0 => ready.push(Ready::Listener((data & !LISTENER) as ListenerId)),
                _ => ready.push(Ready::Conn {
                    id: ConnId::from_u64(data),
                    read: flags.contains(EventFlags::IN),
                    write: flags.contains(EventFlags::OUT),
                    hangup: flags.contains(EventFlags::RDHUP),
                    broken: flags.intersects(EventFlags::ERR | EventFlags::HUP),
                }),
            }
        }
        Ok(datagrams)
    }

    /// Waits for the waker or the timeout, regardless of other events.
    pub(crate) fn wait_for_waker(&self, timeout_ms: u64, waker: &Waker) -> io::Result<()> {
        let mut fds = [PollFd::new(waker, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timespec(timeout_ms))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => waker.clear(),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

fn timespec(ms: u64) -> Timespec {
    Timespec { tv_sec: (ms / 1_000) as i64, tv_nsec: (ms % 1_000 * 1_000_000) as i64 }
}

/// Converts an IPv4-mapped address to IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn flags(interest: Interest) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, interest.read);
    flags.set(EventFlags::OUT, interest.write);
    flags.set(EventFlags::RDHUP, interest.hangup);
    flags
}

impl Net for Epoll {
    type Stream = Socket;

    fn listen(&mut self, id: ListenerId, listener: &Arc<Listener>) -> io::Result<()> {
        let data = EventData::new_u64(LISTENER | u64::from(id));
        Ok(epoll::add(&self.epoll, &listener.socket, data, EventFlags::IN | EventFlags::EXCLUSIVE)?)
    }

    fn unlisten(&mut self, listener: &Listener) {
        // This fails if it was not watched, and then there is nothing to do.
        let _ = epoll::delete(&self.epoll, &listener.socket);
    }

    fn accept(&mut self, listener: &Listener) -> io::Result<(Socket, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, address) = rustix::net::acceptfrom_with(&listener.socket, flags)?;
        let address = address.and_then(|any| SocketAddr::try_from(any).ok());
        let address = address.ok_or_else(|| io::Error::other("a connection from no IP address"))?;
        Ok((Socket(socket), canonical(address)))
    }

    fn spare_descriptors(&self) -> usize {
        let lowest = self.epoll.try_clone().map_or(usize::MAX, |probe| probe.as_raw_fd() as usize);
        self.ceiling.saturating_sub(lowest)
    }

    fn take_over(&mut self, socket: OwnedFd) -> io::Result<Socket> {
        Ok(Socket(socket))
    }

    fn add(&mut self, stream: &Socket, id: ConnId, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, &stream.0, EventData::new_u64(id.as_u64()), flags(interest))?)
    }

    fn change(&mut self, stream: &Socket, id: ConnId, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, &stream.0, EventData::new_u64(id.as_u64()), flags(interest))?)
    }

    fn remove(&mut self, stream: &Socket) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, &stream.0)?)
    }
}
