//! Replaces Python: handles the events, logs expected parties in, and leaves other events to the test.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::{LoginKind, Party, member};
use crate::id::ConnId;
use crate::messages::{Command, Event};
use crate::shard::Shared;

/// Maximum payload bytes of a login frame.
const MAX_LOGIN: usize = 33;

#[derive(Default)]
pub(super) struct Controller {
    /// The parties to log in, and the shards for their keys.
    expected: HashMap<Party, usize>,
    parties: HashMap<ConnId, Party>,
    conns: HashMap<Party, (ConnId, bool)>,
    events: Vec<Event>,
}

impl Controller {
    pub(super) fn expect(&mut self, party: Party, home: usize) {
        self.expected.insert(party, home);
    }

    pub(super) fn conn(&self, party: Party) -> Option<ConnId> {
        self.conns.get(&party).map(|(conn, _)| *conn)
    }

    pub(super) fn is_switched(&self, party: Party) -> bool {
        self.conns.get(&party).is_some_and(|(_, switched)| *switched)
    }

    pub(super) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Handles all new events.
    pub(super) fn handle_events<S>(&mut self, shared: &Shared<S>) {
        shared.events.waker.clear();
        for event in shared.events.drain() {
            match &event {
                Event::Head { conn, remote, .. } | Event::HeadTooLarge { conn, remote, .. } => {
                    self.rename(Party::from(remote.port()), *conn, false);
                }
                Event::Switched { conn, member } => {
                    if let Some(party) = self.parties.remove(conn) {
                        self.rename(party, *member, true);
                    }
                }
                Event::Closed { conn, .. } => {
                    // The party is found by the connection's id, because the address is the one that its login set.
                    if let Some(party) = self.parties.remove(conn) {
                        self.conns.remove(&party);
                    }
                }
                _ => {}
            }
            if let Some(left) = self.answer(shared, event) {
                self.events.push(left);
            }
        }
    }

    fn rename(&mut self, party: Party, conn: ConnId, switched: bool) {
        self.parties.insert(conn, party);
        self.conns.insert(party, (conn, switched));
    }

    /// Continues a login, or returns the event.
    fn answer<S>(&mut self, shared: &Shared<S>, event: Event) -> Option<Event> {
        let home = |conn| self.parties.get(&conn).and_then(|party| self.expected.get(party));
        match event {
            Event::Head { conn, .. } if home(conn).is_some() => {
                shared.submit([(conn, Command::AwaitFrame(conn, MAX_LOGIN))]);
            }
            Event::Frame { conn, ref payload, .. } => {
                let (Some(&home), Some((key, rest))) = (home(conn), payload.split_first_chunk()) else {
                    return Some(event);
                };
                // A key without a shard is placed on the only shard with room, or on any shard.
                let anywhere = home >= shared.handles.len();
                for (shard, handle) in shared.handles.iter().enumerate() {
                    handle.load.store(if anywhere || shard == home { 500 } else { 1_000 }, Ordering::Relaxed);
                }
                let kind = match rest {
                    [2] => {
                        let party = self.parties[&conn];
                        self.conns.insert(party, (conn, true));
                        shared.submit([(conn, Command::Link { conn, first: Vec::new() })]);
                        return None;
                    }
                    [1] => LoginKind::MeshPeer,
                    _ => LoginKind::Client,
                };
                let member = member(key, kind);
                shared.submit([(conn, Command::Switch { conn, member, first: Vec::new() })]);
            }
            Event::Switched { member, .. } if home(member).is_some() => {}
            other => return Some(other),
        }
        None
    }
}
