//! The login of a client: the upgrade request, ClientInfo, ServerInfo.
//!
//! Builds and checks bytes, without I/O; `conn` calls it.

use anyhow::{Context, Result, anyhow, ensure};
use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use serde::Deserialize;

use crate::frames;

const MAGIC: &[u8; 8] = b"DERP\xf0\x9f\x94\x91";
const NONCE: usize = 24;
const CLIENT_INFO: &[u8] = br#"{"version":2,"CanAckPings":true}"#;

/// The upgrade request with fast start, of a client that knows the server's key: no HTTP answer comes.
pub(crate) const FAST_REQUEST: &str = "GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n";
/// The upgrade request of a client that does not know the server's key.
pub(crate) const REQUEST: &str =
    "GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n";

/// The upgrade request of a client in a browser.
pub(crate) const WEBSOCKET_REQUEST: &str = "GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: derp\r\n\r\n";

/// A client's key pair.
#[derive(Clone)]
pub(crate) struct Identity {
    secret: SecretKey,
    pub(crate) public: [u8; frames::KEY],
}

/// The NaCl box between a client and its server, for both directions.
pub(crate) struct LoginBox(SalsaBox);

#[derive(Deserialize)]
struct ServerInfo {
    version: u32,
}

impl Identity {
    /// Create a new key pair.
    pub(crate) fn new() -> Result<Self> {
        let secret = SecretKey::from_bytes(random()?);
        let public = *secret.public_key().as_bytes();
        Ok(Self { secret, public })
    }

    /// Append the ClientInfo frame to `out`, and return the box that opens the answer.
    pub(crate) fn client_info(&self, server_key: [u8; 32], out: &mut Vec<u8>) -> Result<LoginBox> {
        let shared = SalsaBox::new(&PublicKey::from_bytes(server_key), &self.secret);
        let nonce: [u8; NONCE] = random()?;
        let sealed = shared
            .encrypt(&nonce.into(), CLIENT_INFO)
            .map_err(|_| anyhow!("the box of ClientInfo cannot be sealed"))?;
        out.extend(frames::header(frames::CLIENT_INFO, self.public.len() + nonce.len() + sealed.len()));
        out.extend(self.public);
        out.extend(nonce);
        out.extend(sealed);
        Ok(LoginBox(shared))
    }
}

impl LoginBox {
    /// Check the payload of ServerInfo.
    pub(crate) fn server_info(&self, payload: &[u8]) -> Result<()> {
        let (nonce, sealed) = payload.split_at_checked(NONCE).context("ServerInfo is too short")?;
        let nonce: [u8; NONCE] = nonce.try_into()?;
        let json = self.0.decrypt(&nonce.into(), sealed).map_err(|_| anyhow!("ServerInfo does not open"))?;
        let info: ServerInfo = serde_json::from_slice(&json).context("ServerInfo")?;
        ensure!(info.version == 2, "ServerInfo speaks version {}, wanted 2", info.version);
        Ok(())
    }
}

/// Return the server's key from the payload of ServerKey.
pub(crate) fn server_key(payload: &[u8]) -> Result<[u8; 32]> {
    let key = payload.strip_prefix(MAGIC).context("ServerKey without the magic")?;
    Ok(*key.first_chunk().context("ServerKey is too short")?)
}

/// Return the length of the HTTP answer at the beginning of `bytes`; `None` while it is incomplete.
pub(crate) fn upgrade_answer(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(bytes.len() < 16_384, "an HTTP answer of more than 16 kB");
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    ensure!(head.starts_with("HTTP/1.1 101 "), "the server does not switch protocols: {head}");
    Ok(Some(end + 4))
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("no random bytes"))?;
    Ok(bytes)
}
