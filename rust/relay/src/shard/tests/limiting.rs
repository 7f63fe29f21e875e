//! Rate limits of clients, and events for impaired clients.

use std::collections::HashMap;
use std::sync::Arc;

use super::harness::{Over, PING, Room, frame, key, packet};
use crate::limits::bucket::Rate;
use crate::messages::{Command, Event, Impairment, Limits};
use crate::sim::Party;

/// Payload bytes per second.
const SLOW: Rate = Rate { per_second: 10_000.0, burst: 70_000.0 };
const PACKET: usize = 1_000;

fn packets(to: u8, count: usize) -> Vec<u8> {
    packet(to, &[0; PACKET]).repeat(count)
}

fn limit(room: &Room, limits: Limits) {
    let limits = Arc::new(limits);
    room.world.submit_to_all(|| Command::LimitClients(Arc::clone(&limits)));
}

/// The payload bytes that a party has received.
fn got(room: &mut Room, party: Party) -> usize {
    room.frames(party).iter().map(|(_, payload)| payload.len()).sum()
}

/// The impairment events: key, cause, and whether it is over.
fn impairments(room: &mut Room) -> Vec<(u8, Impairment, bool)> {
    let reports = room.world.events().into_iter().filter_map(|event| match event {
        Event::ClientImpaired { key, how, is_over, .. } => Some((key[0], how, is_over)),
        _ => None,
    });
    reports.collect()
}

#[test]
fn each_client_is_read_at_the_rate_of_its_key_and_open_connections_at_once() {
    let mut room = Room::new(1);
    let (limited, free) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2));
    let (one, two) = (room.join(Over::Plain, 3), room.join(Over::Plain, 4));
    limit(&room, Limits::new(Some(SLOW), [(key(2), None)].into(), None));
    for (party, to) in [(limited, 3), (free, 4)] {
        room.send(party, &packets(to, 200));
    }
    room.world.run();
    assert_eq!(got(&mut room, two), 200 * 1_032);
    assert!((69_000..=71_000).contains(&got(&mut room, one)), "the burst");
    room.world.pass(1_000);
    assert!((9_000..=11_000).contains(&got(&mut room, one)), "a second of the rate");
    assert!(room.world.counter("rate_limit_per_client_waited") > 0);
    limit(&room, Limits::new(None, HashMap::new(), None));
    room.world.run();
    assert!(got(&mut room, one) > 100_000, "all the rest");
    assert_eq!(room.world.counter("rate_limit_total_waited"), 0);
}

#[test]
fn a_total_is_shared_by_all_shards_and_no_client_starves_another() {
    for shards in [1, 2] {
        let mut room = Room::new(shards);
        limit(&room, Limits::new(None, HashMap::new(), Some(SLOW)));
        let receivers: Vec<_> = (11..=14).map(|name| room.join_at(Over::Plain, name, 0, 0)).collect();
        let senders: Vec<_> =
            (1..=4).map(|name| room.join_at(Over::Plain, name, 0, usize::from(name) % shards)).collect();
        // One of them has ten times as much to send as the others.
        for (sender, (to, count)) in senders.into_iter().zip([(11, 2_000), (12, 200), (13, 200), (14, 200)]) {
            room.send(sender, &packets(to, count));
        }
        room.world.pass(10_000);
        for receiver in &receivers {
            got(&mut room, *receiver);
        }
        room.world.pass(40_000);
        let shares: Vec<_> = receivers.iter().map(|receiver| got(&mut room, *receiver)).collect();
        let all: usize = shares.iter().sum();
        assert!((380_000..=420_000).contains(&all), "{all} bytes in 40 s at 10 kB/s");
        for share in &shares {
            assert!((85_000..=115_000).contains(share), "equal shares, not {shares:?}");
        }
        assert!(room.world.counter("rate_limit_total_waited") > 0);
        assert_eq!(room.world.counter("rate_limit_per_client_waited"), 0);
    }
}

