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
use crate::messages::{Command, Event};
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

/// Bytes that one ready connection may bring in one tick: the fairness between senders.
const READ_BUDGET: usize = 64 * 1024;
/// Bytes handed to Python and not used yet, beyond which no more of a body is read.
const BODY_CREDIT: usize = 64 * 1024;
/// TLS handshakes that are taken a step further in one tick: a flood of them may not hold up those who are in.
const HANDSHAKES_A_TICK: usize = 8;
/// Bytes that wait for a blocked connection beyond which its pings are no longer answered.
const ANSWER_BACKLOG: usize = 16 * 1024;
/// Drops told of one by one in one tick: somebody looks for them, nobody reads them all.
const DROPS_TOLD_A_TICK: usize = 64;
/// Empty outboxes kept for the next connection that has something to send.
const SPARE_OUTBOXES: usize = 64;

pub(crate) struct Shard<N: Net> {
    index: usize,
    pub(crate) net: N,
    pub(crate) shared: Arc<Shared<N::Stream>>,
    /// Milliseconds since the plane's start, as of this tick.
    now: u64,
    conns: Slots<Box<Conn<N::Stream>>>,
    /// The keys whose connections live here; `None` marks a place that is free.
    locals: Vec<Option<Local>>,
    free_locals: Vec<usize>,
    local_by_key: HashMap<Key, usize>,
    listeners: HashMap<ListenerId, Arc<Listener>>,
    /// When listeners that were let be for want of descriptors are tried again.
    accept_again_at: u64,
    /// What waits for the other shards, by shard.
    outgoing: Vec<Batch<ShardMessage<N::Stream>>>,
    /// A mailbox was full: nothing is read from senders until it is not.
    congested: bool,
    handshakes_left: usize,
    drops_told: usize,
    /// Hashes senders' keys where they are counted, so that nobody can choose keys that spoil the estimate.
    hasher: RandomState,
    /// How much may be read from clients.
    limits: InForce,
    stopped: bool,
    wheel: Wheel,
    /// The watchers among the connections.
    watchers: Vec<ConnId>,
    /// Whom packets of keys at other nodes were sent to, as far as they came in over this shard's connections.
    remote_sources: RemoteSources,
    /// What is being done to all members, the oldest first.
    sweeps: VecDeque<Sweep>,
    /// Links that have ended, and those of their keys that the table has still to hear of.
    lost_links: VecDeque<(ConnId, std::collections::hash_set::IntoIter<Key>)>,
    /// Connections with more to write than one tick allows.
    unfinished: Vec<ConnId>,
    /// Bytes of memory of all outboxes here, spare ones included. Invariant: the sum of them.
    queued: usize,
    /// How many there may be in this tick.
    most_queued: usize,
    /// Routes of all senders here. Invariant: the sum of them.
    routes: usize,
    /// How many there may be in this tick.
    most_routes: usize,
    /// Connections that wait for the rate limit, the next to go on first.
    throttled: BinaryHeap<Reverse<Throttled>>,
    /// Connections for which something was queued since they were written to, the first to be written to first.
    dirty: VecDeque<ConnId>,
    /// What a tick may do, and what was put off.
    turn: Turn,
    events: Vec<Event>,
    /// When those have waited long enough.
    events_due: u64,
    buffers: receive::Buffers,
    /// For plaintext that comes while those are lent.
    spare_plain: Vec<u8>,
    seal_buffer: Vec<u8>,
    /// Lent to whoever needs to collect names for a moment.
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
            drops_told: 0,
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
            most_queued: usize::MAX,
            routes: 0,
            most_routes: usize::MAX,
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

    /// Does everything that can be done now. `now` is in milliseconds and never goes back.
    pub(crate) fn tick(&mut self, now: u64, ready: &[Ready]) {
        self.now = now;
        self.handshakes_left = HANDSHAKES_A_TICK;
        self.drops_told = 0;
        self.begin_turn();
        self.share_room();
        let ticks = &self.handle().ticks;
        ticks.store(ticks.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        for event in ready {
            // First of all: a queue whose socket takes bytes again must not drop any for what comes now.
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
        self.forget_lost_links();
        self.advance_sweep();
        self.depart();
        self.flush_some();
        self.make_room(0);
        self.tell_held();
        self.publish();
        self.hand_over_events();
    }

    /// Wakes Python, which costs both sides more than most events do: those that nobody waits for stay for a moment,
    /// and come with the next one that somebody does.
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

    /// Whether something came since the last tick that no descriptor tells of.
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

    /// Whether another shard has made room for what waits here for it.
    fn may_publish(&self) -> bool {
        let waits = self.outgoing.iter().zip(&self.shared.handles).filter(|(batch, _)| !batch.is_empty());
        waits.map(|(_, handle)| &handle.mailboxes[self.index]).any(|mailbox| !mailbox.is_full())
    }

    /// How long the shard may sleep, in milliseconds; `None`: until something is ready.
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

    /// Whether another shard has to look into its mailbox before this one may read on.
    pub(crate) fn is_congested(&self) -> bool {
        self.congested
    }

    /// Whether the shard was told to stop.
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
                // To tick was all that was wanted.
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

    /// Empties the mailboxes: packets first, because a message may say that their sender has left.
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
                    ShardMessage::PeerGone { to, key } => self.tell_gone(to, &key, Gone::Disconnected),
                    ShardMessage::Changed(key) => self.tell_watchers(&key),
                    ShardMessage::LeftRegion(key) => self.tell_of_remote(&key),
                    ShardMessage::ClosePeer(key) => self.close_key(&key),
                    ShardMessage::ToKey(order) => self.act_on_key(&order.0, &order.1),
                }
            }
            batch.clear();
        }
    }

    /// Leaves what was gathered for the other shards in their mailboxes.
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
            self.look_at_clock(id);
        }
        self.scratch = due;
    }

    /// A hint came up: acts on every deadline of the connection that has passed, and asks for the next hint.
    fn look_at_clock(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if self.now < conn.armed_at {
            // A later hint has taken this one's place; acting on both would keep both alive for ever.
            return;
        }
        conn.armed_at = NEVER;
        if let Some(reason) = conn.overdue(self.now) {
            if reason.code == "write_timeout" {
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
        // Any spread will do: the clients of one node must not all be written to in the same moment.
        let spread = (id.as_u64() ^ self.now).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let at = self.now + settings.keep_alive + spread % (settings.keep_alive_jitter + 1);
        if let Some(switched) = self.conns.get_mut(id).and_then(|conn| conn.switched_mut()) {
            switched.keep_alive_at = at;
        }
    }

    /// Makes sure that the wheel has a hint for the connection's next deadline.
    fn arm(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let at = conn.next_deadline();
        if at != NEVER && self.wheel.due(at) < conn.armed_at {
            conn.armed_at = self.wheel.due(at);
            self.wheel.arm(id, at);
        }
    }

    /// Makes epoll and the wheel agree with what the connection now waits for.
    fn settle(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let wanted = conn.wanted(BODY_CREDIT);
        if wanted != conn.interest {
            conn.interest = wanted;
            // Only a stream that is not watched makes this fail, and every connection's is.
            if let Err(error) = self.net.change(&conn.stream, id, wanted) {
                panic!("epoll does not know connection {id:?}: {error}");
            }
        }
        if wanted.read && conn.is_cut {
            self.note_late(id);
        }
        self.arm(id);
    }

    /// Puts a connection into another stage, with a deadline from now on.
    fn enter(&mut self, id: ConnId, stage: Stage, timeout: u64) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.stage = stage;
        conn.deadline = self.now.saturating_add(timeout);
    }
}
