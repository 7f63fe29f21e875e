//! Counts of the switchboard, and whether they are consistent.

/// A consistency check of the table. In a consistent table, both numbers of connections are equal, and no key is stray.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Connections, counted as they came and went.
    pub counted: usize,
    /// Connections, summed over the keys' entries.
    pub in_table: usize,
    /// Keys without connection or forwarder, and keys announced to other nodes without a connection here.
    pub stray_keys: usize,
}

/// Present numbers of the table (`docs/protocol/metrics.md`, Relay).
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct TableCounts {
    /// Logged-in connections; mesh peers count, and so does each of several connections with one key.
    pub connections: usize,
    /// Distinct keys connected here.
    pub keys_local: usize,
    /// Distinct keys known in the region.
    pub keys_total: usize,
    /// Keys with two or more connections.
    pub duplicate_keys: usize,
    /// Connections of keys with more than one connection.
    pub duplicate_connections: usize,
    /// Connections of watchers.
    pub watchers: usize,
}
