//! Which certificate a TLS client gets (`docs/protocol/tls.md`), and what was asked for in vain.
//!
//! Every certificate has a TLS configuration of its own, made when it is set: a connection is given one of them, and keeps
//! it whatever is set later.

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
/// How long it is not told again that a certificate is missing.
const SILENCE_MS: u64 = 1_000;
/// Missing certificates that are told of in that time: a flood of names costs no more than this.
const MOST_MISSING: usize = 64;

/// Whom a certificate is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Serves {
    /// Clients that ask for this name, in letters of either case.
    Name(String),
    /// Every client for which there is no better one.
    Any,
    /// Clients that reached us at this address, and ask for no name or for the address.
    LocalIp(IpAddr),
    /// The check of an ACME server that this name is ours, over TLS (RFC 8737).
    Challenge(String),
}

/// A certificate as Python hands it over.
pub struct Certificate {
    /// Whom it is for.
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

/// A certificate that a client wanted and that there is not: for this name, or for none at this address of ours.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Missing {
    /// In lower case.
    pub name: Option<String>,
    /// Where the client reached us.
    pub local: IpAddr,
}

/// What a client gets.
pub(crate) enum Choice {
    /// A session made of this.
    Serve(Arc<ServerConfig>),
    /// Nothing; if this was not said a moment ago, for want of that.
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

/// Which certificate a client gets; the handle through which Python swaps them.
pub struct CertificateStore {
    current: RwLock<Certificates>,
    /// What was told to be missing, and when.
    missing: Mutex<HashMap<Missing, u64>>,
    provider: Arc<CryptoProvider>,
    /// Serves nobody: tells a client what is wrong with its first message.
    judge: Arc<ServerConfig>,
}

impl fmt::Debug for CertificateStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateStore").finish_non_exhaustive()
    }
}

impl CertificateStore {
    /// Serves nobody yet.
    pub(crate) fn new() -> Result<Self, TlsError> {
        let provider = provider();
        let judge = server_config(&provider, Arc::new(ResolvesServerCertUsingSni::new()), HTTP_1_1)?;
        Ok(Self { current: RwLock::default(), missing: Mutex::default(), provider, judge })
    }

    /// Serves these certificates, and no others, from the next handshake on.
    ///
    /// # Errors
    /// A sentence: a key of a kind that TLS does not know, or one that does not belong to its certificate.
    pub fn replace(&self, certificates: Vec<Certificate>) -> Result<(), String> {
        let mut next = Certificates::default();
        for Certificate { serves, chain, key } in certificates {
            let chain = chain.into_iter().map(CertificateDer::from).collect();
            let key = PrivateKeyDer::try_from(key).map_err(str::to_owned)?;
            let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
            let certified = CertifiedKey::new(chain, key);
            // A challenge's certificate is one of our making, with a critical extension that the check does not know.
            if !matches!(serves, Serves::Challenge(_)) {
                certified.keys_match().map_err(|error| error.to_string())?;
            }
            // A client that offers other protocols alone is refused (RFC 7301, 3.2); one that offers none is not.
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

    /// What a client gets that reached us at this address.
    pub(crate) fn choose(&self, hello: ClientHello, local: IpAddr, now: u64) -> Choice {
        let chosen = self.current.read().unwrap_or_else(PoisonError::into_inner).choose(&hello, local);
        if let Some(config) = chosen {
            return Choice::Serve(config);
        }
        let name = match hello.wanted {
            Wanted::Name(name) => Some(name),
            // What is at another address is not ours.
            Wanted::Ip(ip) if ip != local => return Choice::Refuse(None),
            Wanted::Ip(_) | Wanted::AnyName => None,
        };
        let missing = Missing { name, local };
        let mut told = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now < *at + SILENCE_MS);
        // Names are a client's choice, addresses are not: these are always told of.
        let is_known = told.contains_key(&missing) || (missing.name.is_some() && told.len() >= MOST_MISSING);
        if is_known {
            return Choice::Refuse(None);
        }
        told.insert(missing.clone(), now);
        Choice::Refuse(Some(missing))
    }

    /// For a client whose first message cannot be understood.
    pub(crate) fn judge(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.judge)
    }
}

