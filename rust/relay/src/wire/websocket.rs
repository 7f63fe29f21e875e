//! WebSocket as a framing of a byte stream (RFC 6455; `docs/protocol/protocol.md`, WebSocket). No I/O, no clock.
//!
//! DERP's frames ignore message boundaries, so no message is assembled here: payload is unmasked as it comes.

/// Maximum bytes of one message: far above the largest DERP frame; bounds endless messages.
const MAX_MESSAGE: u64 = 1024 * 1024;
/// Maximum bytes of a message to a client: the limit of the library that Go clients use.
const MAX_SENT: usize = 32_768;
/// Maximum payload bytes of a control frame (RFC 6455, 5.5).
const MAX_CONTROL: u64 = 125;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// The status of a normal end.
pub(crate) const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;
const MESSAGE_TOO_BIG: u16 = 1009;

/// A protocol violation by the peer, and the status of the close frame for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) status: u16,
    pub(crate) what: String,
}

fn violation<T>(status: u16, what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { status, what: what.into() })
}

/// Whether the stream continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    Open,
    /// The peer sent a close frame, and got one.
    Closed,
}

/// A frame whose payload is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    is_final: bool,
    opcode: u8,
    /// The mask, rotated so that its first byte is for the next payload byte.
    mask: [u8; 4],
    /// Payload bytes still to come.
    left: u64,
}

/// Decodes a client's bytes.
#[derive(Default, Debug)]
pub(crate) struct Decoder {
    /// The part of a header that has come.
    header: Vec<u8>,
    frame: Option<Frame>,
    /// The received part of a control frame's payload.
    control: Vec<u8>,
    /// Bytes of the unfinished message, with the rest of its present frame.
    message: Option<u64>,
}

impl Decoder {
    /// Decodes `bytes`: the payload of messages goes to `data`, answers to control frames go to `answers`.
    pub(crate) fn decode(
        &mut self,
        mut bytes: &[u8],
        data: &mut Vec<u8>,
        answers: &mut Vec<u8>,
    ) -> Result<Flow, Violation> {
        loop {
            let Some(frame) = &mut self.frame else {
                let Some((next, rest)) = bytes.split_first() else { return Ok(Flow::Open) };
                bytes = rest;
                self.header.push(*next);
                if let Some(frame) = read_header(&self.header)? {
                    self.header = Vec::new();
                    self.begin(frame)?;
                }
                continue;
            };
            let len = bytes.len().min(usize::try_from(frame.left).unwrap_or(usize::MAX));
            let (payload, rest) = bytes.split_at(len);
            bytes = rest;
            frame.unmask(payload, if frame.opcode < CLOSE { data } else { &mut self.control });
            if frame.left > 0 {
                return Ok(Flow::Open);
            }
            if self.end(answers) == Flow::Closed {
                return Ok(Flow::Closed);
            }
        }
    }

    fn begin(&mut self, frame: Frame) -> Result<(), Violation> {
        match (frame.opcode, self.message) {
            (CLOSE | PING | PONG, _) => {
                if !frame.is_final || frame.left > MAX_CONTROL {
                    return violation(
                        PROTOCOL_ERROR,
                        "a control frame that is fragmented or longer than 125 bytes",
                    );
                }
            }
            (BINARY, None) => self.message = Some(0),
            (CONTINUATION, Some(_)) => {}
            (TEXT, None) => return violation(UNSUPPORTED_DATA, "a text message; DERP's are binary"),
            (opcode, _) => {
                return violation(PROTOCOL_ERROR, format!("a frame with opcode {opcode:#x} out of place"));
            }
        }
        if let (BINARY | CONTINUATION, Some(len)) = (frame.opcode, &mut self.message) {
            *len = len.saturating_add(frame.left);
            if *len > MAX_MESSAGE {
                return violation(
                    MESSAGE_TOO_BIG,
                    format!("a message of {len} bytes, at most {MAX_MESSAGE}"),
                );
            }
        }
        self.frame = Some(frame);
        Ok(())
    }

    fn end(&mut self, answers: &mut Vec<u8>) -> Flow {
        let Some(frame) = self.frame.take() else { return Flow::Open };
        let control = std::mem::take(&mut self.control);
        match frame.opcode {
            CLOSE => {
                append(answers, CLOSE, &control);
                return Flow::Closed;
            }
            PING => append(answers, PONG, &control),
            PONG => {}
            _ if frame.is_final => self.message = None,
            _ => {}
        }
        Flow::Open
    }
}

impl Frame {
    fn unmask(&mut self, payload: &[u8], into: &mut Vec<u8>) {
        let start = into.len();
        into.extend_from_slice(payload);
        let mask = u32::from_ne_bytes(self.mask);
        let mut words = into[start..].chunks_exact_mut(4);
        for word in &mut words {
            let bytes: [u8; 4] = [word[0], word[1], word[2], word[3]];
            word.copy_from_slice(&(u32::from_ne_bytes(bytes) ^ mask).to_ne_bytes());
        }
        for (byte, mask) in words.into_remainder().iter_mut().zip(self.mask) {
            *byte ^= mask;
        }
        self.mask.rotate_left(payload.len() % 4);
        self.left -= payload.len() as u64;
    }
}

