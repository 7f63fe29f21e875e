//! The TLS 1.3 record layer after the handshake. Records are sealed and opened in place, without an allocation or a
//! copy for each.
//!
//! rustls does the handshake and derives the keys. This module does the rest of RFC 8446, section 5, for a client
//! with AES-128-GCM. Owns the two sequence numbers; no I/O.

use anyhow::{Result, anyhow, bail, ensure};
use aws_lc_rs::aead;
use rustls::ConnectionTrafficSecrets;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::cipher::{Iv, Nonce};
use rustls::kernel::KernelConnection;

/// The most plaintext that one record may carry.
pub(crate) const MAX_PLAINTEXT: usize = 16_384;

const HEADER: usize = 5;
const TAG: usize = 16;
/// The bytes that sealing adds to the plaintext: record header, content type and tag.
pub(crate) const OVERHEAD: usize = HEADER + 1 + TAG;
const MAX_CIPHERTEXT: usize = MAX_PLAINTEXT + 256;
/// Below AES-GCM's limit of 2^24.5 records under one key.
const RECORDS_PER_KEY: u64 = 1 << 23;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;

/// Both directions of an established connection.
pub(crate) struct Records {
    sealing: Half,
    opening: Half,
    kernel: KernelConnection<ClientConnectionData>,
    /// Records under one sending key; a field, so that a test can lower it.
    records_per_key: u64,
}

struct Half {
    key: aead::LessSafeKey,
    iv: Iv,
    /// The sequence number of the next record that is sealed or opened under `key`. Each number is used only once.
    sequence: u64,
}

impl Half {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self> {
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else {
            bail!("the server chose another cipher than AES-128-GCM");
        };
        let key = aead::UnboundKey::new(&aead::AES_128_GCM, key.as_ref())
            .map_err(|_| anyhow!("not an AES-128 key"))?;
        Ok(Self { key: aead::LessSafeKey::new(key), iv, sequence })
    }

    fn next_nonce(&mut self) -> aead::Nonce {
        let nonce = Nonce::new(&self.iv, self.sequence);
        self.sequence += 1;
        aead::Nonce::assume_unique_for_key(nonce.0)
    }
}

impl Records {
    /// Take the keys from rustls. `connection` has completed its handshake and has nothing left to send.
    pub(crate) fn new(connection: UnbufferedClientConnection) -> Result<Self> {
        let (secrets, kernel) = connection.dangerous_into_kernel_connection()?;
        let (sealing, opening) = (Half::new(secrets.tx)?, Half::new(secrets.rx)?);
        Ok(Self { sealing, opening, kernel, records_per_key: RECORDS_PER_KEY })
    }

    /// Append one record to `out`; `write` fills in its plaintext of `length` bytes, at most `MAX_PLAINTEXT`.
    pub(crate) fn seal(
        &mut self,
        out: &mut Vec<u8>,
        length: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        if self.sealing.sequence >= self.records_per_key {
            self.update_sending_key(out)?;
        }
        self.seal_as(APPLICATION_DATA, out, length, write)
    }

