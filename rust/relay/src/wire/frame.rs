//! Frames as bytes: types, headers, limits (`docs/protocol/protocol.md`, Frames). No I/O, no clock.

/// A Curve25519 public key: the address of a client.
pub type Key = [u8; 32];

/// Bytes of a frame's header: type, then the payload's length as a big-endian `u32`.
pub(crate) const HEADER: usize = 5;
/// Maximum bytes of packet data in one frame.
pub(crate) const MAX_PACKET: usize = 65_536;
/// Bytes of a key in a payload.
pub(crate) const KEY: usize = 32;
/// Maximum payload bytes of an unknown frame, which is read and discarded.
pub(crate) const MAX_UNKNOWN: usize = MAX_PACKET + KEY;
/// Maximum payload bytes of a `Ping`; its first eight are echoed.
const MAX_PING: usize = 1_000;
/// Maximum payload bytes of a `PeerPresent` or `PeerGone`: far above the present size of both.
const MAX_ANNOUNCEMENT: usize = 1_024;
/// Maximum payload bytes of any frame that a client accepts from a node.
const MAX_FROM_NODE: usize = 1_048_576;
/// The first bytes of a disco packet: "TS" and U+1F4AC.
const DISCO_MAGIC: &[u8] = "TS\u{1F4AC}".as_bytes();
/// Minimum bytes of a disco packet: magic, sender's key and nonce.
const MIN_DISCO: usize = DISCO_MAGIC.len() + KEY + 24;

/// Frame types that the relay reads or writes itself after login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Type {
    SendPacket = 0x04,
    RecvPacket = 0x05,
    KeepAlive = 0x06,
    NotePreferred = 0x07,
    PeerGone = 0x08,
    PeerPresent = 0x09,
    ForwardPacket = 0x0a,
    WatchConns = 0x10,
    ClosePeer = 0x11,
    Ping = 0x12,
    Pong = 0x13,
}

/// Why a peer is gone: the last byte of `PeerGone`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Gone {
    /// The peer was connected here and has left.
    Disconnected = 0,
    /// The peer is not connected here.
    NotHere = 1,
}

/// Whether a packet is a disco packet: such packets overtake all others.
pub(crate) fn is_disco(packet: &[u8]) -> bool {
    packet.len() >= MIN_DISCO && packet.starts_with(DISCO_MAGIC)
}

/// Whether a whole `PeerPresent` frame marks this node as not ideal for its client.
pub(crate) fn is_not_ideal(presence: &[u8]) -> bool {
    const FLAGS: usize = HEADER + KEY + 16 + 2; // after the address and the port
    const NOT_IDEAL: u8 = 8;
    presence.get(FLAGS).is_some_and(|flags| flags & NOT_IDEAL != 0)
}

/// The five header bytes of a frame.
pub(crate) fn header(kind: Type, payload: usize) -> [u8; HEADER] {
    let len = (payload as u32).to_be_bytes();
    [kind as u8, len[0], len[1], len[2], len[3]]
}

/// Splits a header into the frame's type and its payload's length; `None` while it is not whole.
pub(crate) fn read_header(bytes: &[u8]) -> Option<(u8, usize)> {
    let header: &[u8; HEADER] = bytes.first_chunk()?;
    let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    Some((header[0], len as usize))
}

/// A whole `PeerGone` frame.
pub(crate) fn peer_gone(key: &Key, why: Gone) -> [u8; HEADER + KEY + 1] {
    let mut frame = [0; HEADER + KEY + 1];
    frame[..HEADER].copy_from_slice(&header(Type::PeerGone, KEY + 1));
    frame[HEADER..HEADER + KEY].copy_from_slice(key);
    frame[HEADER + KEY] = why as u8;
    frame
}

