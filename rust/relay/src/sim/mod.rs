//! The whole data plane without sockets, threads or a clock. Parties have in-memory ends, shards are stepped in an
//! order that a seed repeats, and the test sets the time. The code under test is production's: `Shard::tick`.
//!
//! A thread's loop is split, so that other shards can run in between: wake up and read the clock, tick, announce the
//! sleep, check for work once more, sleep. A shard wakes only for events that would wake its thread. So a missing
//! wake-up shows as work that is never done.
//!
//! For tests only. Read [`World`], then `wire`.

mod controller;
mod sealer;
mod seeded;
mod wire;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::Key;
use crate::id::ConnId;
use crate::io::epoll::Ready;
use crate::io::listener::Listener;
use crate::io::waker::Waker;
use crate::messages::{Command, Event, LoginInfo, Role};
use crate::shard::{Settings, Shard, Shared, Work};
use crate::tls::certificates::CertificateStore;

pub use crate::shard::InvariantCounts;
use crate::stats::counter::Drops;
use crate::switchboard::counts::TableCounts;
use crate::wire::stun;

pub use sealer::Sealer;
pub use seeded::Seeded;
pub use wire::Ending;

use controller::Controller;
use wire::{Backlog, End, Waiting, Wire, Wires, lock};

/// Identifies a party: the far end of a connection. Numbered from 0, in the order of connecting.
pub type Party = usize;

/// Milliseconds that a congested shard waits for its waker (see `plane`).
const CONGESTION_PAUSE_MS: u64 = 10;
/// Steps after which a world that does not become idle fails.
const RESTLESS: usize = 1_000_000;

/// The position of a shard's thread in its loop.
enum Phase {
    /// Sleeps until this time, or until it is woken. Readiness does not wake a congested shard.
    Asleep { until: u64, congested: bool },
    /// It has read the clock and polled for readiness.
    Awake { woke: u64, ready: Vec<Ready> },
    /// The tick is done; new work need not wake the shard yet.
    Ticked,
    /// It has announced its sleep.
    Announced,
}

struct Stepped {
    shard: Shard<Wires>,
    phase: Phase,
    held: bool,
}

/// A data plane and the parties that are connected to it.
pub struct World {
    shared: Arc<Shared<End>>,
    shards: Vec<Stepped>,
    controller: Controller,
    wires: Vec<Arc<Mutex<Wire>>>,
    backlog: Backlog,
    now: u64,
    seeded: Seeded,
}

impl World {
    /// Starts the shards. `seed` decides every open choice from now on.
    ///
    /// # Panics
    /// If the system has no descriptors left.
    #[must_use]
    pub fn new(mut settings: Settings, seed: u64) -> Self {
        if seed % 2 == 1 {
            // Every tick carries work over to the next one.
            settings.work = Work { visits: 1, slice: 1, departures: 1, writes: 1 };
        }
        let shared =
            Arc::new(Shared::new(settings, shared_certificates()).expect("descriptors for the wakers"));
        let backlog = Backlog::default();
        let mut world = Self {
            shards: (0..shared.handles.len())
                .map(|index| {
                    let net = Wires::new(index, Arc::clone(&backlog));
                    let shard = Shard::new(index, net, Arc::clone(&shared), 0);
                    Stepped { shard, phase: Phase::Awake { woke: 0, ready: Vec::new() }, held: false }
                })
                .collect(),
            controller: Controller::default(),
            wires: Vec::new(),
            shared,
            backlog,
            now: 0,
            seeded: Seeded::new(seed),
        };
        for (id, tls) in [(1, false), (2, true)] {
            // Any descriptor will do: it is never used.
            let socket = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor");
            let listener = Arc::new(Listener {
                socket,
                tls,
                limit: None,
                proxies: Vec::new(),
                trusted: Vec::new(),
                per_ip: None,
            });
            for shard in 0..world.shards.len() {
                world.shared.submit_to(shard, [Command::Listen(id, Arc::clone(&listener))]);
            }
        }
        // From the first tick on, the shards wake the controller.
        world.controller.handle_events(&world.shared);
        world.run();
        world
    }

