//! The record layer of TLS 1.3 after the handshake (RFC 8446, 5), without allocations or copies for a record.
//!
//! rustls does the handshake, and derives all later keys. The rest is here: one nonce sequence for each direction, the
//! number of records under a key, KeyUpdate both ways, padding, alerts, and checks of the peer. Slices in, slices out;
//! no sockets. Sealed bytes must be sent once and in order, because no record is ever sealed again. After an error or
//! the peer's close_notify, nothing more is opened.

use std::fmt;

use aws_lc_rs::aead::{self, AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::{AlertDescription, ConnectionTrafficSecrets, ExtractedSecrets, SupportedCipherSuite};

/// Maximum plaintext bytes in one record (5.1).
pub(crate) const MAX_PLAIN: usize = 16 * 1024;
/// Maximum bytes after a record's header (5.2).
const MAX_SEALED: usize = MAX_PLAIN + 256;
/// Type, version and length.
const HEADER: usize = 5;
const TAG: usize = 16;
const VERSION: [u8; 2] = [3, 3];

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
const FATAL: u8 = 2;
const WARNING: u8 = 1;

/// Maximum consecutive records without data; a peer that sends more only causes work.
const MAX_BARREN: u8 = 32;

/// Work of opening a record, work of a new key, and bytes for one more unit (power of two), in units of `shard::Work`.
const RECORD_WORK: i64 = 1;
const KEY_WORK: i64 = 20;
const BYTES_SHIFT: u32 = 10;

/// The reason why nothing more is opened.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The alert for the peer; `None` if the peer sent an alert itself.
    alert: Option<AlertDescription>,
    what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

fn fault(alert: AlertDescription, what: impl Into<String>) -> Fault {
    Fault { alert: Some(alert), what: what.into() }
}

/// One direction: a key, and the number of the next record under it.
struct Half {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    /// Invariant: it goes up by one with each record, and returns to zero only with a new key.
    sequence: u64,
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, rustls::Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(rustls::Error::General("keys of a cipher that is not known here".into())),
        };
        let unbound = UnboundKey::new(algorithm, key.as_ref()).ok();
        let (Some(unbound), Ok(iv)) = (unbound, iv.as_ref().try_into()) else {
            return Err(rustls::Error::General("keys that do not fit their cipher".into()));
        };
        Ok(Self { key: LessSafeKey::new(unbound), iv, sequence })
    }

    /// Returns the nonce of the next record, and uses it up (5.3).
    fn nonce(&mut self) -> Option<aead::Nonce> {
        let mut nonce = self.iv;
        for (byte, number) in nonce.iter_mut().rev().zip(self.sequence.to_le_bytes()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1)?;
        Some(aead::Nonce::assume_unique_for_key(nonce))
    }
}

/// The end of the connection, with the rustls state that derives its next keys.
enum Secrets {
    Accepted(KernelConnection<ServerConnectionData>),
    Dialled(KernelConnection<ClientConnectionData>),
}

/// Runs the same code on either end: their types differ, their methods do not.
macro_rules! either {
    ($secrets:expr, $end:ident => $code:expr) => {
        match $secrets {
            Secrets::Accepted($end) => $code,
            Secrets::Dialled($end) => $code,
        }
    };
}

/// A handshake message that is not whole: a peer may cut it into records anywhere.
#[derive(Default)]
struct Message {
    /// Type and length; `came` bytes of them have come.
    header: [u8; 4],
    came: usize,
    /// Bytes of the body that are missing, once the header is whole.
    left: usize,
}

/// Both directions of one connection.
pub(crate) struct Records {
    sealing: Half,
    opening: Half,
    secrets: Secrets,
    message: Message,
    /// Consecutive records without data.
    barren: u8,
    /// The peer has requested a change of our key. It is done once, before the next data.
    owes_update: bool,
    peer_closed: bool,
    /// Changes of the peer's key whose work was not counted yet.
    key_changes: i64,
    records_per_key: u64,
}

