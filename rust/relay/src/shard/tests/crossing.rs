//! Several shards: connections that move, packets that cross, mailboxes that fill up.

use std::sync::Arc;

use super::harness::{ALL, Over, PING, PREFERRED, Room, disco, frame, from, gone, packet, settings};
use crate::shard::{Settings, shared::Shared};
use crate::sim::{LoginKind, Party};
use crate::tls::certificates::CertificateStore;

#[test]
fn packets_cross_between_any_two_shards_in_order() {
    for over in ALL {
        for shards in [2, 4] {
            for (accepted, home) in [(0, 1), (1, 0), (shards - 1, 0), (0, shards - 1)] {
                let mut room = Room::new(shards);
                let a = room.join_at(over, 1, home, accepted);
                let b = room.join_at(over, 2, accepted, home);
                let stream: Vec<u8> = (0..100).flat_map(|n| packet(2, &[n; 100])).collect();
                room.send(a, &stream);
                room.send(b, &packet(1, b"back"));
                let expected: Vec<_> = (0..100).map(|n| from(1, &[n; 100])).collect();
                assert_eq!(room.frames(b), expected, "{over:?}");
                assert_eq!(room.frames(a), [from(2, b"back")]);
            }
        }
    }
}

#[test]
fn all_connections_of_a_key_live_on_one_shard() {
    for seed in 0..50 {
        let mut room = Room::with(settings(4), seed);
        let conns: Vec<_> =
            (0..4).map(|shard| room.world.join(&[7; 32], LoginKind::Client, shard, 3 - shard)).collect();
        room.world.run();
        let shards: Vec<_> =
            conns.iter().filter_map(|conn| room.world.conn(*conn)).map(|conn| conn.shard()).collect();
        assert_eq!(shards.len(), 4);
        assert!(shards.iter().all(|shard| *shard == shards[0]), "{shards:?}");
        assert_eq!(room.world.population(), (4, 1));
    }
}

#[test]
fn a_receiver_on_another_shard_gets_the_packet_before_peer_gone_of_its_sender() {
    for seed in 0..100 {
        let mut room = Room::with(settings(2), seed);
        let (a, b) = (room.join_at(Over::Plain, 1, 0, 0), room.join_at(Over::Plain, 2, 1, 1));
        room.send(a, &packet(2, b"last words"));
        room.world.finish(a);
        let mut frames = room.frames(b);
        frames.sort();
        assert_eq!(frames, [from(1, b"last words"), gone(1, 0)], "seed {seed}");
    }
}

#[test]
fn a_full_mailbox_holds_up_its_senders_and_loses_nothing() {
    for shards in [2, 4] {
        for seed in 0..20 {
            let mut settings = settings(shards);
            settings.mailbox = 2_000;
            let mut room = Room::with(settings, seed);
            // All parties send to each other across the shards, so mailboxes fill in all directions.
            let parties: Vec<_> =
                (0..8).map(|n| room.join_at(Over::Plain, n, 0, usize::from(n) % shards)).collect();
            for (name, party) in (0..8_u8).zip(&parties) {
                let all: Vec<u8> = (0..200).flat_map(|n| packet((name + n) % 8, &[n; 700])).collect();
                room.send(*party, &all);
            }
            room.world.run();
            for (name, party) in (0..8_u8).zip(&parties) {
                assert_eq!(room.world.unread(*party), 0);
                let frames = room.frames(*party);
                for source in 0..8_u8 {
                    let own = frames.iter().filter(|(_, payload)| payload[0] == source);
                    let to_it = (0..200).filter(|n| (source + n) % 8 == name);
                    let expected: Vec<_> = to_it.map(|n| from(source, &[n; 700])).collect();
                    assert!(own.eq(&expected), "from {source} to {name}, seed {seed}");
                }
            }
            assert_eq!(room.world.counter("packets_received_other"), 1_600);
            assert_eq!(room.world.counter("packets_sent"), 1_600);
        }
    }
}

#[test]
fn a_full_mailbox_stops_reads_but_not_writes() {
    let mut settings = settings(2);
    settings.mailbox = 100_000;
    let mut room = Room::with(settings, 0);
    let (sender, near) = (room.join_at(Over::Plain, 1, 0, 0), room.join_at(Over::Plain, 2, 0, 0));
    let far = room.join_at(Over::Plain, 3, 0, 1);
    room.world.set_room(near, Some(0));
    room.send(sender, &[packet(2, b"for later"), packet(3, &[7; 50_000]).repeat(20)].concat());
    room.world.hold(1, true);
    room.world.run();
    let unread = room.world.unread(sender);
    assert!((500_000..900_000).contains(&unread), "{unread} bytes are left with their sender");
    // The shard of `near` may not read from clients, but it still writes.
    room.world.set_room(near, None);
    room.world.pass(20);
    assert_eq!(room.frames(near), [from(1, b"for later")]);
    assert_eq!(room.world.unread(sender), unread);
    room.world.hold(1, false);
    assert_eq!(room.frames(far), vec![from(1, &[7; 50_000]); 20]);
    assert_eq!(room.world.unread(sender), 0);
}

