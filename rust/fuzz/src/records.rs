//! Arbitrary TLS 1.3 records after the handshake: content of any type, in any order, padded, cut or not sealed, from a
//! client that may or may not log in.
#![no_main]

mod world;

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use relay::sim::{Party, Sealer, World};
use relay::{Certificate, Serves};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

const NAME: &str = "relay.test";

fuzz_target!(|data: &[u8]| {
    let [piece, said @ ..] = data else { return };
    let mut world = world::world(1);
    let party = world.connect(true, 0);
    let mut sealer = handshake(&mut world, party);
    world.expect_login(party, 0);
    world::cut(&mut world, party, *piece);
    let mut rest = said;
    while let [operation, len, behind @ ..] = rest {
        let (content, behind) = behind.split_at(usize::from(*len).min(behind.len()));
        rest = behind;
        let bytes = match operation % 8 {
            0 => sealer.seal(23, content),
            1 => sealer.seal(22, content),
            2 => sealer.seal(21, content),
            3 => sealer.seal(*operation, content),
            // Padded, sometimes above the limit.
            4 => sealer.seal_inner([content, &[23], &vec![0; usize::from(*len) * 70]].concat()),
            5 => sealer.seal(23, &content.repeat(64)),
            6 => content.to_vec(),
            _ => {
                world.run();
                continue;
            }
        };
        world.send(party, &bytes);
    }
    world.run();
    world.finish(party);
    world.pass(70_000);
    assert_eq!(world.check().connections, 0, "it has ended by now");
});

/// Does a client's handshake. Returns the key for sealing its later records.
fn handshake(world: &mut World, party: Party) -> Sealer {
    static CONFIG: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let config = CONFIG.get_or_init(|| config(world));
    let name = ServerName::try_from(NAME).expect("a name");
    let mut client = ClientConnection::new(Arc::clone(config), name).expect("a client");
    loop {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).expect("a vector takes all");
        }
        world.send(party, &flight);
        world.run();
        if !client.is_handshaking() {
            return Sealer::both(client).0;
        }
        let answer = world.receive(party);
        let mut rest = &answer[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).expect("a slice gives all");
            client.process_new_packets().expect("the server speaks TLS");
        }
    }
}

/// Creates the one certificate of all worlds, and a client that trusts it.
fn config(world: &World) -> Arc<ClientConfig> {
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
    let (chain, key) = (vec![own.cert.der().to_vec()], own.signing_key.serialize_der());
    let made = Certificate { serves: Serves::Any, chain, key };
    world.certificates().replace(vec![made]).expect("a good certificate");
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a good root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.enable_secret_extraction = true;
    Arc::new(config)
}
