//! What the messages room promises to others: specs and their answers, the published schemas, and
//! the bytes of every message.

// Snapshots are written by `UPDATE_EXPECT=1`, which writes hashes always.
#![allow(clippy::needless_raw_string_hashes, clippy::format_collect, clippy::format_push_string)]

mod features;
mod golden;
mod jobs;
mod properties;
mod samples;
mod schema;
mod spec;
mod wrong;
