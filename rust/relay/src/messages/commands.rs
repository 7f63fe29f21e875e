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

/// A command to a shard. A command for a connection that is gone, or in another state than it needs, has no effect.
pub enum Command {
    /// Queue bytes: of an HTTP answer, or whole frames for a switched connection.
    Write {
        /// The connection.
        conn: ConnId,
        /// The bytes.
        bytes: Vec<u8>,
        /// Whether to send [`Event::Drained`] after they have left.
        tell_drained: bool,
    },
    /// Read a request head.
    AwaitHead(ConnId),
    /// Frame the stream as WebSocket from here on, in both directions.
    BeginWebsocket(ConnId),
    /// Read one frame of at most this many payload bytes.
    AwaitFrame(ConnId, usize),
    /// Pass the next bytes of this number to Python as they come.
    AwaitBody(ConnId, u64),
    /// Pass all bytes to Python until the connection ends.
    Stream(ConnId),
    /// Python has used this many bytes of the body or of the stream: more may be read.
    Consumed(ConnId, usize),
    /// Drop this many bytes that came early on a parked connection: an event has reported them.
    Skip(ConnId, usize),
    /// Relay from now on; `first` is written before any packet.
    Switch {
        /// The connection.
        conn: ConnId,
        /// Its login.
        member: LoginInfo,
        /// Whole frames.
        first: Vec<u8>,
    },
    /// Begin a TLS handshake as the client on a connected socket. [`Event::Dialled`] returns `token`.
    Dial {
        /// The dialler's identifier for the connection.
        token: u64,
        /// The socket, connected.
        socket: OwnedFd,
        /// The other end.
        remote: SocketAddr,
        /// The client's end of TLS.
        session: Box<Session>,
    },
    /// Use the connection as a link, after the dialled node has accepted our login: send packets over it, and accept
    /// its keys.
    Link {
        /// The connection.
        conn: ConnId,
        /// Whole frames, written before anything else.
        first: Vec<u8>,
    },
    /// Write what is queued, then close.
    Close(ConnId, Reason),
    /// Close a connection at once, to make room for another. Sent by one shard to another.
    Evict(ConnId),
    /// Apply this action to every connection of a key.
    ToKey(Key, MemberAction),
    /// Apply an action to every client of the shard, and to its mesh peers unless they are spared.
    ToAll {
        /// The action.
        action: MemberAction,
        /// Whether mesh peers are spared.
        spare_mesh_peers: bool,
    },
    /// Report snapshots of all members of the shard, in events with this number.
    Report(u64),
    /// Accept on this listener from now on.
    Listen(ListenerId, Arc<Listener>),
    /// Stop accepting on this listener, and close the socket.
    Unlisten(ListenerId),
    /// Limit the reads from clients to these rates from now on.
    LimitClients(Arc<Limits>),
    /// Run a tick.
    Pulse,
    /// End the shard; its connections are closed.
    Stop,
    /// Panic as a bug would, for tests.
    Panic,
}
