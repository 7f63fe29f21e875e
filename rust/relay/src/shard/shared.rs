//! What the shards of a process share: settings, the switchboard, and the handles of all shards.
//!
//! Everything here may be used from any thread; a shard's own state is in [`Shard`](super::Shard).

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::ConnId;
use crate::io::waker::Waker;
use crate::limits::connection_limiter::ConnectionLimiter;
use crate::messages::{Command, EventQueue, MemberAction};
use crate::shard::conn::Conn;
use crate::shard::mailbox::Mailbox;
use crate::stats::counter::{Counters, Drops};
use crate::switchboard::table::Switchboard;
use crate::tls::certificates::CertificateStore;
use crate::wire::frame::Key;

use super::impairment::Notices;
use super::turn::Work;

/// Sizes and times that hold for the whole plane (`docs/protocol/relay.md`, Timeouts). Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number of shards.
    pub shards: usize,
    /// Packets that each of a connection's two queues holds.
    pub queue_depth: usize,
    /// Bytes of memory for everything that waits for sockets, approximately; the largest queues are shed first.
    pub max_queued_bytes: usize,
    /// Routes of all senders together, approximately; the senders with the most routes drop theirs first.
    pub max_routes: usize,
    /// Bytes at which a mailbox between two shards is full, [`MAILBOX`](crate::MAILBOX); one batch may exceed it.
    pub mailbox: usize,
    /// Maximum bytes of a request head.
    pub max_head: usize,
    /// Milliseconds from accepting a connection, or from its last answer, to a whole request head.
    pub setup_timeout: u64,
    /// Milliseconds for one frame of the login.
    pub login_timeout: u64,
    /// Milliseconds that a client's write may make no progress; 0: no limit.
    pub write_timeout: u64,
    /// Milliseconds that a mesh peer's write may make no progress; 0: no limit.
    pub mesh_write_timeout: u64,
    /// Milliseconds that the write of a link to a dialled node may make no progress; 0: no limit.
    pub link_write_timeout: u64,
    /// Destinations for which an event reports each dropped packet.
    pub verbose_drops: HashSet<Key>,
    /// The key of this node. A watcher with it is the node itself, which has dialled its own address.
    pub server_key: Key,
    /// Maximum keys that one link may announce; the rest is ignored and counted.
    pub mesh_max_keys: usize,
    /// Whether to count the keys that send to each key.
    pub count_senders: bool,
    /// Minimum milliseconds between two `KeepAlive` frames to one connection.
    pub keep_alive: u64,
    /// Maximum random milliseconds added to `keep_alive`, drawn anew each time.
    pub keep_alive_jitter: u64,
    /// Milliseconds that a link to another node may be silent; its keep-alives come more often.
    pub link_silence: u64,
    /// Maximum connections that have not logged in; above it, the longest-silent ones are closed.
    pub max_before_login: usize,
    /// Milliseconds between two samples of a connection's round-trip time; 0: no samples.
    pub rtt_interval: u64,
    /// Records that one TLS 1.3 key seals before a key update; never above the cipher's limit.
    pub records_per_key: u64,
    /// Milliseconds that non-urgent events may be held.
    pub event_delay: u64,
    /// New keys in a row that get the same shard before the next shard gets its turn, regardless of affinity and load.
    /// 0: placement by affinity and load. For measuring what crossing shards costs.
    pub keys_a_turn: usize,
    /// Work that one tick may do.
    pub work: Work,
}

/// A request from one shard to another.
pub(crate) enum ShardMessage<S> {
    /// Take over this connection, whose id was the given one: its key lives on the receiving shard.
    Adopt(Box<Conn<S>>, ConnId),
    /// Send `PeerGone` for a key to a connection of the receiving shard.
    PeerGone { to: ConnId, key: Key },
    /// Notify the receiving shard's watchers that a key has come or gone.
    Changed(Key),
    /// A key has left the region: notify the connections that got its packets from a link of the receiving shard.
    LeftRegion(Key),
    /// Close every connection of a key of the receiving shard.
    ClosePeer(Key),
    /// Apply this to every connection of a key of the receiving shard.
    ToKey(Box<(Key, MemberAction)>),
}

/// The part of a shard that other shards and Python use.
pub(crate) struct ShardHandle<S> {
    /// One mailbox for each sending shard.
    pub(crate) mailboxes: Vec<Mailbox<ShardMessage<S>>>,
    pub(crate) commands: Mutex<Vec<Command>>,
    pub(crate) waker: Waker,
    pub(crate) counters: Counters,
    /// Ticks so far.
    pub(crate) ticks: AtomicU64,
    /// The share of recent time in which this shard was busy, in thousandths.
    pub(crate) load: AtomicU32,
    /// Bytes of memory of its connections' outboxes, as of its last tick.
    pub(crate) queued: AtomicUsize,
    /// Routes of its senders, as of its last tick.
    pub(crate) routes: AtomicUsize,
}

