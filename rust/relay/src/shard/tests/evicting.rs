//! Too many pending connections: silent ones are evicted, and new ones wait if none may be evicted.

use super::harness::{ALL, Over, Room, key, settings};
use crate::messages::{CloseReason, Command, Event};
use crate::shard::Settings;
use crate::sim::{Ending, LoginKind, Party, introduction, member};

const MOST: usize = 20;
const GRACE: u64 = crate::limits::pending::GRACE;

fn room(shards: usize) -> Room {
    Room::with(Settings { max_before_login: MOST, setup_timeout: 300_000, ..settings(shards) }, 1)
}

/// Connections that send one byte each, on all shards in turn.
fn flood(room: &mut Room, over: Over, shards: usize, count: usize) -> Vec<Party> {
    let one = |n| {
        let party = room.world.connect(over != Over::Plain, n % shards);
        room.world.send(party, &[22]);
        party
    };
    let parties = (0..count).map(one).collect();
    room.world.run();
    parties
}

fn closed(room: &Room, parties: &[Party]) -> usize {
    parties.iter().filter(|party| room.world.ending(**party) != Ending::Open).count()
}

#[test]
fn new_clients_log_in_though_a_flood_holds_every_place_with_one_byte_each() {
    for over in ALL {
        for shards in [1, 2] {
            let mut room = room(shards);
            let crowd = flood(&mut room, over, shards, MOST);
            assert_eq!(room.world.pending(), MOST);
            room.world.pass(GRACE);
            for n in 0..6 {
                room.join_at(over, n, usize::from(n) % shards, usize::MAX);
            }
            assert_eq!(closed(&room, &crowd), 1, "a login leaves its place to the next client");
            assert_eq!(room.world.counter("connections_evicted"), 1);
            let reasons: Vec<_> = room
                .world
                .events()
                .into_iter()
                .filter_map(
                    |event| if let Event::Closed { reason, .. } = event { Some(reason.code) } else { None },
                )
                .collect();
            assert_eq!(reasons, [CloseReason::Evicted]);
        }
    }
}

#[test]
fn new_connections_wait_in_the_kernel_while_none_may_be_evicted() {
    let mut room = room(2);
    let crowd = flood(&mut room, Over::Plain, 2, MOST);
    let late = flood(&mut room, Over::Plain, 2, 4);
    room.world.pass(GRACE - 200);
    assert_eq!((room.world.waiting(), closed(&room, &crowd), closed(&room, &late)), (4, 0, 0));
    room.world.reset(crowd[3]);
    room.world.pass(60);
    assert_eq!(room.world.waiting(), 3, "a place that gets free is taken at once");
    room.world.pass(400);
    assert_eq!(room.world.waiting(), 0);
    assert_eq!((closed(&room, &crowd), closed(&room, &late)), (4, 0));
    assert_eq!(room.world.pending(), MOST);
}

#[test]
fn a_client_that_makes_progress_is_not_evicted_for_a_flood_of_silent_ones() {
    let mut room = room(1);
    let mut crowd = flood(&mut room, Over::Tls13, 1, MOST);
    room.world.pass(GRACE);
    let client = room.connect(Over::Tls13, 0);
    room.world.expect_login(client, usize::MAX);
    let login = introduction(&key(1), LoginKind::Client);
    room.send(client, &login[..10]);
    for _ in 0..20 {
        room.world.pass(800);
        crowd.extend(flood(&mut room, Over::Tls13, 1, 3));
    }
    room.send(client, &login[10..]);
    room.world.run();
    assert!(
        room.world.is_switched(client),
        "its TLS was finished, so the others went first: {:?}",
        room.world.events()
    );
    assert!(closed(&room, &crowd) > MOST);
}

#[test]
fn clients_of_one_address_log_in_slowly_during_a_flood_from_many_addresses() {
    let mut room = room(2);
    let mut flooded = 0_u32;
    let mut flood = |room: &mut Room, count: u32| {
        for n in flooded..flooded + count {
            let party = room.world.connect_from(std::net::Ipv4Addr::from(n).into(), false, n as usize % 2);
            room.world.send(party, b"G");
        }
        flooded += count;
        room.world.run();
    };
    flood(&mut room, MOST as u32);
    room.world.pass(GRACE);
    let clients: Vec<_> = (0..10).map(|n| (room.world.connect(false, n % 2), n)).collect();
    room.world.run();
    let logins: Vec<_> =
        clients.iter().map(|(_, n)| introduction(&key(*n as u8), LoginKind::Client)).collect();
    for step in 0..2 {
        // Two round trips of 800 ms, with the flood between them.
        room.world.pass(400);
        flood(&mut room, 4);
        room.world.pass(400);
        for ((party, n), login) in clients.iter().zip(&logins) {
            if step == 0 {
                room.world.expect_login(*party, n % 2);
            }
            let half = login.len() / 2;
            room.world.send(*party, if step == 0 { &login[..half] } else { &login[half..] });
        }
        room.world.run();
    }
    assert!(clients.iter().all(|(party, _)| room.world.is_switched(*party)));
}

#[test]
fn a_login_before_the_evict_command_stands() {
    let mut room = room(2);
    let first = room.world.connect(false, 1);
    room.world.send(first, b"GET /derp HTTP/1.1\r\nUpgrade: DERP\r\n\r\n");
    room.world.run();
    let events = room.world.events();
    let [Event::Head { conn, .. }] = events[..] else { panic!("{events:?}") };
    let crowd = flood(&mut room, Over::Plain, 1, MOST - 1);
    room.world.pass(GRACE);
    for party in crowd {
        room.world.reset(party);
    }
    room.world.run();
    flood(&mut room, Over::Plain, 1, MOST - 1);
    room.world.hold(1, true);
    room.world.submit([(
        conn,
        Command::Switch { conn, member: member(&key(9), LoginKind::Client), first: vec![] },
    )]);
    // Only the first is past its grace.
    flood(&mut room, Over::Plain, 1, 1);
    room.world.hold(1, false);
    room.world.run();
    assert_eq!(room.world.population(), (1, 1));
    assert_eq!(room.world.ending(first), Ending::Open);
    assert_eq!(room.world.counter("connections_evicted"), 0);
    assert_eq!(room.world.pending(), MOST);
}
