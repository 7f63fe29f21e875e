//! Which key is where: the table of the process, routes and watchers, and where a new key is placed.

pub(crate) mod affinity;
pub(crate) mod counts;
pub(crate) mod links;
pub(crate) mod route;
pub(crate) mod table;
pub(crate) mod watch;
