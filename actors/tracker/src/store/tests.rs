//! The store on real files: replays, fences, takeovers, locks, versions.

use std::time::Duration;

use expect_test::expect;
use messages::envelope::Envelope;
use messages::error::{Code, WireError};
use messages::event::{Accepted, Completed, Event, Metric, MetricSummary, MetricValue, Metrics, Progress};
use messages::job::{JobRecord, JobState, Role, TaskState};
use messages::plan::JobPlan;
use messages::rpc::{GetRun, ListRuns, RunStatus};
use messages::work::TaskOutput;
use messages::{ArtifactRef, Fence, JobId, TaskId};
use proptest::prelude::*;
use serde_json::json;
use sqlx::Connection as _;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::*;
use crate::database::Database;
use crate::error::ErrorKind;
use crate::record::Recording;
use crate::row::RowSet;
use crate::state::project;

const STREAM: &str = "WITHIN_EVT";
const WAIT: Duration = Duration::from_millis(100);

struct Fixture {
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("temporary folder") }
    }

    fn database(&self) -> Database {
        Database { file: self.folder.path().join("deep/tracker.db") }
    }

    async fn open(&self) -> (Writer, Reader) {
        open(&self.database(), WAIT).await.expect("opens")
    }

    async fn raw(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.database().file).busy_timeout(WAIT);
        SqliteConnection::connect_with(&options).await.expect("connects")
    }

    /// Every row of every table of runs, as text.
    async fn dump(&self) -> String {
        let mut connection = self.raw().await;
        let mut text = String::new();
        for query in [
            "SELECT 'experiment|' || experiment_id || '|' || name || '|' || created_ms AS line FROM experiments ORDER BY line",
            "SELECT 'run|' || run_id || '|' || experiment_id || '|' || name || '|' || status || '|' || COALESCE(start_ms, '-') || '|' || COALESCE(end_ms, '-') AS line FROM runs ORDER BY line",
            "SELECT 'fence|' || run_id || '|' || task || '|' || fence AS line FROM fences ORDER BY line",
            "SELECT 'param|' || run_id || '|' || key || '|' || value AS line FROM params ORDER BY line",
            "SELECT 'tag|' || run_id || '|' || key || '|' || value AS line FROM tags ORDER BY line",
            "SELECT 'metric|' || run_id || '|' || key || '|' || step || '|' || source || '|' || timestamp_ms || '|' || COALESCE(value, value_is_null_reason) || '|' || fence AS line FROM metrics ORDER BY line",
            "SELECT 'latest|' || run_id || '|' || key || '|' || step || '|' || timestamp_ms || '|' || COALESCE(value, value_is_null_reason) AS line FROM latest_metrics ORDER BY line",
            "SELECT 'artifact|' || run_id || '|' || kind || '|' || name || '|' || uri AS line FROM artifacts ORDER BY line",
        ] {
            for row in sqlx::query(query).fetch_all(&mut connection).await.expect("reads") {
                text += &row.try_get::<String, _>(0).expect("text");
                text.push('\n');
            }
        }
        text
    }
}

fn job(number: u8) -> JobId {
    JobId::new(format!("job{number}")).expect("id")
}

fn artifact(name: &str) -> ArtifactRef {
    ArtifactRef { uri: format!("file:///store/{name}"), blake3: "ab".repeat(32), size_bytes: 7 }
}

fn summary_of(value: f64) -> MetricSummary {
    let metrics = Metrics::from([("rmse".to_owned(), MetricValue::of(value))]);
    MetricSummary { val: metrics.clone(), test: metrics.clone(), baseline: metrics }
}

fn accepted() -> Event {
    Event::Accepted(Accepted { name: "ads".into(), plan: artifact("plan.json"), tasks: vec![], warnings: vec![] })
}

fn completed() -> Event {
    Event::Completed(Completed {
        name: "ads".into(),
        run: "job0".into(),
        duration_s: 2.0,
        metrics: summary_of(0.25),
        model: None,
        report: Some(artifact("report.json")),
        data_reports: std::collections::BTreeMap::new(),
    })
}

fn metric(step: u64, value: f64) -> Event {
    let metrics = Metrics::from([("val_rmse".to_owned(), MetricValue::of(value))]);
    Event::Metric(Metric { task: TaskId::new("train").expect("id"), epoch: 1, step, metrics })
}

fn rows(run: &JobId, at: u64, fence: Option<u64>, event: Event) -> Option<RowSet> {
    let mut envelope = Envelope::new(format!("e{at}"), "/within/test", 1_000 * at, event).job(run);
    envelope.fence = fence.map(Fence);
    project(&envelope, 0, Some(&plan()))
}

fn plan() -> JobPlan {
    serde_json::from_str(include_str!("../../tests/plan.json")).expect("tests/plan.json is a plan")
}

