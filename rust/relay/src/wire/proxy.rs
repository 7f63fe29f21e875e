//! The PROXY protocol, versions 1 and 2: a proxy in front of the relay states the client's address.
//!
//! The crate `ppp` parses the headers. This module bounds their length and interprets the addresses.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

use crate::shard::conn::Ends;

/// Maximum bytes of a version 2 header. Addresses take 36; the other contents are not used.
pub(crate) const LONGEST: usize = 4_096;
/// Maximum bytes of a version 1 header, as specified.
const LONGEST_LINE: usize = 107;
const LINE_START: &[u8] = b"PROXY ";
const LINE_END: &[u8] = b"\r\n";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Version 2, command LOCAL: the connection is the proxy's own.
const LOCAL: u8 = 0x20;

/// A network of addresses, as `192.0.2.0/24`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// Any of its addresses.
    pub ip: IpAddr,
    /// Length of the common prefix in bits.
    pub bits: u32,
}

impl Network {
    /// Whether an address, which must not be IPv4-mapped, is in the network.
    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        match (self.ip, ip) {
            (IpAddr::V4(ours), IpAddr::V4(ip)) => {
                (u32::from(ours) ^ u32::from(ip)).checked_shr(32_u32.saturating_sub(self.bits)) == Some(0)
                    || self.bits == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(ip)) => {
                (u128::from(ours) ^ u128::from(ip)).checked_shr(128_u32.saturating_sub(self.bits)) == Some(0)
                    || self.bits == 0
            }
            _ => false,
        }
    }
}

/// The result of parsing the first bytes from a proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Header {
    /// A header that is not whole yet.
    Part,
    /// A header of this length; no ends if the connection is the proxy's own, or the proxy does not know them.
    Whole(usize, Option<Ends>),
    /// No valid header.
    Wrong(String),
}

/// Whether bytes begin a header; `None`: too few bytes to decide.
pub(crate) fn begins(bytes: &[u8]) -> Option<bool> {
    let starts = [LINE_START, v2::PROTOCOL_PREFIX];
    if starts.iter().any(|start| bytes.starts_with(start)) {
        return Some(true);
    }
    if starts.iter().any(|start| start.starts_with(bytes)) { None } else { Some(false) }
}

/// Parses the first bytes of a connection from a proxy.
pub(crate) fn read(bytes: &[u8]) -> Header {
    match begins(bytes) {
        None => Header::Part,
        Some(false) => Header::Wrong("its first bytes are no PROXY header".to_owned()),
        Some(true) if bytes.starts_with(LINE_START) => line(bytes),
        Some(true) => binary(bytes),
    }
}

fn line(bytes: &[u8]) -> Header {
    let searched = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = searched.windows(LINE_END.len()).position(|window| window == LINE_END) else {
        if searched.len() < LONGEST_LINE {
            return Header::Part;
        }
        return Header::Wrong(format!("a PROXY header of more than {LONGEST_LINE} bytes"));
    };
    let len = end + LINE_END.len();
    match v1::Header::try_from(&bytes[..len]) {
        Ok(header) => Header::Whole(
            len,
            match header.addresses {
                v1::Addresses::Tcp4(ends) => Some(ends_of(
                    (ends.source_address.into(), ends.source_port),
                    (ends.destination_address.into(), ends.destination_port),
                )),
                v1::Addresses::Tcp6(ends) => Some(ends_of(
                    (ends.source_address.into(), ends.source_port),
                    (ends.destination_address.into(), ends.destination_port),
                )),
                v1::Addresses::Unknown => None,
            },
        ),
        Err(error) => Header::Wrong(error.to_string()),
    }
}

fn binary(bytes: &[u8]) -> Header {
    let Some(fixed) = bytes.get(..FIXED) else { return Header::Part };
    let len = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > LONGEST {
        return Header::Wrong(format!("a PROXY header of {len} bytes, at most {LONGEST}"));
    }
    let Some(header) = bytes.get(..len) else { return Header::Part };
    if fixed[12] == LOCAL {
        // The rest of the header is ignored.
        return Header::Whole(len, None);
    }
    match v2::Header::try_from(header) {
        Ok(header) => Header::Whole(
            len,
            match (header.protocol, header.addresses) {
                (v2::Protocol::Stream, v2::Addresses::IPv4(ends)) => Some(ends_of(
                    (ends.source_address.into(), ends.source_port),
                    (ends.destination_address.into(), ends.destination_port),
                )),
                (v2::Protocol::Stream, v2::Addresses::IPv6(ends)) => Some(ends_of(
                    (ends.source_address.into(), ends.source_port),
                    (ends.destination_address.into(), ends.destination_port),
                )),
                _ => None,
            },
        ),
        Err(error) => Header::Wrong(error.to_string()),
    }
}

