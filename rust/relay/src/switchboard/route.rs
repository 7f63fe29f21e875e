//! The routes of one sender, and the receivers that get PeerGone when it leaves.
//!
//! A route is found by the destination's key and holds the destination's [`Peer`], so routing takes no lock. It also
//! stores the connections that got packets: they are notified when the sender's key leaves the region
//! (`docs/protocol/relay.md`, Peer gone). Routes live as long as the sender's key is here, or until there are too many.
//! Then the oldest are dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::id::ConnId;
use crate::switchboard::table::Peer;
use crate::wire::frame::Key;

/// Maximum routes of one sender; the oldest is dropped.
const MAX_ROUTES: usize = 65_536;
/// Routes below which there is no sweep for destinations that have left.
const FIRST_SWEEP: usize = 256;
/// Maximum stored receivers of one destination; only a client that reconnects all the time reaches it.
const MAX_RECEIVERS: usize = 8;

/// A sender's stored entry of one destination.
#[derive(Debug)]
pub(crate) struct Route {
    to: Key,
    pub(crate) peer: Arc<Peer>,
    /// The connection that got a packet last; `NONE` before the first packet.
    last_receiver: ConnId,
    /// The receivers before it, the latest last; most destinations have none.
    earlier_receivers: Vec<ConnId>,
}

impl Route {
    /// Stores that `conn` got a packet.
    pub(crate) fn note(&mut self, conn: ConnId) {
        if self.last_receiver == conn {
            return;
        }
        self.earlier_receivers.retain(|known| *known != conn);
        if self.earlier_receivers.len() == MAX_RECEIVERS - 1 {
            self.earlier_receivers.remove(0);
        }
        let before = std::mem::replace(&mut self.last_receiver, conn);
        if before != ConnId::NONE {
            self.earlier_receivers.push(before);
        }
    }

    fn receivers(&self) -> impl Iterator<Item = ConnId> + '_ {
        let last = (self.last_receiver != ConnId::NONE).then_some(self.last_receiver);
        self.earlier_receivers.iter().copied().chain(last)
    }
}

/// All routes of one sender.
#[derive(Debug)]
pub(crate) struct Routes {
    routes: Vec<Route>,
    by_key: HashMap<Key, u32>,
    /// Indices into `routes`, oldest first. Invariant: it has the same length as `routes`.
    by_age: VecDeque<u32>,
    /// Number of routes at which the routes to destinations that have left are dropped.
    sweep_at: usize,
}

impl Default for Routes {
    fn default() -> Self {
        Self { routes: Vec::new(), by_key: HashMap::new(), by_age: VecDeque::new(), sweep_at: FIRST_SWEEP }
    }
}

impl Routes {
    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Returns the index of the route to `to`; `hint` is the index of the last route used.
    pub(crate) fn find(&self, to: &Key, hint: usize) -> Option<usize> {
        match self.routes.get(hint) {
            Some(route) if route.to == *to => Some(hint),
            _ => self.by_key.get(to).map(|index| *index as usize),
        }
    }

    /// The route at an index from [`find`](Self::find) or [`insert`](Self::insert), with no other call in between.
    pub(crate) fn at(&mut self, index: usize) -> &mut Route {
        &mut self.routes[index]
    }

    /// Adds a route, or renews the one of a key that has a new peer. Returns its index, and whether an older route was
    /// dropped.
    pub(crate) fn insert(&mut self, to: &Key, peer: Arc<Peer>) -> (usize, bool) {
        let route = Route { to: *to, peer, last_receiver: ConnId::NONE, earlier_receivers: Vec::new() };
        if let Some(&index) = self.by_key.get(to) {
            // The key was connected earlier, but all those connections have ended.
            self.routes[index as usize] = route;
            return (index as usize, false);
        }
        if self.routes.len() >= self.sweep_at {
            self.sweep();
        }
        let drops = self.routes.len() >= MAX_ROUTES;
        let oldest = if drops { self.by_age.pop_front() } else { None };
        let index = match oldest {
            Some(index) => {
                self.by_key.remove(&self.routes[index as usize].to);
                self.routes[index as usize] = route;
                index
            }
            None => {
                self.routes.push(route);
                (self.routes.len() - 1) as u32
            }
        };
        self.by_key.insert(*to, index);
        self.by_age.push_back(index);
        (index as usize, drops)
    }

    /// Drops the routes to destinations that have left, before the number of routes has doubled.
    fn sweep(&mut self) {
        self.keep(usize::MAX, |route| route.peer.active() != ConnId::NONE);
    }

    /// Drops the oldest routes until `most` are left, and frees their memory. Returns the number dropped.
    pub(crate) fn cut_to(&mut self, most: usize) -> usize {
        let before = self.routes.len();
        self.keep(most, |_| true);
        self.routes.shrink_to_fit();
        before - self.routes.len()
    }

