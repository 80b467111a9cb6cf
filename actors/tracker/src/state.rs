//! The projection, pure: what an event of the stream means in rows, and where reading goes on.
//!
//! The stream is ordered, and every row is an upsert, so projecting a part of it again, or all of it,
//! gives the same rows.

use messages::envelope::{Envelope, parse_rfc3339, rfc3339};
use messages::error::WireError;
use messages::event::{Accepted, Completed, Event, Metric, MetricSummary, MetricValue, Metrics, ModelRef, Progress};
use messages::plan::JobPlan;
use messages::rpc::RunStatus;
use messages::{ArtifactRef, TaskId, UnixMs};

use crate::params::{MAX_TAG_CHARS, cut, legal_key, plan_rows};
use crate::row::{Guard, MetricRow, Row, RowSet};

/// Source of the metrics of the announced model.
pub const SOURCE_EVALUATE: &str = "evaluate";
/// Source of what the coordinator measured, such as how long a task took.
const SOURCE_COORDINATOR: &str = "coordinator";

/// Where the projection reads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// From this sequence on, the one after the position.
    From(u64),
    /// The stream ends before the position, so it is another stream than the one that was projected:
    /// all of it is read again.
    Recreated,
}

/// Where to read on after `position`, in a stream whose last sequence is `last`.
pub fn resume(position: u64, last: u64) -> Resume {
    if position > last { Resume::Recreated } else { Resume::From(position + 1) }
}

/// What an event means in rows; none where it means none. `plan` is that of an `accepted` job, if
/// it could be loaded; `stored_at` stands in for the time of an event that names none.
pub fn project(envelope: &Envelope<Event>, stored_at: UnixMs, plan: Option<&JobPlan>) -> Option<RowSet> {
    let run = envelope.jobid.as_ref()?.to_string();
    let at = envelope.time.as_deref().and_then(parse_rfc3339).unwrap_or(stored_at);
    let guard = |task: &TaskId| envelope.fence.map(|fence| Guard { task: task.to_string(), fence });
    let (guard, rows) = match &envelope.data {
        Event::Accepted(accepted) => (None, accepted_rows(accepted, at, envelope, plan)),
        Event::TaskStarted { task, attempt, worker, .. } => (
            guard(task),
            vec![
                Row::tag(format!("within.{task}.worker"), worker.as_str()),
                Row::tag(format!("within.{task}.attempt"), attempt.to_string()),
            ],
        ),
        Event::TaskDone { task, duration_s, .. } => (None, vec![time_row(task, *duration_s, at)]),
        Event::TaskRetried { task, attempt, error } => (
            None,
            vec![Row::tag(
                format!("within.{task}.retried"),
                cut(&format!("attempt {attempt}: {error}"), MAX_TAG_CHARS),
            )],
        ),
        Event::WorkerLost { worker, task, attempt, error } => (
            None,
            vec![Row::tag(
                format!("within.{task}.worker_lost"),
                cut(&format!("attempt {attempt} on {worker}: {error}"), MAX_TAG_CHARS),
            )],
        ),
        Event::RankLost { task, attempt, rank, worker, error } => (
            None,
            vec![Row::tag(
                format!("within.{task}.rank_lost"),
                cut(&format!("attempt {attempt}, rank {rank} on {worker}: {error}"), MAX_TAG_CHARS),
            )],
        ),
        Event::Regrouped { task, generation, world_size, .. } => (
            None,
            vec![
                Row::tag(format!("within.{task}.generation"), generation.to_string()),
                Row::tag(format!("within.{task}.world_size"), world_size.to_string()),
            ],
        ),
        Event::Straggler { task, rank, host, step_ms, median_ms, .. } => (
            None,
            vec![Row::tag(
                format!("within.{task}.straggler"),
                format!("rank {rank} on {host}: {step_ms:.1} ms a step, the median {median_ms:.1} ms"),
            )],
        ),
        Event::Progress(progress) => (guard(&progress.task), progress_rows(progress, at)),
        Event::Metric(metric) => (guard(&metric.task), metric_rows(metric, at)),
        Event::Checkpoint(checkpoint) => (None, vec![Row::tag("within.checkpoint", &checkpoint.uri)]),
        Event::CheckpointRefused { task, name, reason, .. } => (
            None,
            vec![Row::tag(
                format!("within.{task}.checkpoint_refused"),
                cut(&format!("{name}: {reason}"), MAX_TAG_CHARS),
            )],
        ),
        Event::Completed(completed) => (None, completed_rows(completed, at)),
        Event::Failed { name, duration_s, error, .. } => (None, failed_rows(name, *duration_s, error, at)),
        Event::Cancelled { reason } => {
            let mut rows = end_rows(RunStatus::Killed, at, None);
            rows.push(Row::tag("within.cancel_reason", cut(reason, MAX_TAG_CHARS)));
            (None, rows)
        }
        // No job, or nothing that outlasts it.
        Event::Rejected { .. } | Event::Hook { .. } | Event::Waiting { .. } | Event::Step { .. } => return None,
    };
    Some(RowSet { run, guard, rows })
}

