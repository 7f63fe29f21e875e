//! Our records against rustls as the peer, and against a peer whose records are sealed by hand.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    AlertDescription, CipherSuite, ClientConfig, ClientConnection, RootCertStore, ServerConfig,
    ServerConnection,
};

use crate::sim::Sealer;
use crate::tls::certificates::{Certificate, CertificateStore, Choice, Serves};
use crate::tls::client_hello::{ClientHello, Wanted};
use crate::tls::session::{HANDSHAKE_ROOM, Progress, Session, client_config, sealed_len};

const ALL: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];
const NAME: &str = "relay.test";
const DATA: u8 = 23;
const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;

/// Our end of a connection, with its received and its sent bytes.
struct Ours {
    session: Session,
    received: Vec<u8>,
    /// Bytes for the peer.
    sent: Vec<u8>,
    end: Option<Result<Progress, String>>,
}

impl Ours {
    fn new(session: Session) -> Self {
        Self { session, received: Vec::new(), sent: Vec::new(), end: None }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut sealed = [self.session.partial(), bytes].concat();
        let mut plain = vec![0; sealed.len()];
        let (len, progress) =
            self.session.receive(&mut sealed, &mut plain, &mut self.sent, &mut { i64::MAX });
        self.received.extend_from_slice(&plain[..len]);
        match progress {
            Ok(Progress::Handshaking | Progress::Established) => {}
            end => self.end = Some(end.map_err(|error| error.to_string())),
        }
    }

    fn send(&mut self, data: &[u8]) {
        let mut out = vec![0; sealed_len(data.len()) + HANDSHAKE_ROOM];
        let len = self.session.seal(data, &mut out).expect("a session that is well");
        self.sent.extend_from_slice(&out[..len]);
    }

    fn failure(&self) -> &str {
        match &self.end {
            Some(Err(failure)) => failure,
            other => panic!("it has not failed: {other:?}"),
        }
    }
}

fn only(suite: CipherSuite) -> Arc<CryptoProvider> {
    let mut provider = provider::default_provider();
    provider.cipher_suites.retain(|known| known.suite() == suite);
    Arc::new(provider)
}

fn certificate() -> (CertificateDer<'static>, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new([NAME.to_owned()]).expect("a name");
    (params.self_signed(&key).expect("a certificate").der().clone(), key)
}

/// A connection that rustls dialled, with this cipher; its last flight was not received yet.
fn dialled(suite: CipherSuite) -> (Ours, ClientConnection, Vec<u8>) {
    let (leaf, key) = certificate();
    let store = CertificateStore::new().expect("a store");
    let ours = Certificate { serves: Serves::Any, chain: vec![leaf.to_vec()], key: key.serialize_der() };
    store.replace(vec![ours]).expect("a good certificate");
    let any_name = ClientHello { offers_challenge: false, wanted: Wanted::AnyName };
    let choice = store.choose(any_name, Ipv4Addr::LOCALHOST.into(), 0);
    let Choice::Serve(config) = choice else { panic!("a certificate for anybody was set") };
    let session = Session::accept(config).expect("a session");
    let mut roots = RootCertStore::empty();
    roots.add(leaf).expect("a root");
    let mut config = ClientConfig::builder_with_provider(only(suite))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    let name = ServerName::try_from(NAME).expect("a name");
    let mut peer = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut ours = Ours::new(session);
    ours.receive(&output(&mut peer));
    listen(&mut ours, &mut peer);
    let last = output(&mut peer);
    (ours, peer, last)
}

/// The same, after the handshake.
fn accepted(suite: CipherSuite) -> (Ours, ClientConnection) {
    let (mut ours, peer, last) = dialled(suite);
    ours.receive(&last);
    assert_eq!(ours.session.version(), Some("1.3"));
    (ours, peer)
}

/// A connection that we dialled to rustls with this cipher; the peer sends tickets.
fn to_node(suite: CipherSuite) -> (Ours, ServerConnection) {
    let (leaf, key) = certificate();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS 8");
    let mut config = ServerConfig::builder_with_provider(only(suite))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![leaf.clone()], key)
        .expect("a configuration");
    config.ticketer = provider::Ticketer::new().expect("tickets");
    config.send_tls13_tickets = 4;
    config.enable_secret_extraction = true;
    let mut peer = ServerConnection::new(Arc::new(config)).expect("a server");
    let config = client_config(vec![leaf.to_vec()]).expect("a configuration");
    let mut ours = Ours::new(Session::dial(config, NAME).expect("a session"));
    ours.receive(&[]);
    while ours.session.version().is_none() || peer.is_handshaking() {
        listen(&mut ours, &mut peer);
        ours.receive(&output(&mut peer));
    }
    ours.receive(&output(&mut peer));
    assert_eq!(ours.session.dialled_chain(), Some(vec![leaf.to_vec()]));
    (ours, peer)
}

