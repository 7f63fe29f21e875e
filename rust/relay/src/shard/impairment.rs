//! Impairments that last: a client held back by a limit, or devices that fight over one key.

use std::collections::HashMap;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::limits::duty_cycle::{DutyCycle, Finding};
use crate::messages::{Event, Impairment};
use crate::shard::conn::{NEVER, Switched};
use crate::wire::frame::Key;

use super::Shard;

/// Between two times that the users of one key are told.
const TELL_AGAIN: u64 = 60_000;
/// Most keys that are remembered for having been told; beyond that, nobody is told.
const MAX_TOLD: usize = 65_536;
/// How long a connection that has taken the active place from another counts as fighting for it.
const TAKING: u64 = 1_000;

/// When whose users were told of a struggle.
#[derive(Default)]
pub(super) struct Told(HashMap<Key, u64>);

impl Told {
    /// Whether they may be told now; if so, they are.
    pub(super) fn tell(&mut self, key: &Key, now: u64) -> bool {
        if self.0.len() >= MAX_TOLD {
            self.0.retain(|_, at| now < *at + TELL_AGAIN);
        }
        let may = self.0.get(key).map_or(self.0.len() < MAX_TOLD, |at| now >= at + TELL_AGAIN);
        if may {
            self.0.insert(*key, now);
        }
        may
    }
}

impl Switched {
    fn duty_cycle(&mut self, how: Impairment) -> Option<&mut DutyCycle> {
        match how {
            Impairment::Limited => self.allowance.as_mut().map(|allowance| &mut allowance.duty_cycle),
            Impairment::Fighting => self.contest.as_deref_mut(),
        }
    }
}

impl<N: Net> Shard<N> {
    /// A connection has taken the active place of its key from another.
    pub(super) fn note_taking(&mut self, id: ConnId) {
        let now = self.now;
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        let contest = switched.contest.get_or_insert_default();
        contest.take(now, now + TAKING);
        switched.impairment_check_at = switched.impairment_check_at.min(contest.due());
    }

    /// Looks whether a connection struggles, when it is time for that.
    pub(super) fn check_impairments(&mut self, id: ConnId) {
        let now = self.now;
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        if now < switched.impairment_check_at {
            return;
        }
        switched.impairment_check_at = NEVER;
        for how in Impairment::ALL {
            let key = switched.member.key;
            let Some(duty_cycle) = switched.duty_cycle(how) else { continue };
            let finding = duty_cycle.look(now);
            let goes_on = match finding {
                Some(Finding::Begun) => self.shared.tell(&key, now),
                Some(Finding::Over) | None => false,
            };
            if finding.is_some() && duty_cycle.tell(goes_on) {
                self.events.push(Event::ClientImpaired { conn: id, key, how, is_over: !goes_on });
            }
            let due = duty_cycle.due();
            switched.impairment_check_at = switched.impairment_check_at.min(due);
        }
        if switched.contest.as_ref().is_some_and(|contest| contest.due() == NEVER) {
            switched.contest = None;
        }
    }

    /// Whoever leaves struggles no more.
    pub(super) fn end_impairments(&mut self, id: ConnId, switched: &mut Switched) {
        let key = switched.member.key;
        for how in Impairment::ALL {
            if switched.duty_cycle(how).is_some_and(|duty_cycle| duty_cycle.tell(false)) {
                self.events.push(Event::ClientImpaired { conn: id, key, how, is_over: true });
            }
        }
    }
}
