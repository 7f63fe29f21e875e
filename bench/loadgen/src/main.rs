//! A load generator for DERP servers: one thread, one epoll instance, lighter than any server it measures.
//!
//! Read `closed` for what is measured, then `fleet` and `conn` for how a client works, `records` for why it
//! is cheap.

mod closed;
mod conn;
mod fleet;
mod frames;
mod idle;
mod login;
mod meter;
mod packet;
mod records;
mod report;
mod settings;
mod tls;

use anyhow::Result;

use settings::Mode;

fn main() -> Result<()> {
    let settings = settings::parse(std::env::args_os())?;
    match settings.mode {
        Mode::Closed(closed) => closed::run(settings.target, &closed),
        Mode::Idle { steps } => idle::run(settings.target, &steps),
    }
}