/// The result of [`Records::open`].
pub(crate) struct Opened {
    /// Bytes of the opened records.
    pub(crate) used: usize,
    /// Bytes of the records' plaintext.
    pub(crate) plain: usize,
    /// Whether whole records are left, because `work` was used up.
    pub(crate) is_cut: bool,
    /// Whether more may come: `false` after the peer's close_notify.
    pub(crate) more: Result<bool, Fault>,
}

impl Records {
    /// Takes over an accepted connection. Its handshake is done, and rustls has nothing left to send or to read.
    pub(crate) fn accepted(connection: UnbufferedServerConnection) -> Result<Self, rustls::Error> {
        let (keys, secrets) = connection.dangerous_into_kernel_connection()?;
        Self::new(keys, Secrets::Accepted(secrets))
    }

    /// Takes over a dialled connection, in the same state.
    pub(crate) fn dialled(connection: UnbufferedClientConnection) -> Result<Self, rustls::Error> {
        let (keys, secrets) = connection.dangerous_into_kernel_connection()?;
        Self::new(keys, Secrets::Dialled(secrets))
    }

    fn new(keys: ExtractedSecrets, secrets: Secrets) -> Result<Self, rustls::Error> {
        let suite = either!(&secrets, end => end.negotiated_cipher_suite());
        let SupportedCipherSuite::Tls13(suite) = suite else {
            return Err(rustls::Error::General("records of another version than TLS 1.3".into()));
        };
        Ok(Self {
            sealing: Half::new(keys.tx)?,
            opening: Half::new(keys.rx)?,
            secrets,
            message: Message::default(),
            barren: 0,
            owes_update: false,
            peer_closed: false,
            key_changes: 0,
            records_per_key: suite.common.confidentiality_limit,
        })
    }

    /// Limits the records that each key seals from now on.
    pub(crate) fn limit_key(&mut self, records: u64) {
        self.records_per_key = self.records_per_key.min(records.max(1));
    }

    /// Opens the whole records at the front of `sealed`, at least one, until `work` is used up. Their plaintext is
    /// written back to back to the front of `plain`, which is as long as `sealed`.
    pub(crate) fn open(&mut self, sealed: &[u8], plain: &mut [u8], work: &mut i64) -> Opened {
        let mut opened = Opened { used: 0, plain: 0, is_cut: false, more: Ok(true) };
        while !self.peer_closed {
            let record = match whole(&sealed[opened.used..]) {
                Ok(Some(record)) => record,
                Ok(None) => return opened,
                Err(fault) => {
                    opened.more = Err(fault);
                    return opened;
                }
            };
            if *work <= 0 && opened.used > 0 {
                opened.is_cut = true;
                return opened;
            }
            *work -= RECORD_WORK + (record.len() >> BYTES_SHIFT) as i64;
            match self.open_record(record, &mut plain[opened.plain..]) {
                Ok(len) => opened.plain += len,
                Err(fault) => {
                    opened.more = Err(fault);
                    return opened;
                }
            }
            opened.used += record.len();
            *work -= std::mem::take(&mut self.key_changes) * KEY_WORK;
        }
        opened.more = Ok(false);
        opened
    }

