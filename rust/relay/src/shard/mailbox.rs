//! The queue from one shard to another: packets for its connections, and messages.
//!
//! There is one mailbox for each pair of shards. It never drops. A sender whose mailbox is full keeps its batch, and
//! stops reading from its own clients until the receiver has collected. The lock is held to swap or append two buffers.

#[cfg(not(loom))]
use std::sync::Mutex;
use std::sync::PoisonError;

#[cfg(loom)]
use loom::sync::Mutex;

use crate::id::ConnId;
use crate::wire::frame::Key;

/// Bytes at which a mailbox is full, in production.
pub const MAILBOX: usize = 1024 * 1024;

/// Packets and messages; each kind is in the order in which it was posted.
#[derive(Debug)]
pub(crate) struct Batch<E> {
    /// [`RoutedPacket`]s back to back: destination (8 bytes), its key, source key, length (4 bytes), packet.
    bytes: Vec<u8>,
    pub(crate) messages: Vec<E>,
}

impl<E> Default for Batch<E> {
    fn default() -> Self {
        Self { bytes: Vec::new(), messages: Vec::new() }
    }
}

/// One packet on its way to another shard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RoutedPacket<'a> {
    pub(crate) to: ConnId,
    /// The destination key. If `to` is a link to another node, this is not the connection's own key.
    pub(crate) key: &'a Key,
    pub(crate) from: &'a Key,
    pub(crate) packet: &'a [u8],
}

impl<E> Batch<E> {
    pub(crate) fn post(&mut self, routed: &RoutedPacket<'_>) {
        self.bytes.extend_from_slice(&routed.to.as_u64().to_ne_bytes());
        self.bytes.extend_from_slice(routed.key);
        self.bytes.extend_from_slice(routed.from);
        self.bytes.extend_from_slice(&(routed.packet.len() as u32).to_ne_bytes());
        self.bytes.extend_from_slice(routed.packet);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.messages.is_empty()
    }

    pub(crate) fn routed_packets(&self) -> RoutedPackets<'_> {
        RoutedPackets(&self.bytes)
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.messages.clear();
    }

    fn append(&mut self, other: &mut Self) {
        self.bytes.append(&mut other.bytes);
        self.messages.append(&mut other.messages);
    }
}

/// The packets of a batch, in order.
pub(crate) struct RoutedPackets<'a>(&'a [u8]);

impl<'a> Iterator for RoutedPackets<'a> {
    type Item = RoutedPacket<'a>;

    fn next(&mut self) -> Option<RoutedPacket<'a>> {
        let (to, rest) = self.0.split_first_chunk()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (from, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let (packet, rest) = rest.split_at_checked(u32::from_ne_bytes(*len) as usize)?;
        self.0 = rest;
        Some(RoutedPacket { to: ConnId::from_u64(u64::from_ne_bytes(*to)), key, from, packet })
    }
}

/// A place where one shard leaves batches for another.
#[derive(Debug)]
pub(crate) struct Mailbox<E> {
    inside: Mutex<Batch<E>>,
    /// Bytes at which it is full; one batch may exceed it.
    full: usize,
}

/// The result of [`Mailbox::offer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Offered {
    /// Taken. The receiver has to be woken if the mailbox was empty before.
    Taken {
        /// Whether the mailbox was empty before.
        was_empty: bool,
    },
    /// Rejected: the mailbox is full.
    Full,
}

impl<E> Mailbox<E> {
    pub(crate) fn new(full: usize) -> Self {
        Self { inside: Mutex::default(), full }
    }

    /// Whether a batch alone would fill it.
    pub(crate) fn is_filled_by(&self, batch: &Batch<E>) -> bool {
        batch.bytes.len() >= self.full
    }

    /// Leaves `batch` here, unless the mailbox is full. A batch that was taken is empty afterwards.
    pub(crate) fn offer(&self, batch: &mut Batch<E>) -> Offered {
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        if inside.is_empty() {
            std::mem::swap(&mut *inside, batch);
            return Offered::Taken { was_empty: true };
        }
        if self.is_filled_by(&inside) {
            return Offered::Full;
        }
        inside.append(batch);
        Offered::Taken { was_empty: false }
    }

    /// Whether there is nothing to collect.
    pub(crate) fn is_empty(&self) -> bool {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether it rejects batches now.
    pub(crate) fn is_full(&self) -> bool {
        self.is_filled_by(&self.inside.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the content, and leaves `empty` for the next batch. Returns `true` if the sender may have had to wait.
    pub(crate) fn collect(&self, empty: &mut Batch<E>) -> bool {
        debug_assert!(empty.is_empty(), "the batch left behind holds parcels");
        std::mem::swap(&mut *self.inside.lock().unwrap_or_else(PoisonError::into_inner), empty);
        self.is_filled_by(empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = [9; 32];

    fn batch(packets: &[&[u8]]) -> Batch<()> {
        let mut batch = Batch::default();
        for packet in packets {
            batch.post(&RoutedPacket { to: ConnId::from_u64(3), key: &[8; 32], from: &KEY, packet });
        }
        batch
    }

    fn packets(batch: &Batch<()>) -> Vec<&[u8]> {
        batch.routed_packets().map(|routed| routed.packet).collect()
    }

    #[test]
    fn packets_come_out_whole_and_in_order() {
        let mailbox = Mailbox::new(MAILBOX);
        assert_eq!(mailbox.offer(&mut batch(&[b"a", b""])), Offered::Taken { was_empty: true });
        assert_eq!(mailbox.offer(&mut batch(&[b"ccc"])), Offered::Taken { was_empty: false });
        let mut out = Batch::default();
        assert!(!mailbox.collect(&mut out));
        assert_eq!(packets(&out), [&b"a"[..], b"", b"ccc"]);
    }

    #[test]
    fn a_full_mailbox_rejects_a_batch_and_reports_that_to_its_reader() {
        let mailbox = Mailbox::new(MAILBOX);
        mailbox.offer(&mut batch(&[&[0; MAILBOX]]));
        let mut more = batch(&[b"later"]);
        assert_eq!(mailbox.offer(&mut more), Offered::Full);
        assert_eq!(packets(&more), [&b"later"[..]]);
        assert!(mailbox.collect(&mut Batch::default()));
        assert_eq!(mailbox.offer(&mut more), Offered::Taken { was_empty: true });
    }
}
