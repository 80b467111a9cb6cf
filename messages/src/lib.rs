//! What another process, or another language, must agree on: every message, every subject, stream,
//! bucket and key name, the envelope, the wire errors, and the validation of a job spec.
//!
//! No IO and no clock: times are arguments, in milliseconds since the Unix epoch (UTC).

pub mod artifact;
pub mod envelope;
pub mod error;
pub mod event;
pub mod feed;
pub mod gang;
pub mod id;
pub mod job;
pub mod plan;
pub mod rpc;
pub mod schema;
pub mod spec;
pub mod step;
pub mod subject;
pub mod timings;
pub mod trace;
pub mod translate;
pub mod work;
pub mod worker;

pub use artifact::ArtifactRef;
pub use envelope::Envelope;
pub use error::{Class, WireError};
pub use id::{Fence, JobId, TaskId, Tenant, WorkerId};

/// Milliseconds since the Unix epoch, UTC.
pub type UnixMs = u64;

/// The version written into values and messages. Readers accept this one and the previous one.
pub const SCHEMA_VERSION: u16 = 1;