#[test]
fn a_light_client_waits_for_one_turn_of_each_that_floods() {
    let mut room = Room::new(1);
    limit(&room, Limits::new(None, HashMap::new(), Some(SLOW)));
    let (flood, light, receiver) =
        (room.join(Over::Plain, 1), room.join(Over::Plain, 2), room.join(Over::Plain, 3));
    room.send(flood, &packets(1, 10_000));
    room.world.pass(5_000);
    room.send(light, &packet(3, b"me too"));
    room.world.pass(1_500);
    assert_eq!(room.frames(receiver).len(), 1);
}

#[test]
fn a_client_limited_for_ten_seconds_is_reported_and_so_is_the_end() {
    let mut room = Room::new(1);
    limit(&room, Limits::new(Some(SLOW), HashMap::new(), None));
    let (sender, other) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2));
    // The burst, and twenty seconds more.
    room.send(sender, &packets(1, 270));
    room.send(other, &packets(2, 90));
    room.world.pass(9_900);
    assert_eq!(impairments(&mut room), []);
    room.world.pass(400);
    assert_eq!(impairments(&mut room), [(1, Impairment::Limited, false)]);
    room.world.pass(40_000);
    assert_eq!(impairments(&mut room), [(1, Impairment::Limited, true)]);
}

#[test]
fn a_lasting_impairment_is_reported_once_and_again_after_a_minute() {
    let mut room = Room::new(1);
    limit(&room, Limits::new(Some(SLOW), HashMap::new(), None));
    let sender = room.join(Over::Plain, 1);
    room.send(sender, &packets(1, 300));
    room.world.pass(11_000);
    assert_eq!(impairments(&mut room), [(1, Impairment::Limited, false)]);
    // The client stops for long enough, and begins to send again within the minute.
    room.world.pass(33_000);
    assert_eq!(impairments(&mut room), [(1, Impairment::Limited, true)]);
    room.world.skip(1_000);
    room.send(sender, &packets(1, 700));
    room.world.pass(20_000);
    assert_eq!(impairments(&mut room), []);
    room.world.pass(11_000);
    assert_eq!(impairments(&mut room), [(1, Impairment::Limited, false)]);
    room.world.reset(sender);
    room.world.run();
    assert_eq!(impairments(&mut room), [(1, Impairment::Limited, true)]);
}

#[test]
fn an_impairment_is_not_reported_sooner_on_another_shard() {
    let mut room = Room::new(2);
    limit(&room, Limits::new(Some(SLOW), HashMap::new(), None));
    let sender = room.join_at(Over::Plain, 1, 0, 0);
    room.send(sender, &packets(1, 300));
    room.world.pass(11_000);
    assert_eq!(impairments(&mut room), [(1, Impairment::Limited, false)]);
    room.world.reset(sender);
    room.world.run();
    assert_eq!(impairments(&mut room), [(1, Impairment::Limited, true)]);
    let again = room.join_at(Over::Plain, 1, 1, 1);
    room.send(again, &packets(1, 900));
    room.world.pass(45_000);
    assert_eq!(impairments(&mut room), []);
    room.world.pass(20_000);
    assert_eq!(impairments(&mut room), [(1, Impairment::Limited, false)]);
}

#[test]
fn two_connections_that_contest_a_key_are_reported() {
    let mut room = Room::new(1);
    let (first, second) = (room.join(Over::Plain, 1), room.join(Over::Plain, 1));
    let (third, fourth) = (room.join(Over::Plain, 2), room.join(Over::Plain, 2));
    let ping = frame(PING, &[0; 8]);
    let mut reports = Vec::new();
    for second_of in 0..11 {
        for _ in 0..2 {
            for party in [first, second] {
                room.send(party, &ping);
                room.world.run();
            }
            room.world.pass(500);
        }
        // Two connections that share a key without contesting it.
        room.send(if second_of < 5 { third } else { fourth }, &ping);
        if second_of < 9 {
            assert_eq!(impairments(&mut room), []);
        }
        reports.extend(impairments(&mut room));
    }
    assert_eq!(reports, [(1, Impairment::Fighting, false)]);
    room.world.pass(20_000);
    assert_eq!(impairments(&mut room), [(1, Impairment::Fighting, true)]);
    assert!(room.frames(first).len() > 20 && room.frames(second).len() > 20, "both are served");
}
