//! The effects of frames: packets, duplicates, PeerGone, pings, home changes, and ignored frames.

use super::harness::{ALL, Over, PING, PONG, PREFERRED, Room, disco, frame, from, gone, packet};

#[test]
fn a_packet_arrives_under_its_senders_key() {
    for over in ALL {
        for data in [&b""[..], b"a", &[7; 1_300], &[8; 65_536]] {
            let mut room = Room::new(1);
            let (a, b) = (room.join(over, 1), room.join(over, 2));
            room.send(a, &packet(2, data));
            assert_eq!(room.frames(b), [from(1, data)], "{over:?}, {} bytes", data.len());
            assert_eq!(room.frames(a), []);
            assert_eq!(room.world.counter("packets_received_other"), 1);
            assert_eq!(room.world.counter("packets_sent"), 1);
            assert_eq!(room.world.counter("bytes_received"), data.len() as u64);
            assert_eq!(room.world.counter("bytes_sent"), data.len() as u64);
        }
    }
}

#[test]
fn a_sender_may_send_to_its_own_key() {
    for over in ALL {
        let mut room = Room::new(1);
        let a = room.join(over, 1);
        let stream: Vec<u8> = (0..50).flat_map(|n| packet(1, &[n; 1_000])).collect();
        room.send(a, &stream);
        let expected: Vec<_> = (0..50).map(|n| from(1, &[n; 1_000])).collect();
        assert_eq!(room.frames(a), expected, "{over:?}");
    }
}

#[test]
fn frames_may_be_cut_anywhere() {
    let sent = [
        packet(2, b"one"),
        frame(PING, b"12345678"),
        frame(0x7f, b"of the future"),
        frame(PREFERRED, &[1]),
        packet(2, b""),
        frame(0x7e, b""),
        packet(2, &[3; 300]),
    ]
    .concat();
    for over in ALL {
        // With TLS, the cuts are within records.
        let most = if over == Over::Plain { sent.len() } else { 40 };
        for piece in 1..=most {
            let mut room = Room::new(1);
            let (a, b) = (room.join(over, 1), room.join(over, 2));
            room.world.set_piece(a, piece);
            room.send(a, &sent);
            let frames = room.frames(b);
            assert_eq!(
                frames,
                [from(1, b"one"), from(1, b""), from(1, &[3; 300])],
                "{over:?}, pieces of {piece}"
            );
            assert_eq!(room.frames(a), [(PONG, b"12345678".to_vec())]);
            assert_eq!(room.world.counter("unknown_frames"), 2);
        }
        // Here the records cut the frames.
        let mut room = Room::new(1);
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        for byte in &sent {
            room.send(a, &[*byte]);
        }
        assert_eq!(room.frames(b).len(), 3, "{over:?}");
    }
}

#[test]
fn the_largest_unknown_frame_is_skipped_and_a_larger_one_closes() {
    for over in ALL {
        let mut room = Room::new(1);
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        room.send(a, &[frame(0xee, &[9; 65_568]), packet(2, b"after")].concat());
        assert_eq!(room.frames(b), [from(1, b"after")], "{over:?}");
        room.send(a, &frame(0xee, &[9; 65_569])[..5]);
        assert_eq!(room.ending(), "protocol_error");
    }
}

#[test]
fn a_frame_of_a_wrong_length_or_without_permission_closes() {
    for (kind, len) in [
        (0x04, 31),
        (0x04, 32 + 65_537),
        (0x07, 0),
        (0x07, 2),
        (0x12, 7),
        (0x12, 1_001),
        (0x0a, 64),
        (0x10, 0),
        (0x11, 32),
    ] {
        let mut room = Room::new(1);
        let a = room.join(Over::Plain, 1);
        let header = frame(kind, &vec![0; len]);
        room.send(a, &header[..5]);
        assert_eq!(room.ending(), "protocol_error", "type {kind:#x} of {len} bytes");
    }
}

