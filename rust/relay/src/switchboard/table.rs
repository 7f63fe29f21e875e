//! The one table of the process, from a key to the receiver of its packets.
//!
//! Shards register connections and forwarders here. A sender looks a destination up once and keeps its [`Peer`]. Later,
//! `Peer::active` returns the receiver of its packets without a lock. The table's lock is held for one look-up or one
//! change only.
//!
//! All connections of one key live on one shard, so the choice of the active one is that shard's own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::id::ConnId;
use crate::switchboard::affinity::Affinity;
use crate::switchboard::counts::{Audit, TableCounts};
use crate::switchboard::links::Links;
use crate::wire::frame::Key;

/// The entry of a key in the region.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The shard of its connections; valid while it has any.
    shard: AtomicUsize,
    /// The receiver of its packets: its active connection, else a link to a node that has it. 0: no receiver yet, or no
    /// longer one. A `Peer` that lost its last receiver never gets another: a key that comes back has a new `Peer`.
    active: AtomicU64,
}

impl Peer {
    pub(crate) fn active(&self) -> ConnId {
        ConnId::from_u64(self.active.load(Ordering::Acquire))
    }

    /// Only the peer's own shard may call this, and only while it has connections there.
    pub(crate) fn set_active(&self, conn: ConnId) {
        self.active.store(conn.as_u64(), Ordering::Release);
    }

    pub(crate) fn shard(&self) -> usize {
        self.shard.load(Ordering::Acquire)
    }
}

/// The table's entry of a key. Invariant: it has a connection or a forwarder.
#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    /// Connections here that have been claimed and not yet released.
    connections: usize,
    /// The `PeerPresent` frame that announces its latest connection to other nodes. `None` until a connection has
    /// arrived.
    presence: Option<Arc<[u8]>>,
    /// Links to nodes that have the key, the first announced first.
    forwarders: Links,
}

impl Entry {
    fn new() -> Self {
        let peer = Arc::new(Peer { shard: AtomicUsize::new(0), active: AtomicU64::new(0) });
        Self { peer, connections: 0, presence: None, forwarders: Links::default() }
    }
}

/// The place of a key after one of its connections or forwarders was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    /// The key is still connected here.
    Here,
    /// Another node has the key.
    Elsewhere,
    /// The key has left the region.
    Nowhere,
}

/// The effect of adding or removing a forwarder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Forwarders {
    /// There was no forwarder before, or there is none now.
    Only,
    /// There is a second forwarder, or one of two is left.
    Several,
    /// The link was a forwarder already; or it was not a forwarder, and the key has no other forwarder.
    Unchanged,
    /// The link was not a forwarder; the key has another one, or is local.
    Another,
}

/// The table.
#[derive(Debug)]
pub struct Switchboard {
    peers: RwLock<HashMap<Key, Entry>>,
    connections: AtomicUsize,
    /// Whether a packet came from another node, or a node announced a key.
    meshed: AtomicBool,
    /// Number of watchers on each shard.
    watchers: Vec<AtomicUsize>,
    /// The partners of keys that have left. Its lock may be taken while the table's lock is held.
    partners: Mutex<Affinity>,
}