    /// Open a whole record in place and return its plaintext, empty if it is not application data. Appends the answers
    /// of TLS itself to `out`.
    pub(crate) fn open<'a>(&mut self, record: &'a mut [u8], out: &mut Vec<u8>) -> Result<&'a [u8]> {
        let (header, body) = record.split_at_mut(HEADER);
        if header[0] == CHANGE_CIPHER_SPEC {
            return Ok(&[]);
        }
        let additional = aead::Aad::from([header[0], header[1], header[2], header[3], header[4]]);
        let nonce = self.opening.next_nonce();
        let opened = self.opening.key.open_in_place(nonce, additional, body);
        let opened = opened.map_err(|_| anyhow!("a record cannot be decrypted"))?;
        let end = opened
            .iter()
            .rposition(|&byte| byte != 0)
            .ok_or_else(|| anyhow!("a record contains only padding"))?;
        let (plaintext, content_type) = opened[..=end].split_at_mut(end);
        match content_type[0] {
            APPLICATION_DATA => Ok(plaintext),
            HANDSHAKE => self.after_handshake(plaintext, out).map(|()| &[][..]),
            ALERT => bail!("the server sent the TLS alert {:?}", plaintext),
            other => bail!("a record with content of type {other}"),
        }
    }

    fn seal_as(
        &mut self,
        content_type: u8,
        out: &mut Vec<u8>,
        length: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> Result<()> {
        debug_assert!(length <= MAX_PLAINTEXT);
        let start = out.len();
        out.resize(start + length + OVERHEAD, 0);
        let (header, rest) = out[start..].split_at_mut(HEADER);
        let (plaintext, tag) = rest.split_at_mut(length + 1);
        write(&mut plaintext[..length]);
        plaintext[length] = content_type;
        let sealed_length = ((length + 1 + TAG) as u16).to_be_bytes();
        header.copy_from_slice(&[APPLICATION_DATA, 3, 3, sealed_length[0], sealed_length[1]]);
        let additional = aead::Aad::from([header[0], header[1], header[2], header[3], header[4]]);
        let nonce = self.sealing.next_nonce();
        let made = self.sealing.key.seal_in_place_separate_tag(nonce, additional, plaintext);
        tag.copy_from_slice(made.map_err(|_| anyhow!("a record could not be sealed"))?.as_ref());
        Ok(())
    }

    /// Append a change of the sending key to `out`.
    pub(crate) fn update_sending_key(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let update_not_requested = [KEY_UPDATE, 0, 0, 1, 0];
        self.seal_as(HANDSHAKE, out, update_not_requested.len(), |body| {
            body.copy_from_slice(&update_not_requested)
        })?;
        self.sealing = Half::new(self.kernel.update_tx_secret()?)?;
        Ok(())
    }

    /// Handle messages after the handshake: ignore session tickets; a key update takes effect with the next record.
    fn after_handshake(&mut self, mut messages: &[u8], out: &mut Vec<u8>) -> Result<()> {
        while let [kind, a, b, c, rest @ ..] = messages {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            ensure!(rest.len() >= length, "a handshake message of {length} bytes spans records");
            let (body, rest) = rest.split_at(length);
            match (*kind, body) {
                (NEW_SESSION_TICKET, _) => {}
                (KEY_UPDATE, &[requested]) => {
                    ensure!(rest.is_empty(), "a key update is not the last message of its record");
                    self.opening = Half::new(self.kernel.update_rx_secret()?)?;
                    if requested == 1 {
                        self.update_sending_key(out)?;
                    }
                }
                (other, _) => bail!("a handshake message of type {other} after the handshake"),
            }
            messages = rest;
        }
        ensure!(messages.is_empty(), "a handshake message spans records");
        Ok(())
    }
}