#[test]
fn frames_before_a_bad_frame_are_still_relayed() {
    for over in ALL {
        let mut room = Room::new(1);
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        room.send(a, &[packet(2, b"good"), frame(PREFERRED, b"")].concat());
        let frames = room.frames(b);
        assert!(frames.contains(&from(1, b"good")) && frames.contains(&gone(1, 0)), "{over:?}: {frames:?}");
    }
}

#[test]
fn a_ping_is_answered_with_its_first_eight_bytes() {
    for over in ALL {
        let mut room = Room::new(1);
        let a = room.join(over, 1);
        room.send(a, &[frame(PING, b"abcdefgh"), frame(PING, &[5; 1_000])].concat());
        assert_eq!(room.frames(a), [(PONG, b"abcdefgh".to_vec()), (PONG, vec![5; 8])]);
        room.send(a, &frame(PING, &[5; 7])); // rejected, but counted
        room.world.run();
        assert_eq!((room.world.counter("got_ping"), room.world.counter("sent_pong")), (3, 2));
    }
}

#[test]
fn a_client_that_does_not_read_gets_no_more_pongs() {
    let mut room = Room::new(1);
    let a = room.join(Over::Plain, 1);
    room.world.set_room(a, Some(0));
    for _ in 0..100 {
        room.send(a, &frame(PING, b"abcdefgh").repeat(1_000));
        room.world.run();
    }
    room.world.set_room(a, None);
    assert_eq!(room.world.counter("got_ping"), 100_000);
    let pongs = room.frames(a).len();
    assert!((1_000..2_000).contains(&pongs), "{pongs} pongs waited");
}

#[test]
fn the_newest_connection_of_a_key_is_active_until_an_older_one_sends() {
    for shards in [1, 2, 4] {
        let mut room = Room::new(shards);
        let sender = room.join_at(Over::Plain, 1, 0, 0);
        let old = room.join_at(Over::Plain, 2, 0, shards - 1);
        let new = room.join_at(Over::Plain, 2, shards / 2, 0);
        let turn = |room: &mut Room, data: &[u8]| {
            room.send(sender, &packet(2, data));
            (room.frames(old).len(), room.frames(new).len())
        };
        assert_eq!(turn(&mut room, b"1"), (0, 1));
        for words in [frame(0x7f, b""), frame(PREFERRED, &[1]), packet(9, b"to nobody"), packet(2, b"")] {
            room.send(old, &words);
            let own = usize::from(words == packet(2, b""));
            assert_eq!((room.frames(old).len(), room.frames(new).len()), (own, 0));
            assert_eq!(turn(&mut room, b"2"), (1, 0));
            room.send(new, &words);
            assert_eq!((room.frames(old).len(), room.frames(new).len()), (0, own));
            assert_eq!(turn(&mut room, b"3"), (0, 1));
        }
        // The active one leaves: the other is active again.
        room.world.finish(new);
        room.world.run();
        assert_eq!(turn(&mut room, b"4"), (1, 0));
        assert_eq!(room.world.counter("total_dup_client_conns"), 1);
        assert_eq!(room.world.population(), (2, 2));
        assert_eq!(room.world.dropped("dup_client"), (0, 0));
    }
}

#[test]
fn when_the_active_connection_leaves_the_last_one_that_sent_follows() {
    let mut room = Room::new(1);
    let sender = room.join(Over::Plain, 1);
    let conns: Vec<_> = (0..3).map(|_| room.join(Over::Plain, 2)).collect();
    room.send(conns[0], &frame(0x7f, b""));
    room.world.run();
    room.send(conns[2], &frame(0x7f, b""));
    room.world.run();
    room.world.reset(conns[2]);
    room.world.run();
    room.send(sender, &packet(2, b"to the first"));
    let received: Vec<_> = conns.iter().map(|conn| room.frames(*conn).len()).collect();
    assert_eq!(received, [1, 0, 0]);
}

