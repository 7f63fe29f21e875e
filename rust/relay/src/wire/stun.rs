//! STUN for a relay (`docs/protocol/stun.md`): checks one datagram and builds the answer to it.
//!
//! Pure: bytes and addresses in, bytes out; the socket is in `datagrams`. Only Binding Requests are answered. By
//! default, only those of Tailscale's clients are, so that the port cannot be used to flood third parties.

use std::net::{IpAddr, SocketAddr};

/// The length of the longest answer, that to an IPv6 client.
pub(crate) const LONGEST_ANSWER: usize = 44;

const HEADER: usize = 20;
const BINDING_REQUEST: [u8; 2] = [0x00, 0x01];
const BINDING_SUCCESS: [u8; 2] = [0x01, 0x01];
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const SOFTWARE: u16 = 0x8022;
const FINGERPRINT: u16 = 0x8028;
/// Attributes from this number on may be ignored by servers that do not understand them.
const OPTIONAL: u16 = 0x8000;

/// The SOFTWARE attribute of Tailscale's clients.
const TAILSCALE: &[u8] = b"tailnode";
/// Distinguishes a fingerprint from other CRC-32 sums of the same bytes.
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// A whole FINGERPRINT attribute.
const FINGERPRINT_LEN: usize = 8;

/// Matches an answer to its request.
pub(crate) type TransactionId = [u8; 12];

/// The clients that get answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Clients {
    /// Tailscale's clients: requests with their SOFTWARE attribute and a valid fingerprint.
    Tailscale,
    /// All clients: also every well-formed request that wants only its address.
    Any,
}

/// Returns the transaction ID of the request in a datagram, if the request gets an answer.
pub(crate) fn request(datagram: &[u8], clients: Clients) -> Option<TransactionId> {
    let (header, attributes) = datagram.split_first_chunk::<HEADER>()?;
    if header[..2] != BINDING_REQUEST || header[4..8] != COOKIE {
        return None;
    }
    let (mut is_tailscale, mut wants_more, mut last) = (false, false, None);
    for_each_attribute(attributes, |kind, value| {
        is_tailscale |= kind == SOFTWARE && value == TAILSCALE;
        wants_more |= kind < OPTIONAL;
        last = Some((kind, value));
    })?;
    let fingerprint = last.and_then(|(kind, value)| (kind == FINGERPRINT).then_some(value));
    let is_right = |value: &[u8]| value == fingerprint_of(&datagram[..datagram.len() - FINGERPRINT_LEN]);
    let is_answered = match clients {
        _ if is_tailscale && fingerprint.is_some_and(is_right) => true,
        Clients::Tailscale => false,
        Clients::Any => {
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            length == attributes.len() && !wants_more && fingerprint.is_none_or(is_right)
        }
    };
    is_answered.then(|| header[8..].try_into().ok())?
}

/// Calls `show` for each attribute in order. Returns `None` if one is cut off.
fn for_each_attribute<'a>(mut bytes: &'a [u8], mut show: impl FnMut(u16, &'a [u8])) -> Option<()> {
    while !bytes.is_empty() {
        let (&[kind_high, kind_low, len_high, len_low], rest) = bytes.split_first_chunk()?;
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        bytes = rest.get(len.next_multiple_of(4)..)?;
        show(u16::from_be_bytes([kind_high, kind_low]), &rest[..len]);
    }
    Some(())
}

fn fingerprint_of(bytes: &[u8]) -> [u8; 4] {
    (crc32fast::hash(bytes) ^ FINGERPRINT_XOR).to_be_bytes()
}

/// A Binding Success response with a client's address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    bytes: [u8; LONGEST_ANSWER],
    len: usize,
}

