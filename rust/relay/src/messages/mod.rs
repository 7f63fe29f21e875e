//! The messages between the shards and Python: events out, commands in.
//!
//! Both directions travel in batches. A batch wakes its reader only if the reader sleeps.

mod close_reason;
mod commands;
mod events;
mod member;
mod snapshot;

pub use crate::limits::rates::Limits;

pub use self::close_reason::CloseReason;
pub use self::commands::Command;
pub use self::events::{Event, EventQueue};
pub use self::member::{LoginInfo, Reason, Role, Totals};
pub use self::snapshot::{Impairment, MemberAction, MemberSnapshot, Wire};