    /// Connections that have not logged in.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.shared.limiter.pending()
    }

    /// Connections that no shard has accepted.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.backlog).len()
    }

    /// The certificates of all TLS connections; all worlds of a process share one store.
    #[must_use]
    pub fn certificates(&self) -> &CertificateStore {
        &self.shared.certificates
    }

    /// A new connection; the kernel wakes `shard` for it.
    pub fn connect(&mut self, tls: bool, shard: usize) -> Party {
        self.connect_from(Ipv4Addr::LOCALHOST.into(), tls, shard)
    }

    /// A new connection from another address.
    pub fn connect_from(&mut self, ip: IpAddr, tls: bool, shard: usize) -> Party {
        let party = self.wires.len();
        let wire = Wire::new();
        self.wires.push(Arc::clone(&wire));
        let handle = u16::try_from(party).expect("at most 65,536 parties");
        let from = SocketAddr::new(ip, handle);
        lock(&self.backlog).push(Waiting { wire, from, tls, shard });
        party
    }

    /// Lets the controller log a connection in: after a head, the party has to send the frame of [`introduction`].
    ///
    /// If its key has no connection yet, it will live on shard `home`; if there is no such shard, it is placed.
    pub fn expect_login(&mut self, party: Party, home: usize) {
        self.controller.expect(party, home);
    }

    /// A new connection without TLS that logs in.
    pub fn join(&mut self, key: &Key, kind: LoginKind, shard: usize, home: usize) -> Party {
        let party = self.connect(false, shard);
        self.expect_login(party, home);
        self.send(party, &introduction(key, kind));
        party
    }

    /// The party sends bytes; they wait until the server reads them.
    pub fn send(&mut self, party: Party, bytes: &[u8]) {
        lock(&self.wires[party]).to_server.extend_from_slice(bytes);
    }

    /// Bytes that the party has sent and the server has not read.
    #[must_use]
    pub fn unread(&self, party: Party) -> usize {
        lock(&self.wires[party]).to_server.len()
    }

    /// Takes the bytes that have arrived at the party.
    pub fn receive(&mut self, party: Party) -> Vec<u8> {
        std::mem::take(&mut lock(&self.wires[party]).to_party)
    }

    /// Whether the party has bytes that it has not taken.
    #[must_use]
    pub fn has_received(&self, party: Party) -> bool {
        !lock(&self.wires[party]).to_party.is_empty()
    }

    /// Sets the number of bytes that the server can write to the party from now on; `None`: no limit.
    pub fn set_room(&mut self, party: Party, room: Option<usize>) {
        lock(&self.wires[party]).room = room;
    }

    /// Sets the maximum bytes of the party in one read of the server.
    pub fn set_piece(&mut self, party: Party, piece: usize) {
        lock(&self.wires[party]).piece = piece;
    }

    /// Gives each read of the server a different, seeded number of the party's bytes.
    pub fn chop(&mut self, party: Party) {
        let seeded = Seeded::new(self.seeded.draw());
        lock(&self.wires[party]).chopped = Some(seeded);
    }

    /// The party ends its direction of the stream; it still reads.
    pub fn finish(&mut self, party: Party) {
        lock(&self.wires[party]).party_finished = true;
    }

    /// The party's connection breaks.
    pub fn reset(&mut self, party: Party) {
        lock(&self.wires[party]).party_reset = true;
    }

    /// The state of the connection as the party sees it.
    #[must_use]
    pub fn ending(&self, party: Party) -> Ending {
        lock(&self.wires[party]).ending()
    }

    /// The present id of the party's connection, from its first event until its end.
    #[must_use]
    pub fn conn(&self, party: Party) -> Option<ConnId> {
        self.controller.conn(party)
    }

    /// Whether the party's connection is switched and still open.
    #[must_use]
    pub fn is_switched(&self, party: Party) -> bool {
        self.controller.is_switched(party)
    }

    /// Suspends a shard's thread, or resumes it.
    pub fn hold(&mut self, shard: usize, held: bool) {
        self.shards[shard].held = held;
    }

    /// Hands commands to the shards.
    pub fn submit(&self, commands: impl IntoIterator<Item = (ConnId, Command)>) {
        self.shared.submit(commands);
    }

    /// Hands a command to every shard.
    pub fn submit_to_all(&self, command: impl Fn() -> Command) {
        for shard in 0..self.shards.len() {
            self.shared.submit_to(shard, [command()]);
        }
    }

    /// Takes the events since the last call, without those of logins by the controller.
    pub fn events(&mut self) -> Vec<Event> {
        self.controller.take_events()
    }

    /// All counters, by name.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.shared.counters()
    }

    /// One counter.
    ///
    /// # Panics
    /// If there is no counter of that name.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.counters()
            .into_iter()
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
            .expect("a counter's name")
    }

    /// Drops by reason and kind.
    #[must_use]
    pub fn drops(&self) -> Vec<Drops> {
        self.shared.drops()
    }

    /// Packets and packet bytes that were dropped for one reason.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> (u64, u64) {
        let drops = self.drops().into_iter().filter(|drops| drops.reason == reason);
        drops.fold((0, 0), |(packets, bytes), drops| (packets + drops.packets, bytes + drops.bytes))
    }

    /// The counts of the table.
    #[must_use]
    pub fn board(&self) -> TableCounts {
        self.shared.switchboard.counts()
    }

    /// Logged-in connections, and their distinct keys.
    #[must_use]
    pub fn population(&self) -> (usize, usize) {
        let counts = self.board();
        (counts.connections, counts.keys_local)
    }

    /// Milliseconds since the beginning.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Steps one shard, or the controller, that has work. Returns `false` if there is none.
    pub fn step(&mut self) -> bool {
        let with_work: Vec<usize> = (0..=self.shards.len()).filter(|&actor| self.can_move(actor)).collect();
        if with_work.is_empty() {
            return false;
        }
        let actor = with_work[self.seeded.below(with_work.len())];
        if actor == self.shards.len() {
            self.controller.handle_events(&self.shared);
        } else {
            self.step_shard(actor);
        }
        true
    }

    /// Steps until all shards sleep. Returns the counts afterwards.
    ///
    /// # Panics
    /// If the world never becomes idle, if a wake-up is missing, or if an invariant does not hold.
    pub fn run(&mut self) -> InvariantCounts {
        let steps = (0..RESTLESS).take_while(|_| self.step()).count();
        assert!(steps < RESTLESS, "the shards find no rest");
        self.check()
    }

    /// Advances the time by `ms`, and runs all work that becomes due.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            self.run();
            let next = self.shards.iter().map(|stepped| match stepped.phase {
                Phase::Asleep { until, .. } if !stepped.held => until,
                _ => u64::MAX,
            });
            match next.min() {
                Some(next) if next <= end => self.now = next,
                _ => break,
            }
        }
        self.now = end;
        self.run();
    }

    /// Advances the time by `ms`, without running any work yet.
    pub fn skip(&mut self, ms: u64) {
        self.now += ms;
    }

    /// Checks all invariants that hold while all shards sleep. Returns the sums of the shards' counts.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub fn check(&self) -> InvariantCounts {
        let mut counts = InvariantCounts::default();
        for stepped in &self.shards {
            let sleeps = matches!(stepped.phase, Phase::Asleep { .. }) && !stepped.held;
            assert!(
                !sleeps || !stepped.shard.has_mail(),
                "shard {} sleeps over its mail",
                stepped.shard.index()
            );
            counts += stepped.shard.check();
        }
        if self.shards.iter().all(|stepped| !stepped.held) {
            let board = self.board();
            let counted = (board.connections, board.keys_local, board.watchers);
            let there = (counts.members, counts.keys, counts.watchers);
            assert_eq!(there, counted, "the table counts members, keys and watchers");
            self.shared.switchboard.check();
            assert_eq!(counts.pending, self.shared.limiter.pending(), "connections before login are counted");
        }
        counts
    }

    fn can_move(&mut self, actor: usize) -> bool {
        let Some(stepped) = self.shards.get_mut(actor) else {
            return is_signalled(&self.shared.events.waker);
        };
        match stepped.phase {
            _ if stepped.held => false,
            Phase::Asleep { until, congested } => {
                is_signalled(&self.shared.handles[actor].waker)
                    || self.now >= until
                    || (!congested && !stepped.shard.net.ready().is_empty())
            }
            _ => true,
        }
    }

    fn step_shard(&mut self, index: usize) {
        let Stepped { shard, phase, .. } = &mut self.shards[index];
        let waker = &self.shared.handles[index].waker;
        *phase = match std::mem::replace(phase, Phase::Ticked) {
            Phase::Asleep { .. } => {
                waker.clear();
                waker.is_awake();
                let mut ready = shard.net.ready();
                self.seeded.shuffle(&mut ready);
                Phase::Awake { woke: self.now, ready }
            }
            Phase::Awake { woke, ready } => {
                shard.tick(woke, &ready);
                Phase::Ticked
            }
            Phase::Ticked => {
                waker.will_sleep();
                Phase::Announced
            }
            Phase::Announced => {
                let pause = if shard.is_congested() { CONGESTION_PAUSE_MS } else { u64::MAX };
                let sleep = if shard.has_mail() {
                    0
                } else {
                    shard.sleep_ms(self.now).unwrap_or(u64::MAX).min(pause)
                };
                Phase::Asleep { until: self.now.saturating_add(sleep), congested: shard.is_congested() }
            }
        };
    }
}

