//! Heads, login frames and bodies: the events contain the input's bytes, each once.
#![no_main]

mod world;

use libfuzzer_sys::fuzz_target;
use relay::messages::{Command, Event};

fuzz_target!(|data: &[u8]| {
    let [piece, choices, bytes @ ..] = data else { return };
    let mut choices = *choices;
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
                // The head or the frame is too large: no more bytes are reported.
                _ => break 'all,
            };
            // A command affects only a parked connection; in the middle of a body it has no effect.
            let command = match choices % 3 {
                0 => Command::AwaitHead(conn),
                1 => Command::AwaitFrame(conn, 100),
                _ => Command::AwaitBody(conn, 7),
            };
            choices = choices.rotate_left(3);
            world.submit([(conn, command)]);
        }
    }
    assert!(bytes.starts_with(&handed_on), "bytes were lost, doubled or changed");
    world.finish(party);
    world.pass(40_000);
});
