//! Clients that attack a server, while the driver measures the latency of a pair in another process.
//!
//! The clients log in and prepare the attack. The attack begins when the driver writes a line. If the server closes
//! some of the clients, the attack continues with the others.

use std::io::{Read, stdin};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::fleet::{Fleet, OTHER};
use crate::frames::{self, KEY};
use crate::login::Identity;
use crate::report;
use crate::target::Target;

const LOGINS_AT_ONCE: usize = 64;
/// The attack's packets count as delivered after this long without any event.
const QUIET: Duration = Duration::from_millis(300);
/// The most time that the packets of the preparation may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Key updates that a client queues at a time.
const UPDATES: usize = 500;
/// Bytes of a packet to a client that never reads.
const LARGE: usize = 60_000;
/// Clients that send the large packets.
const SENDERS: usize = 4;

/// What the clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Each client sends one packet to every client.
    Everyone,
    /// Each client has sent one packet to every client; then all leave at once.
    Leave,
    /// All clients have the same key, and leave at once.
    OneKey,
    /// Each client repeatedly changes its TLS key and sends one byte.
    Updates,
    /// No client reads, and large packets are sent to all of them.
    Unread,
}

impl Kind {
    pub(crate) fn named(name: &str) -> Result<Self> {
        Ok(match name {
            "everyone" => Self::Everyone,
            "leave" => Self::Leave,
            "one-key" => Self::OneKey,
            "updates" => Self::Updates,
            "unread" => Self::Unread,
            other => bail!("the attack is everyone, leave, one-key, updates or unread, not {other}"),
        })
    }
}

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    seconds: f64,
    /// Packets that reached the clients.
    delivered: u64,
    /// Clients whose connection the server ended.
    ended: usize,
}

struct Attack {
    fleet: Fleet,
    clients: usize,
    alive: Vec<bool>,
    delivered: u64,
}

/// Log in, wait for a line on standard input, attack for at most `lasts`, wait for another line.
pub(crate) fn run(target: Target, kind: Kind, clients: usize, lasts: Duration) -> Result<()> {
    let mut fleet = Fleet::new(vec![target])?;
    let shared = (kind == Kind::OneKey).then(Identity::new).transpose()?;
    let senders = if kind == Kind::Unread { SENDERS } else { 0 };
    fleet.log_in_as(shared.as_ref(), clients + senders, LOGINS_AT_ONCE)?;
    let alive = vec![true; clients + senders];
    let mut attack = Attack { fleet, clients, alive, delivered: 0 };
    match kind {
        Kind::Leave => {
            attack.send_to_everyone()?;
            attack.serve_until_quiet(PATIENCE)?;
        }
        Kind::Unread => {
            for index in 0..clients {
                attack.fleet.stop_reading(index)?;
            }
        }
        Kind::Everyone | Kind::OneKey | Kind::Updates => {}
    }
    let started = Instant::now();
    report::logged_in(clients, 0.0)?;
    attack.wait_for_driver()?;
    attack.delivered = 0;
    match kind {
        Kind::Everyone => {
            attack.send_to_everyone()?;
            attack.serve_until_quiet(lasts)?;
        }
        Kind::Leave | Kind::OneKey => attack.fleet.leave_all(),
        Kind::Updates => attack.repeat(lasts, Attack::update_keys)?,
        Kind::Unread => attack.repeat(lasts, Attack::send_large)?,
    }
    let ended = attack.alive.iter().filter(|alive| !**alive).count();
    let outcome = Outcome { seconds: started.elapsed().as_secs_f64(), delivered: attack.delivered, ended };
    report::result(&outcome)?;
    attack.wait_for_driver()
}

impl Attack {
    /// Queue one empty packet of each client to each, and begin to send all of them.
    fn send_to_everyone(&mut self) -> Result<()> {
        let keys: Vec<_> = (0..self.clients).map(|index| self.fleet.conn(index).identity.public).collect();
        for index in 0..self.clients {
            for key in &keys {
                let conn = self.fleet.conn(index);
                conn.queue_frame(frames::SEND_PACKET, KEY, |payload| payload.copy_from_slice(key))?;
            }
        }
        for index in 0..self.clients {
            self.flush(index)?;
        }
        Ok(())
    }

    /// Queue changes of the key at each client that has sent all the earlier ones.
    fn update_keys(&mut self) -> Result<()> {
        for index in 0..self.clients {
            if !self.alive[index] || self.fleet.conn(index).queued() > 0 {
                continue;
            }
            for _ in 0..UPDATES {
                self.fleet.conn(index).queue_update_and_byte()?;
            }
            self.flush(index)?;
        }
        Ok(())
    }

    /// Queue large packets to all clients at each sender that has sent the earlier ones.
    fn send_large(&mut self) -> Result<()> {
        for sender in self.clients..self.clients + SENDERS {
            if !self.alive[sender] || self.fleet.conn(sender).queued() > 0 {
                continue;
            }
            for to in (0..self.clients).filter(|to| to % SENDERS == sender % SENDERS) {
                if self.alive[to] {
                    let key = self.fleet.conn(to).identity.public;
                    self.fleet.conn(sender).queue_frame(frames::SEND_PACKET, KEY + LARGE, |payload| {
                        payload[..KEY].copy_from_slice(&key);
                    })?;
                }
            }
            self.flush(sender)?;
        }
        Ok(())
    }

    fn flush(&mut self, index: usize) -> Result<()> {
        if self.alive[index] && self.fleet.flush(index).is_err() {
            self.end(index)?;
        }
        Ok(())
    }

    fn end(&mut self, index: usize) -> Result<()> {
        self.alive[index] = false;
        self.fleet.ignore(index)
    }

    fn repeat(&mut self, lasts: Duration, mut what: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        let ends = Instant::now() + lasts;
        while Instant::now() < ends {
            what(self)?;
            self.serve(Duration::from_millis(1))?;
        }
        Ok(())
    }

    fn serve_until_quiet(&mut self, most: Duration) -> Result<()> {
        let ends = Instant::now() + most;
        while Instant::now() < ends && self.serve(QUIET)? > 0 {}
        Ok(())
    }

    /// Serve the clients that are ready, and return the number of their events.
    fn serve(&mut self, timeout: Duration) -> Result<usize> {
        let events = self.fleet.wait(Some(timeout))?;
        for at in 0..events {
            let ready = self.fleet.ready(at);
            let delivered = &mut self.delivered;
            let served = self.fleet.serve(ready, |frame| {
                *delivered += u64::from(frame.kind == frames::RECV_PACKET);
                Ok(())
            });
            if served.is_err() && self.alive[ready.index] {
                self.end(ready.index)?;
            }
        }
        Ok(events)
    }

    /// Serve the clients until the driver writes a line or closes the pipe.
    fn wait_for_driver(&mut self) -> Result<()> {
        self.fleet.watch(stdin())?;
        loop {
            for at in 0..self.fleet.wait(None)? {
                let ready = self.fleet.ready(at);
                if ready.index == OTHER {
                    self.fleet.unwatch(stdin())?;
                    stdin().lock().read(&mut [0; 64]).context("the standard input")?;
                    return Ok(());
                }
                if self.fleet.serve(ready, |_| Ok(())).is_err() && self.alive[ready.index] {
                    self.end(ready.index)?;
                }
            }
        }
    }
}
