//! The rate limit of clients (`docs/protocol/relay.md`, Rate limit): it works by not reading, so TCP pushes back.

use std::cmp::Reverse;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::frame;
use crate::id::ConnId;
use crate::net::Net;

use super::Shard;

impl<N: Net> Shard<N> {
    /// Whether a frame of so many payload bytes has to wait; if so, nothing is read from its sender until it need not.
    pub(super) fn is_throttled(&mut self, id: ConnId, payload: usize) -> bool {
        if !self.shared.is_rate_limited.load(Ordering::Acquire) {
            return false;
        }
        let Some(rate) = *self.shared.client_rate.read().unwrap_or_else(PoisonError::into_inner) else {
            return false;
        };
        let now = self.now;
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else {
            return false;
        };
        let cost = payload.min(frame::MAX_UNKNOWN) as f64;
        let Err(wait) = switched.allowance.take(rate, cost, now) else { return false };
        switched.throttled_until = now + wait;
        self.throttled.push(Reverse((now + wait, id)));
        self.counters().rate_limit_per_client_waited.add(1);
        true
    }

    /// Goes on with the connections whose wait is over.
    pub(super) fn resume_throttled(&mut self) {
        while let Some(Reverse((at, id))) = self.throttled.peek().copied() {
            if at > self.now {
                break;
            }
            self.throttled.pop();
            self.go_on(id);
        }
    }

    /// The limit is another: everybody who waits tries again.
    pub(super) fn throttled_look_again(&mut self) {
        for Reverse((_, id)) in std::mem::take(&mut self.throttled) {
            self.go_on(id);
        }
    }

    fn go_on(&mut self, id: ConnId) {
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        switched.throttled_until = 0;
        self.resume(id);
    }
}
