//! The contents of a test packet, and their check.
//!
//! A packet looks like a WireGuard data message (type 4, receiver index, counter), so a server treats it as real
//! traffic. Then come the time of sending and noise that depends on stream and counter. A packet that was cut, mixed
//! up with another or delivered to the wrong client fails the check. No I/O, no clock.

use anyhow::{Result, ensure};

/// Type, stream, counter and time of sending: no packet is shorter.
pub(crate) const HEADER: usize = 24;
/// The longest packet of DERP.
pub(crate) const MAX: usize = 65_536;

const DATA_MESSAGE: u32 = 4;
/// The number of offsets in the noise at which a body can start. Stream and counter choose one.
const STARTS: usize = 4096;

/// Makes and checks the packets of all streams. One for the whole program, because the noise is large.
pub(crate) struct Filler {
    noise: Vec<u8>,
}

/// The header of a packet that passed the check.
pub(crate) struct Seen {
    pub(crate) counter: u64,
    pub(crate) sent_at: u64,
}

impl Filler {
    /// Make the noise for packets of `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        // xorshift64: the noise must not compress or repeat.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        Self { noise: noise.flatten().take(STARTS + size).collect() }
    }

    /// Fill `packet` with number `counter` of `stream`.
    pub(crate) fn fill(&self, packet: &mut [u8], stream: u32, counter: u64, sent_at: u64) {
        let (header, body) = packet.split_at_mut(HEADER);
        header[..4].copy_from_slice(&DATA_MESSAGE.to_le_bytes());
        header[4..8].copy_from_slice(&stream.to_le_bytes());
        header[8..16].copy_from_slice(&counter.to_le_bytes());
        header[16..24].copy_from_slice(&sent_at.to_le_bytes());
        let length = body.len();
        body.copy_from_slice(self.body(stream, counter, length));
    }

    /// Check that `packet` is, byte for byte, one that `fill` made for `stream` with `size` bytes.
    pub(crate) fn check(&self, packet: &[u8], stream: u32, size: usize) -> Result<Seen> {
        ensure!(packet.len() == size, "a packet of {} bytes, sent with {size}", packet.len());
        let (header, body) = packet.split_at(HEADER);
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        ensure!(word(0) == DATA_MESSAGE, "a packet of message type {:#x}", word(0));
        ensure!(
            word(4) == stream,
            "a packet of stream {} arrived at the receiver of stream {stream}",
            word(4)
        );
        let counter = long(8);
        ensure!(
            body == self.body(stream, counter, body.len()),
            "packet {counter} of stream {stream} was changed"
        );
        Ok(Seen { counter, sent_at: long(16) })
    }

    fn body(&self, stream: u32, counter: u64, length: usize) -> &[u8] {
        let mixed = (counter ^ u64::from(stream) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let start = (mixed >> (u64::BITS - STARTS.ilog2())) as usize;
        &self.noise[start..start + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(filler: &Filler, stream: u32, counter: u64) -> Vec<u8> {
        let mut packet = vec![0; 1312];
        filler.fill(&mut packet, stream, counter, 77);
        packet
    }

    #[test]
    fn a_packet_passes_its_own_check() {
        let filler = Filler::new(1312);
        let seen = filler.check(&packet(&filler, 3, 1 << 40), 3, 1312).expect("unchanged");
        assert_eq!((seen.counter, seen.sent_at), (1 << 40, 77));
    }

    #[test]
    fn any_changed_byte_except_the_time_fails_the_check() {
        let filler = Filler::new(1312);
        let good = packet(&filler, 3, 5);
        for at in (0..16).chain(24..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(filler.check(&bad, 3, 1312).is_err(), "byte {at}");
        }
    }

    #[test]
    fn neighbouring_packets_have_different_bodies() {
        let filler = Filler::new(1312);
        assert_ne!(packet(&filler, 3, 5)[HEADER..], packet(&filler, 3, 6)[HEADER..]);
        assert_ne!(packet(&filler, 3, 5)[HEADER..], packet(&filler, 4, 5)[HEADER..]);
    }

    #[test]
    fn a_cut_packet_fails_the_check() {
        let filler = Filler::new(1312);
        assert!(filler.check(&packet(&filler, 3, 5)[..1311], 3, 1312).is_err());
        assert!(filler.check(&[], 3, 1312).is_err());
    }
}
