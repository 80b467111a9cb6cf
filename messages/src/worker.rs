//! What a worker says of itself, on `hb.<role>.<worker>`, and what it is told, on `ctl.*`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::Payload;
use crate::id::{Fence, JobId, TaskId, WorkerId};
use crate::job::Role;

/// A lease that the worker believes to hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct HeldLease {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    pub fence: Fence,
    /// Ranks of a gang that run here, by their numbers in the attempt; none in other tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<u32>,
}

/// How the part of a kernel fingerprint begins that says which CUDA devices a worker has, as `+cuda-sm_90`.
pub const CUDA: &str = "cuda-";

/// Heartbeat of one role of one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    pub worker: WorkerId,
    pub role: Role,
    pub host: String,
    pub pid: u32,
    /// `version+commit`.
    pub build: String,
    /// Bits of results can only be compared between equal fingerprints.
    pub fingerprint: String,
    /// How many tasks (a trainer: gang slots) it can hold at once.
    pub slots: u32,
    pub slots_free: u32,
    pub held: Vec<HeldLease>,
    /// It finishes or gives back what it has and takes nothing new.
    pub draining: bool,
    /// Grows with each heartbeat of the process.
    pub sequence: u64,
}

impl Payload for Heartbeat {
    fn type_name(&self) -> String {
        "within.worker.heartbeat".into()
    }

    fn accepts(type_name: &str) -> bool {
        type_name == "within.worker.heartbeat"
    }
}

/// What a worker is told. The subject's last token is the command's name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Control {
    /// Stop one task: it was cancelled, or its lease has passed on. All leases up to `fence` included.
    StopTask {
        job: JobId,
        task: TaskId,
        fence: Fence,
        reason: String,
    },
    /// Take nothing new, finish or give back, then end.
    Drain,
    LogLevel {
        filter: String,
    },
}

impl Control {
    pub fn verb(&self) -> &'static str {
        match self {
            Self::StopTask { .. } => "stop_task",
            Self::Drain => "drain",
            Self::LogLevel { .. } => "log_level",
        }
    }
}

impl Payload for Control {
    fn type_name(&self) -> String {
        format!("within.worker.{}", self.verb())
    }

    fn accepts(type_name: &str) -> bool {
        matches!(type_name, "within.worker.stop_task" | "within.worker.drain" | "within.worker.log_level")
    }
}
