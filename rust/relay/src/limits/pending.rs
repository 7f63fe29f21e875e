//! Connections that have not logged in, by network, and the choice of the one to evict if there are too many.
//!
//! A pending connection is evicted from a network that is above its share. Connections before the end of the TLS
//! handshake go first, then those that wait for their peer, then those that wait for us. Among equals, the
//! longest-silent one goes first. No connection is evicted within [`GRACE`] of being accepted or of its last progress.
//!
//! Owned by `connection_limiter::ConnectionLimiter`, inside its lock. No sockets, no clock: times are passed in, in
//! milliseconds. Each operation costs O(log n) for n connections. Networks are grouped by size, rounded down to a power
//! of two. Within a group and for each phase, they are ordered by how long their longest-silent connection has been
//! silent.

mod slab;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use crate::id::ConnId;
use crate::shard::conn::NEVER;

use slab::{Index, Slab};

/// Milliseconds for which a connection is safe after it was accepted, and after each progress.
pub(crate) const GRACE: u64 = 2_000;

/// The progress of a connection. The lower it is, the sooner the connection is evicted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// TLS is not finished, or no whole request has come without TLS; or the connection is closing.
    Opening,
    /// The next bytes have to come from the peer.
    Waiting,
    /// The peer waits for us, for example for its admission.
    Served,
}

const PHASES: usize = 3;
/// Entries whose memory is kept while there are none.
const KEPT: usize = 1_024;
/// Sizes of networks are below 2^32.
const CLASSES: usize = 32;

/// The choice if there are too many connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Choice {
    /// This connection may be evicted.
    Evict(Index),
    /// No connection may be evicted before this time; [`NEVER`]: there is none.
    Wait(u64),
}

#[derive(Debug)]
struct Entry {
    id: ConnId,
    network: Index,
    phase: Phase,
    /// When the connection became silent, for eviction; in the future while it is safe.
    since: u64,
    /// Its list of its phase: [`STEPPED`] or [`HAD_INPUT`].
    list: usize,
    previous: Option<Index>,
    next: Option<Index>,
}

/// A doubly linked list through entries, in the order of `since`.
#[derive(Clone, Copy, Default, Debug)]
struct List {
    head: Option<Index>,
    tail: Option<Index>,
}

/// Connections in the order of their last progress: `since` is [`GRACE`] after it.
const STEPPED: usize = 0;
/// Connections in the order of their last input, which came after [`GRACE`] was over.
const HAD_INPUT: usize = 1;

#[derive(Debug)]
struct Network {
    /// `None`: a single connection, whose origin is unknown or shared by many clients.
    origin: Option<IpAddr>,
    size: u32,
    lists: [[List; 2]; PHASES],
    /// The network's group in `Pending::classes`, and its times there. [`NEVER`]: it is not listed.
    class: usize,
    listed: [u64; PHASES],
}

/// All pending connections.
#[derive(Debug)]
pub(crate) struct Pending {
    entries: Slab<Entry>,
    networks: Slab<Network>,
    by_origin: HashMap<IpAddr, Index>,
    /// Networks by the power of two of their size, then by phase, with the time since which a connection is silent.
    classes: [[BTreeSet<(u64, Index)>; PHASES]; CLASSES],
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            entries: Slab::default(),
            networks: Slab::default(),
            by_origin: HashMap::new(),
            classes: std::array::from_fn(|_| std::array::from_fn(|_| BTreeSet::new())),
        }
    }
}

impl Pending {
    /// Number of pending connections.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds a connection. Without an origin, it is a network of its own.
    pub(crate) fn enter(&mut self, id: ConnId, origin: Option<IpAddr>, now: u64) -> Index {
        let network = self.network(origin);
        let entry = Entry {
            id,
            network,
            phase: Phase::Opening,
            since: now.saturating_add(GRACE),
            list: STEPPED,
            previous: None,
            next: None,
        };
        let index = self.entries.insert(entry);
        self.link(index);
        index
    }

    /// Removes a connection. Returns `false` if it was evicted before.
    pub(crate) fn leave(&mut self, index: Index, id: ConnId) -> bool {
        if !self.holds(index, id) {
            return false;
        }
        self.unlink(index);
        self.entries.remove(index);
        if self.entries.len() == 0 && self.entries.capacity() > KEPT {
            // Frees the memory of a flood.
            *self = Self::default();
        }
        true
    }

    /// Moves a connection to the network of its real origin.
    pub(crate) fn come_from(&mut self, index: Index, id: ConnId, origin: IpAddr) {
        if self.holds(index, id) {
            self.unlink(index);
            let network = self.network(Some(origin));
            self.change(index, |entry| entry.network = network);
            self.link(index);
        }
    }

    /// Notes that a connection has made progress, or waits for its next step.
    pub(crate) fn step(&mut self, index: Index, id: ConnId, phase: Phase, now: u64) {
        self.move_to(index, id, |entry| {
            (entry.phase, entry.list, entry.since) = (phase, STEPPED, now.saturating_add(GRACE));
        });
    }

    /// Notes that bytes have come.
    pub(crate) fn note_input(&mut self, index: Index, id: ConnId, now: u64) {
        if self.entries.get(index).is_some_and(|entry| entry.since < now) {
            self.move_to(index, id, |entry| (entry.list, entry.since) = (HAD_INPUT, now));
        }
    }

