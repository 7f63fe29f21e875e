//! The mailbox, the sleep, and what these name: built alone, since all of the relay would take a minute more.
//!
//! The tests stand beside what they test, in `sleep.rs`.
#![cfg(loom)]
#![allow(dead_code, reason = "these files are the relay's, which uses all of them")]

#[path = "../../relay/src/frame.rs"]
mod frame;
#[path = "../../relay/src/id.rs"]
mod id;
#[path = "../../relay/src/mailbox.rs"]
mod mailbox;
#[path = "../../relay/src/sleep.rs"]
mod sleep;
