//! Pairs of clients, of which one sends to the other: throughput, latency, loss, and the server's CPU time.
//!
//! In the closed loop, `in_flight` packets of a pair are on their way, and each arrival releases the next packet.
//! The server alone sets the pace, and a lost packet is a fault. In the open loop, packets have fixed times. If the
//! sender's socket is full, a packet is refused, as a real client drops it. A packet's latency counts from its
//! fixed time.
//!
//! Further pairs are not measured and only add load: senders that send as fast as they can, and receivers that
//! read nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use serde::Serialize;

use crate::fleet::{Fleet, OTHER, Ready};
use crate::frames::{self, Frame, KEY};
use crate::meter::{CpuClock, Latencies, Percentiles};
use crate::packet::{Filler, Seen};
use crate::report;
use crate::target::Target;

/// Logins in progress at the same time. With one, the clients of a pair log in one after the other, which decides the
/// shards of a server that assigns them in turn.
const LOGINS_AT_ONCE: usize = 1;
/// Give up after this time without a delivery.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for events before looking at the clock again.
const TICK: Duration = Duration::from_millis(100);
/// The interval at which the open loop sends the packets that are due.
const INTERVAL: Duration = Duration::from_micros(100);
/// The time to wait for packets after the last one was sent.
const DRAIN: Duration = Duration::from_secs(2);
/// The time for the nodes of a region to announce their clients to each other.
const INTRODUCTION: Duration = Duration::from_secs(1);
/// Bytes queued at a sender above which packets of the open loop are refused.
const BACKLOG: usize = 64 * 1024;
/// Packets that a flooding sender queues at a time.
const FLOOD_BATCH: u64 = 64;
/// Batches of a flooding sender before other clients are served.
const FLOOD_BATCHES: usize = 8;
/// Packets a second for each receiver that reads nothing.
const STUCK_RATE: f64 = 2_000.0;

/// The settings of a run.
pub(crate) struct Settings {
    pub(crate) pairs: usize,
    pub(crate) pace: Pace,
    pub(crate) size: usize,
    /// Further pairs whose sender sends as fast as it can.
    pub(crate) flood: usize,
    /// Further pairs whose receiver reads nothing.
    pub(crate) stuck: usize,
    pub(crate) warmup: Duration,
    pub(crate) window: Window,
    /// The servers whose CPU time is measured.
    pub(crate) servers: Vec<CpuClock>,
}

/// When a packet is sent.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// A packet is sent as soon as fewer than this number of the pair's packets are on their way.
    InFlight(u64),
    /// This number of packets is sent each second, over all measured pairs together.
    Rate(f64),
}

/// When the measurement ends.
#[derive(Clone, Copy)]
pub(crate) enum Window {
    Lasts(Duration),
    Packets(u64),
}

/// The result: counts and times of the measured window, faults of the whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    seconds: f64,
    delivered: u64,
    /// Packets that were due: sent or refused.
    offered: u64,
    /// Packets of `offered` that did not fit the sender's socket.
    refused: u64,
    lost: u64,
    misordered: u64,
    server_cpu_seconds: f64,
    generator_cpu_seconds: f64,
    packets_per_read: f64,
    latency_us: Option<Percentiles>,
}

/// The purpose of a pair.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Measured,
    Flood,
    Stuck,
}

/// Client `2 * i` sends to client `2 * i + 1`.
struct Pair {
    role: Role,
    sender: [u8; KEY],
    receiver: [u8; KEY],
    sent: u64,
    /// The counter of the next packet. All packets with lower counters have arrived or are lost.
    expected: u64,
    /// Packets of the open loop that were due so far, sent or refused.
    due: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
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
    counts: Counts,
    latencies: Latencies,
    epoch: Instant,
    /// When the open loop began.
    began: Instant,
    timer: Option<TimerFd>,
    sending: bool,
}

/// Clocks and counters at one moment.
struct Mark {
    at: Instant,
    servers: Duration,
    generator: Duration,
    counts: Counts,
}

