//! Every interval and deadline of the platform in one place, so that processes agree on them and
//! tests can shorten them. Set under `timings:` in `within.yaml`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Intervals and deadlines, all in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Timings {
    /// How long JetStream waits for an ack before it delivers a task again. In-progress acks go out every third of it.
    pub ack_wait_ms: u64,
    /// Between two heartbeats of a role.
    pub heartbeat_ms: u64,
    /// A worker not heard of for this long is lost, and so is every task it holds.
    pub worker_lost_ms: u64,
    /// Time to live of a leader's lease; renewed at a third, self-fenced at two thirds. Whole seconds on the server.
    pub lease_ttl_ms: u64,
    /// One request to another role, until its answer.
    pub request_timeout_ms: u64,
    /// How long an offer of slots may stay unanswered, and reserved slots unused.
    pub reserve_timeout_ms: u64,
    /// From the start of a gang's processes until all have joined.
    pub join_timeout_ms: u64,
    /// No progress of a rank for this long: it is hung.
    pub step_timeout_ms: u64,
    /// A rank process that says nothing for this long stands still, whatever it does.
    pub rank_silent_ms: u64,
    /// How long a gang waits for more slots before it begins below its size, and for the worker of a rank whose
    /// connections are closed to say so.
    pub last_call_ms: u64,
    /// No frame of a feed for this long although credit is out: another data_loader is asked.
    pub feed_timeout_ms: u64,
    /// From a request for translations until its answer, and how long a translator's own program may take.
    pub translate_timeout_ms: u64,
    /// A task that no worker claims for this long fails the job with `no_capacity`.
    pub claim_timeout_ms: u64,
    /// From SIGTERM to the end of the process.
    pub drain_grace_ms: u64,
    /// The coordinator's own tick.
    pub tick_ms: u64,
    /// First pause before a failed task is tried again; doubles with each attempt.
    pub retry_backoff_ms: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            ack_wait_ms: 30_000,
            heartbeat_ms: 2_000,
            worker_lost_ms: 10_000,
            lease_ttl_ms: 6_000,
            request_timeout_ms: 5_000,
            reserve_timeout_ms: 10_000,
            join_timeout_ms: 30_000,
            step_timeout_ms: 60_000,
            rank_silent_ms: 8_000,
            last_call_ms: 2_000,
            feed_timeout_ms: 15_000,
            translate_timeout_ms: 60_000,
            claim_timeout_ms: 60_000,
            drain_grace_ms: 30_000,
            tick_ms: 250,
            retry_backoff_ms: 500,
        }
    }
}