/// Parses a header; `None` while it is not whole.
fn read_header(bytes: &[u8]) -> Result<Option<Frame>, Violation> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if first & RESERVED != 0 {
        return violation(PROTOCOL_ERROR, "a frame with reserved bits, and no extension was agreed on");
    }
    if second & MASKED == 0 {
        return violation(PROTOCOL_ERROR, "a frame without a mask from a client");
    }
    let length = match second & !MASKED {
        126 => rest.split_first_chunk().map(|(len, mask)| (u64::from(u16::from_be_bytes(*len)), mask)),
        127 => rest.split_first_chunk().map(|(len, mask)| (u64::from_be_bytes(*len), mask)),
        short => Some((u64::from(short), rest)),
    };
    let frame = length.and_then(|(left, mask)| {
        let mask = *mask.first_chunk()?;
        Some(Frame { is_final: first & FINAL != 0, opcode: first & OPCODE, mask, left })
    });
    Ok(frame)
}

/// Appends an unmasked final frame.
fn append(to: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    append_header(to, opcode, payload.len());
    to.extend_from_slice(payload);
}

/// Appends a close frame.
pub(crate) fn append_close(to: &mut Vec<u8>, status: u16) {
    append(to, CLOSE, &status.to_be_bytes());
}

/// Appends DERP bytes, given in pieces, as binary messages.
pub(crate) fn append_messages(to: &mut Vec<u8>, pieces: &[&[u8]]) {
    let mut left: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut room = 0;
    for mut piece in pieces.iter().copied() {
        while !piece.is_empty() {
            if room == 0 {
                room = left.min(MAX_SENT);
                append_header(to, BINARY, room);
            }
            let (now, later) = piece.split_at(piece.len().min(room));
            to.extend_from_slice(now);
            (left, room, piece) = (left - now.len(), room - now.len(), later);
        }
    }
}

/// Appends the header of an unmasked final frame.
fn append_header(to: &mut Vec<u8>, opcode: u8, payload: usize) {
    to.push(FINAL | opcode);
    match (u8::try_from(payload), u16::try_from(payload)) {
        (Ok(len @ 0..=125), _) => to.push(len),
        (_, Ok(len)) => {
            to.push(126);
            to.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            to.push(127);
            to.extend_from_slice(&(payload as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        append_header(&mut frame, 0, payload.len());
        frame[0] = first;
        frame[1] |= MASKED;
        frame.extend_from_slice(&MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn decode(sent: &[u8], step: usize) -> (Result<Flow, Violation>, Vec<u8>, Vec<u8>) {
        let (mut decoder, mut data, mut answers) = (Decoder::default(), Vec::new(), Vec::new());
        let mut flow = Ok(Flow::Open);
        for piece in sent.chunks(step) {
            flow = decoder.decode(piece, &mut data, &mut answers);
            if flow != Ok(Flow::Open) {
                break;
            }
        }
        (flow, data, answers)
    }

    #[test]
    fn messages_are_one_stream_however_they_are_cut() {
        let long: Vec<u8> = (0..70_000).map(|n| n as u8).collect();
        let mut sent = masked(0x02, b"abc");
        sent.extend(masked(0x89, b"hello"));
        sent.extend(masked(0x00, b""));
        sent.extend(masked(0x80, b"defgh"));
        sent.extend(masked(0x82, &long));
        for step in [1, 2, 3, 7, 1_000, sent.len()] {
            let (flow, data, answers) = decode(&sent, step);
            assert_eq!(flow, Ok(Flow::Open));
            assert_eq!(&data[..8], b"abcdefgh");
            assert_eq!(data[8..], long, "cut every {step} bytes");
            assert_eq!(answers, b"\x8a\x05hello");
        }
    }

    #[test]
    fn a_long_frame_is_cut_into_messages_that_every_client_accepts() {
        let mut sent = Vec::new();
        append_messages(&mut sent, &[b"head", &[7; 40_000]]);
        assert_eq!(sent[..8], [0x82, 126, 0x80, 0x00, b'h', b'e', b'a', b'd']);
        assert_eq!(sent[4 + MAX_SENT..][..4], [0x82, 126, 0x1c, 0x44]);
        assert_eq!(sent.len(), 40_004 + 8);
    }

    #[test]
    fn a_close_frame_is_answered_and_ends_the_stream() {
        let mut sent = masked(0x88, b"\x03\xe8bye");
        sent.extend(masked(0x82, b"too late"));
        let (flow, data, answers) = decode(&sent, 3);
        assert_eq!((flow, data.len()), (Ok(Flow::Closed), 0));
        assert_eq!(answers, b"\x88\x05\x03\xe8bye");
    }

    #[test]
    fn a_violation_is_closed_with_its_status() {
        let mut unmasked = masked(0x82, b"x");
        unmasked[1] &= !MASKED;
        let huge = [&[0x82, 0xff][..], &(1_u64 << 63).to_be_bytes(), &MASK].concat();
        let endless = masked(0x02, &vec![0; MAX_MESSAGE as usize / 2 + 1]);
        let endless = [endless, masked(0x00, &vec![0; MAX_MESSAGE as usize / 2])].concat();
        for (sent, status) in [
            (masked(0x81, b"text"), UNSUPPORTED_DATA),
            (masked(0xc2, b"reserved bit"), PROTOCOL_ERROR),
            (masked(0x83, b"opcode 3"), PROTOCOL_ERROR),
            (masked(0x80, b"continues nothing"), PROTOCOL_ERROR),
            ([masked(0x02, b"a"), masked(0x82, b"b")].concat(), PROTOCOL_ERROR),
            (masked(0x09, b"fragmented ping"), PROTOCOL_ERROR),
            (masked(0x89, &[0; 126]), PROTOCOL_ERROR),
            (unmasked, PROTOCOL_ERROR),
            (huge, MESSAGE_TOO_BIG),
            (endless, MESSAGE_TOO_BIG),
        ] {
            for step in [1, sent.len()] {
                let (flow, ..) = decode(&sent, step);
                assert_eq!(flow.map_err(|violation| violation.status), Err(status), "{:x?}", &sent[..2]);
            }
        }
    }
}
