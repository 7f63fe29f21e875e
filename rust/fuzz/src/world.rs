//! What the targets share: a small world, and how an input says what it is cut into.

use relay::Settings;
use relay::stepping::{Party, World};

pub fn world(shards: usize) -> World {
    let settings = Settings {
        shards,
        queue_depth: 3,
        mailbox: 2_000,
        max_head: 1_024,
        setup_timeout: 30_000,
        login_timeout: 10_000,
        write_timeout: 2_000,
        mesh_write_timeout: 30_000,
        link_write_timeout: 5_000,
        verbose_drops: [].into(),
        server_key: [0xee; 32],
        mesh_max_keys: 8,
        keep_alive: 60_000,
        keep_alive_jitter: 0,
    };
    World::new(settings, 0)
}

/// Says that a party's bytes come in pieces, as one byte of the input wants it.
pub fn cut(world: &mut World, party: Party, by: u8) {
    world.set_piece(party, if by == 0 { usize::MAX } else { usize::from(by) });
}
