//! TLS: the client hello, the choice of a certificate, the handshake (by rustls), and our own record layer after it.

pub(crate) mod certificates;
pub(crate) mod client_hello;
pub(crate) mod records;
pub(crate) mod session;
