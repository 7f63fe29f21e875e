//! The choice of a TLS client's certificate (`docs/protocol/tls.md`), and reports of missing ones.
//!
//! Each certificate has a TLS configuration of its own, made when it is set. A connection gets one of them, and keeps
//! it when the certificates are replaced.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, ResolvesServerCertUsingSni};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::tls::client_hello::{ACME_TLS_1, ClientHello, Wanted};
use crate::tls::session::{TlsError, VERSIONS, provider};

/// The application protocol, for ALPN (RFC 7301).
const HTTP_1_1: &[u8] = b"http/1.1";
/// Milliseconds before the same missing certificate is reported again.
const SILENCE_MS: u64 = 1_000;
/// Missing certificates reported in that time, so that a flood of names has a bounded cost.
const MAX_MISSING: usize = 64;

/// The clients that a certificate is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Serves {
    /// Clients that want this name; case-insensitive.
    Name(String),
    /// All clients without a better certificate.
    Any,
    /// Clients that connected to this local address, and want no name or this address.
    LocalIp(IpAddr),
    /// An ACME server that validates this name over TLS (RFC 8737).
    Challenge(String),
}

/// A certificate from Python.
pub struct Certificate {
    /// The clients that it is for.
    pub serves: Serves,
    /// DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's private key: PKCS#8, SEC1 or PKCS#1 DER.
    pub key: Vec<u8>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("serves", &self.serves).finish_non_exhaustive()
    }
}

/// A wanted certificate that is not set: for this name, or, without a name, for this local address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Missing {
    /// The wanted name, in lower case.
    pub name: Option<String>,
    /// The local address of the connection.
    pub local: IpAddr,
}

/// The choice for one client.
pub(crate) enum Choice {
    /// Serve it with this configuration.
    Serve(Arc<ServerConfig>),
    /// Reject it. `Some`: report this missing certificate, which was not reported lately.
    Refuse(Option<Missing>),
}

/// The certificates in force, replaced as a whole while connections come in.
#[derive(Default)]
struct Certificates {
    any: Option<Arc<ServerConfig>>,
    by_name: HashMap<String, Arc<ServerConfig>>,
    by_ip: HashMap<IpAddr, Arc<ServerConfig>>,
    challenges: HashMap<String, Arc<ServerConfig>>,
}

impl Certificates {
    fn choose(&self, hello: &ClientHello, local: IpAddr) -> Option<Arc<ServerConfig>> {
        if let (true, Wanted::Name(name)) = (hello.offers_challenge, &hello.wanted)
            && let Some(challenge) = self.challenges.get(name)
        {
            return Some(Arc::clone(challenge));
        }
        let fits = match &hello.wanted {
            Wanted::Name(name) => self.by_name.get(name),
            Wanted::Ip(ip) if *ip != local => None,
            Wanted::Ip(_) | Wanted::AnyName => self.by_ip.get(&local),
        };
        fits.or(self.any.as_ref()).cloned()
    }
}

/// The certificates of all connections; Python replaces them.
pub struct CertificateStore {
    current: RwLock<Certificates>,
    /// Missing certificates that were reported lately, and when.
    missing: Mutex<HashMap<Missing, u64>>,
    provider: Arc<CryptoProvider>,
    /// A configuration without certificates: it answers an invalid first message with the right alert.
    rejecting: Arc<ServerConfig>,
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore").finish_non_exhaustive()
    }
}

impl CertificateStore {
    /// Creates a store without certificates.
    pub(crate) fn new() -> Result<Self, TlsError> {
        let provider = provider();
        let rejecting = server_config(&provider, Arc::new(ResolvesServerCertUsingSni::new()), HTTP_1_1)?;
        Ok(Self { current: RwLock::default(), missing: Mutex::default(), provider, rejecting })
    }

