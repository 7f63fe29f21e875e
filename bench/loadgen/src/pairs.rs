//! Pairs of clients, one of which sends to the other, and what the packets of the pairs under measure meet.
//!
//! In the closed loop `in_flight` packets of a pair are on their way, and each that arrives lets the next one
//! go: the server alone sets the pace, and a loss is a fault. In the open loop packets go at their times,
//! whatever the server does; one for which the sender's socket has no room is refused, as a real client drops
//! it, and a packet's latency counts from the time at which it should have gone.
//!
//! Behind the measured pairs come others that only make it hard for them: senders that send all they can, and
//! receivers that read nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::Serialize;

use crate::fleet::{Fleet, OTHER, Ready, Target};
use crate::frames::{self, Frame, KEY};
use crate::meter::{CpuClock, Latencies, Percentiles};
use crate::packet::{Filler, Seen};
use crate::report::{self, Phase};

/// How many clients log in at the same time: the two of a pair come one right after the other, which decides where a
/// server that places its clients by turns has them.
const LOGINS_AT_ONCE: usize = 1;
/// How long a server may deliver nothing at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for events before looking at the clock again.
const TICK: Duration = Duration::from_millis(100);
/// How often the open loop looks whose time has come.
const BEAT: Duration = Duration::from_micros(100);
/// How long packets may be on their way after the last one was sent.
const DRAIN: Duration = Duration::from_secs(2);
/// How long nodes of a region may take to hear of each other's clients.
const INTRODUCTION: Duration = Duration::from_secs(1);
/// Bytes queued at a sender beyond which the open loop's packets are refused: its socket is full.
const BACKLOG: usize = 64 * 1024;
/// Packets that a sender which sends all it can makes at once.
const FLOOD_BATCH: u64 = 64;
/// How many of those it makes at most before others get their turn.
const FLOOD_BATCHES: usize = 8;
/// Packets a second for each receiver that reads nothing.
const STUCK_RATE: f64 = 2_000.0;

/// What is to be run.
pub(crate) struct Settings {
    pub(crate) pairs: usize,
    pub(crate) pace: Pace,
    pub(crate) size: usize,
    /// Further pairs whose sender sends all it can.
    pub(crate) flood: usize,
    /// Further pairs whose receiver reads nothing.
    pub(crate) stuck: usize,
    pub(crate) warmup: Duration,
    pub(crate) window: Window,
    /// Whose CPU time is the result.
    pub(crate) servers: Vec<CpuClock>,
}

/// When a packet goes.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// As soon as fewer than so many of its pair are on their way.
    InFlight(u64),
    /// So many a second, of all measured pairs together.
    Rate(f64),
}

/// When the measurement ends.
#[derive(Clone, Copy)]
pub(crate) enum Window {
    Lasts(Duration),
    Packets(u64),
}

/// The result. Counts and times are those of the measured window; faults are those of the whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    seconds: f64,
    delivered: u64,
    /// Sent and refused in the window: what the pace called for.
    offered: u64,
    /// Of these, those for which the sender's socket had no room.
    refused: u64,
    lost: u64,
    misordered: u64,
    server_cpu_seconds: f64,
    generator_cpu_seconds: f64,
    packets_per_read: f64,
    latency_us: Option<Percentiles>,
}

/// What a pair is there for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Measured,
    Flood,
    Stuck,
}

/// Client `2 * i` sends to client `2 * i + 1`.
struct Pair {
    part: Part,
    sender: [u8; KEY],
    receiver: [u8; KEY],
    sent: u64,
    /// The counter that the next packet must have: all below have arrived or are lost.
    expected: u64,
    /// Packets whose time has come, in an open loop, sent or refused.
    due: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    delivered: u64,
    sent: u64,
    refused: u64,
    lost: u64,
    misordered: u64,
    reads: u64,
}

struct Run {
    fleet: Fleet,
    pairs: Vec<Pair>,
    filler: Filler,
    pace: Pace,
    measured: usize,
    size: usize,
    tally: Tally,
    latencies: Latencies,
    epoch: Instant,
    /// When the open loops began.
    began: Instant,
    beat: Option<TimerFd>,
    sending: bool,
}

/// Clocks and counters at one moment.
struct Mark {
    at: Instant,
    servers: Duration,
    generator: Duration,
    tally: Tally,
}

/// Log in, warm up, measure, wait for what is still on its way; tell each phase on the standard output.
pub(crate) fn run(targets: Vec<Target>, settings: &Settings) -> Result<()> {
    let mut run = Run::log_in(targets, settings)?;
    run.begin()?;
    let warmup_ends = Instant::now() + settings.warmup;
    run.serve_until(|_| Instant::now() >= warmup_ends)?;

    run.latencies.clear();
    report::phase(&Phase::Measuring)?;
    let start = run.mark(settings)?;
    run.serve_until(|run| match settings.window {
        Window::Lasts(duration) => start.at.elapsed() >= duration,
        Window::Packets(packets) => run.tally.delivered - start.tally.delivered >= packets,
    })?;
    let end = run.mark(settings)?;

    run.sending = false;
    let drain_ends = Instant::now() + DRAIN;
    run.serve_until(|run| run.on_their_way() == 0 || Instant::now() >= drain_ends)?;
    report::phase(&Phase::Result(run.outcome(&start, &end)))
}

