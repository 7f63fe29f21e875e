//! All clients of a run, their logins, and the epoll instance that watches them.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::conn::{Conn, Flushed, Scratch};
use crate::frames::Frame;
use crate::login::Identity;
use crate::target::Target;

/// The clients, by index. They connect to the targets in turn: the first client to the first target, and so on.
pub(crate) struct Fleet {
    targets: Vec<Target>,
    epoll: Epoll,
    members: Vec<Member>,
    scratch: Scratch,
    events: Vec<EpollEvent>,
}

struct Member {
    conn: Conn,
    /// Whether epoll watches the socket for writing: as long as bytes are queued.
    awaits_room: bool,
}

/// One event of epoll.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    pub(crate) index: usize,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// The index of the descriptor that is watched beside the clients.
pub(crate) const OTHER: usize = usize::MAX;

const EVENTS: usize = 1024;
/// Give up after this time without progress at any login.
const PATIENCE: Duration = Duration::from_secs(10);

impl Fleet {
    pub(crate) fn new(targets: Vec<Target>) -> Result<Self> {
        Ok(Self {
            targets,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            members: Vec::new(),
            scratch: Scratch::new(),
            events: vec![EpollEvent::empty(); EVENTS],
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn conn(&mut self, index: usize) -> &mut Conn {
        &mut self.members[index].conn
    }

    /// Log in until there are `total` clients, with at most `at_once` logins in progress.
    pub(crate) fn log_in(&mut self, total: usize, at_once: usize) -> Result<()> {
        self.log_in_as(None, total, at_once)
    }

    /// Log in as `log_in` does; with an `identity`, all connections use its key.
    pub(crate) fn log_in_as(
        &mut self,
        identity: Option<&Identity>,
        total: usize,
        at_once: usize,
    ) -> Result<()> {
        let mut in_progress = 0;
        while self.len() < total || in_progress > 0 {
            while self.len() < total && in_progress < at_once {
                self.dial(identity.cloned()).with_context(|| format!("client {}", self.len()))?;
                in_progress += 1;
            }
            let events = self.wait(Some(PATIENCE))?;
            ensure!(events > 0, "no login made progress for {PATIENCE:?}: {in_progress} in progress");
            for at in 0..events {
                let ready = self.ready(at);
                let before = self.conn(ready.index).is_ready();
                self.serve(ready, |_| Ok(()))
                    .with_context(|| format!("client {} at its login", ready.index))?;
                in_progress -= usize::from(!before && self.conn(ready.index).is_ready());
            }
        }
        Ok(())
    }

    /// Watch `other` for reading too; its events have the index [`OTHER`].
    pub(crate) fn watch(&self, other: impl AsFd) -> Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, OTHER as u64);
        self.epoll
            .add(other, event)
            .context("watching a descriptor, which must be a pipe, a terminal or a timer")
    }

    /// Stop watching `other`.
    pub(crate) fn unwatch(&self, other: impl AsFd) -> Result<()> {
        Ok(self.epoll.delete(other)?)
    }

    /// Wait for events and return their number; `ready` returns each.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> Result<usize> {
        let timeout = match timeout {
            // Rounded up, so that the last millisecond is not a busy loop.
            Some(timeout) => EpollTimeout::try_from(timeout + Duration::from_micros(999))?,
            None => EpollTimeout::NONE,
        };
        match self.epoll.wait(&mut self.events, timeout) {
            Err(nix::errno::Errno::EINTR) => Ok(0),
            other => Ok(other?),
        }
    }

    /// Return the event `at` of the last `wait`.
    pub(crate) fn ready(&self, at: usize) -> Ready {
        let (event, flags) = (&self.events[at], self.events[at].events());
        Ready {
            index: usize::try_from(event.data()).unwrap_or(OTHER),
            readable: flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR),
            writable: flags.contains(EpollFlags::EPOLLOUT),
        }
    }

    /// Handle an event; frames after the login go to `sink`.
    pub(crate) fn serve(&mut self, ready: Ready, sink: impl FnMut(Frame<'_>) -> Result<()>) -> Result<()> {
        let member = &mut self.members[ready.index];
        if ready.writable {
            let flushed = member.conn.writable()?;
            self.await_room(ready.index, flushed)?;
        }
        if ready.readable {
            let member = &mut self.members[ready.index];
            member.conn.readable(&mut self.scratch, sink)?;
            if member.conn.has_answers() {
                self.flush(ready.index)?;
            }
        }
        Ok(())
    }

    /// Send the queued bytes of a client, now or when its socket is writable.
    pub(crate) fn flush(&mut self, index: usize) -> Result<()> {
        let flushed = self.members[index].conn.flush()?;
        self.await_room(index, flushed)
    }

    /// Stop reading from a client's socket; `ready` still reports the end of its connection.
    pub(crate) fn stop_reading(&mut self, index: usize) -> Result<()> {
        let mut event = EpollEvent::new(EpollFlags::empty(), index as u64);
        Ok(self.epoll.modify(&self.members[index].conn, &mut event)?)
    }

    /// Stop watching a client's socket.
    pub(crate) fn ignore(&mut self, index: usize) -> Result<()> {
        Ok(self.epoll.delete(&self.members[index].conn)?)
    }

    /// Close all connections at once.
    pub(crate) fn leave_all(&mut self) {
        self.members.clear();
    }

    /// Close a client's connection and connect again with the same key.
    pub(crate) fn redial(&mut self, index: usize) -> Result<()> {
        let identity = self.members[index].conn.identity.clone();
        self.members[index] = self.connect(index, identity)?;
        Ok(())
    }

    fn dial(&mut self, identity: Option<Identity>) -> Result<()> {
        let identity = identity.map_or_else(Identity::new, Ok)?;
        let member = self.connect(self.len(), identity)?;
        self.members.push(member);
        Ok(())
    }

    fn connect(&self, index: usize, identity: Identity) -> Result<Member> {
        let conn = Conn::connect(&self.targets[index % self.targets.len()], identity)?;
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
        self.epoll.add(&conn, EpollEvent::new(interest, index as u64))?;
        Ok(Member { conn, awaits_room: true })
    }

    fn await_room(&mut self, index: usize, flushed: Flushed) -> Result<()> {
        let member = &mut self.members[index];
        let wanted = flushed == Flushed::Blocked;
        if wanted != member.awaits_room {
            let room = if wanted { EpollFlags::EPOLLOUT } else { EpollFlags::empty() };
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN | room, index as u64);
            self.epoll.modify(&member.conn, &mut event)?;
            member.awaits_room = wanted;
        }
        Ok(())
    }
}