fn accepted_rows(accepted: &Accepted, at: UnixMs, envelope: &Envelope<Event>, plan: Option<&JobPlan>) -> Vec<Row> {
    let mut rows = vec![Row::Run {
        experiment: plan.map(|plan| plan.tracking.experiment.clone()),
        name: Some(accepted.name.clone()),
        start: Some(at),
        plan: Some(accepted.plan.clone()),
    }];
    rows.push(Row::tag("start_time", rfc3339(at)));
    rows.push(Row::artifact("plan", &accepted.plan));
    if let Some(trace) = &envelope.traceparent {
        rows.push(Row::tag("within.traceparent", &trace.0));
    }
    rows.extend(plan.into_iter().flat_map(plan_rows));
    rows
}

/// How long a task took, in seconds; of training by the specification's name `training_time`.
fn time_row(task: &TaskId, duration_s: f64, at: UnixMs) -> Row {
    let key = if task.as_str() == "train" { "training_time".to_owned() } else { format!("{task}_time") };
    Row::Metric(MetricRow {
        key,
        source: SOURCE_COORDINATOR.to_owned(),
        step: Some(0),
        epoch: 0,
        timestamp: at,
        value: MetricValue::of(duration_s),
    })
}

fn progress_rows(progress: &Progress, at: UnixMs) -> Vec<Row> {
    let values = [("loss", progress.loss.clone()), ("system/samples_per_s", MetricValue::of(progress.samples_per_s))];
    let row = |(key, value): (&str, MetricValue)| {
        Row::Metric(MetricRow {
            key: key.to_owned(),
            source: progress.task.to_string(),
            step: Some(progress.step),
            epoch: progress.epoch,
            timestamp: at,
            value,
        })
    };
    values.into_iter().map(row).collect()
}

fn metric_rows(metric: &Metric, at: UnixMs) -> Vec<Row> {
    let row = |(key, value): (&String, &MetricValue)| {
        Row::Metric(MetricRow {
            key: legal_key(key),
            source: metric.task.to_string(),
            step: Some(metric.step),
            epoch: metric.epoch,
            timestamp: at,
            value: value.clone(),
        })
    };
    metric.metrics.iter().map(row).collect()
}

/// The metrics of the announced model as `val_*`, `test_*` and `baseline_*`.
pub fn summary_rows(summary: &MetricSummary, step: Option<u64>, at: UnixMs) -> Vec<Row> {
    let part = |prefix: &'static str, metrics: &Metrics| -> Vec<Row> {
        let row = |(key, value): (&String, &MetricValue)| {
            Row::Metric(MetricRow {
                key: legal_key(&format!("{prefix}_{key}")),
                source: SOURCE_EVALUATE.to_owned(),
                step,
                epoch: 0,
                timestamp: at,
                value: value.clone(),
            })
        };
        metrics.iter().map(row).collect()
    };
    let mut rows = part("val", &summary.val);
    rows.extend(part("test", &summary.test));
    rows.extend(part("baseline", &summary.baseline));
    rows
}

/// The model's file as an artifact, and the hash of its parameters.
pub fn model_rows(model: &ModelRef) -> Vec<Row> {
    let file = ArtifactRef { uri: model.uri.clone(), blake3: model.file_blake3.clone(), size_bytes: model.size_bytes };
    vec![Row::artifact("model", &file), Row::tag("within.model.blake3", &model.blake3)]
}

/// A record task has mostly written metrics and artifacts before; a stream that is projected into a
/// new database gives them by this event alone.
fn completed_rows(completed: &Completed, at: UnixMs) -> Vec<Row> {
    let mut rows = vec![named(&completed.name)];
    rows.extend(end_rows(RunStatus::Finished, at, Some(completed.duration_s)));
    rows.extend(summary_rows(&completed.metrics, None, at));
    rows.extend(completed.model.iter().flat_map(model_rows));
    rows.extend(completed.report.iter().map(|report| Row::artifact("report", report)));
    rows.extend(completed.data_reports.iter().map(|(name, report)| Row::artifact(name, report)));
    rows
}