    /// Replaces all certificates, from the next handshake on.
    ///
    /// # Errors
    /// If a key has an unsupported type, or does not match its certificate.
    pub fn replace(&self, certificates: Vec<Certificate>) -> Result<(), String> {
        let mut next = Certificates::default();
        for Certificate { serves, chain, key } in certificates {
            let chain = chain.into_iter().map(CertificateDer::from).collect();
            let key = PrivateKeyDer::try_from(key).map_err(str::to_owned)?;
            let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
            let certified = CertifiedKey::new(chain, key);
            // We make the certificates of challenges. They have a critical extension that the check does not support.
            if !matches!(serves, Serves::Challenge(_)) {
                certified.keys_match().map_err(|error| error.to_string())?;
            }
            // A client that offers only other protocols is rejected (RFC 7301, 3.2); one that offers none is accepted.
            let protocol = if matches!(serves, Serves::Challenge(_)) { ACME_TLS_1 } else { HTTP_1_1 };
            let resolver = Arc::new(SingleCertAndKey::from(certified));
            let config = server_config(&self.provider, resolver, protocol).map_err(|e| e.to_string())?;
            match serves {
                Serves::Any => next.any = Some(config),
                Serves::Name(name) => drop(next.by_name.insert(name.to_ascii_lowercase(), config)),
                Serves::LocalIp(ip) => drop(next.by_ip.insert(ip.to_canonical(), config)),
                Serves::Challenge(name) => drop(next.challenges.insert(name.to_ascii_lowercase(), config)),
            }
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Chooses the certificate of a client that connected to `local`.
    pub(crate) fn choose(&self, hello: ClientHello, local: IpAddr, now: u64) -> Choice {
        let chosen = self.current.read().unwrap_or_else(PoisonError::into_inner).choose(&hello, local);
        if let Some(config) = chosen {
            return Choice::Serve(config);
        }
        let name = match hello.wanted {
            Wanted::Name(name) => Some(name),
            // Another address is not ours.
            Wanted::Ip(ip) if ip != local => return Choice::Refuse(None),
            Wanted::Ip(_) | Wanted::AnyName => None,
        };
        let missing = Missing { name, local };
        let mut reported = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        reported.retain(|_, at| now < *at + SILENCE_MS);
        // Clients choose names freely, but not addresses: missing certificates for addresses are always reported.
        let is_known =
            reported.contains_key(&missing) || (missing.name.is_some() && reported.len() >= MAX_MISSING);
        if is_known {
            return Choice::Refuse(None);
        }
        reported.insert(missing.clone(), now);
        Choice::Refuse(Some(missing))
    }

    /// The configuration for a client with an invalid first message.
    pub(crate) fn rejecting(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.rejecting)
    }
}

/// The configuration of accepted sessions: TLS 1.2 and 1.3, no tickets.
fn server_config(
    provider: &Arc<CryptoProvider>,
    resolver: Arc<dyn ResolvesServerCert>,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(VERSIONS)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![protocol.to_vec()];
    // Clients of a relay keep no tickets, and creating them costs 12 µs for each handshake.
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::{Certificate, CertificateStore, Choice, MAX_MISSING, Missing, SILENCE_MS, Serves};
    use crate::tls::client_hello::{ClientHello, Wanted};

    fn store(serves: &[Serves]) -> CertificateStore {
        let store = CertificateStore::new().expect("a store");
        set(&store, serves);
        store
    }

    fn set(store: &CertificateStore, serves: &[Serves]) {
        let made = serves.iter().map(|serves| {
            let own = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).expect("a certificate");
            let (chain, key) = (vec![own.cert.der().to_vec()], own.signing_key.serialize_der());
            Certificate { serves: serves.clone(), chain, key }
        });
        store.replace(made.collect()).expect("good certificates");
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn name(name: &str) -> Wanted {
        Wanted::Name(name.to_owned())
    }

    const LOCAL: &str = "192.0.2.1";

    /// The ALPN protocol of the chosen configuration; `None` if the client is rejected.
    fn served(store: &CertificateStore, wanted: &Wanted, offers_challenge: bool) -> Option<Vec<u8>> {
        match store.choose(ClientHello { wanted: wanted.clone(), offers_challenge }, ip(LOCAL), 0) {
            Choice::Serve(config) => Some(config.alpn_protocols.concat()),
            Choice::Refuse(_) => None,
        }
    }

    fn missing(store: &CertificateStore, wanted: Wanted, local: &str, now: u64) -> Option<Missing> {
        match store.choose(ClientHello { wanted, offers_challenge: false }, ip(local), now) {
            Choice::Serve(_) => panic!("served"),
            Choice::Refuse(missing) => missing,
        }
    }

    #[test]
    fn a_name_is_served_only_to_clients_that_want_it() {
        let store = store(&[Serves::Name("Relay.Test".into())]);
        assert!(served(&store, &name("relay.test"), false).is_some());
        for wanted in [name("other.test"), name("a.relay.test"), Wanted::AnyName, Wanted::Ip(ip(LOCAL))] {
            assert!(served(&store, &wanted, false).is_none(), "{wanted:?}");
        }
    }

    #[test]
    fn a_certificate_for_any_client_is_served_if_there_is_no_better_one() {
        let store = store(&[Serves::Any]);
        for wanted in [name("other.test"), Wanted::AnyName, Wanted::Ip(ip(LOCAL)), Wanted::Ip(ip("::9"))] {
            assert!(served(&store, &wanted, false).is_some(), "{wanted:?}");
        }
    }

    #[test]
    fn an_address_is_served_to_its_clients_that_want_no_name_or_the_address() {
        let store = store(&[Serves::LocalIp(ip("::ffff:192.0.2.1")), Serves::LocalIp(ip("192.0.2.2"))]);
        assert!(served(&store, &Wanted::AnyName, false).is_some());
        assert!(served(&store, &Wanted::Ip(ip(LOCAL)), false).is_some());
        assert!(served(&store, &Wanted::Ip(ip("192.0.2.2")), false).is_none());
        assert!(served(&store, &name("relay.test"), false).is_none());
        assert!(missing(&store, Wanted::AnyName, "192.0.2.3", 0).is_some());
    }

    #[test]
    fn a_challenge_is_served_to_clients_that_offer_its_protocol_and_want_its_name() {
        let name_alone = store(&[Serves::Name("relay.test".into())]);
        assert_eq!(served(&name_alone, &name("relay.test"), true), Some(b"http/1.1".to_vec()));
        let both = store(&[Serves::Name("relay.test".into()), Serves::Challenge("Relay.test".into())]);
        assert_eq!(served(&both, &name("relay.test"), true), Some(b"acme-tls/1".to_vec()));
        assert_eq!(served(&both, &name("relay.test"), false), Some(b"http/1.1".to_vec()));
        assert_eq!(served(&both, &name("other.test"), true), None);
        let challenge_alone = store(&[Serves::Challenge("relay.test".into())]);
        assert_eq!(served(&challenge_alone, &name("relay.test"), false), None);
    }

    #[test]
    fn certificates_are_replaced_as_a_whole_and_connections_keep_theirs() {
        let store = store(&[Serves::Any]);
        let hello = ClientHello::default();
        let Choice::Serve(given) = store.choose(hello, ip(LOCAL), 0) else { panic!("refused") };
        set(&store, &[Serves::Name("relay.test".into())]);
        assert!(served(&store, &Wanted::AnyName, false).is_none());
        assert_eq!(Arc::strong_count(&given), 1, "nobody but its connection holds it");
    }

    #[test]
    fn a_missing_certificate_is_reported_once_a_second() {
        let store = store(&[]);
        let wanted = Missing { name: Some("relay.test".into()), local: ip(LOCAL) };
        assert_eq!(missing(&store, name("relay.test"), LOCAL, 5), Some(wanted.clone()));
        assert_eq!(missing(&store, name("relay.test"), LOCAL, 5 + SILENCE_MS - 1), None);
        assert_eq!(missing(&store, name("relay.test"), LOCAL, 5 + SILENCE_MS), Some(wanted));
        let unnamed = Some(Missing { name: None, local: ip(LOCAL) });
        assert_eq!(missing(&store, Wanted::AnyName, LOCAL, 5), unnamed);
        assert_eq!(missing(&store, Wanted::Ip(ip(LOCAL)), LOCAL, 5), None);
        assert_eq!(missing(&store, Wanted::Ip(ip("192.0.2.9")), LOCAL, 5), None, "not ours to have");
    }

    #[test]
    fn a_flood_of_names_has_bounded_reports_and_hides_no_address() {
        let store = store(&[]);
        let reported =
            (0..10_000).filter_map(|n| missing(&store, name(&format!("n{n}.test")), LOCAL, 7)).count();
        assert_eq!(reported, MAX_MISSING);
        assert!(missing(&store, Wanted::AnyName, LOCAL, 7).is_some());
        assert_eq!(store.missing.lock().expect("a lock").len(), MAX_MISSING + 1);
        assert!(missing(&store, name("n1.test"), LOCAL, 7 + SILENCE_MS).is_some());
        assert_eq!(store.missing.lock().expect("a lock").len(), 1);
    }

    #[test]
    fn a_key_of_another_certificate_is_rejected_and_the_old_ones_stay() {
        let store = store(&[Serves::Any]);
        let make = || rcgen::generate_simple_self_signed(["relay.test".to_owned()]).expect("a certificate");
        let (chain, key) = (vec![make().cert.der().to_vec()], make().signing_key.serialize_der());
        assert!(store.replace(vec![Certificate { serves: Serves::Any, chain, key }]).is_err());
        assert!(served(&store, &Wanted::AnyName, false).is_some());
    }
}
