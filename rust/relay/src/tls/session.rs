//! One TLS session without buffers of its own, and what all sessions are made with.
//!
//! Bytes in by slice, bytes out by slice: rustls's unbuffered interface shakes hands and speaks TLS 1.2, and with TLS
//! 1.3 hands over to [`Records`]. What arrived of a record that is not whole yet is all that is kept between two reads.

use std::fmt;
use std::sync::Arc;

use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{CipherSuite, ClientConfig, ProtocolVersion, RootCertStore, ServerConfig};

use crate::tls::records::{MOST_PLAIN, Records};

/// Most bytes by which sealing one record makes it longer: header, explicit nonce (1.2), content type (1.3), tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;

/// Room for handshake messages that have to go before or between sealed data: changes of the key.
pub(crate) const HANDSHAKE_ROOM: usize = 512;

/// Most bytes that a session keeps between two reads: one record, or the pieces of one handshake message, which a
/// peer may cut into records of a byte each.
pub(crate) const MAX_PARTIAL: usize = 64 * 1024;

/// Bytes that rustls opens for one unit of work (`shard::Work`): records may be short.
const BYTES_FOR_WORK: usize = 128;

/// Bytes that sealing `plain` bytes takes at most.
pub(crate) const fn sealed_len(plain: usize) -> usize {
    plain + (plain / MOST_PLAIN + 1) * RECORD_OVERHEAD
}

/// Why a session cannot go on.
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

/// Who has the connection's state.
enum Connection {
    /// Somebody dialled us: rustls, for the handshake, and for all of TLS 1.2.
    Accepted(Box<UnbufferedServerConnection>),
    /// The same where we dialled another node.
    Dialled(Box<UnbufferedClientConnection>),
    /// TLS 1.3 after its handshake.
    Records(Box<Records>),
    /// Nobody: it cannot go on, and the peer was told so.
    Failed(TlsError),
}

/// One end of a TLS connection.
pub struct Session {
    connection: Connection,
    /// What came of a record or a handshake message that is not whole yet, at most [`MAX_PARTIAL`] bytes; empty,
    /// without memory, on an idle connection.
    partial: Vec<u8>,
    /// Bytes in front of `partial` that rustls has seen. It remembers places in them, and has to be shown them, and
    /// nothing else, at each call.
    seen: usize,
    /// What the node presented that we dialled, leaf first, until somebody asks.
    chain: Option<Vec<Vec<u8>>>,
    /// Whole records are among `partial`, left for later.
    is_cut: bool,
    /// What was agreed on by ALPN, once rustls has handed over; clients of a relay do without.
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

    /// The start of an unfinished record; what is given to [`receive`](Self::receive) next begins with it.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Whether whole records came that are still to be opened: by the next call, with nothing more than
    /// [`partial`](Self::partial).
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Takes in `ciphertext`, as much as `work` allows, off which is counted what that cost. Its plaintext is written to the front of `plain`, which has as much room as there is
    /// ciphertext; how many bytes. What the handshake answers is appended to `out`, on an error the alert, if any.
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
            progress = self.consult_rustls(ciphertext, plain, out, &mut fed);
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
                // In a stream of long records there is always a part of one: its memory stays.
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

    /// Shows rustls what came, record by record until hands are shaken: what lies behind is not for it in TLS 1.3.
    fn consult_rustls(
        &mut self,
        ciphertext: &mut [u8],
        plain: &mut [u8],
        out: &mut Vec<u8>,
        fed: &mut Fed,
    ) -> Result<Progress, TlsError> {
        loop {
            let is_shaking_hands = either!(&self.connection, end => end.is_handshaking(), else false);
            if !is_shaking_hands {
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
                // TLS 1.2, and all that came has been looked at.
                Some(progress) if self.seen == rest.len() => return Ok(progress),
                Some(_) => {}
            }
        }
    }

