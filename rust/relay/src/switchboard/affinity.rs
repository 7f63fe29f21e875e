//! The last partners of keys that have left, so that keys that talk to each other get the same shard again.

use std::collections::{HashMap, VecDeque};

use crate::wire::frame::Key;

/// Maximum stored keys; the one that left first is dropped.
const MAX_KEYS: usize = 65_536;
/// Partners stored for one key.
const PARTNERS: usize = 2;

/// Stored partners. Invariant: its keys are those of `by_age`.
#[derive(Default, Debug)]
pub(crate) struct Affinity {
    latest: HashMap<Key, [Option<Key>; PARTNERS]>,
    by_age: VecDeque<Key>,
}

impl Affinity {
    /// Stores the partners of a key, the last one first.
    pub(crate) fn store(&mut self, key: &Key, partners: impl Iterator<Item = Key>) {
        let mut latest = [None; PARTNERS];
        for (place, partner) in latest.iter_mut().zip(partners) {
            *place = Some(partner);
        }
        if latest[0].is_none() || self.latest.insert(*key, latest).is_some() {
            return;
        }
        self.by_age.push_back(*key);
        if self.by_age.len() > MAX_KEYS
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.latest.remove(&oldest);
        }
    }

    /// The stored partners of a key, the last one first.
    pub(crate) fn of(&self, key: &Key) -> impl Iterator<Item = Key> {
        self.latest.get(key).copied().unwrap_or_default().into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_ne_bytes());
        key
    }

    #[test]
    fn the_last_partners_are_stored_for_a_bounded_number_of_keys() {
        let mut partners = Affinity::default();
        partners.store(&key(0), [key(7), key(8), key(9)].into_iter());
        assert_eq!(partners.of(&key(0)).collect::<Vec<_>>(), [key(7), key(8)]);
        for n in 1..MAX_KEYS {
            partners.store(&key(n), [key(n)].into_iter());
        }
        partners.store(&key(0), [key(5)].into_iter());
        assert_eq!(partners.of(&key(0)).collect::<Vec<_>>(), [key(5)]);
        partners.store(&key(MAX_KEYS), [key(1)].into_iter());
        assert_eq!(partners.of(&key(0)).count(), 0);
        assert_eq!(partners.of(&key(1)).count(), 1);
        partners.store(&key(MAX_KEYS + 1), [].into_iter());
        assert_eq!((partners.latest.len(), partners.by_age.len()), (MAX_KEYS, MAX_KEYS));
    }
}