/// Return the length of the first record in `bytes`, header included; `None` while it is incomplete.
pub(crate) fn complete(bytes: &[u8]) -> Result<Option<usize>> {
    let &[_, _, _, high, low, ..] = bytes else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    ensure!(length <= MAX_CIPHERTEXT, "a record of {length} bytes, at most {MAX_CIPHERTEXT}");
    Ok((bytes.len() >= HEADER + length).then_some(HEADER + length))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{IpAddr, Ipv4Addr};
    use std::sync::Arc;

    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;
    use crate::tls::{self, Handshake, Progress};

    const SERVER_KEY: [u8; 32] = [0xd5; 32];

    /// A client and rustls's own server, without sockets.
    struct Pair {
        client: Records,
        server: ServerConnection,
    }

    fn certificate(name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(DnType::CommonName, name);
        (params.self_signed(&key).expect("a certificate"), key)
    }

    fn server() -> ServerConnection {
        let (leaf, key) = certificate("127.0.0.1");
        let (meta, _) = certificate(&format!("derpkey{}", "d5".repeat(32)));
        let chain = vec![leaf.der().clone(), meta.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key);
        ServerConnection::new(Arc::new(config.expect("a configuration"))).expect("a server")
    }

    impl Pair {
        fn new() -> Self {
            let mut server = server();
            let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
            let mut handshake =
                Handshake::new(tls::config().expect("a configuration"), address).expect("a client");
            let (mut incoming, mut outgoing) = (Vec::new(), Vec::new());
            loop {
                let (progress, used) =
                    handshake.advance(&mut incoming, &mut outgoing).expect("a good handshake");
                incoming.drain(..used);
                deliver(&mut server, &outgoing);
                outgoing.clear();
                match progress {
                    Progress::Blocked(same) => handshake = same,
                    Progress::Done(established) => {
                        assert_eq!(established.server_key, SERVER_KEY);
                        let mut pair =
                            Self { client: Records::new(established.connection).expect("keys"), server };
                        assert_eq!(pair.receive(incoming), b"", "session tickets are no data");
                        return pair;
                    }
                }
                while server.wants_write() {
                    server.write_tls(&mut incoming).expect("room");
                }
            }
        }

        /// Return the plaintext that the client reads from `incoming` and from the server's queued records.
        fn receive(&mut self, mut incoming: Vec<u8>) -> Vec<u8> {
            while self.server.wants_write() {
                self.server.write_tls(&mut incoming).expect("room");
            }
            let (mut rest, mut got, mut answers) = (&mut incoming[..], Vec::new(), Vec::new());
            while let Some(length) = complete(rest).expect("good headers") {
                let (record, behind) = rest.split_at_mut(length);
                got.extend_from_slice(self.client.open(record, &mut answers).expect("a good record"));
                rest = behind;
            }
            assert_eq!(rest.len(), 0);
            deliver(&mut self.server, &answers);
            got
        }

        fn server_gets(&mut self, data: &[u8]) -> Vec<u8> {
            let mut sealed = Vec::new();
            self.client.seal(&mut sealed, data.len(), |record| record.copy_from_slice(data)).expect("room");
            deliver(&mut self.server, &sealed);
            let mut got = vec![0; data.len()];
            self.server.reader().read_exact(&mut got).expect("all of it");
            got
        }

        fn client_gets(&mut self, data: &[u8]) -> Vec<u8> {
            self.server.writer().write_all(data).expect("room");
            self.receive(Vec::new())
        }
    }

    fn deliver(server: &mut ServerConnection, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("room");
            server.process_new_packets().expect("good records");
        }
    }

    #[test]
    fn what_is_sealed_arrives_both_ways() {
        let mut pair = Pair::new();
        for length in [1, 1349, MAX_PLAINTEXT] {
            let data = vec![length as u8; length];
            assert_eq!(pair.server_gets(&data), data);
            assert_eq!(pair.client_gets(&data), data);
        }
    }

    #[test]
    fn every_record_costs_the_stated_overhead() {
        let mut sealed = Vec::new();
        Pair::new().client.seal(&mut sealed, 100, |_| ()).expect("room");
        assert_eq!(sealed.len(), 100 + OVERHEAD);
        assert_eq!(complete(&sealed).expect("a good header"), Some(sealed.len()));
        assert_eq!(complete(&sealed[..sealed.len() - 1]).expect("a good header"), None);
    }

    #[test]
    fn the_sending_key_is_changed_in_time() {
        let mut pair = Pair::new();
        pair.client.records_per_key = 3;
        for round in 0..10 {
            assert_eq!(pair.server_gets(&[round; 50]), [round; 50]);
        }
        assert!(pair.client.sealing.sequence <= 3);
    }

    #[test]
    fn the_server_may_change_its_key() {
        let mut pair = Pair::new();
        for round in 0..5 {
            pair.server.refresh_traffic_keys().expect("an established connection");
            assert_eq!(pair.client_gets(&[round; 50]), [round; 50]);
            assert_eq!(pair.server_gets(&[round; 50]), [round; 50]);
        }
    }

    #[test]
    fn a_changed_record_does_not_open() {
        let mut pair = Pair::new();
        pair.server.writer().write_all(b"data").expect("room");
        let mut record = Vec::new();
        pair.server.write_tls(&mut record).expect("room");
        record[10] ^= 1;
        assert!(pair.client.open(&mut record, &mut Vec::new()).is_err());
    }

    #[test]
    fn an_alert_is_an_error() {
        let mut pair = Pair::new();
        pair.server.send_close_notify();
        let mut record = Vec::new();
        pair.server.write_tls(&mut record).expect("room");
        assert!(pair.client.open(&mut record, &mut Vec::new()).is_err());
    }
}
