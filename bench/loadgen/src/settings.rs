//! The command line, parsed once.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lexopt::{Arg, Parser, ValueExt};

use crate::attack::Kind;
use crate::meter::CpuClock;
use crate::pairs::{self, Pace, Window};
use crate::target::Target;
use crate::{packet, tls};

const USAGE: &str = "\
usage: derp-loadgen MODE --addr IP:PORT --tls|--plain [flags]

pairs: clients of which one sends to the other
  --pairs N          (10)
  --in-flight N      packets on their way in each pair (16); each arrival releases the next packet
  --rate N           instead: packets a second, of all pairs together, even if they are lost
  --size BYTES       of a packet (1312)
  --flood N          further pairs that send as fast as they can and are not measured
  --stuck N          further pairs whose receiver reads nothing
  --receivers-at IP:PORT   the node for the receivers, if it is not the senders'
  --websocket        connect over WebSocket, as browsers do
  --warmup SECONDS   before the measurement (1)
  --seconds SECONDS  of the measurement (5)
  --packets N        instead of --seconds: end the measurement after N packets
  --server-pid PID   the process whose CPU time is measured; may be repeated

idle: clients that log in and send nothing
  --clients N,N,…    log in N clients, wait for a line on the standard input, continue with the next N

logins: clients that log in and leave at once
  --clients N        number of logins
  --in-flight N      logins in progress at the same time
  --server-pid PID

storm: clients that all reconnect at once, while ten pairs send packets
  --clients N
  --server-pid PID

attack: clients that attack the server; each step begins with a line on standard input
  --kind KIND        everyone, leave, one-key, updates or unread
  --clients N
  --seconds SECONDS  at most

stun: binding requests, over UDP
  --in-flight N, --warmup SECONDS, --seconds SECONDS, --server-pid PID";

/// The load that the command line chooses, with its settings.
pub(crate) enum Mode {
    Pairs { targets: Vec<Target>, settings: pairs::Settings },
    Idle { target: Target, steps: Vec<usize> },
    Logins { target: Target, total: usize, at_once: usize, server: CpuClock },
    Storm { target: Target, clients: usize, server: CpuClock },
    Attack { target: Target, kind: Kind, clients: usize, seconds: Duration },
    Stun { address: SocketAddr, in_flight: u64, warmup: Duration, seconds: Duration, server: CpuClock },
}

/// Parse the command line. The first word is the program's name.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Mode> {
    read(Parser::from_iter(words)).context(USAGE)
}

fn read(mut parser: Parser) -> Result<Mode> {
    let mut settings = pairs::Settings {
        pairs: 10,
        pace: Pace::InFlight(16),
        size: 1312,
        flood: 0,
        stuck: 0,
        warmup: Duration::from_secs(1),
        window: Window::Lasts(Duration::from_secs(5)),
        servers: Vec::new(),
    };
    let (mut mode, mut addresses, mut with_tls, mut websocket) = (None, Vec::new(), None, false);
    let mut clients: Vec<usize> = Vec::new();
    let mut kind = None;
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Value(word) if mode.is_none() => mode = Some(word.string()?),
            Arg::Long("addr") => addresses.insert(0, parser.value()?.parse::<SocketAddr>()?),
            Arg::Long("receivers-at") => addresses.push(parser.value()?.parse::<SocketAddr>()?),
            Arg::Long("tls") => with_tls = Some(true),
            Arg::Long("plain") => with_tls = Some(false),
            Arg::Long("websocket") => websocket = true,
            Arg::Long("pairs") => settings.pairs = parser.value()?.parse()?,
            Arg::Long("in-flight") => settings.pace = Pace::InFlight(parser.value()?.parse()?),
            Arg::Long("rate") => settings.pace = Pace::Rate(parser.value()?.parse()?),
            Arg::Long("size") => settings.size = parser.value()?.parse()?,
            Arg::Long("flood") => settings.flood = parser.value()?.parse()?,
            Arg::Long("stuck") => settings.stuck = parser.value()?.parse()?,
            Arg::Long("warmup") => settings.warmup = seconds(&mut parser)?,
            Arg::Long("seconds") => settings.window = Window::Lasts(seconds(&mut parser)?),
            Arg::Long("packets") => settings.window = Window::Packets(parser.value()?.parse()?),
            Arg::Long("server-pid") => settings.servers.push(CpuClock::of(parser.value()?.parse()?)?),
            Arg::Long("kind") => kind = Some(Kind::named(&parser.value()?.string()?)?),
            Arg::Long("clients") => {
                clients = parser.value()?.parse_with(|list| list.split(',').map(str::parse).collect())?
            }
            other => return Err(other.unexpected().into()),
        }
    }
    ensure!(
        (packet::HEADER..=packet::MAX).contains(&settings.size),
        "--size must be from {} to {}",
        packet::HEADER,
        packet::MAX
    );
    ensure!(!addresses.is_empty(), "--addr is missing");
    if mode.as_deref() == Some("stun") {
        let (Pace::InFlight(in_flight), Window::Lasts(seconds)) = (settings.pace, settings.window) else {
            bail!("stun takes --in-flight and --seconds, not --rate and --packets");
        };
        let server = the_server(&settings)?;
        return Ok(Mode::Stun { address: addresses[0], in_flight, warmup: settings.warmup, seconds, server });
    }
    let tls = if with_tls.context("--tls or --plain is missing")? { Some(tls::config()?) } else { None };
    let targets: Vec<_> =
        addresses.iter().map(|&address| Target { address, tls: tls.clone(), websocket }).collect();
    let target = targets[0].clone();
    match mode.as_deref() {
        Some("pairs") => Ok(Mode::Pairs { targets, settings }),
        Some("idle") if !clients.is_empty() => Ok(Mode::Idle { target, steps: clients }),
        Some("logins" | "storm" | "idle" | "attack") if clients.len() != 1 => bail!("--clients is missing"),
        Some("storm") => Ok(Mode::Storm { target, clients: clients[0], server: the_server(&settings)? }),
        Some("attack") => {
            let Window::Lasts(seconds) = settings.window else { bail!("an attack lasts --seconds") };
            let kind = kind.context("--kind is missing")?;
            Ok(Mode::Attack { target, kind, clients: clients[0], seconds })
        }
        Some("logins") => {
            let Pace::InFlight(at_once) = settings.pace else {
                bail!("logins takes --in-flight, not --rate")
            };
            let (at_once, server) = (usize::try_from(at_once)?, the_server(&settings)?);
            Ok(Mode::Logins { target, total: clients[0], at_once, server })
        }
        other => bail!("invalid mode {other:?}: want pairs, idle, logins, storm, attack or stun"),
    }
}

fn the_server(settings: &pairs::Settings) -> Result<CpuClock> {
    settings.servers.first().copied().context("--server-pid is missing")
}

fn seconds(parser: &mut Parser) -> Result<Duration> {
    Ok(Duration::try_from_secs_f64(parser.value()?.parse()?)?)
}
