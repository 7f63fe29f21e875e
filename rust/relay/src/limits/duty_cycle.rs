//! The duty cycle of a condition: its share of a span of time, with a finding when a long condition begins or ends.
//!
//! No clock: the time is passed in, in milliseconds.

use crate::shard::conn::NEVER;

/// Milliseconds of a span. A condition is reported if it takes up half of a span or more.
const SPAN: u64 = 10_000;

/// The present span.
#[derive(Debug)]
pub(crate) struct DutyCycle {
    /// When the span began; [`NEVER`]: the condition has not occurred lately.
    since: u64,
    /// Milliseconds of the condition in this span, including the time until `until`.
    taken: u64,
    until: u64,
    /// Whether the condition was reported as lasting.
    reported: bool,
}

impl Default for DutyCycle {
    fn default() -> Self {
        Self { since: NEVER, taken: 0, until: 0, reported: false }
    }
}

/// The result of a check at the end of a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// The condition lasts, and was not reported before.
    Begun,
    /// The condition is over, and was reported before.
    Over,
}

impl DutyCycle {
    /// Counts the time from `now` until `until`.
    pub(crate) fn take(&mut self, now: u64, until: u64) {
        if self.since == NEVER {
            (self.since, self.taken) = (now, 0);
        }
        self.taken += until.saturating_sub(self.until.max(now));
        self.until = self.until.max(until);
    }

    /// Subtracts the counted time after `now`.
    pub(crate) fn release_future(&mut self, now: u64) {
        self.taken -= self.until.saturating_sub(now).min(self.taken);
        self.until = self.until.min(now);
    }

    /// The time of the next check.
    pub(crate) const fn due(&self) -> u64 {
        self.since.saturating_add(SPAN)
    }

    /// Checks the condition if the span is over, and begins the next span.
    pub(crate) fn check(&mut self, now: u64) -> Option<Finding> {
        if now < self.due() {
            return None;
        }
        let ahead = self.until.saturating_sub(now).min(self.taken);
        let is_impaired = 2 * (self.taken - ahead) >= now - self.since;
        self.since = if self.taken == 0 { NEVER } else { now };
        self.taken = ahead;
        match (is_impaired, self.reported) {
            (true, false) => Some(Finding::Begun),
            (false, true) => Some(Finding::Over),
            _ => None,
        }
    }

    /// Stores whether the condition was reported as lasting. Returns whether that is a change.
    pub(crate) fn set_reported(&mut self, reported: bool) -> bool {
        std::mem::replace(&mut self.reported, reported) != reported
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_ten_seconds_is_found_once_and_so_is_its_end() {
        let mut duty_cycle = DutyCycle::default();
        assert_eq!(duty_cycle.due(), NEVER);
        for second in 1..=10 {
            duty_cycle.take(second * 1_000, second * 1_000 + 500);
        }
        assert_eq!(duty_cycle.check(10_999), None);
        assert_eq!(duty_cycle.check(11_000), Some(Finding::Begun));
        assert!(duty_cycle.set_reported(true) && !duty_cycle.set_reported(true));
        duty_cycle.take(12_000, 16_000);
        assert_eq!(duty_cycle.check(duty_cycle.due()), Some(Finding::Over));
        assert!(duty_cycle.set_reported(false));
        assert_eq!(duty_cycle.check(duty_cycle.due()), None);
        assert_eq!(duty_cycle.due(), NEVER);
    }

    #[test]
    fn one_long_wait_counts_as_it_passes() {
        let mut duty_cycle = DutyCycle::default();
        duty_cycle.take(0, 60_000);
        for look in 1..=6 {
            assert_eq!(duty_cycle.check(look * 10_000), Some(Finding::Begun));
        }
        assert_eq!(duty_cycle.check(70_000), None);
    }

    #[test]
    fn overlapping_times_count_once_and_released_time_does_not_count() {
        let mut duty_cycle = DutyCycle::default();
        for at in 0..4_000 {
            duty_cycle.take(at, at + 900);
        }
        assert_eq!(duty_cycle.check(10_000), None);
        duty_cycle.take(10_000, 30_000);
        duty_cycle.release_future(10_001);
        assert_eq!(duty_cycle.check(20_000), None);
    }
}
