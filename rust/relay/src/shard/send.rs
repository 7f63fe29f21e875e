//! Bytes out: queues, sealing, and one write for everything that a receiver got in a tick.

use std::io::IoSlice;

use crate::id::ConnId;
use crate::io::epoll::{Net, Stream};
use crate::messages::{CloseReason, Event, Reason};
use crate::shard::conn::{Conn, Stage, Transport};
use crate::shard::mailbox::RoutedPacket;
use crate::shard::queue::{Outbox, Taken};
use crate::stats::counter::DropReason;
use crate::tls::session::{HANDSHAKE_ROOM, TlsError, sealed_len};
use crate::wire::frame::{self, HEADER, KEY, Type};
use crate::wire::websocket;

use super::receive::is_transient;
use super::{ANSWER_BACKLOG, SPARE_OUTBOXES, Shard};

/// Plaintext bytes of one write. It fits everything that one read of a sender brings, and a packet whose beginning came
/// with the read before. A receiver that stops reading holds at most this much that can be neither dropped nor
/// overtaken.
const BATCH: usize = super::READ_BUDGET + 16 * 1024;
/// Plaintext bytes of one write while the outboxes use much of their memory limit.
const SMALL_BATCH: usize = 16 * 1024;
/// The largest frame, by which a write may exceed [`BATCH`]; with WebSocket, it is three messages.
const BIGGEST_FRAME: usize = 3 * 4 + HEADER + 2 * KEY + frame::MAX_PACKET;
/// Size of the buffer for sealed records: a batch of each queue, after a handshake message.
pub(super) const SEAL_BUFFER: usize = sealed_len(BATCH + BIGGEST_FRAME) + 4 * HANDSHAKE_ROOM;

/// Limits of each queue of a link to another node, in packets and bytes. A link carries the packets of many clients.
pub(super) const LINK_DEPTH: usize = 4_096;
const LINK_BYTES: usize = 4 * 1024 * 1024;

/// The result of a write.
enum Written {
    /// The socket took everything.
    All,
    /// The socket is full.
    Blocked,
}

impl<N: Net> Shard<N> {
    /// Queues a packet for a connection of this shard. If the queue is full and the socket takes no more bytes, the
    /// oldest packet is dropped.
    pub(super) fn enqueue(&mut self, routed: &RoutedPacket<'_>) {
        let &RoutedPacket { to, key, from, packet } = routed;
        let disco = frame::is_disco(packet);
        let depth = self.shared.settings.queue_depth;
        let is_full = |conn: &Conn<N::Stream>| {
            let queue = conn.outbox.as_ref().map(|outbox| outbox.queue(disco));
            queue.is_some_and(|queue| match conn.stage {
                Stage::Linked(_) => queue.len() >= LINK_DEPTH || queue.bytes() >= LINK_BYTES,
                _ => queue.len() >= depth,
            })
        };
        self.make_room(HEADER + 2 * KEY + packet.len());
        if self.conns.get(to).is_some_and(|conn| is_full(conn) && !conn.blocked) {
            self.flush(to);
        }
        // A packet from another shard may come for a connection that has closed since, or is closing.
        let Some(conn) = self.conns.get_mut(to).filter(|conn| !conn.is_closing()) else {
            self.count_drop(DropReason::GoneDisconnected, key, disco, packet.len());
            return;
        };
        let mut evicted = Vec::new();
        while conn.blocked && is_full(conn) {
            let oldest = conn.outbox.as_mut().and_then(|outbox| outbox.queue_mut(disco).drop_oldest());
            let Some(len) = oldest else { break };
            evicted.push(len);
        }
        let is_link = matches!(conn.stage, Stage::Linked(_));
        let is_websocket = conn.websocket.is_some();
        let spares = &mut self.spare_outboxes;
        let outbox = conn.outbox.get_or_insert_with(|| spares.pop().unwrap_or_default());
        let queue = outbox.queue_mut(disco);
        let now = self.now as u32;
        if is_link {
            let header = frame::header(Type::ForwardPacket, 2 * KEY + packet.len());
            queue.push(packet.len(), now, |bytes| append(bytes, is_websocket, &[&header, from, key, packet]));
        } else {
            let header = frame::header(Type::RecvPacket, KEY + packet.len());
            queue.push(packet.len(), now, |bytes| append(bytes, is_websocket, &[&header, from, packet]));
        }
        outbox.recount(&mut self.queued);
        if is_link {
            self.counters().packets_forwarded_out.add(1);
        }
        for len in evicted {
            self.count_drop(DropReason::QueueHead, key, disco, len);
        }
        self.mark_dirty(to);
    }

    /// Queues bytes that are never dropped. Returns `false` if the connection is gone or is closing.
    pub(super) fn control(&mut self, id: ConnId, bytes: &[u8]) -> bool {
        let is_websocket = self.conns.get(id).is_some_and(|conn| conn.websocket.is_some());
        self.queue_control(id, |control| append(control, is_websocket, &[bytes]))
    }

