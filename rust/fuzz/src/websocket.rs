//! Arbitrary input from a logged-in WebSocket client.
#![no_main]

mod world;

use libfuzzer_sys::fuzz_target;
use relay::messages::{Command, Event};
use relay::sim::{LoginKind, member};

fuzz_target!(|data: &[u8]| {
    let [piece, room, bytes @ ..] = data else { return };
    let mut world = world::world(1);
    let other = world.join(&[2; 32], LoginKind::Client, 0, 0);
    let party = world.connect(false, 0);
    // One message with an empty frame, masked with zeros.
    world.send(party, b"GET /derp HTTP/1.1\r\n\r\n\x82\x85\0\0\0\0\x02\0\0\0\0");
    world.run();
    for event in world.events() {
        let Event::Head { conn, .. } = event else { continue };
        world.submit([(conn, Command::BeginWebsocket(conn)), (conn, Command::AwaitFrame(conn, 1))]);
    }
    world.run();
    for event in world.events() {
        let Event::Frame { conn, .. } = event else { continue };
        let member = member(&[1; 32], LoginKind::Client);
        world.submit([(conn, Command::Switch { conn, member, first: Vec::new() })]);
    }
    world.run();
    assert_eq!(world.population(), (2, 2), "both are logged in");
    world::cut(&mut world, party, *piece);
    world.set_room(party, if *room == 0 { None } else { Some(usize::from(*room)) });
    world.send(party, bytes);
    world.send(other, &[&[4, 0, 0, 0, 40][..], &[1; 40]].concat());
    world.run();
    world.finish(party);
    world.pass(70_000);
    let counts = world.check();
    let dropped: u64 = world.drops().iter().map(|drops| drops.packets).sum();
    let queued = (counts.queued_disco + counts.queued_other) as u64;
    let received = world.counter("packets_received_disco") + world.counter("packets_received_other");
    assert_eq!(received, world.counter("packets_sent") + dropped + queued, "each packet has one fate");
});
