//! What happened to a job: the payloads on `evt.<job>.<type>`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactRef;
use crate::envelope::Payload;
use crate::error::WireError;
use crate::id::{TaskId, WorkerId};
use crate::job::Role;
use crate::step::StepReport;

/// A number that may be undefined: then it is null and says why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum MetricValue {
    Defined(f64),
    Undefined { value: (), reason: String },
}

impl MetricValue {
    /// NaN and infinities become undefined with a reason.
    pub fn of(value: f64) -> Self {
        if value.is_finite() { Self::Defined(value) } else { Self::undefined(format!("not finite: {value}")) }
    }

    pub fn undefined(reason: impl Into<String>) -> Self {
        Self::Undefined { value: (), reason: reason.into() }
    }

    pub fn get(&self) -> Option<f64> {
        match self {
            Self::Defined(value) => Some(*value),
            Self::Undefined { .. } => None,
        }
    }
}

/// Metrics by name.
pub type Metrics = BTreeMap<String, MetricValue>;

/// Metrics of the three parts that a summary shows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MetricSummary {
    pub val: Metrics,
    pub test: Metrics,
    /// On the test part, by always answering the training mean or prior.
    pub baseline: Metrics,
}

/// A trained model's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRef {
    pub uri: String,
    /// BLAKE3 of the file's bytes.
    pub file_blake3: String,
    /// BLAKE3 of the parameters in canonical order and of nothing else.
    pub blake3: String,
    pub size_bytes: u64,
}

/// A checkpoint directory, committed by renaming it into place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Checkpoint {
    /// `checkpoint_epoch_007`, or `checkpoint_step_000120`.
    pub name: String,
    pub uri: String,
    /// BLAKE3 of its manifest, which names every file with its hash.
    pub blake3: String,
    /// Completed epochs.
    pub epoch: u32,
    /// Completed optimizer steps.
    pub step: u64,
    pub metrics: Metrics,
}

/// The job was accepted and will end with exactly one terminal event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Accepted {
    pub name: String,
    pub plan: ArtifactRef,
    pub tasks: Vec<TaskId>,
    /// Accepted, and worth a look.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Training or another long task goes on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    pub task: TaskId,
    /// 1-based, the one in progress.
    pub epoch: u32,
    pub epochs: u32,
    /// Completed optimizer steps of the job.
    pub step: u64,
    pub steps: u64,
    pub loss: MetricValue,
    pub samples_per_s: f64,
    /// Seconds to the end of training, if early stopping does not come first.
    pub eta_s: f64,
}

/// Metrics at a step; names with the prefix `val_` are of the validation part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Metric {
    pub task: TaskId,
    pub epoch: u32,
    pub step: u64,
    pub metrics: Metrics,
}

/// The terminal event of a job that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Completed {
    pub name: String,
    pub run: String,
    pub duration_s: f64,
    pub metrics: MetricSummary,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ArtifactRef>,
    /// What the preparation of the data left beside the dataset version, by name: `validation_report`, ….
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data_reports: BTreeMap<String, ArtifactRef>,
}