fn recording(fence: u64) -> RowSet {
    let model = messages::event::ModelRef {
        uri: "file:///store/model.safetensors".into(),
        file_blake3: "cd".repeat(32),
        blake3: "ef".repeat(32),
        size_bytes: 9,
    };
    let trained = TaskOutput::Trained { model: model.clone(), epochs: 2, steps: 4, stopped_early: false };
    let evaluated = TaskOutput::Evaluated { metrics: summary_of(0.25), report: artifact("report.json") };
    let task = |id: &str, role: Role, output: TaskOutput, since: u64| {
        json!({
            "id": id, "role": role, "needs": [], "state": TaskState::Done, "attempt": 1, "since": since,
            "output": output, "failures": 0,
        })
    };
    let record: JobRecord = serde_json::from_value(json!({
        "schema": messages::SCHEMA_VERSION, "job": job(0), "source": "/shop", "event_id": "order-1",
        "content_blake3": "", "name": "ads", "spec": artifact("spec.yaml"), "plan": artifact("plan.json"),
        "state": JobState::Running, "submitted_at": 500, "since": 500, "deadline_at": 9_000_000,
        "max_attempts": 3, "world_size": 1, "outbox": [],
        "tasks": [
            task("train", Role::Trainer, trained, 400_000),
            task("evaluate", Role::Evaluator, evaluated, 500_000),
        ],
    }))
    .expect("a job record");
    Recording {
        task: &TaskId::new("record").expect("id"),
        fence: Fence(fence),
        record: &record,
        plan: &plan(),
        dataset: &artifact("manifest.json"),
        model: &model,
        metrics: &summary_of(0.25),
        report: &artifact("report.json"),
    }
    .rows()
}

/// Applies each set as one event, `batch` of them a transaction.
async fn apply_all(writer: &mut Writer, sets: &[Option<RowSet>], batch: usize) -> Applied {
    let mut total = Applied::default();
    for (index, chunk) in sets.chunks(batch.max(1)).enumerate() {
        let from = (index * batch.max(1)) as u64;
        let sets: Vec<_> = chunk.iter().flatten().cloned().collect();
        let applied = writer.apply(STREAM, from, from + chunk.len() as u64, &sets).await.expect("applies");
        total.written += applied.written;
        total.refused += applied.refused;
    }
    total
}