impl Run {
    fn log_in(targets: Vec<Target>, settings: &Settings) -> Result<Self> {
        let started = Instant::now();
        let across = targets.len() > 1;
        let mut fleet = Fleet::new(targets)?;
        fleet.log_in(2 * (settings.pairs + settings.flood + settings.stuck), LOGINS_AT_ONCE)?;
        report::phase(&Phase::LoggedIn { clients: fleet.len(), seconds: started.elapsed().as_secs_f64() })?;
        let mut pairs = Vec::new();
        for sender in (0..fleet.len()).step_by(2) {
            let part = match pairs.len() {
                at if at < settings.pairs => Part::Measured,
                at if at < settings.pairs + settings.flood => Part::Flood,
                _ => Part::Stuck,
            };
            if part == Part::Stuck {
                fleet.stop_reading(sender + 1)?;
            }
            pairs.push(Pair {
                part,
                sender: fleet.conn(sender).identity.public,
                receiver: fleet.conn(sender + 1).identity.public,
                sent: 0,
                expected: 0,
                due: 0,
            });
        }
        if across {
            std::thread::sleep(INTRODUCTION);
        }
        Ok(Self {
            pairs,
            fleet,
            filler: Filler::new(settings.size),
            pace: settings.pace,
            measured: settings.pairs,
            size: settings.size,
            tally: Tally::default(),
            latencies: Latencies::new(),
            epoch: started,
            began: Instant::now(),
            beat: None,
            sending: true,
        })
    }

    /// Send what may go at once, and start the clock of what goes by it.
    fn begin(&mut self) -> Result<()> {
        if matches!(self.pace, Pace::Rate(_)) || self.pairs.len() > self.measured {
            let beat = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
            beat.set(Expiration::Interval(BEAT.into()), TimerSetTimeFlags::empty())?;
            self.fleet.watch(&beat)?;
            self.beat = Some(beat);
        }
        self.began = Instant::now();
        if let Pace::InFlight(packets) = self.pace {
            for pair in 0..self.measured {
                self.send(pair, packets, |now, _| now)?;
            }
        }
        Ok(())
    }

    fn mark(&self, settings: &Settings) -> Result<Mark> {
        let servers = settings.servers.iter().map(|clock| clock.read()).sum::<Result<_>>()?;
        Ok(Mark { at: Instant::now(), servers, generator: CpuClock::own().read()?, tally: self.tally })
    }

    fn serve_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<()> {
        let (mut delivered, mut progress) = (self.tally.delivered, Instant::now());
        while !done(self) {
            for at in 0..self.fleet.wait(Some(TICK))? {
                match self.fleet.ready(at) {
                    ready if ready.index == OTHER => self.beat()?,
                    ready => self.serve(ready)?,
                }
            }
            if self.tally.delivered > delivered {
                (delivered, progress) = (self.tally.delivered, Instant::now());
            }
            ensure!(
                progress.elapsed() < PATIENCE,
                "nothing was delivered for {PATIENCE:?}, {:?}",
                self.tally
            );
        }
        Ok(())
    }

    fn serve(&mut self, ready: Ready) -> Result<()> {
        let Self { fleet, pairs, filler, tally, latencies, .. } = self;
        let (index, is_receiver) = (ready.index / 2, ready.index % 2 == 1);
        let pair = &mut pairs[index];
        if pair.part == Part::Stuck && is_receiver {
            return come_again(fleet, ready);
        }
        let measured = pair.part == Part::Measured;
        let before = pair.expected;
        let mut now = None;
        let served = fleet.serve(ready, |frame| {
            if !is_receiver || frame.kind != frames::RECV_PACKET {
                return other_frame(&frame, pair.part);
            }
            let seen = pair.check(&frame, filler, index, self.size)?;
            if !measured {
                return Ok(());
            }
            if seen.counter < pair.expected {
                tally.misordered += 1;
                return Ok(());
            }
            tally.lost += seen.counter - pair.expected;
            tally.delivered += 1;
            pair.expected = seen.counter + 1;
            let now = *now.get_or_insert_with(|| self.epoch.elapsed().as_nanos() as u64);
            latencies.add(now.saturating_sub(seen.sent_at));
            Ok(())
        });
        served
            .with_context(|| format!("pair {index}, {}", if is_receiver { "receiver" } else { "sender" }))?;
        if !measured {
            return Ok(());
        }
        tally.reads += u64::from(is_receiver);
        let free = pair.expected - before;
        match self.pace {
            Pace::InFlight(_) if free > 0 && self.sending => self.send(index, free, |now, _| now),
            Pace::InFlight(_) | Pace::Rate(_) => Ok(()),
        }
    }

