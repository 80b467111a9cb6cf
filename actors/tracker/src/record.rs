//! What a `Record` task writes, pure: the run as it ended, from plan, job record and the outputs of the
//! tasks before. Run twice, or beside the projection of the same job's events, it gives the same rows.

use messages::event::{MetricSummary, ModelRef};
use messages::job::JobRecord;
use messages::plan::JobPlan;
use messages::work::TaskOutput;
use messages::{ArtifactRef, Fence, TaskId};

use crate::params::plan_rows;
use crate::row::{Guard, Row, RowSet};
use crate::state::{model_rows, summary_rows};

/// The material of one record task.
#[derive(Debug, Clone, Copy)]
pub struct Recording<'a> {
    pub task: &'a TaskId,
    pub fence: Fence,
    pub record: &'a JobRecord,
    pub plan: &'a JobPlan,
    pub dataset: &'a ArtifactRef,
    pub model: &'a ModelRef,
    pub metrics: &'a MetricSummary,
    pub report: &'a ArtifactRef,
}

impl Recording<'_> {
    /// All rows of the run that are not the event stream's own.
    pub fn rows(&self) -> RowSet {
        let mut rows = vec![Row::Run {
            experiment: None,
            name: Some(self.record.name.clone()),
            start: None,
            plan: Some(self.record.plan.clone()),
        }];
        rows.extend(plan_rows(self.plan));
        rows.extend([
            Row::tag("within.source", &self.record.source),
            Row::tag("within.event_id", &self.record.event_id),
            Row::tag("within.dataset.blake3", &self.dataset.blake3),
        ]);
        rows.extend(model_rows(self.model));
        rows.extend([
            Row::artifact("report", self.report),
            Row::artifact("dataset", self.dataset),
            Row::artifact("plan", &self.record.plan),
            Row::artifact("spec", &self.record.spec),
        ]);
        rows.extend(summary_rows(self.metrics, Some(self.steps()), self.evaluated_at()));
        let guard = Guard { task: self.task.to_string(), fence: self.fence };
        RowSet { run: self.record.job.to_string(), guard: Some(guard), rows }
    }

    /// Optimizer steps of the training: the metrics of the announced model stand at its end.
    fn steps(&self) -> u64 {
        let steps = |output: &TaskOutput| match output {
            TaskOutput::Trained { steps, .. } => Some(*steps),
            _ => None,
        };
        let trained = self.record.tasks.iter().filter_map(|task| task.output.as_ref());
        trained.filter_map(steps).max().unwrap_or(0)
    }

    /// When the metrics were known: not the present, which would differ between two attempts.
    fn evaluated_at(&self) -> messages::UnixMs {
        let evaluated = |output: &TaskOutput| matches!(output, TaskOutput::Evaluated { .. });
        let done = self.record.tasks.iter().filter(|task| task.output.as_ref().is_some_and(evaluated));
        done.map(|task| task.since).max().unwrap_or(self.record.submitted_at)
    }
}
