//! One TLS session, and the configuration of all sessions.
//!
//! Slices in, slices out. rustls's unbuffered interface does the handshake and TLS 1.2; with TLS 1.3, [`Records`] takes
//! over. Between two reads, the session keeps only the bytes of a record that is not whole yet.

use std::fmt;
use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CipherSuite, ClientConfig, ProtocolVersion, RootCertStore, ServerConfig};

use crate::tls::records::{MAX_PLAIN, Records};

/// Maximum bytes that sealing adds to a record: header, explicit nonce (1.2), content type (1.3), tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;

/// Bytes of room for handshake messages before or between sealed data: changes of the key.
pub(crate) const HANDSHAKE_ROOM: usize = 512;

/// Maximum bytes that a session keeps between two reads: one record, or the pieces of one handshake message, which a
/// peer may cut into records of one byte each.
pub(crate) const MAX_PARTIAL: usize = 64 * 1024;

/// Bytes that rustls opens for one unit of work (`shard::Work`): records may be short.
const BYTES_FOR_WORK: usize = 128;

/// Maximum length of `plain` sealed bytes.
pub(crate) const fn sealed_len(plain: usize) -> usize {
    plain + (plain / MAX_PLAIN + 1) * RECORD_OVERHEAD
}

/// The reason why a session has failed.
#[derive(Clone, Debug)]
pub(crate) struct TlsError(rustls::Error);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            rustls::Error::General(what) => f.write_str(what),
            other => other.fmt(f),
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(error)
    }
}

/// The state of a session after it got bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// The handshake needs more bytes.
    Handshaking,
    /// Application data flows.
    Established,
    /// The peer sent close_notify: nothing more comes.
    PeerClosed,
}

/// The owner of the connection's TLS state.
enum Connection {
    /// rustls, for an accepted connection: during the handshake, and always with TLS 1.2.
    Accepted(Box<UnbufferedServerConnection>),
    /// rustls, for a connection that we dialled.
    Dialled(Box<UnbufferedClientConnection>),
    /// TLS 1.3 after its handshake.
    Records(Box<Records>),
    /// None: the session has failed, and the peer got an alert.
    Failed(TlsError),
}

/// One end of a TLS connection.
pub struct Session {
    connection: Connection,
    /// Bytes of a record or a handshake message that is not whole yet, at most [`MAX_PARTIAL`]. Empty, without memory,
    /// on an idle connection.
    partial: Vec<u8>,
    /// Bytes at the front of `partial` that rustls has seen. It stores offsets into them. So each call must pass them
    /// again, and no others.
    seen: usize,
    /// The certificates that the dialled node presented, leaf first, until they are taken.
    chain: Option<Vec<Vec<u8>>>,
    /// Whole records in `partial` were left for later.
    is_cut: bool,
    /// The ALPN protocol, after rustls has handed over; clients of a relay use none.
    protocol: Option<Box<[u8]>>,
}

/// Runs the same code on either end's rustls: their types differ, their methods do not.
macro_rules! either {
    ($connection:expr, $end:ident => $code:expr, else $other:expr) => {
        match $connection {
            Connection::Accepted($end) => $code,
            Connection::Dialled($end) => $code,
            _ => $other,
        }
    };
}