impl Switchboard {
    pub(crate) fn new(shards: usize) -> Self {
        let watchers = (0..shards).map(|_| AtomicUsize::new(0)).collect();
        Self {
            peers: RwLock::default(),
            connections: AtomicUsize::new(0),
            meshed: AtomicBool::new(false),
            watchers,
            partners: Mutex::default(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Key, Entry>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Key, Entry>> {
        self.peers.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer of `key`, if it is in the region.
    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Peer>> {
        self.read().get(key).map(|entry| Arc::clone(&entry.peer))
    }

    /// The connection here that gets packets for `key`; `None` if another node has it.
    pub(crate) fn find_here(&self, key: &Key) -> Option<ConnId> {
        let peers = self.read();
        let entry = peers.get(key)?;
        let active = entry.peer.active();
        (active != ConnId::NONE && !entry.forwarders.contains(active)).then_some(active)
    }

    /// Whether the node has connections to other nodes. Without them, no key comes or goes over a link.
    pub(crate) fn is_meshed(&self) -> bool {
        self.meshed.load(Ordering::Relaxed)
    }

    /// Counts one more connection of `key`. If the key has no shard, `place` chooses it; its argument is the shard of a
    /// recent partner.
    pub(crate) fn claim(&self, key: &Key, place: impl FnOnce(Option<usize>) -> usize) -> Arc<Peer> {
        let mut peers = self.write();
        let near = self.partners.lock().unwrap_or_else(PoisonError::into_inner).of(key).find_map(|partner| {
            let entry = peers.get(&partner).filter(|entry| entry.connections > 0)?;
            Some(entry.peer.shard())
        });
        let entry = peers.entry(*key).or_insert_with(Entry::new);
        if entry.connections == 0 {
            entry.peer.shard.store(place(near), Ordering::Release);
        }
        entry.connections += 1;
        self.connections.fetch_add(1, Ordering::Relaxed);
        Arc::clone(&entry.peer)
    }

    /// Stores the partners of a key that leaves, the last one first; no-op with a single shard.
    pub(crate) fn store_partners(&self, key: &Key, partners: impl Iterator<Item = Key>) {
        if self.watchers.len() > 1 {
            self.partners.lock().unwrap_or_else(PoisonError::into_inner).store(key, partners);
        }
    }

    /// Notes that a claimed connection has arrived at its shard; it gets the key's packets from now on.
    pub(crate) fn arrive(&self, key: &Key, conn: ConnId, presence: Arc<[u8]>) {
        if let Some(entry) = self.write().get_mut(key) {
            entry.presence = Some(presence);
            entry.peer.set_active(conn);
        }
    }

    /// Removes one connection of `key`. If the key is still connected here, `next_active` gets its packets.
    pub(crate) fn release(&self, key: &Key, next_active: ConnId) -> Left {
        let mut peers = self.write();
        self.connections.fetch_sub(1, Ordering::Relaxed);
        let Some(entry) = peers.get_mut(key) else { return Left::Nowhere };
        entry.connections -= 1;
        entry.peer.set_active(if next_active == ConnId::NONE {
            entry.forwarders.first()
        } else {
            next_active
        });
        if entry.connections > 0 {
            return Left::Here;
        }
        entry.presence = None;
        if !entry.forwarders.is_empty() {
            return Left::Elsewhere;
        }
        peers.remove(key);
        Left::Nowhere
    }

    /// Notes that there are other nodes.
    pub(crate) fn mesh(&self) {
        self.meshed.store(true, Ordering::Relaxed);
    }

    /// Adds `link` to the forwarders of `key`, because another node has announced the key.
    pub(crate) fn add_forwarder(&self, key: &Key, link: ConnId) -> Forwarders {
        let mut peers = self.write();
        let entry = peers.entry(*key).or_insert_with(Entry::new);
        if entry.forwarders.contains(link) {
            return Forwarders::Unchanged;
        }
        entry.forwarders.push(link);
        if entry.presence.is_none() && entry.forwarders.len() == 1 {
            entry.peer.set_active(link);
        }
        if entry.forwarders.len() == 2 { Forwarders::Several } else { Forwarders::Only }
    }

    /// Removes `link` from the forwarders of `key`, because the node no longer has the key or the link is lost.
    pub(crate) fn remove_forwarder(&self, key: &Key, link: ConnId) -> (Forwarders, Left) {
        let mut peers = self.write();
        let Some(entry) = peers.get_mut(key) else { return (Forwarders::Unchanged, Left::Nowhere) };
        let before = entry.forwarders.len();
        entry.forwarders.remove(link);
        let left = match (entry.connections, entry.forwarders.len()) {
            (0, 0) => Left::Nowhere,
            (0, _) => Left::Elsewhere,
            _ => Left::Here,
        };
        if entry.peer.active() == link {
            entry.peer.set_active(entry.forwarders.first());
        }
        let change = match (before - entry.forwarders.len(), before) {
            (0, 0 | 1) => Forwarders::Another,
            (0, _) => Forwarders::Unchanged,
            (_, 2) => Forwarders::Several,
            _ => Forwarders::Only,
        };
        if left == Left::Nowhere {
            peers.remove(key);
        }
        (change, left)
    }

    /// Frees the memory of keys that have left, if it is most of the table.
    pub(crate) fn shrink(&self) {
        let mut peers = self.write();
        if peers.capacity() / 8 > peers.len() {
            peers.shrink_to_fit();
        }
    }

    /// The frame that announces `key` to other nodes; `None` if the key is not connected here.
    pub(crate) fn presence(&self, key: &Key) -> Option<Arc<[u8]>> {
        self.read().get(key)?.presence.clone()
    }

    /// All keys that are connected here.
    pub(crate) fn local_keys(&self) -> Vec<Key> {
        self.read().iter().filter(|(_, entry)| entry.connections > 0).map(|(key, _)| *key).collect()
    }

    /// Stores a shard's number of watchers. A watcher is counted before it reads the table, so it misses no change.
    pub(crate) fn set_watchers(&self, shard: usize, count: usize) {
        self.watchers[shard].store(count, Ordering::SeqCst);
    }

    /// The shards that have watchers.
    pub(crate) fn watching(&self) -> impl Iterator<Item = usize> + '_ {
        self.watchers
            .iter()
            .enumerate()
            .filter(|(_, count)| count.load(Ordering::SeqCst) > 0)
            .map(|(shard, _)| shard)
    }

    /// Whether packets for `key` may go over `link`.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_forwarder(&self, key: &Key, link: ConnId) -> bool {
        self.read().get(key).is_some_and(|entry| entry.forwarders.contains(link))
    }

    /// Asserts the invariants that hold while no connection is moving.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn check(&self) {
        for (key, entry) in self.read().iter() {
            let (is_here, forwarder) = (entry.connections > 0, entry.forwarders.first());
            assert!(is_here || forwarder != ConnId::NONE, "{key:x?} is nowhere");
            assert_eq!(is_here, entry.presence.is_some(), "{key:x?} is announced while it is here");
            assert_ne!(is_here, forwarder == entry.peer.active(), "{key:x?}: local wins over mesh");
        }
    }

    /// The present numbers.
    pub fn counts(&self) -> TableCounts {
        let peers = self.read();
        let mut counts = TableCounts {
            connections: self.connections.load(Ordering::Relaxed),
            keys_total: peers.len(),
            watchers: self.watchers.iter().map(|count| count.load(Ordering::Relaxed)).sum(),
            ..TableCounts::default()
        };
        for entry in peers.values() {
            counts.keys_local += usize::from(entry.connections > 0);
            if entry.connections > 1 {
                counts.duplicate_keys += 1;
                counts.duplicate_connections += entry.connections;
            }
        }
        counts
    }

    /// Checks the table's consistency.
    pub fn audit(&self) -> Audit {
        // Connections are counted under the table's lock.
        let peers = self.read();
        let is_stray = |entry: &&Entry| {
            entry.connections == 0 && (entry.forwarders.is_empty() || entry.presence.is_some())
        };
        Audit {
            counted: self.connections.load(Ordering::Relaxed),
            in_table: peers.values().map(|entry| entry.connections).sum(),
            stray_keys: peers.values().filter(is_stray).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [1; 32];
    const LINK: ConnId = ConnId::from_u64(90);
    const OTHER_LINK: ConnId = ConnId::from_u64(91);

    fn arrive(board: &Switchboard, conn: u64) -> Arc<Peer> {
        let peer = board.claim(&KEY, |_| 0);
        board.arrive(&KEY, ConnId::from_u64(conn), Arc::from([]));
        peer
    }

    #[test]
    fn a_key_keeps_its_shard_while_it_has_a_connection_and_may_move_after() {
        let board = Switchboard::new(2);
        let first = board.claim(&KEY, |_| 0);
        let second = board.claim(&KEY, |_| 1);
        assert_eq!((first.shard(), second.shard()), (0, 0));
        assert_eq!((board.counts().keys_local, board.counts().connections), (1, 2));
        assert_eq!(board.release(&KEY, ConnId::NONE), Left::Here);
        assert_eq!(board.release(&KEY, ConnId::NONE), Left::Nowhere);
        assert_eq!(board.counts(), TableCounts::default());
        assert_eq!(board.claim(&KEY, |_| 1).shard(), 1);
    }

    #[test]
    fn a_key_that_comes_back_gets_its_partners_shard() {
        let board = Switchboard::new(2);
        let (first, second, third) = ([2; 32], [3; 32], [4; 32]);
        board.store_partners(&KEY, [first, second, third].into_iter());
        let place = |near: Option<usize>| near.unwrap_or(9);
        assert_eq!(board.claim(&KEY, place).shard(), 9);
        assert_eq!(board.release(&KEY, ConnId::NONE), Left::Nowhere);
        board.claim(&second, |_| 1);
        assert_eq!(board.claim(&KEY, place).shard(), 1);
        assert_eq!(board.release(&KEY, ConnId::NONE), Left::Nowhere);
        board.claim(&first, |_| 0);
        assert_eq!(board.claim(&KEY, place).shard(), 0);
        assert_eq!(board.claim(&third, place).shard(), 9);
    }

    #[test]
    fn a_peer_that_left_never_becomes_active_again() {
        let board = Switchboard::new(1);
        let kept = arrive(&board, 5);
        assert_eq!(board.release(&KEY, ConnId::NONE), Left::Nowhere);
        let back = arrive(&board, 6);
        assert_eq!((kept.active(), back.active()), (ConnId::NONE, ConnId::from_u64(6)));
    }

    #[test]
    fn local_wins_over_mesh_and_the_first_announced_forwarder_over_the_second() {
        let board = Switchboard::new(1);
        assert_eq!(board.add_forwarder(&KEY, LINK), Forwarders::Only);
        assert_eq!(board.add_forwarder(&KEY, OTHER_LINK), Forwarders::Several);
        assert_eq!(board.add_forwarder(&KEY, LINK), Forwarders::Unchanged);
        let peer = board.find(&KEY).expect("announced");
        assert_eq!(peer.active(), LINK);
        arrive(&board, 5);
        assert_eq!(peer.active(), ConnId::from_u64(5));
        assert_eq!(board.release(&KEY, ConnId::NONE), Left::Elsewhere);
        assert_eq!(peer.active(), LINK);
        assert_eq!(board.remove_forwarder(&KEY, LINK), (Forwarders::Several, Left::Elsewhere));
        assert_eq!(peer.active(), OTHER_LINK);
        assert_eq!(board.remove_forwarder(&KEY, LINK), (Forwarders::Another, Left::Elsewhere));
        assert_eq!(board.remove_forwarder(&KEY, OTHER_LINK), (Forwarders::Only, Left::Nowhere));
        assert_eq!(board.remove_forwarder(&KEY, LINK), (Forwarders::Unchanged, Left::Nowhere));
        assert_eq!(peer.active(), ConnId::NONE);
    }

    #[test]
    fn removing_a_forwarder_of_a_local_key_changes_nothing() {
        let board = Switchboard::new(1);
        let peer = arrive(&board, 5);
        board.add_forwarder(&KEY, LINK);
        assert_eq!(peer.active(), ConnId::from_u64(5));
        assert_eq!(board.remove_forwarder(&KEY, LINK), (Forwarders::Only, Left::Here));
        assert_eq!(peer.active(), ConnId::from_u64(5));
        assert_eq!(board.counts().keys_total, 1);
    }
}
