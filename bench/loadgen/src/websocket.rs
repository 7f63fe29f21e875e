//! The client's side of WebSocket (RFC 6455), as far as a load needs it: one binary message a frame. No I/O.

use anyhow::{Result, ensure};

/// FIN and the opcode of a binary message.
const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
/// Any mask other than zero costs the server the same.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x17, 0xe9];

/// Return the length of the header before a message of `length` bytes.
pub(crate) const fn prefix(length: usize) -> usize {
    match length {
        0..=125 => 6,
        126..=65_535 => 8,
        _ => 14,
    }
}

/// Make `message` a WebSocket message: fill in its header of `prefix(length)` bytes and mask the rest.
pub(crate) fn frame(message: &mut [u8], length: usize) {
    let (header, payload) = message.split_at_mut(message.len() - length);
    header[0] = BINARY;
    match header.len() {
        6 => header[1] = MASKED | length as u8,
        8 => {
            header[1] = MASKED | 126;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            header[1] = MASKED | 127;
            header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
        }
    }
    let key = header.len() - MASK.len();
    header[key..].copy_from_slice(&MASK);
    let mut words = payload.chunks_exact_mut(MASK.len());
    for word in &mut words {
        for (byte, mask) in word.iter_mut().zip(MASK) {
            *byte ^= mask;
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(MASK) {
        *byte ^= mask;
    }
}

/// Removes the headers of a server's messages.
#[derive(Default)]
pub(crate) struct Decoder {
    header: Vec<u8>,
    /// Payload bytes of the current message that have not come yet.
    left: usize,
}

impl Decoder {
    /// Pass the payload in `bytes` to `sink`, in order.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.header.push(bytes[0]);
                bytes = &bytes[1..];
                if let Some(length) = payload_length(&self.header)? {
                    self.left = length;
                    self.header.clear();
                }
                continue;
            }
            let (payload, rest) = bytes.split_at(self.left.min(bytes.len()));
            self.left -= payload.len();
            bytes = rest;
            sink(payload)?;
        }
        Ok(())
    }
}

/// Return the payload length in a header; `None` while the header is incomplete.
fn payload_length(header: &[u8]) -> Result<Option<usize>> {
    ensure!(matches!(header[0], BINARY | 0x02 | 0x00 | 0x80), "a WebSocket frame of type {:#x}", header[0]);
    Ok(match header {
        [_, length @ 0..=125] => Some(usize::from(*length)),
        [_, 126, a, b] => Some(usize::from(u16::from_be_bytes([*a, *b]))),
        [_, 127, 0, 0, 0, 0, rest @ ..] if rest.len() == 4 => {
            Some(rest.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
        }
        [_, length, ..] if length & MASKED != 0 => anyhow::bail!("a masked frame from a server"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_framed_message_unmasks_to_its_payload() {
        for length in [0, 1, 5, 125, 126, 1349, 65_535, 65_536] {
            let mut message = vec![7; prefix(length) + length];
            frame(&mut message, length);
            let (header, payload) = message.split_at(prefix(length));
            assert_eq!(header[..1], [BINARY]);
            assert!(payload.iter().zip(MASK.iter().cycle()).all(|(byte, mask)| byte ^ mask == 7));
        }
    }

    #[test]
    fn a_servers_messages_are_read_however_they_are_cut() {
        let mut stream = vec![BINARY, 3, 1, 2, 3, BINARY, 0, BINARY, 126, 1, 0];
        stream.extend([9; 256]);
        stream.extend([BINARY, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        stream.extend([4; 65_536]);
        for step in [1, 2, 7, stream.len()] {
            let (mut decoder, mut seen) = (Decoder::default(), Vec::new());
            for piece in stream.chunks(step) {
                let keep = |payload: &[u8]| {
                    seen.extend_from_slice(payload);
                    Ok(())
                };
                decoder.feed(piece, keep).expect("good messages");
            }
            assert_eq!(seen.len(), 3 + 256 + 65_536);
            assert_eq!(seen[..3], [1, 2, 3]);
        }
    }
}
