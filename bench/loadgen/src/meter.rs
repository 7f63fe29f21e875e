//! The meters: CPU time of processes, and latencies.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::Serialize;

/// The CPU clock of a process: user and system time of all its threads, including ended ones, in nanoseconds.
#[derive(Clone, Copy)]
pub(crate) struct CpuClock(ClockId);

impl CpuClock {
    /// Return the clock of this process.
    pub(crate) fn own() -> Self {
        Self(ClockId::CLOCK_PROCESS_CPUTIME_ID)
    }

    /// Return the clock of another process.
    pub(crate) fn of(process: i32) -> Result<Self> {
        let clock = clock_getcpuclockid(Pid::from_raw(process));
        Ok(Self(clock.with_context(|| format!("the CPU clock of process {process}"))?))
    }

    pub(crate) fn read(self) -> Result<Duration> {
        Ok(clock_gettime(self.0).context("reading a CPU clock")?.into())
    }
}

/// A histogram of latencies. A bucket is 1/64 of its value wide, or one nanosecond.
pub(crate) struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

const STEPS: u32 = 64;
const STEP_BITS: u32 = STEPS.ilog2();

/// Percentiles in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Latencies {
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; ((64 - STEP_BITS + 1) * STEPS) as usize], total: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.counts.fill(0);
        self.total = 0;
    }

    pub(crate) fn add(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
    }

    /// Return the percentiles; None without values.
    pub(crate) fn percentiles(&self) -> Option<Percentiles> {
        let at = |share: f64| {
            let rank = ((self.total as f64 * share).ceil() as u64).max(1);
            let mut seen = 0;
            let bucket = self.counts.iter().position(|&count| {
                seen += count;
                seen >= rank
            })?;
            Some(middle(bucket) / 1000.0)
        };
        Some(Percentiles { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)?, p999: at(0.999)?, max: at(1.0)? })
    }
}

fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(STEP_BITS + 1);
    (u64::from(shift * STEPS) + (value >> shift)) as usize
}

fn middle(bucket: usize) -> f64 {
    let bucket = bucket as u64;
    let shift = (bucket / u64::from(STEPS)).saturating_sub(1);
    let low = (bucket - shift * u64::from(STEPS)) << shift;
    low as f64 + ((1_u64 << shift) - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_within_one_percent_of_every_value_in_it() {
        for value in (0..100_000).chain([1 << 30, (1 << 40) + 12_345, u64::MAX / 2]) {
            let error = (middle(bucket(value)) - value as f64).abs();
            assert!(error <= value as f64 / 100.0, "{value} counts as {}", middle(bucket(value)));
        }
    }

    #[test]
    fn percentiles_are_those_of_the_values() {
        let mut latencies = Latencies::new();
        assert!(latencies.percentiles().is_none());
        (1..=1000).for_each(|microseconds| latencies.add(microseconds * 1000));
        let seen = latencies.percentiles().expect("there are some");
        for (seen, wanted) in [(seen.p50, 500.0), (seen.p90, 900.0), (seen.p99, 990.0), (seen.max, 1000.0)] {
            assert!((seen - wanted).abs() / wanted < 0.02, "{seen} for {wanted}");
        }
    }

    #[test]
    fn the_own_cpu_clock_runs() {
        let before = CpuClock::own().read().expect("readable");
        let other = CpuClock::of(std::process::id() as i32).expect("there").read().expect("readable");
        assert!(other >= before);
    }
}
