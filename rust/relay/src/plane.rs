//! The running data plane: one thread for each shard, and the handle that Python holds.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::id::ConnId;
use crate::io::datagrams::{Responder, Stun};
use crate::io::epoll::{Epoll, Socket};
use crate::io::listener::{Listener, ListenerId};
use crate::limits::rates::Limits;
use crate::messages::{Command, Event, EventQueue, MemberAction};
use crate::shard::{Settings, Shard, Shared, sum};
use crate::stats::counter::{Counters, Drops};
use crate::stats::histogram::{HistogramSnapshot, MovingAverage};
use crate::switchboard::table::Switchboard;
use crate::tls::certificates::CertificateStore;
use crate::tls::session::{Session, client_config};
use crate::wire::frame::Key;
use crate::wire::stun::Clients;

/// The exit code of a process whose data plane has found a bug in itself (`EX_SOFTWARE` of sysexits.h).
const EXIT_BUG: i32 = 70;
/// The beginning of the shards' thread names.
const THREAD_NAME: &str = "derper-shard-";
/// Milliseconds over which a shard measures its load.
const LOAD_WINDOW_MS: u64 = 200;
/// Milliseconds after which a congested shard checks its receivers and its clock again.
const CONGESTION_PAUSE_MS: u64 = 10;

/// All shards of a process.
pub struct Plane {
    shared: Arc<Shared<Socket>>,
    /// The TLS configuration for dialling other nodes; `None` until trusted roots are set.
    outgoing: Option<Arc<ClientConfig>>,
    threads: Vec<JoinHandle<()>>,
    listeners: ListenerId,
    stun: Arc<Stun>,
    /// The epoll instance of shard 0, which answers STUN.
    epoll: Epoll,
}

