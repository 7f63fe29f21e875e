//! How many connections there may be before login, and how many of one address.
//!
//! Counted for the whole process, by what each connection holds: its [`Permit`], which is given back when it is dropped.
//! When there are too many before login, [`Pending`] says which one makes room. The connections of other nodes of the
//! region, known by their addresses, have places of their own beyond that, [`RESERVED`] for each address.
//!
//! The locks are taken when a connection comes, takes a step or leaves, and for its bytes before login: never for a
//! packet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::id::ConnId;
use crate::limits::pending::{Choice, Pending, Phase};

/// Addresses that are as good as one: those of an IPv6 network of 64 bits are one subscriber's.
type Origin = IpAddr;

/// Places for connections before login that each address of another node of the region has.
pub(crate) const RESERVED: u32 = 16;
/// How long bytes are not noted after others were, in milliseconds: exact enough for the question which is most silent.
const HEARD_PAUSE: u64 = 100;

/// Counts connections before login, and connections by address.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    most_pending: usize,
    pending: Mutex<Pending>,
    by_origin: Mutex<HashMap<Origin, u32>>,
    /// Reserved places in use, by the address of another node.
    nodes: Mutex<HashMap<Origin, u32>>,
}

impl ConnectionLimiter {
    pub(crate) fn new(most_pending: usize) -> Arc<Self> {
        Arc::new(Self {
            most_pending,
            pending: Mutex::default(),
            by_origin: Mutex::default(),
            nodes: Mutex::default(),
        })
    }

    /// A permit for a connection that was accepted just now.
    pub(crate) fn permit(self: &Arc<Self>) -> Box<Permit> {
        Box::new(Permit {
            limiter: Arc::clone(self),
            id: ConnId::NONE,
            place: Place::None,
            quiet_until: 0,
            origin: None,
        })
    }

    /// Until when nothing may be accepted; `None`: there is a place, or a connection that may be evicted for one.
    pub(crate) fn must_wait(&self, now: u64) -> Option<u64> {
        let pending = lock(&self.pending);
        if pending.len() < self.most_pending {
            return None;
        }
        match pending.choose(now) {
            Choice::Evict(_) => None,
            Choice::Wait(until) => Some(until),
        }
    }

    /// Takes a connection before login off the count, for the caller to close it; `None`: none may be evicted.
    pub(crate) fn evict(&self, now: u64) -> Option<ConnId> {
        lock(&self.pending).evict(now)
    }

    /// How many connections there are before login, without those in reserved places.
    pub(crate) fn pending(&self) -> usize {
        lock(&self.pending).len()
    }

    /// Keeps places for connections from these addresses, from now on.
    pub(crate) fn reserve(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut nodes = lock(&self.nodes);
        let used = std::mem::take(&mut *nodes);
        nodes.extend(addresses.into_iter().map(|ip| {
            let ip = ip.to_canonical();
            (ip, used.get(&ip).copied().unwrap_or(0))
        }));
    }

    /// Takes a reserved place, if there is one for the address.
    fn take_reserved(&self, ip: IpAddr) -> bool {
        let mut nodes = lock(&self.nodes);
        let used = nodes.get_mut(&ip.to_canonical()).filter(|used| **used < RESERVED);
        used.map(|used| *used += 1).is_some()
    }
}

/// Where a connection counts before login.
#[derive(Debug)]
enum Place {
    /// Nowhere: it has logged in.
    None,
    /// In [`Pending`], at that index.
    Pending(u32),
    /// Among the reserved ones of an address.
    Reserved(IpAddr),
}

/// One connection's place in the limiter.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<ConnectionLimiter>,
    id: ConnId,
    place: Place,
    /// Bytes are not noted before this time.
    quiet_until: u64,
    origin: Option<Origin>,
}

impl Permit {
    /// Counts the connection to its address; `false`: `most` are there already.
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

    /// Counts the connection among those before login, under its name. If they are too many now, the one that the
    /// caller has to close for it. `ip` is none where the address stands for many, as a proxy's does.
    pub(crate) fn enter(&mut self, id: ConnId, ip: Option<IpAddr>, now: u64) -> Option<ConnId> {
        self.id = id;
        if let Some(ip) = ip.filter(|ip| self.limiter.take_reserved(*ip)) {
            self.place = Place::Reserved(ip.to_canonical());
            return None;
        }
        let mut pending = lock(&self.limiter.pending);
        self.place = Place::Pending(pending.enter(id, ip.map(origin), now));
        self.quiet_until = now;
        if pending.len() > self.limiter.most_pending { pending.evict(now) } else { None }
    }

    /// Counts the connection to the network of the address that a proxy has named.
    pub(crate) fn is_for(&mut self, ip: IpAddr) {
        if let Place::Pending(index) = self.place {
            lock(&self.limiter.pending).come_from(index, self.id, origin(ip));
        }
    }

    /// Notes that the connection has come a step further.
    pub(crate) fn step(&mut self, phase: Phase, now: u64) {
        if let Place::Pending(index) = self.place {
            lock(&self.limiter.pending).step(index, self.id, phase, now);
        }
    }

    /// Notes that bytes have come.
    pub(crate) fn heard(&mut self, now: u64) {
        if let Place::Pending(index) = self.place
            && now >= self.quiet_until
        {
            self.quiet_until = now + HEARD_PAUSE;
            lock(&self.limiter.pending).heard(index, self.id, now);
        }
    }

    /// Counts the connection no more among those before login; whether the permit still stands for something.
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

    /// Whether the connection is counted among those before login that may be evicted.
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
