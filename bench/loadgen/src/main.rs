//! A load generator for DERP servers: one thread, one epoll instance, lighter than any server it measures.
//!
//! Read `pairs` first: it is the load of most measurements. `fleet` and `conn` are the clients, `records` keeps
//! them cheap. `idle`, `logins`, `storm`, `attack` and `stun` are the other loads.
//!
//! `records`, `frames` and `websocket` repeat what `rust/relay` has, on purpose: the generator shares no code with
//! the server that it measures. A shared bug would cancel out in both ends, so packets would still pass the check.
//! A shared improvement would make the generator cheaper together with our server, and old results would no longer
//! compare. The load would also no longer be the same for the Go server and for ours.

mod attack;
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
mod target;
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
        Mode::Attack { target, kind, clients, seconds } => attack::run(target, kind, clients, seconds),
        Mode::Stun { address, in_flight, warmup, seconds, server } => {
            stun::run(address, in_flight, warmup, seconds, server)
        }
    }
}
