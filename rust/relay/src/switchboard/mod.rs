//! The table from keys to peers, routes, watchers, and the placement of new keys.

pub(crate) mod affinity;
pub(crate) mod counts;
pub(crate) mod links;
pub(crate) mod route;
pub(crate) mod table;
pub(crate) mod watch;
