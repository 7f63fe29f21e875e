//! Lasting impairments: a client held back by a limit, or devices that share one key.

use std::collections::HashMap;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::limits::duty_cycle::{DutyCycle, Finding};
use crate::messages::{Event, Impairment};
use crate::shard::conn::{NEVER, Switched};
use crate::wire::frame::Key;

use super::Shard;

/// Minimum milliseconds between two notices to the users of one key.
const NOTICE_INTERVAL: u64 = 60_000;
/// Maximum keys with a stored notice; above it, no notices are sent.
const MAX_NOTICES: usize = 65_536;
/// Milliseconds for which a connection counts as contesting after it has become active in place of another.
const TAKING: u64 = 1_000;

/// When the users of each key last got a notice of impairment, in milliseconds.
#[derive(Default)]
pub(super) struct Notices(HashMap<Key, u64>);

impl Notices {
    /// Whether the users of `key` may be notified now. If so, the notice counts as sent.
    pub(super) fn may_notify(&mut self, key: &Key, now: u64) -> bool {
        if self.0.len() >= MAX_NOTICES {
            self.0.retain(|_, at| now < *at + NOTICE_INTERVAL);
        }
        let may = self.0.get(key).map_or(self.0.len() < MAX_NOTICES, |at| now >= at + NOTICE_INTERVAL);
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
    /// Notes that a connection has become its key's active connection in place of another.
    pub(super) fn note_taking(&mut self, id: ConnId) {
        let now = self.now;
        let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) else { return };
        let contest = switched.contest.get_or_insert_default();
        contest.take(now, now + TAKING);
        switched.impairment_check_at = switched.impairment_check_at.min(contest.due());
    }

    /// Checks whether a connection is impaired, if the check is due.
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
            let finding = duty_cycle.check(now);
            let reported = match finding {
                Some(Finding::Begun) => self.shared.may_notify(&key, now),
                Some(Finding::Over) | None => false,
            };
            if finding.is_some() && duty_cycle.set_reported(reported) {
                self.events.push(Event::ClientImpaired { conn: id, key, how, is_over: !reported });
            }
            let due = duty_cycle.due();
            switched.impairment_check_at = switched.impairment_check_at.min(due);
        }
        if switched.contest.as_ref().is_some_and(|contest| contest.due() == NEVER) {
            switched.contest = None;
        }
    }

    /// Ends the impairments of a connection that closes.
    pub(super) fn end_impairments(&mut self, id: ConnId, switched: &mut Switched) {
        let key = switched.member.key;
        for how in Impairment::ALL {
            if switched.duty_cycle(how).is_some_and(|duty_cycle| duty_cycle.set_reported(false)) {
                self.events.push(Event::ClientImpaired { conn: id, key, how, is_over: true });
            }
        }
    }
}