fn ends_of(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Ends {
    let canonical = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
    Ends { remote: canonical(source), local: canonical(destination) }
}

#[cfg(test)]
mod tests {
    use super::{Header, LONGEST, Network, begins, read};
    use crate::shard::conn::Ends;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn ends(remote: &str, local: &str) -> Option<Ends> {
        let address = |text: &str| text.parse().expect("an address");
        Some(Ends { remote: address(remote), local: address(local) })
    }

    fn binary(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
        let len = u16::try_from(content.len()).expect("a length").to_be_bytes();
        [SIGNATURE, &[command, family], &len, content].concat()
    }

    fn v4() -> Vec<u8> {
        [&[192, 0, 2, 1, 198, 51, 100, 2][..], &4711_u16.to_be_bytes(), &443_u16.to_be_bytes()].concat()
    }

    fn v6() -> Vec<u8> {
        let ip = |text: &str| text.parse::<std::net::Ipv6Addr>().expect("an address").octets();
        let ports = [4711_u16.to_be_bytes(), 443_u16.to_be_bytes()].concat();
        [&ip("2001:db8::1")[..], &ip("2001:db8::2"), &ports].concat()
    }

    /// Valid headers with their addresses.
    fn headers() -> Vec<(Vec<u8>, Option<Ends>)> {
        let (over4, over6) =
            (ends("192.0.2.1:4711", "198.51.100.2:443"), ends("[2001:db8::1]:4711", "[2001:db8::2]:443"));
        vec![
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n".to_vec(), over4),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n".to_vec(), over6),
            (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 4711 443\r\n".to_vec(), over4),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(), None),
            (binary(0x21, 0x11, &v4()), over4),
            (binary(0x21, 0x21, &v6()), over6),
            (binary(0x21, 0x11, &[&v4()[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat()), over4),
            // The proxy's own connection, UDP, a Unix socket, or unknown addresses.
            (binary(0x20, 0x00, &[]), None),
            (binary(0x20, 0x21, &[]), None),
            (binary(0x20, 0x11, &v4()), None),
            (binary(0x21, 0x00, &[1, 2, 3]), None),
            (binary(0x21, 0x12, &v4()), None),
            (binary(0x21, 0x31, &[7; 216]), None),
        ]
    }

    #[test]
    fn a_header_is_parsed_whole_with_any_bytes_after_it() {
        for (header, said) in headers() {
            for len in 0..header.len() {
                assert_eq!(read(&header[..len]), Header::Part, "{len} bytes of {header:?}");
            }
            for behind in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"\n"] {
                assert_eq!(read(&[&header[..], behind].concat()), Header::Whole(header.len(), said));
            }
        }
    }

    #[test]
    fn an_invalid_header_is_rejected_as_early_as_possible() {
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
        let wrong: [&[u8]; 12] = [
            b"G",
            b"PROXx",
            b"\x16",
            b"\r\n\r\n\0\r\nQUIt",
            b"PROXY TCP5 192.0.2.1 198.51.100.2 4711 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.2 4711 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 65536\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443 more\r\n",
            b"PROXY \r\n",
            &long,
        ];
        for bytes in wrong {
            assert!(matches!(read(bytes), Header::Wrong(_)), "{bytes:?} is {:?}", read(bytes));
        }
        let version_3 = binary(0x31, 0x11, &v4());
        let short = binary(0x21, 0x21, &v4());
        let huge = [SIGNATURE, &[0x21, 0x11], &0xffff_u16.to_be_bytes()].concat();
        for bytes in [version_3, short, huge] {
            assert!(matches!(read(&bytes), Header::Wrong(_)), "{bytes:?}");
        }
    }

    #[test]
    fn the_length_of_a_header_is_bounded() {
        let padded = |len: usize| binary(0x21, 0x11, &[v4(), vec![4; len - 16 - 12]].concat());
        assert_eq!(
            read(&padded(LONGEST)),
            Header::Whole(LONGEST, ends("192.0.2.1:4711", "198.51.100.2:443"))
        );
        assert!(matches!(read(&padded(LONGEST + 1)), Header::Wrong(_)));
    }

    #[test]
    fn no_flipped_bit_makes_a_header_longer_than_its_input_or_its_bound() {
        for (header, _) in headers() {
            let bytes = [&header[..], &[b'x'; 300]].concat();
            for at in 0..header.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[at / 8] ^= 1 << (at % 8);
                if let Header::Whole(len, _) = read(&flipped) {
                    assert!(len <= flipped.len().min(LONGEST), "bit {at} of {header:?}");
                }
            }
        }
    }

    #[test]
    fn a_header_is_recognized_by_its_first_bytes() {
        assert_eq!(begins(b"PROXY TCP4"), Some(true));
        assert_eq!(begins(SIGNATURE), Some(true));
        assert_eq!(begins(b"PROX"), None);
        assert_eq!(begins(b"\r\n\r\n"), None);
        for other in [&b"PROPFIND / HTTP/1.1"[..], b"PROXYS", b"\r\n\r\n\r\n", b"\x16\x03\x01"] {
            assert_eq!(begins(other), Some(false), "{other:?}");
        }
    }

    #[test]
    fn a_network_has_the_addresses_of_its_prefix() {
        let contains = |network: &str, ip: &str| {
            let (base, bits) = network.split_once('/').expect("a network");
            let network =
                Network { ip: base.parse().expect("an address"), bits: bits.parse().expect("a number") };
            network.contains(ip.parse().expect("an address"))
        };
        assert!(contains("192.0.2.0/24", "192.0.2.255") && !contains("192.0.2.0/24", "192.0.3.0"));
        assert!(contains("192.0.2.1/32", "192.0.2.1") && !contains("192.0.2.1/32", "192.0.2.0"));
        assert!(contains("0.0.0.0/0", "255.255.255.255") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("2001:db8::/32", "2001:db8:ffff::1") && !contains("2001:db8::/32", "2001:db9::"));
        assert!(contains("::/0", "ffff::") && !contains("::/0", "192.0.2.1"));
        assert!(contains("::1/128", "::1") && !contains("::1/128", "::"));
    }
}
