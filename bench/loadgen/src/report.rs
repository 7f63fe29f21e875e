//! Writes the phases of a run to the standard output for `bench/generator.py`: one JSON object a line.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

#[derive(Serialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
enum Phase<Outcome> {
    LoggedIn { clients: usize, seconds: f64 },
    Measuring,
    Result(Outcome),
}

/// Report that this many clients have logged in, and how long that took.
pub(crate) fn logged_in(clients: usize, seconds: f64) -> Result<()> {
    write(&Phase::<()>::LoggedIn { clients, seconds })
}

/// Report that the measurement begins.
pub(crate) fn measuring() -> Result<()> {
    write(&Phase::<()>::Measuring)
}

/// Report the result of the measurement.
pub(crate) fn result(outcome: &impl Serialize) -> Result<()> {
    write(&Phase::Result(outcome))
}

fn write(phase: &impl Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, phase)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}
