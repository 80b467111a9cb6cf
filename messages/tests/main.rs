//! What the messages room promises to others: specs and their answers, the published schemas, and
//! the bytes of every message.

mod jobs;
mod properties;
mod spec;
mod wrong;
