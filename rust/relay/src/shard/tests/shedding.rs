//! The bound on the bytes of all outboxes: which queues are shed, and when.

use super::harness::{Over, Room, disco, from, packet};
use crate::messages::CloseReason;
use crate::shard::Settings;
use crate::sim::settings;

const PACKET: usize = 1_000;
/// Bytes of a queued packet: header, sender's key, packet.
const FRAME: usize = 5 + 32 + PACKET;

fn bounded(shards: usize, max_queued_bytes: usize) -> Room {
    Room::with(Settings { max_queued_bytes, queue_depth: 32, ..settings(shards) }, 0)
}

fn numbered(number: u8) -> Vec<u8> {
    vec![number; PACKET]
}

#[test]
fn the_largest_queue_drops_its_oldest_packets() {
    let mut room = bounded(1, 16 * FRAME);
    let (a, big, small) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2), room.join(Over::Plain, 3));
    for receiver in [big, small] {
        room.world.set_room(receiver, Some(0));
    }
    for number in 0..3 {
        room.send(a, &packet(3, &numbered(number)));
    }
    for number in 0..30 {
        room.send(a, &packet(2, &numbered(number)));
        room.world.run();
        let waiting = room.world.check().queued_other;
        assert!(waiting <= 16, "{waiting} packets wait, where 16 have room");
    }
    let waiting = room.world.check().queued_other;
    assert!(waiting >= 13, "{waiting} packets wait, where 16 have room");
    assert_eq!(room.world.dropped("queue_head").0 as usize, 33 - waiting);
    for receiver in [big, small] {
        room.world.set_room(receiver, None);
    }
    let all_of_the_small: Vec<_> = (0..3).map(|number| from(1, &numbered(number))).collect();
    assert_eq!(room.frames(small), all_of_the_small);
    let newest: Vec<_> = (33 - waiting as u8..30).map(|number| from(1, &numbered(number))).collect();
    assert_eq!(room.frames(big), newest);
}

#[test]
fn nothing_is_dropped_while_the_sockets_take_data() {
    let mut room = bounded(1, 2 * FRAME);
    let (a, b, c) = (room.join(Over::Tls13, 1), room.join(Over::Tls13, 2), room.join(Over::Plain, 3));
    let burst: Vec<u8> =
        (0..20).flat_map(|n| [packet(2, &numbered(n)), packet(3, &numbered(n))]).flatten().collect();
    room.send(a, &burst);
    let all: Vec<_> = (0..20).map(|number| from(1, &numbered(number))).collect();
    assert_eq!(room.frames(b), all);
    assert_eq!(room.frames(c), all);
    assert_eq!(room.world.dropped("queue_head"), (0, 0));
}

#[test]
fn both_kinds_of_packets_are_shed() {
    let mut room = bounded(1, 4 * FRAME);
    let (a, b) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2));
    room.world.set_room(b, Some(0));
    for number in 0..30 {
        room.send(a, &packet(2, &disco(number)));
    }
    for number in 0..10 {
        room.send(a, &packet(2, &numbered(number)));
    }
    room.world.run();
    let counts = room.world.check();
    assert!(counts.queued_other * FRAME + counts.queued_disco * (5 + 32 + 62) <= 4 * FRAME, "{counts:?}");
    assert!(counts.queued_other > 0, "{counts:?}");
    assert_eq!(room.world.dropped("queue_head").0 as usize, 40 - counts.queued_other - counts.queued_disco);
}

#[test]
fn bytes_queued_on_another_shard_count() {
    let mut room = bounded(2, 8 * FRAME);
    let (a, b) = (room.join_at(Over::Plain, 1, 0, 0), room.join_at(Over::Plain, 2, 0, 0));
    let (c, d) = (room.join_at(Over::Plain, 3, 1, 1), room.join_at(Over::Plain, 4, 1, 1));
    for receiver in [b, d] {
        room.world.set_room(receiver, Some(0));
    }
    for number in 0..7 {
        room.send(a, &packet(2, &numbered(number)));
    }
    room.world.run();
    for number in 0..7 {
        room.send(c, &packet(4, &numbered(number)));
        room.world.run();
    }
    let waiting = room.world.check().queued_other;
    assert!((7..=9).contains(&waiting), "{waiting} packets wait, where 8 have room");
}

#[test]
fn sealed_bytes_count_and_the_slowest_receivers_are_closed_for_them() {
    const MOST: usize = 400_000;
    for over in super::harness::ALL {
        let mut room = bounded(1, MOST);
        let (a, reads) = (room.join(over, 1), room.join(over, 2));
        let stuck: Vec<_> = (10..40).map(|n| room.join(over, n)).collect();
        for party in &stuck {
            room.world.set_room(*party, Some(10_000));
        }
        for round in 0..3 {
            for n in 10..40 {
                room.send(a, &packet(n, &[n; 60_000]));
                room.send(a, &packet(2, &[round; 1_000]));
                let waiting = room.world.run().waiting_bytes;
                assert!(waiting <= MOST, "{waiting} bytes wait, at most {MOST}");
                room.world.pass(1);
                assert_eq!(room.frames(reads), [from(1, &[round; 1_000])]);
            }
        }
        let endings = room.endings();
        assert!(endings.iter().all(|reason| reason.code == CloseReason::Unread), "{endings:?}");
        assert_eq!(room.world.counter("connections_closed_for_memory") as usize, endings.len());
        let left = room.world.population().0;
        assert_eq!(left, 2 + stuck.len() - endings.len());
        assert!(left > 2 + 2, "only {left} connections are left");
    }
}

#[test]
fn queue_memory_is_freed_after_the_packets_have_left() {
    for over in super::harness::ALL {
        let mut room = bounded(1, 1_000_000);
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        room.world.set_room(b, Some(0));
        for _ in 0..10 {
            room.send(a, &packet(2, &[7; 60_000]));
            room.world.run();
        }
        assert!(room.world.check().waiting_bytes > 600_000);
        room.world.set_room(b, None);
        room.frames(b);
        let kept = room.world.check().waiting_bytes;
        assert!(kept <= 128 * 1024, "{kept} bytes are kept and wait for nothing");
    }
}

#[test]
fn a_receiver_whose_queue_was_shed_empty_still_gets_packets() {
    // There is room for one packet with its queue, but not for two.
    let mut room = bounded(1, 2 * FRAME);
    let (a, b, c) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2), room.join(Over::Plain, 3));
    room.world.set_room(b, Some(0));
    room.world.set_room(c, Some(0));
    room.send(a, &packet(2, &numbered(1)));
    room.world.run();
    room.send(a, &packet(3, &numbered(2)));
    room.world.run();
    assert_eq!(room.world.check().queued_other, 1);
    room.world.set_room(b, None);
    room.send(a, &packet(2, &numbered(3)));
    assert_eq!(room.frames(b), [from(1, &numbered(3))]);
    assert!(room.endings().is_empty());
}
