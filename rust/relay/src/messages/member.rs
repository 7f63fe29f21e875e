//! One member as both sides know it: its login, its totals, and why it ended.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::wire::frame::Key;

/// What a connection may do once it is switched (`docs/protocol/mesh.md`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// An ordinary client.
    Client,
    /// It logged in with the mesh key: it may watch, forward and close.
    MeshPeer,
}

/// Who a connection is, as the login settled it.
#[derive(Clone, Debug)]
pub struct LoginInfo {
    /// Its address.
    pub key: Key,
    /// What it may do.
    pub role: Role,
    /// How other nodes are told of it: a whole `PeerPresent` frame.
    pub presence: Arc<[u8]>,
    /// The version of the protocol that it said it speaks.
    pub version: i64,
    /// Its number among all connections that ever came to log in: whoever reads of it tells them apart by that.
    pub number: u64,
    /// Where it comes from, as its introduction settled it.
    pub remote: SocketAddr,
}

/// Why a connection ended: a code for metrics and logs, and what came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// One of a small set of words, `login_timeout` for instance.
    pub code: Cow<'static, str>,
    /// The rest of the sentence; may be empty.
    pub detail: String,
}

impl Reason {
    pub(crate) const fn code(code: &'static str) -> Self {
        Self { code: Cow::Borrowed(code), detail: String::new() }
    }

    pub(crate) fn with(code: &'static str, detail: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), detail: detail.into() }
    }
}

/// What a switched connection has carried: `SendPacket`s from it, `RecvPacket`s to it, bytes without key and header.
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
