//! The key that opens and seals the boxes of one login: NaCl's `crypto_box_beforenm`. It is nearly the whole cost of a
//! login apart from TLS. AWS-LC computes it faster than libsodium, which the client and the tests use.

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use salsa20::cipher::consts::U10;
use salsa20::hsalsa;

use crate::wire::frame::Key;

/// A private key, parsed once for many logins.
#[derive(Debug)]
pub struct SharedKeyDeriver(PrivateKey);

impl SharedKeyDeriver {
    /// Parses a private key as in a key file; it need not be clamped.
    #[must_use]
    pub fn new(private: &Key) -> Option<Self> {
        PrivateKey::from_private_key(&X25519, private).ok().map(Self)
    }

    /// Returns the key shared with `public`. `None` for a public key of low order, whose shared key is public.
    #[must_use]
    pub fn shared_with(&self, public: &Key) -> Option<Key> {
        let public = UnparsedPublicKey::new(&X25519, public);
        agree(&self.0, public, (), |point| {
            let point = <&Key>::try_from(point).map_err(|_| ())?;
            Ok(hsalsa::<U10>(point.into(), &[0; 16].into()).into())
        })
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::SharedKeyDeriver;

    #[test]
    fn a_private_key_need_not_be_clamped() {
        let (written, clamped) = ([0xff; 32], {
            let mut key = [0xff; 32];
            (key[0], key[31]) = (0xf8, 0x7f);
            key
        });
        let shared = |private| SharedKeyDeriver::new(private).and_then(|ours| ours.shared_with(&[9; 32]));
        assert!(shared(&written).is_some());
        assert_eq!(shared(&written), shared(&clamped));
    }

    #[test]
    fn a_key_of_low_order_gives_no_shared_key() {
        let ours = SharedKeyDeriver::new(&[7; 32]).expect("any 32 bytes are a key");
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(ours.shared_with(&[0; 32]), None);
        assert_eq!(ours.shared_with(&one), None);
    }
}
