//! One shard: the connections of one thread, and the tick that moves their bytes.
//!
//! A tick never waits. It runs commands, takes other shards' packets, handles readable and writable connections and
//! expired deadlines, and then writes each receiver's queue in as few writes as possible. The work of a tick is bounded
//! (`turn`); the rest is carried over to the next tick. The shard runs over any [`Net`] with a given time, so tests
//! drive the same code as production.
//!
//! Read in the order of a connection's life: `accept`, `arrive` (PROXY header, client hello), `stage` (before login),
//! `switch` (to the key's shard), `receive` (bytes in), `relay` (what a frame does), `send` (bytes out), `close`.
//! `mesh` handles the region's other nodes, `throttle` the rate limit, `impairment` limited clients, `metrics` the
//! counts of members, `sweep` jobs over all members, `shed` the memory limit; `shared` holds what all shards share.

mod accept;
mod arrive;
#[cfg(any(test, feature = "sim"))]
mod check;
mod close;
pub(crate) mod conn;
pub(crate) mod connections;
mod impairment;
pub(crate) mod mailbox;
mod mesh;
mod metrics;
pub(crate) mod queue;
mod receive;
mod relay;
mod send;
mod shared;
mod shed;
mod stage;
mod sweep;
mod switch;
#[cfg(test)]
mod tests;
mod throttle;
pub(crate) mod timer;
mod turn;

#[cfg(any(test, feature = "sim"))]
pub use check::InvariantCounts;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::RandomState;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::id::{ConnId, Slots};
use crate::io::epoll::{Net, Ready};
use crate::io::listener::{Listener, ListenerId};
use crate::messages::{CloseReason, Command, Event};
use crate::shard::conn::{Conn, Local, NEVER, Stage};
use crate::shard::mailbox::{Batch, Offered};
use crate::shard::queue::Outbox;
use crate::shard::timer::Wheel;
use crate::stats::counter::Counters;
use crate::wire::frame::{self, Gone, Key};

use self::mesh::RemoteSources;
pub use self::shared::Settings;
pub(crate) use self::shared::{ShardHandle, ShardMessage, Shared, sum};
use self::sweep::{Sweep, Task};
use self::throttle::{InForce, Throttled};
use self::turn::Turn;
pub(crate) use self::turn::Waits;
pub use self::turn::Work;

/// Bytes that one ready connection may bring in one tick, for fairness between senders.
const READ_BUDGET: usize = 64 * 1024;
/// Bytes of a body that Python may hold unused. Above this, the connection is not read.
const BODY_CREDIT: usize = 64 * 1024;
/// TLS handshakes that may advance in one tick, so that a flood of handshakes does not delay switched connections.
const HANDSHAKES_A_TICK: usize = 8;
/// Undroppable bytes queued for a blocked connection above which its pings get no answer.
const ANSWER_BACKLOG: usize = 16 * 1024;
/// `Dropped` events for single packets in one tick; the counters count every drop.
const DROP_EVENTS_A_TICK: usize = 64;
/// Empty outboxes kept for the next connections with something to send.
const SPARE_OUTBOXES: usize = 64;

