//! Python's interface to the relay crate: it converts calls into commands and events into tuples, and makes no
//! decisions.
//!
//! Its types are declared in `src/derper/dataplane/_native.pyi`, and only `derper.dataplane` imports it.
// pyo3 passes the arguments of an extension function by value.
#![allow(clippy::needless_pass_by_value)]

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use relay::messages::{
    CloseReason, Command, Event, Limits, LoginInfo, MemberAction, MemberSnapshot, Reason, Role, Totals,
};
use relay::{AcceptLimit, Listener, ListenerId};
use relay::{
    Audit, Certificate, ConnId, HistogramSnapshot, Key, Missing, Network, Rate, Serves, Settings, TableCounts,
};

/// A certificate from Python: the clients that it is for (kind, name, address), chain, key.
type CertificateTuple = (String, Option<String>, Option<IpAddr>, Vec<Vec<u8>>, Vec<u8>);

/// A rate from Python: amount per second, and burst.
type RateTuple = (f64, f64);

/// A histogram for Python: name, bounds, counts, sum.
type HistogramTuple = (&'static str, Vec<u64>, Vec<u64>, u64);

/// The data plane: one thread for each shard, none of which ever takes the interpreter's lock.
#[pyclass(frozen)]
struct Plane {
    /// `None` after the data plane was stopped.
    running: Mutex<Option<relay::Plane>>,
    /// Commands since the last flush.
    staged: Mutex<Vec<(ConnId, Command)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rate((per_second, burst): RateTuple) -> Rate {
    Rate { per_second, burst }
}

fn reason(code: &str, detail: String) -> PyResult<Reason> {
    let code = CloseReason::from_code(code).ok_or_else(|| {
        PyValueError::new_err(format!("unknown close reason {code:?}; want one of CloseReason"))
    })?;
    Ok(Reason { code, detail })
}

impl Plane {
    fn stage(&self, conn: u64, command: impl FnOnce(ConnId) -> Command) {
        let conn = ConnId::from_u64(conn);
        lock(&self.staged).push((conn, command(conn)));
    }

    /// Submits the staged commands, then calls `then`, so that both take effect in the order of the calls.
    fn after_staged(&self, then: impl FnOnce(&relay::Plane)) -> PyResult<()> {
        let staged = std::mem::take(&mut *lock(&self.staged));
        self.with(|plane| {
            plane.submit(staged);
            then(plane);
        })
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut relay::Plane) -> T) -> PyResult<T> {
        lock(&self.running)
            .as_mut()
            .map(use_it)
            .ok_or_else(|| PyRuntimeError::new_err("the data plane was stopped"))
    }
}

#[pymethods]
impl Plane {
    #[new]
    #[pyo3(signature = (*, shards, server_key, queue_depth, max_head, setup_timeout, login_timeout, write_timeout,
                        mesh_write_timeout, link_write_timeout, mesh_max_keys, verbose_drops, keep_alive,
                        keep_alive_jitter, rtt_interval, records_per_key, max_queued_bytes, max_routes,
                        count_senders,                        link_silence, max_before_login, event_delay, keys_a_turn, descriptor_ceiling))]
    #[expect(
        clippy::too_many_arguments,
        reason = "keywords on the Python side, where the settings are one object"
    )]
    fn new(
        shards: usize,
        server_key: Key,
        queue_depth: usize,
        max_head: usize,
        setup_timeout: u64,
        login_timeout: u64,
        write_timeout: u64,
        mesh_write_timeout: u64,
        link_write_timeout: u64,
        mesh_max_keys: usize,
        verbose_drops: Vec<Key>,
        keep_alive: u64,
        keep_alive_jitter: u64,
        rtt_interval: u64,
        records_per_key: u64,
        max_queued_bytes: usize,
        max_routes: usize,
        count_senders: bool,
        link_silence: u64,
        max_before_login: usize,
        event_delay: u64,
        keys_a_turn: usize,
        descriptor_ceiling: usize,
    ) -> PyResult<Self> {
        if !(1..=256).contains(&shards) {
            return Err(PyValueError::new_err(format!("wanted 1 to 256 shards, got {shards}")));
        }
        let settings = Settings {
            shards,
            server_key,
            queue_depth,
            mailbox: relay::MAILBOX,
            max_head,
            setup_timeout,
            login_timeout,
            write_timeout,
            mesh_write_timeout,
            link_write_timeout,
            mesh_max_keys,
            verbose_drops: verbose_drops.into_iter().collect(),
            keep_alive,
            keep_alive_jitter,
            rtt_interval,
            records_per_key,
            max_queued_bytes,
            max_routes,
            count_senders,
            link_silence,
            max_before_login,
            event_delay,
            keys_a_turn,
            work: relay::Work::default(),
        };
        let plane = relay::Plane::start(settings, descriptor_ceiling)?;
        Ok(Self { running: Mutex::new(Some(plane)), staged: Mutex::default() })
    }

    fn event_fd(&self) -> PyResult<RawFd> {
        self.with(|plane| plane.events().waker.as_fd().as_raw_fd())
    }

    fn listen(
        &self,
        fd: RawFd,
        tls: bool,
        limit: Option<RateTuple>,
        proxies: Vec<(IpAddr, u32)>,
        trusted: Vec<(IpAddr, u32)>,
        per_ip: Option<u32>,
    ) -> PyResult<ListenerId> {
        let socket = sys::duplicate_fd(fd)?;
        let limit = limit.map(|limit| Mutex::new(AcceptLimit::new(rate(limit))));
        let networks =
            |all: Vec<(IpAddr, u32)>| all.into_iter().map(|(ip, bits)| Network { ip, bits }).collect();
        let (proxies, trusted) = (networks(proxies), networks(trusted));
        self.with(|plane| plane.listen(Listener { socket, tls, limit, proxies, trusted, per_ip }))
    }

    fn reserve_places(&self, addresses: Vec<IpAddr>) -> PyResult<()> {
        self.with(|plane| plane.reserve_places(addresses))
    }

    fn pending_connections(&self) -> PyResult<usize> {
        self.with(|plane| plane.pending_connections())
    }

    fn limit_clients(
        &self,
        default: Option<RateTuple>,
        per_key: HashMap<Key, Option<RateTuple>>,
        total: Option<RateTuple>,
    ) -> PyResult<()> {
        let per_key = per_key.into_iter().map(|(key, limit)| (key, limit.map(rate))).collect();
        let limits = Limits::new(default.map(rate), per_key, total.map(rate));
        self.with(|plane| plane.limit_clients(limits))
    }

    fn unlisten(&self, listener: ListenerId) -> PyResult<()> {
        self.with(|plane| plane.unlisten(listener))
    }

    fn serve_stun(&self, fd: RawFd, any_client: bool) -> PyResult<()> {
        let socket = sys::duplicate_fd(fd)?;
        Ok(self.with(|plane| plane.serve_stun(socket, any_client))??)
    }

    fn set_certificates(&self, certificates: Vec<CertificateTuple>) -> PyResult<()> {
        let certificate = |(kind, name, ip, chain, key): CertificateTuple| {
            let serves = match (&*kind, name, ip) {
                ("any", None, None) => Serves::Any,
                ("name", Some(name), None) => Serves::Name(name),
                ("local_ip", None, Some(ip)) => Serves::LocalIp(ip),
                ("challenge", Some(name), None) => Serves::Challenge(name),
                _ => return Err(PyValueError::new_err("a certificate for nobody")),
            };
            Ok(Certificate { serves, chain, key })
        };
        let certificates = certificates.into_iter().map(certificate).collect::<PyResult<_>>()?;
        self.with(|plane| plane.certificates().replace(certificates))?.map_err(PyValueError::new_err)
    }

    fn trust(&self, roots: Vec<Vec<u8>>) -> PyResult<()> {
        self.with(|plane| plane.trust(roots))?.map_err(PyValueError::new_err)
    }

    fn dial(&self, token: u64, fd: RawFd, ip: IpAddr, port: u16, server_name: &str) -> PyResult<()> {
        let socket = sys::duplicate_fd(fd)?;
        let remote = SocketAddr::new(ip, port);
        self.with(|plane| plane.dial(token, socket, remote, server_name))?.map_err(PyValueError::new_err)
    }

    fn link(&self, conn: u64, first: Vec<u8>) {
        self.stage(conn, |conn| Command::Link { conn, first });
    }

    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let events = self.with(|plane| {
            plane.events().waker.clear();
            plane.events().drain()
        })?;
        let list = PyList::empty(py);
        for event in events {
            list.append(tuple(py, event)?)?;
        }
        Ok(list)
    }

    fn write(&self, conn: u64, data: Vec<u8>, tell_drained: bool) {
        self.stage(conn, |conn| Command::Write { conn, bytes: data, tell_drained });
    }

    fn await_head(&self, conn: u64) {
        self.stage(conn, Command::AwaitHead);
    }

    fn await_frame(&self, conn: u64, most: usize) {
        self.stage(conn, |conn| Command::AwaitFrame(conn, most));
    }

    fn begin_websocket(&self, conn: u64) {
        self.stage(conn, Command::BeginWebsocket);
    }

    fn await_body(&self, conn: u64, length: u64) {
        self.stage(conn, |conn| Command::AwaitBody(conn, length));
    }

    fn stream(&self, conn: u64) {
        self.stage(conn, Command::Stream);
    }

    fn consumed(&self, conn: u64, length: usize) {
        self.stage(conn, |conn| Command::Consumed(conn, length));
    }

    fn skip(&self, conn: u64, length: usize) {
        self.stage(conn, |conn| Command::Skip(conn, length));
    }

    fn switch(
        &self,
        conn: u64,
        key: Key,
        mesh_peer: bool,
        presence: Vec<u8>,
        told: (i64, u64, IpAddr, u16),
        first: Vec<u8>,
    ) {
        let role = if mesh_peer { Role::MeshPeer } else { Role::Client };
        let (version, number, ip, port) = told;
        let remote = SocketAddr::new(ip, port);
        let member = LoginInfo { key, role, presence: presence.into(), version, number, remote };
        self.stage(conn, |conn| Command::Switch { conn, member, first });
    }

    fn close(&self, conn: u64, code: &str, detail: String) -> PyResult<()> {
        let reason = reason(code, detail)?;
        self.stage(conn, |conn| Command::Close(conn, reason));
        Ok(())
    }

    fn write_to(&self, key: Key, frames: Vec<u8>) -> PyResult<()> {
        self.after_staged(|plane| plane.act_on_key(key, &MemberAction::Write(frames.into())))
    }

    fn write_all(&self, frames: Vec<u8>, spare_mesh_peers: bool) -> PyResult<()> {
        self.after_staged(|plane| plane.act_on_all(&MemberAction::Write(frames.into()), spare_mesh_peers))
    }

    fn close_key(&self, key: Key, frames: Vec<u8>, code: &str, detail: String) -> PyResult<()> {
        let action = MemberAction::Close(frames.into(), reason(code, detail)?);
        self.after_staged(|plane| plane.act_on_key(key, &action))
    }

    fn close_all(&self, frames: Vec<u8>, code: &str, detail: String, spare_mesh_peers: bool) -> PyResult<()> {
        let action = MemberAction::Close(frames.into(), reason(code, detail)?);
        self.after_staged(|plane| plane.act_on_all(&action, spare_mesh_peers))
    }

    fn report(&self, report: u64) -> PyResult<()> {
        self.after_staged(|plane| plane.report(report))
    }

    fn flush(&self) -> PyResult<()> {
        self.after_staged(|_| ())
    }

    fn counters(&self) -> PyResult<Vec<(&'static str, u64)>> {
        self.with(|plane| plane.counters())
    }

    fn stun_counters(&self) -> PyResult<Vec<(&'static str, u64)>> {
        self.with(|plane| plane.stun_counters())
    }

    fn drops(&self) -> PyResult<Vec<(&'static str, &'static str, u64, u64)>> {
        self.with(|plane| plane.drops().into_iter().map(|d| (d.reason, d.kind, d.packets, d.bytes)).collect())
    }

    fn histograms(&self) -> PyResult<Vec<HistogramTuple>> {
        let tuple =
            |spread: HistogramSnapshot| (spread.name, spread.bounds.to_vec(), spread.counts, spread.sum);
        self.with(|plane| plane.histograms().into_iter().map(tuple).collect())
    }

    fn average_queue_ms(&self) -> PyResult<f64> {
        self.with(|plane| plane.average_queue_ms())
    }

    fn table_counts(&self) -> PyResult<(usize, usize, usize, usize, usize, usize)> {
        let counts = self.with(|plane| plane.switchboard().counts())?;
        let TableCounts {
            connections,
            keys_local,
            keys_total,
            duplicate_keys,
            duplicate_connections,
            watchers,
        } = counts;
        Ok((connections, keys_local, keys_total, duplicate_keys, duplicate_connections, watchers))
    }

    fn audit(&self) -> PyResult<(usize, usize, usize)> {
        let Audit { counted, in_table, stray_keys } = self.with(|plane| plane.switchboard().audit())?;
        Ok((counted, in_table, stray_keys))
    }

    fn pulse(&self) -> PyResult<Vec<u64>> {
        self.with(|plane| plane.pulse())
    }

    fn panic(&self, shard: usize) -> PyResult<()> {
        self.with(|plane| plane.submit_to(shard, [Command::Panic]))
    }

    fn stop(&self, py: Python<'_>) {
        let running = lock(&self.running).take();
        if let Some(mut plane) = running {
            py.detach(|| plane.stop());
        }
    }
}

