//! The server that a client connects to.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;

/// An address, and the protocols below DERP.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// None: plain HTTP.
    pub(crate) tls: Option<Arc<ClientConfig>>,
    /// Connect over WebSocket, as a browser does.
    pub(crate) websocket: bool,
}
