//! A simulated world for the shard's tests, and the clients' ends of TLS.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use rustls::client::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, RootCertStore};

use crate::messages::{Event, Reason};
use crate::shard::Settings;
pub(super) use crate::sim::settings;
use crate::sim::{LoginKind, Party, World, introduction};
use crate::tls::certificates::{Certificate, Serves};
use crate::wire::frame::{HEADER, KEY, Key};

pub(super) const SEND: u8 = 0x04;
pub(super) const RECV: u8 = 0x05;
pub(super) const KEEP_ALIVE: u8 = 0x06;
pub(super) const PREFERRED: u8 = 0x07;
pub(super) const GONE: u8 = 0x08;
pub(super) const PING: u8 = 0x12;
pub(super) const PONG: u8 = 0x13;

/// The transport between a party and the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Over {
    Plain,
    Tls12,
    Tls13,
}

pub(super) const ALL: [Over; 3] = [Over::Plain, Over::Tls12, Over::Tls13];

/// A frame as a party receives it: its type and payload.
pub(super) type Frame = (u8, Vec<u8>);

pub(super) fn key(n: u8) -> Key {
    [n; KEY]
}

pub(super) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a frame's length");
    [&[kind][..], &len.to_be_bytes(), payload].concat()
}

/// A `SendPacket` frame.
pub(super) fn packet(to: u8, data: &[u8]) -> Vec<u8> {
    frame(SEND, &[&key(to)[..], data].concat())
}

/// A disco packet, identified by `mark`.
pub(super) fn disco(mark: u8) -> Vec<u8> {
    let mut data = "TS\u{1F4AC}".as_bytes().to_vec();
    data.resize(62, mark);
    data
}

/// A `RecvPacket` frame as its receiver gets it.
pub(super) fn from(source: u8, data: &[u8]) -> Frame {
    (RECV, [&key(source)[..], data].concat())
}

pub(super) fn gone(left: u8, reason: u8) -> Frame {
    (GONE, [&key(left)[..], &[reason]].concat())
}

/// Splits a stream into its whole frames and the rest.
pub(super) fn split(mut bytes: &[u8]) -> (Vec<Frame>, &[u8]) {
    let mut frames = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let len = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let Some((payload, rest)) = rest.split_at_checked(len) else { break };
        frames.push((header[0], payload.to_vec()));
        bytes = rest;
    }
    (frames, bytes)
}

/// A world, and the parties' client ends of TLS.
pub(super) struct Room {
    pub(super) world: World,
    tls: HashMap<Party, ClientConnection>,
    /// Bytes of a frame that is not whole yet.
    partial: HashMap<Party, Vec<u8>>,
    /// Maximum bytes of a party that the server gets at once.
    piece: usize,
}

impl Room {
    pub(super) fn new(shards: usize) -> Self {
        Self::with(settings(shards), 0)
    }

    pub(super) fn with(settings: Settings, seed: u64) -> Self {
        let world = World::new(settings, seed);
        Self { world, tls: HashMap::new(), partial: HashMap::new(), piece: usize::MAX }
    }

    /// From now on, a new party's bytes reach the server in pieces of `piece` bytes.
    pub(super) fn in_pieces(mut self, piece: usize) -> Self {
        self.piece = piece;
        self
    }

    /// A new connection before its first request, with TLS established.
    pub(super) fn connect(&mut self, over: Over, shard: usize) -> Party {
        let party = self.world.connect(over != Over::Plain, shard);
        self.world.set_piece(party, self.piece);
        if let Some(config) = client_config(over, &self.world) {
            let name = ServerName::try_from("relay.test").expect("a name");
            self.tls.insert(party, ClientConnection::new(config, name).expect("a client"));
        }
        self.pump(party);
        party
    }

    /// A new connection of `key`, logged in.
    pub(super) fn join(&mut self, over: Over, key: u8) -> Party {
        self.join_at(over, key, 0, 0)
    }