fn failed_rows(name: &str, duration_s: f64, error: &WireError, at: UnixMs) -> Vec<Row> {
    let mut rows = vec![named(name)];
    rows.extend(end_rows(RunStatus::Failed, at, Some(duration_s)));
    rows.push(Row::tag("within.error.class", error.class.as_str()));
    rows.push(Row::tag("within.error.code", error.code.as_str()));
    rows.push(Row::tag("within.error.message", cut(&error.message, MAX_TAG_CHARS)));
    rows
}

fn named(name: &str) -> Row {
    Row::Run { experiment: None, name: Some(name.to_owned()), start: None, plan: None }
}

fn end_rows(status: RunStatus, at: UnixMs, duration_s: Option<f64>) -> Vec<Row> {
    let mut rows = vec![Row::End { status, at }, Row::tag("end_time", rfc3339(at))];
    rows.extend(duration_s.map(|seconds| Row::tag("within.duration_s", seconds.to_string())));
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::{Expect, expect};
    use messages::error::Code;
    use messages::event::Checkpoint;
    use messages::job::Role;
    use messages::{Fence, JobId, WorkerId};

    use super::*;

    fn check(event: Event, fence: Option<u64>, expected: Expect) {
        let mut envelope =
            Envelope::new("e1", "/within/test", 1_700_000_000_000, event).job(&JobId::new("j1").expect("id"));
        envelope.fence = fence.map(Fence);
        let rows = project(&envelope, 5, None).map_or_else(
            || "none".to_owned(),
            |set| {
                let mut lines = vec![format!("{} {:?}", set.run, set.guard.map(|g| (g.task, g.fence.0)))];
                lines.extend(set.rows.iter().map(|row| format!("{row:?}")));
                lines.join("\n")
            },
        );
        expected.assert_eq(&rows);
    }

    fn task(name: &str) -> TaskId {
        TaskId::new(name).expect("id")
    }

    #[test]
    fn resumes_after_the_position_or_from_the_first_of_another_stream() {
        assert_eq!(resume(0, 0), Resume::From(1));
        assert_eq!(resume(7, 9), Resume::From(8));
        assert_eq!(resume(9, 9), Resume::From(10));
        assert_eq!(resume(9, 3), Resume::Recreated);
    }

    #[test]
    fn an_accepted_job_is_a_running_run() {
        let plan = ArtifactRef { uri: "file:///s/plans/aa/bb/plan.json".into(), blake3: "bb".into(), size_bytes: 2 };
        let accepted = Accepted { name: "ads".into(), plan, tasks: vec![], warnings: vec![] };
        check(
            Event::Accepted(accepted),
            None,
            expect![[r#"
            j1 None
            Run { experiment: None, name: Some("ads"), start: Some(1700000000000), plan: Some(ArtifactRef { uri: "file:///s/plans/aa/bb/plan.json", blake3: "bb", size_bytes: 2 }) }
            Tag { key: "start_time", value: "2023-11-14T22:13:20.000Z" }
            Artifact { kind: "plan", name: "plan.json", artifact: ArtifactRef { uri: "file:///s/plans/aa/bb/plan.json", blake3: "bb", size_bytes: 2 } }"#]],
        );
    }

    #[test]
    fn metrics_come_under_the_fence_of_their_task() {
        let metrics = BTreeMap::from([
            ("val_loss".to_owned(), MetricValue::of(0.5)),
            ("val_r2".to_owned(), MetricValue::undefined("one sample")),
        ]);
        let metric = Metric { task: task("train"), epoch: 2, step: 40, metrics };
        check(
            Event::Metric(metric),
            Some(9),
            expect![[r#"
            j1 Some(("train", 9))
            Metric(MetricRow { key: "val_loss", source: "train", step: Some(40), epoch: 2, timestamp: 1700000000000, value: Defined(0.5) })
            Metric(MetricRow { key: "val_r2", source: "train", step: Some(40), epoch: 2, timestamp: 1700000000000, value: Undefined { value: (), reason: "one sample" } })"#]],
        );
        let progress = Progress {
            task: task("train"),
            epoch: 1,
            epochs: 3,
            step: 10,
            steps: 60,
            loss: MetricValue::of(1.5),
            samples_per_s: 100.0,
            eta_s: 2.0,
        };
        check(
            Event::Progress(progress),
            Some(9),
            expect![[r#"
            j1 Some(("train", 9))
            Metric(MetricRow { key: "loss", source: "train", step: Some(10), epoch: 1, timestamp: 1700000000000, value: Defined(1.5) })
            Metric(MetricRow { key: "system/samples_per_s", source: "train", step: Some(10), epoch: 1, timestamp: 1700000000000, value: Defined(100.0) })"#]],
        );
    }

    #[test]
    fn tasks_leave_tags_and_times() {
        let worker = WorkerId::new("w1").expect("id");
        let started =
            Event::TaskStarted { task: task("train"), role: Role::Trainer, attempt: 2, worker: worker.clone() };
        check(
            started,
            None,
            expect![[r#"
            j1 None
            Tag { key: "within.train.worker", value: "w1" }
            Tag { key: "within.train.attempt", value: "2" }"#]],
        );
        check(
            Event::TaskDone { task: task("train"), attempt: 2, duration_s: 1.5 },
            None,
            expect![[r#"
            j1 None
            Metric(MetricRow { key: "training_time", source: "coordinator", step: Some(0), epoch: 0, timestamp: 1700000000000, value: Defined(1.5) })"#]],
        );
        let error = WireError::new(Code::WorkerDied, "signal 9");
        let lost = Event::WorkerLost { worker, task: task("train"), attempt: 1, error: error.clone() };
        check(
            lost,
            None,
            expect![[r#"
            j1 None
            Tag { key: "within.train.worker_lost", value: "attempt 1 on w1: worker_died: signal 9" }"#]],
        );
        check(
            Event::TaskRetried { task: task("train"), attempt: 2, error },
            None,
            expect![[r#"
            j1 None
            Tag { key: "within.train.retried", value: "attempt 2: worker_died: signal 9" }"#]],
        );
        let checkpoint = Checkpoint {
            name: "checkpoint_epoch_001".into(),
            uri: "file:///s/c1".into(),
            blake3: "cc".into(),
            epoch: 1,
            step: 20,
            metrics: Metrics::new(),
        };
        check(
            Event::Checkpoint(checkpoint),
            None,
            expect![[r#"
            j1 None
            Tag { key: "within.checkpoint", value: "file:///s/c1" }"#]],
        );
    }

    #[test]
    fn every_end_has_its_status() {
        let error = WireError::new(Code::DatasetNotFound, "no file a.csv");
        let failed = Event::Failed { name: "ads".into(), run: "j1".into(), duration_s: 0.5, error };
        check(
            failed,
            None,
            expect![[r#"
            j1 None
            Run { experiment: None, name: Some("ads"), start: None, plan: None }
            End { status: Failed, at: 1700000000000 }
            Tag { key: "end_time", value: "2023-11-14T22:13:20.000Z" }
            Tag { key: "within.duration_s", value: "0.5" }
            Tag { key: "within.error.class", value: "data" }
            Tag { key: "within.error.code", value: "dataset_not_found" }
            Tag { key: "within.error.message", value: "no file a.csv" }"#]],
        );
        check(
            Event::Cancelled { reason: "asked".into() },
            None,
            expect![[r#"
            j1 None
            End { status: Killed, at: 1700000000000 }
            Tag { key: "end_time", value: "2023-11-14T22:13:20.000Z" }
            Tag { key: "within.cancel_reason", value: "asked" }"#]],
        );
        let model = ModelRef {
            uri: "file:///s/m.safetensors".into(),
            file_blake3: "ff".into(),
            blake3: "pp".into(),
            size_bytes: 9,
        };
        let metrics = MetricSummary {
            test: Metrics::from([("rmse".to_owned(), MetricValue::of(2.0))]),
            ..MetricSummary::default()
        };
        let completed = Completed {
            name: "ads".into(),
            run: "j1".into(),
            duration_s: 3.0,
            metrics,
            model: Some(model),
            report: None,
            data_reports: std::collections::BTreeMap::new(),
        };
        check(
            Event::Completed(completed),
            None,
            expect![[r#"
            j1 None
            Run { experiment: None, name: Some("ads"), start: None, plan: None }
            End { status: Finished, at: 1700000000000 }
            Tag { key: "end_time", value: "2023-11-14T22:13:20.000Z" }
            Tag { key: "within.duration_s", value: "3" }
            Metric(MetricRow { key: "test_rmse", source: "evaluate", step: None, epoch: 0, timestamp: 1700000000000, value: Defined(2.0) })
            Artifact { kind: "model", name: "m.safetensors", artifact: ArtifactRef { uri: "file:///s/m.safetensors", blake3: "ff", size_bytes: 9 } }
            Tag { key: "within.model.blake3", value: "pp" }"#]],
        );
    }

    #[test]
    fn what_is_no_run_leaves_nothing() {
        check(Event::Waiting { task: task("train"), reason: "slots".into() }, None, expect!["none"]);
        let error = WireError::new(Code::ConfigError, "wrong");
        check(Event::Rejected { error, errors: vec![] }, None, expect!["none"]);
    }
}
