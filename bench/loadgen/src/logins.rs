//! Clients that log in and leave at once: the server's CPU time for a login.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::fleet::Fleet;
use crate::meter::CpuClock;
use crate::report;
use crate::target::Target;

/// Give up after this time without progress at any login.
const PATIENCE: Duration = Duration::from_secs(10);
/// Logins before the measurement, per concurrent login.
const WARMUP: usize = 4;

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    seconds: f64,
    logins: usize,
    server_cpu_seconds: f64,
    generator_cpu_seconds: f64,
}

/// Log in `total` times, with `at_once` logins in progress, and report the result.
pub(crate) fn run(target: Target, total: usize, at_once: usize, server: CpuClock) -> Result<()> {
    let mut fleet = Fleet::new(vec![target])?;
    fleet.log_in(at_once, at_once)?;
    log_in_again(&mut fleet, WARMUP * at_once)?;
    report::measuring()?;
    let (started, before, own) = (Instant::now(), server.read()?, CpuClock::own().read()?);
    log_in_again(&mut fleet, total)?;
    let outcome = Outcome {
        seconds: started.elapsed().as_secs_f64(),
        logins: total,
        server_cpu_seconds: (server.read()? - before).as_secs_f64(),
        generator_cpu_seconds: (CpuClock::own().read()? - own).as_secs_f64(),
    };
    report::result(&outcome)
}

/// Reconnect clients as soon as they are logged in, until there were `total` logins.
fn log_in_again(fleet: &mut Fleet, total: usize) -> Result<()> {
    let (mut begun, mut done) = (0, 0);
    for index in 0..fleet.len().min(total) {
        fleet.redial(index)?;
        begun += 1;
    }
    while done < total {
        let events = fleet.wait(Some(PATIENCE))?;
        ensure!(events > 0, "no login made progress for {PATIENCE:?}: {done} of {total} done");
        for at in 0..events {
            let ready = fleet.ready(at);
            if fleet.conn(ready.index).is_ready() {
                continue;
            }
            fleet.serve(ready, |_| Ok(()))?;
            if fleet.conn(ready.index).is_ready() {
                done += 1;
                if begun < total {
                    fleet.redial(ready.index)?;
                    begun += 1;
                }
            }
        }
    }
    Ok(())
}
