//! Rate limits of clients: bytes read from each key, and from all clients together.
//!
//! No clock: the time is passed in, in milliseconds. Rules: `docs/protocol/relay.md`, Rate limit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::limits::bucket::{Bucket, Rate};
use crate::limits::duty_cycle::DutyCycle;
use crate::wire::frame::Key;

/// Minimum and maximum payload bytes of one turn. A client keeps the rest of its turn, so the maximum bounds its
/// savings.
const TURN: (f64, f64) = (4_096.0, 65_536.0);
/// Milliseconds of the total rate that one round of turns takes: longer than a shard's shortest sleep.
const ROUND_MS: f64 = 2.0;

/// The limits of clients; mesh peers have none.
#[derive(Debug)]
pub struct Limits {
    default: Option<Rate>,
    per_key: HashMap<Key, Option<Rate>>,
    total: Option<Total>,
}

impl Limits {
    /// Creates limits for each client, with exceptions by key, and for all clients together; `None`: no limit.
    #[must_use]
    pub fn new(default: Option<Rate>, per_key: HashMap<Key, Option<Rate>>, total: Option<Rate>) -> Self {
        Self { default, per_key, total: total.map(Total::new) }
    }

    /// Whether there are any limits.
    pub(crate) fn are_any(&self) -> bool {
        self.default.is_some() || self.total.is_some() || self.per_key.values().any(Option::is_some)
    }

    pub(crate) fn of(&self, key: &Key) -> Option<Rate> {
        self.per_key.get(key).copied().unwrap_or(self.default)
    }

    pub(crate) const fn total(&self) -> Option<&Total> {
        self.total.as_ref()
    }
}

/// The limit that all clients of all shards share, in turns. A client that has used up its turn gets the next one after
/// all clients that wait already. So all clients that want more than their share get equal shares.
#[derive(Debug)]
pub(crate) struct Total {
    rate: Rate,
    /// The time at which the bytes of all turns so far have been earned.
    paid_at: Mutex<f64>,
    /// Clients that wait for a turn.
    waiting: AtomicUsize,
}

impl Total {
    fn new(rate: Rate) -> Self {
        Self { rate, paid_at: Mutex::new(f64::MIN), waiting: AtomicUsize::new(0) }
    }

    /// Allots a turn. Returns its bytes, and the time from which they may be used.
    pub(crate) fn turn(&self, now: u64) -> (f64, u64) {
        let a_ms = self.rate.per_second / 1_000.0;
        let waiting = self.waiting.load(Ordering::Relaxed).max(1) as f64;
        let bytes = (a_ms * ROUND_MS / waiting).clamp(TURN.0, TURN.1);
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        *paid_at = paid_at.max(now as f64 - self.rate.burst / a_ms) + bytes / a_ms;
        (bytes, paid_at.ceil().max(now as f64) as u64)
    }

    pub(crate) fn count_waiting(&self, waits: bool) {
        if waits {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// The limit that a frame waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limited {
    /// The limit of its sender.
    Client,
    /// The limit of all clients together.
    Total,
}

/// The bytes that may still be read from one client.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// The edition of the limits that `rate` is from; 0: none yet.
    edition: u32,
    rate: Option<Rate>,
    bucket: Bucket,
    /// The rest of its turn at the total limit, in bytes.
    turn: f64,
    /// The limits that its next frame has waited for already, so that each is counted once.
    waited: [bool; 2],
    /// The time for which it has been held back.
    pub(crate) duty_cycle: DutyCycle,
}

impl Default for Allowance {
    fn default() -> Self {
        Self {
            edition: 0,
            rate: None,
            bucket: Bucket::full(),
            turn: 0.0,
            waited: [false; 2],
            duty_cycle: DutyCycle::default(),
        }
    }
}

/// A frame's wait: its end, the limit that causes it, and whether the frame waits for this limit for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Wait {
    pub(crate) until: u64,
    pub(crate) limited: Limited,
    pub(crate) is_new: bool,
}

