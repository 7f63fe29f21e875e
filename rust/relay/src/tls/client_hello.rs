//! A TLS client's first message, parsed as far as the choice of a certificate needs.
//!
//! rustls passes neither IP addresses as server names nor the connection to its resolver. So the choice is made before
//! rustls sees the connection. rustls checks the message again, and rejects what is invalid here.

use std::fmt;
use std::net::IpAddr;

use rustls::pki_types::ServerName;

/// A record's header: type, version, length.
const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
/// A handshake message's header: type, length.
const MESSAGE_HEADER: usize = 4;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
const ALPN: u16 = 16;

/// The ALPN protocol with which an ACME server validates a name (RFC 8737).
pub(crate) const ACME_TLS_1: &[u8] = b"acme-tls/1";

/// The server name that a client wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) enum Wanted {
    /// It names none.
    #[default]
    AnyName,
    /// A DNS name, in lower case.
    Name(String),
    /// An address instead of a name.
    Ip(IpAddr),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyName => f.write_str("for a client that names nobody"),
            Self::Name(name) => write!(f, "for {name}"),
            Self::Ip(ip) => write!(f, "for {ip}"),
        }
    }
}

/// A client's first message.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ClientHello {
    pub(crate) wanted: Wanted,
    /// Whether [`ACME_TLS_1`] is among the protocols that it offers.
    pub(crate) offers_challenge: bool,
}

/// The result of parsing the first bytes of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Parsed {
    /// A first message that is not whole yet.
    Part,
    /// A whole first message.
    Whole(ClientHello),
    /// Another message, or an invalid one.
    Invalid,
}

/// Parses the first bytes of a connection.
pub(crate) fn parse_records(bytes: &[u8]) -> Parsed {
    match message(bytes) {
        Ok(Some(message)) => parse(&message).map_or(Parsed::Invalid, Parsed::Whole),
        Ok(None) => Parsed::Part,
        Err(Invalid) => Parsed::Invalid,
    }
}

struct Invalid;

/// Returns the first handshake message without its header, assembled from its records; `None` until it is whole.
fn message(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, Invalid> {
    let (mut pieces, mut there) = (Vec::new(), 0);
    let mut header = [0; MESSAGE_HEADER];
    loop {
        if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) {
            return Err(Invalid);
        }
        let Some((record, rest)) = bytes.split_at_checked(RECORD_HEADER) else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes([record[3], record[4]]));
        let piece = &rest[..len.min(rest.len())];
        for (at, byte) in (there..MESSAGE_HEADER).zip(piece) {
            header[at] = *byte;
        }
        pieces.push(piece);
        there += piece.len();
        if there > 0 && header[0] != CLIENT_HELLO {
            return Err(Invalid);
        }
        let whole = MESSAGE_HEADER + u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        if there >= MESSAGE_HEADER && there >= whole {
            let mut message = pieces.concat();
            message.truncate(whole);
            return Ok(Some(message.split_off(MESSAGE_HEADER)));
        }
        let Some(next) = rest.get(len..) else { return Ok(None) };
        bytes = next;
    }
}

/// Parses a ClientHello (RFC 8446, 4.1.2).
fn parse(message: &[u8]) -> Option<ClientHello> {
    let mut rest = message;
    take(&mut rest, 2 + 32)?; // version, random
    vector(&mut rest, 1)?; // session
    vector(&mut rest, 2)?; // cipher suites
    vector(&mut rest, 1)?; // compression
    let mut hello = ClientHello::default();
    if rest.is_empty() {
        return Some(hello);
    }
    let mut extensions = vector(&mut rest, 2)?;
    while !extensions.is_empty() {
        let kind = number(&mut extensions, 2)?;
        let content = vector(&mut extensions, 2)?;
        match u16::try_from(kind) {
            Ok(SERVER_NAME) => hello.wanted = wanted(content)?,
            Ok(ALPN) => hello.offers_challenge = offers_challenge(content)?,
            _ => {}
        }
    }
    Some(hello)
}

/// Parses `server_name` (RFC 6066, 3).
fn wanted(mut content: &[u8]) -> Option<Wanted> {
    let mut names = vector(&mut content, 2)?;
    while !names.is_empty() {
        let kind = number(&mut names, 1)?;
        let name = vector(&mut names, 2)?;
        if kind == usize::from(HOST_NAME) {
            return match ServerName::try_from(name).ok()? {
                ServerName::DnsName(name) => Some(Wanted::Name(name.as_ref().to_ascii_lowercase())),
                ServerName::IpAddress(ip) => Some(Wanted::Ip(IpAddr::from(ip).to_canonical())),
                _ => None,
            };
        }
    }
    None
}

/// Parses `application_layer_protocol_negotiation` (RFC 7301, 3.1).
fn offers_challenge(mut content: &[u8]) -> Option<bool> {
    let mut protocols = vector(&mut content, 2)?;
    let mut found = false;
    while !protocols.is_empty() {
        found |= vector(&mut protocols, 1)? == ACME_TLS_1;
    }
    Some(found)
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(front)
}

/// Reads a number of `len` bytes, at most four.
fn number(bytes: &mut &[u8], len: usize) -> Option<usize> {
    Some(take(bytes, len)?.iter().fold(0, |number, byte| (number << 8) | usize::from(*byte)))
}