    /// Keeps the latest `most` routes, if `is_kept` returns true for them.
    fn keep(&mut self, most: usize, is_kept: impl Fn(&Route) -> bool) {
        let mut routes: Vec<_> = std::mem::take(&mut self.routes).into_iter().map(Some).collect();
        let by_age = std::mem::take(&mut self.by_age);
        let forgotten = by_age.len().saturating_sub(most);
        self.routes = by_age
            .into_iter()
            .skip(forgotten)
            .filter_map(|index| routes[index as usize].take())
            .filter(is_kept)
            .collect();
        self.by_key = self.routes.iter().zip(0..).map(|(route, index)| (route.to, index)).collect();
        self.by_age = (0..self.routes.len() as u32).collect();
        self.sweep_at = (2 * self.routes.len()).max(FIRST_SWEEP);
    }

    /// The destinations: first that of the route at index `last`, then the newest route's, and so on.
    pub(crate) fn latest(&self, last: usize) -> impl Iterator<Item = Key> + '_ {
        let newest =
            self.by_age.iter().rev().map(|index| *index as usize).filter(move |index| *index != last);
        let last = self.routes.get(last).map(|route| route.to);
        last.into_iter().chain(newest.map(|index| self.routes[index].to))
    }

    /// All connections that got a packet.
    pub(crate) fn receivers(&self) -> impl Iterator<Item = ConnId> + '_ {
        self.routes.iter().flat_map(Route::receivers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::switchboard::table::Switchboard;

    fn key(n: usize) -> Key {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&n.to_ne_bytes());
        key
    }

    #[test]
    fn a_sender_with_too_many_routes_drops_the_oldest() {
        let board = Switchboard::new(1);
        let mut routes = Routes::default();
        for n in 0..MAX_ROUTES {
            assert!(!routes.insert(&key(n), arrive(&board, n)).1);
        }
        let (index, dropped) = routes.insert(&key(MAX_ROUTES), arrive(&board, MAX_ROUTES));
        assert!(dropped);
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
    fn routes_to_destinations_that_have_left_are_dropped() {
        let board = Switchboard::new(1);
        let mut routes = Routes::default();
        let (stays, _) = routes.insert(&key(0), arrive(&board, 0));
        routes.at(stays).note(ConnId::from_u64(1));
        for n in 1..100_000 {
            let (index, _) = routes.insert(&key(n), arrive(&board, n));
            routes.at(index).note(ConnId::from_u64(n as u64 + 1));
            board.release(&key(n), ConnId::NONE);
        }
        assert!(routes.routes.len() <= FIRST_SWEEP, "{} routes for one destination", routes.routes.len());
        let index = routes.find(&key(0), usize::MAX).expect("it is still there");
        assert_eq!(routes.at(index).receivers().collect::<Vec<_>>(), [ConnId::from_u64(1)]);
    }

    #[test]
    fn the_latest_routes_are_kept_when_routes_are_dropped() {
        let board = Switchboard::new(1);
        let mut routes = Routes::default();
        for n in 0..100 {
            let (index, _) = routes.insert(&key(n), arrive(&board, n));
            routes.at(index).note(ConnId::from_u64(n as u64 + 1));
        }
        assert_eq!((routes.cut_to(200), routes.len()), (0, 100));
        assert_eq!((routes.cut_to(10), routes.len()), (90, 10));
        assert_eq!(routes.find(&key(89), 0), None);
        assert_eq!(
            routes.receivers().collect::<Vec<_>>(),
            (91..=100).map(ConnId::from_u64).collect::<Vec<_>>()
        );
        assert_eq!(routes.latest(usize::MAX).next(), Some(key(99)));
        assert_eq!(routes.insert(&key(0), arrive(&board, 0)), (10, false));
    }

    #[test]
    fn a_destination_that_came_back_has_no_receivers() {
        let board = Switchboard::new(1);
        let mut routes = Routes::default();
        let (index, _) = routes.insert(&key(1), board.claim(&key(1), |_| 0));
        routes.at(index).note(ConnId::from_u64(1));
        routes.at(index).note(ConnId::from_u64(2));
        routes.at(index).note(ConnId::from_u64(1));
        assert_eq!(routes.receivers().collect::<Vec<_>>(), [ConnId::from_u64(2), ConnId::from_u64(1)]);
        assert_eq!(routes.insert(&key(1), board.claim(&key(1), |_| 0)), (index, false));
        assert_eq!(routes.receivers().count(), 0);
    }

    #[test]
    fn the_stored_receivers_of_a_route_are_bounded() {
        let board = Switchboard::new(1);
        let mut routes = Routes::default();
        let (index, _) = routes.insert(&key(1), board.claim(&key(1), |_| 0));
        for n in 1..1_000 {
            routes.at(index).note(ConnId::from_u64(n));
        }
        assert_eq!(routes.receivers().count(), MAX_RECEIVERS);
    }
}
