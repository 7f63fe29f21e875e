//! The client's side of the TLS handshake, with rustls; `records` continues after it.
//!
//! Like a real client: TLS 1.3, X25519MLKEM768 first, no ALPN, no session tickets kept. Unlike a real client, it
//! accepts any certificate, because the servers are local and sign their own. No I/O.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

/// The beginning of the common name of the meta certificate, which has the server's DERP key.
const META_NAME: &[u8] = b"derpkey";

/// Return the configuration that all connections of a run share.
pub(crate) fn config() -> Result<Arc<ClientConfig>> {
    let groups = {
        use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
        vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1]
    };
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: groups,
        ..aws_lc_rs::default_provider()
    });
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// A handshake in progress.
pub(crate) struct Handshake(Box<UnbufferedClientConnection>);

/// The result of a complete handshake.
pub(crate) struct Established {
    /// The connection, with nothing left to send. From here on, `records::Records` seals and opens its records.
    pub(crate) connection: UnbufferedClientConnection,
    /// The server's DERP key, from the meta certificate.
    pub(crate) server_key: [u8; 32],
}

impl Handshake {
    /// Prepare a handshake with an address, so no server name is sent.
    pub(crate) fn new(config: Arc<ClientConfig>, server: IpAddr) -> Result<Self> {
        let connection = UnbufferedClientConnection::new(config, ServerName::IpAddress(server.into()))?;
        Ok(Self(Box::new(connection)))
    }

    /// Continue with the bytes `incoming`, empty at first. Appends to `outgoing`, and returns the number of bytes used.
    /// Pass unused bytes again, followed by new ones.
    pub(crate) fn advance(
        mut self,
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<(Progress, usize)> {
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } = self.0.process_tls_records(&mut incoming[used..]);
            used += discard;
            match state.context("TLS handshake")? {
                ConnectionState::EncodeTlsData(mut data) => encode(&mut data, outgoing)?,
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::BlockedHandshake => return Ok((Progress::Blocked(self), used)),
                ConnectionState::WriteTraffic(_) => break,
                other => bail!("the server sent data before the upgrade request: {other:?}"),
            }
        }
        let chain = self.0.peer_certificates().unwrap_or_default();
        let server_key = chain.iter().find_map(|certificate| meta_key(certificate));
        let server_key = server_key.context("the server's chain has no meta certificate")?;
        Ok((Progress::Done(Box::new(Established { connection: *self.0, server_key })), used))
    }
}

/// The state of a handshake: it needs more bytes, or is complete.
pub(crate) enum Progress {
    Blocked(Handshake),
    Done(Box<Established>),
}

fn encode<Data>(
    data: &mut rustls::unbuffered::EncodeTlsData<'_, Data>,
    outgoing: &mut Vec<u8>,
) -> Result<()> {
    let start = outgoing.len();
    outgoing.resize(start + 16_384, 0);
    let written = data.encode(&mut outgoing[start..])?;
    outgoing.truncate(start + written);
    Ok(())
}

/// Return the key from the 64 hex digits after `derpkey` in a certificate, found without an X.509 parser.
fn meta_key(certificate: &[u8]) -> Option<[u8; 32]> {
    let at = certificate.windows(META_NAME.len()).position(|window| window == META_NAME)? + META_NAME.len();
    let digits = std::str::from_utf8(certificate.get(at..at + 64)?).ok()?;
    let mut key = [0; 32];
    for (index, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(key)
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
