//! A connection's first bytes: the PROXY header, and the TLS client hello, which decides its certificate.

use crate::id::ConnId;
use crate::io::epoll::Net;
use crate::messages::{CloseReason, Event, Reason};
use crate::shard::conn::{Ends, Stage, Transport};
use crate::tls::certificates::Choice;
use crate::tls::client_hello::{Parsed, parse_records};
use crate::tls::session::{MAX_PARTIAL, Session};
use crate::wire::proxy::{self, Header};

use super::Shard;

/// The answer to an HTTP request on a TLS port.
const PLAIN_HTTP_ON_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis port speaks HTTPS.\n";
/// The fatal alert `unrecognized_name` (RFC 6066, 3), as a record.
const UNRECOGNIZED_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

impl<N: Net> Shard<N> {
    /// Applies the PROXY header once it is whole, and continues with the bytes after it.
    pub(super) fn read_proxy_header(
        &mut self,
        id: ConnId,
        tls: bool,
        per_ip: Option<u32>,
    ) -> Result<(), Reason> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        let (len, ends) = match proxy::read(&conn.input) {
            Header::Part => return Ok(()),
            Header::Wrong(why) => return Err(Reason::with(CloseReason::ProxyHeader, why)),
            Header::Whole(len, ends) => (len, ends),
        };
        conn.input.drain(..len);
        conn.is_anonymous = ends.is_none();
        conn.stage = if tls { Stage::ClientHello } else { Stage::Head { scanned: 0 } };
        if let Some(Ends { remote, local }) = ends {
            (conn.remote, conn.local) = (remote, local);
            if let Some(permit) = &mut conn.permit {
                permit.is_for(remote.ip());
            }
            if let (Some(most), Some(permit)) = (per_ip, &mut conn.permit)
                && !permit.come_from(remote.ip(), most)
            {
                // The connection is dropped without an answer, as a connection without a proxy would be.
                self.remove(id);
                self.counters().connections_rejected_per_ip.add(1);
                return Ok(());
            }
        }
        self.advance(id)
    }

    /// Ends a connection that begins with a PROXY header but does not come from a proxy.
    pub(super) fn refuse_proxy_header(&mut self, id: ConnId) {
        self.close(id, Reason::with(CloseReason::ProxyHeader, "from an address that is no proxy's"));
    }

    /// Begins TLS once the client's first message is whole.
    pub(super) fn answer_hello(&mut self, id: ConnId) -> Result<(), Reason> {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        match proxy::begins(&conn.input) {
            Some(true) => {
                self.refuse_proxy_header(id);
                return Ok(());
            }
            None => return Ok(()),
            Some(false) => {}
        }
        if conn.input.first().is_some_and(u8::is_ascii_uppercase) {
            // No TLS record begins with a letter; a request line does.
            self.control(id, PLAIN_HTTP_ON_TLS);
            self.close(id, Reason::code(CloseReason::PlainHttpOnTls));
            return Ok(());
        }
        let certificates = &self.shared.certificates;
        let config = match parse_records(&conn.input) {
            Parsed::Part if conn.input.len() <= MAX_PARTIAL => return Ok(()),
            Parsed::Part | Parsed::Invalid => certificates.rejecting(),
            Parsed::Whole(hello) => match certificates.choose(hello.clone(), conn.local.ip(), now) {
                Choice::Serve(config) => config,
                Choice::Refuse(missing) => {
                    self.events.extend(missing.map(Event::Unserved));
                    self.commit(id, UNRECOGNIZED_NAME);
                    self.flush(id);
                    return Err(Reason::with(CloseReason::NoCertificate, hello.wanted.to_string()));
                }
            },
        };
        let session = Session::accept(config)
            .map_err(|error| Reason::with(CloseReason::TlsError, error.to_string()))?;
        conn.transport = Transport::Tls(Box::new(session));
        conn.stage = Stage::Handshake;
        let first = std::mem::take(&mut conn.input);
        self.begin_handshake(id, first)
    }
}
