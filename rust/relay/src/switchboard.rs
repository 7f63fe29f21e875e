//! Who is where: the one table of the process, from a key to the connection that gets its packets.
//!
//! Shards register and unregister their connections here; senders look a destination up once and keep what they
//! got, a [`Peer`], whose `active` tells at any later moment, without a lock, where packets go now. The table's
//! lock is held for one look-up or one change, never while anything else is done.
//!
//! All connections of one key live on one shard, so which of them is the active one is that shard's own affair.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::frame::Key;
use crate::id::ConnId;

/// A key that is connected here.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Where all of its connections live.
    pub(crate) shard: usize,
    /// The connection that gets its packets, as a number; 0 before the first has arrived at its shard and, for
    /// ever, after the last has left: then the key, if it comes back, has another `Peer`.
    active: AtomicU64,
    /// Connections that have been claimed and not yet released. Changed under the table's lock only.
    connections: AtomicUsize,
}

impl Peer {
    pub(crate) fn active(&self) -> ConnId {
        ConnId::from_u64(self.active.load(Ordering::Acquire))
    }

    /// Only the peer's own shard may call this.
    pub(crate) fn set_active(&self, conn: ConnId) {
        self.active.store(conn.as_u64(), Ordering::Release);
    }
}

/// The table.
#[derive(Default, Debug)]
pub struct Switchboard {
    peers: RwLock<HashMap<Key, Arc<Peer>>>,
    connections: AtomicUsize,
}

impl Switchboard {
    /// Where packets for `key` go, if it is here.
    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Peer>> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Counts one more connection of `key`; `place` chooses the shard of a key that has none yet.
    pub(crate) fn claim(&self, key: &Key, place: impl FnOnce() -> usize) -> Arc<Peer> {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        let peer = peers.entry(*key).or_insert_with(|| {
            let (active, connections) = (AtomicU64::new(0), AtomicUsize::new(0));
            Arc::new(Peer { shard: place(), active, connections })
        });
        peer.connections.fetch_add(1, Ordering::Relaxed);
        self.connections.fetch_add(1, Ordering::Relaxed);
        Arc::clone(peer)
    }

    /// Takes one connection of `key` back; `true` when it was the last: the key has left.
    pub(crate) fn release(&self, key: &Key, peer: &Arc<Peer>) -> bool {
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if peer.connections.fetch_sub(1, Ordering::Relaxed) > 1 {
            return false;
        }
        peer.set_active(ConnId::NOBODY);
        peers.remove(key);
        true
    }

    /// Keys that are connected here.
    pub fn keys(&self) -> usize {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Logged-in connections, several of one key included.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_on_its_shard_while_it_has_a_connection_and_may_move_after() {
        let board = Switchboard::default();
        let key = [1; 32];
        let first = board.claim(&key, || 0);
        let second = board.claim(&key, || 1);
        assert_eq!((first.shard, second.shard), (0, 0));
        assert_eq!((board.keys(), board.connections()), (1, 2));
        assert!(!board.release(&key, &first));
        assert!(board.release(&key, &second));
        assert_eq!((board.keys(), board.connections()), (0, 0));
        assert_eq!(board.claim(&key, || 1).shard, 1);
    }

    #[test]
    fn a_sender_that_kept_a_peer_sees_that_it_left_and_never_sees_it_again() {
        let board = Switchboard::default();
        let key = [1; 32];
        let kept = board.claim(&key, || 0);
        kept.set_active(ConnId::from_u64(5));
        assert!(board.release(&key, &kept));
        board.claim(&key, || 0).set_active(ConnId::from_u64(6));
        assert_eq!(kept.active(), ConnId::NOBODY);
        assert_eq!(board.find(&key).map(|peer| peer.active()), Some(ConnId::from_u64(6)));
    }
}
