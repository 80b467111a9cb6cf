//! The tracker on a real nats-server and a real database file.

mod stage;

use std::time::Duration;

use bus::{Bus, Once};
use bytes::Bytes;
use messages::event::{Accepted, Completed, Event, Metric, MetricSummary, MetricValue, Metrics, ModelRef};
use messages::job::{JobRecord, JobState, Role, TaskState};
use messages::rpc::{GetRun, ListRuns, ReportBody, Run, RunStatus};
use messages::work::{TaskOutput, Work, WorkInput};
use messages::{ArtifactRef, Fence, JobId, TaskId};
use serde_json::json;
use stage::{LONG, Stage, coordinate, until, watch};
use within_tracker::{Config, start};

const PLAN: &str = include_str!("../plan.json");

fn job(name: &str) -> JobId {
    JobId::new(name).expect("id")
}

fn task(name: &str) -> TaskId {
    TaskId::new(name).expect("id")
}

fn artifact(name: &str) -> ArtifactRef {
    ArtifactRef { uri: format!("file:///store/{name}"), blake3: "ab".repeat(32), size_bytes: 7 }
}

fn model() -> ModelRef {
    ModelRef {
        uri: "file:///store/m.safetensors".into(),
        file_blake3: "cd".repeat(32),
        blake3: "ef".repeat(32),
        size_bytes: 9,
    }
}

fn summary() -> MetricSummary {
    let rmse = Metrics::from([("rmse".to_owned(), MetricValue::of(0.25))]);
    MetricSummary { val: rmse.clone(), test: rmse.clone(), baseline: rmse }
}

fn record(job: &JobId, plan: &ArtifactRef) -> JobRecord {
    let trained = TaskOutput::Trained { model: model(), epochs: 2, steps: 4, stopped_early: false };
    serde_json::from_value(json!({
        "schema": messages::SCHEMA_VERSION, "job": job, "source": "/shop", "event_id": "order-1",
        "content_blake3": "", "name": "ads", "spec": artifact("spec.yaml"), "plan": plan,
        "state": JobState::Running, "submitted_at": 500, "since": 500, "deadline_at": 9_000_000,
        "max_attempts": 3, "world_size": 1, "outbox": [],
        "tasks": [{
            "id": "train", "role": Role::Trainer, "needs": [], "state": TaskState::Done, "attempt": 1,
            "since": 400, "output": trained, "failures": 0,
        }],
    }))
    .expect("a job record")
}

async fn publish(bus: &Bus, job: &JobId, id: &str, event: Event, fence: Option<u64>) {
    let fence = fence.map(|fence| (Fence(fence), 1));
    bus.publish_event(job, id, event, fence, None, bus::now_ms(), Once::ById).await.expect("publishes");
}

fn metric(step: u64, value: f64) -> Event {
    let metrics = Metrics::from([("val_loss".to_owned(), MetricValue::of(value))]);
    Event::Metric(Metric { task: task("train"), epoch: 1, step, metrics })
}

fn accepted(plan: &ArtifactRef) -> Event {
    Event::Accepted(Accepted { name: "ads".into(), plan: plan.clone(), tasks: vec![], warnings: vec![] })
}

fn completed() -> Event {
    Event::Completed(Completed {
        name: "ads".into(),
        run: "j1".into(),
        duration_s: 1.0,
        metrics: summary(),
        model: Some(model()),
        report: Some(artifact("report.json")),
        data_reports: std::collections::BTreeMap::new(),
    })
}