impl Allowance {
    /// Takes `cost` payload bytes for a client of `key`. Returns the wait as an error.
    ///
    /// `others_wait`: whether other clients get their turns before a new one.
    pub(crate) fn take(
        &mut self,
        (limits, edition): (&Limits, u32),
        key: &Key,
        cost: f64,
        others_wait: bool,
        now: u64,
    ) -> Result<(), Wait> {
        if self.edition != edition {
            (self.edition, self.rate) = (edition, limits.of(key));
        }
        if let Some(total) = limits.total() {
            while self.turn < cost {
                let (bytes, from) = total.turn(now);
                self.turn += bytes;
                if from > now || others_wait {
                    return Err(self.wait(from, Limited::Total));
                }
            }
        }
        if let Some(rate) = self.rate
            && let Err(ms) = self.bucket.take(rate, cost, now)
        {
            return Err(self.wait(now.saturating_add(ms), Limited::Client));
        }
        if limits.total().is_some() {
            self.turn -= cost;
        }
        self.waited = [false; 2];
        Ok(())
    }

    fn wait(&mut self, until: u64, limited: Limited) -> Wait {
        let is_new = !std::mem::replace(&mut self.waited[limited as usize], true);
        Wait { until, limited, is_new }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Rate = Rate { per_second: 1_000.0, burst: 70_000.0 };
    const FAST: Rate = Rate { per_second: 1_000_000.0, burst: 70_000.0 };

    fn taken(limits: &Limits, key: u8, allowance: &mut Allowance, now: u64) -> usize {
        let take = |_: &usize| allowance.take((limits, 1), &[key; 32], 1_000.0, false, now).is_ok();
        (0..10_000).take_while(take).count()
    }

    #[test]
    fn an_entry_for_a_key_wins_over_the_default() {
        let limits = Limits::new(Some(SLOW), [([1; 32], Some(FAST)), ([2; 32], None)].into(), None);
        for (key, after_a_second) in [(0, 1), (1, 70), (2, 10_000)] {
            let mut allowance = Allowance::default();
            taken(&limits, key, &mut allowance, 0);
            assert_eq!(taken(&limits, key, &mut allowance, 1_000), after_a_second);
        }
    }

    #[test]
    fn a_frame_that_waits_for_several_turns_is_counted_once() {
        let limits = Limits::new(None, HashMap::new(), Some(SLOW));
        taken(&limits, 0, &mut Allowance::default(), 0);
        let mut allowance = Allowance::default();
        let (mut now, mut new) = (0, 0);
        while let Err(wait) = allowance.take((&limits, 1), &[0; 32], 60_000.0, false, now) {
            (now, new) = (wait.until, new + usize::from(wait.is_new));
        }
        assert_eq!(new, 1);
        assert!((55_000..=66_000).contains(&now), "{now} ms for 60 kB at 1 kB/s");
    }

    #[test]
    fn clients_above_their_share_of_the_total_get_equal_shares_for_all_frame_sizes() {
        let limits = Limits::new(None, HashMap::new(), Some(FAST));
        let total = limits.total().expect("a total");
        let frames = [100.0, 1_300.0, 20_000.0, 65_568.0];
        let mut clients = frames.map(|cost| (Allowance::default(), cost, 0.0, 0));
        for _ in &clients {
            total.count_waiting(true);
        }
        for now in 0..60_000 {
            let mut due: Vec<_> = clients.iter_mut().filter(|client| client.3 <= now).collect();
            due.sort_by_key(|client| client.3);
            for (allowance, cost, sent, until) in due {
                loop {
                    match allowance.take((&limits, 1), &[0; 32], *cost, true, now) {
                        Ok(()) => *sent += *cost,
                        Err(wait) => break *until = wait.until.max(now + 1),
                    }
                }
            }
        }
        let all: f64 = clients.iter().map(|client| client.2).sum();
        assert!((59.0e6..60.5e6).contains(&all), "{all} bytes in a minute at 1 MB/s");
        for (_, cost, sent, _) in clients {
            assert!((0.9..1.1).contains(&(sent / all * 4.0)), "frames of {cost} bytes get {sent} of {all}");
        }
    }
}