#[test]
fn a_receiver_gets_peer_gone_each_time_its_sender_leaves() {
    for shards in [1, 2, 4] {
        for over in ALL {
            let mut room = Room::new(shards);
            let b = room.join_at(over, 2, 0, shards - 1);
            let uninvolved = room.join_at(over, 3, 0, 0);
            for _ in 0..3 {
                let a = room.join_at(over, 1, shards - 1, 0);
                room.send(a, &packet(2, b"hello"));
                assert_eq!(room.frames(b), [from(1, b"hello")]);
                room.world.finish(a);
                assert_eq!(room.frames(b), [gone(1, 0)]);
                // Client `a` connects again, and sends nothing this time.
                let a = room.join_at(over, 1, shards - 1, 0);
                room.world.reset(a);
                assert_eq!(room.frames(b), []);
            }
            assert_eq!(room.frames(uninvolved), []);
            assert_eq!(room.world.counter("peer_gone_disconnected_frames"), 3);
        }
    }
}

#[test]
fn both_connections_of_a_receiver_get_peer_gone_after_the_last_of_the_sender() {
    for shards in [1, 2] {
        let mut room = Room::new(shards);
        let old = room.join_at(Over::Plain, 2, 0, shards - 1);
        let (a1, a2) = (room.join_at(Over::Plain, 1, 0, 0), room.join_at(Over::Plain, 1, 0, 0));
        room.send(a1, &packet(2, b"to the old"));
        assert_eq!(room.frames(old), [from(1, b"to the old")]);
        let new = room.join_at(Over::Plain, 2, 0, 0);
        room.send(a2, &packet(2, b"to the new"));
        assert_eq!(room.frames(new), [from(1, b"to the new")]);
        room.world.finish(a2);
        assert_eq!((room.frames(old), room.frames(new)), (vec![], vec![]));
        room.world.finish(a1);
        assert_eq!((room.frames(old), room.frames(new)), (vec![gone(1, 0)], vec![gone(1, 0)]));
    }
}

#[test]
fn not_here_answers_disco_packets_only_and_is_rate_limited() {
    for over in ALL {
        let mut room = Room::new(1);
        let a = room.join(over, 1);
        room.send(a, &packet(9, b"an ordinary one"));
        assert_eq!(room.frames(a), []);
        room.send(a, &packet(9, &disco(0)).repeat(10));
        assert_eq!(room.frames(a), vec![gone(9, 1); 3], "{over:?}");
        room.world.pass(999);
        room.send(a, &packet(8, &disco(0)));
        assert_eq!(room.frames(a), []);
        for _ in 0..3 {
            room.world.pass(1_000);
            room.send(a, &packet(8, &disco(0)).repeat(2));
            assert_eq!(room.frames(a), [gone(8, 1)]);
        }
        room.world.pass(60_000);
        room.send(a, &packet(8, &disco(0)).repeat(10));
        let answers = room.frames(a).into_iter().filter(|frame| *frame == gone(8, 1)).count();
        assert_eq!(answers, 3);
        assert_eq!(room.world.counter("peer_gone_not_here_frames"), 9);
        assert_eq!(room.world.dropped("unknown_dest").0, 28);
    }
}

#[test]
fn a_change_of_home_counts_as_a_move_once_a_connection_has_settled() {
    let mut room = Room::new(1);
    let a = room.join(Over::Plain, 1);
    let say = |room: &mut Room, home: u8| {
        room.send(a, &frame(PREFERRED, &[home]));
        room.world.run();
        (room.world.counter("home_moves_in"), room.world.counter("home_moves_out"))
    };
    assert_eq!(say(&mut room, 1), (0, 0));
    room.world.pass(5_001);
    assert_eq!(say(&mut room, 1), (0, 0));
    assert_eq!(say(&mut room, 0), (0, 1));
    assert_eq!(say(&mut room, 0), (0, 1));
    assert_eq!(say(&mut room, 1), (1, 1));
}
