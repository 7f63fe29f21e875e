//! Clients that log in and then say nothing, so that the driver can read what each costs the server.

use std::io::{Read, stdin};
use std::time::Instant;

use anyhow::Result;

use crate::fleet::{Fleet, OTHER, Target};
use crate::report::{self, Phase};

/// How many clients log in at the same time.
const LOGINS_AT_ONCE: usize = 32;

/// Have first `steps[0]` clients, then `steps[1]`, …; hold them after each step until a byte comes on the
/// standard input, which at its end ends the run.
pub(crate) fn run(target: Target, steps: &[usize]) -> Result<()> {
    let mut fleet = Fleet::new(vec![target])?;
    for &clients in steps {
        let started = Instant::now();
        fleet.log_in(clients, LOGINS_AT_ONCE)?;
        report::phase(&Phase::LoggedIn { clients, seconds: started.elapsed().as_secs_f64() })?;
        if !hold(&mut fleet)? {
            break;
        }
    }
    Ok(())
}

/// Serve the clients until the driver says something; false if it has gone.
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
