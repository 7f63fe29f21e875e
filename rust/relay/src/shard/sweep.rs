//! Jobs over all members of a shard: a bounded number of members in each tick.
//!
//! A sweep passes the slots once. A connection that comes during the sweep is included if its slot comes later.

use std::sync::Arc;

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::messages::{Event, MemberAction, MemberSnapshot, Role};
use crate::wire::frame::Key;

use super::{Shard, ShardMessage};

/// Slots in one tick of a report.
const REPORTED_A_TICK: usize = 256;
/// Slots in one tick of a sweep that writes to each member, which costs a system call for each.
const ACTED_ON_A_TICK: usize = 64;

/// The job for each member.
pub(super) enum Task {
    /// Add its snapshot to the report with this number.
    Report(u64),
    /// Apply this action to it, except to mesh peers if they are spared.
    MemberAction { action: MemberAction, spare_mesh_peers: bool },
}

/// A pass over all slots.
pub(super) struct Sweep {
    task: Task,
    /// The next slot.
    at: usize,
}

impl<N: Net> Shard<N> {
    pub(super) fn begin_sweep(&mut self, task: Task) {
        self.sweeps.push_back(Sweep { task, at: 0 });
    }

    /// Advances the oldest sweep.
    pub(super) fn advance_sweep(&mut self) {
        let Some(mut sweep) = self.sweeps.pop_front() else { return };
        let slice = match sweep.task {
            Task::Report(_) => REPORTED_A_TICK,
            Task::MemberAction { .. } => ACTED_ON_A_TICK,
        };
        let mut ids = std::mem::take(&mut self.scratch);
        ids.extend(self.conns.ids_among(sweep.at, slice));
        sweep.at += slice;
        let is_last = sweep.at >= self.conns.len();
        match &sweep.task {
            Task::Report(report) => {
                let members = ids.drain(..).filter_map(|id| self.snapshot(id)).collect();
                self.events.push(Event::Members { report: *report, members, is_last });
            }
            Task::MemberAction { action, spare_mesh_peers } => {
                for id in ids.drain(..) {
                    let role = self.conns.get(id).and_then(|conn| Some(conn.switched()?.member.role));
                    if role == Some(Role::Client) || (role.is_some() && !spare_mesh_peers) {
                        self.act(id, action);
                    }
                }
            }
        }
        self.scratch = ids;
        if !is_last {
            self.sweeps.push_front(sweep);
        }
    }

    fn snapshot(&self, id: ConnId) -> Option<MemberSnapshot> {
        let conn = self.conns.get(id)?;
        let switched = conn.switched()?;
        let local = self.locals.get(switched.local)?.as_ref()?;
        Some(MemberSnapshot {
            conn: id,
            member: switched.member.clone(),
            age_ms: self.now - switched.since_ms,
            is_active: local.connections.last() == Some(id),
            is_duplicate: local.connections.len() > 1,
            is_home: switched.home,
            tls: conn.tls,
            is_websocket: conn.websocket.is_some(),
            totals: switched.totals,
            wire: conn.wire,
            senders: local.senders.as_ref().map_or(0, |senders| senders.estimate()),
        })
    }

    /// Applies an action to every connection of a key that lives here.
    ///
    /// `Close` must also reach a connection that is moving to its key's shard. So every shard gets the action, and
    /// forwards it to the key's own shard, after the connection.
    pub(super) fn act_on_key(&mut self, key: &Key, action: &MemberAction) {
        let ids = self.connections_of(key);
        if ids.is_empty()
            && matches!(action, MemberAction::Close(..))
            && let Some(shard) = self.shared.switchboard.find(key).map(|peer| peer.shard())
            && shard != self.index
        {
            self.outgoing[shard].messages.push(ShardMessage::ToKey(Box::new((*key, action.clone()))));
        }
        for id in ids {
            self.act(id, action);
        }
    }

    /// The connections of a key of this shard.
    pub(super) fn connections_of(&self, key: &Key) -> Vec<ConnId> {
        let local = self.local_by_key.get(key).and_then(|index| self.locals[*index].as_ref());
        local.map_or_else(Vec::new, |local| local.connections.iter().collect())
    }

    fn act(&mut self, id: ConnId, action: &MemberAction) {
        match action {
            MemberAction::Write(frames) => {
                self.control(id, &Arc::clone(frames));
            }
            MemberAction::Close(last_bytes, reason) => {
                if !last_bytes.is_empty() {
                    self.control(id, last_bytes);
                }
                self.close(id, reason.clone());
            }
        }
    }
}