/// The pending output of a peer.
fn output<Data>(peer: &mut rustls::ConnectionCommon<Data>) -> Vec<u8>
where
    Data: rustls::SideData,
{
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).expect("room");
    }
    bytes
}

/// Passes our output to the peer. Returns the data in it.
fn try_listen<Data>(
    ours: &mut Ours,
    peer: &mut rustls::ConnectionCommon<Data>,
) -> Result<Vec<u8>, rustls::Error>
where
    Data: rustls::SideData,
{
    let sent = std::mem::take(&mut ours.sent);
    let (mut rest, mut data) = (&sent[..], Vec::new());
    while !rest.is_empty() {
        peer.read_tls(&mut rest).expect("room");
        let there = peer.process_new_packets()?.plaintext_bytes_to_read();
        let start = data.len();
        data.resize(start + there, 0);
        peer.reader().read_exact(&mut data[start..]).expect("so much is there");
    }
    Ok(data)
}

fn listen<Data>(ours: &mut Ours, peer: &mut rustls::ConnectionCommon<Data>) -> Vec<u8>
where
    Data: rustls::SideData,
{
    try_listen(ours, peer).expect("good records")
}

/// Sends data of several sizes both ways.
fn converse<Data>(ours: &mut Ours, peer: &mut rustls::ConnectionCommon<Data>)
where
    Data: rustls::SideData,
{
    for size in [1, 1_349, 16_384, 16_385, 70_000] {
        let data = vec![size as u8; size];
        ours.send(&data);
        assert_eq!(listen(ours, peer), data);
        peer.set_buffer_limit(None);
        peer.writer().write_all(&data).expect("no limit");
        ours.received.clear();
        ours.receive(&output(peer));
        assert_eq!(ours.received, data);
    }
}

/// Our end, and a peer's keys: one to seal, one to open.
fn by_hand() -> (Ours, Sealer, Sealer) {
    let (ours, peer) = accepted(ALL[0]);
    let (sealer, opener) = Sealer::both(peer);
    (ours, sealer, opener)
}

/// Asserts that our end has failed, and has sent this alert.
#[track_caller]
fn assert_alert(ours: &Ours, opener: &mut Sealer, alert: AlertDescription) {
    let failure = ours.failure();
    assert_eq!(opener.open(&ours.sent), (ALERT, vec![2, alert.into()]), "{failure}");
}

#[test]
fn data_goes_both_ways_with_every_cipher_on_accepted_and_dialled_connections() {
    for suite in ALL {
        let (mut ours, mut peer) = accepted(suite);
        converse(&mut ours, &mut peer);
        let (mut ours, mut peer) = to_node(suite);
        converse(&mut ours, &mut peer);
    }
}

#[test]
fn bytes_after_the_handshake_are_opened_however_they_are_cut() {
    for piece in [1, 2, 3, 5, 7, 1_000, usize::MAX] {
        let (mut ours, mut peer, last) = dialled(ALL[0]);
        peer.writer().write_all(b"GET / HTTP/1.1\r\n").expect("room");
        peer.writer().write_all(&[7; 20_000]).expect("room");
        let bytes = [last, output(&mut peer)].concat();
        for part in bytes.chunks(piece) {
            ours.receive(part);
        }
        assert_eq!(ours.received, [b"GET / HTTP/1.1\r\n", &[7; 20_000][..]].concat());
        assert!(ours.session.partial().is_empty());
    }
}

#[test]
fn keys_are_changed_before_they_have_sealed_too_many_records() {
    for limit in [1, 3] {
        for suite in ALL {
            let (mut ours, mut peer) = accepted(suite);
            ours.session.limit_key(limit);
            converse(&mut ours, &mut peer);
            ours.send(&[1; 50_000]);
            let (mut run, mut rest) = (0, &ours.sent[..]);
            while let [_, _, _, high, low, behind @ ..] = rest {
                let len = usize::from(u16::from_be_bytes([*high, *low]));
                run = if len == 5 + 1 + 16 { 0 } else { run + 1 };
                assert!(run <= limit, "a key sealed {run} records");
                rest = &behind[len..];
            }
            assert_eq!(listen(&mut ours, &mut peer), [1; 50_000]);
        }
    }
}

