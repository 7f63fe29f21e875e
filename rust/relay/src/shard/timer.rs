//! The timer wheel of one shard: when to check a connection's deadlines. No clock: the time is passed in.
//!
//! The wheel holds hints. A connection has its own deadlines, and a hint causes one check of them. So a hint may fire
//! early, a tick late, or for a closed connection, and no hint is ever cancelled. A connection stores the time of its
//! earliest hint, and ignores the others.

use crate::id::ConnId;

/// The number of slots. One turn of the wheel is `SLOTS * TICK_MS`, about 131 s: above all deadlines but those of
/// links.
const SLOTS: usize = 1024;
/// The wheel's resolution in milliseconds.
pub(crate) const TICK_MS: u64 = 128;

pub(crate) struct Wheel {
    slots: Vec<Vec<ConnId>>,
    /// All slots before this tick have been emptied.
    next_tick: u64,
    armed: usize,
}

impl Wheel {
    pub(crate) fn new(now_ms: u64) -> Self {
        Self { slots: vec![Vec::new(); SLOTS], next_tick: now_ms / TICK_MS, armed: 0 }
    }

    /// The time at which a hint for `at_ms` fires: then or soon after. Beyond one turn of the wheel, it fires early.
    pub(crate) fn due(&self, at_ms: u64) -> u64 {
        (at_ms / TICK_MS + 1).clamp(self.next_tick, self.next_tick + SLOTS as u64 - 1) * TICK_MS
    }

    /// Adds a hint, which causes a check of `id`'s deadlines at `at_ms`.
    pub(crate) fn arm(&mut self, id: ConnId, at_ms: u64) {
        let tick = self.due(at_ms) / TICK_MS;
        self.slots[tick as usize % SLOTS].push(id);
        self.armed += 1;
    }

    /// Moves every hint that is due to `due`.
    pub(crate) fn advance(&mut self, now_ms: u64, due: &mut Vec<ConnId>) {
        let until = now_ms / TICK_MS;
        while self.next_tick <= until {
            if self.armed == 0 {
                self.next_tick = until + 1;
                break;
            }
            let slot = &mut self.slots[self.next_tick as usize % SLOTS];
            self.armed -= slot.len();
            due.append(slot);
            self.next_tick += 1;
        }
    }

    /// Milliseconds that the shard may sleep before a hint is due; `None`: no limit.
    pub(crate) fn sleep_ms(&self, now_ms: u64) -> Option<u64> {
        if self.armed == 0 {
            return None;
        }
        let ahead = (0..SLOTS as u64).find(|ahead| {
            let tick = self.next_tick + ahead;
            !self.slots[tick as usize % SLOTS].is_empty()
        })?;
        Some(((self.next_tick + ahead) * TICK_MS).saturating_sub(now_ms))
    }

    /// Asserts the invariants. Returns the number of hints.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn check(&self) -> usize {
        assert_eq!(self.slots.iter().map(Vec::len).sum::<usize>(), self.armed, "armed counts the hints");
        self.armed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ConnId {
        ConnId::from_u64(n)
    }

    #[test]
    fn a_hint_fires_after_its_time_and_not_before() {
        let mut wheel = Wheel::new(1_000);
        let mut due = Vec::new();
        wheel.arm(id(1), 3_000);
        wheel.advance(2_999, &mut due);
        assert!(due.is_empty());
        let sleep = wheel.sleep_ms(2_999).expect("one hint is armed");
        assert!((1..=2 * TICK_MS).contains(&sleep));
        wheel.advance(2_999 + sleep, &mut due);
        assert_eq!(due, [id(1)]);
        assert_eq!(wheel.sleep_ms(4_000), None);
    }

    #[test]
    fn a_hint_beyond_one_turn_fires_early() {
        let mut wheel = Wheel::new(0);
        wheel.arm(id(1), 10 * SLOTS as u64 * TICK_MS);
        let mut due = Vec::new();
        wheel.advance(SLOTS as u64 * TICK_MS, &mut due);
        assert_eq!(due, [id(1)]);
    }

    #[test]
    fn a_long_sleep_with_nothing_armed_is_cheap_and_loses_no_hints() {
        let mut wheel = Wheel::new(0);
        let mut due = Vec::new();
        wheel.advance(u64::from(u32::MAX), &mut due);
        wheel.arm(id(7), u64::from(u32::MAX) + 5);
        wheel.advance(u64::from(u32::MAX) + 2 * TICK_MS, &mut due);
        assert_eq!(due, [id(7)]);
    }
}
