//! The rate limit of clients (`docs/protocol/relay.md`, Rate limit). It stops reading, so TCP slows the sender down.

use std::cmp::Reverse;
use std::sync::Arc;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::limits::rates::{Limited, Limits, Total, Wait};
use crate::wire::frame;

use super::Shard;

/// A connection that waits for a limit until `until`. Equal times resume in the order of `turn`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Throttled {
    until: u64,
    turn: u64,
    id: ConnId,
    for_total: bool,
}

/// The limits in force, and this shard's state of them.
#[derive(Default)]
pub(super) struct InForce {
    /// `None` if there are no limits.
    limits: Option<Arc<Limits>>,
    /// Counts the changes of the limits.
    edition: u32,
    /// Counts the connections that have had to wait.
    turns: u64,
    /// Clients of this shard that wait for the total limit.
    waiting: usize,
}

impl InForce {
    fn total(&self) -> Option<&Total> {
        self.limits.as_ref()?.total()
    }
}

impl<N: Net> Shard<N> {
    /// Whether a frame of `payload` bytes has to wait. If so, its sender is not read until the wait is over.
    pub(super) fn is_throttled(&mut self, id: ConnId, payload: usize) -> bool {
        let Some(limits) = &self.limits.limits else { return false };
        let now = self.now;
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else {
            return false;
        };
        let cost = payload.min(frame::MAX_UNKNOWN) as f64;
        let allowance = switched.allowance.get_or_insert_default();
        let (edition, others_wait) = (self.limits.edition, self.limits.waiting > 0);
        let taken = allowance.take((limits, edition), &switched.member.key, cost, others_wait, now);
        let Err(Wait { until, limited, is_new }) = taken else { return false };
        // Zero means that the connection need not wait.
        switched.throttled_until = until.max(1);
        allowance.duty_cycle.take(now, until);
        switched.impairment_check_at = switched.impairment_check_at.min(allowance.duty_cycle.due());
        let for_total = limited == Limited::Total;
        if for_total {
            self.limits.waiting += 1;
            if let Some(total) = limits.total() {
                total.count_waiting(true);
            }
        }
        self.limits.turns += 1;
        self.throttled.push(Reverse(Throttled { until, turn: self.limits.turns, id, for_total }));
        if is_new {
            let counters = self.counters();
            match limited {
                Limited::Client => counters.rate_limit_per_client_waited.add(1),
                Limited::Total => counters.rate_limit_total_waited.add(1),
            }
        }
        true
    }

    /// Resumes the connections whose wait is over.
    pub(super) fn resume_throttled(&mut self) {
        while let Some(Reverse(next)) = self.throttled.peek().copied() {
            if next.until > self.now {
                break;
            }
            self.throttled.pop();
            if next.for_total {
                self.limits.waiting -= 1;
                if let Some(total) = self.limits.total() {
                    total.count_waiting(false);
                }
            }
            self.resume_one(next.id);
        }
    }

    /// Milliseconds until the next wait is over.
    pub(super) fn throttled_ms(&self, now: u64) -> Option<u64> {
        self.throttled.peek().map(|Reverse(next)| next.until.saturating_sub(now))
    }

    /// Replaces the limits. All connections that wait try again.
    pub(super) fn limit_clients(&mut self, limits: Arc<Limits>) {
        self.limits.limits = limits.are_any().then_some(limits);
        self.limits.edition += 1;
        // These connections waited for the old limits.
        self.limits.waiting = 0;
        for Reverse(throttled) in std::mem::take(&mut self.throttled) {
            let conn = self.conns.get_mut(throttled.id).and_then(|conn| conn.switched_mut());
            if let Some(allowance) = conn.and_then(|switched| switched.allowance.as_mut()) {
                allowance.duty_cycle.release_future(self.now);
            }
            self.resume_one(throttled.id);
        }
    }

    fn resume_one(&mut self, id: ConnId) {
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        switched.throttled_until = 0;
        self.resume(id);
    }
}