    /// The same, accepted by `shard`, with a key that lives on `home`.
    pub(super) fn join_at(&mut self, over: Over, name: u8, shard: usize, home: usize) -> Party {
        let party = self.connect(over, shard);
        self.world.expect_login(party, home);
        self.send(party, &introduction(&key(name), LoginKind::Client));
        self.world.run();
        assert!(self.world.is_switched(party), "{name} is not logged in: {:?}", self.world.events());
        party
    }

    /// Sends bytes from the party; the server handles them in the next [`receive`](Self::receive) or run.
    pub(super) fn send(&mut self, party: Party, bytes: &[u8]) {
        let Some(tls) = self.tls.get_mut(&party) else { return self.world.send(party, bytes) };
        tls.set_buffer_limit(None);
        std::io::Write::write_all(&mut tls.writer(), bytes).expect("a writer without a limit");
        self.flush(party);
    }

    /// The party's client end of TLS.
    pub(super) fn client(&mut self, party: Party) -> &mut ClientConnection {
        self.tls.get_mut(&party).expect("a party over TLS")
    }

    /// Takes the client end of TLS away: input for the party stays sealed.
    pub(super) fn take_over(&mut self, party: Party) -> ClientConnection {
        self.tls.remove(&party).expect("a party over TLS")
    }

    /// Sends the pending bytes of the client end of TLS.
    pub(super) fn flush(&mut self, party: Party) {
        let Some(tls) = self.tls.get_mut(&party) else { return };
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records).expect("a vector takes all");
        }
        self.world.send(party, &records);
    }

    /// Runs until idle. Returns the bytes that the party has received since the last call.
    pub(super) fn receive(&mut self, party: Party) -> Vec<u8> {
        self.pump(party)
    }

    /// The same, as whole frames.
    pub(super) fn frames(&mut self, party: Party) -> Vec<Frame> {
        let mut bytes = self.partial.remove(&party).unwrap_or_default();
        bytes.extend(self.pump(party));
        let (frames, rest) = split(&bytes);
        self.partial.insert(party, rest.to_vec());
        frames
    }

    fn pump(&mut self, party: Party) -> Vec<u8> {
        let mut plain = Vec::new();
        loop {
            self.flush(party);
            self.world.run();
            let bytes = self.world.receive(party);
            let Some(tls) = self.tls.get_mut(&party) else { return bytes };
            let mut rest = &bytes[..];
            while !rest.is_empty() && tls.wants_read() {
                tls.read_tls(&mut rest).expect("a slice gives all");
                tls.process_new_packets().expect("the server speaks TLS");
                // An error is the end of the stream, or there is nothing to read yet.
                let _ = std::io::Read::read_to_end(&mut tls.reader(), &mut plain);
            }
            if bytes.is_empty() && !tls.wants_write() {
                return plain;
            }
        }
    }

    /// The reasons of the connections that ended since the last call.
    pub(super) fn endings(&mut self) -> Vec<Reason> {
        self.world.run();
        let closed = |event| match event {
            Event::Closed { reason, .. } => Some(reason),
            _ => None,
        };
        self.world.events().into_iter().filter_map(closed).collect()
    }

    /// The reason code of the one connection that has ended.
    pub(super) fn ending(&mut self) -> String {
        let endings = self.endings();
        let [reason] = &endings[..] else { panic!("one connection ends, not {endings:?}") };
        reason.code.as_str().to_owned()
    }
}

/// A client that trusts the one certificate of all worlds in this process.
fn client_config(over: Over, world: &World) -> Option<Arc<ClientConfig>> {
    static CERTIFICATE: OnceLock<rcgen::CertifiedKey<rcgen::KeyPair>> = OnceLock::new();
    let version = match over {
        Over::Plain => return None,
        Over::Tls12 => &rustls::version::TLS12,
        Over::Tls13 => &rustls::version::TLS13,
    };
    let own = CERTIFICATE.get_or_init(|| {
        let own = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).expect("a certificate");
        let (chain, key) = (vec![own.cert.der().to_vec()], own.signing_key.serialize_der());
        world
            .certificates()
            .replace(vec![Certificate { serves: Serves::Any, chain, key }])
            .expect("a good certificate");
        own
    });
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a good root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).expect("a version");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.enable_secret_extraction = true;
    Some(Arc::new(config))
}
