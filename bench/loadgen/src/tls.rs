//! The client side of the TLS handshake, on rustls; what comes after it is in `records`.
//!
//! As a real client's, but for the certificate: TLS 1.3, X25519MLKEM768 first, no ALPN, no session tickets
//! kept. Any certificate is taken, since the servers are local and make their own. Knows no sockets.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};

use crate::records::Records;

/// What the common name of the certificate that carries the server's DERP key starts with.
const META_NAME: &[u8] = b"derpkey";

/// The configuration that all connections of a run share.
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

/// What a finished handshake leaves behind.
pub(crate) struct Established {
    pub(crate) records: Records,
    /// The server's DERP key, from the certificate that it appends to its chain for this purpose.
    pub(crate) server_key: [u8; 32],
}

impl Handshake {
    /// `server` is an address: no server name is sent.
    pub(crate) fn new(config: Arc<ClientConfig>, server: IpAddr) -> Result<Self> {
        let connection = UnbufferedClientConnection::new(config, ServerName::IpAddress(server.into()))?;
        Ok(Self(Box::new(connection)))
    }

    /// Go on with what came (`incoming`, nothing at first): appends to `outgoing`, and tells how many bytes
    /// were used. The bytes that were not must come again, with more behind them.
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
                other => bail!("the server sent something before it was asked: {other:?}"),
            }
        }
        let chain = self.0.peer_certificates().unwrap_or_default();
        let server_key = chain.iter().find_map(|certificate| meta_key(certificate));
        let server_key = server_key.context("no certificate of the server's chain carries its DERP key")?;
        Ok((Progress::Done(Box::new(Established { records: Records::new(*self.0)?, server_key })), used))
    }
}

/// How far a handshake got.
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

/// The 64 hex digits behind `derpkey` in the certificate's common name. No X.509 parser is needed to find
/// them.
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
