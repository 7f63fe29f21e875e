//! Permitted and forbidden behaviour of TLS peers.

use super::harness::{Over, Room, from, packet};
use crate::sim::{Ending, Sealer};

const BOTH: [Over; 2] = [Over::Tls12, Over::Tls13];

#[test]
fn a_peer_may_change_its_keys_at_any_time() {
    let mut room = Room::new(1);
    let (a, b) = (room.join(Over::Tls13, 1), room.join(Over::Tls13, 2));
    for n in 0..20 {
        room.client(if n % 2 == 0 { a } else { b }).refresh_traffic_keys().expect("TLS 1.3");
        room.send(a, &packet(2, &[n; 20_000]));
        room.send(b, &packet(1, &[n; 20]));
        assert_eq!(room.frames(b), [from(1, &[n; 20_000])]);
        assert_eq!(room.frames(a), [from(2, &[n; 20])]);
    }
}

#[test]
fn a_key_update_for_a_blocked_socket_follows_the_sealed_bytes() {
    for room_for in [0, 1, 30, 1_000] {
        let mut room = Room::new(1);
        let (a, b) = (room.join(Over::Tls13, 1), room.join(Over::Tls13, 2));
        room.world.set_room(b, Some(room_for));
        room.send(a, &packet(2, &[1; 5_000]));
        room.world.run();
        room.client(b).refresh_traffic_keys().expect("TLS 1.3");
        room.send(b, &packet(1, b"new keys"));
        assert_eq!(room.frames(a), [from(2, b"new keys")]);
        room.send(a, &packet(2, &[2; 5_000]));
        room.world.run();
        room.world.set_room(b, None);
        assert_eq!(room.frames(b), [from(1, &[1; 5_000]), from(1, &[2; 5_000])], "room for {room_for}");
    }
}

#[test]
fn a_peer_that_floods_with_key_updates_and_does_not_read_costs_bounded_memory() {
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
        room.send(a, &packet(2, b"last words"));
        room.client(a).send_close_notify();
        room.flush(a);
        let frames = room.frames(b);
        assert!(frames.contains(&from(1, b"last words")), "{frames:?}");
        assert_eq!(room.ending(), "eof", "{over:?}");
        room.receive(a);
        assert_ne!(room.world.ending(a), Ending::Open);
    }
}

#[test]
fn the_server_sends_close_notify_before_it_closes() {
    for over in BOTH {
        let mut room = Room::new(1);
        let a = room.join(over, 1);
        room.send(a, &super::harness::frame(0x07, b""));
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
fn plain_http_on_a_tls_port_gets_an_http_answer() {
    let mut room = Room::new(1);
    let party = room.world.connect(true, 0);
    room.world.send(party, b"GET / HTTP/1.1\r\n\r\n");
    let answer = room.receive(party);
    assert!(answer.starts_with(b"HTTP/1.0 400 "), "{answer:?}");
    room.world.finish(party);
    assert_eq!(room.ending(), "plain_http_on_tls");
}

#[test]
fn a_handshake_cut_into_the_smallest_records_ends_in_an_error() {
    // One handshake message of the greatest length that a 24-bit length field and rustls allow, one byte in each
    // record.
    for len in [1_000, 60_000, 0xff_ffff_u32] {
        let mut room = Room::new(1);
        let party = room.world.connect(true, 0);
        let len = len.to_be_bytes();
        let message = [1, len[1], len[2], len[3]];
        room.world.send(party, &[&[22, 3, 1, 0, 4][..], &message].concat());
        for _ in 0..10 {
            room.world.send(party, &[22, 3, 1, 0, 1, 0].repeat(10_000));
            room.world.run();
        }
        room.world.pass(40_000);
        assert_eq!(room.world.check().connections, 0);
    }
}

#[test]
fn a_handshake_or_a_record_that_never_ends_costs_bounded_memory() {
    let mut room = Room::new(1);
    let party = room.world.connect(true, 0);
    room.world.send(party, &[22, 3, 1, 0x3f, 0xff]);
    room.world.run();
    room.world.send(party, &[0; 1_000_000]);
    room.world.run();
    room.world.pass(40_000);
    assert_eq!(room.world.check().connections, 0);
}

#[test]
fn garbage_is_answered_with_an_alert() {
    for over in BOTH {
        let mut room = Room::new(1);
        // During the handshake.
        let party = room.world.connect(true, 0);
        room.world.send(party, &[22, 3, 1, 0, 4, 9, 0, 0, 0]);
        room.world.run();
        let alert = room.world.receive(party);
        assert_eq!(alert.first(), Some(&21), "{alert:?}");
        assert_eq!(room.ending(), "tls_error");
        // After it: a record that does not open.
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        room.send(a, &packet(2, b"good"));
        room.world.send(a, &[&[23, 3, 3, 0, 40][..], &[5; 40]].concat());
        room.world.run();
        let sealed_alert = room.world.receive(a);
        assert!(!sealed_alert.is_empty());
        let client = room.client(a);
        client.read_tls(&mut &sealed_alert[..]).expect("bytes");
        let error = client.process_new_packets().expect_err("an alert");
        assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac), "{over:?}");
        assert_eq!(room.ending(), "tls_error");
        assert!(room.frames(b).contains(&from(1, b"good")));
    }
}

/// A handshake record with the first bytes of a message that is not whole.
const HALF_A_MESSAGE: [u8; 11] = [22, 3, 1, 0, 6, 1, 0, 1, 0, 3, 3];

#[test]
fn a_partial_handshake_message_times_out() {
    let mut room = Room::new(1);
    let silent = room.world.connect(true, 0);
    room.world.send(silent, &HALF_A_MESSAGE);
    let gone = room.world.connect(true, 0);
    room.world.send(gone, &HALF_A_MESSAGE);
    room.world.run();
    room.world.finish(gone);
    assert_eq!(room.ending(), "eof");
    room.world.pass(31_000);
    assert_eq!(room.ending(), "setup_timeout");
}

#[test]
fn a_peer_that_has_sent_half_a_handshake_message_still_gets_packets() {
    let mut room = Room::new(1);
    let (a, b) = (room.join(Over::Tls13, 1), room.join(Over::Tls13, 2));
    // A KeyUpdate is five bytes. No library cuts one in two, so this is sealed by hand.
    let mut by_hand = Sealer::both(room.take_over(b)).0;
    room.world.send(b, &by_hand.seal(22, &[24, 0, 0]));
    room.world.run();
    for n in 0..5 {
        room.send(a, &packet(2, &[n; 1_000]));
        room.world.run();
        assert!(room.world.receive(b).len() > 1_000);
    }
    room.world.send(b, &by_hand.seal(22, &[1, 0]));
    room.world.run();
    assert!(room.endings().is_empty());
    // The message's end comes while it waits: after a change of keys, this looks like garbage.
    room.world.send(b, &by_hand.seal(22, &[24, 0, 0]));
    assert_eq!(room.ending(), "tls_error");
}

#[test]
fn a_peer_that_has_sent_half_a_handshake_message_may_leave() {
    for reset in [false, true] {
        let mut room = Room::new(1);
        let a = room.join(Over::Tls13, 1);
        let mut by_hand = Sealer::both(room.take_over(a)).0;
        room.world.send(a, &by_hand.seal(22, &[24, 0, 0]));
        room.world.run();
        if reset {
            room.world.reset(a);
        } else {
            room.world.finish(a);
        }
        assert_eq!(room.ending(), if reset { "reset" } else { "eof" });
    }
}