/// Settings as in production, but with short queues.
#[must_use]
pub fn settings(shards: usize) -> Settings {
    Settings {
        shards,
        queue_depth: 4,
        mailbox: crate::MAILBOX,
        max_head: 65_536,
        setup_timeout: 30_000,
        login_timeout: 10_000,
        write_timeout: 2_000,
        mesh_write_timeout: 30_000,
        link_write_timeout: 5_000,
        server_key: [0xee; 32],
        mesh_max_keys: 1_000,
        verbose_drops: [].into(),
        link_silence: 120_000,
        max_before_login: 1_000_000,
        rtt_interval: 0,
        records_per_key: u64::MAX,
        max_queued_bytes: usize::MAX,
        max_routes: usize::MAX,
        count_senders: true,
        keep_alive: 60_000,
        keep_alive_jitter: 5_000,
        event_delay: 0,
        keys_a_turn: 0,
        work: Work::default(),
    }
}

/// The kind of a login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoginKind {
    /// An ordinary client.
    Client,
    /// A client with the mesh key: it may watch, forward and close.
    MeshPeer,
    /// Another node, as if we had dialled it.
    Node,
}

/// The bytes of a login: a head, and a frame with the key and the kind.
#[must_use]
pub fn introduction(key: &Key, kind: LoginKind) -> Vec<u8> {
    let mut bytes = b"GET /derp HTTP/1.1\r\n\r\n\x02\0\0\0\x21".to_vec();
    bytes.extend_from_slice(key);
    bytes.push(kind as u8);
    bytes
}

