//! Requests and answers of the services, on `svc.<role>.<verb>`. A request names its answer's type.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::UnixMs;
use crate::envelope::Payload;
use crate::error::WireError;
use crate::event::Checkpoint;
use crate::id::{Fence, JobId, TaskId, WorkerId};
use crate::job::{JobRecord, JobState, Role};
use crate::spec::SpecError;
use crate::work::TaskOutput;

/// A request and the answer that it gets.
pub trait Request: Payload {
    type Answer: Serialize + DeserializeOwned + Send + 'static;
    const ROLE: Role;
    const VERB: &'static str;
}

/// The answer, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reply<T> {
    Ok(T),
    Error(WireError),
}

impl<T> Reply<T> {
    pub fn into_result(self) -> Result<T, WireError> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Error(error) => Err(error),
        }
    }
}

impl<T> From<Result<T, WireError>> for Reply<T> {
    fn from(result: Result<T, WireError>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(error) => Self::Error(error),
        }
    }
}

macro_rules! request {
    ($name:ident, $role:ident, $verb:literal, $type_name:literal -> $answer:ty) => {
        impl Payload for $name {
            fn type_name(&self) -> String {
                $type_name.into()
            }
            fn accepts(type_name: &str) -> bool {
                type_name == $type_name
            }
        }
        impl Request for $name {
            type Answer = $answer;
            const ROLE: Role = Role::$role;
            const VERB: &'static str = $verb;
        }
    };
}
pub(crate) use request;

/// How the text of a spec is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpecFormat {
    Yaml,
    Json,
}

/// A job event in: on `job.submit` (durable; the outcome is an event) or on
/// `svc.coordinator.submit` (validates and answers at once). The job's id follows from the envelope's
/// `source` and `id`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Submit {
    /// The job spec: an object, or a text in `format`.
    pub spec: SpecDocument,
    /// `--set key=value`, applied after the spec's own overrides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
}

/// A spec as an object (JSON or MessagePack clients) or as the text of a file (so that errors name lines).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum SpecDocument {
    Text {
        text: String,
        format: SpecFormat,
        #[serde(default)]
        file: Option<String>,
        /// The texts of the chain of `base_config`s, nearest first: a spec on the wire is self-contained.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        bases: Vec<SpecBase>,
    },
    Object(serde_json::Map<String, serde_json::Value>),
}

/// The text of one `base_config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpecBase {
    pub text: String,
    pub format: SpecFormat,
    /// As seen from where the spec's file lies.
    pub file: String,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Submitted {
    pub job: JobId,
    pub state: JobState,
    /// The event was known already; nothing was started.
    pub duplicate: bool,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// All mistakes of a rejected spec.
    #[serde(default)]
    pub errors: Vec<SpecError>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
}
request!(Submit, Coordinator, "submit", "within.job.submit" -> Submitted);

/// Cancels a job in any state; also accepted on `job.cancel`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cancel {
    pub job: JobId,
    #[serde(default)]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CancelAnswer {
    pub state: JobState,
}
request!(Cancel, Coordinator, "cancel", "within.job.cancel" -> CancelAnswer);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GetJob {
    pub job: JobId,
}
request!(GetJob, Coordinator, "get", "within.job.get" -> JobRecord);

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListJobs {
    /// At most so many, newest first.
    pub limit: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobSummary {
    pub job: JobId,
    pub name: String,
    pub state: JobState,
    pub submitted_at: UnixMs,
    pub since: UnixMs,
    /// What it does or waits for.
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobList {
    pub jobs: Vec<JobSummary>,
}
request!(ListJobs, Coordinator, "list", "within.job.list" -> JobList);

/// A worker that has taken a work message asks for the task's lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Claim {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    pub worker: WorkerId,
}

/// Whether the worker may begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "claim", rename_all = "snake_case")]
pub enum ClaimAnswer {
    Granted {
        fence: Fence,
    },
    /// Done, cancelled, or of an older attempt: acknowledge the message and forget it.
    Gone {
        reason: String,
    },
    /// Held by another worker, or not yet due: give the message back and try later.
    Busy {
        retry_after_ms: u64,
    },
}
request!(Claim, Coordinator, "claim", "within.task.claim" -> ClaimAnswer);

/// What a holder reports of its task. Idempotent: the same report again gets the same answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    pub fence: Fence,
    pub worker: WorkerId,
    pub body: ReportBody,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum ReportBody {
    Done {
        output: TaskOutput,
    },
    Failed {
        error: WireError,
    },
    /// A checkpoint lies in place; from now on a new attempt begins there.
    Checkpoint {
        checkpoint: Checkpoint,
    },
    /// The worker drains and gives the task back.
    Released {
        reason: String,
    },
    /// One rank of a gang is gone; the others go on where they are enough. Counts under any fence of the attempt.
    RankLost {
        rank: u32,
        error: WireError,
    },
    /// One rank of a gang has left it in order: its worker drains, it was too slow, or its training is over.
    RankLeft {
        rank: u32,
        /// Its training is over; whoever leads tells the rest.
        finished: bool,
        reason: String,
    },
}

/// Whether the report counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum ReportAnswer {
    Accepted,
    /// A lower fence, an ended task or a cancelled job: stop, and leave no trace.
    Fenced {
        reason: String,
    },
}
request!(Report, Coordinator, "report", "within.task.report" -> ReportAnswer);

/// The tracker's runs, newest first. Answered by the writing tracker on `svc.tracker.runs`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ListRuns {
    /// Only of this experiment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// At most so many; 0 means 100, and 1,000 is the most.
    #[serde(default)]
    pub limit: u32,
}

/// State of a run, by the names of MLflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunStatus {
    Running,
    Finished,
    Failed,
    Killed,
}

/// A run, which is a job as the tracker sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunSummary {
    /// The job's id.
    pub run: String,
    pub experiment: String,
    pub name: String,
    pub status: RunStatus,
    /// None for a run whose beginning the tracker has not seen.
    pub start_time: Option<UnixMs>,
    pub end_time: Option<UnixMs>,
    /// The latest value of each metric: that of the highest step.
    pub metrics: crate::event::Metrics,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunList {
    pub runs: Vec<RunSummary>,
}
request!(ListRuns, Tracker, "runs", "within.run.list" -> RunList);

/// One run with all that is known of it, on `svc.tracker.run`. `run_not_found` if there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GetRun {
    pub run: JobId,
    /// Also every value of each metric.
    #[serde(default)]
    pub history: bool,
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricPoint {
    pub step: u64,
    pub epoch: u32,
    pub timestamp: UnixMs,
    pub value: crate::event::MetricValue,
}

/// An artifact of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunArtifact {
    /// model, report, dataset, plan or spec.
    pub kind: String,
    /// The last part of its URI.
    pub name: String,
    pub artifact: crate::artifact::ArtifactRef,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Run {
    pub summary: RunSummary,
    pub params: std::collections::BTreeMap<String, String>,
    pub tags: std::collections::BTreeMap<String, String>,
    /// By metric, in the order of steps; empty unless asked for.
    pub history: std::collections::BTreeMap<String, Vec<MetricPoint>>,
    /// The history was longer than an answer may be: each metric's oldest points are given.
    pub history_cut: bool,
    pub artifacts: Vec<RunArtifact>,
}
request!(GetRun, Tracker, "run", "within.run.get" -> Run);

/// Answers travel in the same envelope.
impl<T: Serialize + DeserializeOwned> Payload for Reply<T> {
    fn type_name(&self) -> String {
        "within.reply".into()
    }

    fn accepts(type_name: &str) -> bool {
        type_name == "within.reply"
    }
}