pub(crate) struct Shard<N: Net> {
    index: usize,
    pub(crate) net: N,
    pub(crate) shared: Arc<Shared<N::Stream>>,
    /// Milliseconds since the plane's start, as of this tick.
    now: u64,
    conns: Slots<Box<Conn<N::Stream>>>,
    /// The keys whose connections live here; `None` marks a free slot.
    locals: Vec<Option<Local>>,
    free_locals: Vec<usize>,
    local_by_key: HashMap<Key, usize>,
    listeners: HashMap<ListenerId, Arc<Listener>>,
    /// Milliseconds, as `now`: when listeners that were paused for lack of file descriptors are tried again.
    accept_again_at: u64,
    /// Packets and messages for the other shards, by shard.
    outgoing: Vec<Batch<ShardMessage<N::Stream>>>,
    /// A mailbox was full: senders are not read until it has room.
    congested: bool,
    handshakes_left: usize,
    drop_events: usize,
    /// Hashes senders' keys for the sender counts. Its seed is random, so no client can choose keys that spoil them.
    hasher: RandomState,
    /// Rate limits for reading from clients.
    limits: InForce,
    stopped: bool,
    wheel: Wheel,
    /// The watchers among the connections.
    watchers: Vec<ConnId>,
    /// For each key at another node whose packets came over this shard's connections: the connections that got these
    /// packets.
    remote_sources: RemoteSources,
    /// Jobs over all members, the oldest first.
    sweeps: VecDeque<Sweep>,
    /// Links that have ended, with those of their keys that the table still lists.
    lost_links: VecDeque<(ConnId, std::collections::hash_set::IntoIter<Key>)>,
    /// Connections with more to write than one tick allows.
    unfinished: Vec<ConnId>,
    /// Bytes of memory of all outboxes of this shard, spare ones included. Invariant: the sum over the outboxes.
    queued: usize,
    /// Limit of `queued` in this tick.
    max_queued: usize,
    /// Routes of all senders of this shard. Invariant: the sum over the senders.
    routes: usize,
    /// Limit of `routes` in this tick.
    max_routes: usize,
    /// Connections that wait for the rate limit, the next to resume first.
    throttled: BinaryHeap<Reverse<Throttled>>,
    /// Connections with something queued since their last write, in the order in which they are written.
    dirty: VecDeque<ConnId>,
    /// The bounds of this tick's work, and the work that was put off.
    turn: Turn,
    events: Vec<Event>,
    /// Milliseconds, as `now`: when non-urgent events in `events` are delivered.
    events_due: u64,
    buffers: receive::Buffers,
    /// A buffer for plaintext that comes while `buffers` are lent.
    spare_plain: Vec<u8>,
    seal_buffer: Vec<u8>,
    /// A list that is lent to functions that collect connection ids.
    scratch: Vec<ConnId>,
    #[expect(clippy::vec_box, reason = "a connection holds its outbox by a pointer, which is what is lent")]
    spare_outboxes: Vec<Box<Outbox>>,
    /// Empty buffers, with memory, for connections that hold a part of a frame.
    spare_inputs: Vec<Vec<u8>>,
}

impl<N: Net> Shard<N> {
    pub(crate) fn new(index: usize, net: N, shared: Arc<Shared<N::Stream>>, now: u64) -> Self {
        Self {
            index,
            net,
            now,
            conns: Slots::new(index as u8),
            locals: Vec::new(),
            free_locals: Vec::new(),
            local_by_key: HashMap::new(),
            listeners: HashMap::new(),
            accept_again_at: NEVER,
            outgoing: (0..shared.settings.shards).map(|_| Batch::default()).collect(),
            congested: false,
            handshakes_left: 0,
            drop_events: 0,
            hasher: RandomState::new(),
            limits: InForce::default(),
            stopped: false,
            wheel: Wheel::new(now),
            watchers: Vec::new(),
            remote_sources: RemoteSources::default(),
            sweeps: VecDeque::new(),
            lost_links: VecDeque::new(),
            unfinished: Vec::new(),
            queued: 0,
            max_queued: usize::MAX,
            routes: 0,
            max_routes: usize::MAX,
            throttled: BinaryHeap::new(),
            dirty: VecDeque::new(),
            turn: Turn::default(),
            events: Vec::new(),
            events_due: NEVER,
            buffers: receive::Buffers::new(),
            spare_plain: Vec::new(),
            seal_buffer: vec![0; send::SEAL_BUFFER],
            scratch: Vec::new(),
            spare_outboxes: Vec::new(),
            spare_inputs: Vec::new(),
            shared,
        }
    }