#[test]
fn a_peer_may_change_its_keys_and_request_a_change_of_ours() {
    for suite in ALL {
        let (mut ours, mut peer) = accepted(suite);
        for _ in 0..5 {
            peer.refresh_traffic_keys().expect("TLS 1.3");
            converse(&mut ours, &mut peer);
        }
        let (mut ours, mut peer) = to_node(suite);
        for _ in 0..5 {
            peer.refresh_traffic_keys().expect("TLS 1.3");
            converse(&mut ours, &mut peer);
        }
    }
}

#[test]
fn a_change_of_keys_is_more_work_than_data_and_excess_work_is_left_for_later() {
    let (mut ours, mut peer) = accepted(ALL[0]);
    for n in 0..100 {
        peer.refresh_traffic_keys().expect("TLS 1.3");
        peer.writer().write_all(&[n]).expect("room");
    }
    let mut sealed = output(&mut peer);
    let mut calls = 0;
    while !sealed.is_empty() {
        let mut plain = vec![0; sealed.len()];
        let mut work = 100;
        let (len, progress) = ours.session.receive(&mut sealed, &mut plain, &mut ours.sent, &mut work);
        assert!(matches!(progress, Ok(Progress::Established)), "{progress:?}");
        assert!(len <= 6, "{len} changes of the key at a time");
        ours.received.extend_from_slice(&plain[..len]);
        assert_eq!(ours.session.is_cut(), !ours.session.partial().is_empty());
        sealed = ours.session.partial().to_vec();
        calls += 1;
    }
    assert!(calls > 15, "{calls} calls");
    assert_eq!(ours.received, (0..100).collect::<Vec<u8>>());
}

#[test]
fn several_requests_to_change_our_key_are_answered_once_with_the_next_data() {
    let (mut ours, mut peer) = accepted(ALL[0]);
    for _ in 0..20 {
        peer.refresh_traffic_keys().expect("TLS 1.3");
    }
    ours.receive(&output(&mut peer));
    assert!(ours.sent.is_empty(), "an answer of its own");
    ours.send(b"data");
    assert_eq!(ours.sent.len(), 5 + 5 + 1 + 16 + 5 + 4 + 1 + 16);
    assert_eq!(listen(&mut ours, &mut peer), b"data");
}

#[test]
fn close_notify_is_sent_and_received() {
    let (mut ours, mut peer) = accepted(ALL[0]);
    let last = ours.session.seal_last(b"last words");
    ours.sent.extend_from_slice(&last);
    peer.read_tls(&mut &last[..]).expect("room");
    assert!(peer.process_new_packets().expect("good records").peer_has_closed());
    let mut words = [0; 10];
    peer.reader().read_exact(&mut words).expect("ten bytes");
    assert_eq!(&words, b"last words");
    peer.writer().write_all(b"more").expect("room");
    peer.send_close_notify();
    ours.receive(&output(&mut peer));
    assert_eq!(ours.received, b"more");
    assert_eq!(ours.end, Some(Ok(Progress::PeerClosed)));
}

#[test]
fn nothing_is_opened_after_close_notify() {
    let (mut ours, mut sealer, _) = by_hand();
    let bytes = [sealer.seal(DATA, b"a"), sealer.seal(ALERT, &[1, 0]), sealer.seal(DATA, b"b")].concat();
    ours.receive(&bytes);
    assert_eq!((&ours.received[..], ours.end), (&b"a"[..], Some(Ok(Progress::PeerClosed))));
}

#[test]
fn a_fatal_alert_ends_the_session_without_an_answer() {
    for alert in [20, 40, 49, 80, 112, 255] {
        let (mut ours, mut sealer, _) = by_hand();
        // Its level has no meaning.
        ours.receive(&sealer.seal(ALERT, &[1 + alert % 2, alert]));
        assert!(ours.failure().starts_with("received fatal alert: "), "{}", ours.failure());
        assert!(ours.sent.is_empty());
    }
}