    /// The clock has beaten: send what is due.
    fn beat(&mut self) -> Result<()> {
        if let Some(beat) = &self.beat {
            beat.wait()?;
        }
        if !self.sending {
            return Ok(());
        }
        for index in 0..self.pairs.len() {
            let part = self.pairs[index].part;
            let has_room = self.fleet.conn(2 * index).queued() < BACKLOG;
            match (part, self.pace) {
                (Part::Measured, Pace::Rate(rate)) => {
                    self.send_due(index, rate / self.measured as f64, has_room)?;
                }
                (Part::Stuck, _) => self.send_due(index, STUCK_RATE, has_room)?,
                (Part::Flood, _) => self.flood(index)?,
                (Part::Measured, _) => {}
            }
        }
        Ok(())
    }

    /// Send until the socket takes no more, or for a while.
    fn flood(&mut self, index: usize) -> Result<()> {
        for _ in 0..FLOOD_BATCHES {
            if self.fleet.conn(2 * index).queued() >= BACKLOG {
                break;
            }
            self.send(index, FLOOD_BATCH, |now, _| now)?;
        }
        Ok(())
    }

    /// Send the packets whose time has come, or refuse them.
    fn send_due(&mut self, index: usize, rate: f64, has_room: bool) -> Result<()> {
        let pair = &mut self.pairs[index];
        let due = (self.began.elapsed().as_secs_f64() * rate) as u64;
        let packets = due - std::mem::replace(&mut pair.due, due);
        if !has_room {
            if pair.part == Part::Measured {
                self.tally.refused += packets;
            }
            return Ok(());
        }
        let began = self.began.duration_since(self.epoch).as_nanos() as u64;
        // Refused ones have no number, so what is sent is counted from the end: the last one is the `due`th of all.
        self.send(index, packets, |_, left| began + ((due + 1 - left) as f64 / rate * 1e9) as u64)
    }

    /// Send the next `packets` of a pair, with one system call; `sent_at` gives a packet's time, of now and of
    /// how many come with and after it.
    fn send(&mut self, index: usize, packets: u64, sent_at: impl Fn(u64, u64) -> u64) -> Result<()> {
        let pair = &mut self.pairs[index];
        let conn = self.fleet.conn(2 * index);
        let now = self.epoch.elapsed().as_nanos() as u64;
        for counter in pair.sent..pair.sent + packets {
            let at = sent_at(now, pair.sent + packets - counter);
            conn.queue_frame(frames::SEND_PACKET, KEY + self.size, |payload| {
                let (to, packet) = payload.split_at_mut(KEY);
                to.copy_from_slice(&pair.receiver);
                self.filler.fill(packet, index as u32, counter, at);
            })?;
        }
        pair.sent += packets;
        if pair.part == Part::Measured {
            self.tally.sent += packets;
        }
        self.fleet.flush(2 * index)
    }

    fn on_their_way(&self) -> u64 {
        self.pairs[..self.measured].iter().map(|pair| pair.sent - pair.expected).sum()
    }

    fn outcome(&self, start: &Mark, end: &Mark) -> Outcome {
        let delivered = end.tally.delivered - start.tally.delivered;
        let refused = end.tally.refused - start.tally.refused;
        Outcome {
            seconds: (end.at - start.at).as_secs_f64(),
            delivered,
            offered: end.tally.sent - start.tally.sent + refused,
            refused,
            lost: self.tally.lost + self.on_their_way(),
            misordered: self.tally.misordered,
            server_cpu_seconds: (end.servers - start.servers).as_secs_f64(),
            generator_cpu_seconds: (end.generator - start.generator).as_secs_f64(),
            packets_per_read: delivered as f64 / (end.tally.reads - start.tally.reads).max(1) as f64,
            latency_us: self.latencies.percentiles(),
        }
    }
}

impl Pair {
    fn check(&self, frame: &Frame<'_>, filler: &Filler, stream: usize, size: usize) -> Result<Seen> {
        let (from, packet) = frame.payload.split_at_checked(KEY).context("a RecvPacket without a key")?;
        ensure!(from == self.sender, "a packet from somebody else");
        filler.check(packet, stream as u32, size)
    }
}

/// A receiver that reads nothing was thrown out, or goes on with its next login.
fn come_again(fleet: &mut Fleet, ready: Ready) -> Result<()> {
    if fleet.conn(ready.index).is_ready() {
        return fleet.redial(ready.index);
    }
    fleet.serve(ready, |_| Ok(()))?;
    if fleet.conn(ready.index).is_ready() { fleet.stop_reading(ready.index) } else { Ok(()) }
}

fn other_frame(frame: &Frame<'_>, part: Part) -> Result<()> {
    match frame.kind {
        frames::RECV_PACKET => bail!("a packet for one who only sends"),
        frames::PEER_GONE if part != Part::Stuck => bail!("the server says that the other one is gone"),
        _ => Ok(()),
    }
}