const HEAD: u8 = 0;
const HEAD_TOO_LARGE: u8 = 1;
const FRAME: u8 = 2;
const DATA: u8 = 3;
const DRAINED: u8 = 4;
const SWITCHED: u8 = 5;
const CLOSED: u8 = 6;
const ACCEPT_FAILED: u8 = 7;
const DIALLED: u8 = 8;
const CONNECTED: u8 = 9;
const DROPPED: u8 = 10;
const STUN_FAILED: u8 = 11;
const LINKED: u8 = 12;
const UNSERVED: u8 = 15;
const MEMBERS: u8 = 13;
const CLIENT_IMPAIRED: u8 = 14;

fn tuple(py: Python<'_>, event: Event) -> PyResult<Bound<'_, PyAny>> {
    let bytes = |bytes: &[u8]| PyBytes::new(py, bytes);
    let end = |address: std::net::SocketAddr| (address.ip().to_string(), address.port());
    Ok(match event {
        Event::Head { conn, head, ahead, remote, is_anonymous, local, listener, tls } => {
            let (ip, port) = end(remote);
            let (head, remote) = ((bytes(&head), bytes(&ahead)), (ip, port, is_anonymous));
            (HEAD, conn.as_u64(), head, remote, end(local), listener, tls).into_pyobject(py)?.into_any()
        }
        Event::HeadTooLarge { conn, remote, listener } => {
            (HEAD_TOO_LARGE, conn.as_u64(), end(remote), listener).into_pyobject(py)?.into_any()
        }
        Event::Frame { conn, kind, payload } => {
            (FRAME, conn.as_u64(), kind, bytes(&payload)).into_pyobject(py)?.into_any()
        }
        Event::Data { conn, bytes: data } => {
            (DATA, conn.as_u64(), bytes(&data)).into_pyobject(py)?.into_any()
        }
        Event::Drained { conn } => (DRAINED, conn.as_u64()).into_pyobject(py)?.into_any(),
        Event::Switched { conn, member } => {
            (SWITCHED, conn.as_u64(), member.as_u64()).into_pyobject(py)?.into_any()
        }
        Event::Closed { conn, remote, key, reason, totals } => {
            let key = key.map(|key| bytes(&key));
            (CLOSED, conn.as_u64(), end(remote), key, reason.code.as_str(), reason.detail, carried(totals))
                .into_pyobject(py)?
                .into_any()
        }
        Event::Dialled { token, conn } => (DIALLED, conn.as_u64(), token).into_pyobject(py)?.into_any(),
        Event::Connected { conn, chain } => {
            let chain: Vec<_> = chain.iter().map(|certificate| bytes(certificate)).collect();
            (CONNECTED, conn.as_u64(), chain).into_pyobject(py)?.into_any()
        }
        Event::Linked { conn } => (LINKED, conn.as_u64()).into_pyobject(py)?.into_any(),
        Event::Members { report, members, is_last } => {
            let members =
                members.into_iter().map(|member| snapshot(py, &member)).collect::<PyResult<Vec<_>>>()?;
            (MEMBERS, report, members, is_last).into_pyobject(py)?.into_any()
        }
        Event::ClientImpaired { conn, key, how, is_over } => {
            (CLIENT_IMPAIRED, conn.as_u64(), bytes(&key), how.name(), is_over).into_pyobject(py)?.into_any()
        }
        Event::Dropped { to, reason, bytes: len } => {
            (DROPPED, bytes(&to), reason, len).into_pyobject(py)?.into_any()
        }
        Event::AcceptFailed { shard, error } => (ACCEPT_FAILED, shard, error).into_pyobject(py)?.into_any(),
        Event::Unserved(Missing { name, local }) => {
            (UNSERVED, name, local.to_string()).into_pyobject(py)?.into_any()
        }
        Event::StunFailed { error } => (STUN_FAILED, error).into_pyobject(py)?.into_any(),
    })
}

fn carried(totals: Totals) -> (u64, u64, u64, u64) {
    let Totals { packets_in, bytes_in, packets_out, bytes_out } = totals;
    (packets_in, bytes_in, packets_out, bytes_out)
}

fn snapshot<'py>(py: Python<'py>, snapshot: &MemberSnapshot) -> PyResult<Bound<'py, PyAny>> {
    let member = &snapshot.member;
    let login =
        (PyBytes::new(py, &member.presence), member.role == Role::MeshPeer, member.version, member.number);
    let how = (snapshot.age_ms, snapshot.is_active, snapshot.is_duplicate, snapshot.is_home);
    let over = (snapshot.tls, snapshot.is_websocket);
    let wire = (snapshot.wire.received, snapshot.wire.sent);
    let tuple = (snapshot.conn.as_u64(), login, how, over, carried(snapshot.totals), wire, snapshot.senders);
    Ok(tuple.into_pyobject(py)?.into_any())
}

