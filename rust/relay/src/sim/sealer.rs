//! TLS 1.3 records with content that no library would send.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::{Connection, ConnectionTrafficSecrets};

/// The key and nonces of one direction, for sealing and opening by hand.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Sealer {
    /// Takes the keys of a peer: those that it seals with, and those that it opens with. The peer cannot be used after
    /// this.
    ///
    /// # Panics
    /// If the peer is not established, not TLS 1.3, or does not permit the extraction of secrets.
    #[must_use]
    pub fn both(peer: impl Into<Connection>) -> (Self, Self) {
        let secrets = peer.into().dangerous_extract_secrets().expect("secrets may be had");
        (Self::new(secrets.tx), Self::new(secrets.rx))
    }

    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Self {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => panic!("another cipher was agreed on"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).expect("a key"));
        Self { key, iv: iv.as_ref().try_into().expect("12 bytes"), sequence }
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        nonce.iter_mut().rev().zip(self.sequence.to_le_bytes()).for_each(|(iv, byte)| *iv ^= byte);
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals one record with this type and content.
    #[must_use]
    pub fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        self.seal_inner([content, &[kind]].concat())
    }

    /// Seals one record with this content, type and padding.
    ///
    /// # Panics
    /// If it is longer than a record's length field allows.
    #[must_use]
    pub fn seal_inner(&mut self, mut sealed: Vec<u8>) -> Vec<u8> {
        let len = u16::try_from(sealed.len() + 16).expect("a record").to_be_bytes();
        let header = [23, 3, 3, len[0], len[1]];
        let nonce = self.nonce();
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).expect("a good key");
        [&header[..], &sealed].concat()
    }

    /// Opens a single record. Returns its type and content.
    ///
    /// # Panics
    /// If it does not open.
    #[must_use]
    pub fn open(&mut self, record: &[u8]) -> (u8, Vec<u8>) {
        let (header, body) = record.split_first_chunk::<5>().expect("a header");
        let mut body = body.to_vec();
        let nonce = self.nonce();
        let opened = self.key.open_in_place(nonce, Aad::from(*header), &mut body).expect("a good record");
        let (kind, content) = opened.split_last().expect("a type");
        (*kind, content.to_vec())
    }
}
