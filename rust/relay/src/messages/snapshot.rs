//! Snapshots of members, and actions on them: by key, or on all at once.

use std::sync::Arc;

use crate::id::ConnId;
use crate::messages::{LoginInfo, Reason, Totals};

/// How a member stands at one moment.
#[derive(Clone, Debug)]
pub struct MemberSnapshot {
    /// Its name.
    pub conn: ConnId,
    /// Who it is.
    pub member: LoginInfo,
    /// Milliseconds since its login.
    pub age_ms: u64,
    /// Whether it gets its key's packets.
    pub is_active: bool,
    /// Whether its key has other connections, too.
    pub is_duplicate: bool,
    /// Whether it said that this node is its home.
    pub is_home: bool,
    /// "1.2" or "1.3", or none without TLS.
    pub tls: Option<&'static str>,
    /// Whether it speaks WebSocket.
    pub is_websocket: bool,
    /// The packets it carried.
    pub totals: Totals,
    /// What its TCP connection carried since its start, TLS and HTTP included.
    pub wire: Wire,
    /// About how many keys have sent to its key; 0 where that is not counted.
    pub senders: u64,
}

/// Bytes that a socket took and gave.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Wire {
    /// Bytes read.
    pub received: u64,
    /// Bytes written.
    pub sent: u64,
}

/// Something that is done to members.
#[derive(Clone, Debug)]
pub enum MemberAction {
    /// Queue these whole frames.
    Write(Arc<[u8]>),
    /// Write these whole frames after what is queued, then close.
    Close(Arc<[u8]>, Reason),
}

/// What a connection may have a hard time with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Impairment {
    /// It is held back by a rate limit, half of the time or more.
    Limited,
    /// It takes the active place of its key from another connection, again and again.
    Fighting,
}

impl Impairment {
    pub(crate) const ALL: [Self; 2] = [Self::Limited, Self::Fighting];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limited => "limited",
            Self::Fighting => "fighting",
        }
    }
}