impl Session {
    /// The end of a connection that was accepted.
    pub(crate) fn accept(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self::new(Connection::Accepted(Box::new(UnbufferedServerConnection::new(config)?))))
    }

    /// The end of a connection that was dialled; the other end has to prove that it is `server_name`.
    pub(crate) fn dial(config: Arc<ClientConfig>, server_name: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
            rustls::Error::General(format!("{server_name} is no name that a certificate can be for"))
        })?;
        Ok(Self::new(Connection::Dialled(Box::new(UnbufferedClientConnection::new(config, name)?))))
    }

    const fn new(connection: Connection) -> Self {
        Self { connection, partial: Vec::new(), seen: 0, chain: None, is_cut: false, protocol: None }
    }

    /// The bytes of an unfinished record; the next input of [`receive`](Self::receive) must begin with them.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Whether whole records were left unopened. The next call opens them, with no input beyond
    /// [`partial`](Self::partial).
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Handles `ciphertext` until `work` is used up; its cost is subtracted from `work`. The plaintext is written to
    /// the front of `plain`, which must be as long as `ciphertext`. Returns the number of plaintext bytes. Answers of
    /// the handshake are appended to `out`; after an error, the alert, if any.
    pub(crate) fn receive(
        &mut self,
        ciphertext: &mut [u8],
        plain: &mut [u8],
        out: &mut Vec<u8>,
        work: &mut i64,
    ) -> (usize, Result<Progress, TlsError>) {
        self.is_cut = false;
        let mut fed = Fed { used: 0, plain: 0 };
        let mut progress = Ok(Progress::Established);
        if !matches!(self.connection, Connection::Records(_)) {
            progress = self.feed_rustls(ciphertext, plain, out, &mut fed);
            *work -= (fed.used / BYTES_FOR_WORK) as i64;
        }
        if let (Connection::Records(records), Ok(Progress::Established)) = (&mut self.connection, &progress) {
            let opened = records.open(&ciphertext[fed.used..], &mut plain[fed.plain..], work);
            self.is_cut = opened.is_cut;
            fed.used += opened.used;
            fed.plain += opened.plain;
            match opened.more {
                Ok(true) => {}
                Ok(false) => progress = Ok(Progress::PeerClosed),
                Err(fault) => {
                    let error = rustls::Error::General(fault.to_string());
                    progress = Err(records.seal_fault(&fault, out).err().unwrap_or(error).into());
                }
            }
        }
        let rest = &ciphertext[fed.used..];
        if progress.is_ok() && rest.len() > MAX_PARTIAL && !self.is_cut {
            let what = format!("more than {MAX_PARTIAL} bytes of one message");
            progress = Err(rustls::Error::General(what).into());
        }
        match &progress {
            Ok(_) if rest.is_empty() => self.partial = Vec::new(),
            Ok(_) => {
                // A stream of long records always has an unfinished one: its memory is kept.
                self.partial.clear();
                self.partial.extend_from_slice(rest);
            }
            Err(error) => {
                self.partial = Vec::new();
                self.connection = Connection::Failed(error.clone());
            }
        }
        (fed.plain, progress)
    }

    /// Passes input to rustls, record by record until the end of the handshake. With TLS 1.3, later records do not go
    /// to rustls.
    fn feed_rustls(
        &mut self,
        ciphertext: &mut [u8],
        plain: &mut [u8],
        out: &mut Vec<u8>,
        fed: &mut Fed,
    ) -> Result<Progress, TlsError> {
        loop {
            let is_handshaking = either!(&self.connection, end => end.is_handshaking(), else false);
            if !is_handshaking {
                self.seen = ciphertext.len() - fed.used;
            }
            let shown = &mut ciphertext[fed.used..fed.used + self.seen];
            let step = either!(&mut self.connection, end => {
                let UnbufferedStatus { discard, state, .. } = end.process_tls_records(shown);
                step(discard, state, out, plain, &mut fed.plain)
            }, else return Err(self.failure()));
            let (used, progress) = match step {
                Ok(step) => step,
                Err(error) => {
                    self.alert(out);
                    return Err(error);
                }
            };
            fed.used += used;
            self.seen -= used;
            let rest = &ciphertext[fed.used..];
            match progress {
                None => {}
                Some(Progress::Handshaking) => match next_record(&rest[self.seen..]) {
                    Some(len) => self.seen += len,
                    None => return Ok(Progress::Handshaking),
                },
                Some(Progress::Established) if self.version() == Some("1.3") => {
                    self.hand_over()?;
                    return Ok(Progress::Established);
                }
                // This is TLS 1.2, and rustls has seen everything.
                Some(progress) if self.seen == rest.len() => return Ok(progress),
                Some(_) => {}
            }
        }
    }

    /// Moves the connection from rustls to [`Records`].
    fn hand_over(&mut self) -> Result<(), TlsError> {
        self.protocol = self.protocol().map(Box::from);
        let failed = Connection::Failed(rustls::Error::HandshakeNotComplete.into());
        let records = match std::mem::replace(&mut self.connection, failed) {
            Connection::Accepted(end) => Records::accepted(*end)?,
            Connection::Dialled(end) => {
                self.chain = Some(presented(&end));
                Records::dialled(*end)?
            }
            Connection::Records(_) | Connection::Failed(_) => return Err(self.failure()),
        };
        self.connection = Connection::Records(Box::new(records));
        // rustls ends a handshake only at the end of a record.
        debug_assert_eq!(self.seen, 0, "rustls has kept something of the handshake");
        Ok(())
    }

    fn failure(&self) -> TlsError {
        match &self.connection {
            Connection::Failed(error) => error.clone(),
            _ => rustls::Error::HandshakeNotComplete.into(),
        }
    }

    /// Encodes rustls's last messages before it failed; the alert comes last.
    fn alert(&mut self, out: &mut Vec<u8>) {
        either!(&mut self.connection, end => {
            // While rustls has output, it handles no input.
            while end.wants_write() {
                let UnbufferedStatus { discard, state, .. } = end.process_tls_records(&mut []);
                if step(discard, state, out, &mut [], &mut 0).is_err() {
                    return;
                }
            }
        }, else {});
    }

    /// Limits the records that each key seals from now on.
    pub(crate) fn limit_key(&mut self, records: u64) {
        if let Connection::Records(ours) = &mut self.connection {
            ours.limit_key(records);
        }
    }

    /// Seals `plain` into the front of `out`, in as few records as possible. Returns the number of bytes written.
    ///
    /// `out` must have room for [`sealed_len`] bytes and [`HANDSHAKE_ROOM`].
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        if let Connection::Records(records) = &mut self.connection {
            return Ok(records.seal(plain, out)?);
        }
        let failure = self.failure();
        either!(&mut self.connection, end => {
            let mut at = 0;
            loop {
                // rustls has handled these bytes already, so it uses none of them up here.
                match end.process_tls_records(&mut self.partial[..self.seen]).state? {
                    ConnectionState::WriteTraffic(mut traffic) => {
                        return match traffic.encrypt(plain, &mut out[at..]) {
                            Ok(len) => Ok(at + len),
                            Err(error) => Err(rustls::Error::General(error.to_string()).into()),
                        };
                    }
                    ConnectionState::EncodeTlsData(mut data) => {
                        at += data.encode(&mut out[at..]).map_err(|e| rustls::Error::General(e.to_string()))?;
                    }
                    ConnectionState::TransmitTlsData(data) => data.done(),
                    // The peer has sent close_notify; it still reads.
                    ConnectionState::PeerClosed => {}
                    _ => return Err(failure),
                }
            }
        }, else Err(failure))
    }

    /// Seals the last bytes and a close_notify alert, as far as the handshake permits.
    pub(crate) fn seal_last(&mut self, last: &[u8]) -> Vec<u8> {
        let mut out = vec![0; sealed_len(last.len()) + sealed_len(2) + HANDSHAKE_ROOM];
        let mut len = if last.is_empty() { 0 } else { self.seal(last, &mut out).unwrap_or(0) };
        if let Connection::Records(records) = &mut self.connection {
            len += records.seal_close(&mut out[len..]).unwrap_or(0);
        }
        either!(&mut self.connection, end => {
            let state = end.process_tls_records(&mut self.partial[..self.seen]).state;
            if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
                len += traffic.queue_close_notify(&mut out[len..]).unwrap_or(0);
            }
        }, else {});
        out.truncate(len);
        out
    }

    /// "1.2" or "1.3", once it is negotiated.
    pub(crate) fn version(&self) -> Option<&'static str> {
        let settled = match &self.connection {
            Connection::Accepted(end) => end.protocol_version(),
            Connection::Dialled(end) => end.protocol_version(),
            Connection::Records(_) => Some(ProtocolVersion::TLSv1_3),
            Connection::Failed(_) => None,
        };
        match settled? {
            ProtocolVersion::TLSv1_2 => Some("1.2"),
            ProtocolVersion::TLSv1_3 => Some("1.3"),
            _ => None,
        }
    }

    /// The negotiated ALPN protocol, if any.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        either!(&self.connection, end => end.alpn_protocol(), else self.protocol.as_deref())
    }

    /// The certificates that a dialled node presented, leaf first; `None` if the other end dialled us. Returned only
    /// once.
    pub(crate) fn dialled_chain(&mut self) -> Option<Vec<Vec<u8>>> {
        match &self.connection {
            Connection::Dialled(end) => Some(presented(end)),
            _ => self.chain.take(),
        }
    }
}

