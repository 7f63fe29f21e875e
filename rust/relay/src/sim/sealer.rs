//! Records of TLS 1.3 that no library would make.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::{Connection, ConnectionTrafficSecrets};

/// One direction's key and nonces, to seal and open by hand.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Sealer {
    /// The keys with which a peer seals, and those with which it opens; the peer does neither after this.
    ///
    /// # Panics
    /// When the peer is not one of an established TLS 1.3 connection whose secrets may be had.
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

    /// One record with this content of this type.
    #[must_use]
    pub fn seal(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        self.seal_inner([content, &[kind]].concat())
    }

    /// One record with content, type and padding as they are given.
    ///
    /// # Panics
    /// When that is more than a record's length can say.
    #[must_use]
    pub fn seal_inner(&mut self, mut sealed: Vec<u8>) -> Vec<u8> {
        let len = u16::try_from(sealed.len() + 16).expect("a record").to_be_bytes();
        let header = [23, 3, 3, len[0], len[1]];
        let nonce = self.nonce();
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).expect("a good key");
        [&header[..], &sealed].concat()
    }

    /// Type and content of the one record that there is.
    ///
    /// # Panics
    /// When it does not open.
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
