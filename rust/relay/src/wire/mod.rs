//! Wire formats: DERP frames, WebSocket, PROXY headers and STUN. Pure: no socket, no clock.

pub(crate) mod frame;
pub(crate) mod proxy;
pub(crate) mod stun;
pub(crate) mod websocket;
