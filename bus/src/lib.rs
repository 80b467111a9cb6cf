//! NATS and the artifact store: what would change if NATS were replaced. It knows no role. Every
//! wait is bounded, every publish is repeated with the same id until it is known to be stored, and
//! no type of the NATS client is part of the public API.
//!
//! - [`Bus`]: connect, streams and buckets, publish, request/reply, events, logs, dead letters.
//! - [`queue`]: pull, claim, keep alive, report, acknowledge: the way of a queue task, once.
//! - [`jobs`], [`lease`]: compare-and-set on `WITHIN_JOB`, leases with self-fencing.
//! - [`artifact`]: the content-addressed store.
//! - [`heartbeat`], [`role`]: what every role of a process needs.
//! - [`embedded`]: a supervised child `nats-server`, for `within run` and for tests.

mod api;
pub mod artifact;
pub mod clock;
mod connection;
mod consume;
mod durable;
pub mod embedded;
mod error;
pub mod heartbeat;
pub mod jobs;
mod kv;
pub mod lease;
mod link;
mod message;
mod pubsub;
mod pull;
pub mod queue;
pub mod remote;
pub mod role;
mod room;
mod topology;
mod trouble;

pub use clock::now_ms;
pub use connection::{Bus, BusConfig, Credentials, ServerSummary, Tls, nkey_seed};
pub use consume::{DurableEvents, Events, From, Logs, StoredEvent, StoredLog, Submission, Submissions};
pub use durable::{Once, Stored};
pub use error::{Error, ErrorKind};
pub use message::{Headers, Incoming, RawMessage, Requests, Subscription};
pub use topology::{ConsumerSummary, Limits, StreamSummary};
pub use trouble::Trouble;
