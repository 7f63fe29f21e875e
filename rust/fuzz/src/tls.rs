//! Arbitrary input to TLS before a login: handshake messages in records of any size, garbage, silence, and ends at any
//! point.
#![no_main]

mod world;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let [piece, mode, bytes @ ..] = data else { return };
    let mut world = world::world(1);
    let party = world.connect(true, 0);
    world::cut(&mut world, party, *piece);
    if mode % 4 == 0 {
        world.send(party, bytes);
        world.run();
    } else {
        // Valid handshake messages, in records of `mode` bytes.
        for content in bytes.chunks(usize::from(*mode)) {
            world.send(party, &[&[22, 3, 1, 0, content.len() as u8][..], content].concat());
            if mode % 4 == 1 {
                world.run();
            }
        }
        world.run();
    }
    if mode % 2 == 0 {
        world.finish(party);
        world.run();
    }
    world.pass(70_000);
    assert_eq!(world.check().connections, 0, "it has ended by now");
});
