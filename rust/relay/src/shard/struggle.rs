//! Who has a hard time for long, so that somebody can tell them: held back by a limit, or fighting over a key.

use std::collections::HashMap;

use crate::conn::{NEVER, Switched};
use crate::frame::Key;
use crate::id::ConnId;
use crate::net::Net;
use crate::seam::{Event, Struggle};
use crate::strain::{Finding, Strain};

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
    fn strain(&mut self, how: Struggle) -> Option<&mut Strain> {
        match how {
            Struggle::Limited => self.allowance.as_mut().map(|allowance| &mut allowance.strain),
            Struggle::Fighting => self.contest.as_deref_mut(),
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
        switched.strained_at = switched.strained_at.min(contest.due());
    }

    /// Looks whether a connection struggles, when it is time for that.
    pub(super) fn look_at_strains(&mut self, id: ConnId) {
        let now = self.now;
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        if now < switched.strained_at {
            return;
        }
        switched.strained_at = NEVER;
        for how in Struggle::ALL {
            let key = switched.member.key;
            let Some(strain) = switched.strain(how) else { continue };
            let finding = strain.look(now);
            let goes_on = match finding {
                Some(Finding::Begun) => self.shared.tell(&key, now),
                Some(Finding::Over) | None => false,
            };
            if finding.is_some() && strain.tell(goes_on) {
                self.events.push(Event::Struggling { conn: id, key, how, is_over: !goes_on });
            }
            let due = strain.due();
            switched.strained_at = switched.strained_at.min(due);
        }
        if switched.contest.as_ref().is_some_and(|contest| contest.due() == NEVER) {
            switched.contest = None;
        }
    }

    /// Whoever leaves struggles no more.
    pub(super) fn end_struggles(&mut self, id: ConnId, switched: &mut Switched) {
        let key = switched.member.key;
        for how in Struggle::ALL {
            if switched.strain(how).is_some_and(|strain| strain.tell(false)) {
                self.events.push(Event::Struggling { conn: id, key, how, is_over: true });
            }
        }
    }
}