    /// Queues bytes that are never dropped and are WebSocket frames already. Returns `false` like
    /// [`control`](Self::control).
    pub(super) fn raw(&mut self, id: ConnId, bytes: &[u8]) -> bool {
        self.queue_control(id, |control| control.extend_from_slice(bytes))
    }

    fn queue_control(&mut self, id: ConnId, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(conn) = self.conns.get_mut(id) else { return false };
        if conn.is_closing() {
            return false;
        }
        let spares = &mut self.spare_outboxes;
        let outbox = conn.outbox.get_or_insert_with(|| spares.pop().unwrap_or_default());
        write(&mut outbox.control);
        outbox.control_frames += 1;
        outbox.recount(&mut self.queued);
        self.mark_dirty(id);
        true
    }

    /// Whether a blocked connection has more than `ANSWER_BACKLOG` bytes queued, so that its pings are ignored.
    pub(super) fn is_behind(&self, id: ConnId) -> bool {
        self.backlog(id) > ANSWER_BACKLOG && self.conns.get(id).is_some_and(|conn| conn.blocked)
    }

    /// Bytes queued for a connection that can never be dropped.
    pub(super) fn backlog(&self, id: ConnId) -> usize {
        self.conns.get(id).and_then(|conn| conn.outbox.as_ref()).map_or(0, |outbox| outbox.undroppable())
    }

    /// Queues bytes that are not sealed any more: handshake messages and alerts.
    pub(super) fn commit(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let spares = &mut self.spare_outboxes;
        let outbox = conn.outbox.get_or_insert_with(|| spares.pop().unwrap_or_default());
        outbox.committed.extend_from_slice(bytes);
        outbox.recount(&mut self.queued);
        self.mark_dirty(id);
    }

    /// Queues bytes from Python.
    pub(super) fn write(&mut self, id: ConnId, bytes: &[u8], tell_drained: bool) {
        if self.control(id, bytes)
            && let Some(conn) = self.conns.get_mut(id)
        {
            conn.tell_drained |= tell_drained;
        }
    }

    pub(super) fn mark_dirty(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if !conn.dirty {
            conn.dirty = true;
            self.dirty.push_back(id);
        }
    }

    /// Writes queued bytes at the end of a tick, within the tick's bound on writes.
    pub(super) fn flush_some(&mut self) {
        while !self.turn.are_writes_over() && self.flush_next() {}
    }

    /// Writes everything that was queued, as far as the sockets take it.
    pub(super) fn flush_dirty(&mut self) {
        // A connection that ends here may notify others, and those become dirty.
        while self.flush_next() {}
    }

    fn flush_next(&mut self) -> bool {
        let Some(id) = self.dirty.pop_front() else { return false };
        if let Some(conn) = self.conns.get_mut(id) {
            conn.dirty = false;
            self.flush(id);
        }
        true
    }

    /// The socket takes bytes again. The outbox is written at the end of the tick, or as soon as one of its queues is
    /// full.
    pub(super) fn writable(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id).filter(|conn| conn.blocked) else { return };
        conn.blocked = false;
        self.mark_dirty(id);
    }

    /// The socket takes bytes again.
    pub(super) fn unblock(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.blocked = false;
        self.flush(id);
        self.settle(id);
    }

    /// Writes the queued bytes of a connection until none is left or the socket is full.
    pub(super) fn flush(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.blocked {
            return;
        }
        let Some(mut outbox) = conn.outbox.take() else { return };
        let mut taken = Taken::default();
        let waited = outbox.packet_bytes();
        let answers = std::mem::take(&mut outbox.control_frames);
        // If memory is short, batches are small: sealed bytes that the socket does not take cannot be dropped any more.
        let batch = if self.queued > self.max_queued / 4 { SMALL_BATCH } else { BATCH };
        let written = conn.write_out(&mut outbox, batch, &mut self.seal_buffer, self.now as u32, &mut taken);
        outbox.recount(&mut self.queued);
        self.turn.spend_on_write(waited - outbox.packet_bytes());
        let mut received = Taken::default();
        let mut frames = 0;
        if let Some(switched) = conn.switched_mut() {
            received = taken;
            frames = taken.frames + answers;
            switched.totals.packets_out += taken.frames;
            switched.totals.bytes_out += taken.bytes;
        }
        match written {
            Ok(Written::Blocked) => {
                conn.blocked = true;
                conn.progress_at = self.now;
                conn.outbox = Some(outbox);
                self.settle(id);
            }
            Ok(Written::All) => {
                if outbox.is_worth_keeping()
                    && self.spare_outboxes.len() < SPARE_OUTBOXES
                    && self.queued <= self.max_queued / 2
                {
                    self.spare_outboxes.push(outbox);
                } else {
                    outbox.uncount(&mut self.queued);
                }
                if std::mem::take(&mut conn.tell_drained) {
                    self.events.push(Event::Drained { conn: id });
                }
                if conn.interest.write {
                    self.settle(id);
                }
                self.close_if_written(id);
                self.feed_watcher(id);
            }
            Err(reason) => {
                conn.outbox = Some(outbox);
                self.finish(id, reason);
            }
        }
        let counters = self.counters();
        counters.packets_sent.add(received.frames);
        counters.bytes_sent.add(received.bytes);
        counters.queue_duration.add(taken.frames, taken.waited_ms);
        if frames > 0 {
            counters.histograms.buffered_write_frames.observe(frames);
        }
    }
}

