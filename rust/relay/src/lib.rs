//! The data plane of a DERP relay: it accepts, speaks TLS, collects heads and frames, and switches packets.
//!
//! It decides nothing: who may connect, what an HTTP request gets, which certificate is served is told to it by
//! whoever holds the [`Plane`], through commands; what happens is told back through events. It knows no Python.
//! The wire is described in `docs/protocol/`.
//!
//! Read in this order: [`seam`] (the language to the outside), `conn` (one connection), `shard/` (the tick),
//! `switchboard` (who is where), `queue` (what waits), and then `proxy`, `crowd`, `pending`, `hello`, `certificates`, `frame`,
//! `tls`, `records`, `route`, `mailbox`, `timer`, `net`;
//! `stun` and `datagrams` stand for themselves.
#![forbid(unsafe_code)]

mod agreement;
mod bucket;
mod certificates;
mod conn;
mod connections;
mod crowd;
mod datagrams;
mod frame;
mod hello;
mod histogram;
mod id;
mod limits;
mod links;
mod mailbox;
mod net;
mod partners;
mod pending;
mod plane;
mod proxy;
mod queue;
mod records;
mod route;
pub mod seam;
mod senders;
mod shard;
mod sleep;
mod standing;
mod stats;
#[cfg(any(test, feature = "stepping"))]
pub mod stepping;
mod strain;
mod stun;
mod switchboard;
mod tally;
mod timer;
mod tls;
mod watch;
mod websocket;

pub use agreement::Agreement;
pub use bucket::Rate;
pub use certificates::{Certificate, CertificateStore, Missing, Serves};
pub use frame::Key;
pub use histogram::Spread;
pub use id::ConnId;
pub use mailbox::MAILBOX;
pub use plane::Plane;
pub use proxy::Network;
pub use shard::{Settings, Work};
pub use stats::Drops;
pub use switchboard::Switchboard;
pub use tally::{Audit, Census};
