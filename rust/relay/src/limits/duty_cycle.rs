//! Whether a condition has held for long: the share of a span that it took up, with a report at its begin and end.
//!
//! No clock: the time is passed in, in milliseconds.

use crate::shard::conn::NEVER;

/// What takes up half of this is told.
const SPAN: u64 = 10_000;

/// How a span is going.
#[derive(Debug)]
pub(crate) struct DutyCycle {
    /// When the span began; [`NEVER`]: nothing has happened of late.
    since: u64,
    /// Milliseconds of it that were taken up, those until `until` included.
    taken: u64,
    until: u64,
    /// Somebody was told that it goes on.
    told: bool,
}

impl Default for DutyCycle {
    fn default() -> Self {
        Self { since: NEVER, taken: 0, until: 0, told: false }
    }
}

/// What a look at the end of a span found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// It goes on, and nobody was told.
    Begun,
    /// It is over, and somebody was told that it went on.
    Over,
}

impl DutyCycle {
    /// Takes up the time from now until then.
    pub(crate) fn take(&mut self, now: u64, until: u64) {
        if self.since == NEVER {
            (self.since, self.taken) = (now, 0);
        }
        self.taken += until.saturating_sub(self.until.max(now));
        self.until = self.until.max(until);
    }

    /// Gives back what was taken up and has not passed yet.
    pub(crate) fn give_back(&mut self, now: u64) {
        self.taken -= self.until.saturating_sub(now).min(self.taken);
        self.until = self.until.min(now);
    }

    /// When to look next.
    pub(crate) const fn due(&self) -> u64 {
        self.since.saturating_add(SPAN)
    }

    /// Looks whether the span is over and what it was.
    pub(crate) fn look(&mut self, now: u64) -> Option<Finding> {
        if now < self.due() {
            return None;
        }
        let ahead = self.until.saturating_sub(now).min(self.taken);
        let is_strained = 2 * (self.taken - ahead) >= now - self.since;
        self.since = if self.taken == 0 { NEVER } else { now };
        self.taken = ahead;
        match (is_strained, self.told) {
            (true, false) => Some(Finding::Begun),
            (false, true) => Some(Finding::Over),
            _ => None,
        }
    }

    /// Remembers what somebody was told; whether that is something new.
    pub(crate) fn tell(&mut self, goes_on: bool) -> bool {
        std::mem::replace(&mut self.told, goes_on) != goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_ten_seconds_is_told_once_and_so_is_its_end() {
        let mut duty_cycle = DutyCycle::default();
        assert_eq!(duty_cycle.due(), NEVER);
        for second in 1..=10 {
            duty_cycle.take(second * 1_000, second * 1_000 + 500);
        }
        assert_eq!(duty_cycle.look(10_999), None);
        assert_eq!(duty_cycle.look(11_000), Some(Finding::Begun));
        assert!(duty_cycle.tell(true) && !duty_cycle.tell(true));
        duty_cycle.take(12_000, 16_000);
        assert_eq!(duty_cycle.look(duty_cycle.due()), Some(Finding::Over));
        assert!(duty_cycle.tell(false));
        assert_eq!(duty_cycle.look(duty_cycle.due()), None);
        assert_eq!(duty_cycle.due(), NEVER);
    }

    #[test]
    fn one_long_wait_counts_as_it_passes() {
        let mut duty_cycle = DutyCycle::default();
        duty_cycle.take(0, 60_000);
        for look in 1..=6 {
            assert_eq!(duty_cycle.look(look * 10_000), Some(Finding::Begun));
        }
        assert_eq!(duty_cycle.look(70_000), None);
    }

    #[test]
    fn what_is_taken_twice_counts_once_and_what_is_given_back_not_at_all() {
        let mut duty_cycle = DutyCycle::default();
        for at in 0..4_000 {
            duty_cycle.take(at, at + 900);
        }
        assert_eq!(duty_cycle.look(10_000), None);
        duty_cycle.take(10_000, 30_000);
        duty_cycle.give_back(10_001);
        assert_eq!(duty_cycle.look(20_000), None);
    }
}