/// Reads bytes after their length, which takes `length_len` bytes.
fn vector<'a>(bytes: &mut &'a [u8], length_len: usize) -> Option<&'a [u8]> {
    let len = number(bytes, length_len)?;
    take(bytes, len)
}

#[cfg(test)]
mod tests {
    use super::{ClientHello, Parsed, Wanted, parse_records};

    fn prefixed(length_len: usize, content: &[u8]) -> Vec<u8> {
        let len = (content.len() as u32).to_be_bytes();
        [&len[4 - length_len..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &prefixed(2, content)].concat()
    }

    fn server_name(name: &[u8]) -> Vec<u8> {
        extension(0, &prefixed(2, &[&[0][..], &prefixed(2, name)].concat()))
    }

    fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> = protocols.iter().flat_map(|protocol| prefixed(1, protocol)).collect();
        extension(16, &prefixed(2, &list))
    }

    /// A handshake message with these extensions.
    fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
        let session_suites_compression = [&[0][..], &[0, 2, 0x13, 0x01], &[1, 0]].concat();
        let body = [&[3, 3][..], &[7; 32], &session_suites_compression, &prefixed(2, &extensions.concat())];
        [&[1][..], &prefixed(3, &body.concat())].concat()
    }

    fn records(message: &[u8], piece: usize) -> Vec<u8> {
        message.chunks(piece).flat_map(|piece| [&[22, 3, 1][..], &prefixed(2, piece)].concat()).collect()
    }

    fn parse_extensions(extensions: &[Vec<u8>]) -> Parsed {
        parse_records(&records(&message(extensions), 16_384))
    }

    fn wants(wanted: Wanted) -> Parsed {
        Parsed::Whole(ClientHello { wanted, offers_challenge: false })
    }

    #[test]
    fn a_name_is_lowered_and_an_address_is_no_name() {
        assert_eq!(parse_extensions(&[]), wants(Wanted::AnyName));
        assert_eq!(
            parse_extensions(&[server_name(b"DERP1.Example.com")]),
            wants(Wanted::Name("derp1.example.com".into()))
        );
        for ip in ["192.0.2.7", "2001:db8::7"] {
            let parsed = ip.parse().expect("an address");
            assert_eq!(parse_extensions(&[server_name(ip.as_bytes())]), wants(Wanted::Ip(parsed)));
        }
        let v4 = "192.0.2.7".parse().expect("an address");
        assert_eq!(parse_extensions(&[server_name(b"::ffff:192.0.2.7")]), wants(Wanted::Ip(v4)));
    }

    #[test]
    fn a_challenge_is_offered_alone_or_among_others() {
        let offers = |protocols: &[&[u8]]| match parse_extensions(&[alpn(protocols)]) {
            Parsed::Whole(hello) => hello.offers_challenge,
            other => panic!("{other:?}"),
        };
        assert!(offers(&[b"acme-tls/1"]) && offers(&[b"h2", b"acme-tls/1"]));
        assert!(!offers(&[b"http/1.1"]) && !offers(&[]) && !offers(&[b"acme-tls/12", b"acme-tls/"]));
    }

    #[test]
    fn a_hello_is_a_part_until_its_last_byte_however_it_is_cut_into_records() {
        let name = "relay.test";
        let message = message(&[alpn(&[b"h2"]), server_name(name.as_bytes()), extension(0xfafa, &[1; 300])]);
        for piece in [1, 2, 3, 5, 100, 16_384] {
            let bytes = records(&message, piece);
            for len in 0..bytes.len() {
                assert_eq!(parse_records(&bytes[..len]), Parsed::Part, "{len} bytes in pieces of {piece}");
            }
            assert_eq!(parse_records(&bytes), wants(Wanted::Name(name.into())), "in pieces of {piece}");
            assert_eq!(parse_records(&[&bytes[..], b"and more"].concat()), wants(Wanted::Name(name.into())));
        }
    }

    #[test]
    fn malformed_messages_are_invalid() {
        let malformed = [
            server_name(&[b'a'; 300]),
            server_name(b"a b"),
            server_name(b""),
            server_name(b"\xff\xfe"),
            extension(0, &[]),
            extension(0, &prefixed(2, &[1, 0, 0])),
            extension(16, &[0, 5, 9]),
            vec![0, 0, 0],
        ];
        for extension in malformed {
            assert_eq!(parse_extensions(std::slice::from_ref(&extension)), Parsed::Invalid, "{extension:?}");
        }
        for bytes in [&b"\x15\x03\x01"[..], b"\x16\x03\x01\x00\x01\x02", b"\x00", b"\x80\x2e\x01\x03\x01"] {
            assert_eq!(parse_records(bytes), Parsed::Invalid, "{bytes:?}");
        }
    }

    #[test]
    fn any_flipped_bit_and_any_short_message_is_read_in_bounds() {
        let whole = message(&[alpn(&[b"h2", b"acme-tls/1"]), server_name(b"relay.test")]);
        for at in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            parse_records(&records(&flipped, 16_384));
        }
        for len in 4..whole.len() {
            let cut = [&[1][..], &prefixed(3, &whole[4..len])].concat();
            parse_records(&records(&cut, 16_384));
        }
    }
}