#[test]
fn a_full_queue_is_written_before_a_packet_is_dropped_if_its_socket_has_room() {
    for (shards, seed) in [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)] {
        let mut room = Room::with(settings(shards), seed);
        let sender = room.join_at(Over::Plain, 1, 0, 0);
        let receiver = room.join_at(Over::Plain, 2, 0, shards - 1);
        room.world.set_room(receiver, Some(0));
        room.send(sender, &packet(2, b"one").repeat(4));
        room.world.run();
        // The queue is full. Now the socket has room and there are more packets; the shard learns of both in one tick.
        room.world.hold(shards - 1, true);
        room.send(sender, &packet(2, b"two").repeat(4));
        room.world.run();
        room.world.set_room(receiver, None);
        room.world.hold(shards - 1, false);
        assert_eq!(room.frames(receiver).len(), 8, "{shards} shards, seed {seed}");
        assert_eq!(room.world.dropped("queue_head"), (0, 0));
    }
}

#[test]
fn shards_may_read_the_clock_at_different_times() {
    for seed in 0..300 {
        let mut room = Room::with(settings(2), seed);
        let busy = room.join_at(Over::Plain, 2, 1, 1);
        // Accepted on shard 0, at home on shard 1, which another connection keeps awake; time passes between any steps.
        let a = room.world.join(&[1; 32], LoginKind::Client, 0, 1);
        room.send(a, &[frame(PREFERRED, &[1]), packet(9, &disco(1)).repeat(5)].concat());
        for _ in 0..100 {
            room.send(busy, &frame(PING, b"12345678"));
            room.world.step();
            room.world.skip(1);
        }
        assert_eq!(room.world.counter("home_moves_in"), 0, "seed {seed}");
        assert_eq!(room.frames(a), vec![gone(9, 1); 3], "seed {seed}");
    }
}

#[test]
fn pairs_that_were_split_talk_on_one_shard_once_they_have_come_back() {
    const PAIRS: u8 = 50;
    const ANYWHERE: usize = 9;
    let mut room = Room::new(2);
    let talk = |room: &mut Room, at: &[Party]| {
        // The share of a hundred packets that crossed shards.
        let before = room.world.counter("packets_crossed");
        for name in 0..2 * PAIRS {
            room.send(at[usize::from(name)], &packet(name ^ 1, b"hello").repeat(10));
        }
        room.world.run();
        (room.world.counter("packets_crossed") - before) * 100 / (20 * u64::from(PAIRS))
    };
    let mut at: Vec<_> = (0..2 * PAIRS)
        .map(|name| room.join_at(Over::Plain, name, usize::from(name % 3) / 2, usize::from(name % 2)))
        .collect();
    assert_eq!(talk(&mut room, &at), 100);
    // One of each pair reconnects, and gets the other's shard.
    for name in (0..2 * PAIRS).step_by(2) {
        room.world.reset(at[usize::from(name)]);
        room.world.run();
        at[usize::from(name)] = room.join_at(Over::Plain, name, 0, ANYWHERE);
    }
    assert_eq!(talk(&mut room, &at), 0);
    // All clients reconnect, in a different order.
    for party in at.drain(..) {
        room.world.reset(party);
    }
    room.world.run();
    let mut back = vec![0; usize::from(2 * PAIRS)];
    for name in (0..2 * PAIRS).rev() {
        // The first of a pair gets a shard with room, the second gets the same one.
        let home = if name % 2 == 1 { usize::from(name / 2 % 2) } else { ANYWHERE };
        back[usize::from(name)] = room.join_at(Over::Plain, name, 1, home);
    }
    assert_eq!(talk(&mut room, &back), 0);
}

#[test]
fn by_turns_keys_go_to_each_shard_in_its_turn_regardless_of_affinity() {
    for (keys_a_turn, shards) in [(1, [0, 1, 0, 1]), (2, [0, 0, 1, 1])] {
        let certificates = Arc::new(CertificateStore::new().expect("a store"));
        let shared =
            Shared::<()>::new(Settings { keys_a_turn, ..settings(2) }, certificates).expect("eventfds");
        let placed: Vec<_> = (0..4).map(|_| shared.place(Some(1))).collect();
        assert_eq!(placed, shards);
    }
}