    /// Opens one record. Returns the number of data bytes written to the front of `plain`.
    fn open_record(&mut self, record: &[u8], plain: &mut [u8]) -> Result<usize, Fault> {
        let bad = || fault(AlertDescription::BadRecordMac, "a record that does not open");
        let Some((header, body)) = record.split_first_chunk::<HEADER>() else { return Err(bad()) };
        let Some((sealed, tag)) = body.split_last_chunk::<TAG>() else { return Err(bad()) };
        let (Some(inner), Some(nonce)) = (plain.get_mut(..sealed.len()), self.opening.nonce()) else {
            return Err(fault(AlertDescription::InternalError, "no room, or no number, for one more record"));
        };
        let opened = self.opening.key.open_separate_gather(nonce, Aad::from(*header), sealed, tag, inner);
        opened.map_err(|_| bad())?;
        if inner.len() > MAX_PLAIN + 1 {
            let what = format!("a record with {} bytes in it, at most {}", inner.len(), MAX_PLAIN + 1);
            return Err(fault(AlertDescription::RecordOverflow, what));
        }
        // The content is followed by its type, and then by any number of zeros (5.4).
        let Some(len) = inner.iter().rposition(|&byte| byte != 0) else {
            return Err(fault(AlertDescription::UnexpectedMessage, "a record with padding alone"));
        };
        let (content, kind) = (&inner[..len], inner[len]);
        if kind == APPLICATION_DATA && len > 0 {
            self.barren = 0;
            self.is_between_messages()?;
            return Ok(len);
        }
        self.barren += 1;
        if self.barren > MAX_BARREN {
            let what = format!("more than {MAX_BARREN} records in a row without data");
            return Err(fault(AlertDescription::UnexpectedMessage, what));
        }
        match (kind, content) {
            (APPLICATION_DATA, _) => self.is_between_messages()?,
            (HANDSHAKE, [_, ..]) => self.on_handshake(content)?,
            (ALERT, &[_, description]) => self.on_alert(description.into())?,
            (ALERT, [_, ..]) => {
                let what = format!("an alert of {len} bytes, wanted 2");
                return Err(fault(AlertDescription::DecodeError, what));
            }
            _ => {
                let what = format!("a record of {len} bytes with content of type {kind}");
                return Err(fault(AlertDescription::UnexpectedMessage, what));
            }
        }
        Ok(0)
    }

    /// Checks that no handshake message is unfinished: its records must be consecutive (5.1).
    fn is_between_messages(&self) -> Result<(), Fault> {
        if self.message.came == 0 {
            return Ok(());
        }
        Err(fault(AlertDescription::UnexpectedMessage, "data in the middle of a handshake message"))
    }

    /// Handles an alert. Its level has no meaning in TLS 1.3 (6).
    fn on_alert(&mut self, alert: AlertDescription) -> Result<(), Fault> {
        match alert {
            AlertDescription::CloseNotify => self.peer_closed = true,
            AlertDescription::UserCanceled => {}
            _ => return Err(Fault { alert: None, what: format!("received fatal alert: {alert:?}") }),
        }
        Ok(())
    }

    /// Handles the content of a handshake record: messages, the last of which may continue in the next record.
    fn on_handshake(&mut self, mut content: &[u8]) -> Result<(), Fault> {
        while let [byte, rest @ ..] = content {
            let message = &mut self.message;
            if message.came < message.header.len() {
                message.header[message.came] = *byte;
                message.came += 1;
                content = rest;
                if message.came == message.header.len() {
                    self.check_header()?;
                }
            } else if message.header[0] == KEY_UPDATE {
                self.message = Message::default();
                if !rest.is_empty() {
                    let what = "a KeyUpdate with something behind it in its record";
                    return Err(fault(AlertDescription::UnexpectedMessage, what));
                }
                return self.change_opening_key(*byte);
            } else {
                let here = message.left.min(content.len());
                message.left -= here;
                content = &content[here..];
                if message.left == 0 {
                    self.message = Message::default();
                }
            }
        }
        Ok(())
    }

    /// Checks a handshake message by its header.
    fn check_header(&mut self) -> Result<(), Fault> {
        let [kind, a, b, c] = self.message.header;
        self.message.left = u32::from_be_bytes([0, a, b, c]) as usize;
        match (kind, self.message.left) {
            (KEY_UPDATE, 1) => Ok(()),
            (KEY_UPDATE, len) => {
                Err(fault(AlertDescription::DecodeError, format!("a KeyUpdate of {len} bytes, wanted 1")))
            }
            // We resume no sessions, so tickets are skipped.
            (NEW_SESSION_TICKET, 1..) if matches!(self.secrets, Secrets::Dialled(_)) => Ok(()),
            (_, len) => {
                let what = format!("a handshake message of type {kind} and {len} bytes after the handshake");
                Err(fault(AlertDescription::UnexpectedMessage, what))
            }
        }
    }

