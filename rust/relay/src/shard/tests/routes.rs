//! The bound on the routes of all senders together, and the effects of dropped routes.

use super::harness::{Over, Room, gone, packet, settings};
use crate::shard::Settings;
use crate::sim::Party;

const MOST: usize = 64;

fn bounded(shards: usize) -> Room {
    Room::with(Settings { max_routes: MOST, queue_depth: 32, ..settings(shards) }, 0)
}

/// Clients with `count` keys from `first` on.
fn clients(room: &mut Room, first: u8, count: u8, shard: usize) -> Vec<Party> {
    (first..first + count).map(|n| room.join_at(Over::Plain, n, shard, shard)).collect()
}

/// Sends a packet to each of these keys, one after the other.
fn send(room: &mut Room, from: Party, to: std::ops::Range<u8>) {
    for n in to {
        room.send(from, &packet(n, b"x"));
        room.world.run();
    }
}

#[test]
fn the_sender_with_the_most_routes_drops_its_oldest_first() {
    let mut room = bounded(1);
    let (heavy, light) = (room.join(Over::Plain, 201), room.join(Over::Plain, 202));
    let others = clients(&mut room, 0, 70, 0);
    send(&mut room, light, 0..5);
    send(&mut room, heavy, 0..70);
    send(&mut room, light, 5..10);
    let routes = room.world.check().routes;
    assert!((MOST - 4..=MOST).contains(&routes), "{routes} routes, at most {MOST}");
    assert_eq!(room.world.counter("routes_forgotten") as usize, 80 - routes);
    for party in &others {
        room.frames(*party);
    }
    room.world.finish(light);
    room.world.run();
    for (n, party) in others.iter().enumerate() {
        let wanted = if n < 10 { vec![gone(202, 0)] } else { vec![] };
        assert_eq!(room.frames(*party), wanted, "{n}: whether the light sender has left");
    }
    room.world.finish(heavy);
    room.world.run();
    let frames = others.iter().map(|party| room.frames(*party).len()).collect::<Vec<_>>();
    assert_eq!(frames.iter().sum::<usize>(), routes - 10);
    assert!(frames.is_sorted(), "the latest are remembered: {frames:?}");
    assert_eq!(room.world.check().routes, 0);
}

#[test]
fn a_destination_with_a_new_route_gets_peer_gone_when_the_sender_leaves() {
    let mut room = bounded(1);
    let heavy = room.join(Over::Plain, 201);
    let others = clients(&mut room, 0, 80, 0);
    send(&mut room, heavy, 0..80);
    assert!(room.world.counter("routes_forgotten") > 0);
    send(&mut room, heavy, 0..1);
    room.frames(others[0]);
    room.world.finish(heavy);
    assert_eq!(room.frames(others[0]), [gone(201, 0)]);
}

#[test]
fn a_shard_that_holds_all_routes_gives_another_its_share() {
    let mut room = bounded(2);
    let (here, there) = (room.join_at(Over::Plain, 201, 0, 0), room.join_at(Over::Plain, 202, 1, 1));
    clients(&mut room, 0, 70, 0);
    send(&mut room, here, 0..70);
    send(&mut room, there, 0..30);
    send(&mut room, here, 0..1);
    let routes = room.world.check().routes;
    assert!(routes <= MOST + 1, "{routes} routes, at most {MOST}");
    let before = room.world.counter("routes_forgotten");
    room.world.finish(here);
    room.world.run();
    assert_eq!(room.world.check().routes, 30, "the other shard had its share");
    assert_eq!(room.world.counter("routes_forgotten"), before);
}
