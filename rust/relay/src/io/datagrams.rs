//! STUN over its socket: reads requests, answers each from the address that it was sent to, counts.
//!
//! Shard 0 gives it a turn after each of its ticks: packets come first, and unread requests wait in the kernel. A turn
//! handles one batch, and never blocks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use sys::datagrams::{self, BATCH, Ends, Outgoing, Received};

use crate::stats::counter::Counter;
use crate::wire::stun::{self, Answer, Clients};

/// Bytes of a datagram that are read. A request never comes in fragments, so a longer datagram is no request.
const LONGEST: usize = 1_500;
/// Milliseconds between two reports of failing reads.
const REPORT_PAUSE_MS: u64 = 60_000;

/// The STUN service of the plane: its counters are zero until it has a socket.
#[derive(Default, Debug)]
pub(crate) struct Stun {
    service: OnceLock<(OwnedFd, Clients)>,
    counters: Counters,
}

/// The counters; only shard 0 writes them.
#[derive(Default, Debug)]
struct Counters {
    success: Counter,
    not_stun: Counter,
    read_error: Counter,
    write_error: Counter,
    ipv4: Counter,
    ipv6: Counter,
    no_local_addr: Counter,
}

impl Stun {
    /// Sets the socket, once in a plane's life.
    pub(crate) fn open(&self, socket: OwnedFd, clients: Clients) -> io::Result<()> {
        datagrams::report_local_addresses(socket.as_fd())?;
        self.service.set((socket, clients)).map_err(|_| io::Error::other("STUN has its socket already"))
    }

    pub(crate) fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.service.get()?.0.as_fd())
    }

    /// The counters' names and values (`docs/protocol/metrics.md`, Server): the metric, then the value of its label.
    pub(crate) fn snapshot(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.counters;
        let dropped = self.socket().and_then(|socket| datagrams::dropped(socket).ok());
        vec![
            ("stun_requests_success", counters.success.get()),
            ("stun_requests_not_stun", counters.not_stun.get()),
            ("stun_requests_read_error", counters.read_error.get()),
            ("stun_requests_write_error", counters.write_error.get()),
            ("stun_addrfamily_ipv4", counters.ipv4.get()),
            ("stun_addrfamily_ipv6", counters.ipv6.get()),
            ("stun_no_local_addr", counters.no_local_addr.get()),
            ("stun_kernel_drops", dropped.unwrap_or_default().into()),
        ]
    }
}

/// Reads requests and answers them; owns the buffers.
pub(crate) struct Responder {
    stun: Arc<Stun>,
    /// Empty until the first turn with a socket.
    buffers: Vec<[u8; LONGEST]>,
    received: Vec<Received>,
    answers: Vec<(Ends, Answer)>,
    report_again_at: u64,
}

impl Responder {
    pub(crate) const fn new(stun: Arc<Stun>) -> Self {
        Self { stun, buffers: Vec::new(), received: Vec::new(), answers: Vec::new(), report_again_at: 0 }
    }

    /// Answers at most one batch of pending requests. Returns the message of an error that is due for a report.
    pub(crate) fn turn(&mut self, now: u64) -> Option<String> {
        let (socket, clients) = self.stun.service.get()?;
        let counters = &self.stun.counters;
        if self.buffers.is_empty() {
            self.buffers = vec![[0; LONGEST]; BATCH];
        }
        match datagrams::receive(socket.as_fd(), &mut self.buffers, &mut self.received) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return None;
            }
            Err(error) => {
                counters.read_error.add(1);
                let is_due = now >= self.report_again_at;
                return is_due.then(|| {
                    self.report_again_at = now + REPORT_PAUSE_MS;
                    error.to_string()
                });
            }
        }
        self.answers.clear();
        for (Received { ends, len, is_whole }, buffer) in self.received.iter().zip(&self.buffers) {
            let Some(id) = is_whole.then(|| stun::request(&buffer[..*len], *clients)).flatten() else {
                counters.not_stun.add(1);
                continue;
            };
            let family =
                if ends.remote.ip().to_canonical().is_ipv4() { &counters.ipv4 } else { &counters.ipv6 };
            family.add(1);
            self.answers.push((*ends, Answer::new(&id, ends.remote)));
        }
        self.send(socket.as_fd());
        None
    }

    /// Sends the answers. An answer that cannot be sent now is dropped, because its client asks again.
    fn send(&self, socket: BorrowedFd<'_>) {
        let counters = &self.stun.counters;
        let answers: Vec<_> = self
            .answers
            .iter()
            .map(|(ends, answer)| Outgoing { ends: *ends, bytes: answer.as_bytes() })
            .collect();
        let mut rest = &answers[..];
        while !rest.is_empty() {
            let sent = datagrams::send(socket, rest).unwrap_or(0);
            counters.success.add(sent as u64);
            counters
                .no_local_addr
                .add(rest[..sent].iter().filter(|answer| answer.ends.local.is_none()).count() as u64);
            rest = &rest[sent..];
            if sent == 0 {
                counters.write_error.add(1);
                rest = &rest[1..];
            }
        }
    }
}
