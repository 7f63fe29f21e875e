//! Heads, login frames and bodies: what is handed on is what came, each byte once.
#![no_main]

mod world;

use libfuzzer_sys::fuzz_target;
use relay::messages::{Command, Event};

fuzz_target!(|data: &[u8]| {
    let [piece, wishes, bytes @ ..] = data else { return };
    let mut wishes = *wishes;
    let mut world = world::world(1);
    let party = world.connect(false, 0);
    world::cut(&mut world, party, *piece);
    world.send(party, bytes);
    let mut handed_on = Vec::new();
    'all: loop {
        world.run();
        let events = world.events();
        if events.is_empty() {
            break;
        }
        for event in events {
            let conn = match event {
                Event::Head { conn, head, .. } => {
                    assert!(head.len() <= 1_024 && head.ends_with(b"\n"));
                    handed_on.extend(head);
                    conn
                }
                Event::Frame { conn, kind, payload } => {
                    handed_on.push(kind);
                    handed_on.extend((payload.len() as u32).to_be_bytes());
                    handed_on.extend(payload);
                    conn
                }
                Event::Data { conn, bytes } => {
                    handed_on.extend(&bytes);
                    world.submit([(conn, Command::Consumed(conn, bytes.len()))]);
                    conn
                }
                // Too large a head, or too large a frame: nothing more is handed on.
                _ => break 'all,
            };
            // Only a parked connection takes a wish; in the middle of a body it does nothing.
            let wish = match wishes % 3 {
                0 => Command::AwaitHead(conn),
                1 => Command::AwaitFrame(conn, 100),
                _ => Command::AwaitBody(conn, 7),
            };
            wishes = wishes.rotate_left(3);
            world.submit([(conn, wish)]);
        }
    }
    assert!(bytes.starts_with(&handed_on), "bytes were lost, doubled or changed");
    world.finish(party);
    world.pass(40_000);
});
