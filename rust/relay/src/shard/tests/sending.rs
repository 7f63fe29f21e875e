//! Bytes out: bounded queues, drops, slow sockets, write timeouts, keep-alives.

use super::harness::{ALL, KEEP_ALIVE, Over, PING, PONG, Room, disco, frame, from, packet};
use crate::sim::Ending;

#[test]
fn a_blocked_receiver_keeps_its_newest_packets_and_gets_disco_first() {
    let mut room = Room::new(1);
    let (a, b) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2));
    room.world.set_room(b, Some(0));
    for n in 0..10 {
        room.send(a, &packet(2, &[n; 100]));
        room.send(a, &packet(2, &disco(n)));
    }
    room.world.run();
    assert_eq!(room.world.dropped("queue_head"), (12, 6 * (100 + 62)));
    let drops = room.world.drops();
    let by_kind = |kind| {
        drops.iter().find(|d| d.reason == "queue_head" && d.kind == kind).map(|d| (d.packets, d.bytes))
    };
    assert_eq!((by_kind("disco"), by_kind("other")), (Some((6, 372)), Some((6, 600))));
    room.world.set_room(b, None);
    let expected: Vec<_> =
        (6..10).map(|n| from(1, &disco(n))).chain((6..10).map(|n| from(1, &[n; 100]))).collect();
    assert_eq!(room.frames(b), expected);
}

#[test]
fn a_partly_written_frame_is_finished_first() {
    for over in ALL {
        for room_for in [1, 4, 5, 36, 37, 38, 137, 138, 300] {
            let mut room = Room::new(1);
            let (a, b) = (room.join(over, 1), room.join(over, 2));
            room.world.set_room(b, Some(room_for));
            room.send(a, &[packet(2, &[1; 100]), packet(2, &[2; 100])].concat());
            room.world.run();
            room.send(a, &packet(2, &disco(3)));
            room.world.run();
            room.world.set_room(b, None);
            let mut frames = room.frames(b);
            frames.sort();
            let expected = [from(1, &[1; 100]), from(1, &[2; 100]), from(1, &disco(3))];
            assert_eq!(frames, expected, "{over:?}, room for {room_for}");
        }
    }
}

#[test]
fn a_socket_that_takes_one_byte_at_a_time_gets_everything_whole() {
    for over in ALL {
        let mut room = Room::new(1);
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        room.world.set_room(b, Some(0));
        room.send(a, &[packet(2, b"first"), packet(2, &disco(2)), packet(2, &[3; 200])].concat());
        room.world.run();
        room.send(b, &frame(PING, b"abcdefgh"));
        room.world.run();
        let mut rest = 1_000;
        while rest > 0 && room.world.check().queued_other + room.world.check().queued_disco > 0 {
            room.world.set_room(b, Some(1));
            room.world.run();
            rest -= 1;
        }
        for _ in 0..2_000 {
            room.world.set_room(b, Some(1));
            room.world.run();
        }
        let mut frames = room.frames(b);
        frames.sort();
        let mut expected =
            vec![(PONG, b"abcdefgh".to_vec()), from(1, &disco(2)), from(1, b"first"), from(1, &[3; 200])];
        expected.sort();
        assert_eq!(frames, expected, "{over:?}");
        assert_eq!(room.world.check().queued_other, 0);
    }
}

#[test]
fn no_packet_is_lost_while_the_socket_takes_data() {
    for over in ALL {
        let mut room = Room::new(1);
        let b = room.join(over, 2);
        let senders: Vec<_> = (10..14).map(|n| (n, room.join(over, n))).collect();
        // Far more in one tick than the queue is deep.
        for (name, sender) in &senders {
            let burst: Vec<u8> = (0..40).flat_map(|n| packet(2, &[*name ^ n; 1_000])).collect();
            room.send(*sender, &burst);
        }
        let frames = room.frames(b);
        for (name, _) in &senders {
            let own: Vec<_> = frames.iter().filter(|(_, payload)| payload[0] == *name).cloned().collect();
            let expected: Vec<_> = (0..40).map(|n| from(*name, &[*name ^ n; 1_000])).collect();
            assert_eq!(own, expected, "{over:?}");
        }
        assert_eq!(room.world.dropped("queue_head"), (0, 0));
    }
}

