//! DERP frames out of a byte stream: `type (1) | length (4, big-endian) | payload`.
//!
//! A frame that is complete in the given bytes is passed on without a copy; only a frame that is cut is copied.

use anyhow::{Result, ensure};

pub(crate) const HEADER: usize = 5;
pub(crate) const KEY: usize = 32;
/// The largest payload that a client accepts.
const MAX_PAYLOAD: usize = 1 << 20;

pub(crate) const SERVER_KEY: u8 = 0x01;
pub(crate) const CLIENT_INFO: u8 = 0x02;
pub(crate) const SERVER_INFO: u8 = 0x03;
pub(crate) const SEND_PACKET: u8 = 0x04;
pub(crate) const RECV_PACKET: u8 = 0x05;
pub(crate) const PEER_GONE: u8 = 0x08;
pub(crate) const PING: u8 = 0x12;
pub(crate) const PONG: u8 = 0x13;
pub(crate) const RESTARTING: u8 = 0x15;

/// A frame in the stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) payload: &'a [u8],
}

/// Return the header of a frame with `length` bytes of payload.
pub(crate) const fn header(kind: u8, length: usize) -> [u8; HEADER] {
    let [a, b, c, d] = (length as u32).to_be_bytes();
    [kind, a, b, c, d]
}

/// Splits a stream into frames.
#[derive(Default)]
pub(crate) struct Deframer {
    /// The beginning of an incomplete frame; never a whole frame.
    partial: Vec<u8>,
}

impl Deframer {
    /// Pass every frame that `bytes` completes to `sink`, in order, and keep the rest.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut sink: impl FnMut(Frame<'_>) -> Result<()>,
    ) -> Result<()> {
        while !self.partial.is_empty() && !bytes.is_empty() {
            let wanted = frame_length(&self.partial)?.unwrap_or(HEADER);
            let taken = bytes.len().min(wanted - self.partial.len());
            self.partial.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if frame_length(&self.partial)? == Some(self.partial.len()) {
                sink(whole(&self.partial))?;
                self.partial.clear();
            }
        }
        while let Some(length) = frame_length(bytes)?.filter(|&length| length <= bytes.len()) {
            let (frame, rest) = bytes.split_at(length);
            sink(whole(frame))?;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

/// Return the length of the first frame in `bytes`, header included; `None` while the header is incomplete.
fn frame_length(bytes: &[u8]) -> Result<Option<usize>> {
    let &[_, a, b, c, d, ..] = bytes else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    ensure!(length <= MAX_PAYLOAD, "a frame of {length} bytes, at most {MAX_PAYLOAD}");
    Ok(Some(HEADER + length))
}

fn whole(frame: &[u8]) -> Frame<'_> {
    Frame { kind: frame[0], payload: &frame[HEADER..] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> (Vec<u8>, Vec<(u8, Vec<u8>)>) {
        let frames =
            vec![(5, vec![7; 1344]), (6, vec![]), (6, vec![]), (19, vec![1; 8]), (5, vec![9; 70_000])];
        let bytes = frames.iter().flat_map(|(kind, payload)| {
            let mut frame = header(*kind, payload.len()).to_vec();
            frame.extend(payload);
            frame
        });
        (bytes.collect(), frames)
    }

    #[test]
    fn frames_are_the_same_however_the_stream_is_cut() {
        let (bytes, frames) = stream();
        for step in [1, 2, 3, 4, 5, 6, 7, 1349, 1350, 1354, 16_384, bytes.len()] {
            let mut deframer = Deframer::default();
            let mut seen = Vec::new();
            for piece in bytes.chunks(step) {
                let keep = |frame: Frame<'_>| {
                    seen.push((frame.kind, frame.payload.to_vec()));
                    Ok(())
                };
                deframer.feed(piece, keep).expect("good frames");
            }
            assert_eq!(seen, frames, "in pieces of {step}");
        }
    }

    #[test]
    fn a_header_over_the_limit_of_a_client_is_an_error() {
        let bytes = header(5, MAX_PAYLOAD + 1);
        for step in [1, 5] {
            let mut deframer = Deframer::default();
            assert!(
                bytes.chunks(step).any(|piece| deframer.feed(piece, |_| Ok(())).is_err()),
                "in pieces of {step}"
            );
        }
    }
}
