//! Listening sockets, and the rate limit of their accepted connections.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use crate::limits::bucket::{Bucket, Rate};
use crate::wire::proxy::Network;

/// Identifies a listener.
pub type ListenerId = u32;

/// A listening socket that all shards accept from.
#[derive(Debug)]
pub struct Listener {
    /// The socket, bound and listening. Accepted sockets inherit the options that are set on it.
    pub socket: OwnedFd,
    /// Whether its connections use TLS.
    pub tls: bool,
    /// Limits accepted connections; connections above it are closed at once.
    pub limit: Option<Mutex<AcceptLimit>>,
    /// Networks of proxies: all connections from them begin with a PROXY header. Other connections must not.
    pub proxies: Vec<Network>,
    /// Networks of HTTP proxies: each of their connections belongs to another client.
    pub trusted: Vec<Network>,
    /// Maximum connections from one source address, over all listeners.
    pub per_ip: Option<u32>,
}

/// The rate limit of a listener's connections.
#[derive(Debug)]
pub struct AcceptLimit {
    rate: Rate,
    bucket: Bucket,
}

impl AcceptLimit {
    /// Creates a limit with this rate of connections.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { rate, bucket: Bucket::full() }
    }
}

impl Listener {
    /// Whether one more connection is accepted.
    pub(crate) fn admits(&self, now: u64) -> bool {
        self.limit.as_ref().is_none_or(|limit| {
            let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
            let rate = limit.rate;
            limit.bucket.take(rate, 1.0, now).is_ok()
        })
    }
}
