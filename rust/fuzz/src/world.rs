//! What the targets share: a small world, and how an input says what it is cut into.

use relay::Settings;
use relay::sim::{Party, World, settings};

pub fn world(shards: usize) -> World {
    World::new(Settings { mailbox: 2_000, max_head: 1_024, mesh_max_keys: 8, ..settings(shards) }, 0)
}

/// Says that a party's bytes come in pieces, as one byte of the input wants it.
pub fn cut(world: &mut World, party: Party, by: u8) {
    world.set_piece(party, if by == 0 { usize::MAX } else { usize::from(by) });
}
