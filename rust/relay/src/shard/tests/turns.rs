//! The bound on the work of one tick: other connections get their visits, and everything is done in the end.

use super::harness::{Over, Room, from, gone, key, packet, settings};
use crate::shard::{Settings, Work};
use crate::sim::{LoginKind, Party};
use crate::wire::frame::Key;

const CROWD: u8 = 100;
/// Keys of a pair that never talks with the crowd.
const VICTIM: u8 = 201;
const PARTNER: u8 = 202;

/// A crowd of clients, and a pair.
fn crowded(room: &mut Room) -> (Vec<Party>, Party, Party) {
    let crowd = (0..CROWD).map(|n| room.join(Over::Plain, n)).collect();
    (crowd, room.join(Over::Plain, VICTIM), room.join(Over::Plain, PARTNER))
}

/// Runs until the party has received something.
fn until_received(room: &mut Room, party: Party) {
    while !room.world.has_received(party) {
        assert!(room.world.step(), "nothing more happens, and nothing was heard");
    }
}

#[test]
fn a_packet_passes_a_crowd_that_sends_to_many_at_once() {
    let mut room = Room::new(1);
    let (crowd, victim, partner) = crowded(&mut room);
    let burst: Vec<u8> = (0..CROWD).cycle().take(1_500).flat_map(|n| packet(n, b"")).collect();
    for party in &crowd {
        room.world.send(*party, &burst);
    }
    room.send(victim, &packet(PARTNER, b"now"));
    until_received(&mut room, partner);
    let unread: usize = crowd.iter().map(|party| room.world.unread(*party)).sum();
    let sent = crowd.len() * burst.len();
    assert!(unread > sent / 2, "{} of {sent} bytes were dealt with first", sent - unread);
    assert_eq!(room.frames(partner), [from(VICTIM, b"now")]);
    assert_eq!(room.world.counter("packets_received_other"), 1 + crowd.len() as u64 * 1_500);
    assert_eq!(room.world.dropped("queue_head"), (0, 0));
}

#[test]
fn a_packet_passes_a_crowd_that_leaves_at_once() {
    let mut room = Room::new(1);
    let (crowd, victim, partner) = crowded(&mut room);
    let burst: Vec<u8> = (0..CROWD).flat_map(|n| packet(n, b"")).chain(packet(PARTNER, b"")).collect();
    for party in &crowd {
        room.send(*party, &burst);
    }
    room.frames(partner);
    for party in &crowd {
        room.world.reset(*party);
    }
    room.send(victim, &packet(PARTNER, b"now"));
    until_received(&mut room, partner);
    let (left, _) = room.world.population();
    assert!(left > usize::from(CROWD) / 2, "only {left} connections had not left yet");
    let mut frames = room.frames(partner);
    frames.sort();
    let mut wanted: Vec<_> = (0..CROWD).map(|n| gone(n, 0)).chain([from(VICTIM, b"now")]).collect();
    wanted.sort();
    assert_eq!(frames, wanted);
    assert_eq!(room.world.population(), (2, 2));
    assert_eq!(room.endings().len(), crowd.len());
}

#[test]
fn a_packet_passes_many_connections_of_one_key_that_leave_at_once() {
    let mut room = Room::new(1);
    let (victim, partner) = (room.join(Over::Plain, VICTIM), room.join(Over::Plain, PARTNER));
    let crowd: Vec<Party> = (0..300).map(|_| room.join(Over::Plain, 1)).collect();
    room.send(crowd[0], &packet(PARTNER, b""));
    room.frames(partner);
    for party in &crowd {
        room.world.reset(*party);
    }
    room.send(victim, &packet(PARTNER, b"now"));
    until_received(&mut room, partner);
    let (left, _) = room.world.population();
    assert!(left > crowd.len() / 2, "only {left} connections had not left yet");
    assert_eq!(room.frames(partner), [from(VICTIM, b"now"), gone(1, 0)]);
}

#[test]
fn nothing_is_lost_or_misordered_when_each_tick_does_the_least() {
    for over in super::harness::ALL {
        let work = Work { visits: 1, slice: 1, departures: 1, writes: 1 };
        let mut room = Room::with(Settings { work, queue_depth: 32, ..settings(1) }, 0);
        let (a, b, c) = (room.join(over, 1), room.join(over, 2), room.join(over, 3));
        for n in 0..30 {
            room.send(a, &[packet(2, &[n; 100]), packet(3, &[n; 5])].concat());
        }
        assert_eq!(room.frames(b), (0..30).map(|n| from(1, &[n; 100])).collect::<Vec<_>>());
        assert_eq!(room.frames(c), (0..30).map(|n| from(1, &[n; 5])).collect::<Vec<_>>());
        room.send(a, &packet(2, b"last").repeat(3));
        room.world.finish(a);
        assert_eq!(room.frames(b), [from(1, b"last"), from(1, b"last"), from(1, b"last"), gone(1, 0)]);
        assert_eq!(room.frames(c), [gone(1, 0)]);
    }
}

#[test]
fn a_key_that_comes_back_before_its_end_is_announced_is_not_reported_gone() {
    let work = Work { departures: 1, ..Work::default() };
    let mut room = Room::with(Settings { work, ..settings(1) }, 0);
    let (a, b) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2));
    let others: Vec<Party> = (10..40).map(|n| room.join(Over::Plain, n)).collect();
    room.send(a, &packet(2, b"first"));
    assert_eq!(room.frames(b), [from(1, b"first")]);
    for party in others.iter().chain([&a]) {
        room.world.reset(*party);
    }
    let again: Key = key(1);
    let back = room.world.join(&again, LoginKind::Client, 0, 0);
    room.world.send(back, &packet(2, b"again"));
    room.world.run();
    let frames = room.frames(b);
    // The key may have left before it came back, but not after its packet.
    assert_eq!(frames.last(), Some(&from(1, b"again")), "{frames:?}");
    assert_eq!(room.world.population(), (2, 2));
}
