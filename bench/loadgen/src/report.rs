//! What the driver reads: one JSON object a line on the standard output, each a phase of the run.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

use crate::{logins, pairs, storm, stun};

#[derive(Serialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub(crate) enum Phase {
    LoggedIn {
        clients: usize,
        seconds: f64,
    },
    Measuring,
    #[serde(rename = "result")]
    Result(pairs::Outcome),
    #[serde(rename = "result")]
    Logins(logins::Outcome),
    #[serde(rename = "result")]
    Storm(storm::Outcome),
    #[serde(rename = "result")]
    Stun(stun::Outcome),
}

/// Tell the driver, at once.
pub(crate) fn phase(phase: &Phase) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, phase)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
