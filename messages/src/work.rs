//! Work for the queue roles, on `work.<role>.<job>.<task>`, and what a task puts out.
//! A training gang is one task too; its work travels in the offer (see [`crate::gang`]).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactRef;
use crate::envelope::Payload;
use crate::event::{Checkpoint, MetricSummary, ModelRef};
use crate::id::{JobId, TaskId};
use crate::step::StepReport;

/// What a task works on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "work", rename_all = "snake_case")]
pub enum WorkInput {
    /// data_loader: read, check, split, fit, write shards.
    Prepare,
    /// trainer: train on the dataset, from a checkpoint if there is one.
    Train { dataset: ArtifactRef, resume: Option<Checkpoint> },
    /// evaluator: metrics of the model on val and test.
    Evaluate { dataset: ArtifactRef, model: ModelRef },
    /// tracker: the run with its params, metrics and artifacts, in one transaction.
    Record { dataset: ArtifactRef, model: ModelRef, metrics: MetricSummary, report: ArtifactRef },
}

impl WorkInput {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Train { .. } => "train",
            Self::Evaluate { .. } => "evaluate",
            Self::Record { .. } => "record",
        }
    }
}

/// One attempt at one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Work {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    pub name: String,
    pub plan: ArtifactRef,
    /// When the whole job fails if it has not ended.
    pub deadline_at: crate::UnixMs,
    pub input: WorkInput,
}

impl Payload for Work {
    fn type_name(&self) -> String {
        format!("within.work.{}", self.input.name())
    }

    fn accepts(type_name: &str) -> bool {
        matches!(type_name, "within.work.prepare" | "within.work.train" | "within.work.evaluate" | "within.work.record")
    }
}

/// What a task put out; the next tasks' input is made of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "output", rename_all = "snake_case")]
pub enum TaskOutput {
    Prepared {
        /// The manifest of the dataset version.
        dataset: ArtifactRef,
        rows_train: u64,
        rows_val: u64,
        rows_test: u64,
        #[serde(default)]
        warnings: Vec<String>,
        /// What was made beside the dataset version, by name: `validation_report`, `quarantined_rows`, ….
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        reports: BTreeMap<String, ArtifactRef>,
        /// What was computed, and what came from the step cache.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        steps: Vec<StepReport>,
    },
    Trained {
        model: ModelRef,
        epochs: u32,
        steps: u64,
        stopped_early: bool,
    },
    Evaluated {
        metrics: MetricSummary,
        report: ArtifactRef,
    },
    Recorded {
        run: String,
    },
}
