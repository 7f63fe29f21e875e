//! Counts of the switchboard, and whether they are consistent.

/// Whether the table agrees with itself. In a sound table both numbers of connections are the same, and nothing is stray.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Connections, as they were counted when they came and went.
    pub counted: usize,
    /// Connections, as the keys' entries have them.
    pub in_table: usize,
    /// Keys that nobody has, and keys that are announced to other nodes with no connection here.
    pub stray_keys: usize,
}

/// Numbers of the present moment (`docs/protocol/metrics.md`, Relay).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct TableCounts {
    /// Logged-in connections, mesh peers' and several of one key included.
    pub connections: usize,
    /// Distinct keys connected here.
    pub keys_local: usize,
    /// Distinct keys known in the region.
    pub keys_total: usize,
    /// Keys with two or more connections.
    pub duplicate_keys: usize,
    /// Connections of keys with more than one connection.
    pub duplicate_connections: usize,
    /// Connections that watch.
    pub watchers: usize,
}
