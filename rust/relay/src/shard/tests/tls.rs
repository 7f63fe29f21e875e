//! What a TLS peer may do, and what it may not.

use super::harness::{Over, Room, from, packet};
use crate::stepping::Ending;

const BOTH: [Over; 2] = [Over::Tls12, Over::Tls13];

#[test]
fn a_peer_may_change_its_keys_at_any_time() {
    let mut room = Room::new(1);
    let (a, b) = (room.join(Over::Tls13, 1), room.join(Over::Tls13, 2));
    for n in 0..20 {
        room.client(if n % 2 == 0 { a } else { b }).refresh_traffic_keys().expect("TLS 1.3");
        room.say(a, &packet(2, &[n; 20_000]));
        room.say(b, &packet(1, &[n; 20]));
        assert_eq!(room.frames(b), [from(1, &[n; 20_000])]);
        assert_eq!(room.frames(a), [from(2, &[n; 20])]);
    }
}

#[test]
fn a_key_update_that_meets_a_blocked_socket_waits_behind_what_was_sealed() {
    for room_for in [0, 1, 30, 1_000] {
        let mut room = Room::new(1);
        let (a, b) = (room.join(Over::Tls13, 1), room.join(Over::Tls13, 2));
        room.world.set_room(b, Some(room_for));
        room.say(a, &packet(2, &[1; 5_000]));
        room.world.run();
        room.client(b).refresh_traffic_keys().expect("TLS 1.3");
        room.say(b, &packet(1, b"new keys"));
        assert_eq!(room.frames(a), [from(2, b"new keys")]);
        room.say(a, &packet(2, &[2; 5_000]));
        room.world.run();
        room.world.set_room(b, None);
        assert_eq!(room.frames(b), [from(1, &[1; 5_000]), from(1, &[2; 5_000])], "room for {room_for}");
    }
}

#[test]
fn a_peer_that_floods_with_key_updates_while_it_reads_nothing_costs_bounded_memory() {
    let mut room = Room::new(1);
    let a = room.join(Over::Tls13, 1);
    room.world.set_room(a, Some(0));
    for _ in 0..1_000 {
        room.client(a).refresh_traffic_keys().expect("TLS 1.3");
        room.flush(a);
        room.world.run();
    }
    room.world.set_room(a, None);
    let answers = room.world.receive(a).len();
    assert!(answers < 16 * 1_024, "{answers} bytes of answers waited");
}

#[test]
fn close_notify_ends_the_connection_in_order() {
    for over in BOTH {
        let mut room = Room::new(1);
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        room.say(a, &packet(2, b"last words"));
        room.client(a).send_close_notify();
        room.flush(a);
        let frames = room.frames(b);
        assert!(frames.contains(&from(1, b"last words")), "{frames:?}");
        assert_eq!(room.ending(), "eof", "{over:?}");
        room.hear(a);
        assert_ne!(room.world.ending(a), Ending::Open);
    }
}

#[test]
fn the_server_says_close_notify_before_it_closes() {
    for over in BOTH {
        let mut room = Room::new(1);
        let a = room.join(over, 1);
        room.say(a, &super::harness::frame(0x07, b""));
        room.world.run();
        let bytes = room.world.receive(a);
        let client = room.client(a);
        let mut rest = &bytes[..];
        client.read_tls(&mut rest).expect("bytes");
        assert!(client.process_new_packets().expect("good records").peer_has_closed(), "{over:?}");
        assert_eq!(room.ending(), "protocol_error");
    }
}

#[test]
fn plain_http_where_tls_is_spoken_is_told_so() {
    let mut room = Room::new(1);
    let party = room.world.connect(true, 0);
    room.world.send(party, b"GET / HTTP/1.1\r\n\r\n");
    let answer = room.hear(party);
    assert!(answer.starts_with(b"HTTP/1.0 400 "), "{answer:?}");
    room.world.finish(party);
    assert_eq!(room.ending(), "plain_http_on_tls");
}
