//! How many connections there may be of those that are not switched yet, and of one address: a flood of newcomers may
//! cost neither those who are in nor each other.
//!
//! Counted for the whole process, by what each connection holds: its [`Seat`], which is given back when it is dropped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Addresses that are as good as one: those of an IPv6 network of 64 bits are one subscriber's.
type Origin = IpAddr;

/// Everybody who holds a seat.
#[derive(Debug)]
pub(crate) struct Crowd {
    newcomers: AtomicUsize,
    most_newcomers: usize,
    by_origin: Mutex<HashMap<Origin, u32>>,
}

impl Crowd {
    pub(crate) fn new(most_newcomers: usize) -> Arc<Self> {
        Arc::new(Self { newcomers: AtomicUsize::new(0), most_newcomers, by_origin: Mutex::default() })
    }

    /// A seat for one more newcomer; `None`: there are too many.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Box<Seat>> {
        let taken = self.newcomers.fetch_add(1, Ordering::Relaxed);
        // From here on the number is given back with the seat.
        let seat = Box::new(Seat { crowd: Arc::clone(self), is_newcomer: true, origin: None });
        (taken < self.most_newcomers).then_some(seat)
    }
}

/// One connection's place in the crowd.
#[derive(Debug)]
pub(crate) struct Seat {
    crowd: Arc<Crowd>,
    is_newcomer: bool,
    origin: Option<Origin>,
}

impl Seat {
    /// Counts the connection to its address; `false`: `most` are there already.
    pub(crate) fn come_from(&mut self, ip: IpAddr, most: u32) -> bool {
        let origin = origin(ip);
        let mut by_origin = self.crowd.by_origin.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Counts the connection no more among the newcomers; whether the seat still stands for something.
    pub(crate) fn settle_in(&mut self) -> bool {
        if std::mem::take(&mut self.is_newcomer) {
            self.crowd.newcomers.fetch_sub(1, Ordering::Relaxed);
        }
        self.origin.is_some()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.settle_in();
        let Some(origin) = self.origin else { return };
        let mut by_origin = self.crowd.by_origin.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(there) = by_origin.get_mut(&origin) {
            *there -= 1;
            if *there == 0 {
                by_origin.remove(&origin);
            }
        }
    }
}

fn origin(ip: IpAddr) -> Origin {
    const SUBSCRIBER: u128 = u128::MAX << 64;
    match ip.to_canonical() {
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) & SUBSCRIBER).to_be_bytes()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::{Crowd, Seat};

    fn sit(seat: &mut Seat, ip: &str) -> bool {
        seat.come_from(ip.parse().expect("an address"), 2)
    }

    #[test]
    fn newcomers_are_bounded_until_they_settle_in_or_leave() {
        let crowd = Crowd::new(2);
        let (mut first, second) = (crowd.admit().expect("a seat"), crowd.admit().expect("a seat"));
        assert!(crowd.admit().is_none());
        assert!(!first.settle_in(), "it stands for nothing more");
        let third = crowd.admit().expect("the first one's place");
        assert!(crowd.admit().is_none());
        drop((second, third));
        assert!(crowd.admit().is_some());
        drop(first);
        assert_eq!(crowd.newcomers.load(std::sync::atomic::Ordering::Relaxed), 0);
    }

    #[test]
    fn an_address_has_so_many_seats_and_an_ipv6_subscriber_is_one_address() {
        let crowd = Crowd::new(100);
        let seats = || crowd.admit().expect("a seat");
        let (mut a, mut b, mut c) = (seats(), seats(), seats());
        assert!(sit(&mut a, "192.0.2.1") && sit(&mut b, "::ffff:192.0.2.1"));
        assert!(!sit(&mut c, "192.0.2.1"));
        assert!(sit(&mut c, "192.0.2.2"), "another address is not concerned");
        assert!(a.settle_in(), "who is in counts on");
        drop(a);
        assert!(sit(&mut seats(), "192.0.2.1"));
        let (mut d, mut e, mut f) = (seats(), seats(), seats());
        assert!(sit(&mut d, "2001:db8::1") && sit(&mut e, "2001:db8::ffff:0:0:1"));
        assert!(!sit(&mut f, "2001:db8::2") && sit(&mut f, "2001:db8:0:1::2"));
    }

    #[test]
    fn nothing_is_kept_of_who_has_left_or_was_not_let_in() {
        let crowd = Crowd::new(100);
        let mut seat = crowd.admit().expect("a seat");
        assert!(!seat.come_from("192.0.2.9".parse().expect("an address"), 0));
        for n in 0..1_000_u32 {
            let mut seat = crowd.admit().expect("a seat");
            assert!(seat.come_from(std::net::Ipv4Addr::from(n).into(), 1));
        }
        assert!(crowd.by_origin.lock().expect("a lock").is_empty());
    }
}
