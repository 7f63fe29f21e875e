//! Limits connections before login, and connections per source address.
//!
//! Counts for the whole process, by each connection's [`Permit`], which releases its place when it is dropped. If too
//! many connections have not logged in, [`Pending`] chooses the one to evict. Connections from other nodes of the
//! region have places of their own beyond that limit, [`RESERVED`] for each address.
//!
//! The locks are taken when a connection comes, makes progress or leaves, and for its input before login. They are
//! never taken for a packet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::id::ConnId;
use crate::limits::pending::{Choice, Pending, Phase};

/// Addresses that count as one: an IPv6 network of 64 bits belongs to one subscriber.
type Origin = IpAddr;

/// Places before login reserved for each address of another node of the region.
pub(crate) const RESERVED: u32 = 16;
/// Milliseconds after noted input in which further input is not noted; exact enough for the choice of the
/// longest-silent.
const INPUT_PAUSE: u64 = 100;

/// Counts connections before login, and connections by address.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    max_pending: usize,
    pending: Mutex<Pending>,
    by_origin: Mutex<HashMap<Origin, u32>>,
    /// Used reserved places, by the address of another node.
    nodes: Mutex<HashMap<Origin, u32>>,
}

impl ConnectionLimiter {
    pub(crate) fn new(max_pending: usize) -> Arc<Self> {
        Arc::new(Self {
            max_pending,
            pending: Mutex::default(),
            by_origin: Mutex::default(),
            nodes: Mutex::default(),
        })
    }

    /// A permit for a new connection.
    pub(crate) fn permit(self: &Arc<Self>) -> Box<Permit> {
        Box::new(Permit {
            limiter: Arc::clone(self),
            id: ConnId::NONE,
            place: Place::None,
            quiet_until: 0,
            origin: None,
        })
    }

    /// The time before which nothing may be accepted; `None`: there is a place, or a connection to evict.
    pub(crate) fn must_wait(&self, now: u64) -> Option<u64> {
        let pending = lock(&self.pending);
        if pending.len() < self.max_pending {
            return None;
        }
        match pending.choose(now) {
            Choice::Evict(_) => None,
            Choice::Wait(until) => Some(until),
        }
    }

    /// Removes a pending connection, which the caller has to close. `None`: no connection may be evicted.
    pub(crate) fn evict(&self, now: u64) -> Option<ConnId> {
        lock(&self.pending).evict(now)
    }

    /// Number of pending connections, without those in reserved places.
    pub(crate) fn pending(&self) -> usize {
        lock(&self.pending).len()
    }

    /// Reserves places for connections from these addresses from now on.
    pub(crate) fn reserve(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut nodes = lock(&self.nodes);
        let used = std::mem::take(&mut *nodes);
        nodes.extend(addresses.into_iter().map(|ip| {
            let ip = ip.to_canonical();
            (ip, used.get(&ip).copied().unwrap_or(0))
        }));
    }

    /// Takes a reserved place, if the address has a free one.
    fn take_reserved(&self, ip: IpAddr) -> bool {
        let mut nodes = lock(&self.nodes);
        let used = nodes.get_mut(&ip.to_canonical()).filter(|used| **used < RESERVED);
        used.map(|used| *used += 1).is_some()
    }
}

/// A connection's place before login.
#[derive(Debug)]
enum Place {
    /// No place: the connection has logged in.
    None,
    /// In [`Pending`], at this index.
    Pending(u32),
    /// A reserved place of this address.
    Reserved(IpAddr),
}

/// One connection's place in the limiter.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<ConnectionLimiter>,
    id: ConnId,
    place: Place,
    /// Input is not noted before this time.
    quiet_until: u64,
    origin: Option<Origin>,
}

impl Permit {
    /// Counts the connection for its address. Returns `false` if the address has `most` connections already.
    pub(crate) fn come_from(&mut self, ip: IpAddr, most: u32) -> bool {
        let origin = origin(ip);
        let mut by_origin = lock(&self.limiter.by_origin);
        let there = by_origin.entry(origin).or_default();
        let is_room = *there < most;
        if is_room {
            *there += 1;
            self.origin = Some(origin);
        } else if *there == 0 {
            by_origin.remove(&origin);
        }
        is_room
    }

    /// Counts the connection as pending. If there are too many now, returns the one that the caller has to close. `ip`
    /// is `None` if many clients share the address, as with a proxy's.
    pub(crate) fn enter(&mut self, id: ConnId, ip: Option<IpAddr>, now: u64) -> Option<ConnId> {
        self.id = id;
        if let Some(ip) = ip.filter(|ip| self.limiter.take_reserved(*ip)) {
            self.place = Place::Reserved(ip.to_canonical());
            return None;
        }
        let mut pending = lock(&self.limiter.pending);
        self.place = Place::Pending(pending.enter(id, ip.map(origin), now));
        self.quiet_until = now;
        if pending.len() > self.limiter.max_pending { pending.evict(now) } else { None }
    }

    /// Moves the connection to the network of the address in its PROXY header.
    pub(crate) fn is_for(&mut self, ip: IpAddr) {
        if let Place::Pending(index) = self.place {
            lock(&self.limiter.pending).come_from(index, self.id, origin(ip));
        }
    }

    /// Notes the connection's progress.
    pub(crate) fn step(&mut self, phase: Phase, now: u64) {
        if let Place::Pending(index) = self.place {
            lock(&self.limiter.pending).step(index, self.id, phase, now);
        }
    }

    /// Notes that bytes have come.
    pub(crate) fn note_input(&mut self, now: u64) {
        if let Place::Pending(index) = self.place
            && now >= self.quiet_until
        {
            self.quiet_until = now + INPUT_PAUSE;
            lock(&self.limiter.pending).note_input(index, self.id, now);
        }
    }

    /// Counts the connection no longer as pending. Returns whether the permit still counts for an address.
    pub(crate) fn settle_in(&mut self) -> bool {
        match std::mem::replace(&mut self.place, Place::None) {
            Place::None => {}
            Place::Pending(index) => {
                lock(&self.limiter.pending).leave(index, self.id);
            }
            Place::Reserved(ip) => {
                if let Some(used) = lock(&self.limiter.nodes).get_mut(&ip) {
                    *used = used.saturating_sub(1);
                }
            }
        }
        self.origin.is_some()
    }

    /// Whether the connection is pending and may be evicted.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self.place, Place::Pending(_))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.settle_in();
        let Some(origin) = self.origin else { return };
        let mut by_origin = lock(&self.limiter.by_origin);
        if let Some(there) = by_origin.get_mut(&origin) {
            *there -= 1;
            if *there == 0 {
                by_origin.remove(&origin);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn origin(ip: IpAddr) -> Origin {
    const SUBSCRIBER: u128 = u128::MAX << 64;
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) & SUBSCRIBER).to_be_bytes()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests;
