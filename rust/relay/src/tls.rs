//! One TLS session without buffers of its own, and what all sessions are made with.
//!
//! rustls's unbuffered interface: bytes in by slice, bytes out by slice. What arrived of a record that is not
//! whole yet is the only thing that a session keeps between two reads.

use std::fmt;
use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};

/// Most plaintext bytes in one record (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;
/// Most bytes by which sealing one record makes it longer: header, explicit nonce (1.2), content type (1.3), tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;

/// Room for a handshake message that has to go before sealed data: an answer to the peer's KeyUpdate.
pub(crate) const HANDSHAKE_ROOM: usize = 512;

/// Most bytes that a session keeps between two reads: one record, or the pieces of one handshake message, which a
/// peer may cut into records of a byte each.
pub(crate) const MAX_PARTIAL: usize = 64 * 1024;

/// Bytes that sealing `plain` bytes takes at most.
pub(crate) const fn sealed_len(plain: usize) -> usize {
    plain + (plain / RECORD + 1) * RECORD_OVERHEAD
}

/// Why a session cannot go on.
#[derive(Debug)]
pub(crate) struct TlsError(rustls::Error);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(error)
    }
}

/// How a session stands after it was fed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// The handshake wants more bytes.
    Handshaking,
    /// Application data flows.
    Established,
    /// The peer said close_notify: nothing more comes.
    PeerClosed,
}

/// Either end's state, as rustls has it.
enum Connection {
    /// Somebody dialled us.
    Server(UnbufferedServerConnection),
    /// We dialled another node.
    Client(UnbufferedClientConnection),
}

/// One end of a TLS connection.
pub struct Session {
    connection: Connection,
    /// What came of a record or a handshake message that is not whole yet, at most [`MAX_PARTIAL`] bytes; empty,
    /// without memory, on an idle connection. rustls remembers places in it, and has to be shown it at each call.
    partial: Vec<u8>,
    /// rustls has given up, and is not to be asked again: it would look for these places.
    failed: bool,
}

/// Runs the same code on either end: their types differ, their methods do not.
macro_rules! either {
    ($connection:expr, $end:ident => $code:expr) => {
        match $connection {
            Connection::Server($end) => $code,
            Connection::Client($end) => $code,
        }
    };
}

impl Session {
    /// The end of a connection that was accepted.
    pub(crate) fn accept(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        Ok(Self::new(Connection::Server(UnbufferedServerConnection::new(config)?)))
    }