    /// Chooses a connection to evict for one more connection.
    pub(crate) fn choose(&self, now: u64) -> Choice {
        // The new connection may be of another network.
        let share = (self.entries.len() / (self.networks.len() + 1)).max(1);
        let mut soonest = NEVER;
        for phase in 0..PHASES {
            let classes = &self.classes[class_of(share)..];
            let first = classes.iter().filter_map(|class| class[phase].first()).min();
            let Some(&(since, network)) = first else { continue };
            if since <= now
                && let Some(index) = self.most_silent(network, phase)
            {
                return Choice::Evict(index);
            }
            soonest = soonest.min(since);
        }
        Choice::Wait(soonest)
    }

    /// Removes the connection that [`choose`](Self::choose) returns, if any.
    pub(crate) fn evict(&mut self, now: u64) -> Option<ConnId> {
        let Choice::Evict(index) = self.choose(now) else { return None };
        let id = self.entries.get(index)?.id;
        self.leave(index, id).then_some(id)
    }

    fn holds(&self, index: Index, id: ConnId) -> bool {
        self.entries.get(index).is_some_and(|entry| entry.id == id)
    }

    fn change(&mut self, index: Index, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(index) {
            change(entry);
        }
    }

    fn move_to(&mut self, index: Index, id: ConnId, change: impl FnOnce(&mut Entry)) {
        if !self.holds(index, id) {
            return;
        }
        let network = self.detach(index);
        self.change(index, change);
        self.attach(index);
        self.relist(network);
    }

    /// The network of an origin, or a new network for a single connection.
    fn network(&mut self, origin: Option<IpAddr>) -> Index {
        let known = origin.and_then(|origin| self.by_origin.get(&origin).copied());
        known.unwrap_or_else(|| {
            let lists = <[[List; 2]; PHASES]>::default();
            let network = Network { origin, size: 0, lists, class: 0, listed: [NEVER; PHASES] };
            let index = self.networks.insert(network);
            if let Some(origin) = origin {
                self.by_origin.insert(origin, index);
            }
            index
        })
    }

    /// Counts an entry in its network.
    fn link(&mut self, index: Index) {
        let network = self.attach(index);
        if let Some(network) = self.networks.get_mut(network) {
            network.size += 1;
        }
        self.relist(network);
    }

    /// Removes an entry from its network, and the network with its last entry.
    fn unlink(&mut self, index: Index) {
        let at = self.detach(index);
        let Some(network) = self.networks.get_mut(at) else { return };
        network.size -= 1;
        let (origin, is_empty) = (network.origin, network.size == 0);
        self.relist(at);
        if is_empty {
            self.networks.remove(at);
            if let Some(origin) = origin {
                self.by_origin.remove(&origin);
            }
        }
    }

    /// Appends an entry to its list. Returns its network.
    fn attach(&mut self, index: Index) -> Index {
        let Some(entry) = self.entries.get(index) else { return index };
        let (at, phase, list) = (entry.network, entry.phase as usize, entry.list);
        let Some(network) = self.networks.get_mut(at) else { return at };
        let list = &mut network.lists[phase][list];
        let previous = list.tail.replace(index);
        list.head.get_or_insert(index);
        self.change(index, |entry| (entry.previous, entry.next) = (previous, None));
        if let Some(previous) = previous {
            self.change(previous, |entry| entry.next = Some(index));
        }
        at
    }

    /// Removes an entry from its list. Returns its network.
    fn detach(&mut self, index: Index) -> Index {
        let Some(entry) = self.entries.get(index) else { return index };
        let Entry { network: at, previous, next, .. } = *entry;
        let (phase, list) = (entry.phase as usize, entry.list);
        if let Some(previous) = previous {
            self.change(previous, |entry| entry.next = next);
        }
        if let Some(next) = next {
            self.change(next, |entry| entry.previous = previous);
        }
        if let Some(network) = self.networks.get_mut(at) {
            let list = &mut network.lists[phase][list];
            if previous.is_none() {
                list.head = next;
            }
            if next.is_none() {
                list.tail = previous;
            }
        }
        at
    }

    /// The longest-silent connection of a phase.
    fn most_silent(&self, network: Index, phase: usize) -> Option<Index> {
        let heads = self.networks.get(network)?.lists[phase].map(|list| list.head);
        heads.into_iter().flatten().min_by_key(|head| self.entries.get(*head).map(|entry| entry.since))
    }

    /// Updates `classes` after a change of a network.
    fn relist(&mut self, at: Index) {
        let times = std::array::from_fn(|phase| {
            let most_silent = self.most_silent(at, phase).and_then(|index| self.entries.get(index));
            most_silent.map_or(NEVER, |entry| entry.since)
        });
        let Some(network) = self.networks.get_mut(at) else { return };
        let class = class_of(network.size as usize);
        let (old_class, old_times) = (network.class, network.listed);
        (network.class, network.listed) = (class, times);
        for phase in 0..PHASES {
            if (class, times[phase]) == (old_class, old_times[phase]) {
                continue;
            }
            self.classes[old_class][phase].remove(&(old_times[phase], at));
            if times[phase] != NEVER {
                self.classes[class][phase].insert((times[phase], at));
            }
        }
    }
}

/// The logarithm of a number of connections, rounded down.
fn class_of(size: usize) -> usize {
    size.checked_ilog2().unwrap_or(0) as usize
}

#[cfg(test)]
mod tests;
