//! STUN requests as Tailscale's clients send them, with a fixed number on their way.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::meter::CpuClock;
use crate::report;

const MAGIC: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const REQUEST: usize = 40;
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// After this time without an answer, the requests on their way count as lost and are sent again.
const PATIENCE: Duration = Duration::from_secs(1);

/// The result.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    seconds: f64,
    answered: u64,
    lost: u64,
    server_cpu_seconds: f64,
    generator_cpu_seconds: f64,
}

/// Send requests for `warmup`, then measure for `seconds`.
pub(crate) fn run(
    address: SocketAddr,
    in_flight: u64,
    warmup: Duration,
    seconds: Duration,
    server: CpuClock,
) -> Result<()> {
    let socket = UdpSocket::bind((address.ip(), 0))?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut client = Client { socket, next: 0, lost: 0 };
    for _ in 0..in_flight {
        client.ask()?;
    }
    client.answers_for(warmup, in_flight)?;
    report::measuring()?;
    let (started, before, own) = (Instant::now(), server.read()?, CpuClock::own().read()?);
    let answered = client.answers_for(seconds, in_flight)?;
    let outcome = Outcome {
        seconds: started.elapsed().as_secs_f64(),
        answered,
        lost: client.lost,
        server_cpu_seconds: (server.read()? - before).as_secs_f64(),
        generator_cpu_seconds: (CpuClock::own().read()? - own).as_secs_f64(),
    };
    report::result(&outcome)
}

struct Client {
    socket: UdpSocket,
    next: u64,
    lost: u64,
}

impl Client {
    fn ask(&mut self) -> Result<()> {
        self.socket.send(&request(self.next)).context("asking")?;
        self.next += 1;
        Ok(())
    }

    /// Send a request for each answer, and return the number of answers.
    fn answers_for(&mut self, duration: Duration, in_flight: u64) -> Result<u64> {
        let (started, mut answered, mut buffer) = (Instant::now(), 0, [0; 1500]);
        while started.elapsed() < duration {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    check(&buffer[..length], self.next)?;
                    answered += 1;
                    self.ask()?;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    self.lost += in_flight;
                    for _ in 0..in_flight {
                        self.ask()?;
                    }
                }
                Err(error) => return Err(error).context("waiting for an answer"),
            }
        }
        Ok(answered)
    }
}

/// Return the binding request with transaction `number`, SOFTWARE "tailnode" and FINGERPRINT.
fn request(number: u64) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[..4].copy_from_slice(&[0, 1, 0, 20]);
    bytes[4..8].copy_from_slice(&MAGIC);
    bytes[8..16].copy_from_slice(&number.to_be_bytes());
    bytes[20..24].copy_from_slice(&[0x80, 0x22, 0, 8]);
    bytes[24..32].copy_from_slice(b"tailnode");
    bytes[32..36].copy_from_slice(&[0x80, 0x28, 0, 4]);
    let fingerprint = crc32fast::hash(&bytes[..32]) ^ FINGERPRINT_XOR;
    bytes[36..].copy_from_slice(&fingerprint.to_be_bytes());
    bytes
}

fn check(answer: &[u8], next: u64) -> Result<()> {
    ensure!(answer.len() >= 32 && answer[..2] == [1, 1] && answer[4..8] == MAGIC, "invalid STUN answer");
    let number = answer[8..16].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    ensure!(number < next, "an answer to request {number}, only {next} were sent");
    Ok(())
}
