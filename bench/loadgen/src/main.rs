//! A load generator for DERP servers: one thread, one epoll instance, lighter than any server it measures.
//!
//! Read `pairs` for what is measured most, then `fleet` and `conn` for how a client works, `records` for why it
//! is cheap. `idle`, `logins`, `storm` and `stun` are the other loads.

mod conn;
mod fleet;
mod frames;
mod idle;
mod login;
mod logins;
mod meter;
mod packet;
mod pairs;
mod records;
mod report;
mod settings;
mod storm;
mod stun;
mod tls;
mod websocket;

use anyhow::Result;

use settings::Mode;

fn main() -> Result<()> {
    match settings::parse(std::env::args_os())? {
        Mode::Pairs { targets, settings } => pairs::run(targets, &settings),
        Mode::Idle { target, steps } => idle::run(target, &steps),
        Mode::Logins { target, total, at_once, server } => logins::run(target, total, at_once, server),
        Mode::Storm { target, clients, server } => storm::run(target, clients, server),
        Mode::Stun { address, in_flight, warmup, seconds, server } => {
            stun::run(address, in_flight, warmup, seconds, server)
        }
    }
}