    /// Opens the next records with a new key.
    fn change_opening_key(&mut self, requested: u8) -> Result<(), Fault> {
        match requested {
            0 => {}
            1 => self.owes_update = true,
            other => {
                let what = format!("a KeyUpdate that requests {other}, wanted 0 or 1");
                return Err(fault(AlertDescription::IllegalParameter, what));
            }
        }
        self.key_changes += 1;
        let next = either!(&mut self.secrets, end => end.update_rx_secret());
        self.opening = next
            .and_then(Half::new)
            .map_err(|error| fault(AlertDescription::InternalError, error.to_string()))?;
        Ok(())
    }

    /// Seals `plain` into the front of `out`, in as few records as possible. Returns the number of bytes written.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, rustls::Error> {
        let mut at = 0;
        for content in plain.chunks(MAX_PLAIN) {
            if self.owes_update || self.sealing.sequence >= self.records_per_key {
                at += self.seal_record(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0], &mut out[at..])?;
                self.sealing = Half::new(either!(&mut self.secrets, end => end.update_tx_secret())?)?;
                self.owes_update = false;
            }
            at += self.seal_record(APPLICATION_DATA, content, &mut out[at..])?;
        }
        Ok(at)
    }

    /// Seals a close_notify alert.
    pub(crate) fn seal_close(&mut self, out: &mut [u8]) -> Result<usize, rustls::Error> {
        self.seal_record(ALERT, &[WARNING, AlertDescription::CloseNotify.into()], out)
    }

    /// Appends the alert of a fault to `out`; nothing may be sealed after it.
    pub(crate) fn seal_fault(&mut self, fault: &Fault, out: &mut Vec<u8>) -> Result<(), rustls::Error> {
        let Some(alert) = fault.alert else { return Ok(()) };
        let mut record = [0; HEADER + 2 + 1 + TAG];
        let len = self.seal_record(ALERT, &[FATAL, alert.into()], &mut record)?;
        out.extend_from_slice(&record[..len]);
        Ok(())
    }

    /// Seals one record into the front of `out`. Returns its length.
    fn seal_record(&mut self, kind: u8, content: &[u8], out: &mut [u8]) -> Result<usize, rustls::Error> {
        let len = content.len() + 1 + TAG;
        let (Some(record), Some(nonce)) = (out.get_mut(..HEADER + len), self.sealing.nonce()) else {
            return Err(rustls::Error::General("no room, or no number, for one more record".into()));
        };
        let (header, body) = record.split_at_mut(HEADER);
        let (sealed, kind_and_tag) = body.split_at_mut(content.len());
        let [high, low] = (len as u16).to_be_bytes();
        let bytes = [APPLICATION_DATA, VERSION[0], VERSION[1], high, low];
        header.copy_from_slice(&bytes);
        let key = &self.sealing.key;
        key.seal_out_of_place_scatter(nonce, Aad::from(bytes), content, sealed, &[kind], kind_and_tag)
            .map_err(|_| rustls::Error::EncryptError)?;
        Ok(HEADER + len)
    }
}

/// Returns the record at the front of `bytes`, if it is whole. Its header is checked as soon as it has come.
fn whole(bytes: &[u8]) -> Result<Option<&[u8]>, Fault> {
    let &[kind, _, _, high, low, ..] = bytes else { return Ok(None) };
    if kind != APPLICATION_DATA {
        let what = format!("a record of type {kind} after the handshake");
        return Err(fault(AlertDescription::UnexpectedMessage, what));
    }
    let len = usize::from(u16::from_be_bytes([high, low]));
    if len > MAX_SEALED {
        let what = format!("a record of {len} bytes, at most {MAX_SEALED}");
        return Err(fault(AlertDescription::RecordOverflow, what));
    }
    Ok(bytes.get(..HEADER + len))
}

#[cfg(test)]
mod tests;
