//! Clients that log in and send nothing, so that `bench/loads.py` can measure the server's memory for each.

use std::io::{Read, stdin};
use std::time::Instant;

use anyhow::Result;

use crate::fleet::{Fleet, OTHER};
use crate::report;
use crate::target::Target;

/// Logins in progress at the same time.
const LOGINS_AT_ONCE: usize = 32;

/// Log in `steps[0]` clients, then up to `steps[1]`, and so on. After each step wait for a byte on the standard input;
/// its end ends the run.
pub(crate) fn run(target: Target, steps: &[usize]) -> Result<()> {
    let mut fleet = Fleet::new(vec![target])?;
    for &clients in steps {
        let started = Instant::now();
        fleet.log_in(clients, LOGINS_AT_ONCE)?;
        report::logged_in(clients, started.elapsed().as_secs_f64())?;
        if !hold(&mut fleet)? {
            break;
        }
    }
    Ok(())
}

/// Serve the clients until a byte comes on the standard input; return false at its end.
fn hold(fleet: &mut Fleet) -> Result<bool> {
    fleet.watch(stdin())?;
    loop {
        for at in 0..fleet.wait(None)? {
            match fleet.ready(at) {
                ready if ready.index == OTHER => {
                    fleet.unwatch(stdin())?;
                    return Ok(stdin().lock().read(&mut [0; 64])? > 0);
                }
                ready => fleet.serve(ready, |_| Ok(()))?,
            }
        }
    }
}
