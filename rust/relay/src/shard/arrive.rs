//! A connection's first bytes: whom a TLS client wants decides which certificate it is shown, if any.

use crate::certificates::Choice;
use crate::conn::{Stage, Transport};
use crate::hello::{Heard, hear};
use crate::id::ConnId;
use crate::net::Net;
use crate::seam::{Event, Reason};
use crate::tls::{MAX_PARTIAL, Session};

use super::Shard;

/// What a web browser or a probe gets that speaks HTTP where TLS is spoken.
const PLAIN_HTTP_ON_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis port speaks HTTPS.\n";
/// The fatal alert `unrecognized_name` (RFC 6066, 3), as a record.
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

impl<N: Net> Shard<N> {
    /// Begins TLS once the client's first message is whole.
    pub(super) fn answer_hello(&mut self, id: ConnId) -> Result<(), Reason> {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        if conn.input.first().is_some_and(u8::is_ascii_uppercase) {
            // No TLS record begins with a letter; a request line does.
            self.control(id, PLAIN_HTTP_ON_TLS);
            self.close(id, Reason::code("plain_http_on_tls"));
            return Ok(());
        }
        let certificates = &self.shared.certificates;
        let config = match hear(&conn.input) {
            Heard::Part if conn.input.len() <= MAX_PARTIAL => return Ok(()),
            Heard::Part | Heard::Strange => certificates.judge(),
            Heard::Whole(hello) => match certificates.choose(hello.clone(), conn.local.ip(), now) {
                Choice::Serve(config) => config,
                Choice::Refuse(missing) => {
                    self.events.extend(missing.map(Event::Unserved));
                    self.commit(id, UNRECOGNIZED_NAME);
                    self.flush(id);
                    return Err(Reason::with("no_certificate", hello.wanted.to_string()));
                }
            },
        };
        let session =
            Session::accept(config).map_err(|error| Reason::with("tls_error", error.to_string()))?;
        conn.transport = Transport::Tls(Box::new(session));
        conn.stage = Stage::Handshake;
        let first = std::mem::take(&mut conn.input);
        self.greet(id, first)
    }
}
