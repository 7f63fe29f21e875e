//! The closed loop: in every pair `in_flight` packets are on their way, and each that arrives lets the next
//! one go.
//!
//! So the server alone sets the pace, and nothing is ever lost for lack of room: a loss is a fault. The rate
//! that comes out is that of the slower of server and generator; only the server's CPU time per packet is a
//! result.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::fleet::{Fleet, Ready, Target};
use crate::frames::{self, Frame, KEY};
use crate::meter::{CpuClock, Latencies, Percentiles};
use crate::packet::{Filler, Seen};
use crate::report::{self, Phase};

/// How many clients log in at the same time.
const LOGINS_AT_ONCE: usize = 16;
/// How long a server may deliver nothing at all.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for events before looking at the clock again.
const TICK: Duration = Duration::from_millis(100);
/// How long packets may be on their way after the last one was sent.
const DRAIN: Duration = Duration::from_secs(2);

/// What is to be run.
pub(crate) struct Settings {
    pub(crate) pairs: usize,
    pub(crate) in_flight: u64,
    pub(crate) size: usize,
    pub(crate) warmup: Duration,
    pub(crate) window: Window,
    /// Whose CPU time is the result.
    pub(crate) servers: Vec<CpuClock>,
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
    lost: u64,
    misordered: u64,
    server_cpu_seconds: f64,
    generator_cpu_seconds: f64,
    packets_per_read: f64,
    latency_us: Option<Percentiles>,
}

/// Client `2 * i` sends to client `2 * i + 1`.
struct Pair {
    sender: [u8; KEY],
    receiver: [u8; KEY],
    sent: u64,
    /// The counter that the next packet must have: all below have arrived or are lost.
    expected: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    delivered: u64,
    lost: u64,
    misordered: u64,
    reads: u64,
}

struct Run {
    fleet: Fleet,
    pairs: Vec<Pair>,
    filler: Filler,
    size: usize,
    tally: Tally,
    latencies: Latencies,
    epoch: Instant,
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
pub(crate) fn run(target: Target, settings: &Settings) -> Result<()> {
    let mut run = Run::log_in(target, settings)?;
    for pair in 0..settings.pairs {
        run.send(pair, settings.in_flight)?;
    }
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
    fn log_in(target: Target, settings: &Settings) -> Result<Self> {
        let started = Instant::now();
        let mut fleet = Fleet::new(target)?;
        fleet.log_in(2 * settings.pairs, LOGINS_AT_ONCE)?;
        report::phase(&Phase::LoggedIn { clients: fleet.len(), seconds: started.elapsed().as_secs_f64() })?;
        let pairs = (0..fleet.len()).step_by(2).map(|sender| Pair {
            sender: fleet.conn(sender).identity.public,
            receiver: fleet.conn(sender + 1).identity.public,
            sent: 0,
            expected: 0,
        });
        let pairs = pairs.collect();
        Ok(Self {
            pairs,
            fleet,
            filler: Filler::new(settings.size),
            size: settings.size,
            tally: Tally::default(),
            latencies: Latencies::new(),
            epoch: started,
            sending: true,
        })
    }

    fn mark(&self, settings: &Settings) -> Result<Mark> {
        let servers = settings.servers.iter().map(|clock| clock.read()).sum::<Result<_>>()?;
        Ok(Mark { at: Instant::now(), servers, generator: CpuClock::own().read()?, tally: self.tally })
    }

    fn serve_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<()> {
        let (mut delivered, mut progress) = (self.tally.delivered, Instant::now());
        while !done(self) {
            for at in 0..self.fleet.wait(Some(TICK))? {
                self.serve(self.fleet.ready(at))?;
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
        let before = pair.expected;
        let mut now = None;
        let served = fleet.serve(ready, |frame| {
            if !is_receiver || frame.kind != frames::RECV_PACKET {
                return other_frame(&frame);
            }
            let seen = pair.check(&frame, filler, index, self.size)?;
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
        tally.reads += u64::from(is_receiver);
        let free = pair.expected - before;
        if free > 0 && self.sending { self.send(index, free) } else { Ok(()) }
    }

    /// Send the next `packets` of a pair, with one system call.
    fn send(&mut self, index: usize, packets: u64) -> Result<()> {
        let pair = &mut self.pairs[index];
        let conn = self.fleet.conn(2 * index);
        let now = self.epoch.elapsed().as_nanos() as u64;
        for counter in pair.sent..pair.sent + packets {
            conn.queue_frame(frames::SEND_PACKET, KEY + self.size, |payload| {
                let (to, packet) = payload.split_at_mut(KEY);
                to.copy_from_slice(&pair.receiver);
                self.filler.fill(packet, index as u32, counter, now);
            })?;
        }
        pair.sent += packets;
        self.fleet.flush(2 * index)
    }

    fn on_their_way(&self) -> u64 {
        self.pairs.iter().map(|pair| pair.sent - pair.expected).sum()
    }

    fn outcome(&self, start: &Mark, end: &Mark) -> Outcome {
        let delivered = end.tally.delivered - start.tally.delivered;
        Outcome {
            seconds: (end.at - start.at).as_secs_f64(),
            delivered,
            lost: self.tally.lost + self.on_their_way(),
            misordered: self.tally.misordered,
            server_cpu_seconds: (end.servers - start.servers).as_secs_f64(),
            generator_cpu_seconds: (end.generator - start.generator).as_secs_f64(),
            packets_per_read: delivered as f64 / (end.tally.reads - start.tally.reads) as f64,
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

fn other_frame(frame: &Frame<'_>) -> Result<()> {
    match frame.kind {
        frames::RECV_PACKET => bail!("a packet for one who only sends"),
        frames::PEER_GONE => bail!("the server says that the other one is gone"),
        _ => Ok(()),
    }
}
