//! Histograms and a moving average of one shard.
//!
//! As with [`Counter`](crate::stats::counter::Counter), each has one writer, its shard.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stats::counter::Counter;

/// Bounds for the frames of one flush, packets and others.
const WRITE_FRAMES: &[u64] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 50, 100];
/// Bounds for the peer changes in one update of a watcher.
const BATCH_SIZE: &[u64] = &[0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];
/// Bounds for the number of updates until a watcher is up to date.
const LOOP_COUNT: &[u64] = &[0, 1, 2, 5, 10, 20, 50, 100];
/// Bounds for round-trip times, in milliseconds.
const RTT_MS: &[u64] = &[10, 20, 50, 100, 150, 250, 500];

/// Counts of values by size.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static [u64],
    /// One counter for each bound, of the values up to it and above the previous bound; one more for larger values.
    counts: Box<[Counter]>,
    sum: Counter,
}

/// The contents of a histogram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistogramSnapshot {
    /// The metric's name, without `derp_`.
    pub name: &'static str,
    /// The buckets' upper bounds, inclusive.
    pub bounds: &'static [u64],
    /// Values in each bucket alone, and in one more without a bound.
    pub counts: Vec<u64>,
    /// Sum of all values.
    pub sum: u64,
}

impl Histogram {
    fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| Counter::default()).collect();
        Self { bounds, counts, sum: Counter::default() }
    }

    pub(crate) fn observe(&self, value: u64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)].add(1);
        self.sum.add(value);
    }

    fn snapshot(&self, name: &'static str) -> HistogramSnapshot {
        let counts = self.counts.iter().map(Counter::get).collect();
        HistogramSnapshot { name, bounds: self.bounds, counts, sum: self.sum.get() }
    }
}

impl HistogramSnapshot {
    /// Adds another shard's histogram of the same name.
    pub(crate) fn add(&mut self, more: &Self) {
        self.counts.iter_mut().zip(&more.counts).for_each(|(count, more)| *count += more);
        self.sum += more.sum;
    }
}

/// Every histogram of a shard (`docs/protocol/metrics.md`, Relay).
#[derive(Debug)]
pub(crate) struct Histograms {
    pub(crate) buffered_write_frames: Histogram,
    pub(crate) mesh_update_batch_size: Histogram,
    pub(crate) mesh_update_loop_count: Histogram,
    /// Milliseconds, rounded up.
    pub(crate) tcp_rtt: Histogram,
}

impl Default for Histograms {
    fn default() -> Self {
        Self {
            buffered_write_frames: Histogram::new(WRITE_FRAMES),
            mesh_update_batch_size: Histogram::new(BATCH_SIZE),
            mesh_update_loop_count: Histogram::new(LOOP_COUNT),
            tcp_rtt: Histogram::new(RTT_MS),
        }
    }
}

impl Histograms {
    pub(crate) fn snapshots(&self) -> impl Iterator<Item = HistogramSnapshot> + '_ {
        [
            ("buffered_write_frames", &self.buffered_write_frames),
            ("mesh_update_batch_size", &self.mesh_update_batch_size),
            ("mesh_update_loop_count", &self.mesh_update_loop_count),
            ("tcp_rtt", &self.tcp_rtt),
        ]
        .into_iter()
        .map(|(name, histogram)| histogram.snapshot(name))
    }
}

/// An exponential moving average: new = 0.1 × sample + 0.9 × old.
#[derive(Default, Debug)]
pub(crate) struct MovingAverage {
    /// The bits of an `f64`.
    bits: AtomicU64,
    samples: Counter,
}

impl MovingAverage {
    /// Adds `samples` samples with this sum, as if each were their mean.
    pub(crate) fn add(&self, samples: u64, sum: u64) {
        if samples == 0 {
            return;
        }
        // After a thousand samples, nothing of the old value is left.
        let kept = 0.9_f64.powi(samples.min(1_000) as i32);
        let value = self.value() * kept + (sum as f64 / samples as f64) * (1.0 - kept);
        self.bits.store(value.to_bits(), Ordering::Relaxed);
        self.samples.add(samples);
    }

    fn value(&self) -> f64 {
        f64::from_bits(self.bits.load(Ordering::Relaxed))
    }

    /// One average over several shards, weighted by their samples.
    pub(crate) fn together<'a>(averages: impl Iterator<Item = &'a Self>) -> f64 {
        let (mut sum, mut samples) = (0.0, 0.0);
        for average in averages {
            let weight = average.samples.get() as f64;
            sum += average.value() * weight;
            samples += weight;
        }
        if samples == 0.0 { 0.0 } else { sum / samples }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_once_in_the_smallest_bucket_that_holds_it() {
        let histogram = Histogram::new(&[0, 1, 5]);
        for value in [0, 1, 2, 5, 6, 1_000] {
            histogram.observe(value);
        }
        let mut snapshot = histogram.snapshot("x");
        assert_eq!((snapshot.counts.as_slice(), snapshot.sum), (&[1, 1, 2, 2][..], 1_014));
        snapshot.add(&histogram.snapshot("x"));
        assert_eq!((snapshot.counts.as_slice(), snapshot.sum), (&[2, 2, 4, 4][..], 2_028));
    }

    #[test]
    fn samples_added_together_weigh_the_same_as_one_by_one() {
        let (together, single) = (MovingAverage::default(), MovingAverage::default());
        together.add(3, 30);
        (0..3).for_each(|_| single.add(1, 10));
        assert!((together.value() - single.value()).abs() < 1e-9);
        assert!((together.value() - 10.0 * (1.0 - 0.9_f64.powi(3))).abs() < 1e-9);
        together.add(0, 0);
        assert!((MovingAverage::together([&together, &single].into_iter()) - single.value()).abs() < 1e-9);
        assert!(MovingAverage::together([].into_iter()).abs() < f64::EPSILON);
    }
}