/// Appends DERP bytes in the stream's framing.
fn append(to: &mut Vec<u8>, is_websocket: bool, pieces: &[&[u8]]) {
    if is_websocket {
        websocket::append_messages(to, pieces);
    } else {
        pieces.iter().for_each(|piece| to.extend_from_slice(piece));
    }
}

impl<S: Stream> Conn<S> {
    /// Writes the outbox. Packets that left are added to `taken`.
    fn write_out(
        &mut self,
        outbox: &mut Outbox,
        batch: usize,
        buffer: &mut [u8],
        now: u32,
        taken: &mut Taken,
    ) -> Result<Written, Reason> {
        loop {
            if !outbox.committed.is_empty() {
                let Some(len) = self.offer(&[IoSlice::new(&outbox.committed[outbox.committed_sent..])])?
                else {
                    return Ok(Written::Blocked);
                };
                outbox.sent(len);
                if !outbox.committed.is_empty() {
                    return Ok(Written::Blocked);
                }
            }
            if outbox.is_empty() {
                return Ok(Written::All);
            }
            let all = match &mut self.transport {
                Transport::Plain => self.write_plain(outbox, batch, now, taken)?,
                Transport::Tls(session) => {
                    let sealed =
                        outbox.seal(batch, buffer, now, taken, |plain, out| session.seal(plain, out));
                    let len =
                        sealed.map_err(|error| Reason::with(CloseReason::TlsError, error.to_string()))?;
                    let sent = self.offer(&[IoSlice::new(&buffer[..len])])?.unwrap_or(0);
                    outbox.committed.extend_from_slice(&buffer[sent..len]);
                    sent == len
                }
            };
            if !all {
                return Ok(Written::Blocked);
            }
        }
    }

    /// Writes queued frames without TLS. Returns whether the socket took everything that it was offered.
    fn write_plain(
        &mut self,
        outbox: &mut Outbox,
        batch: usize,
        now: u32,
        taken: &mut Taken,
    ) -> Result<bool, Reason> {
        let (disco, other) = (outbox.disco.front(batch), outbox.other.front(batch));
        let slices = [IoSlice::new(&outbox.control), IoSlice::new(disco), IoSlice::new(other)];
        let (disco_len, offered) = (disco.len(), outbox.control.len() + disco.len() + other.len());
        let sent = match slices {
            [control, disco, other] if control.is_empty() && disco.is_empty() => self.offer(&[other])?,
            all => self.offer(&all)?,
        }
        .unwrap_or(0);
        let control = sent.min(outbox.control.len());
        outbox.control.drain(..control);
        let from_disco = (sent - control).min(disco_len);
        *taken += outbox.disco.take(from_disco, now, &mut outbox.committed);
        *taken += outbox.other.take(sent - control - from_disco, now, &mut outbox.committed);
        Ok(sent == offered)
    }

    /// Offers bytes to the socket. Returns the number that it took; `None` if it is full.
    fn offer(&mut self, slices: &[IoSlice<'_>]) -> Result<Option<usize>, Reason> {
        match self.stream.write(slices) {
            Ok(len) => {
                self.wire.sent += len as u64;
                Ok(Some(len))
            }
            Err(error) if is_transient(&error) => Ok(None),
            Err(error) => Err(Reason::with(CloseReason::Reset, error.to_string())),
        }
    }
}

impl Outbox {
    /// Seals one batch: undroppable bytes, then disco packets, then the rest. Returns the length of the records in
    /// `buffer`.
    fn seal(
        &mut self,
        batch: usize,
        buffer: &mut [u8],
        now: u32,
        taken: &mut Taken,
        mut seal: impl FnMut(&[u8], &mut [u8]) -> Result<usize, TlsError>,
    ) -> Result<usize, TlsError> {
        let mut len = 0;
        let control = self.control.len().min(batch);
        if control > 0 {
            len += seal(&self.control[..control], buffer)?;
            self.control.drain(..control);
        }
        let mut room = batch - control;
        for queue in [&mut self.disco, &mut self.other] {
            // A queue's first frame is taken regardless of its length, so there must be some room left.
            if room == 0 || queue.is_empty() {
                continue;
            }
            let plain = queue.front(room);
            let plain_len = plain.len();
            len += seal(plain, &mut buffer[len..])?;
            room = room.saturating_sub(plain_len);
            *taken += queue.take(plain_len, now, &mut self.committed);
        }
        Ok(len)
    }
}
