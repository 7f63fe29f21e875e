//! Commands from Python to a shard.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::id::ConnId;
use crate::io::listener::{Listener, ListenerId};
use crate::limits::rates::Limits;
use crate::tls::session::Session;
use crate::wire::frame::Key;

use super::member::{LoginInfo, Reason};
use super::snapshot::MemberAction;

/// What Python says. A command for a connection that is gone, or not in a state for it, does nothing.
pub enum Command {
    /// Queue bytes: of an HTTP answer, or whole frames for a switched connection.
    Write {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether to say [`Event::Drained`] when they have left.
        tell_drained: bool,
    },
    /// Collect a request head.
    AwaitHead(ConnId),
    /// The stream is WebSocket from here on, both ways.
    BeginWebsocket(ConnId),
    /// Collect one frame of at most so many payload bytes.
    AwaitFrame(ConnId, usize),
    /// Hand over the next so many bytes as they come.
    AwaitBody(ConnId, u64),
    /// Hand over whatever comes, until the connection ends.
    Stream(ConnId),
    /// So many bytes of the body or of the stream have been used: more may be read.
    Consumed(ConnId, usize),
    /// So much of what has come ahead on a parked connection was read in an event.
    Skip(ConnId, usize),
    /// Relay from now on; `first` is written before any packet.
    Switch {
        /// The connection.
        conn: ConnId,
        /// Who it is.
        member: LoginInfo,
        /// Whole frames.
        first: Vec<u8>,
    },
    /// Shake hands as a TLS client on a connected socket; `token` is said back.
    Dial {
        /// Whatever tells the dialler its connections apart.
        token: u64,
        /// The socket, connected.
        socket: OwnedFd,
        /// The other end.
        remote: SocketAddr,
        /// The client's end of TLS.
        session: Box<Session>,
    },
    /// The node that was dialled has let us in: forward to it, and believe what it announces.
    Link {
        /// The connection.
        conn: ConnId,
        /// Whole frames, written before anything else.
        first: Vec<u8>,
    },
    /// Write what is queued, then close.
    Close(ConnId, Reason),
    /// Close a connection at once, to make room for another; one shard sends this to another.
    Evict(ConnId),
    /// Do this to every connection of a key.
    ToKey(Key, MemberAction),
    /// Do this to every client of the shard, and to its mesh peers if these are not spared.
    ToAll {
        /// What.
        action: MemberAction,
        /// Whether connections of other nodes are left alone.
        spare_mesh_peers: bool,
    },
    /// Say how every member of the shard stands, in events that bear this number.
    Report(u64),
    /// Accept on this listener from now on.
    Listen(ListenerId, Arc<Listener>),
    /// Stop accepting there, and let go of the socket.
    Unlisten(ListenerId),
    /// Read no more than this from clients from now on.
    LimitClients(Arc<Limits>),
    /// Tick.
    Pulse,
    /// End the shard; its connections are dropped.
    Stop,
    /// Fail as a bug would: for the tests of what happens then.
    Panic,
}
