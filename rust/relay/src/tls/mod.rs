//! TLS: the client's first message, the choice of a certificate, the handshake by rustls, and records of our own after it.

pub(crate) mod certificates;
pub(crate) mod client_hello;
pub(crate) mod records;
pub(crate) mod session;