#[tokio::test]
async fn a_job_becomes_a_run() {
    let fixture = Fixture::new();
    let (mut writer, reader) = fixture.open().await;
    assert_eq!(writer.take_over(STREAM, 5).await.expect("takes over"), 0);
    let run = job(0);
    let sets = [
        rows(&run, 1, None, accepted()),
        rows(&run, 2, Some(10), metric(2, 1.0)),
        rows(&run, 3, Some(10), metric(4, 0.5)),
    ];
    apply_all(&mut writer, &sets, 2).await;
    assert!(writer.record(STREAM, &recording(20)).await.expect("records"));
    let end = rows(&run, 9, None, completed()).into_iter().collect::<Vec<_>>();
    writer.apply(STREAM, 3, 4, &end).await.expect("applies");

    let listed = reader.list(&ListRuns::default()).await.expect("lists");
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].status, listed[0].start_time, listed[0].end_time),
        (RunStatus::Finished, Some(1_000), Some(9_000))
    );
    assert_eq!(listed[0].experiment, plan().tracking.experiment);
    // The announced model's value, though training reported another one at the same step.
    assert_eq!(listed[0].metrics["val_rmse"].get(), Some(0.25));
    let question = GetRun { run: run.clone(), history: true };
    let found = reader.get(&question).await.expect("reads").expect("exists");
    let history: Vec<_> = found.history["val_rmse"].iter().map(|p| (p.step, p.value.get())).collect();
    assert_eq!(history, [(2, Some(1.0)), (4, Some(0.5)), (4, Some(0.25))]);
    assert_eq!(found.params["training.optimizer.learning_rate"], "0.001");
    assert!(!found.params.keys().any(|key| key.starts_with("notifications")));
    assert_eq!(found.tags["within.source"], "/shop");
    assert_eq!(found.tags["start_time"], "1970-01-01T00:00:01.000Z");
    let kinds: Vec<_> = found.artifacts.iter().map(|a| format!("{} {}", a.kind, a.name)).collect();
    expect![[r#"
        [
            "dataset manifest.json",
            "model model.safetensors",
            "plan plan.json",
            "report report.json",
            "spec spec.yaml",
        ]
    "#]]
    .assert_debug_eq(&kinds);
    let other = ListRuns { experiment: Some("no such".into()), limit: 5 };
    assert_eq!(reader.list(&other).await.expect("lists"), vec![]);
    assert_eq!(reader.get(&GetRun { run: job(9), history: false }).await.expect("reads"), None);
}

#[tokio::test]
async fn a_lower_fence_writes_nothing() {
    let fixture = Fixture::new();
    let (mut writer, reader) = fixture.open().await;
    writer.take_over(STREAM, 1).await.expect("takes over");
    let run = job(0);
    let sets = [
        rows(&run, 1, None, accepted()),
        rows(&run, 2, Some(20), metric(1, 0.5)),
        rows(&run, 3, Some(10), metric(1, 7.0)),
        rows(&run, 4, Some(10), metric(2, 7.0)),
    ];
    assert_eq!(apply_all(&mut writer, &sets, 4).await, Applied { written: 2, refused: 2 });
    let found = reader.get(&GetRun { run, history: true }).await.expect("reads").expect("exists");
    assert_eq!(found.history["val_rmse"].len(), 1);
    assert_eq!(found.summary.metrics["val_rmse"].get(), Some(0.5));
    assert!(writer.record(STREAM, &recording(30)).await.expect("records"));
    assert!(!writer.record(STREAM, &recording(29)).await.expect("is refused"));
}

#[tokio::test]
async fn a_writer_that_slept_writes_no_more() {
    let fixture = Fixture::new();
    let (mut old, _) = fixture.open().await;
    let (mut new, _) = fixture.open().await;
    old.take_over(STREAM, 1).await.expect("takes over");
    let first: Vec<_> = rows(&job(0), 1, None, accepted()).into_iter().collect();
    old.apply(STREAM, 0, 1, &first).await.expect("applies");
    assert_eq!(new.take_over(STREAM, 2).await.expect("takes over"), 1);
    let before = fixture.dump().await;
    let second: Vec<_> = rows(&job(0), 2, None, completed()).into_iter().collect();
    let fenced = old.apply(STREAM, 1, 2, &second).await.expect_err("is fenced");
    assert_eq!(fenced.kind(), ErrorKind::Fenced);
    assert_eq!(old.record(STREAM, &recording(3)).await.expect_err("is fenced").kind(), ErrorKind::Fenced);
    assert_eq!(old.restart(STREAM).await.expect_err("is fenced").kind(), ErrorKind::Fenced);
    assert_eq!(fixture.dump().await, before);
    // The position is a compare-and-set for its holder too.
    assert_eq!(new.apply(STREAM, 0, 1, &first).await.expect_err("has moved").kind(), ErrorKind::Fenced);
    new.apply(STREAM, 1, 2, &second).await.expect("applies");
}

#[tokio::test]
async fn a_file_held_by_another_process_is_named() {
    let fixture = Fixture::new();
    let (writer, _) = fixture.open().await;
    writer.close().await.expect("closes");
    let mut other = fixture.raw().await;
    sqlx::raw_sql("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").execute(&mut other).await.expect("locks");
    let error = open(&fixture.database(), WAIT).await.err().expect("is locked");
    assert_eq!(error.kind(), ErrorKind::Locked);
    assert!(error.to_string().contains("tracker.db"), "{error}");
    let fatal = error.to_fatal();
    assert!(!fatal.retry && fatal.code == Code::TrackerUnavailable && fatal.hint.is_some());
}

#[tokio::test]
async fn a_newer_or_foreign_file_is_refused() {
    let fixture = Fixture::new();
    let (writer, _) = fixture.open().await;
    writer.close().await.expect("closes");
    let mut other = fixture.raw().await;
    sqlx::raw_sql("INSERT INTO schema_version (version, applied_by) VALUES (99, '9.9.9')")
        .execute(&mut other)
        .await
        .expect("writes");
    let error = open(&fixture.database(), WAIT).await.err().expect("is too new");
    assert_eq!(error.kind(), ErrorKind::TooNew);
    assert!(error.to_string().contains("version 99"), "{error}");

    let foreign = Database { file: fixture.folder.path().join("foreign.db") };
    std::fs::write(&foreign.file, "no database, but long enough to look at: ".repeat(40)).expect("writes");
    let error = open(&foreign, WAIT).await.err().expect("is no database");
    assert_eq!(error.kind(), ErrorKind::Database);
    let folder = Database { file: fixture.folder.path().to_owned() };
    assert!(open(&folder, WAIT).await.is_err());
}

#[tokio::test]
async fn reopening_keeps_all_and_migrates_once() {
    let fixture = Fixture::new();
    let (mut writer, reader) = fixture.open().await;
    writer.take_over(STREAM, 1).await.expect("takes over");
    apply_all(&mut writer, &[rows(&job(0), 1, None, accepted())], 1).await;
    let before = fixture.dump().await;
    reader.close().await;
    writer.close().await.expect("closes");
    let (mut writer, _) = fixture.open().await;
    assert_eq!(fixture.dump().await, before);
    assert_eq!(writer.take_over(STREAM, 2).await.expect("takes over"), 1);
}

#[tokio::test]
async fn a_long_history_is_cut_and_says_so() {
    let fixture = Fixture::new();
    let (mut writer, reader) = fixture.open().await;
    writer.take_over(STREAM, 1).await.expect("takes over");
    let sets: Vec<_> =
        (0..MAX_HISTORY_POINTS as u64 + 5).map(|step| rows(&job(0), step, Some(1), metric(step, 0.5))).collect();
    apply_all(&mut writer, &sets, 1_000).await;
    let found = reader.get(&GetRun { run: job(0), history: true }).await.expect("reads").expect("exists");
    assert!(found.history_cut);
    assert_eq!(found.history["val_rmse"].len(), MAX_HISTORY_POINTS);
    assert_eq!(found.history["val_rmse"][0].step, 0);
}

fn any_event() -> impl Strategy<Value = (Option<u64>, Event)> {
    let error = WireError::new(Code::NumericError, "NaN");
    let train = TaskId::new("train").expect("id");
    let progress = |step: u64| Progress {
        task: TaskId::new("train").expect("id"),
        epoch: 1,
        epochs: 2,
        step,
        steps: 9,
        loss: MetricValue::undefined("no sample"),
        samples_per_s: 10.0,
        eta_s: 1.0,
    };
    prop_oneof![
        1 => Just((None, accepted())),
        8 => (0..6u64, 0..4u64, -1.0..1.0f64).prop_map(|(step, fence, value)| (Some(fence), metric(step, value))),
        3 => (0..6u64, 0..4u64).prop_map(move |(step, fence)| (Some(fence), Event::Progress(progress(step)))),
        1 => Just((None, Event::TaskDone { task: train, attempt: 1, duration_s: 1.5 })),
        1 => Just((None, Event::Cancelled { reason: "asked".into() })),
        1 => Just((None, Event::Failed { name: "ads".into(), run: "job0".into(), duration_s: 1.0, error })),
        1 => Just((None, completed())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// However events are cut into transactions, and projected once or twice: the same rows.
    #[test]
    fn a_replay_changes_nothing(
        events in prop::collection::vec((0..2u8, any_event()), 1..40), first in 1..7usize, second in 1..7usize,
    ) {
        let at = |index: usize| index as u64 + 1;
        let sets: Vec<_> = events.into_iter().enumerate()
            .map(|(index, (number, (fence, event)))| rows(&job(number), at(index), fence, event))
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let (once, other) = (Fixture::new(), Fixture::new());
            let (mut writer, _) = once.open().await;
            writer.take_over(STREAM, 1).await.expect("takes over");
            apply_all(&mut writer, &sets, first).await;
            let dump = once.dump().await;
            writer.restart(STREAM).await.expect("restarts");
            apply_all(&mut writer, &sets, second).await;
            assert_eq!(once.dump().await, dump);

            let (mut writer, _) = other.open().await;
            writer.take_over(STREAM, 1).await.expect("takes over");
            apply_all(&mut writer, &sets, second).await;
            assert_eq!(other.dump().await, dump);
        });
    }

    /// The record task may come before, between or after the projection of the training's events.
    #[test]
    fn a_record_commutes_with_the_projection(
        steps in prop::collection::vec((0..5u64, 1..3u64), 0..8), place in 0..9usize, twice in any::<bool>(),
    ) {
        let mut sets = vec![rows(&job(0), 1, None, accepted())];
        let trained = steps.iter().zip(2..).map(|((step, fence), at)| rows(&job(0), at, Some(*fence), metric(*step, 0.5)));
        sets.extend(trained);
        let place = place.min(sets.len());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let mut dumps = vec![];
            for place in [place, sets.len()] {
                let fixture = Fixture::new();
                let (mut writer, _) = fixture.open().await;
                writer.take_over(STREAM, 1).await.expect("takes over");
                for (index, set) in sets.iter().enumerate() {
                    if index == place {
                        writer.record(STREAM, &recording(50)).await.expect("records");
                    }
                    let set: Vec<_> = set.iter().cloned().collect();
                    writer.apply(STREAM, index as u64, index as u64 + 1, &set).await.expect("applies");
                }
                if place == sets.len() || twice {
                    assert!(writer.record(STREAM, &recording(50)).await.expect("records"));
                }
                dumps.push(fixture.dump().await);
            }
            assert_eq!(dumps[0], dumps[1]);
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_that_open_a_new_database_at_once_all_succeed() {
    for _ in 0..10 {
        let fixture = Fixture::new();
        let opening: Vec<_> = (0..8)
            .map(|_| {
                let database = fixture.database();
                tokio::spawn(async move { open(&database, WAIT * 20).await.map(|_| ()) })
            })
            .collect();
        for opened in opening {
            opened.await.expect("no panic").expect("opens");
        }
    }
}
