//! Streams, and how a parked connection handles the end of its peer's stream.

use super::harness::{ALL, Over, Room};
use crate::id::ConnId;
use crate::messages::{CloseReason, Command, Event, Reason};
use crate::sim::Party;

const HEAD: &[u8] = b"CONNECT a.test:443 HTTP/1.1\r\n\r\n";
const CREDIT: usize = 64 * 1024;

/// A party whose head has come, with `ahead` sent right after it.
fn arrived(room: &mut Room, over: Over, ahead: &[u8]) -> (Party, ConnId) {
    let party = room.connect(over, 0);
    room.send(party, &[HEAD, ahead].concat());
    room.world.run();
    let events = room.world.events();
    let [Event::Head { conn, .. }] = &events[..] else { panic!("{events:?} instead of a head") };
    (party, *conn)
}

fn stream(room: &mut Room, over: Over, ahead: &[u8]) -> (Party, ConnId) {
    let (party, conn) = arrived(room, over, ahead);
    room.world.submit([(conn, Command::Stream(conn))]);
    (party, conn)
}

/// The stream's bytes since the last call.
fn data(room: &mut Room) -> Vec<u8> {
    room.world.run();
    let piece = |event| match event {
        Event::Data { bytes, .. } => bytes,
        other => panic!("{other:?} instead of data"),
    };
    room.world.events().into_iter().flat_map(piece).collect()
}

#[test]
fn a_stream_begins_with_the_bytes_after_the_head_and_goes_both_ways() {
    for over in ALL {
        let mut room = Room::new(1);
        let (party, conn) = stream(&mut room, over, b"ahead");
        assert_eq!(data(&mut room), b"ahead");
        room.send(party, b" and on");
        assert_eq!(data(&mut room), b" and on");
        room.world.submit([(conn, Command::Write { conn, bytes: b"back".to_vec(), tell_drained: true })]);
        assert_eq!(room.receive(party), b"back");
        assert!(matches!(room.world.events()[..], [Event::Drained { .. }]));
    }
}

#[test]
fn a_stream_is_read_up_to_its_credit() {
    for over in ALL {
        let mut room = Room::new(1);
        let (party, conn) = stream(&mut room, over, b"");
        let sent: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        room.send(party, &sent);
        let mut came = data(&mut room);
        assert!(came.len() <= 2 * CREDIT, "{} bytes are ahead", came.len());
        while came.len() < sent.len() {
            room.world.submit([(conn, Command::Consumed(conn, CREDIT / 2))]);
            came.extend(data(&mut room));
        }
        assert!(came == sent, "{over:?}");
    }
}

#[test]
fn a_stream_has_no_deadline_in_either_direction() {
    let mut room = Room::new(1);
    let (party, conn) = stream(&mut room, Over::Plain, b"");
    room.world.pass(3_600_000);
    room.world.set_room(party, Some(0));
    room.world.submit([(conn, Command::Write { conn, bytes: vec![1; 1_000], tell_drained: false })]);
    room.world.pass(3_600_000);
    room.world.set_room(party, None);
    assert_eq!(room.receive(party), [1; 1_000]);
    assert!(room.endings().is_empty());
}

#[test]
fn all_bytes_of_a_stream_come_before_its_end() {
    for over in ALL {
        let mut room = Room::new(1);
        let (party, _) = stream(&mut room, over, b"");
        room.send(party, b"last words");
        room.world.finish(party);
        room.world.run();
        let events = room.world.events();
        let [Event::Data { bytes, .. }, Event::Closed { reason, .. }] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!((&bytes[..], reason), (&b"last words"[..], &Reason::code(CloseReason::Eof)));
    }
}

#[test]
fn a_stream_that_python_closes_is_written_out_first() {
    for over in ALL {
        let mut room = Room::new(1);
        let (party, conn) = stream(&mut room, over, b"");
        let write = Command::Write { conn, bytes: vec![9; 100_000], tell_drained: false };
        room.world.submit([(conn, write), (conn, Command::Close(conn, Reason::code(CloseReason::Done)))]);
        assert_eq!(room.receive(party), [9; 100_000]);
        room.world.finish(party);
        assert_eq!(room.ending(), "done");
    }
}

#[test]
fn only_a_parked_connection_becomes_a_stream() {
    let mut room = Room::new(1);
    let (party, conn) = arrived(&mut room, Over::Plain, b"");
    room.world.submit([(conn, Command::AwaitHead(conn)), (conn, Command::Stream(conn))]);
    room.send(party, HEAD);
    room.world.run();
    assert!(matches!(room.world.events()[..], [Event::Head { .. }]));
}

#[test]
fn a_peer_that_leaves_while_it_is_served_is_noticed_without_a_write() {
    for over in ALL {
        let mut room = Room::new(1);
        let (party, _) = arrived(&mut room, over, b"");
        room.world.finish(party);
        room.world.pass(4_000);
        assert!(room.endings().is_empty(), "it may read on");
        room.world.pass(2_000);
        assert_eq!(room.ending(), "eof", "{over:?}");
    }
}

#[test]
fn a_peer_that_closes_tls_right_after_its_request_gets_the_answer() {
    for over in [Over::Tls12, Over::Tls13] {
        let mut room = Room::new(1);
        let party = room.connect(over, 0);
        room.send(party, HEAD);
        room.client(party).send_close_notify();
        room.flush(party);
        room.world.run();
        let events = room.world.events();
        let [Event::Head { conn, .. }] = &events[..] else { panic!("{events:?} instead of a head") };
        let write = Command::Write { conn: *conn, bytes: b"answer".to_vec(), tell_drained: false };
        room.world.submit([(*conn, write), (*conn, Command::Close(*conn, Reason::code(CloseReason::Done)))]);
        assert_eq!(room.receive(party), b"answer", "{over:?}");
        room.world.finish(party);
        assert_eq!(room.ending(), "done");
    }
}

#[test]
fn a_peer_that_ends_its_request_with_its_stream_gets_the_answer() {
    for over in ALL {
        let mut room = Room::new(1);
        let (party, conn) = arrived(&mut room, over, HEAD);
        room.world.finish(party);
        room.world.pass(4_000);
        let write = Command::Write { conn, bytes: b"answer".to_vec(), tell_drained: false };
        room.world.submit([(conn, write), (conn, Command::AwaitHead(conn))]);
        assert_eq!(room.receive(party), b"answer");
        // The second request came long ago, and gets a timeout of its own.
        assert!(matches!(room.world.events()[..], [Event::Head { .. }]));
        room.world.pass(4_000);
        assert!(room.endings().is_empty());
        room.world.submit([(conn, Command::AwaitHead(conn))]);
        assert_eq!(room.ending(), "eof");
    }
}
