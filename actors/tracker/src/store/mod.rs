//! The tracker's tables. [`Writer`] is the only one that writes; [`Reader`] answers queries beside it.
//!
//! The SQL is what SQLite and PostgreSQL both know; what is SQLite's own (opening, locking, journal)
//! is in [`open`].

mod batch;
mod open;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use open::{SCHEMA_VERSION, open};
#[cfg(test)]
use read::MAX_HISTORY_POINTS;
pub use read::Reader;
#[cfg(test)]
use write::Applied;
pub use write::Writer;

/// A number of the wire as the database keeps it; beyond 2^63 the largest.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of the database, never negative.
fn wire(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
