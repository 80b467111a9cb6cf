//! The training of one rank, without a bus: batches come from a [`BatchSource`], what happens goes
//! out through an [`Outbox`], and a [`Stop`] ends it at a step boundary. Synchronous; it runs on the
//! rank's compute thread, and in tests on any thread.

pub mod architecture;
mod engine;
pub mod gang;
pub mod mapping;
pub mod outbox;
mod pace;
mod resume;
mod saver;
pub mod selection;
pub mod session;
pub mod source;
pub mod stop;
mod sync;
mod validate;
mod writer;

pub use outbox::{Outbox, Outgoing};
pub use session::{Outcome, Ports, TrainJob, Trained, train};
pub use source::{BatchSource, FeedPlan, SourceBatch};
pub use stop::{Stop, StopReason};

#[cfg(test)]
mod fixtures;
#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
