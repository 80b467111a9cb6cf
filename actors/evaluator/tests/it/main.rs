//! The evaluator on a real nats-server, with a real dataset version and a real model file.

mod fixture;
mod stage;

use bus::Bus;
use bus::artifact::ArtifactStore;
use bytes::Bytes;
use messages::error::Code;
use messages::event::ModelRef;
use messages::feed::Split;
use messages::job::Role;
use messages::plan::Task;
use messages::rpc::{Report as TaskReport, ReportBody};
use messages::work::{TaskOutput, Work, WorkInput};
use messages::{ArtifactRef, JobId, TaskId};
use stage::{LONG, Stage, coordinate, watch};
use tokio::sync::mpsc;
use within_evaluator::report::Report;
use within_evaluator::{Config, start};

/// Stores a dataset version, a model and a plan; gives the work to evaluate them.
async fn work(artifacts: &ArtifactStore, job: &str, change: impl FnOnce(&mut ModelRef)) -> Work {
    let task = Task::Regression;
    let put = |kind: &'static str, name: &'static str, bytes: Bytes| async move {
        artifacts.put_bytes(kind, name, bytes).await.expect("stored")
    };
    let parts = [
        (Split::Train, 0, vec![]),
        (Split::Val, 40, vec![put("dataset", "val.arrow", fixture::shard(task, 0, 40)).await]),
        (Split::Test, 60, vec![put("dataset", "test.arrow", fixture::shard(task, 40, 60)).await]),
    ];
    let manifest = fixture::manifest(task, parts);
    let dataset = put("dataset", "manifest.json", manifest.to_json().into()).await;
    let (file, announced) = fixture::model(task);
    let file: ArtifactRef = put("models", "model.safetensors", file.into()).await;
    let mut model = ModelRef { uri: file.uri, file_blake3: file.blake3, size_bytes: file.size_bytes, ..announced };
    change(&mut model);
    let plan = serde_json::to_vec(&fixture::plan(task)).expect("serializes");
    Work {
        job: JobId::new(job).expect("id"),
        task: TaskId::new("evaluate").expect("id"),
        attempt: 1,
        name: "ads".into(),
        plan: put("plans", "plan.json", plan.into()).await,
        deadline_at: bus::now_ms() + 60_000,
        input: WorkInput::Evaluate { dataset, model },
    }
}

async fn outcome(bus: &Bus, work: &Work, reports: &mut mpsc::Receiver<TaskReport>) -> ReportBody {
    bus.publish_work(Role::Evaluator, work, None).await.expect("queued");
    tokio::time::timeout(LONG, reports.recv()).await.expect("in time").expect("a report").body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_evaluated_and_reported() {
    let stage = Stage::start().await;
    let bus = stage.bus().await;
    let env = stage.env(&bus, "w1");
    let mut reports = coordinate(&bus).await;
    let (supervisor, mut ends) = watch().await;
    start(env.clone(), Config::default(), supervisor).await.expect("starts");

    let done = outcome(&bus, &work(&env.artifacts, "j1", |_| {}).await, &mut reports).await;
    let ReportBody::Done { output: TaskOutput::Evaluated { metrics, report } } = done else { panic!("{done:?}") };
    assert!(metrics.test["rmse"].get().expect("defined") < 1e-5);
    assert!(report.uri.contains("/reports/") && report.uri.contains("ads_regression_report_2"), "{}", report.uri);
    let stored: Report = env.artifacts.get_json(&report).await.expect("reads");
    assert_eq!(stored.metrics, metrics);
    assert_eq!((stored.dataset.rows_val, stored.dataset.rows_test), (40, 60));
    assert!(stored.generated.generated_at.ends_with('Z'));

    let failed =
        outcome(&bus, &work(&env.artifacts, "j2", |model| model.blake3 = "0".repeat(64)).await, &mut reports).await;
    let ReportBody::Failed { error } = failed else { panic!("{failed:?}") };
    assert_eq!(error.code, Code::ModelInvalid);
    // Damaged where it lies.
    let broken = work(&env.artifacts, "j3", |_| {}).await;
    let WorkInput::Evaluate { model, .. } = &broken.input else { panic!("evaluates") };
    let path = model.uri.strip_prefix("file://").expect("a file");
    let mut bytes = std::fs::read(path).expect("reads");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let writable = |path: &str| {
        let mut permissions = std::fs::metadata(path).expect("exists").permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        std::fs::set_permissions(path, permissions).expect("may be written");
    };
    writable(path);
    std::fs::write(path, bytes).expect("writes");
    let failed = outcome(&bus, &broken, &mut reports).await;
    let ReportBody::Failed { error } = failed else { panic!("{failed:?}") };
    assert_eq!((error.code, error.retry), (Code::ModelInvalid, false));
    assert!(error.hint.is_some());

    env.drain.cancel();
    assert_eq!(tokio::time::timeout(LONG, ends.recv()).await.expect("in time"), Some(None));
}