    /// From rustls to the records that are ours.
    fn hand_over(&mut self) -> Result<(), TlsError> {
        self.protocol = self.protocol().map(Box::from);
        let nobody = Connection::Failed(rustls::Error::HandshakeNotComplete.into());
        let records = match std::mem::replace(&mut self.connection, nobody) {
            Connection::Accepted(end) => Records::accepted(*end)?,
            Connection::Dialled(end) => {
                self.chain = Some(presented(&end));
                Records::dialled(*end)?
            }
            Connection::Records(_) | Connection::Failed(_) => return Err(self.failure()),
        };
        self.connection = Connection::Records(Box::new(records));
        // rustls lets a handshake end with a record alone.
        debug_assert_eq!(self.seen, 0, "rustls has kept something of the handshake");
        Ok(())
    }

    fn failure(&self) -> TlsError {
        match &self.connection {
            Connection::Failed(error) => error.clone(),
            _ => rustls::Error::HandshakeNotComplete.into(),
        }
    }

    /// Encodes what rustls had to say before it gave up, the alert last.
    fn alert(&mut self, out: &mut Vec<u8>) {
        either!(&mut self.connection, end => {
            // As long as there is something to say, it looks at nothing that came.
            while end.wants_write() {
                let UnbufferedStatus { discard, state, .. } = end.process_tls_records(&mut []);
                if step(discard, state, out, &mut [], &mut 0).is_err() {
                    return;
                }
            }
        }, else {});
    }

    /// From now on no key seals more records than so many.
    pub(crate) fn limit_key(&mut self, records: u64) {
        if let Connection::Records(ours) = &mut self.connection {
            ours.limit_key(records);
        }
    }

    /// Seals `plain` into the front of `out`, in as few records as there can be; bytes written.
    ///
    /// `out` has room for [`sealed_len`] bytes and [`HANDSHAKE_ROOM`].
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, TlsError> {
        if let Connection::Records(records) = &mut self.connection {
            return Ok(records.seal(plain, out)?);
        }
        let failure = self.failure();
        either!(&mut self.connection, end => {
            let mut at = 0;
            loop {
                // All that it was shown it has looked at already, so nothing of it is used up here.
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
                    // The peer has said close_notify; it still reads.
                    ConnectionState::PeerClosed => {}
                    _ => return Err(failure),
                }
            }
        }, else Err(failure))
    }

    /// Seals the last words and a close_notify alert, as far as the handshake has come.
    pub(crate) fn seal_last(&mut self, words: &[u8]) -> Vec<u8> {
        let mut out = vec![0; sealed_len(words.len()) + sealed_len(2) + HANDSHAKE_ROOM];
        let mut len = if words.is_empty() { 0 } else { self.seal(words, &mut out).unwrap_or(0) };
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

    /// "1.2" or "1.3", once that is settled.
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

    /// The protocol that was agreed on by ALPN, if any.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        either!(&self.connection, end => end.alpn_protocol(), else self.protocol.as_deref())
    }

    /// The certificates that a dialled node presented, leaf first; none where the other end dialled us. To be asked
    /// once.
    pub(crate) fn dialled_chain(&mut self) -> Option<Vec<Vec<u8>>> {
        match &self.connection {
            Connection::Dialled(end) => Some(presented(end)),
            _ => self.chain.take(),
        }
    }
}

/// How much of what came has been dealt with.
struct Fed {
    used: usize,
    /// Bytes of plaintext that this gave.
    plain: usize,
}

fn presented(end: &UnbufferedClientConnection) -> Vec<Vec<u8>> {
    end.peer_certificates().into_iter().flatten().map(|certificate| certificate.to_vec()).collect()
}

/// How many bytes at the front of `bytes` rustls is to be shown next: a whole record, or all, if that is none.
fn next_record(bytes: &[u8]) -> Option<usize> {
    /// Most bytes behind a record's header in any version (RFC 5246, 6.2.3).
    const MOST: usize = MOST_PLAIN + 2_048;
    let &[kind, major, _, high, low, ..] = bytes else { return None };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if !(20..=23).contains(&kind) || major != 3 || len > MOST {
        return Some(bytes.len());
    }
    (bytes.len() >= 5 + len).then_some(5 + len)
}

/// Does what one state of a session asks for, `plain` holding `len` bytes so far; bytes used, and how the session stands if it waits for more.
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
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}
