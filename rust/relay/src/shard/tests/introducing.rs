//! From the first byte to the switch: heads, login frames, and no byte lost or doubled between two stages.

use super::harness::{ALL, Over, Room, frame, from, key, packet, settings};
use crate::id::ConnId;
use crate::messages::{CloseReason, Command, Event};
use crate::shard::Settings;
use crate::sim::{LoginKind, Party, member};

const HEAD: &[u8] = b"GET /derp HTTP/1.1\r\nUpgrade: DERP\r\n\r\n";
const CLIENT_INFO: u8 = 0x02;

fn head_of(room: &mut Room) -> Option<(ConnId, Vec<u8>)> {
    room.world.run();
    let events = room.world.events();
    assert!(events.len() <= 1, "{events:?}");
    events.into_iter().next().map(|event| match event {
        Event::Head { conn, head, .. } => (conn, head),
        other => panic!("{other:?} instead of a head"),
    })
}

fn frame_of(room: &mut Room) -> Option<(u8, Vec<u8>)> {
    room.world.run();
    let events = room.world.events();
    assert!(events.len() <= 1, "{events:?}");
    events.into_iter().next().map(|event| match event {
        Event::Frame { kind, payload, .. } => (kind, payload),
        other => panic!("{other:?} instead of a frame"),
    })
}

fn switch(room: &mut Room, conn: ConnId, name: u8, first: &[u8]) {
    let member = member(&key(name), LoginKind::Client);
    room.world.submit([(conn, Command::Switch { conn, member, first: first.to_vec() })]);
}

/// A party whose head has come.
fn arrived(room: &mut Room, over: Over) -> (Party, ConnId) {
    let party = room.connect(over, 0);
    room.send(party, HEAD);
    let (conn, head) = head_of(room).expect("a head");
    assert_eq!(head, HEAD);
    (party, conn)
}

#[test]
fn a_whole_head_is_reported_once_however_it_is_cut() {
    for over in ALL {
        for piece in [1, 2, 3, 7, HEAD.len() - 1, usize::MAX] {
            let mut room = Room::new(1).in_pieces(piece);
            arrived(&mut room, over);
        }
        let mut room = Room::new(1);
        let party = room.connect(over, 0);
        for byte in &HEAD[..HEAD.len() - 1] {
            room.send(party, &[*byte]);
            assert_eq!(head_of(&mut room), None);
        }
        room.send(party, &HEAD[HEAD.len() - 1..]);
        assert!(head_of(&mut room).is_some());
    }
}

