//! A small world for all targets, and the size of the pieces of an input.

use relay::Settings;
use relay::sim::{Party, World, settings};

pub fn world(shards: usize) -> World {
    World::new(Settings { mailbox: 2_000, max_head: 1_024, mesh_max_keys: 8, ..settings(shards) }, 0)
}

/// Cuts a party's bytes into pieces; one byte of the input chooses their size.
pub fn cut(world: &mut World, party: Party, by: u8) {
    world.set_piece(party, if by == 0 { usize::MAX } else { usize::from(by) });
}
