//! The rows that the tracker writes, as values: what the pure projection puts out and the store takes in.

use messages::event::MetricValue;
use messages::rpc::RunStatus;
use messages::{ArtifactRef, Fence, UnixMs};

/// A fence under which rows come: refused if the run's task has been seen with a higher one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    pub task: String,
    pub fence: Fence,
}

/// All that one event, or one record task, writes for one run. All or nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct RowSet {
    pub run: String,
    pub guard: Option<Guard>,
    pub rows: Vec<Row>,
}

/// A point of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricRow {
    pub key: String,
    /// What measured it, mostly a task's id; one point a step from each source.
    pub source: String,
    /// Completed optimizer steps. None: after the last step that the run has rows of, and only if
    /// this source has not given this metric before.
    pub step: Option<u64>,
    pub epoch: u32,
    pub timestamp: UnixMs,
    pub value: MetricValue,
}

/// One row; writing it again changes nothing.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// What is known of the run itself; what is none stays as it was.
    Run {
        experiment: Option<String>,
        name: Option<String>,
        start: Option<UnixMs>,
        plan: Option<ArtifactRef>,
    },
    /// The end of a running run; a run that has ended keeps its end.
    End {
        status: RunStatus,
        at: UnixMs,
    },
    /// Immutable: the first value stands.
    Param {
        key: String,
        value: String,
    },
    /// The last value stands.
    Tag {
        key: String,
        value: String,
    },
    Metric(MetricRow),
    Artifact {
        kind: String,
        name: String,
        artifact: ArtifactRef,
    },
}

impl Row {
    pub fn tag(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self::Tag { key: key.into(), value: value.into() }
    }

    /// An artifact, named by the last part of its URI.
    pub fn artifact(kind: &str, artifact: &ArtifactRef) -> Self {
        let name = artifact.uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        Self::Artifact { kind: kind.to_owned(), name: name.to_owned(), artifact: artifact.clone() }
    }
}
