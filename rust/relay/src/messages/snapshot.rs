//! Snapshots of members, and actions on them: by key, or on all at once.

use std::sync::Arc;

use crate::id::ConnId;
use crate::messages::{LoginInfo, Reason, Totals};

/// The state of a member at one moment.
#[derive(Clone, Debug)]
pub struct MemberSnapshot {
    /// Its id.
    pub conn: ConnId,
    /// Its login.
    pub member: LoginInfo,
    /// Milliseconds since its login.
    pub age_ms: u64,
    /// Whether it is the active connection of its key.
    pub is_active: bool,
    /// Whether its key has other connections.
    pub is_duplicate: bool,
    /// Whether its last `NotePreferred` frame made this node its home.
    pub is_home: bool,
    /// "1.2" or "1.3"; `None` without TLS.
    pub tls: Option<&'static str>,
    /// Whether its frames are WebSocket messages.
    pub is_websocket: bool,
    /// The packets that it carried.
    pub totals: Totals,
    /// Bytes of its TCP connection since its start, TLS and HTTP included.
    pub wire: Wire,
    /// Estimated number of keys that have sent to its key; 0 if senders are not counted.
    pub senders: u64,
}

/// Bytes read from and written to a socket.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Bytes read.
    pub received: u64,
    /// Bytes written.
    pub sent: u64,
}

/// An action on members.
#[derive(Clone, Debug)]
pub enum MemberAction {
    /// Queue these whole frames.
    Write(Arc<[u8]>),
    /// Write these whole frames after what is queued, then close.
    Close(Arc<[u8]>, Reason),
}

/// The kinds of impairment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Impairment {
    /// A rate limit delays the connection during half of the time or more.
    Limited,
    /// The connection repeatedly becomes its key's active connection in place of another.
    Fighting,
}

impl Impairment {
    pub(crate) const ALL: [Self; 2] = [Self::Limited, Self::Fighting];

    /// The name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limited => "limited",
            Self::Fighting => "fighting",
        }
    }
}
