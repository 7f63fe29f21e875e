//! The outbox of one connection: packets in two bounded queues, and bytes that may not be dropped.
//!
//! Owned by the shard that owns the connection. Nothing here touches a socket; the clock is passed in, as
//! milliseconds. Rules: `docs/protocol/relay.md`, Queues and drops.

use std::collections::VecDeque;
use std::ops::AddAssign;

use crate::wire::frame::{HEADER, KEY};

/// Maximum bytes by which a frame is longer than its packet, whatever the stream's framing.
const FRAMING: usize = 3 * 8 + HEADER + 2 * KEY;

/// One packet frame in a [`PacketQueue`]: its length, its packet's length, and when it was queued.
#[derive(Clone, Copy, Debug)]
struct Entry {
    len: u32,
    packet: u32,
    queued_at: u32,
}

/// Packet frames back to back in one buffer, oldest first; the front can be dropped or written, the back appended.
#[derive(Default, Debug)]
pub(crate) struct PacketQueue {
    /// `bytes[start..]` are the queued frames, whole ones only. Invariant: its length is the sum of `entries`.
    bytes: Vec<u8>,
    start: usize,
    entries: VecDeque<Entry>,
}

/// Frames taken off a queue: their number, their packets' bytes, and the sum of their waiting times.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) waited_ms: u64,
}

impl AddAssign for Taken {
    fn add_assign(&mut self, other: Self) {
        self.frames += other.frames;
        self.bytes += other.bytes;
        self.waited_ms += other.waited_ms;
    }
}

impl PacketQueue {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the queued frames.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends one frame around a packet of `packet` bytes; `write` writes the frame.
    pub(crate) fn push(&mut self, packet: usize, now_ms: u32, write: impl FnOnce(&mut Vec<u8>)) {
        if self.start > 0 && self.start >= self.bytes.len() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let before = self.bytes.len();
        let room = packet + FRAMING;
        if self.bytes.capacity() - before < room {
            // A vector would double its capacity. Unused capacity counts as memory, too.
            self.bytes.reserve_exact(room.max(before / 4));
        }
        write(&mut self.bytes);
        let len = (self.bytes.len() - before) as u32;
        self.entries.push_back(Entry { len, packet: packet as u32, queued_at: now_ms });
    }

    /// Removes the oldest frame. Returns the length of its packet.
    pub(crate) fn drop_oldest(&mut self) -> Option<usize> {
        let entry = self.entries.pop_front()?;
        self.advance(entry.len as usize);
        Some(entry.packet as usize)
    }

    /// The oldest whole frames of at most `limit` bytes together, but at least one frame if there is any.
    pub(crate) fn front(&self, limit: usize) -> &[u8] {
        let mut end = 0;
        for entry in &self.entries {
            let next = end + entry.len as usize;
            if next > limit && end > 0 {
                break;
            }
            end = next;
        }
        &self.bytes[self.start..self.start + end]
    }

    /// Removes the frames that begin within the first `len` bytes, which are committed to the socket.
    ///
    /// If the last of them was committed only in part, its remaining bytes are appended to `rest`: they have to follow.
    pub(crate) fn take(&mut self, len: usize, now_ms: u32, rest: &mut Vec<u8>) -> Taken {
        let mut taken = Taken::default();
        let mut left = len;
        while left > 0 {
            let Some(entry) = self.entries.pop_front() else { break };
            let frame = entry.len as usize;
            if frame > left {
                rest.extend_from_slice(&self.bytes[self.start + left..self.start + frame]);
            }
            left = left.saturating_sub(frame);
            self.advance(frame);
            taken.frames += 1;
            taken.bytes += u64::from(entry.packet);
            taken.waited_ms += u64::from(now_ms.wrapping_sub(entry.queued_at));
        }
        taken
    }

    fn advance(&mut self, len: usize) {
        self.start += len;
        if self.entries.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    fn release_unused(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// Bytes of memory that it holds, used or not.
    fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    #[cfg(any(test, feature = "sim"))]
    fn check(&self) {
        let framed: usize = self.entries.iter().map(|entry| entry.len as usize).sum();
        assert_eq!(self.bytes.len() - self.start, framed, "a queue holds whole frames");
    }
}

/// Everything that waits for one connection's socket, the most urgent first.
#[derive(Default, Debug)]
pub(crate) struct Outbox {
    /// Sealed, or cut off by a short write. These bytes always come next, unchanged.
    pub(crate) committed: Vec<u8>,
    /// Bytes of `committed` that the socket has taken already.
    pub(crate) committed_sent: usize,
    /// Whole frames, or bytes of an HTTP answer; never dropped.
    pub(crate) control: Vec<u8>,
    /// Times that something was added to `control` since the last flush.
    pub(crate) control_frames: u64,
    /// NAT-traversal packets; they overtake `other`.
    pub(crate) disco: PacketQueue,
    /// All other packets.
    pub(crate) other: PacketQueue,
    /// Bytes that this outbox adds to its shard's sum of memory.
    counted: usize,
}

/// Bytes of memory above which an empty outbox is not kept for the next user.
const KEEP_CAPACITY: usize = 128 * 1024;

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.committed.is_empty() && self.control.is_empty() && self.disco.is_empty() && self.other.is_empty()
    }