#[test]
fn a_peer_whose_user_has_canceled_may_continue() {
    let (mut ours, mut sealer, _) = by_hand();
    ours.receive(&[sealer.seal(ALERT, &[1, 90]), sealer.seal(DATA, b"data")].concat());
    assert_eq!((&ours.received[..], ours.end), (&b"data"[..], None));
}

#[test]
fn padding_is_stripped() {
    let (mut ours, mut sealer, _) = by_hand();
    for (len, padding) in [(1, 1), (10, 300), (0, 16_384), (16_000, 384), (5, 0)] {
        let data = vec![3; len];
        ours.received.clear();
        ours.receive(&sealer.seal_inner([&data[..], &[DATA], &vec![0; padding]].concat()));
        assert_eq!(ours.received, data);
    }
}

#[test]
fn consecutive_empty_records_are_bounded() {
    let (mut ours, mut sealer, mut opener) = by_hand();
    for _ in 0..10 {
        for _ in 0..32 {
            ours.receive(&sealer.seal(DATA, b""));
        }
        ours.receive(&sealer.seal(DATA, b"x"));
    }
    assert_eq!((&ours.received[..], &ours.end), (&b"xxxxxxxxxx"[..], &None));
    for _ in 0..33 {
        ours.receive(&sealer.seal(DATA, b""));
    }
    assert_alert(&ours, &mut opener, AlertDescription::UnexpectedMessage);
}

#[test]
fn a_record_that_is_too_long_is_rejected_by_its_header() {
    let (mut ours, _, mut opener) = by_hand();
    ours.receive(&[23, 3, 3, 0x41]);
    assert_eq!(ours.end, None);
    ours.receive(&[1]);
    assert_alert(&ours, &mut opener, AlertDescription::RecordOverflow);
}

#[test]
fn a_record_has_a_maximum_length_and_its_content_another() {
    let (mut ours, mut sealer, mut opener) = by_hand();
    ours.receive(&sealer.seal(DATA, &[1; 16_384]));
    assert_eq!(ours.received.len(), 16_384);
    ours.receive(&sealer.seal_inner([&[1; 16_384][..], &[DATA], &[0; 239]].concat()));
    assert_alert(&ours, &mut opener, AlertDescription::RecordOverflow);
}

#[test]
fn forbidden_content_is_answered_with_its_alert() {
    use AlertDescription as Alert;
    let cases: &[(u8, &[u8], AlertDescription)] = &[
        (HANDSHAKE, b"", Alert::UnexpectedMessage),
        (ALERT, b"", Alert::UnexpectedMessage),
        (ALERT, &[1], Alert::DecodeError),
        (ALERT, &[1, 0, 1, 0], Alert::DecodeError),
        (20, &[1], Alert::UnexpectedMessage),
        (24, &[1, 0, 1, 7], Alert::UnexpectedMessage),
        (99, b"data", Alert::UnexpectedMessage),
        (HANDSHAKE, &[0, 0, 0, 0], Alert::UnexpectedMessage),
        (HANDSHAKE, &[1, 0, 0, 4, 3, 3, 3, 3], Alert::UnexpectedMessage),
        (HANDSHAKE, &[4, 0, 0, 4, 3, 3, 3, 3], Alert::UnexpectedMessage),
        (HANDSHAKE, &[13, 0, 0, 1, 0], Alert::UnexpectedMessage),
        (HANDSHAKE, &[20, 0xff, 0xff, 0xff], Alert::UnexpectedMessage),
        (HANDSHAKE, &[24, 0, 0, 0], Alert::DecodeError),
        (HANDSHAKE, &[24, 0, 0, 2, 0, 0], Alert::DecodeError),
        (HANDSHAKE, &[24, 0, 0, 1, 2], Alert::IllegalParameter),
        (HANDSHAKE, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], Alert::UnexpectedMessage),
    ];
    for (kind, content, alert) in cases {
        let (mut ours, mut sealer, mut opener) = by_hand();
        ours.receive(
            &[sealer.seal(DATA, b"before"), sealer.seal(*kind, content), sealer.seal(DATA, b"behind")]
                .concat(),
        );
        assert_eq!(ours.received, b"before", "{kind} {content:?}");
        assert_alert(&ours, &mut opener, *alert);
    }
}

