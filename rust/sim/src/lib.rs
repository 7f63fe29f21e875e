//! The simulated world for Python's tests. Its types are declared in `tests/switchboard/_sim.pyi`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

use pyo3::exceptions::PyAssertionError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use relay::messages::{CloseReason, Command, Event, MemberAction, Reason};
use relay::sim::{Ending, LoginKind, Party, World as Stepped, settings};
use relay::{Key, Settings};

/// A data plane without sockets, threads or a clock, and the parties that are connected to it.
#[pyclass(unsendable)]
struct World(Stepped);

thread_local! {
    static LAST_PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs code in which an invariant may fail; that raises an exception in the test.
fn held<T>(code: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(code)).map_err(|_| PyAssertionError::new_err(LAST_PANIC.take()))
}

#[pymethods]
impl World {
    #[new]
    #[pyo3(signature = (*, shards, seed, queue_depth, mailbox, write_timeout, mesh_write_timeout, link_write_timeout,
                        keep_alive, server_key))]
    #[expect(clippy::too_many_arguments, reason = "keywords on the Python side")]
    fn new(
        shards: usize,
        seed: u64,
        queue_depth: usize,
        mailbox: usize,
        write_timeout: u64,
        mesh_write_timeout: u64,
        link_write_timeout: u64,
        keep_alive: u64,
        server_key: Key,
    ) -> PyResult<Self> {
        let settings = Settings {
            queue_depth,
            mailbox,
            write_timeout,
            mesh_write_timeout,
            link_write_timeout,
            server_key,
            keep_alive,
            keep_alive_jitter: 0,
            // Nodes in histories send no keep-alives.
            link_silence: u64::MAX,
            ..settings(shards)
        };
        held(|| Self(Stepped::new(settings, seed)))
    }

    /// A new connection; `kind` is 0 for a client, 1 for a mesh peer, 2 for a dialled node.
    fn join(&mut self, key: Key, kind: u8, shard: usize, home: usize) -> Party {
        let kind = match kind {
            0 => LoginKind::Client,
            1 => LoginKind::MeshPeer,
            _ => LoginKind::Node,
        };
        self.0.join(&key, kind, shard, home)
    }

    fn send(&mut self, party: Party, data: &[u8]) {
        self.0.send(party, data);
    }

    fn receive<'py>(&mut self, py: Python<'py>, party: Party) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.receive(party))
    }

    fn unread(&self, party: Party) -> usize {
        self.0.unread(party)
    }

    fn set_room(&mut self, party: Party, room: Option<usize>) {
        self.0.set_room(party, room);
    }

    fn chop(&mut self, party: Party) {
        self.0.chop(party);
    }

    fn finish(&mut self, party: Party) {
        self.0.finish(party);
    }

    fn reset(&mut self, party: Party) {
        self.0.reset(party);
    }

    /// Closes the party's connection as Python would.
    fn close(&self, party: Party) {
        if let Some(conn) = self.0.conn(party) {
            self.0.submit([(
                conn,
                Command::Close(conn, Reason { code: CloseReason::Operator, detail: String::new() }),
            )]);
        }
    }

    /// Writes frames to every connection of a key as Python would.
    fn write_to(&self, key: Key, frames: &[u8]) {
        self.0.submit_to_all(|| Command::ToKey(key, MemberAction::Write(frames.into())));
    }

    /// Writes frames to every client as Python would.
    fn write_all(&self, frames: &[u8]) {
        self.0.submit_to_all(|| Command::ToAll {
            action: MemberAction::Write(frames.into()),
            spare_mesh_peers: true,
        });
    }

    /// Closes every connection of a key as Python would.
    fn close_key(&self, key: Key) {
        let reason = Reason { code: CloseReason::Refused, detail: String::new() };
        self.0.submit_to_all(|| Command::ToKey(key, MemberAction::Close([].into(), reason.clone())));
    }

    fn is_open(&self, party: Party) -> bool {
        self.0.ending(party) == Ending::Open
    }

    fn is_switched(&self, party: Party) -> bool {
        self.0.is_switched(party)
    }

    fn step(&mut self) -> PyResult<bool> {
        held(|| self.0.step())
    }

    /// Runs until idle. Returns the numbers of disco and other packets that are queued for sockets then.
    fn run(&mut self) -> PyResult<(usize, usize)> {
        let counts = held(|| self.0.run())?;
        Ok((counts.queued_disco, counts.queued_other))
    }

    fn pass_time(&mut self, ms: u64) -> PyResult<()> {
        held(|| self.0.pass(ms))
    }

    /// The counters that are not 0.
    fn counters(&self) -> HashMap<&'static str, u64> {
        self.0.counters().into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Non-zero numbers of dropped packets and bytes, by reason and kind.
    fn drops(&self) -> HashMap<(&'static str, &'static str), (u64, u64)> {
        let drops = self.0.drops().into_iter().filter(|drops| drops.packets > 0);
        drops.map(|drops| ((drops.reason, drops.kind), (drops.packets, drops.bytes))).collect()
    }

    /// Connections, local keys, all keys, keys with several connections, connections of such keys, watchers.
    fn board(&self) -> (usize, usize, usize, usize, usize, usize) {
        let board = self.0.board();
        let duplicate = (board.duplicate_keys, board.duplicate_connections);
        (board.connections, board.keys_local, board.keys_total, duplicate.0, duplicate.1, board.watchers)
    }

    /// The parties whose connections have ended since the last call, with the reason codes.
    fn endings(&mut self) -> Vec<(Party, String)> {
        let closed = |event| match event {
            Event::Closed { remote, reason, .. } => {
                Some((Party::from(remote.port()), reason.code.as_str().to_owned()))
            }
            _ => None,
        };
        self.0.events().into_iter().filter_map(closed).collect()
    }
}

#[pymodule]
fn _sim(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // A test that shrinks its history panics a thousand times before it reports.
    set_hook(Box::new(|info| LAST_PANIC.set(info.to_string())));
    module.add_class::<World>()
}