impl Plane {
    /// Starts the shards; they are idle before [`listen`](Self::listen). Descriptors from number `ceiling` on are
    /// reserved for the rest of the process.
    ///
    /// # Errors
    /// If there are no threads, descriptors or memory.
    pub fn start(settings: Settings, ceiling: usize) -> io::Result<Self> {
        end_on_panic();
        let certificates = CertificateStore::new().map_err(|error| io::Error::other(error.to_string()))?;
        let shared = Arc::new(Shared::new(settings, Arc::new(certificates))?);
        let start = Instant::now();
        let stun = Arc::new(Stun::default());
        let mut responder = Some(Responder::new(Arc::clone(&stun)));
        let nets = shared
            .handles
            .iter()
            .map(|handle| Epoll::new(&handle.waker, ceiling))
            .collect::<io::Result<Vec<_>>>()?;
        let epoll = nets[0].share()?;
        let threads = nets
            .into_iter()
            .enumerate()
            .map(|(index, net)| {
                let responder = responder.take();
                let shard = Shard::new(index, net, Arc::clone(&shared), 0);
                std::thread::Builder::new().name(format!("{THREAD_NAME}{index}")).spawn(move || {
                    if let Err(error) = run(shard, start, responder) {
                        give_up(
                            &format!("{THREAD_NAME}{index}"),
                            &format!("cannot wait for events: {error}"),
                        );
                    }
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self { shared, outgoing: None, threads, listeners: 0, stun, epoll })
    }

    /// Accepts connections on a bound and listening socket, on every shard.
    pub fn listen(&mut self, listener: Listener) -> ListenerId {
        self.listeners += 1;
        let listener = Arc::new(listener);
        let id = self.listeners;
        self.submit_to_all(|| Command::Listen(id, Arc::clone(&listener)));
        self.listeners
    }

    /// Reserves places for connections from the addresses of other nodes from now on.
    pub fn reserve_places(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        self.shared.limiter.reserve(addresses);
    }

    /// Number of pending connections, without those in reserved places.
    #[must_use]
    pub fn pending_connections(&self) -> usize {
        self.shared.limiter.pending()
    }

    /// Stops accepting on a listener. Its socket is closed after every shard has dropped it.
    pub fn unlisten(&self, listener: ListenerId) {
        self.submit_to_all(|| Command::Unlisten(listener));
    }

    /// Answers STUN on a bound UDP socket from now on: requests of Tailscale's clients, or of any client.
    ///
    /// # Errors
    /// If the socket is of another kind, or there is one already.
    pub fn serve_stun(&self, socket: OwnedFd, any_client: bool) -> io::Result<()> {
        self.stun.open(socket, if any_client { Clients::Any } else { Clients::Tailscale })?;
        self.stun.socket().map_or(Ok(()), |socket| self.epoll.watch_datagrams(socket))
    }

    /// Sets the trusted root certificates (DER) for dialling nodes from now on.
    ///
    /// # Errors
    /// If TLS cannot be set up; a message for the log.
    pub fn trust(&mut self, roots: Vec<Vec<u8>>) -> Result<(), String> {
        self.outgoing = Some(client_config(roots).map_err(|error| error.to_string())?);
        Ok(())
    }

    /// Begins TLS on a connected socket to a node, which has to prove that it is `server_name`.
    ///
    /// # Errors
    /// If no roots are trusted yet, or the server name is invalid; a message for the log.
    pub fn dial(
        &self,
        token: u64,
        socket: OwnedFd,
        remote: SocketAddr,
        server_name: &str,
    ) -> Result<(), String> {
        let config = self.outgoing.clone().ok_or("no root certificates are trusted")?;
        let session = Session::dial(config, server_name).map_err(|error| error.to_string())?;
        self.submit_to(
            self.shared.place(None),
            [Command::Dial { token, socket, remote, session: Box::new(session) }],
        );
        Ok(())
    }

    /// Queues each connection's command for its shard, in order.
    pub fn submit(&self, commands: impl IntoIterator<Item = (ConnId, Command)>) {
        self.shared.submit(commands);
    }

    /// Queues commands for one shard and wakes it.
    pub fn submit_to(&self, shard: usize, commands: impl IntoIterator<Item = Command>) {
        self.shared.submit_to(shard, commands);
    }

    /// Applies an action to every connection of a key. A write may miss a connection in the middle of its switch.
    pub fn act_on_key(&self, key: Key, action: &MemberAction) {
        self.submit_to_all(|| Command::ToKey(key, action.clone()));
    }

    /// Applies an action to every client, and to mesh peers unless they are spared: a bounded number in each tick.
    pub fn act_on_all(&self, action: &MemberAction, spare_mesh_peers: bool) {
        self.submit_to_all(|| Command::ToAll { action: action.clone(), spare_mesh_peers });
    }

    /// Requests snapshots of all members, which come in events with this number.
    pub fn report(&self, report: u64) {
        self.submit_to_all(|| Command::Report(report));
    }

    /// Makes every shard tick. Returns the number of ticks of each shard so far.
    #[must_use]
    pub fn pulse(&self) -> Vec<u64> {
        let ticks = self.shared.handles.iter().map(|handle| handle.ticks.load(Ordering::Relaxed)).collect();
        self.submit_to_all(|| Command::Pulse);
        ticks
    }

    fn submit_to_all(&self, command: impl Fn() -> Command) {
        for shard in 0..self.shared.handles.len() {
            self.submit_to(shard, [command()]);
        }
    }

    /// The events of all shards.
    #[must_use]
    pub fn events(&self) -> &EventQueue {
        &self.shared.events
    }

    /// The certificates for new handshakes.
    #[must_use]
    pub fn certificates(&self) -> &CertificateStore {
        &self.shared.certificates
    }

    /// Limits the reads from all clients to these rates from now on.
    pub fn limit_clients(&self, limits: Limits) {
        let limits = Arc::new(limits);
        self.submit_to_all(|| Command::LimitClients(Arc::clone(&limits)));
    }

    /// The table of the region's keys.
    #[must_use]
    pub fn switchboard(&self) -> &Switchboard {
        &self.shared.switchboard
    }

    fn shard_counters(&self) -> impl Iterator<Item = &Counters> {
        self.shared.handles.iter().map(|handle| &handle.counters)
    }

    /// Each counter, summed over the shards.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        self.shared.counters()
    }

    /// STUN's counters, by the metric's name and the value of its label.
    #[must_use]
    pub fn stun_counters(&self) -> Vec<(&'static str, u64)> {
        self.stun.snapshot()
    }

    /// Drops by reason and kind, summed over the shards.
    #[must_use]
    pub fn drops(&self) -> Vec<Drops> {
        self.shared.drops()
    }

    /// Each histogram, summed over the shards.
    #[must_use]
    pub fn histograms(&self) -> Vec<HistogramSnapshot> {
        sum(
            self.shard_counters().map(|counters| counters.histograms.snapshots().collect()),
            |total: &mut HistogramSnapshot, more| total.add(&more),
        )
    }

    /// Average time of packets in queues lately, in milliseconds.
    #[must_use]
    pub fn average_queue_ms(&self) -> f64 {
        MovingAverage::together(self.shard_counters().map(|counters| &counters.queue_duration))
    }

    /// Ends every connection, and waits for every shard to end.
    pub fn stop(&mut self) {
        self.submit_to_all(|| Command::Stop);
        for thread in self.threads.drain(..) {
            // A shard that panicked has ended the process already.
            let _ = thread.join();
        }
    }
}

/// Makes a panic in a shard end the process at once, with its cause in one line. A process whose port is open while
/// some of its shards are dead would be worse than none.
fn end_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            match thread.name() {
                Some(name) if name.starts_with(THREAD_NAME) => {
                    let cause = info.payload_as_str().unwrap_or("for no reason given");
                    let place = info.location().map(ToString::to_string).unwrap_or_default();
                    give_up(name, &format!("panicked at {place}: {cause}"));
                }
                _ => others(info),
            }
        }));
    });
}