#[test]
fn a_plaintext_record_is_rejected() {
    for record in [
        [20, 3, 3, 0, 1, 1, 0],
        [21, 3, 3, 0, 2, 1, 0],
        [22, 3, 3, 0, 2, 0, 0],
        [b'G', b'E', b'T', 0, 0, 0, 0],
    ] {
        let (mut ours, _, mut opener) = by_hand();
        ours.receive(&record);
        assert_alert(&ours, &mut opener, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn a_record_of_padding_alone_is_rejected() {
    let (mut ours, mut sealer, mut opener) = by_hand();
    ours.receive(&sealer.seal_inner(vec![0; 100]));
    assert_alert(&ours, &mut opener, AlertDescription::UnexpectedMessage);
}

#[test]
fn a_modified_repeated_or_reordered_record_does_not_open() {
    let touched = |record: &[u8], at: usize| {
        let mut record = record.to_vec();
        record[at] ^= 1;
        record
    };
    for case in 0..6 {
        let (mut ours, mut sealer, mut opener) = by_hand();
        let (one, two) = (sealer.seal(DATA, b"one"), sealer.seal(DATA, b"two"));
        match case {
            0 => ours.receive(&touched(&one, 5)),
            1 => ours.receive(&touched(&one, one.len() - 1)),
            // Its version is ignored, but it is authenticated.
            2 => ours.receive(&touched(&one, 1)),
            3 => ours.receive(&[one.clone(), one].concat()),
            4 => ours.receive(&[two, one].concat()),
            _ => ours.receive(&[23, 3, 3, 0, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]),
        }
        assert_alert(&ours, &mut opener, AlertDescription::BadRecordMac);
    }
}

#[test]
fn a_record_shorter_than_its_tag_does_not_open() {
    for len in [0, 1, 15] {
        let (mut ours, _, mut opener) = by_hand();
        ours.receive(&[&[23, 3, 3, 0, len][..], &vec![0; usize::from(len)]].concat());
        assert_alert(&ours, &mut opener, AlertDescription::BadRecordMac);
    }
}

#[test]
fn a_handshake_message_may_be_cut_into_consecutive_records_only() {
    for cut in 1..5 {
        let (mut ours, mut sealer, mut opener) = by_hand();
        let (start, end) = [24, 0, 0, 1, 0].split_at(cut);
        ours.receive(&sealer.seal(HANDSHAKE, start));
        ours.send(b"meanwhile");
        assert_eq!(opener.open(&ours.sent), (DATA, b"meanwhile".to_vec()));
        ours.sent.clear();
        ours.receive(&sealer.seal(HANDSHAKE, end));
        assert_eq!(ours.end, None);

        let (mut ours, mut sealer, mut opener) = by_hand();
        ours.receive(&[sealer.seal(HANDSHAKE, start), sealer.seal(DATA, b"data")].concat());
        assert_eq!(ours.received, b"");
        assert_alert(&ours, &mut opener, AlertDescription::UnexpectedMessage);
    }
}

#[test]
fn a_node_may_send_tickets_in_pieces() {
    let (mut ours, peer) = to_node(ALL[0]);
    let mut sealer = Sealer::both(peer).0;
    let tickets = [&[4, 0, 1, 0][..], &[7; 256], &[4, 0, 0, 2, 1, 1]].concat();
    for part in tickets.chunks(50) {
        ours.receive(&sealer.seal(HANDSHAKE, part));
    }
    ours.receive(&sealer.seal(DATA, b"data"));
    assert_eq!((&ours.received[..], ours.end), (&b"data"[..], None));
}

#[test]
fn after_a_failure_nothing_is_sealed_or_opened() {
    let (mut ours, mut sealer, _) = by_hand();
    ours.receive(&[22, 3, 3, 0, 0]);
    let failure = ours.failure().to_owned();
    ours.sent.clear();
    ours.receive(&sealer.seal(DATA, b"data"));
    assert_eq!((&ours.received[..], ours.failure(), &ours.sent[..]), (&b""[..], &failure[..], &b""[..]));
    assert_eq!(ours.session.seal(b"data", &mut [0; 1_000]).expect_err("it failed").to_string(), failure);
    assert!(ours.session.seal_last(b"words").is_empty());
}

#[test]
fn an_established_session_is_small_and_keeps_no_buffers() {
    let (mut ours, mut peer) = accepted(ALL[0]);
    converse(&mut ours, &mut peer);
    assert_eq!(ours.session.partial(), b"");
    let size = size_of::<super::Records>();
    assert!(size <= 1_024, "{size} bytes of our own");
}