/// The `PeerPresent` frame that announces a client to watchers, without address and flags.
#[must_use]
pub fn presence(key: &Key, kind: LoginKind) -> Vec<u8> {
    let mut frame = b"\x09\0\0\0\x34".to_vec();
    frame.extend_from_slice(key);
    frame.extend_from_slice(&[0; 18]);
    frame.extend_from_slice(&[if kind == LoginKind::MeshPeer { 2 } else { 1 }, 0]);
    frame
}

/// The result of a login of this kind.
#[must_use]
pub fn member(key: &Key, kind: LoginKind) -> LoginInfo {
    let role = if kind == LoginKind::MeshPeer { Role::MeshPeer } else { Role::Client };
    let remote = SocketAddr::from(([127, 0, 0, 1], 0));
    LoginInfo { key: *key, role, presence: presence(key, kind).into(), version: 2, number: 0, remote }
}

/// Whether STUN answers a datagram: from any standard client if `any`, else from Tailscale's clients only.
#[must_use]
pub fn is_answered_by_stun(datagram: &[u8], any: bool) -> bool {
    let clients = if any { stun::Clients::Any } else { stun::Clients::Tailscale };
    stun::request(datagram, clients).is_some()
}

/// Creating configurations takes longer than most histories, so all worlds share one store.
fn shared_certificates() -> Arc<CertificateStore> {
    static CERTIFICATES: OnceLock<Arc<CertificateStore>> = OnceLock::new();
    let make = || Arc::new(CertificateStore::new().expect("the one way to make it"));
    Arc::clone(CERTIFICATES.get_or_init(make))
}

fn is_signalled(waker: &Waker) -> bool {
    let mut fds = [PollFd::new(waker, PollFlags::IN)];
    // A waker that is signalled has ended the sleep first. The check of the flag saves most polls.
    !waker.is_asleep()
        && poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}