fn give_up(shard: &str, cause: &str) -> ! {
    eprintln!("derper: this is a bug: {shard} {cause}; the process ends with code {EXIT_BUG}");
    sys::exit_now(EXIT_BUG)
}

fn run(mut shard: Shard<Epoll>, start: Instant, mut responder: Option<Responder>) -> io::Result<()> {
    let shared = Arc::clone(&shard.shared);
    let handle = &shared.handles[shard.index()];
    let now = || start.elapsed();
    // A thread's first random bytes take milliseconds to gather, and no client should wait for them. A failure would
    // show again in the next use.
    let _ = aws_lc_rs::rand::fill(&mut [0; 32]);
    let mut ready = Vec::new();
    let mut datagrams = false;
    let (mut woke, mut window, mut busy) = (now(), now(), Duration::ZERO);
    loop {
        shard.tick(woke.as_millis() as u64, &ready);
        ready.clear();
        if shard.is_stopped() {
            break;
        }
        if datagrams
            && let Some(error) = responder.as_mut().and_then(|stun| stun.turn(woke.as_millis() as u64))
        {
            shared.events.append(&mut vec![Event::StunFailed { error }]);
        }
        let slept = now();
        busy += slept.saturating_sub(woke);
        let span = slept.saturating_sub(window);
        if span.as_millis() as u64 >= LOAD_WINDOW_MS {
            handle.load.store((busy.as_micros() * 1_000 / span.as_micros().max(1)) as u32, Ordering::Relaxed);
            (window, busy) = (slept, Duration::ZERO);
        }
        let mut timeout = shard.sleep_ms(slept.as_millis() as u64);
        handle.waker.will_sleep();
        if shard.has_mail() {
            timeout = Some(0);
        }
        if shard.is_congested() {
            // Senders are not read, and would only be reported again and again. The receivers need to be checked.
            shard.net.wait_for_waker(
                timeout.unwrap_or(CONGESTION_PAUSE_MS).min(CONGESTION_PAUSE_MS),
                &handle.waker,
            )?;
            timeout = Some(0);
        }
        datagrams = shard.net.wait(timeout, &handle.waker, &mut ready)?;
        handle.waker.is_awake();
        woke = now();
    }
    shard.close_all();
    shard.tick(now().as_millis() as u64, &[]);
    Ok(())
}
