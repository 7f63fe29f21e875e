//! Claims about the relay, each shown by parties at in-memory ends, over no TLS and over both its versions.

mod crossing;
mod evicting;
mod harness;
mod introducing;
mod leaving;
mod limiting;
mod parked;
mod relaying;
mod routes;
mod sending;
mod shedding;
mod sweeps;
mod tls;
mod turns;