async fn run_where(bus: &Bus, job: &JobId, wanted: impl Fn(&Run) -> bool) -> Run {
    until("the run", || async {
        let question = GetRun { run: job.clone(), history: true };
        let run = bus.request(question, None, Duration::from_secs(1)).await.ok()?;
        wanted(&run).then_some(run)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_leaves_one_run_also_over_a_restart() {
    let stage = Stage::start().await;
    let bus = stage.bus().await;
    let env = stage.env(&bus, "w1");
    let j1 = job("j1");
    let plan = env.artifacts.put_bytes("plans", "plan.json", Bytes::from(PLAN)).await.expect("stored");
    let mut reports = coordinate(&bus, record(&j1, &plan)).await;
    let (supervisor, mut ends) = watch().await;
    start(env.clone(), Config::default(), supervisor.clone()).await.expect("starts");

    publish(&bus, &j1, "e1", accepted(&plan), None).await;
    publish(&bus, &j1, "e2", metric(2, 1.0), Some(50)).await;
    let work = Work {
        job: j1.clone(),
        task: task("record"),
        attempt: 1,
        name: "ads".into(),
        plan: plan.clone(),
        deadline_at: bus::now_ms() + 60_000,
        input: WorkInput::Record {
            dataset: artifact("manifest.json"),
            model: model(),
            metrics: summary(),
            report: artifact("report.json"),
        },
    };
    bus.publish_work(Role::Tracker, &work, None).await.expect("queued");
    let report = tokio::time::timeout(LONG, reports.recv()).await.expect("in time").expect("a report");
    assert_eq!(report.body, ReportBody::Done { output: TaskOutput::Recorded { run: "j1".into() } });
    let run = run_where(&bus, &j1, |run| run.history.contains_key("val_loss")).await;
    assert_eq!(run.summary.status, RunStatus::Running);
    assert_eq!((run.summary.experiment.as_str(), run.summary.name.as_str()), ("ads", "ads"));
    assert_eq!(run.params["training.epochs"], "2");
    assert_eq!(run.summary.metrics["test_rmse"].get(), Some(0.25));
    assert_eq!(run.artifacts.len(), 5, "{:?}", run.artifacts);

    env.drain.cancel();
    assert_eq!(tokio::time::timeout(LONG, ends.recv()).await.expect("in time"), Some(None));
    // What no tracker saw, garbage, and what a worker says whose lease has passed.
    publish(&bus, &j1, "e3", metric(3, 0.5), Some(60)).await;
    let subject = bus.subjects().evt(&j1, "metric");
    bus.publish_raw(&subject, &[], Bytes::from_static(b"\xc1 garbage")).await.expect("publishes");
    publish(&bus, &j1, "e4", metric(4, 9.0), Some(50)).await;
    publish(&bus, &j1, "e5", completed(), None).await;

    let env = stage.env(&bus, "w2");
    start(env.clone(), Config::default(), supervisor).await.expect("starts again");
    let run = run_where(&bus, &j1, |run| run.summary.status == RunStatus::Finished).await;
    let history: Vec<_> = run.history["val_loss"].iter().map(|point| (point.step, point.value.get())).collect();
    assert_eq!(history, [(2, Some(1.0)), (3, Some(0.5))]);
    assert_eq!(run.history["test_rmse"].len(), 1, "the completed event repeats no metric of the record task");
    let runs = bus.request(ListRuns::default(), None, LONG).await.expect("lists").runs;
    assert_eq!(runs.len(), 1);
    let unknown = bus.request(GetRun { run: job("j9"), history: false }, None, LONG).await.expect_err("no such run");
    assert_eq!(unknown.code, messages::error::Code::RunNotFound);
    env.drain.cancel();
    assert_eq!(tokio::time::timeout(LONG, ends.recv()).await.expect("in time"), Some(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_and_a_new_stream_is_seen() {
    let mut stage = Stage::start().await;
    let bus = stage.bus().await;
    let (first, second) = (stage.env(&bus, "w1"), stage.env(&bus, "w2"));
    let j1 = job("j1");
    let plan = first.artifacts.put_bytes("plans", "plan.json", Bytes::from(PLAN)).await.expect("stored");
    let (supervisor, mut ends) = watch().await;
    let leader = start(first.clone(), Config::default(), supervisor.clone()).await.expect("starts");
    publish(&bus, &j1, "e1", accepted(&plan), None).await;
    run_where(&bus, &j1, |_| true).await;
    start(second.clone(), Config::default(), supervisor.clone()).await.expect("stands by");
    leader.kill();
    for step in 0..50 {
        publish(&bus, &j1, &format!("m{step}"), metric(step, 0.5), Some(1)).await;
    }
    let run = run_where(&bus, &j1, |run| run.history.get("val_loss").is_some_and(|points| points.len() == 50)).await;
    assert_eq!(run.summary.metrics["val_loss"].get(), Some(0.5));
    second.drain.cancel();
    for _ in 0..2 {
        tokio::time::timeout(LONG, ends.recv()).await.expect("in time").expect("an end");
    }
    bus.close().await;

    // The same database beside the fresh store of another server.
    stage.server = Stage::server(stage.home.path(), "nats2").await;
    let bus = stage.bus().await;
    let env = stage.env(&bus, "w3");
    let j2 = job("j2");
    publish(&bus, &j2, "e1", accepted(&plan), None).await;
    start(env.clone(), Config::default(), supervisor).await.expect("starts");
    run_where(&bus, &j2, |run| run.params.contains_key("seed")).await;
    let runs = bus.request(ListRuns::default(), None, LONG).await.expect("lists").runs;
    assert_eq!(runs.len(), 2);
    env.drain.cancel();
    tokio::time::timeout(LONG, ends.recv()).await.expect("in time").expect("an end");
}

/// What a tracker that was away has not seen stays, however old it is.
#[tokio::test(flavor = "multi_thread")]
async fn old_events_are_discarded_up_to_the_position_and_no_further() {
    let stage = Stage::start().await;
    let bus = stage.bus().await;
    let env = stage.env(&bus, "w1");
    let j1 = job("j1");
    let plan = env.artifacts.put_bytes("plans", "plan.json", Bytes::from(PLAN)).await.expect("stored");
    let (supervisor, mut ends) = watch().await;
    let config = Config { event_max_age_s: 0, ..Config::default() };
    start(env.clone(), config.clone(), supervisor.clone()).await.expect("starts");
    publish(&bus, &j1, "e1", accepted(&plan), None).await;
    publish(&bus, &j1, "e2", metric(2, 1.0), Some(50)).await;
    run_where(&bus, &j1, |run| run.history.contains_key("val_loss")).await;
    env.drain.cancel();
    assert_eq!(tokio::time::timeout(LONG, ends.recv()).await.expect("in time"), Some(None));
    publish(&bus, &j1, "e3", metric(3, 0.5), Some(50)).await;

    let env = stage.env(&bus, "w2");
    start(env.clone(), config, supervisor).await.expect("starts again");
    let first = until("the first two to go", || async {
        let events = &bus.topology().await.expect("lists")[1];
        (events.first_sequence > 1).then_some((events.first_sequence, events.messages))
    });
    assert_eq!(first.await, (3, 1));
    run_where(&bus, &j1, |run| run.history["val_loss"].len() == 2).await;
    env.drain.cancel();
    assert_eq!(tokio::time::timeout(LONG, ends.recv()).await.expect("in time"), Some(None));
}
