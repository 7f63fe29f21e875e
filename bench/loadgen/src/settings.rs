//! The command line, read once.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lexopt::{Arg, Parser, ValueExt};

use crate::closed::{self, Window};
use crate::fleet::Target;
use crate::meter::CpuClock;
use crate::{packet, tls};

const USAGE: &str = "\
usage: derp-loadgen MODE --addr IP:PORT --tls|--plain [flags]

closed: pairs of clients, in each a fixed number of packets on their way
  --pairs N          (10)
  --in-flight N      packets on their way in each pair (16)
  --size BYTES       of a packet (1312)
  --warmup SECONDS   before the measurement (1)
  --seconds SECONDS  of the measurement (5)
  --packets N        end the measurement after so many instead
  --server-pid PID   whose CPU time is measured; may be given more than once

idle: clients that log in and say nothing
  --clients N,N,…    have so many, hold them until a line comes on the standard input, go on with the next";

/// What the command line says.
pub(crate) struct Settings {
    pub(crate) target: Target,
    pub(crate) mode: Mode,
}

pub(crate) enum Mode {
    Closed(closed::Settings),
    Idle { steps: Vec<usize> },
}

/// Read it. The first word is the program's name.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Settings> {
    read(Parser::from_iter(words)).context(USAGE)
}

fn read(mut parser: Parser) -> Result<Settings> {
    let mut closed = closed::Settings {
        pairs: 10,
        in_flight: 16,
        size: 1312,
        warmup: Duration::from_secs(1),
        window: Window::Lasts(Duration::from_secs(5)),
        servers: Vec::new(),
    };
    let (mut mode, mut address, mut with_tls, mut steps) = (None, None, None, Vec::new());
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(word) if mode.is_none() => mode = Some(word.string()?),
            Arg::Long("addr") => address = Some(parser.value()?.parse::<SocketAddr>()?),
            Arg::Long("tls") => with_tls = Some(true),
            Arg::Long("plain") => with_tls = Some(false),
            Arg::Long("pairs") => closed.pairs = parser.value()?.parse()?,
            Arg::Long("in-flight") => closed.in_flight = parser.value()?.parse()?,
            Arg::Long("size") => closed.size = parser.value()?.parse()?,
            Arg::Long("warmup") => closed.warmup = seconds(&mut parser)?,
            Arg::Long("seconds") => closed.window = Window::Lasts(seconds(&mut parser)?),
            Arg::Long("packets") => closed.window = Window::Packets(parser.value()?.parse()?),
            Arg::Long("server-pid") => closed.servers.push(CpuClock::of(parser.value()?.parse()?)?),
            Arg::Long("clients") => {
                steps = parser.value()?.parse_with(|list| list.split(',').map(str::parse).collect())?
            }
            other => return Err(other.unexpected().into()),
        }
    }
    ensure!(
        (packet::HEADER..=packet::MAX).contains(&closed.size),
        "--size is from {} to {}",
        packet::HEADER,
        packet::MAX
    );
    let tls = if with_tls.context("--tls or --plain is missing")? { Some(tls::config()?) } else { None };
    let target = Target { address: address.context("--addr is missing")?, tls };
    let mode = match mode.as_deref() {
        Some("closed") => Mode::Closed(closed),
        Some("idle") if !steps.is_empty() => Mode::Idle { steps },
        Some("idle") => bail!("--clients is missing"),
        other => bail!("the mode is closed or idle, not {other:?}"),
    };
    Ok(Settings { target, mode })
}

fn seconds(parser: &mut Parser) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(parser.value()?.parse()?)?)
}