/// A parsed frame of a logged-in connection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inbound<'a> {
    /// Relay `packet` to `to`.
    Send { to: &'a Key, packet: &'a [u8] },
    /// From another node of the region: deliver `packet` of `from` to a connection here only.
    Forward { from: &'a Key, to: &'a Key, packet: &'a [u8] },
    /// Whether this is the client's home node.
    Preferred(bool),
    /// Echo these bytes.
    Ping([u8; 8]),
    /// Notify this connection of every client that comes or goes.
    Watch,
    /// Close every connection of this key.
    ClosePeer(&'a Key),
    /// From a node that we dialled: it has a connection of this key.
    Present(&'a Key),
    /// From a node that we dialled: it has no connection of this key.
    Gone(&'a Key),
    /// An unknown type, of the past or of the future: counted, then ignored.
    Unknown,
}

/// The fault of an invalid frame; the sender's connection ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadFrame(pub(crate) String);

impl Type {
    /// The type of a frame that a logged-in client may send.
    const fn from_client(kind: u8) -> Option<Self> {
        Some(match kind {
            0x04 => Self::SendPacket,
            0x07 => Self::NotePreferred,
            0x0a => Self::ForwardPacket,
            0x10 => Self::WatchConns,
            0x11 => Self::ClosePeer,
            0x12 => Self::Ping,
            _ => return None,
        })
    }

    /// The type of a frame that a node sends to one that dialled it.
    const fn from_node(kind: u8) -> Option<Self> {
        Some(match kind {
            0x08 => Self::PeerGone,
            0x09 => Self::PeerPresent,
            0x12 => Self::Ping,
            _ => return None,
        })
    }

    /// Minimum and maximum payload bytes.
    const fn payload(self) -> (usize, usize) {
        match self {
            Self::PeerGone | Self::PeerPresent => (KEY, MAX_ANNOUNCEMENT),
            Self::SendPacket => (KEY, KEY + MAX_PACKET),
            Self::ForwardPacket => (2 * KEY, 2 * KEY + MAX_PACKET),
            Self::NotePreferred => (1, 1),
            Self::ClosePeer => (KEY, KEY),
            Self::Ping => (8, MAX_PING),
            _ => (0, 0),
        }
    }
}

/// Whether only a connection with the mesh key may send this type.
pub(crate) fn needs_mesh(kind: u8) -> bool {
    matches!(Type::from_client(kind), Some(Type::ForwardPacket | Type::WatchConns | Type::ClosePeer))
}

/// The end of a connection that wrote a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writer {
    /// The end that dialled us.
    Client,
    /// A node that we dialled.
    Node,
}

impl Writer {
    const fn type_of(self, kind: u8) -> Option<Type> {
        match self {
            Self::Client => Type::from_client(kind),
            Self::Node => Type::from_node(kind),
        }
    }
}

/// Checks a frame by its header alone, before any payload is stored. This bounds the memory that one peer can use.
///
/// `true`: collect the payload and [`parse`] it. `false`: discard the payload as it comes.
pub(crate) fn admit(writer: Writer, kind: u8, len: usize) -> Result<bool, BadFrame> {
    let known = writer.type_of(kind);
    let most_unknown = if writer == Writer::Client { MAX_UNKNOWN } else { MAX_FROM_NODE };
    let (least, most) = known.map_or((0, most_unknown), Type::payload);
    if (least..=most).contains(&len) {
        return Ok(known.is_some());
    }
    let name = known.map_or_else(|| "unknown".to_owned(), |known| format!("{known:?}"));
    let wanted = if least == most { format!("{least}") } else { format!("{least} to {most}") };
    Err(BadFrame(format!("{name} frame (type {kind:#04x}) of {len} payload bytes, wanted {wanted}")))
}

/// Parses an admitted frame. If the payload does not fit its type, returns [`Inbound::Unknown`].
pub(crate) fn parse(writer: Writer, kind: u8, payload: &[u8]) -> Inbound<'_> {
    writer
        .type_of(kind)
        .and_then(|known| match known {
            Type::SendPacket => payload.split_first_chunk().map(|(to, packet)| Inbound::Send { to, packet }),
            Type::ForwardPacket => payload.split_first_chunk().and_then(|(from, rest)| {
                rest.split_first_chunk().map(|(to, packet)| Inbound::Forward { from, to, packet })
            }),
            Type::NotePreferred => payload.first().map(|preferred| Inbound::Preferred(*preferred != 0)),
            Type::WatchConns => Some(Inbound::Watch),
            Type::PeerPresent => payload.first_chunk().map(Inbound::Present),
            Type::PeerGone => payload.first_chunk().map(Inbound::Gone),
            Type::ClosePeer => payload.first_chunk().map(Inbound::ClosePeer),
            Type::Ping => payload.first_chunk().map(|data| Inbound::Ping(*data)),
            _ => None,
        })
        .unwrap_or(Inbound::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_rejected_by_its_header_alone() {
        assert_eq!(admit(Writer::Client, 0x04, KEY), Ok(true));
        assert_eq!(admit(Writer::Client, 0x04, KEY + MAX_PACKET), Ok(true));
        assert!(admit(Writer::Client, 0x04, KEY - 1).is_err());
        assert_eq!(
            admit(Writer::Client, 0x04, KEY + MAX_PACKET + 1),
            Err(BadFrame("SendPacket frame (type 0x04) of 65569 payload bytes, wanted 32 to 65568".into()))
        );
        assert!(admit(Writer::Client, 0x12, 7).is_err() && admit(Writer::Client, 0x12, 1_001).is_err());
        assert_eq!(admit(Writer::Client, 0x12, 1_000), Ok(true));
        assert_eq!(admit(Writer::Client, 0xff, MAX_UNKNOWN), Ok(false));
        assert!(admit(Writer::Client, 0xff, u32::MAX as usize).is_err());
    }

    #[test]
    fn every_admitted_frame_parses() {
        let payload = vec![7; 2 * KEY + MAX_PACKET];
        for (writer, kind) in (0..=255).flat_map(|kind| [(Writer::Client, kind), (Writer::Node, kind)]) {
            let Some((least, most)) = writer.type_of(kind).map(Type::payload) else { continue };
            for len in [least, most] {
                assert_ne!(
                    parse(writer, kind, &payload[..len]),
                    Inbound::Unknown,
                    "type {kind:#x}, {len} bytes"
                );
            }
        }
    }

    #[test]
    fn disco_needs_its_magic_and_its_length() {
        let mut packet = DISCO_MAGIC.to_vec();
        packet.resize(MIN_DISCO, 0);
        assert!(is_disco(&packet));
        assert!(!is_disco(&packet[..MIN_DISCO - 1]));
        packet[0] ^= 1;
        assert!(!is_disco(&packet));
    }
}