    /// The end of a connection that was dialled; the other end has to prove that it is `server_name`.
    pub(crate) fn dial(config: Arc<ClientConfig>, server_name: &str) -> Result<Self, TlsError> {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|_| {
            rustls::Error::General(format!("{server_name} is no name that a certificate can be for"))
        })?;
        Ok(Self::new(Connection::Client(UnbufferedClientConnection::new(config, name)?)))
    }

    const fn new(connection: Connection) -> Self {
        Self { connection, partial: Vec::new(), failed: false }
    }

    /// The start of an unfinished record; what is given to [`receive`](Self::receive) next begins with it.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Takes in `ciphertext`: plaintext goes to `plain`, one call a record, and what the handshake answers to `out`.
    ///
    /// On an error `out` ends with the alert for the peer.
    pub(crate) fn receive(
        &mut self,
        ciphertext: &mut [u8],
        out: &mut Vec<u8>,
        mut plain: impl FnMut(&[u8]),
    ) -> Result<Progress, TlsError> {
        self.partial = Vec::new();
        let mut at = 0;
        loop {
            let step = either!(&mut self.connection, end => {
                let UnbufferedStatus { discard, state, .. } = end.process_tls_records(&mut ciphertext[at..]);
                step(discard, state, out, &mut plain)
            });
            let (used, progress) = match step {
                Ok(step) => step,
                Err(error) => {
                    self.failed = true;
                    self.alert(out);
                    return Err(error);
                }
            };
            at += used;
            if let Some(progress) = progress {
                let rest = &ciphertext[at..];
                if rest.len() > MAX_PARTIAL {
                    self.failed = true;
                    return Err(rustls::Error::General(format!(
                        "more than {MAX_PARTIAL} bytes of one message"
                    ))
                    .into());
                }
                self.partial.extend_from_slice(rest);
                return Ok(progress);
            }
        }
    }

    /// Encodes what rustls had to say before it gave up, the alert last.
    fn alert(&mut self, out: &mut Vec<u8>) {
        // As long as there is something to say, it looks at nothing that came.
        while either!(&self.connection, end => end.wants_write()) {
            let step = either!(&mut self.connection, end => {
                let UnbufferedStatus { discard, state, .. } = end.process_tls_records(&mut []);
                step(discard, state, out, &mut |_: &[u8]| {})
            });
            if step.is_err() {
                return;
            }
        }
    }

    /// Seals `plain` into the front of `out`, in as few records as there can be; bytes written.
    ///
    /// `out` has room for [`sealed_len`] bytes and [`HANDSHAKE_ROOM`].
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        if self.failed {
            return Err(rustls::Error::HandshakeNotComplete.into());
        }
        either!(&mut self.connection, end => {
            let mut at = 0;
            loop {
                // All of `partial` has been looked at already, so nothing of it is used up here.
                match end.process_tls_records(&mut self.partial).state? {
                    ConnectionState::WriteTraffic(mut traffic) => {
                        return match traffic.encrypt(plain, &mut out[at..]) {
                            Ok(len) => Ok(at + len),
                            Err(error) => Err(rustls::Error::General(error.to_string()).into()),
                        };
                    }
                    ConnectionState::EncodeTlsData(mut data) => {
                        // An answer to the peer's KeyUpdate, queued by rustls.
                        at += data.encode(&mut out[at..]).map_err(|e| rustls::Error::General(e.to_string()))?;
                    }
                    ConnectionState::TransmitTlsData(data) => data.done(),
                    // The peer has said close_notify; it still reads.
                    ConnectionState::PeerClosed => {}
                    _ => return Err(rustls::Error::HandshakeNotComplete.into()),
                }
            }
        })
    }

    /// Seals the last words and a close_notify alert, as far as the handshake has come.
    pub(crate) fn seal_last(&mut self, words: &[u8]) -> Vec<u8> {
        let mut out = vec![0; sealed_len(words.len()) + sealed_len(2) + HANDSHAKE_ROOM];
        let mut len = if words.is_empty() { 0 } else { self.seal(words, &mut out).unwrap_or(0) };
        if self.failed {
            return Vec::new();
        }
        either!(&mut self.connection, end => {
            let state = end.process_tls_records(&mut self.partial).state;
            if let Ok(ConnectionState::WriteTraffic(mut traffic)) = state {
                len += traffic.queue_close_notify(&mut out[len..]).unwrap_or(0);
            }
        });
        out.truncate(len);
        out
    }

    /// "1.2" or "1.3", once that is settled.
    pub(crate) fn version(&self) -> Option<&'static str> {
        match either!(&self.connection, end => end.protocol_version())? {
            rustls::ProtocolVersion::TLSv1_2 => Some("1.2"),
            rustls::ProtocolVersion::TLSv1_3 => Some("1.3"),
            _ => None,
        }
    }

    /// The protocol that was agreed on by ALPN, if any.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        either!(&self.connection, end => end.alpn_protocol())
    }

    /// The certificates that a dialled node presented, leaf first; none where the other end dialled us.
    pub(crate) fn dialled_chain(&self) -> Option<Vec<Vec<u8>>> {
        match &self.connection {
            Connection::Server(_) => None,
            Connection::Client(end) => Some(
                end.peer_certificates()
                    .into_iter()
                    .flatten()
                    .map(|certificate| certificate.to_vec())
                    .collect(),
            ),
        }
    }
}

/// Does what one state of a session asks for; bytes used, and how the session stands if it waits for more.
fn step<End>(
    mut discard: usize,
    state: Result<ConnectionState<'_, '_, End>, rustls::Error>,
    out: &mut Vec<u8>,
    plain: &mut impl FnMut(&[u8]),
) -> Result<(usize, Option<Progress>), TlsError> {
    let progress = match state? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                discard += record.discard;
                plain(record.payload);
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
        // Early data is never offered; should rustls say so all the same, it is as good as the end.
        _ => Some(Progress::PeerClosed),
    };
    Ok((discard, progress))
}

/// Appends to `out` what `encode` writes, asking for room as rustls names it.
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

/// What both ends are made with: the ciphers and key exchanges, in the order of preference.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider: CryptoProvider = aws_lc_rs::default_provider();
    // Where a client does not care, AES-128 before AES-256: 3 % less work a packet.
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

/// The versions of TLS that either end speaks.
pub(crate) const VERSIONS: &[&rustls::SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The configuration of every dialled session, which trusts these roots (DER); unreadable ones are passed over.
pub(crate) fn client_config(roots: Vec<Vec<u8>>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut trusted = RootCertStore::empty();
    trusted.add_parsable_certificates(roots.into_iter().map(CertificateDer::from));
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
