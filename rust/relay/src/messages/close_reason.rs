//! Why a connection ended: the codes of `reason=` in the log, the same as Python's `CloseReason`.

/// Makes the enum and its texts from one list.
macro_rules! close_reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal,)*) => {
        /// Why a connection ended, for logs and metrics.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum CloseReason {
            $($(#[doc = $doc])* $name,)*
        }

        impl CloseReason {
            /// All of them, in the order of their codes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code, as the log writes it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }
        }
    };
}

close_reasons! {
    /// An ACME server validated a TLS-ALPN-01 challenge.
    AcmeChallenge = "acme_challenge",
    /// The request head was malformed, or its target cannot be served.
    BadRequest = "bad_request",
    /// An internal error while the connection was handled.
    Bug = "bug",
    /// Another node of the region closed it, with the mesh key.
    ClosedByMeshPeer = "closed_by_mesh_peer",
    /// The destination of a CONNECT tunnel (`-ace`) could not be reached.
    ConnectFailed = "connect_failed",
    /// A CONNECT tunnel to this destination is not allowed.
    ConnectRefused = "connect_refused",
    /// The answer was written, or the other node's link is no longer needed.
    Done = "done",
    /// This server drains before it stops.
    Draining = "draining",
    /// The peer closed its side.
    Eof = "eof",
    /// It made room for a new connection, because too many had not logged in, or too many tunnels were open.
    Evicted = "evicted",
    /// The request head was too large.
    HeadTooLarge = "head_too_large",
    /// No request came in time on an HTTP connection.
    Idle = "idle",
    /// The login frame was malformed, too long, or sealed for another server key.
    LoginFailed = "login_failed",
    /// No whole login frame came in time.
    LoginTimeout = "login_timeout",
    /// No certificate matches the name that the TLS client sent.
    NoCertificate = "no_certificate",
    /// The system had no memory or descriptors for it.
    NoResources = "no_resources",
    /// An operator disconnected the client.
    Operator = "operator",
    /// Plain HTTP came on the TLS port.
    PlainHttpOnTls = "plain_http_on_tls",
    /// The peer broke the protocol.
    ProtocolError = "protocol_error",
    /// The PROXY header was missing, malformed or late, or came from an address that is not a proxy's.
    ProxyHeader = "proxy_header",
    /// Admission rejected the client, or the WebSocket lacks the subprotocol `derp`.
    Refused = "refused",
    /// The connection was reset.
    Reset = "reset",
    /// The TLS handshake, the request head or the request body was not complete in time.
    SetupTimeout = "setup_timeout",
    /// A link or member sent nothing, not even a keep-alive, for its time limit.
    Silent = "silent",
    /// This server stopped.
    Stopped = "stopped",
    /// A tunnel or stream passed its time limit.
    Timeout = "timeout",
    /// The TLS handshake or a record failed.
    TlsError = "tls_error",
    /// The client reads too slowly, and its frames fill the memory limit.
    Unread = "unread",
    /// The client accepted no data for `-tcp-write-timeout`.
    WriteTimeout = "write_timeout",
}

impl CloseReason {
    /// Returns the reason with this code, if there is one.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == code)
    }
}
