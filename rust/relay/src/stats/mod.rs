//! Counters and estimates that a shard keeps and metrics read.

pub(crate) mod counter;
pub(crate) mod histogram;
pub(crate) mod hyperloglog;
