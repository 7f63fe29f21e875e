//! Places of one address, places before login, and reserved places.

use super::{ConnectionLimiter, Permit, RESERVED};
use crate::id::ConnId;
use crate::limits::pending::GRACE;

fn count_in(permit: &mut Permit, ip: &str) -> bool {
    permit.come_from(ip.parse().expect("an address"), 2)
}

fn id(n: u64) -> ConnId {
    ConnId::from_u64(n)
}

#[test]
fn silent_connections_before_login_are_evicted_for_new_ones() {
    let limiter = ConnectionLimiter::new(2);
    let mut permits: Vec<_> = (0..3).map(|_| limiter.permit()).collect();
    let ip = Some("192.0.2.1".parse().expect("an address"));
    assert_eq!(permits[0].enter(id(1), ip, 0), None);
    assert_eq!(permits[1].enter(id(2), ip, 10), None);
    assert_eq!(limiter.must_wait(GRACE - 1), Some(GRACE), "none may be evicted yet");
    assert_eq!(limiter.must_wait(GRACE), None);
    assert_eq!(permits[2].enter(id(3), ip, GRACE), Some(id(1)));
    assert_eq!(limiter.pending(), 2);
    assert!(!permits[1].settle_in(), "it stands for nothing more");
    assert_eq!(limiter.must_wait(GRACE), None, "a login leaves its place");
    drop(permits);
    assert_eq!(limiter.pending(), 0, "the evicted one's permit gives nothing back a second time");
}

#[test]
fn an_address_has_a_limit_and_an_ipv6_subscriber_is_one_address() {
    let limiter = ConnectionLimiter::new(100);
    let (mut a, mut b, mut c) = (limiter.permit(), limiter.permit(), limiter.permit());
    assert!(count_in(&mut a, "192.0.2.1") && count_in(&mut b, "::ffff:192.0.2.1"));
    assert!(!count_in(&mut c, "192.0.2.1"));
    assert!(count_in(&mut c, "192.0.2.2"), "another address is not concerned");
    assert!(a.settle_in(), "a login counts on");
    drop(a);
    assert!(count_in(&mut limiter.permit(), "192.0.2.1"));
    let (mut d, mut e, mut f) = (limiter.permit(), limiter.permit(), limiter.permit());
    assert!(count_in(&mut d, "2001:db8::1") && count_in(&mut e, "2001:db8::ffff:0:0:1"));
    assert!(!count_in(&mut f, "2001:db8::2") && count_in(&mut f, "2001:db8:0:1::2"));
}

#[test]
fn no_entries_are_left_of_connections_that_have_left_or_were_rejected() {
    let limiter = ConnectionLimiter::new(100);
    let mut permit = limiter.permit();
    assert!(!permit.come_from("192.0.2.9".parse().expect("an address"), 0));
    for n in 0..1_000_u32 {
        let (mut permit, ip) = (limiter.permit(), std::net::Ipv4Addr::from(n).into());
        assert!(permit.come_from(ip, 1));
        permit.enter(id(u64::from(n) + 1), Some(ip), 0);
    }
    assert!(limiter.by_origin.lock().expect("a lock").is_empty());
    assert_eq!(limiter.pending(), 0);
}

#[test]
fn reserved_places_are_safe_from_floods_and_bound_a_flood_from_their_address() {
    let limiter = ConnectionLimiter::new(1);
    let (node, other) = ("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("an address"));
    limiter.reserve([node]);
    let mut permits: Vec<_> = (0..RESERVED).map(|_| limiter.permit()).collect();
    for (n, permit) in permits.iter_mut().enumerate() {
        assert_eq!(permit.enter(id(n as u64 + 1), Some(node), 0), None);
    }
    assert_eq!(limiter.pending(), 0);
    let (mut first, mut second) = (limiter.permit(), limiter.permit());
    assert_eq!(first.enter(id(100), Some(node), 0), None);
    assert_eq!(second.enter(id(101), Some(other), GRACE), Some(id(100)), "the reserved ones are not evicted");
    permits.pop();
    limiter.reserve([node, other]);
    assert_eq!(limiter.permit().enter(id(102), Some(node), GRACE), None, "a place that was given back");
    assert_eq!(limiter.pending(), 1);
    limiter.reserve([]);
    drop(permits);
    assert!(limiter.nodes.lock().expect("a lock").is_empty());
}
