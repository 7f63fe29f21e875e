//! What the shards of a process share: settings, who is where, and the handles through which they are reached.
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

use super::impairment::Told;
use super::turn::Work;

/// Sizes and times that hold for the whole plane (`docs/protocol/relay.md`, Timeouts). Times in milliseconds.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many shards.
    pub shards: usize,
    /// Packets that each of a connection's two queues holds.
    pub queue_depth: usize,
    /// Bytes of memory for all that waits for sockets, about; the largest queues make room.
    pub max_queued_bytes: usize,
    /// Destinations that all senders together are remembered to have, about; the senders with the most forget first.
    pub max_routes: usize,
    /// Bytes with which a mailbox between two shards is full, [`MAILBOX`](crate::MAILBOX); one batch may go over it.
    pub mailbox: usize,
    /// Most bytes of a request head.
    pub max_head: usize,
    /// From accepting a connection, or from its last answer, to a whole request head.
    pub setup_timeout: u64,
    /// For one frame of the login.
    pub login_timeout: u64,
    /// How long a client's write may make no progress; 0: for ever.
    pub write_timeout: u64,
    /// The same for a mesh peer.
    pub mesh_write_timeout: u64,
    /// The same for a link to a node that we dialled.
    pub link_write_timeout: u64,
    /// Destinations whose dropped packets are told of, one by one.
    pub verbose_drops: HashSet<Key>,
    /// The key of this node: a watcher with it is a node that has dialled itself.
    pub server_key: Key,
    /// Most keys that one link may announce; the rest is ignored and counted.
    pub mesh_max_keys: usize,
    /// Whether it is counted how many keys send to each.
    pub count_senders: bool,
    /// Between two `KeepAlive` frames to one connection, at least.
    pub keep_alive: u64,
    /// Drawn anew each time and added to that, at most.
    pub keep_alive_jitter: u64,
    /// How long a link to another node may be silent, which its keep-alives prevent.
    pub link_silence: u64,
    /// Most connections that have not logged in; beyond it the most silent ones make room.
    pub max_before_login: usize,
    /// Between two looks at the round trip of one connection; 0: it is not looked at.
    pub rtt_interval: u64,
    /// Records that one key of TLS 1.3 seals before it is changed; never more than its cipher bears.
    pub records_per_key: u64,
    /// How long events that nobody waits for may wait for others.
    pub event_delay: u64,
    /// How many new keys in a row come to the same shard before the next has its turn, whoever they talk with and
    /// however full it is; 0: they are placed by just that. For measuring what crossing shards costs.
    pub keys_a_turn: usize,
    /// How much one tick does.
    pub work: Work,
}

/// What a shard asks another to do.
pub(crate) enum ShardMessage<S> {
    /// Take over this connection, which was known by that name: its key lives with you.
    Adopt(Box<Conn<S>>, ConnId),
    /// Tell a connection of yours that a key has left.
    PeerGone { to: ConnId, key: Key },
    /// Tell your watchers that a key has come or gone.
    Changed(Key),
    /// A key has left the region: tell whom you sent packets of it that came over a link.
    LeftRegion(Key),
    /// Close every connection of a key of yours.
    ClosePeer(Key),
    /// Do this to every connection of a key of yours.
    ToKey(Box<(Key, MemberAction)>),
}

/// A shard as the others and Python see it.
pub(crate) struct ShardHandle<S> {
    /// One a sending shard.
    pub(crate) mailboxes: Vec<Mailbox<ShardMessage<S>>>,
    pub(crate) commands: Mutex<Vec<Command>>,
    pub(crate) waker: Waker,
    pub(crate) counters: Counters,
    /// How often the shard has ticked.
    pub(crate) ticks: AtomicU64,
    /// Thousandths of its time that it was busy of late.
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
    /// Of all shards, as a client may come back to another one.
    told: Mutex<Told>,
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
            told: Mutex::default(),
            handles,
            placed: AtomicUsize::new(0),
        })
    }

    /// The shard for a key that has none: where its partners are, because what crosses shards costs more; else the
    /// busiest that still has room, so that a quiet server uses one.
    pub(crate) fn place(&self, near: Option<usize>) -> usize {
        const FULL: u32 = 600;
        // Half of a region may talk with one key: not all of them fit beside it.
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

    /// Whether the users of a key may be told of a struggle now; if so, they are.
    pub(super) fn tell(&self, key: &Key, now: u64) -> bool {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).tell(key, now)
    }

    /// Hands each connection's commands to its shard, in order.
    pub(crate) fn submit(&self, commands: impl IntoIterator<Item = (ConnId, Command)>) {
        let mut batches: Vec<Vec<Command>> = Vec::new();
        batches.resize_with(self.handles.len(), Vec::new);
        for (conn, command) in commands {
            // A name of no shard names nobody.
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