/// How sessions are made: TLS 1.2 and 1.3, no tickets.
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
    // Clients of a relay keep no tickets, and making them costs 12 µs a handshake.
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::{Certificate, CertificateStore, Choice, MOST_MISSING, Missing, SILENCE_MS, Serves};
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

    /// The protocol of what is served, or none for a refusal.
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
    fn a_name_is_served_to_who_asks_for_it_and_nobody_else() {
        let store = store(&[Serves::Name("Relay.Test".into())]);
        assert!(served(&store, &name("relay.test"), false).is_some());
        for wanted in [name("other.test"), name("a.relay.test"), Wanted::AnyName, Wanted::Ip(ip(LOCAL))] {
            assert!(served(&store, &wanted, false).is_none(), "{wanted:?}");
        }
    }

    #[test]
    fn a_certificate_for_any_client_is_served_where_no_other_is() {
        let store = store(&[Serves::Any]);
        for wanted in [name("other.test"), Wanted::AnyName, Wanted::Ip(ip(LOCAL)), Wanted::Ip(ip("::9"))] {
            assert!(served(&store, &wanted, false).is_some(), "{wanted:?}");
        }
    }

    #[test]
    fn an_address_is_served_to_who_reached_it_and_names_nobody_or_the_address() {
        let store = store(&[Serves::LocalIp(ip("::ffff:192.0.2.1")), Serves::LocalIp(ip("192.0.2.2"))]);
        assert!(served(&store, &Wanted::AnyName, false).is_some());
        assert!(served(&store, &Wanted::Ip(ip(LOCAL)), false).is_some());
        assert!(served(&store, &Wanted::Ip(ip("192.0.2.2")), false).is_none());
        assert!(served(&store, &name("relay.test"), false).is_none());
        assert!(missing(&store, Wanted::AnyName, "192.0.2.3", 0).is_some());
    }

    #[test]
    fn a_challenge_is_served_to_who_offers_its_protocol_and_asks_for_its_name() {
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
    fn certificates_are_replaced_as_a_whole_and_what_was_given_stays() {
        let store = store(&[Serves::Any]);
        let hello = ClientHello::default();
        let Choice::Serve(given) = store.choose(hello, ip(LOCAL), 0) else { panic!("refused") };
        set(&store, &[Serves::Name("relay.test".into())]);
        assert!(served(&store, &Wanted::AnyName, false).is_none());
        assert_eq!(Arc::strong_count(&given), 1, "nobody but its connection holds it");
    }

    #[test]
    fn a_missing_certificate_is_told_of_once_a_second() {
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
    fn a_flood_of_names_is_told_of_a_bounded_number_of_times_and_hides_no_address() {
        let store = store(&[]);
        let told = (0..10_000).filter_map(|n| missing(&store, name(&format!("n{n}.test")), LOCAL, 7)).count();
        assert_eq!(told, MOST_MISSING);
        assert!(missing(&store, Wanted::AnyName, LOCAL, 7).is_some());
        assert_eq!(store.missing.lock().expect("a lock").len(), MOST_MISSING + 1);
        assert!(missing(&store, name("n1.test"), LOCAL, 7 + SILENCE_MS).is_some());
        assert_eq!(store.missing.lock().expect("a lock").len(), 1);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused_and_the_old_ones_stay() {
        let store = store(&[Serves::Any]);
        let make = || rcgen::generate_simple_self_signed(["relay.test".to_owned()]).expect("a certificate");
        let (chain, key) = (vec![make().cert.der().to_vec()], make().signing_key.serialize_der());
        assert!(store.replace(vec![Certificate { serves: Serves::Any, chain, key }]).is_err());
        assert!(served(&store, &Wanted::AnyName, false).is_some());
    }
}
