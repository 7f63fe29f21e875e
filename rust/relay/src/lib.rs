//! The data plane of a DERP relay: it accepts connections, does TLS, reads heads and frames, and switches packets.
//!
//! It makes no decisions. Commands from the holder of the [`Plane`] decide about logins, HTTP answers and certificates;
//! events report to it. It does not depend on Python. `docs/protocol/` describes the wire formats.
//!
//! Read in this order: [`messages`] (commands and events), `shard/` (one connection, the tick, the queues),
//! `switchboard/` (from keys to peers), `tls/`, `wire/`, `limits/`, `stats/`, `io/`.
#![forbid(unsafe_code)]

mod id;
mod io;
mod limits;
pub mod messages;
mod plane;
mod shard;
mod shared_key;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod stats;
mod switchboard;
mod tls;
mod wire;

pub use id::ConnId;
pub use io::listener::{AcceptLimit, Listener, ListenerId};
pub use io::waker::Waker;
pub use limits::bucket::Rate;
pub use plane::Plane;
pub use shard::mailbox::MAILBOX;
pub use shard::{Settings, Work};
pub use shared_key::SharedKeyDeriver;
pub use stats::counter::Drops;
pub use stats::histogram::HistogramSnapshot;
pub use switchboard::counts::{Audit, TableCounts};
pub use switchboard::table::Switchboard;
pub use tls::certificates::{Certificate, CertificateStore, Missing, Serves};
pub use wire::frame::Key;
pub use wire::proxy::Network;
