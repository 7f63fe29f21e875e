//! The keys that one watcher has not been sent yet: a set, not a queue of events.
//!
//! Each key is written in its state at the time of the write. So a slow watcher gets fewer updates, and never more
//! entries than there are keys. Memory is bounded by the number of keys (`docs/protocol/mesh.md`).

use std::collections::{HashSet, VecDeque};

use crate::wire::frame::Key;

/// The keys whose latest state a watcher has not been sent yet.
#[derive(Default, Debug)]
pub(crate) struct Watch {
    queue: VecDeque<Key>,
    queued: HashSet<Key>,
    /// Writes since the watcher was last up to date.
    pub(crate) batches: u64,
}

impl Watch {
    /// Notes that a key is here, or has come, come again or gone.
    pub(crate) fn changed(&mut self, key: &Key) {
        if self.queued.insert(*key) {
            self.queue.push_back(*key);
        }
    }

    /// The next key to write.
    pub(crate) fn next(&mut self) -> Option<Key> {
        let key = self.queue.pop_front()?;
        self.queued.remove(&key);
        if self.queue.is_empty() {
            (self.queue, self.queued) = Default::default();
        }
        Some(key)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_changes_often_before_a_write_is_written_once() {
        let mut watch = Watch::default();
        watch.changed(&[1; 32]);
        watch.changed(&[2; 32]);
        watch.changed(&[2; 32]);
        watch.changed(&[3; 32]);
        watch.changed(&[3; 32]);
        let written: Vec<_> = std::iter::from_fn(|| watch.next()).collect();
        assert_eq!(written, [[1; 32], [2; 32], [3; 32]]);
        watch.changed(&[1; 32]);
        assert_eq!(watch.next(), Some([1; 32]));
        assert!(watch.is_empty());
    }
}
