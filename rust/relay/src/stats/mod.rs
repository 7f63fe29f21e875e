//! Counters and estimates of each shard, for metrics.

pub(crate) mod counter;
pub(crate) mod histogram;
pub(crate) mod hyperloglog;