#[test]
fn the_bytes_after_a_head_are_reported_with_it_and_can_be_skipped() {
    for over in ALL {
        for (behind, skipped) in [(0, 0), (10, 10), (2_000, 700), (2_000, 1_024)] {
            let mut room = Room::new(1);
            let party = room.connect(over, 0);
            let rest: Vec<u8> = (0..behind).map(|n: u32| n as u8).collect();
            room.send(party, &[HEAD, &rest].concat());
            room.world.run();
            let events = room.world.events();
            let [Event::Head { conn, ahead, .. }] = &events[..] else { panic!("{events:?}") };
            assert_eq!(*ahead, rest[..rest.len().min(1_024)]);
            room.world.submit([(*conn, Command::Skip(*conn, skipped)), (*conn, Command::Stream(*conn))]);
            room.world.run();
            let events = room.world.events();
            match &events[..] {
                [] => assert_eq!(skipped, rest.len()),
                [Event::Data { bytes, .. }] => assert_eq!(*bytes, rest[skipped..]),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn non_urgent_events_come_with_the_next_urgent_one_or_after_the_delay() {
    for comes_with_another in [false, true] {
        let mut room = Room::with(Settings { event_delay: 5, ..settings(1) }, 0);
        let (party, conn) = arrived(&mut room, Over::Plain);
        switch(&mut room, conn, 1, b"");
        room.world.run();
        assert!(room.world.events().is_empty());
        room.world.finish(party);
        room.world.run();
        assert!(room.world.events().is_empty());
        if comes_with_another {
            let party = room.connect(Over::Plain, 0);
            room.send(party, HEAD);
        } else {
            room.world.pass(5);
        }
        room.world.run();
        let events = room.world.events();
        assert!(matches!(events[..2], [Event::Switched { .. }, Event::Closed { .. }]), "{events:?}");
        assert_eq!(events.len(), if comes_with_another { 3 } else { 2 });
    }
}

#[test]
fn bytes_after_a_head_wait_for_the_next_stage() {
    for over in ALL {
        let mut room = Room::new(1);
        let party = room.connect(over, 0);
        room.send(party, &[HEAD, HEAD, b"rest"].concat());
        let (conn, first) = head_of(&mut room).expect("a head");
        assert_eq!(first, HEAD);
        room.world.submit([(conn, Command::AwaitHead(conn))]);
        assert_eq!(head_of(&mut room), Some((conn, HEAD.to_vec())));
        room.world.submit([(conn, Command::AwaitBody(conn, 9))]);
        room.world.run();
        room.send(party, b" of it");
        room.world.run();
        let mut body = Vec::new();
        for event in room.world.events() {
            let Event::Data { bytes, .. } = event else { panic!("{event:?}") };
            body.extend(bytes);
        }
        assert_eq!(body, b"rest of i");
    }
}

#[test]
fn a_fast_start_client_loses_nothing_at_any_cut() {
    let packets: Vec<u8> = (0..6).flat_map(|n| packet(1, &[n; 9])).collect();
    let login = frame(CLIENT_INFO, b"who I am");
    let stream = [HEAD, &login, &packets].concat();
    for over in ALL {
        for cut in 0..=stream.len() {
            // With TLS, each cut costs a handshake.
            if over != Over::Plain && cut % 16 != 5 {
                continue;
            }
            let mut room = Room::new(2);
            let party = room.connect(over, 1);
            let mut rest = Some(&stream[cut..]);
            room.send(party, &stream[..cut]);
            let (conn, _) = head_of(&mut room).unwrap_or_else(|| {
                room.send(party, rest.take().expect("a rest"));
                head_of(&mut room).expect("a head")
            });
            room.world.submit([(conn, Command::AwaitFrame(conn, 100))]);
            let login = frame_of(&mut room).unwrap_or_else(|| {
                room.send(party, rest.take().expect("a rest"));
                frame_of(&mut room).expect("a frame")
            });
            assert_eq!(login, (CLIENT_INFO, b"who I am".to_vec()));
            switch(&mut room, conn, 1, b"");
            // The rest arrives before, while or after the connection moves to its shard.
            for _ in 0..cut % 9 {
                room.world.step();
            }
            if let Some(rest) = rest {
                room.send(party, rest);
            }
            let expected: Vec<_> = (0..6).map(|n| from(1, &[n; 9])).collect();
            // The client sends to its own key. At most four packets wait in a queue of depth four, and all leave when
            // the socket takes them.
            assert_eq!(room.frames(party), expected, "{over:?}, cut at {cut}");
        }
    }
}

#[test]
fn a_parked_connection_reads_nothing() {
    for over in ALL {
        let mut room = Room::new(1);
        let (party, conn) = arrived(&mut room, over);
        room.send(party, &[7; 100_000]);
        room.world.pass(1_000);
        assert!(room.world.unread(party) >= 100_000, "{over:?}");
        room.world.submit([(conn, Command::AwaitBody(conn, 100_000))]);
        let mut came = 0;
        loop {
            room.world.run();
            let events = room.world.events();
            if events.is_empty() {
                break;
            }
            for event in events {
                let Event::Data { bytes, .. } = event else { panic!("{event:?}") };
                came += bytes.len();
                room.world.submit([(conn, Command::Consumed(conn, bytes.len()))]);
            }
        }
        assert_eq!((came, room.world.unread(party)), (100_000, 0), "{over:?}");
    }
}

#[test]
fn bytes_written_with_the_switch_come_before_any_packet() {
    for over in ALL {
        let mut room = Room::new(2);
        let other = room.join_at(over, 2, 0, 0);
        let (party, conn) = arrived(&mut room, over);
        room.world.submit([(conn, Command::AwaitFrame(conn, 100))]);
        room.send(party, &frame(CLIENT_INFO, b""));
        assert!(frame_of(&mut room).is_some());
        switch(&mut room, conn, 1, &frame(0x03, b"who you are"));
        for _ in 0..40 {
            room.send(other, &packet(1, b"early"));
            room.world.step();
        }
        let frames = room.frames(party);
        assert_eq!(frames[0], (0x03, b"who you are".to_vec()), "{over:?}");
        let received = frames.len() as u64 - 1;
        assert_eq!(received + room.world.dropped("unknown_dest").0, 40, "{over:?}");
    }
}

#[test]
fn a_head_or_a_login_frame_that_is_too_large_is_not_collected() {
    for over in ALL {
        let mut room = Room::new(1);
        let party = room.connect(over, 0);
        room.send(party, &[b'a'; 65_537]);
        room.world.run();
        let events = room.world.events();
        assert!(matches!(events[..], [Event::HeadTooLarge { .. }]), "{events:?}");

        let (party, conn) = arrived(&mut room, over);
        room.world.submit([(conn, Command::AwaitFrame(conn, 99))]);
        room.send(party, &frame(CLIENT_INFO, &[0; 100])[..5]);
        assert_eq!(room.ending(), "login_failed");
    }
}

#[test]
fn a_slow_connection_times_out_in_each_stage() {
    for over in ALL {
        let mut room = Room::new(1);
        let silent = room.connect(over, 0);
        let slow = room.connect(over, 0);
        room.send(slow, &HEAD[..10]);
        room.world.pass(29_000);
        assert!(room.endings().is_empty());
        room.world.pass(2_000);
        let codes: Vec<_> = room.endings().into_iter().map(|reason| reason.code).collect();
        assert!(
            codes.contains(&CloseReason::Idle) && codes.contains(&CloseReason::SetupTimeout),
            "{codes:?}"
        );
        assert_ne!(silent, slow);

        let (_, conn) = arrived(&mut room, over);
        room.world.submit([(conn, Command::AwaitFrame(conn, 99))]);
        room.world.pass(9_000);
        assert!(room.endings().is_empty());
        room.world.pass(2_000);
        assert_eq!(room.ending(), "login_timeout");
    }
    let mut room = Room::new(1);
    room.world.connect(true, 0);
    room.world.pass(31_000);
    assert_eq!(room.ending(), "setup_timeout");
}

#[test]
fn a_connection_that_lingers_too_long_is_closed() {
    let mut room = Room::with(settings(1), 3);
    let (_, conn) = arrived(&mut room, Over::Plain);
    room.world.submit([(conn, Command::Close(conn, crate::messages::Reason::code(CloseReason::Done)))]);
    room.world.pass(1_900);
    assert!(room.endings().is_empty());
    room.world.pass(300);
    assert_eq!(room.ending(), "done");
}

#[test]
fn a_head_event_has_the_listener_and_the_tls_version() {
    for (over, version) in [(Over::Plain, None), (Over::Tls12, Some("1.2")), (Over::Tls13, Some("1.3"))] {
        let mut room = Room::new(1);
        let party = room.connect(over, 0);
        room.send(party, HEAD);
        room.world.run();
        let events = room.world.events();
        let [Event::Head { remote, tls, .. }] = &events[..] else { panic!("{events:?}") };
        assert_eq!((usize::from(remote.port()), *tls), (party, version));
    }
}

#[test]
fn an_answer_is_written_whole_before_the_connection_closes_with_its_reason() {
    for over in ALL {
        let mut room = Room::new(1);
        let (party, conn) = arrived(&mut room, over);
        // Further input from the client is discarded, so that no reset overtakes the answer.
        room.send(party, b"more");
        let write = Command::Write { conn, bytes: vec![b'a'; 200_000], tell_drained: false };
        let reason = crate::messages::Reason::code(CloseReason::Done);
        room.world.submit([(conn, write), (conn, Command::Close(conn, reason))]);
        assert_eq!(room.receive(party).len(), 200_000, "{over:?}");
        room.send(party, b"and more");
        if over != Over::Plain {
            room.client(party).send_close_notify();
            room.flush(party);
        }
        room.world.run();
        room.world.finish(party);
        assert_eq!(room.ending(), "done", "{over:?}");
    }
}