#[test]
fn a_slow_receiver_does_not_delay_a_sender() {
    for over in ALL {
        let mut room = Room::new(1);
        let (a, slow, quick) = (room.join(over, 1), room.join(over, 2), room.join(over, 3));
        room.world.set_room(slow, Some(0));
        for n in 0..100 {
            room.send(a, &[packet(2, &[n; 1_000]), packet(3, &[n])].concat());
            assert_eq!(room.frames(quick), [from(1, &[n])], "{over:?}");
        }
        assert_eq!(room.world.unread(a), 0);
    }
}

#[test]
fn a_write_without_progress_ends_the_connection_and_is_counted() {
    for over in ALL {
        let mut room = Room::new(1);
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        room.world.set_room(b, Some(0));
        // Nothing waits to be written, so there is no timeout.
        room.world.pass(10_000);
        room.send(a, &packet(2, b"one").repeat(2));
        room.world.pass(1_900);
        assert!(room.endings().is_empty());
        // Progress, if only by one byte.
        room.world.set_room(b, Some(1));
        room.world.pass(1_900);
        assert!(room.endings().is_empty());
        room.world.pass(300);
        assert_eq!(room.ending(), "write_timeout", "{over:?}");
        assert_eq!(room.world.counter("sclient_write_timeouts"), 1);
        assert_eq!(room.world.population(), (1, 1));
        let (sent, lost) = (room.world.counter("packets_sent"), room.world.dropped("gone_disconnected").0);
        assert_eq!(sent + lost, 2);
    }
}

#[test]
fn a_write_timeout_of_zero_means_no_limit() {
    let mut settings = super::harness::settings(1);
    settings.write_timeout = 0;
    let mut room = Room::with(settings, 0);
    let (a, b) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2));
    room.world.set_room(b, Some(0));
    room.send(a, &packet(2, b"one"));
    room.world.pass(1_000_000);
    assert!(room.endings().is_empty());
}

#[test]
fn one_keep_alive_comes_in_each_interval() {
    for over in ALL {
        let mut room = Room::new(1);
        let a = room.join(over, 1);
        let mut last = room.world.now();
        for _ in 0..20 {
            while room.frames(a).is_empty() {
                room.world.pass(250);
            }
            let gap = room.world.now() - last;
            last = room.world.now();
            assert!((60_000..=66_000).contains(&gap), "{gap} ms between two keep-alives");
        }
    }
}

#[test]
fn a_keep_alive_is_an_empty_frame() {
    let mut room = Room::new(1);
    let a = room.join(Over::Plain, 1);
    room.world.pass(66_000);
    assert_eq!(room.frames(a), [(KEEP_ALIVE, vec![])]);
}

#[test]
fn a_receiver_that_breaks_during_a_write_loses_its_queue() {
    for over in ALL {
        let mut room = Room::new(1);
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        room.world.set_room(b, Some(0));
        room.send(a, &packet(2, &[1; 50]));
        room.world.run();
        room.send(a, &packet(2, &[1; 50]).repeat(2));
        room.world.run();
        room.world.reset(b);
        assert_eq!(room.ending(), "reset", "{over:?}");
        assert_ne!(room.world.ending(b), Ending::Open);
        let (sent, lost) = (room.world.counter("packets_sent"), room.world.dropped("gone_disconnected").0);
        assert_eq!(sent + lost, 3, "{over:?}");
    }
}

#[test]
fn a_receiver_that_blocks_often_leaves_no_timers() {
    let mut room = Room::new(1);
    let (a, b) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2));
    for _ in 0..500 {
        // Often at once, and again after each has fallen due.
        for _ in 0..20 {
            room.world.set_room(b, Some(0));
            room.send(a, &packet(2, b"one"));
            room.world.run();
            room.world.set_room(b, None);
            room.world.pass(1);
        }
        room.world.pass(3_000);
    }
    let hints = room.world.check().hints;
    assert!(hints < 64, "{hints} hints for two connections");
}
