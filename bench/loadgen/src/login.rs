//! What a client says and hears before its first packet: the upgrade request, ClientInfo, ServerInfo.
//!
//! Builds and checks bytes only. `Conn` drives it.

use anyhow::{Context, Result, anyhow, ensure};
use crypto_box::aead::Aead;
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use serde::Deserialize;

use crate::frames;

const MAGIC: &[u8; 8] = b"DERP\xf0\x9f\x94\x91";
const NONCE: usize = 24;
const CLIENT_INFO: &[u8] = br#"{"version":2,"CanAckPings":true}"#;

/// The upgrade request of a client that has the server's key already: no HTTP answer will come.
pub(crate) const FAST_REQUEST: &str = "GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: DERP\r\nDerp-Fast-Start: 1\r\n\r\n";
/// The upgrade request of a client that has yet to hear the server's key.
pub(crate) const REQUEST: &str =
    "GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n";

/// The upgrade request of a browser's client.
pub(crate) const WEBSOCKET_REQUEST: &str = "GET /derp HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: derp\r\n\r\n";

/// A client's key pair.
#[derive(Clone)]
pub(crate) struct Identity {
    secret: SecretKey,
    pub(crate) public: [u8; frames::KEY],
}

/// The box between a client and its server, good for both directions.
pub(crate) struct LoginBox(SalsaBox);

#[derive(Deserialize)]
struct ServerInfo {
    version: u32,
}

impl Identity {
    /// A new one.
    pub(crate) fn new() -> Result<Self> {
        let secret = SecretKey::from_bytes(random()?);
        let public = *secret.public_key().as_bytes();
        Ok(Self { secret, public })
    }

    /// Append the ClientInfo frame to `out`, and give the box that the answer opens with.
    pub(crate) fn client_info(&self, server_key: [u8; 32], out: &mut Vec<u8>) -> Result<LoginBox> {
        let shared = SalsaBox::new(&PublicKey::from_bytes(server_key), &self.secret);
        let nonce: [u8; NONCE] = random()?;
        let sealed = shared
            .encrypt(&nonce.into(), CLIENT_INFO)
            .map_err(|_| anyhow!("the login box does not close"))?;
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
        let (nonce, sealed) = payload.split_at_checked(NONCE).context("a ServerInfo that is too short")?;
        let nonce: [u8; NONCE] = nonce.try_into()?;
        let json = self.0.decrypt(&nonce.into(), sealed).map_err(|_| anyhow!("ServerInfo does not open"))?;
        let info: ServerInfo = serde_json::from_slice(&json).context("ServerInfo")?;
        ensure!(info.version == 2, "ServerInfo speaks version {}, wanted 2", info.version);
        Ok(())
    }
}

/// The server's key out of the payload of ServerKey.
pub(crate) fn server_key(payload: &[u8]) -> Result<[u8; 32]> {
    let key = payload.strip_prefix(MAGIC).context("ServerKey without the magic")?;
    Ok(*key.first_chunk().context("a ServerKey that is too short")?)
}

/// The length of the answer to `REQUEST` in front of `bytes`; `None` while it is incomplete.
pub(crate) fn upgrade_answer(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        ensure!(bytes.len() < 16_384, "an HTTP answer without end");
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
