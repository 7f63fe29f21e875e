//! Several shards: connections that move, packets that cross, mailboxes that fill up.

use super::harness::{ALL, Over, Room, from, gone, packet, settings};

#[test]
fn packets_cross_between_any_two_shards_in_order() {
    for over in ALL {
        for shards in [2, 4] {
            for (accepted, home) in [(0, 1), (1, 0), (shards - 1, 0), (0, shards - 1)] {
                let mut room = Room::new(shards);
                let a = room.join_at(over, 1, home, accepted);
                let b = room.join_at(over, 2, accepted, home);
                let stream: Vec<u8> = (0..100).flat_map(|n| packet(2, &[n; 100])).collect();
                room.say(a, &stream);
                room.say(b, &packet(1, b"back"));
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
        let conns: Vec<_> = (0..4).map(|shard| room.world.join(&[7; 32], false, shard, 3 - shard)).collect();
        room.world.run();
        let shards: Vec<_> =
            conns.iter().filter_map(|conn| room.world.conn(*conn)).map(|conn| conn.shard()).collect();
        assert_eq!(shards.len(), 4);
        assert!(shards.iter().all(|shard| *shard == shards[0]), "{shards:?}");
        assert_eq!(room.world.population(), (4, 1));
    }
}

#[test]
fn who_was_sent_a_packet_across_shards_hears_of_its_senders_end_after_the_packet_was_queued() {
    for seed in 0..100 {
        let mut room = Room::with(settings(2), seed);
        let (a, b) = (room.join_at(Over::Plain, 1, 0, 0), room.join_at(Over::Plain, 2, 1, 1));
        room.say(a, &packet(2, b"last words"));
        room.world.finish(a);
        let mut frames = room.frames(b);
        frames.sort();
        assert_eq!(frames, [from(1, b"last words"), gone(1, 0)], "seed {seed}");
    }
}
