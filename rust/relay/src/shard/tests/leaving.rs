//! The ends of connections, their reasons, and ids that never name a later connection.

use super::harness::{ALL, KEEP_ALIVE, Over, PREFERRED, Room, disco, frame, from, gone, key, packet};
use crate::messages::{CloseReason, Command, Event, Reason};
use crate::sim::{Ending, LoginKind, introduction};

#[test]
fn an_ended_or_broken_stream_ends_the_connection() {
    for over in ALL {
        let mut room = Room::new(1);
        let a = room.join(over, 1);
        room.world.finish(a);
        assert_eq!(room.ending(), "eof");
        assert_ne!(room.world.ending(a), Ending::Open);
        let a = room.join(over, 1);
        room.world.reset(a);
        assert_eq!(room.ending(), "reset");
        assert_eq!(room.world.population(), (0, 0));
        assert_eq!(room.world.check().connections, 0);
        assert_ne!(room.world.ending(a), Ending::Open);
    }
}

#[test]
fn a_silent_link_ends_and_keep_alives_prevent_that() {
    let mut room = Room::new(1);
    let link = room.world.connect(false, 0);
    room.world.expect_login(link, 0);
    room.send(link, &introduction(&key(9), LoginKind::Node));
    for _ in 0..10 {
        room.world.pass(60_000);
        room.send(link, &frame(KEEP_ALIVE, b""));
        room.world.run();
        assert!(room.endings().is_empty());
    }
    room.world.pass(119_000);
    assert!(room.endings().is_empty());
    room.world.pass(2_000);
    assert_eq!(room.ending(), "silent");
}

#[test]
fn a_client_may_be_silent_without_limit() {
    let mut room = Room::new(1);
    room.join(Over::Plain, 1);
    room.world.pass(600_000);
    assert!(room.endings().is_empty());
}

#[test]
fn a_closed_event_has_the_key_the_reason_and_the_totals() {
    let mut room = Room::new(1);
    let (a, b) = (room.join(Over::Plain, 1), room.join(Over::Plain, 2));
    room.send(a, &packet(2, &[1; 10]).repeat(3));
    room.send(b, &packet(1, &[1; 7]));
    room.world.run();
    room.world.finish(a);
    room.world.run();
    let events = room.world.events();
    let [Event::Closed { key: closed_key, totals, remote, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!((*closed_key, usize::from(remote.port())), (Some(key(1)), a));
    assert_eq!((totals.packets_in, totals.bytes_in, totals.packets_out, totals.bytes_out), (3, 30, 1, 7));
}

#[test]
fn bytes_written_before_python_closes_a_member_are_sent() {
    for over in ALL {
        let mut room = Room::new(1);
        let a = room.join(over, 1);
        let conn = room.world.conn(a).expect("a member");
        let write = Command::Write { conn, bytes: frame(0x15, &[0; 8]), tell_drained: false };
        room.world.submit([(conn, write), (conn, Command::Close(conn, Reason::code(CloseReason::Draining)))]);
        assert_eq!(room.frames(a), [(0x15, vec![0; 8])]);
        assert_eq!(room.world.population(), (0, 0));
        assert_eq!(room.world.ending(a), Ending::Finished);
        room.world.finish(a);
        assert_eq!(room.ending(), "draining");
        assert_eq!(room.world.ending(a), Ending::Closed);
    }
}

#[test]
fn a_late_command_has_no_effect() {
    let mut room = Room::new(1);
    let a = room.join(Over::Plain, 1);
    let conn = room.world.conn(a).expect("a member");
    room.world.reset(a);
    assert_eq!(room.ending(), "reset");
    let b = room.join(Over::Plain, 2);
    let fresh = room.world.conn(b).expect("a member");
    assert_ne!(conn, fresh);
    let write = Command::Write { conn, bytes: frame(0x14, b"sick"), tell_drained: true };
    room.world.submit([
        (conn, write),
        (conn, Command::Close(conn, Reason::code(CloseReason::Done))),
        (conn, Command::AwaitHead(conn)),
    ]);
    assert_eq!(room.frames(b), []);
    assert!(room.endings().is_empty());
}

#[test]
fn a_reused_slot_never_gets_packets_for_its_last_connection() {
    for shards in [1, 2, 4] {
        for seed in 0..40 {
            let mut room = Room::with(super::harness::settings(shards), seed);
            let sender = room.join_at(Over::Plain, 1, 0, 0);
            let home = shards - 1;
            let mut last = room.join_at(Over::Plain, 2, home, home);
            for n in 3..12 {
                // Packets to the last connection of the slot are under way while another takes its place.
                room.send(sender, &packet(n - 1, &[n; 10]).repeat(3));
                room.world.reset(last);
                for _ in 0..seed % 11 {
                    room.world.step();
                }
                last = room.join_at(Over::Plain, n, home, home);
                let frames = room.frames(last);
                assert_eq!(frames, [], "{n} gets what was meant for {}", n - 1);
            }
        }
    }
}

#[test]
fn a_member_that_ends_with_a_bad_frame_is_gone_for_the_others() {
    for over in ALL {
        let mut room = Room::new(1);
        let (a, b) = (room.join(over, 1), room.join(over, 2));
        room.send(a, &packet(2, b"hello"));
        assert_eq!(room.frames(b), [from(1, b"hello")]);
        room.send(a, &frame(PREFERRED, b""));
        assert_eq!(room.frames(b), [gone(1, 0)]);
        assert_eq!(room.ending(), "protocol_error");
        room.send(b, &packet(1, &disco(0)));
        assert_eq!(room.frames(b), [gone(1, 1)]);
    }
}
