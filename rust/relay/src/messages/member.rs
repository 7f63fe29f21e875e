//! The login of a member, its totals, and the reason of its end.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::wire::frame::Key;

use super::close_reason::CloseReason;

/// The permissions of a switched connection (`docs/protocol/mesh.md`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// An ordinary client.
    Client,
    /// It logged in with the mesh key: it may watch, forward and close.
    MeshPeer,
}

/// The result of a login.
#[derive(Clone, Debug)]
pub struct LoginInfo {
    /// Its public key.
    pub key: Key,
    /// Its permissions.
    pub role: Role,
    /// The whole `PeerPresent` frame that announces it to other nodes.
    pub presence: Arc<[u8]>,
    /// The protocol version that its ClientInfo names.
    pub version: i64,
    /// Its number among all connections that have logged in; it identifies the connection in logs and pages.
    pub number: u64,
    /// Its remote address.
    pub remote: SocketAddr,
}

/// Why a connection ended: a code, and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The code, for logs and metrics.
    pub code: CloseReason,
    /// The rest of the sentence; may be empty.
    pub detail: String,
}

impl Reason {
    pub(crate) const fn code(code: CloseReason) -> Self {
        Self { code, detail: String::new() }
    }

    pub(crate) fn with(code: CloseReason, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }
}

/// Packets of a switched connection: `SendPacket`s from it, `RecvPacket`s to it; bytes without key and header.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Packets read from it.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets written to it.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
}