/// The input that was handled.
struct Fed {
    used: usize,
    /// Bytes of the plaintext of that input.
    plain: usize,
}

fn presented(end: &UnbufferedClientConnection) -> Vec<Vec<u8>> {
    end.peer_certificates().into_iter().flatten().map(|certificate| certificate.to_vec()).collect()
}

/// The bytes at the front of `bytes` to pass to rustls next: one whole record, or all if they are no record.
fn next_record(bytes: &[u8]) -> Option<usize> {
    /// Maximum bytes after a record's header in any version (RFC 5246, 6.2.3).
    const MOST: usize = MAX_PLAIN + 2_048;
    let &[kind, major, _, high, low, ..] = bytes else { return None };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if !(20..=23).contains(&kind) || major != 3 || len > MOST {
        return Some(bytes.len());
    }
    (bytes.len() >= 5 + len).then_some(5 + len)
}

/// Handles one state of a session; `plain` holds `len` bytes so far. Returns the bytes used, and the progress if the
/// session waits for more.
fn step<End>(
    mut discard: usize,
    state: Result<ConnectionState<'_, '_, End>, rustls::Error>,
    out: &mut Vec<u8>,
    plain: &mut [u8],
    len: &mut usize,
) -> Result<(usize, Option<Progress>), TlsError> {
    let progress = match state? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                discard += record.discard;
                let Some(room) = plain[*len..].get_mut(..record.payload.len()) else {
                    return Err(rustls::Error::General("no room for the plaintext".into()).into());
                };
                room.copy_from_slice(record.payload);
                *len += record.payload.len();
            }
            None
        }
        ConnectionState::EncodeTlsData(mut data) => {
            encode(out, |space| data.encode(space))?;
            None
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            None
        }
        ConnectionState::BlockedHandshake => Some(Progress::Handshaking),
        ConnectionState::WriteTraffic(_) => Some(Progress::Established),
        // Early data is never offered. If rustls reports early data anyway, the session ends.
        _ => Some(Progress::PeerClosed),
    };
    Ok((discard, progress))
}

/// Appends the output of `encode` to `out`, with the room that rustls requests.
fn encode(
    out: &mut Vec<u8>,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> Result<(), TlsError> {
    let start = out.len();
    let mut room = 0;
    loop {
        out.resize(start + room, 0);
        match encode(&mut out[start..]) {
            Ok(len) => {
                out.truncate(start + len);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(wanted)) if wanted.required_size > room => {
                room = wanted.required_size
            }
            Err(error) => return Err(rustls::Error::General(error.to_string()).into()),
        }
    }
}

/// The crypto provider of both ends: ciphers and key exchanges, in the order of preference.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider: CryptoProvider = aws_lc_rs::default_provider();
    // If a client has no preference, AES-128 before AES-256: 3 % less work for each packet.
    provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
        _ => 2,
    });
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
        aws_lc_rs::kx_group::SECP256R1,
        aws_lc_rs::kx_group::SECP384R1,
    ];
    Arc::new(provider)
}

/// The TLS versions of both ends.
pub(crate) const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The configuration of all dialled sessions, with these trusted roots (DER); unreadable ones are ignored.
pub(crate) fn client_config(roots: Vec<Vec<u8>>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(roots.into_iter().map(CertificateDer::from));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}