    /// The queue of disco packets if `disco`, else the queue of all other packets.
    pub(crate) fn queue(&self, disco: bool) -> &PacketQueue {
        if disco { &self.disco } else { &self.other }
    }

    /// The same queue, mutable.
    pub(crate) fn queue_mut(&mut self, disco: bool) -> &mut PacketQueue {
        if disco { &mut self.disco } else { &mut self.other }
    }

    /// Bytes of queued packet frames.
    pub(crate) fn packet_bytes(&self) -> usize {
        self.disco.bytes() + self.other.bytes()
    }

    /// Frees the memory that it does not use.
    pub(crate) fn release_unused(&mut self) {
        self.disco.release_unused();
        self.other.release_unused();
        self.committed.drain(..self.committed_sent);
        self.committed_sent = 0;
        self.committed.shrink_to_fit();
        self.control.shrink_to_fit();
    }

    /// Bytes of memory that it holds, used or not.
    pub(crate) fn memory(&self) -> usize {
        size_of::<Self>()
            + self.committed.capacity()
            + self.control.capacity()
            + self.disco.memory()
            + self.other.memory()
    }

    /// Updates `sum`, the memory of all outboxes of a shard, with the present memory of this one.
    pub(crate) fn recount(&mut self, sum: &mut usize) {
        let memory = self.memory();
        *sum = *sum - self.counted + memory;
        self.counted = memory;
    }

    /// Subtracts this outbox from its shard's sum.
    pub(crate) fn uncount(&mut self, sum: &mut usize) {
        *sum -= std::mem::take(&mut self.counted);
    }

    /// Bytes that wait and can never be dropped.
    pub(crate) fn undroppable(&self) -> usize {
        self.committed.len() - self.committed_sent + self.control.len()
    }

    /// Notes that the socket took `len` more bytes of `committed`.
    pub(crate) fn sent(&mut self, len: usize) {
        self.committed_sent += len;
        if self.committed_sent == self.committed.len() {
            self.committed.clear();
            self.committed_sent = 0;
        }
    }

    /// Whether its buffers are small enough to keep for the next connection with something to send.
    pub(crate) fn is_worth_keeping(&self) -> bool {
        self.is_empty() && self.memory() <= KEEP_CAPACITY
    }

    /// Asserts the invariants.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn check(&self) {
        self.disco.check();
        self.other.check();
        assert_eq!(self.counted, self.memory(), "the memory of an outbox is counted");
        let all_sent = self.committed_sent == self.committed.len();
        assert!(!all_sent || self.committed.is_empty(), "bytes that were sent are kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Queues a frame; its packet is the frame without the first byte.
    fn push(queue: &mut PacketQueue, frame: &[u8], now_ms: u32) {
        queue.push(frame.len() - 1, now_ms, |bytes| bytes.extend_from_slice(frame));
    }

    fn queue(frames: &[&[u8]]) -> PacketQueue {
        let mut queue = PacketQueue::default();
        for frame in frames {
            push(&mut queue, frame, 0);
        }
        queue
    }

    #[test]
    fn the_front_is_whole_frames_and_at_least_one() {
        let queue = queue(&[b"aaaa", b"bb", b"c"]);
        assert_eq!(queue.front(1), b"aaaa");
        assert_eq!(queue.front(5), b"aaaa");
        assert_eq!(queue.front(6), b"aaaabb");
        assert_eq!(queue.front(100), b"aaaabbc");
    }

    #[test]
    fn a_frame_cut_by_a_short_write_leaves_its_rest_to_follow() {
        let mut queue = queue(&[b"aaaa", b"bbbb", b"c"]);
        let mut rest = Vec::new();
        let taken = queue.take(6, 0, &mut rest);
        assert_eq!((taken.frames, taken.bytes), (2, 6));
        assert_eq!(rest, b"bb");
        assert_eq!(queue.front(100), b"c");
    }

    #[test]
    fn the_oldest_frame_is_dropped_and_the_rest_keeps_its_order() {
        let mut queue = queue(&[b"aaaa", b"bb", b"c"]);
        assert_eq!(queue.drop_oldest(), Some(3));
        push(&mut queue, b"def", 0);
        assert_eq!(queue.front(100), b"bbcdef");
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn a_queue_that_is_always_full_does_not_grow() {
        let mut queue = queue(&[[0; 1000].as_slice(); 32]);
        let mut most = 0;
        for _ in 0..10_000 {
            queue.drop_oldest();
            push(&mut queue, &[0; 1000], 0);
            most = most.max(queue.bytes.capacity());
        }
        assert!(most <= 256 * 1024, "{most} bytes for 32 kB of frames");
    }

    #[test]
    fn waiting_is_summed_over_a_wrapping_clock() {
        let mut queue = PacketQueue::default();
        push(&mut queue, b"abc", u32::MAX - 4);
        let taken = queue.take(3, 5, &mut Vec::new());
        assert_eq!(taken, Taken { frames: 1, bytes: 2, waited_ms: 10 });
    }
}