/// Log in, warm up, measure, and wait for the packets that are still on their way. Reports each phase.
pub(crate) fn run(targets: Vec<Target>, settings: &Settings) -> Result<()> {
    let mut run = Run::log_in(targets, settings)?;
    run.begin()?;
    let warmup_ends = Instant::now() + settings.warmup;
    run.serve_until(|_| Instant::now() >= warmup_ends)?;

    run.latencies.clear();
    report::measuring()?;
    let start = run.mark(settings)?;
    run.serve_until(|run| match settings.window {
        Window::Lasts(duration) => start.at.elapsed() >= duration,
        Window::Packets(packets) => run.counts.delivered - start.counts.delivered >= packets,
    })?;
    let end = run.mark(settings)?;

    run.sending = false;
    let drain_ends = Instant::now() + DRAIN;
    run.serve_until(|run| run.on_their_way() == 0 || Instant::now() >= drain_ends)?;
    report::result(&run.outcome(&start, &end))
}

impl Run {
    fn log_in(targets: Vec<Target>, settings: &Settings) -> Result<Self> {
        let started = Instant::now();
        let across = targets.len() > 1;
        let mut fleet = Fleet::new(targets)?;
        fleet.log_in(2 * (settings.pairs + settings.flood + settings.stuck), LOGINS_AT_ONCE)?;
        report::logged_in(fleet.len(), started.elapsed().as_secs_f64())?;
        let mut pairs = Vec::new();
        for sender in (0..fleet.len()).step_by(2) {
            let role = match pairs.len() {
                at if at < settings.pairs => Role::Measured,
                at if at < settings.pairs + settings.flood => Role::Flood,
                _ => Role::Stuck,
            };
            if role == Role::Stuck {
                fleet.stop_reading(sender + 1)?;
            }
            pairs.push(Pair {
                role,
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
            counts: Counts::default(),
            latencies: Latencies::new(),
            epoch: started,
            began: Instant::now(),
            timer: None,
            sending: true,
        })
    }

    /// Send the first packets, and start the timer of the open loop.
    fn begin(&mut self) -> Result<()> {
        if matches!(self.pace, Pace::Rate(_)) || self.pairs.len() > self.measured {
            let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
            timer.set(Expiration::Interval(INTERVAL.into()), TimerSetTimeFlags::empty())?;
            self.fleet.watch(&timer)?;
            self.timer = Some(timer);
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
        Ok(Mark { at: Instant::now(), servers, generator: CpuClock::own().read()?, counts: self.counts })
    }

    fn serve_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<()> {
        let (mut delivered, mut progress) = (self.counts.delivered, Instant::now());
        while !done(self) {
            for at in 0..self.fleet.wait(Some(TICK))? {
                match self.fleet.ready(at) {
                    ready if ready.index == OTHER => self.send_due_packets()?,
                    ready => self.serve(ready)?,
                }
            }
            if self.counts.delivered > delivered {
                (delivered, progress) = (self.counts.delivered, Instant::now());
            }
            ensure!(
                progress.elapsed() < PATIENCE,
                "nothing was delivered for {PATIENCE:?}, {:?}",
                self.counts
            );
        }
        Ok(())
    }

    fn serve(&mut self, ready: Ready) -> Result<()> {
        let Self { fleet, pairs, filler, counts, latencies, .. } = self;
        let (index, is_receiver) = (ready.index / 2, ready.index % 2 == 1);
        let pair = &mut pairs[index];
        if pair.role == Role::Stuck && is_receiver {
            return reconnect(fleet, ready);
        }
        let measured = pair.role == Role::Measured;
        let before = pair.expected;
        let mut now = None;
        let served = fleet.serve(ready, |frame| {
            if !is_receiver || frame.kind != frames::RECV_PACKET {
                return other_frame(&frame, pair.role);
            }
            let seen = pair.check(&frame, filler, index, self.size)?;
            if !measured {
                return Ok(());
            }
            if seen.counter < pair.expected {
                counts.misordered += 1;
                return Ok(());
            }
            counts.lost += seen.counter - pair.expected;
            counts.delivered += 1;
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
        counts.reads += u64::from(is_receiver);
        let free = pair.expected - before;
        match self.pace {
            Pace::InFlight(_) if free > 0 && self.sending => self.send(index, free, |now, _| now),
            Pace::InFlight(_) | Pace::Rate(_) => Ok(()),
        }
    }

    /// Send the packets that are due.
    fn send_due_packets(&mut self) -> Result<()> {
        if let Some(timer) = &self.timer {
            timer.wait()?;
        }
        if !self.sending {
            return Ok(());
        }
        for index in 0..self.pairs.len() {
            let role = self.pairs[index].role;
            let has_room = self.fleet.conn(2 * index).queued() < BACKLOG;
            match (role, self.pace) {
                (Role::Measured, Pace::Rate(rate)) => {
                    self.send_due(index, rate / self.measured as f64, has_room)?;
                }
                (Role::Stuck, _) => self.send_due(index, STUCK_RATE, has_room)?,
                (Role::Flood, _) => self.flood(index)?,
                (Role::Measured, _) => {}
            }
        }
        Ok(())
    }

    /// Send until the socket is full, at most `FLOOD_BATCHES` batches.
    fn flood(&mut self, index: usize) -> Result<()> {
        for _ in 0..FLOOD_BATCHES {
            if self.fleet.conn(2 * index).queued() >= BACKLOG {
                break;
            }
            self.send(index, FLOOD_BATCH, |now, _| now)?;
        }
        Ok(())
    }

    /// Send the packets that are due, or refuse them.
    fn send_due(&mut self, index: usize, rate: f64, has_room: bool) -> Result<()> {
        let pair = &mut self.pairs[index];
        let due = (self.began.elapsed().as_secs_f64() * rate) as u64;
        let packets = due - std::mem::replace(&mut pair.due, due);
        if !has_room {
            if pair.role == Role::Measured {
                self.counts.refused += packets;
            }
            return Ok(());
        }
        let began = self.began.duration_since(self.epoch).as_nanos() as u64;
        // Refused packets have no number, so count from the end: the last packet is number `due` of all.
        self.send(index, packets, |_, left| began + ((due + 1 - left) as f64 / rate * 1e9) as u64)
    }

    /// Send the next `packets` of a pair, with one system call. `sent_at` returns a packet's time from the time now and
    /// the number of packets from this one to the last.
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
        if pair.role == Role::Measured {
            self.counts.sent += packets;
        }
        self.fleet.flush(2 * index)
    }

    fn on_their_way(&self) -> u64 {
        self.pairs[..self.measured].iter().map(|pair| pair.sent - pair.expected).sum()
    }

    fn outcome(&self, start: &Mark, end: &Mark) -> Outcome {
        let delivered = end.counts.delivered - start.counts.delivered;
        let refused = end.counts.refused - start.counts.refused;
        Outcome {
            seconds: (end.at - start.at).as_secs_f64(),
            delivered,
            offered: end.counts.sent - start.counts.sent + refused,
            refused,
            lost: self.counts.lost + self.on_their_way(),
            misordered: self.counts.misordered,
            server_cpu_seconds: (end.servers - start.servers).as_secs_f64(),
            generator_cpu_seconds: (end.generator - start.generator).as_secs_f64(),
            packets_per_read: delivered as f64 / (end.counts.reads - start.counts.reads).max(1) as f64,
            latency_us: self.latencies.percentiles(),
        }
    }
}

impl Pair {
    fn check(&self, frame: &Frame<'_>, filler: &Filler, stream: usize, size: usize) -> Result<Seen> {
        let (from, packet) = frame.payload.split_at_checked(KEY).context("a RecvPacket without a key")?;
        ensure!(from == self.sender, "a packet from another sender");
        filler.check(packet, stream as u32, size)
    }
}

/// If the server has closed a receiver that reads nothing, reconnect it. If its login is in progress, continue that.
fn reconnect(fleet: &mut Fleet, ready: Ready) -> Result<()> {
    if fleet.conn(ready.index).is_ready() {
        return fleet.redial(ready.index);
    }
    fleet.serve(ready, |_| Ok(()))?;
    if fleet.conn(ready.index).is_ready() { fleet.stop_reading(ready.index) } else { Ok(()) }
}

fn other_frame(frame: &Frame<'_>, role: Role) -> Result<()> {
    match frame.kind {
        frames::RECV_PACKET => bail!("a packet arrived at a sender"),
        frames::PEER_GONE if role != Role::Stuck => {
            bail!("the server reports that the other client of the pair is gone")
        }
        _ => Ok(()),
    }
}