/// What all shards share.
pub(crate) struct Shared<S> {
    pub(crate) settings: Settings,
    pub(crate) certificates: Arc<CertificateStore>,
    pub(crate) limiter: Arc<ConnectionLimiter>,
    pub(crate) switchboard: Switchboard,
    pub(crate) events: EventQueue,
    /// Notices of impairment sent lately. Shared by all shards, because a client may return to another shard.
    notices: Mutex<Notices>,
    pub(crate) handles: Vec<ShardHandle<S>>,
    /// New keys so far.
    placed: AtomicUsize,
}

impl<S> Shared<S> {
    pub(crate) fn new(settings: Settings, certificates: Arc<CertificateStore>) -> std::io::Result<Self> {
        let handles = (0..settings.shards)
            .map(|_| {
                Ok(ShardHandle {
                    mailboxes: (0..settings.shards).map(|_| Mailbox::new(settings.mailbox)).collect(),
                    commands: Mutex::default(),
                    waker: Waker::new()?,
                    counters: Counters::default(),
                    ticks: AtomicU64::new(0),
                    load: AtomicU32::new(0),
                    queued: AtomicUsize::new(0),
                    routes: AtomicUsize::new(0),
                })
            })
            .collect::<std::io::Result<_>>()?;
        let switchboard = Switchboard::new(settings.shards);
        let limiter = ConnectionLimiter::new(settings.max_before_login);
        Ok(Self {
            settings,
            certificates,
            limiter,
            switchboard,
            events: EventQueue::new()?,
            notices: Mutex::default(),
            handles,
            placed: AtomicUsize::new(0),
        })
    }

    /// Chooses the shard for a key that has none. Crossing shards costs more, so a shard with the key's partners goes
    /// first. Otherwise the busiest shard that still has room is chosen, so that a quiet server uses one shard.
    pub(crate) fn place(&self, near: Option<usize>) -> usize {
        const FULL: u32 = 600;
        // Half of a region may talk with one key, and not all of it fits on that key's shard.
        const CROWDED: u32 = 850;
        if let Some(turn) = self.placed.fetch_add(1, Ordering::Relaxed).checked_div(self.settings.keys_a_turn)
        {
            return turn % self.handles.len();
        }
        let load = |shard: &usize| self.handles[*shard].load.load(Ordering::Relaxed);
        if let Some(near) = near.filter(|near| load(near) < CROWDED) {
            return near;
        }
        let roomy = (0..self.handles.len())
            .filter(|shard| load(shard) < FULL)
            .max_by_key(|shard| (load(shard), self.handles.len() - shard));
        roomy.or_else(|| (0..self.handles.len()).min_by_key(load)).unwrap_or(0)
    }

    /// Whether the users of a key may be notified of an impairment now. If so, the notice counts as sent.
    pub(super) fn may_notify(&self, key: &Key, now: u64) -> bool {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).may_notify(key, now)
    }

    /// Hands each connection's commands to its shard, in order.
    pub(crate) fn submit(&self, commands: impl IntoIterator<Item = (ConnId, Command)>) {
        let mut batches: Vec<Vec<Command>> = Vec::new();
        batches.resize_with(self.handles.len(), Vec::new);
        for (conn, command) in commands {
            // An id with an unknown shard names no connection.
            if let Some(batch) = batches.get_mut(conn.shard()) {
                batch.push(command);
            }
        }
        for (shard, batch) in batches.into_iter().enumerate() {
            self.submit_to(shard, batch);
        }
    }

    /// Hands commands to one shard and wakes it.
    pub(crate) fn submit_to(&self, shard: usize, commands: impl IntoIterator<Item = Command>) {
        let Some(handle) = self.handles.get(shard) else { return };
        let mut queue = handle.commands.lock().unwrap_or_else(PoisonError::into_inner);
        queue.extend(commands);
        let has_work = !queue.is_empty();
        drop(queue);
        if has_work {
            handle.waker.wake();
        }
    }

    /// Each counter, summed over the shards.
    pub(crate) fn counters(&self) -> Vec<(&'static str, u64)> {
        sum(
            self.handles.iter().map(|handle| handle.counters.snapshot().collect()),
            |total: &mut (_, u64), more| {
                total.1 = total.1.wrapping_add(more.1);
            },
        )
    }

    /// Drops by reason and kind, summed over the shards.
    pub(crate) fn drops(&self) -> Vec<Drops> {
        sum(self.handles.iter().map(|handle| handle.counters.drops().collect()), |total: &mut Drops, more| {
            total.packets += more.packets;
            total.bytes += more.bytes;
        })
    }
}

/// Adds up lists that all have the same entries in the same order.
pub(crate) fn sum<T>(mut lists: impl Iterator<Item = Vec<T>>, add: impl Fn(&mut T, T)) -> Vec<T> {
    let mut total = lists.next().unwrap_or_default();
    for list in lists {
        for (total, more) in total.iter_mut().zip(list) {
            add(total, more);
        }
    }
    total
}