impl Answer {
    /// The answer to a request from `client`; an IPv4-mapped address is written as IPv4.
    pub(crate) fn new(id: &TransactionId, client: SocketAddr) -> Self {
        let mut answer = Self { bytes: [0; LONGEST_ANSWER], len: 0 };
        let (family, address_len) = match client.ip().to_canonical() {
            IpAddr::V4(_) => (1, 4),
            IpAddr::V6(_) => (2, 16),
        };
        answer.push(&BINDING_SUCCESS);
        answer.push(&(8 + address_len as u16).to_be_bytes());
        answer.push(&COOKIE);
        answer.push(id);
        answer.push(&XOR_MAPPED_ADDRESS.to_be_bytes());
        answer.push(&(4 + address_len as u16).to_be_bytes());
        answer.push(&[0, family]);
        // The mask is the cookie and the transaction ID as in the header; the port's mask begins there, too.
        let mut mask = [0; 16];
        mask.copy_from_slice(&answer.bytes[4..HEADER]);
        answer.push_masked(&client.port().to_be_bytes(), &mask);
        match client.ip().to_canonical() {
            IpAddr::V4(ip) => answer.push_masked(&ip.octets(), &mask),
            IpAddr::V6(ip) => answer.push_masked(&ip.octets(), &mask),
        }
        answer
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_masked(&mut self, bytes: &[u8], mask: &[u8]) {
        for (byte, mask) in bytes.iter().zip(mask) {
            self.push(&[byte ^ mask]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn vectors() -> Value {
        serde_json::from_str(include_str!("../../../../tests/vectors/stun.json"))
            .expect("the vectors are JSON")
    }

    fn cases(vectors: &Value, list: &str) -> Vec<Value> {
        vectors[list].as_array().expect("a list of cases").clone()
    }

    fn text<'a>(case: &'a Value, field: &str) -> &'a str {
        case[field].as_str().unwrap_or_else(|| panic!("{case} has no {field}"))
    }

    fn bytes(case: &Value, field: &str) -> Vec<u8> {
        let digits = text(case, field);
        (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex"))
            .collect()
    }

    fn source(case: &Value) -> SocketAddr {
        let ip = text(case, "source_ip").parse().expect("an address");
        SocketAddr::new(ip, u16::try_from(case["source_port"].as_u64().expect("a port")).expect("a port"))
    }

    fn standard(attributes: &[u8]) -> Vec<u8> {
        let length = (attributes.len() as u16).to_be_bytes();
        [&BINDING_REQUEST[..], &length, &COOKIE, &[7; 12], attributes].concat()
    }

    fn with_fingerprint(mut datagram: Vec<u8>) -> Vec<u8> {
        let sum = fingerprint_of(&datagram);
        datagram.extend_from_slice(&FINGERPRINT.to_be_bytes());
        datagram.extend_from_slice(&[0, 4]);
        datagram.extend_from_slice(&sum);
        datagram
    }

    #[test]
    fn exactly_the_recorded_datagrams_that_the_reference_answers_are_requests() {
        for case in cases(&vectors(), "datagrams") {
            let found = request(&bytes(&case, "datagram"), Clients::Tailscale);
            assert_eq!(Some(found.is_some()), case["answered"].as_bool(), "{}", text(&case, "name"));
            if let Some(id) = found {
                assert_eq!(id[..], bytes(&case, "tx_id"), "{}", text(&case, "name"));
            }
        }
    }

    #[test]
    fn the_reference_clients_requests_are_answered_in_both_modes() {
        for case in cases(&vectors(), "requests") {
            for clients in [Clients::Tailscale, Clients::Any] {
                let id = request(&bytes(&case, "request"), clients);
                assert_eq!(id.map(Vec::from), Some(bytes(&case, "tx_id")));
            }
        }
    }

    #[test]
    fn answers_are_the_references_byte_by_byte() {
        let vectors = vectors();
        let older = |case: &Value| text(case, "source_ip").starts_with("::ffff:");
        for case in cases(&vectors, "responses").iter().filter(|case| !older(case)) {
            let id = bytes(case, "tx_id").try_into().expect("12 bytes");
            assert_eq!(
                Answer::new(&id, source(case)).as_bytes(),
                bytes(case, "response"),
                "{}",
                text(case, "name")
            );
        }
        for case in cases(&vectors, "live") {
            let id = request(&bytes(&case, "request"), Clients::Tailscale).expect("a request");
            assert_eq!(
                Answer::new(&id, source(&case)).as_bytes(),
                bytes(&case, "response"),
                "{}",
                text(&case, "name")
            );
        }
    }

    #[test]
    fn an_ipv4_mapped_client_gets_its_ipv4_address() {
        let mapped = Answer::new(&[7; 12], "[::ffff:203.0.113.7]:50000".parse().expect("an address"));
        let plain = Answer::new(&[7; 12], "203.0.113.7:50000".parse().expect("an address"));
        assert_eq!(mapped.as_bytes(), plain.as_bytes());
    }

    #[test]
    fn any_client_may_send_no_attributes_or_optional_ones() {
        for (attributes, any) in [
            (&b""[..], true),
            (b"\x80\x22\x00\x05other\0\0\0", true),
            (b"\x80\x22\x00\x05other", false),
            (b"\x00\x03\x00\x04\0\0\0\x06", false), // CHANGE-REQUEST: an answer from here would mislead
            (b"\x80\x28\x00\x04\0\0\0\0", false),   // a wrong fingerprint
        ] {
            let datagram = standard(attributes);
            assert_eq!(request(&datagram, Clients::Any).is_some(), any, "{attributes:?}");
            assert_eq!(request(&datagram, Clients::Tailscale), None, "{attributes:?}");
        }
        let mut fingerprinted = standard(b"");
        fingerprinted[3] = 8;
        assert_eq!(request(&with_fingerprint(fingerprinted), Clients::Any), Some([7; 12]));
    }

    #[test]
    fn the_length_of_any_clients_request_must_match() {
        let mut datagram = standard(b"");
        datagram[3] = 4;
        assert_eq!(request(&datagram, Clients::Any), None);
        assert_eq!(request(&[&standard(b"")[..], b"\x80\x22\0\0"].concat(), Clients::Any), None);
    }

    #[test]
    fn prefixes_and_flipped_bits_of_a_request_are_rejected() {
        let good = with_fingerprint(standard(b"\x80\x22\x00\x08tailnode"));
        assert!(request(&good, Clients::Tailscale).is_some());
        for cut in 0..good.len() {
            assert_eq!(request(&good[..cut], Clients::Tailscale), None);
        }
        for bit in 0..good.len() * 8 {
            let mut flipped = good.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(request(&flipped, Clients::Tailscale), None, "bit {bit}");
        }
    }
}
