//! Frames of a logged-in client, a mesh peer or a dialled node. Each is counted correctly, each packet has one fate,
//! and a connection ends at its first invalid frame.
#![no_main]

mod world;

use libfuzzer_sys::fuzz_target;
use relay::sim::{Ending, LoginKind};

const OWN: [u8; 32] = [1; 32];
const OTHER: [u8; 32] = [2; 32];

fuzz_target!(|data: &[u8]| {
    let [login, piece, room, bytes @ ..] = data else { return };
    let kind = [LoginKind::Client, LoginKind::MeshPeer, LoginKind::Node][usize::from(*login) % 3];
    let mut world = world::world(1 + usize::from(*login >> 7));
    let home = usize::from(*login >> 7);
    let other = world.join(&OTHER, LoginKind::Client, 0, home);
    let party = world.join(&OWN, kind, home, 0);
    world.run();
    world.set_room(other, if *room == 0 { None } else { Some(usize::from(*room)) });
    world::cut(&mut world, party, *piece);
    world.send(party, bytes);
    world.run();

    let read = read(kind, bytes);
    for (name, count) in read.counts {
        assert_eq!(world.counter(name), count, "{name}");
    }
    assert_eq!(world.ending(party) == Ending::Open, !read.has_ended);
    let counts = world.check();
    let packets: u64 = ["packets_received_disco", "packets_received_other", "packets_forwarded_in"]
        .map(|name| world.counter(name))
        .iter()
        .sum();
    let dropped: u64 = world.drops().iter().map(|drops| drops.packets).sum();
    let queued = (counts.queued_disco + counts.queued_other) as u64;
    assert_eq!(packets, world.counter("packets_sent") + dropped + queued, "each packet has one fate");
    world.finish(party);
    world.pass(70_000);
});

/// The expected effects of an input, computed by a simple parser.
struct Read {
    counts: [(&'static str, u64); 5],
    has_ended: bool,
}

fn read(login: LoginKind, mut bytes: &[u8]) -> Read {
    let [mut sent, mut disco, mut forwarded, mut pings, mut unknown] = [0; 5];
    let mut has_ended = false;
    while let [kind, a, b, c, d, rest @ ..] = bytes {
        let len = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let mesh = login == LoginKind::MeshPeer;
        let (is_known, is_good) = match (login, *kind) {
            (LoginKind::Node, 0x08 | 0x09) => (true, (32..=1_024).contains(&len)),
            (_, 0x12) => (true, (8..=1_000).contains(&len)),
            (LoginKind::Node, _) => (false, len <= 1_048_576),
            (_, 0x04) => (true, (32..=32 + 65_536).contains(&len)),
            (_, 0x07) => (true, len == 1),
            (_, 0x0a) => (true, mesh && (64..=64 + 65_536).contains(&len)),
            (_, 0x10) => (true, mesh && len == 0),
            (_, 0x11) => (true, mesh && len == 32),
            _ => (false, len <= 65_568),
        };
        if !is_good {
            pings += u64::from(*kind == 0x12);
            has_ended = true;
            break;
        }
        if !is_known {
            // It is counted when its header comes, and then its payload is skipped.
            unknown += u64::from(login != LoginKind::Node);
            bytes = rest.get(len..).unwrap_or_default();
            continue;
        }
        let Some((payload, rest)) = rest.split_at_checked(len) else { break };
        match *kind {
            0x04 => {
                sent += 1;
                let packet = &payload[32..];
                disco += u64::from(packet.len() >= 62 && packet.starts_with(b"TS\xf0\x9f\x92\xac"));
            }
            0x0a => forwarded += 1,
            0x12 => pings += 1,
            _ => {}
        }
        bytes = rest;
        if *kind == 0x11 && payload == OWN {
            has_ended = true;
            break;
        }
    }
    let counts = [
        ("packets_received_disco", disco),
        ("packets_received_other", sent - disco),
        ("packets_forwarded_in", forwarded),
        ("got_ping", pings),
        ("unknown_frames", unknown),
    ];
    Read { counts, has_ended }
}
