//! Where one sender's packets go, and who has to hear that this sender has left.
//!
//! A route is found by the destination's key and holds the destination's [`Peer`]: looking where the packet goes
//! costs no lock. It also holds which connections were sent a packet, because these are told when the sender's key
//! leaves the region (`docs/protocol/relay.md`, Peer gone). Routes live as long as the sender's key is here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::frame::Key;
use crate::id::ConnId;
use crate::switchboard::Peer;

/// Most destinations that are remembered for one sender; the oldest is forgotten.
const MAX_ROUTES: usize = 65_536;
/// With fewer routes than this none is looked at for whether it still leads anywhere.
const FIRST_SWEEP: usize = 256;
/// Most connections of one destination that are remembered; only one that reconnects all the time has so many.
const MAX_TOLD: usize = 8;

/// The way to one destination.
#[derive(Debug)]
pub(crate) struct Route {
    to: Key,
    pub(crate) peer: Arc<Peer>,
    /// The connections that were sent a packet on this route, the latest last.
    told: Vec<ConnId>,
}

impl Route {
    /// Remembers that `conn` was sent a packet.
    pub(crate) fn note(&mut self, conn: ConnId) {
        if self.told.last() == Some(&conn) {
            return;
        }
        self.told.retain(|known| *known != conn);
        if self.told.len() == MAX_TOLD {
            self.told.remove(0);
        }
        self.told.push(conn);
    }
}

/// All routes of one sender.
#[derive(Debug)]
pub(crate) struct Routes {
    routes: Vec<Route>,
    by_key: HashMap<Key, usize>,
    /// Indices into `routes`, oldest first; as long as `routes`.
    by_age: VecDeque<usize>,
    /// With so many routes, those that lead nowhere any more are looked for.
    sweep_at: usize,
}

impl Default for Routes {
    fn default() -> Self {
        Self { routes: Vec::new(), by_key: HashMap::new(), by_age: VecDeque::new(), sweep_at: FIRST_SWEEP }
    }
}

impl Routes {
    /// The route to `to`, `hint` being the index of the last one used; its index.
    pub(crate) fn find(&self, to: &Key, hint: usize) -> Option<usize> {
        match self.routes.get(hint) {
            Some(route) if route.to == *to => Some(hint),
            _ => self.by_key.get(to).copied(),
        }
    }

    /// The route at an index that [`find`](Self::find) or [`insert`](Self::insert) gave just now.
    pub(crate) fn at(&mut self, index: usize) -> &mut Route {
        &mut self.routes[index]
    }

    /// Adds a route, or points an old one to where its key is now; its index, and whether an older was forgotten.
    pub(crate) fn insert(&mut self, to: &Key, peer: Arc<Peer>) -> (usize, bool) {
        let route = Route { to: *to, peer, told: Vec::new() };
        if let Some(&index) = self.by_key.get(to) {
            // Its connections were of an earlier stay of that key, and have all ended.
            self.routes[index] = route;
            return (index, false);
        }
        if self.routes.len() >= self.sweep_at {
            self.sweep();
        }
        if self.routes.len() < MAX_ROUTES {
            self.routes.push(route);
            let index = self.routes.len() - 1;
            self.by_key.insert(*to, index);
            self.by_age.push_back(index);
            return (index, false);
        }
        let index = self.by_age.pop_front().unwrap_or(0);
        self.by_key.remove(&self.routes[index].to);
        self.routes[index] = route;
        self.by_key.insert(*to, index);
        self.by_age.push_back(index);
        (index, true)
    }

    /// Forgets the destinations that have left, before there are twice as many routes as the last time.
    fn sweep(&mut self) {
        let mut routes: Vec<_> = std::mem::take(&mut self.routes).into_iter().map(Some).collect();
        let by_age = std::mem::take(&mut self.by_age);
        self.routes = by_age.into_iter().filter_map(|index| routes[index].take()).collect();
        self.routes.retain(|route| route.peer.active() != ConnId::NOBODY);
        self.by_key = self.routes.iter().enumerate().map(|(index, route)| (route.to, index)).collect();
        self.by_age = (0..self.routes.len()).collect();
        self.sweep_at = (2 * self.routes.len()).max(FIRST_SWEEP);
    }