/// What happened. The CloudEvents `type` is `within.job.<name>`, the subject's last token `<name>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Accepted(Accepted),
    /// The submission was wrong; there is no job.
    Rejected {
        error: WireError,
        errors: Vec<crate::spec::SpecError>,
    },
    TaskStarted {
        task: TaskId,
        role: Role,
        attempt: u32,
        worker: WorkerId,
    },
    TaskDone {
        task: TaskId,
        attempt: u32,
        duration_s: f64,
    },
    /// A step of a task was computed, or taken from the step cache, and why.
    Step {
        task: TaskId,
        attempt: u32,
        #[serde(flatten)]
        report: StepReport,
    },
    /// The task failed or was lost and will be tried again.
    TaskRetried {
        task: TaskId,
        attempt: u32,
        error: WireError,
    },
    Progress(Progress),
    Metric(Metric),
    Checkpoint(Checkpoint),
    /// A checkpoint that training should have gone on from is damaged or of another plan or dataset.
    CheckpointRefused {
        task: TaskId,
        name: String,
        reason: String,
        /// The one that training goes on from; none: it begins anew.
        used: Option<String>,
    },
    /// A hook of training: on_train_begin, on_epoch_begin, on_epoch_end, should_stop, on_train_end.
    Hook {
        hook: String,
        epoch: u32,
        detail: Option<String>,
    },
    WorkerLost {
        worker: WorkerId,
        task: TaskId,
        attempt: u32,
        error: WireError,
    },
    /// A rank of a gang is gone; the others go on where they are enough.
    RankLost {
        task: TaskId,
        attempt: u32,
        rank: u32,
        worker: WorkerId,
        error: WireError,
    },
    /// The gang goes on in another composition, from the last completed step.
    Regrouped {
        task: TaskId,
        attempt: u32,
        generation: u32,
        world_size: u32,
        /// By number in the attempt.
        ranks: Vec<u32>,
        joined: Vec<u32>,
        gone: Vec<u32>,
        /// Completed optimizer steps, of the rank that was furthest.
        step: u64,
    },
    /// A rank takes much longer over its steps than the others.
    Straggler {
        task: TaskId,
        rank: u32,
        host: String,
        /// Its computing time of a step and the median of all ranks', in milliseconds.
        step_ms: f64,
        median_ms: f64,
        /// It leaves the gang.
        evicted: bool,
    },
    /// The job waits, and for what.
    Waiting {
        task: TaskId,
        reason: String,
    },
    Completed(Completed),
    Failed {
        name: String,
        run: String,
        duration_s: f64,
        error: WireError,
    },
    Cancelled {
        reason: String,
    },
}

impl Event {
    pub const NAMES: [&'static str; 19] = [
        "accepted",
        "rejected",
        "task_started",
        "task_done",
        "step",
        "task_retried",
        "progress",
        "metric",
        "checkpoint",
        "checkpoint_refused",
        "hook",
        "worker_lost",
        "rank_lost",
        "regrouped",
        "straggler",
        "waiting",
        "completed",
        "failed",
        "cancelled",
    ];

    /// The last token of the subject.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::Rejected { .. } => "rejected",
            Self::TaskStarted { .. } => "task_started",
            Self::TaskDone { .. } => "task_done",
            Self::Step { .. } => "step",
            Self::TaskRetried { .. } => "task_retried",
            Self::Progress(_) => "progress",
            Self::Metric(_) => "metric",
            Self::Checkpoint(_) => "checkpoint",
            Self::CheckpointRefused { .. } => "checkpoint_refused",
            Self::Hook { .. } => "hook",
            Self::WorkerLost { .. } => "worker_lost",
            Self::RankLost { .. } => "rank_lost",
            Self::Regrouped { .. } => "regrouped",
            Self::Straggler { .. } => "straggler",
            Self::Waiting { .. } => "waiting",
            Self::Completed(_) => "completed",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
        }
    }

    /// Whether the job has ended (or never began) with this event.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Completed(_) | Self::Failed { .. } | Self::Cancelled { .. })
    }
}

impl Payload for Event {
    fn type_name(&self) -> String {
        format!("within.job.{}", self.name())
    }

    fn accepts(type_name: &str) -> bool {
        type_name.strip_prefix("within.job.").is_some_and(|name| Self::NAMES.contains(&name))
    }
}

/// One line of a rank's or task's log, on `log.<job>.<source>`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogLine {
    pub timestamp: String,
    pub level: String,
    pub module: String,
    pub message: String,
}

impl Payload for LogLine {
    fn type_name(&self) -> String {
        "within.log.line".into()
    }

    fn accepts(type_name: &str) -> bool {
        type_name == "within.log.line"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undefined_metric_is_null_with_a_reason() {
        let json = serde_json::to_string(&MetricValue::of(f64::NAN)).expect("serializes");
        assert_eq!(json, r#"{"value":null,"reason":"not finite: NaN"}"#);
        assert_eq!(serde_json::from_str::<MetricValue>(&json).expect("parses").get(), None);
        assert_eq!(serde_json::from_str::<MetricValue>("0.5").expect("parses").get(), Some(0.5));
        let packed = rmp_serde::to_vec_named(&MetricValue::of(f64::INFINITY)).expect("packs");
        assert_eq!(rmp_serde::from_slice::<MetricValue>(&packed).expect("unpacks").get(), None);
    }
}
