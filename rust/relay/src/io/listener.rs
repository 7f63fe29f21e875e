//! Listening sockets, and the limit of what they accept.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use crate::limits::bucket::{Bucket, Rate};
use crate::wire::proxy::Network;

/// Names a listener.
pub type ListenerId = u32;

/// A listening socket that all shards accept from.
#[derive(Debug)]
pub struct Listener {
    /// The socket, bound and listening. Accepted sockets inherit the options that are set on it.
    pub socket: OwnedFd,
    /// Whether TLS is spoken there.
    pub tls: bool,
    /// How many connections are taken; the others are closed at once.
    pub limit: Option<Mutex<AcceptLimit>>,
    /// Whence connections begin with a PROXY header, all of them; from elsewhere none may.
    pub proxies: Vec<Network>,
    /// Networks of HTTP proxies: each of their connections belongs to another client.
    pub trusted: Vec<Network>,
    /// How many connections one address may have, wherever they came in.
    pub per_ip: Option<u32>,
}

/// How many connections a listener takes.
#[derive(Debug)]
pub struct AcceptLimit {
    rate: Rate,
    bucket: Bucket,
}

impl AcceptLimit {
    /// So many a second, after a burst.
    #[must_use]
    pub const fn new(rate: Rate) -> Self {
        Self { rate, bucket: Bucket::full() }
    }
}

impl Listener {
    /// Whether one more connection may come in.
    pub(crate) fn admits(&self, now: u64) -> bool {
        self.limit.as_ref().is_none_or(|limit| {
            let mut limit = limit.lock().unwrap_or_else(PoisonError::into_inner);
            let rate = limit.rate;
            limit.bucket.take(rate, 1.0, now).is_ok()
        })
    }
}