    /// The destinations, that of the route at `last` first, then the one that was found last, and so on.
    pub(crate) fn latest(&self, last: usize) -> impl Iterator<Item = Key> + '_ {
        let newest = self.by_age.iter().rev().copied().filter(move |index| *index != last);
        let last = self.routes.get(last).map(|route| route.to);
        last.into_iter().chain(newest.map(|index| self.routes[index].to))
    }

    /// Every connection that was sent a packet.
    pub(crate) fn told(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.routes.iter().flat_map(|route| route.told.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switchboard::Switchboard;

    fn key(n: usize) -> Key {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_ne_bytes());
        key
    }

    #[test]
    fn a_sender_with_too_many_partners_forgets_the_oldest() {
        let board = Switchboard::new(1);
        let mut routes = Routes::default();
        for n in 0..MAX_ROUTES {
            assert!(!routes.insert(&key(n), arrive(&board, n)).1);
        }
        let (index, forgot) = routes.insert(&key(MAX_ROUTES), arrive(&board, MAX_ROUTES));
        assert!(forgot);
        assert_eq!(routes.find(&key(0), 0), None);
        assert_eq!(routes.find(&key(MAX_ROUTES), 0), Some(index));
        assert_eq!(routes.find(&key(1), index), Some(1));
    }

    fn arrive(board: &Switchboard, n: usize) -> Arc<Peer> {
        let peer = board.claim(&key(n), |_| 0);
        board.arrive(&key(n), ConnId::from_u64(n as u64 + 1), Arc::from([]));
        peer
    }

    #[test]
    fn destinations_that_have_left_are_forgotten_before_they_become_many() {
        let board = Switchboard::new(1);
        let mut routes = Routes::default();
        let (stays, _) = routes.insert(&key(0), arrive(&board, 0));
        routes.at(stays).note(ConnId::from_u64(1));
        for n in 1..100_000 {
            let (index, _) = routes.insert(&key(n), arrive(&board, n));
            routes.at(index).note(ConnId::from_u64(n as u64 + 1));
            board.release(&key(n), ConnId::NOBODY);
        }
        assert!(routes.routes.len() <= FIRST_SWEEP, "{} routes for one destination", routes.routes.len());
        let index = routes.find(&key(0), usize::MAX).expect("it is still there");
        assert_eq!(routes.at(index).told, [ConnId::from_u64(1)]);
    }

    #[test]
    fn a_destination_that_came_back_is_told_of_anew() {
        let board = Switchboard::new(1);
        let mut routes = Routes::default();
        let (index, _) = routes.insert(&key(1), board.claim(&key(1), |_| 0));
        routes.at(index).note(ConnId::from_u64(1));
        routes.at(index).note(ConnId::from_u64(2));
        routes.at(index).note(ConnId::from_u64(1));
        assert_eq!(routes.told().collect::<Vec<_>>(), [ConnId::from_u64(2), ConnId::from_u64(1)]);
        assert_eq!(routes.insert(&key(1), board.claim(&key(1), |_| 0)), (index, false));
        assert_eq!(routes.told().count(), 0);
    }

    #[test]
    fn a_destination_that_reconnects_all_the_time_costs_no_more_memory() {
        let board = Switchboard::new(1);
        let mut routes = Routes::default();
        let (index, _) = routes.insert(&key(1), board.claim(&key(1), |_| 0));
        for n in 1..1_000 {
            routes.at(index).note(ConnId::from_u64(n));
        }
        assert_eq!(routes.told().count(), MAX_TOLD);
    }
}