    /// Runs one tick. `now` is in milliseconds and never goes back.
    pub(crate) fn tick(&mut self, now: u64, ready: &[Ready]) {
        self.now = now;
        self.handshakes_left = HANDSHAKES_A_TICK;
        self.drop_events = 0;
        self.begin_turn();
        self.share_room();
        let ticks = &self.handle().ticks;
        ticks.store(ticks.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        for event in ready {
            // Writes come first: a queue whose socket takes bytes again must not drop packets that come in this tick.
            if let Ready::Conn { id, write: true, .. } = *event {
                self.writable(id);
            }
        }
        self.run_commands();
        self.drain_mailboxes();
        for event in ready {
            match *event {
                Ready::Listener(id) => self.accept(id),
                Ready::Conn { id, broken: true, .. } => self.broken(id),
                Ready::Conn { id, read: true, .. } => self.note_ready(id),
                Ready::Conn { id, hangup: true, .. } => self.hang_up(id),
                Ready::Conn { .. } => {}
            }
        }
        self.divide_turn();
        self.visit_ready();
        self.expire();
        self.resume_throttled();
        self.resume_unfinished();
        self.remove_lost_links();
        self.advance_sweep();
        self.depart();
        self.flush_some();
        self.make_room(0);
        self.publish_usage();
        self.publish();
        self.hand_over_events();
    }

    /// Delivers events to Python. Waking Python costs both sides more than most events do. Non-urgent events are held
    /// for up to `event_delay` ms and delivered with the next urgent one.
    fn hand_over_events(&mut self) {
        if self.events.is_empty() {
            self.events_due = NEVER;
            return;
        }
        if self.events.iter().all(Event::can_wait) {
            self.events_due = self.events_due.min(self.now + self.shared.settings.event_delay);
            if self.now < self.events_due {
                return;
            }
        }
        self.events_due = NEVER;
        self.shared.events.append(&mut self.events);
    }

    /// Whether there is new or unfinished work that epoll does not report.
    pub(crate) fn has_mail(&self) -> bool {
        let handle = self.handle();
        !self.unfinished.is_empty()
            || !self.dirty.is_empty()
            || self.turn.is_unfinished(self.congested)
            || !self.sweeps.is_empty()
            || !self.lost_links.is_empty()
            || !handle.commands.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
            || handle.mailboxes.iter().any(|mailbox| !mailbox.is_empty())
            || (self.congested && self.may_publish())
    }

    /// Whether another shard's mailbox has room again for what is queued for it here.
    fn may_publish(&self) -> bool {
        let waits = self.outgoing.iter().zip(&self.shared.handles).filter(|(batch, _)| !batch.is_empty());
        waits.map(|(_, handle)| &handle.mailboxes[self.index]).any(|mailbox| !mailbox.is_full())
    }

    /// Milliseconds that the shard may sleep; `None`: until something is ready.
    pub(crate) fn sleep_ms(&self, now: u64) -> Option<u64> {
        let until = |at: u64| (at != NEVER).then(|| at.saturating_sub(now));
        [
            self.wheel.sleep_ms(now),
            until(self.accept_again_at),
            until(self.events_due),
            self.throttled_ms(now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Whether this shard has to wait for another one to empty a mailbox before it may read on.
    pub(crate) fn is_congested(&self) -> bool {
        self.congested
    }

    /// Whether `Command::Stop` came.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    fn handle(&self) -> &ShardHandle<N::Stream> {
        &self.shared.handles[self.index]
    }

    fn counters(&self) -> &Counters {
        &self.handle().counters
    }

    fn run_commands(&mut self) {
        let commands =
            std::mem::take(&mut *self.handle().commands.lock().unwrap_or_else(PoisonError::into_inner));
        for command in commands {
            match command {
                Command::Listen(id, listener) => self.listen(id, listener),
                Command::Unlisten(id) => self.unlisten(id),
                Command::LimitClients(limits) => self.limit_clients(limits),
                Command::Stop => self.stopped = true,
                // No-op: the command only makes the shard tick.
                Command::Pulse => {}
                Command::Panic => panic!("told to, by a test"),
                Command::Write { conn, bytes, tell_drained } => self.write(conn, &bytes, tell_drained),
                Command::AwaitHead(conn) => self.await_head(conn),
                Command::BeginWebsocket(conn) => self.begin_websocket(conn),
                Command::AwaitFrame(conn, most) => self.await_frame(conn, most),
                Command::AwaitBody(conn, len) => self.await_body(conn, len),
                Command::Stream(conn) => self.stream(conn),
                Command::Consumed(conn, len) => self.consumed(conn, len),
                Command::Skip(conn, len) => self.skip(conn, len),
                Command::Switch { conn, member, first } => self.switch(conn, member, &first),
                Command::Dial { token, socket, remote, session } => self.dial(token, socket, remote, session),
                Command::Link { conn, first } => self.link(conn, &first),
                Command::Close(conn, reason) => self.close(conn, reason),
                Command::Evict(conn) => self.end_evicted(conn),
                Command::ToKey(key, action) => self.act_on_key(&key, &action),
                Command::ToAll { action, spare_mesh_peers } => {
                    self.begin_sweep(Task::MemberAction { action, spare_mesh_peers });
                }
                Command::Report(report) => self.begin_sweep(Task::Report(report)),
            }
        }
    }

    /// Empties the mailboxes. Packets go first, because a message may announce that their sender has left.
    fn drain_mailboxes(&mut self) {
        let mut batch = Batch::default();
        for from in 0..self.shared.handles.len() {
            let sender_waits = self.handle().mailboxes[from].collect(&mut batch);
            if sender_waits {
                self.shared.handles[from].waker.wake();
            }
            for routed in batch.routed_packets() {
                self.receive_for(&routed);
            }
            for message in batch.messages.drain(..) {
                match message {
                    ShardMessage::Adopt(conn, old) => self.adopt(conn, old),
                    ShardMessage::PeerGone { to, key } => self.send_peer_gone(to, &key, Gone::Disconnected),
                    ShardMessage::Changed(key) => self.notify_watchers(&key),
                    ShardMessage::LeftRegion(key) => self.notify_remote_receivers(&key),
                    ShardMessage::ClosePeer(key) => self.close_key(&key),
                    ShardMessage::ToKey(order) => self.act_on_key(&order.0, &order.1),
                }
            }
            batch.clear();
        }
    }

    /// Puts what was gathered for the other shards into their mailboxes.
    fn publish(&mut self) {
        self.congested = false;
        for (to, batch) in self.outgoing.iter_mut().enumerate() {
            if batch.is_empty() {
                continue;
            }
            let handle = &self.shared.handles[to];
            match handle.mailboxes[self.index].offer(batch) {
                Offered::Taken { was_empty: true } => handle.waker.wake(),
                Offered::Taken { was_empty: false } => {}
                Offered::Full => self.congested = true,
            }
        }
    }

    fn expire(&mut self) {
        if self.now >= self.accept_again_at {
            self.accept_again();
        }
        let mut due = std::mem::take(&mut self.scratch);
        self.wheel.advance(self.now, &mut due);
        for id in due.drain(..) {
            self.run_deadlines(id);
        }
        self.scratch = due;
    }

    /// Acts on every passed deadline of the connection whose timer fired, and arms the next timer.
    fn run_deadlines(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if self.now < conn.armed_at {
            // A later timer has replaced this one. Acting on both would keep both armed forever.
            return;
        }
        conn.armed_at = NEVER;
        if let Some(reason) = conn.overdue(self.now) {
            if reason.code == CloseReason::WriteTimeout {
                self.counters().sclient_write_timeouts.add(1);
            }
            self.finish(id, reason);
            return;
        }
        let now = self.now;
        if conn.switched().is_some_and(|switched| now >= switched.keep_alive_at) {
            self.control(id, &frame::header(frame::Type::KeepAlive, 0));
            self.plan_keep_alive(id);
        }
        self.sample_rtt(id);
        self.check_impairments(id);
        self.arm(id);
    }

    fn plan_keep_alive(&mut self, id: ConnId) {
        let settings = &self.shared.settings;
        // Any spread will do. It keeps the node from writing to all of its clients in the same moment.
        let spread = (id.as_u64() ^ self.now).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let at = self.now + settings.keep_alive + spread % (settings.keep_alive_jitter + 1);
        if let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) {
            switched.keep_alive_at = at;
        }
    }

    /// Arms the wheel for the connection's next deadline.
    fn arm(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let at = conn.next_deadline();
        if at != NEVER && self.wheel.due(at) < conn.armed_at {
            conn.armed_at = self.wheel.due(at);
            self.wheel.arm(id, at);
        }
    }

    /// Makes epoll and the wheel agree with what the connection waits for now.
    fn settle(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let wanted = conn.wanted(BODY_CREDIT);
        if wanted != conn.interest {
            conn.interest = wanted;
            // This fails only for a stream that is not watched, and every connection's stream is watched.
            if let Err(error) = self.net.change(&conn.stream, id, wanted) {
                panic!("epoll does not know connection {id:?}: {error}");
            }
        }
        if wanted.read && conn.is_cut {
            self.note_late(id);
        }
        self.arm(id);
    }

    /// Puts a connection into another stage, with a deadline `timeout` milliseconds from now.
    fn enter(&mut self, id: ConnId, stage: Stage, timeout: u64) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.stage = stage;
        conn.deadline = self.now.saturating_add(timeout);
    }
}
