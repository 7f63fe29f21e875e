//! The links over which a key at other nodes is reached, the first announced first. There is nearly always one link,
//! and there may be a million of these lists. So a list of one takes no memory of its own.

use crate::id::ConnId;

/// Invariant: the list contains no link twice, and `first` is `NONE` only if the list is empty.
#[derive(Debug)]
pub(crate) struct Links {
    first: ConnId,
    others: Box<[ConnId]>,
}

impl Default for Links {
    fn default() -> Self {
        Self { first: ConnId::NONE, others: Box::default() }
    }
}

impl Links {
    /// The link in use; `NONE` if the list is empty.
    pub(crate) const fn first(&self) -> ConnId {
        self.first
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first != ConnId::NONE) + self.others.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn contains(&self, link: ConnId) -> bool {
        link != ConnId::NONE && (self.first == link || self.others.contains(&link))
    }

    /// Adds a link that is not in it yet.
    pub(crate) fn push(&mut self, link: ConnId) {
        if self.first == ConnId::NONE {
            self.first = link;
        } else {
            self.others = self.others.iter().copied().chain([link]).collect();
        }
    }

    /// Removes a link. Returns whether it was in the list.
    pub(crate) fn remove(&mut self, link: ConnId) -> bool {
        if !self.contains(link) {
            return false;
        }
        let all = [self.first].into_iter().chain(self.others.iter().copied());
        let mut left = all.filter(|other| *other != link);
        let first = left.next().unwrap_or(ConnId::NONE);
        let others = left.collect();
        (self.first, self.others) = (first, others);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_link_that_is_left_is_first() {
        let link = ConnId::from_u64;
        let mut links = Links::default();
        assert!(links.is_empty() && !links.contains(ConnId::NONE) && !links.remove(ConnId::NONE));
        for n in 1..=3 {
            links.push(link(n));
        }
        assert_eq!((links.len(), links.first()), (3, link(1)));
        assert!(links.remove(link(2)) && !links.remove(link(2)));
        assert!(links.remove(link(1)) && links.contains(link(3)));
        assert_eq!((links.len(), links.first()), (1, link(3)));
        assert!(links.remove(link(3)) && links.is_empty());
        assert_eq!(links.first(), ConnId::NONE);
    }
}
