//! Claims about places: those of one address, those before login, and the reserved ones.

use super::{Crowd, RESERVED, Seat};
use crate::id::ConnId;
use crate::pending::GRACE;

fn sit(seat: &mut Seat, ip: &str) -> bool {
    seat.come_from(ip.parse().expect("an address"), 2)
}

fn id(n: u64) -> ConnId {
    ConnId::from_u64(n)
}

#[test]
fn connections_before_login_make_room_for_new_ones_once_they_have_been_silent_for_a_while() {
    let crowd = Crowd::new(2);
    let mut seats: Vec<_> = (0..3).map(|_| crowd.seat()).collect();
    let ip = Some("192.0.2.1".parse().expect("an address"));
    assert_eq!(seats[0].enter(id(1), ip, 0), None);
    assert_eq!(seats[1].enter(id(2), ip, 10), None);
    assert_eq!(crowd.must_wait(GRACE - 1), Some(GRACE), "none may be evicted yet");
    assert_eq!(crowd.must_wait(GRACE), None);
    assert_eq!(seats[2].enter(id(3), ip, GRACE), Some(id(1)));
    assert_eq!(crowd.pending(), 2);
    assert!(!seats[1].settle_in(), "it stands for nothing more");
    assert_eq!(crowd.must_wait(GRACE), None, "a login leaves its place");
    drop(seats);
    assert_eq!(crowd.pending(), 0, "the evicted one's seat gives nothing back a second time");
}

#[test]
fn an_address_has_so_many_seats_and_an_ipv6_subscriber_is_one_address() {
    let crowd = Crowd::new(100);
    let (mut a, mut b, mut c) = (crowd.seat(), crowd.seat(), crowd.seat());
    assert!(sit(&mut a, "192.0.2.1") && sit(&mut b, "::ffff:192.0.2.1"));
    assert!(!sit(&mut c, "192.0.2.1"));
    assert!(sit(&mut c, "192.0.2.2"), "another address is not concerned");
    assert!(a.settle_in(), "a login counts on");
    drop(a);
    assert!(sit(&mut crowd.seat(), "192.0.2.1"));
    let (mut d, mut e, mut f) = (crowd.seat(), crowd.seat(), crowd.seat());
    assert!(sit(&mut d, "2001:db8::1") && sit(&mut e, "2001:db8::ffff:0:0:1"));
    assert!(!sit(&mut f, "2001:db8::2") && sit(&mut f, "2001:db8:0:1::2"));
}

#[test]
fn nothing_is_kept_of_connections_that_have_left_or_were_refused() {
    let crowd = Crowd::new(100);
    let mut seat = crowd.seat();
    assert!(!seat.come_from("192.0.2.9".parse().expect("an address"), 0));
    for n in 0..1_000_u32 {
        let (mut seat, ip) = (crowd.seat(), std::net::Ipv4Addr::from(n).into());
        assert!(seat.come_from(ip, 1));
        seat.enter(id(u64::from(n) + 1), Some(ip), 0);
    }
    assert!(crowd.by_origin.lock().expect("a lock").is_empty());
    assert_eq!(crowd.pending(), 0);
}

#[test]
fn another_node_has_places_that_no_flood_takes_and_a_flood_from_its_address_takes_only_those() {
    let crowd = Crowd::new(1);
    let (node, other) = ("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("an address"));
    crowd.reserve([node]);
    let mut seats: Vec<_> = (0..RESERVED).map(|_| crowd.seat()).collect();
    for (n, seat) in seats.iter_mut().enumerate() {
        assert_eq!(seat.enter(id(n as u64 + 1), Some(node), 0), None);
    }
    assert_eq!(crowd.pending(), 0);
    let (mut first, mut second) = (crowd.seat(), crowd.seat());
    assert_eq!(first.enter(id(100), Some(node), 0), None);
    assert_eq!(second.enter(id(101), Some(other), GRACE), Some(id(100)), "the reserved ones are not evicted");
    seats.pop();
    crowd.reserve([node, other]);
    assert_eq!(crowd.seat().enter(id(102), Some(node), GRACE), None, "a place that was given back");
    assert_eq!(crowd.pending(), 1);
    crowd.reserve([]);
    drop(seats);
    assert!(crowd.nodes.lock().expect("a lock").is_empty());
}
