//! A job as it is kept in `WITHIN_JOB`: a DAG of tasks, their leases and fences, and the outbox of
//! the events that must still leave. The record holds URIs and hashes of spec and plan, not the text.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactRef;
use crate::error::WireError;
use crate::event::{Checkpoint, Completed, Event};
use crate::id::{Fence, JobId, TaskId, WorkerId};
use crate::trace::TraceParent;
use crate::work::TaskOutput;
use crate::{SCHEMA_VERSION, UnixMs};

/// What a process can be. A worker runs any set of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Coordinator,
    DataLoader,
    Trainer,
    Evaluator,
    Tracker,
    Notifier,
}

impl Role {
    pub const ALL: [Self; 6] =
        [Self::Coordinator, Self::DataLoader, Self::Trainer, Self::Evaluator, Self::Tracker, Self::Notifier];

    /// Roles whose tasks go through the work queue. A training gang does not: its slots are offered.
    pub const QUEUE: [Self; 4] = [Self::DataLoader, Self::Evaluator, Self::Tracker, Self::Notifier];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::DataLoader => "data_loader",
            Self::Trainer => "trainer",
            Self::Evaluator => "evaluator",
            Self::Tracker => "tracker",
            Self::Notifier => "notifier",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|role| role.as_str()).collect();
            format!("role {text:?}: expected one of {}", names.join(", "))
        })
    }
}

/// State of a task. Any active one may be lost and queued again with the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Something it needs is not done.
    Waiting,
    /// Published to its role's queue, or, for a gang, waiting for slots.
    Queued,
    /// A worker holds it (a gang: slots are reserved, ranks are joining).
    Leased,
    /// The holder has shown progress.
    Running,
    Done,
    Failed,
    Cancelled,
}

impl TaskState {
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }

    pub fn is_held(self) -> bool {
        matches!(self, Self::Leased | Self::Running)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Leased => "leased",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// State of a job, derived from its tasks. (A rejected submission has no record: its outcome is an event.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    Accepted,
    Rejected,
    Running,
    Cancelling,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobState {
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Rejected | Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One member of a training gang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GangMember {
    pub worker: WorkerId,
    /// Slots reserved on that worker, a rank each.
    pub slots: u32,
    /// Kernel fingerprint; a bit-exact gang admits one.
    pub fingerprint: String,
    /// Numbers of its ranks in the attempt, one a slot.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<u32>,
}

/// The gang of a training task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gang {
    /// Grows with every change of membership.
    pub generation: u32,
    pub members: Vec<GangMember>,
    /// The number of the next rank to join; a number is never used again in an attempt.
    #[serde(default)]
    pub next_rank: u32,
    /// Ranks whose training is over, and who have left the rest to the leader.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finished: Vec<u32>,
    /// The last ranks that were lost, oldest first, also in attempts before; the others went on, or began anew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub losses: Vec<RankLoss>,
}

/// A rank that was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RankLoss {
    pub attempt: u32,
    pub rank: u32,
    pub worker: WorkerId,
    pub at: UnixMs,
    /// Its message's first line; the event has all of it.
    pub error: WireError,
}

impl Gang {
    /// Ranks in it.
    pub fn world_size(&self) -> u32 {
        self.members.iter().map(|member| member.slots).sum()
    }

    /// Who runs a rank.
    pub fn worker_of(&self, rank: u32) -> Option<&WorkerId> {
        self.members.iter().find(|member| member.ranks.contains(&rank)).map(|member| &member.worker)
    }

    /// All ranks, in order.
    pub fn ranks(&self) -> Vec<u32> {
        let mut ranks: Vec<u32> = self.members.iter().flat_map(|member| member.ranks.iter().copied()).collect();
        ranks.sort_unstable();
        ranks
    }
}

/// A task as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TaskRecord {
    pub id: TaskId,
    pub role: Role,
    /// Tasks that must be done before.
    pub needs: Vec<TaskId>,
    pub state: TaskState,
    /// From 1; grows when the task is lost or retried.
    pub attempt: u32,
    /// How many attempts failed or were lost; attempts that were given back do not count.
    #[serde(default)]
    pub failures: u32,
    /// Of the current lease; none while the lease's own revision is not yet known to the writer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gang: Option<Gang>,
    /// Since when it is in its state.
    pub since: UnixMs,
    /// Not to be queued again before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<UnixMs>,
    /// What a queued task waits for, when nobody is there who could take it: "no trainer is up".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<TaskOutput>,
    /// The last failure, kept over retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
    /// The last committed checkpoint of a training task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

/// An event that was decided together with a transition and must be stored exactly once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutboxEntry {
    /// Event id and `Nats-Msg-Id`.
    pub id: String,
    pub at: UnixMs,
    pub event: Event,
}

/// A job's record, the value in `WITHIN_JOB` under the job's id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobRecord {
    pub schema: u16,
    pub job: JobId,
    /// `source` and `id` of the submitting event: a job is deduplicated on the pair for ever.
    pub source: String,
    pub event_id: String,
    /// BLAKE3 of the submitted data; the same event id with another content is refused.
    pub content_blake3: String,
    pub name: String,
    pub spec: ArtifactRef,
    pub plan: ArtifactRef,
    pub state: JobState,
    pub submitted_at: UnixMs,
    /// Since when the job is in its state.
    pub since: UnixMs,
    /// When the job fails if it has not ended.
    pub deadline_at: UnixMs,
    /// How many times a task may be attempted.
    pub max_attempts: u32,
    /// Slots of the training gang at its beginning, where so many are free.
    pub world_size: u32,
    /// It begins and goes on with no fewer ranks; 0 in records of the version before: `world_size`.
    #[serde(default)]
    pub min_world_size: u32,
    /// It grows to so many ranks where slots are free; 0 in records of the version before: `world_size`.
    #[serde(default)]
    pub max_world_size: u32,
    /// It trains on CUDA devices only.
    #[serde(default)]
    pub cuda: bool,
    pub tasks: Vec<TaskRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<Completed>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
    pub outbox: Vec<OutboxEntry>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
}

impl JobRecord {
    pub fn task(&self, id: &TaskId) -> Option<&TaskRecord> {
        self.tasks.iter().find(|task| &task.id == id)
    }

    pub fn task_mut(&mut self, id: &TaskId) -> Option<&mut TaskRecord> {
        self.tasks.iter_mut().find(|task| &task.id == id)
    }

    /// Fewest and most ranks of the training gang.
    pub fn world_sizes(&self) -> (u32, u32) {
        let or = |size: u32| if size == 0 { self.world_size } else { size };
        (or(self.min_world_size).min(self.world_size), or(self.max_world_size).max(self.world_size))
    }

    /// Nothing is left to do or to publish.
    pub fn is_settled(&self) -> bool {
        self.state.is_terminal() && self.outbox.is_empty()
    }

    /// Whether this reader understands the value.
    pub fn schema_is_readable(&self) -> bool {
        (SCHEMA_VERSION.saturating_sub(1)..=SCHEMA_VERSION + 1).contains(&self.schema)
    }
}
