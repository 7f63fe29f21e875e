//! Bounds on clients: token buckets, rate limits, the duty cycle of a limited client, and connections before login.

pub(crate) mod bucket;
pub(crate) mod connection_limiter;
pub(crate) mod duty_cycle;
pub(crate) mod pending;
pub(crate) mod rates;
