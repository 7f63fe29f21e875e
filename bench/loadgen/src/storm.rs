//! Many clients that all reconnect at once, while a few pairs keep sending.
//!
//! The pairs that stay are a closed loop with one packet each. The result has their slowest packet and their lost
//! packets.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::fleet::{Fleet, Ready};
use crate::frames::{self, KEY};
use crate::meter::{CpuClock, Latencies, Percentiles};
use crate::packet::Filler;
use crate::report;
use crate::target::Target;

/// Logins in progress at the same time before the storm.
const LOGINS_AT_ONCE: usize = 64;
/// Give up if the clients are not all logged in again after this time.
const PATIENCE: Duration = Duration::from_secs(60);
const SIZE: usize = 1312;
const STAYING_PAIRS: usize = 10;

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    clients: usize,
    seconds: f64,
    /// Packets of the staying pairs that arrived during the storm.
    delivered: u64,
    lost: u64,
    server_cpu_seconds: f64,
    generator_cpu_seconds: f64,
    latency_us: Option<Percentiles>,
}

/// Log in `clients`, reconnect all of them, and measure the time until all are logged in again.
pub(crate) fn run(target: Target, clients: usize, server: CpuClock) -> Result<()> {
    let staying = 2 * STAYING_PAIRS;
    let mut fleet = Fleet::new(vec![target])?;
    fleet.log_in(staying + clients, LOGINS_AT_ONCE)?;
    let mut talk = Talk::new(&mut fleet);
    for pair in 0..STAYING_PAIRS {
        talk.send(&mut fleet, pair)?;
    }
    report::measuring()?;
    let (started, before, own) = (Instant::now(), server.read()?, CpuClock::own().read()?);
    for index in staying..fleet.len() {
        fleet.redial(index)?;
    }
    let mut in_again = 0;
    while in_again < clients {
        ensure!(
            started.elapsed() < PATIENCE,
            "{in_again} of {clients} clients were logged in again after {PATIENCE:?}"
        );
        for at in 0..fleet.wait(Some(PATIENCE))? {
            let ready = fleet.ready(at);
            if ready.index < staying {
                talk.serve(&mut fleet, ready)?;
                continue;
            }
            let before = fleet.conn(ready.index).is_ready();
            fleet
                .serve(ready, |_| Ok(()))
                .with_context(|| format!("client {} while it reconnects", ready.index))?;
            in_again += usize::from(!before && fleet.conn(ready.index).is_ready());
        }
    }
    let outcome = Outcome {
        clients,
        seconds: started.elapsed().as_secs_f64(),
        delivered: talk.delivered,
        lost: talk.lost,
        server_cpu_seconds: (server.read()? - before).as_secs_f64(),
        generator_cpu_seconds: (CpuClock::own().read()? - own).as_secs_f64(),
        latency_us: talk.latencies.percentiles(),
    };
    report::result(&outcome)
}

/// The traffic of the staying pairs: one packet of each is on its way.
struct Talk {
    filler: Filler,
    receivers: Vec<[u8; KEY]>,
    counters: Vec<u64>,
    epoch: Instant,
    latencies: Latencies,
    delivered: u64,
    lost: u64,
}

impl Talk {
    fn new(fleet: &mut Fleet) -> Self {
        Self {
            filler: Filler::new(SIZE),
            receivers: (0..STAYING_PAIRS).map(|pair| fleet.conn(2 * pair + 1).identity.public).collect(),
            counters: vec![0; STAYING_PAIRS],
            epoch: Instant::now(),
            latencies: Latencies::new(),
            delivered: 0,
            lost: 0,
        }
    }

    fn send(&mut self, fleet: &mut Fleet, pair: usize) -> Result<()> {
        let now = self.epoch.elapsed().as_nanos() as u64;
        fleet.conn(2 * pair).queue_frame(frames::SEND_PACKET, KEY + SIZE, |payload| {
            let (to, packet) = payload.split_at_mut(KEY);
            to.copy_from_slice(&self.receivers[pair]);
            self.filler.fill(packet, pair as u32, self.counters[pair], now);
        })?;
        fleet.flush(2 * pair)
    }

    fn serve(&mut self, fleet: &mut Fleet, ready: Ready) -> Result<()> {
        let pair = ready.index / 2;
        let (mut arrived, expected) = (None, self.counters[pair]);
        fleet.serve(ready, |frame| {
            if frame.kind == frames::RECV_PACKET {
                let packet = frame.payload.get(KEY..).context("a RecvPacket without a key")?;
                arrived = Some(self.filler.check(packet, pair as u32, SIZE)?);
            }
            Ok(())
        })?;
        let Some(seen) = arrived else { return Ok(()) };
        self.lost += seen.counter.abs_diff(expected);
        self.delivered += 1;
        self.counters[pair] = seen.counter + 1;
        self.latencies.add((self.epoch.elapsed().as_nanos() as u64).saturating_sub(seen.sent_at));
        self.send(fleet, pair)
    }
}