/// A private key, parsed once for many logins.
#[pyclass(frozen)]
struct SharedKeyDeriver(relay::SharedKeyDeriver);

#[pymethods]
impl SharedKeyDeriver {
    #[new]
    fn new(private: Key) -> PyResult<Self> {
        relay::SharedKeyDeriver::new(&private)
            .map(Self)
            .ok_or_else(|| PyValueError::new_err("no private key"))
    }

    fn shared_with<'py>(&self, py: Python<'py>, public: Key) -> PyResult<Bound<'py, PyBytes>> {
        let shared = self.0.shared_with(&public);
        shared
            .map(|key| PyBytes::new(py, &key))
            .ok_or_else(|| PyValueError::new_err("a public key of low order"))
    }
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Plane>()?;
    module.add_class::<SharedKeyDeriver>()?;
    module.add("VERSION", env!("CARGO_PKG_VERSION"))?;
    let reasons: Vec<_> = CloseReason::ALL.iter().map(|reason| reason.as_str()).collect();
    module.add("CLOSE_REASONS", reasons)?;
    for (name, kind) in [
        ("HEAD", HEAD),
        ("HEAD_TOO_LARGE", HEAD_TOO_LARGE),
        ("FRAME", FRAME),
        ("DATA", DATA),
        ("DRAINED", DRAINED),
        ("SWITCHED", SWITCHED),
        ("CLOSED", CLOSED),
        ("ACCEPT_FAILED", ACCEPT_FAILED),
        ("DIALLED", DIALLED),
        ("CONNECTED", CONNECTED),
        ("DROPPED", DROPPED),
        ("STUN_FAILED", STUN_FAILED),
        ("LINKED", LINKED),
        ("UNSERVED", UNSERVED),
        ("MEMBERS", MEMBERS),
        ("CLIENT_IMPAIRED", CLIENT_IMPAIRED),
    ] {
        module.add(name, kind)?;
    }
    Ok(())
}
