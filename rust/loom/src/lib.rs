//! The mailbox, the sleep flag, and their dependencies, built alone: building the whole relay would take a minute more.
//!
//! The tests are in `sleep_flag.rs`.
#![cfg(loom)]
#![allow(dead_code, reason = "these files are the relay's, which uses all of them")]

#[path = "../../relay/src/id.rs"]
mod id;

#[path = "../../relay/src/io/sleep_flag.rs"]
mod sleep_flag;

#[path = "../../relay/src/shard/mailbox.rs"]
mod mailbox;

#[path = "../../relay/src/wire/frame.rs"]
mod frame;

// The module paths that those files use.

mod shard {
    pub(crate) use crate::mailbox;
}

mod wire {
    pub(crate) use crate::frame;
}
