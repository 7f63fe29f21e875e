//! The connections of one key, in the order of their last frame.
//!
//! Owned by the key's shard. One key may have thousands of connections, so moving or removing one takes logarithmic
//! time. The common case of a single connection takes no memory of its own.

use std::collections::{BTreeMap, HashMap};

use crate::id::ConnId;

/// An ordered set of connections; the last one pushed is the active one.
#[derive(Default, Debug)]
pub(crate) struct Connections {
    active: Option<ConnId>,
    /// All others; `None` if there are none.
    others: Option<Box<Others>>,
}

#[derive(Default, Debug)]
struct Others {
    /// By the turn in which each stopped being the active one. Invariant: it has the same length as `turns`.
    by_turn: BTreeMap<u64, ConnId>,
    turns: HashMap<ConnId, u64>,
    next: u64,
}

impl Connections {
    /// Adds a connection, or moves it, to the end: it becomes the active one.
    pub(crate) fn push(&mut self, id: ConnId) {
        if self.active == Some(id) {
            return;
        }
        self.remove_other(id);
        if let Some(earlier) = self.active.replace(id) {
            let others = self.others.get_or_insert_default();
            others.by_turn.insert(others.next, earlier);
            others.turns.insert(earlier, others.next);
            others.next += 1;
        }
    }

    /// Removes a connection. If it was the active one, the previous one in order becomes active.
    pub(crate) fn remove(&mut self, id: ConnId) {
        if self.active != Some(id) {
            return self.remove_other(id);
        }
        self.active = self.others.as_mut().and_then(|others| {
            let (_, next_active) = others.by_turn.pop_last()?;
            others.turns.remove(&next_active);
            Some(next_active)
        });
        self.drop_empty();
    }

    fn remove_other(&mut self, id: ConnId) {
        if let Some(others) = &mut self.others
            && let Some(turn) = others.turns.remove(&id)
        {
            others.by_turn.remove(&turn);
            self.drop_empty();
        }
    }

    fn drop_empty(&mut self) {
        if self.others.as_ref().is_some_and(|others| others.turns.is_empty()) {
            self.others = None;
        }
    }

    /// The active connection.
    pub(crate) fn last(&self) -> Option<ConnId> {
        self.active
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.active.is_some()) + self.others.as_ref().map_or(0, |others| others.turns.len())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.active.is_none()
    }

    /// All connections, the active one last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = ConnId> + '_ {
        let others = self.others.iter().flat_map(|others| others.by_turn.values().copied());
        others.chain(self.active)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ConnId {
        ConnId::from_u64(n)
    }

    fn order(connections: &Connections) -> Vec<u64> {
        connections.iter().map(ConnId::as_u64).collect()
    }

    #[test]
    fn the_last_connection_to_send_is_active_and_the_previous_one_follows_it() {
        let mut connections = Connections::default();
        for n in [1, 2, 3, 1, 1] {
            connections.push(id(n));
        }
        assert_eq!((order(&connections), connections.last()), (vec![2, 3, 1], Some(id(1))));
        connections.remove(id(1));
        assert_eq!((order(&connections), connections.len()), (vec![2, 3], 2));
        connections.remove(id(2));
        connections.remove(id(2));
        assert_eq!(order(&connections), [3]);
        assert!(connections.others.is_none(), "a single connection takes no memory of its own");
        connections.remove(id(3));
        assert!(connections.is_empty());
    }
}
