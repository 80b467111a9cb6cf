//! A representative value of every message: every optional field given somewhere, every variant once.

use std::collections::BTreeMap;

use serde_json::json;
use within_messages::envelope::{Envelope, Payload};
use within_messages::error::{Code, WireError};
use within_messages::event::{
    Accepted, Checkpoint, Completed, Event, LogLine, Metric, MetricSummary, MetricValue, Metrics, ModelRef, Progress,
};
use within_messages::feed::{FeedControl, FeedOpened, FrameHeader, OpenFeed, Split};
use within_messages::gang::{Join, Joined, Left, Offer, OfferAnswer, Peer, RegroupWhen};
use within_messages::job::{Gang, GangMember, JobRecord, JobState, OutboxEntry, Role, TaskRecord, TaskState};
use within_messages::rpc::{
    Cancel, CancelAnswer, Claim, ClaimAnswer, GetJob, GetRun, JobList, JobSummary, ListJobs, ListRuns, MetricPoint,
    Reply, Report, ReportAnswer, ReportBody, Run, RunArtifact, RunList, RunStatus, RunSummary, SpecBase, SpecDocument,
    SpecFormat, Submit, Submitted,
};
use within_messages::spec::{PlanDefaults, SpecError, SpecInput, plan, resolve_base};
use within_messages::step::{CacheOutcome, StepReport};
use within_messages::trace::TraceParent;
use within_messages::translate::{Translate, Translated};
use within_messages::work::{TaskOutput, Work, WorkInput};
use within_messages::worker::{Control, Heartbeat, HeldLease};
use within_messages::{ArtifactRef, Fence, JobId, TaskId, Tenant, WorkerId};

use crate::golden::{Sample, message, value};

/// 2023-11-14T22:13:20Z.
const NOW: u64 = 1_700_000_000_000;

fn job() -> JobId {
    JobId::new("order-7").expect("a token")
}

fn task(name: &str) -> TaskId {
    TaskId::new(name).expect("a token")
}

fn worker() -> WorkerId {
    WorkerId::new("w1").expect("a token")
}

fn trace() -> TraceParent {
    TraceParent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into())
}

fn artifact(name: &str) -> ArtifactRef {
    ArtifactRef { uri: format!("file:///store/{name}"), blake3: "0f".repeat(32), size_bytes: 1_234 }
}

fn metrics() -> Metrics {
    BTreeMap::from([("auc".into(), MetricValue::Defined(0.75)), ("r2".into(), MetricValue::undefined("one sample"))])
}

fn summary() -> MetricSummary {
    MetricSummary { val: metrics(), test: metrics(), baseline: metrics() }
}

fn model() -> ModelRef {
    ModelRef {
        uri: "file:///store/model.safetensors".into(),
        file_blake3: "ab".repeat(32),
        blake3: "cd".repeat(32),
        size_bytes: 65_536,
    }
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        name: "checkpoint_epoch_007".into(),
        uri: "file:///store/checkpoints/order-7/checkpoint_epoch_007".into(),
        blake3: "ef".repeat(32),
        epoch: 7,
        step: 700,
        metrics: metrics(),
    }
}

fn error() -> WireError {
    WireError::new(Code::DatasetNotFound, "ads.csv does not exist").with_hint("name a file below a data root")
}

fn spec_error() -> SpecError {
    SpecError {
        file: Some("job.yaml".into()),
        line: 3,
        column: 5,
        key: "training.epohcs".into(),
        message: "unknown key".into(),
        suggestion: Some("training.epochs".into()),
    }
}

fn step_report() -> StepReport {
    StepReport {
        step: "fit".into(),
        cache: CacheOutcome::Miss,
        key: "5a".repeat(32),
        reason: "data.preprocessing.scale: \"standard\", now \"min_max\"".into(),
        duration_ms: 12.5,
        size_bytes: 4_096,
    }
}

fn completed() -> Completed {
    Completed {
        name: "quickstart".into(),
        run: "order-7".into(),
        duration_s: 12.5,
        metrics: summary(),
        model: Some(model()),
        report: Some(artifact("report.json")),
        data_reports: std::collections::BTreeMap::new(),
    }
}

fn work(input: WorkInput) -> Work {
    Work {
        job: job(),
        task: task(input.name()),
        attempt: 2,
        name: "quickstart".into(),
        plan: artifact("plan.json"),
        deadline_at: NOW + 3_600_000,
        input,
    }
}

/// The envelope of a sample, every extension given.
pub fn envelope<T: Payload>(name: &str, data: T) -> Envelope<T> {
    let mut envelope = Envelope::new(format!("golden.{name}"), "/within/golden", NOW, data)
        .job(&job())
        .fenced(Fence(u64::MAX), 2)
        .traced(Some(trace()));
    envelope.tenant = Some(Tenant::new("acme").expect("a token"));
    envelope.subject = Some("within.v1.acme.golden".into());
    envelope.datacontenttype = Some("application/json".into());
    envelope.generation = Some(3);
    envelope
}

/// Every sample.
pub fn all() -> Vec<Sample> {
    let mut all = submissions();
    all.extend(coordinator());
    all.extend(gangs());
    all.extend(feeds());
    all.extend(works());
    all.extend(events());
    all.extend(gang_events());
    all.extend(workers());
    all.extend(runs());
    all.extend(stored());
    all
}

fn submissions() -> Vec<Sample> {
    let object = json!({ "task": "regression", "data": { "path": "ads.csv", "target": "ad_score" }, "seed": 7 });
    let text = SpecDocument::Text {
        text: "base_config: base.yaml\ntask: regression\n".into(),
        format: SpecFormat::Yaml,
        file: Some("job.yaml".into()),
        bases: vec![SpecBase { text: "{\"seed\": 7}".into(), format: SpecFormat::Json, file: "base.json".into() }],
    };
    let object = SpecDocument::Object(object.as_object().cloned().expect("an object"));
    vec![
        message("job_submit_text", Submit { spec: text, set: vec!["training.epochs=3".into()] }),
        message("job_submit_object", Submit { spec: object, set: vec![] }),
        message(
            "job_submit_reply",
            Reply::Ok(Submitted {
                job: job(),
                state: JobState::Rejected,
                duplicate: true,
                warnings: vec!["environment.benchmark: accepted, no effect".into()],
                errors: vec![spec_error()],
                error: Some(WireError::new(Code::ConfigError, "1 mistake")),
            }),
        ),
        message("job_cancel", Cancel { job: job(), reason: Some("asked".into()) }),
        message("job_cancel_reply", Reply::Ok(CancelAnswer { state: JobState::Cancelling })),
        message("reply_error", Reply::<CancelAnswer>::Error(WireError::new(Code::JobNotFound, "no job order-7"))),
    ]
}

fn coordinator() -> Vec<Sample> {
    let report =
        |body| Report { job: job(), task: task("train"), attempt: 2, fence: Fence(41), worker: worker(), body };
    let trained = TaskOutput::Trained { model: model(), epochs: 7, steps: 700, stopped_early: true };
    vec![
        message("job_get", GetJob { job: job() }),
        message("job_get_reply", Reply::Ok(record())),
        message("job_list", ListJobs { limit: 20 }),
        message(
            "job_list_reply",
            Reply::Ok(JobList {
                jobs: vec![JobSummary {
                    job: job(),
                    name: "quickstart".into(),
                    state: JobState::Running,
                    submitted_at: NOW,
                    since: NOW + 5,
                    detail: "train, attempt 2".into(),
                }],
            }),
        ),
        message("task_claim", Claim { job: job(), task: task("prepare"), attempt: 1, worker: worker() }),
        message("task_claim_granted", Reply::Ok(ClaimAnswer::Granted { fence: Fence(41) })),
        message("task_claim_gone", Reply::Ok(ClaimAnswer::Gone { reason: "done".into() })),
        message("task_claim_busy", Reply::Ok(ClaimAnswer::Busy { retry_after_ms: 500 })),
        message("task_report_done", report(ReportBody::Done { output: trained })),
        message("task_report_failed", report(ReportBody::Failed { error: error() })),
        message("task_report_checkpoint", report(ReportBody::Checkpoint { checkpoint: checkpoint() })),
        message("task_report_released", report(ReportBody::Released { reason: "draining".into() })),
        message("task_report_rank_lost", report(ReportBody::RankLost { rank: 2, error: error() })),
        message(
            "task_report_rank_left",
            report(ReportBody::RankLeft { rank: 2, finished: false, reason: "drains".into() }),
        ),
        message("task_report_accepted", Reply::Ok(ReportAnswer::Accepted)),
        message("task_report_fenced", Reply::Ok(ReportAnswer::Fenced { reason: "fence 42 is newer".into() })),
    ]
}

fn gangs() -> Vec<Sample> {
    let train = work(WorkInput::Train { dataset: artifact("manifest.json"), resume: None });
    let peer = Peer { rank: 0, worker: worker(), host: "node1".into(), address: Some("10.0.0.1:4000".into()) };
    vec![
        message(
            "gang_offer_reserve",
            Offer::Reserve {
                job: job(),
                task: task("train"),
                attempt: 2,
                slots: 4,
                expires_at: NOW + 10_000,
                joining: Some(4),
            },
        ),
        message(
            "gang_offer_start",
            Offer::Start { work: Box::new(train), fence: Fence(41), generation: 1, ranks: vec![0, 1], world_size: 4 },
        ),
        message(
            "gang_offer_release",
            Offer::Release {
                job: job(),
                task: task("train"),
                attempt: 2,
                reason: "cancelled".into(),
                done: false,
                ranks: vec![1],
            },
        ),
        message(
            "gang_offer_regroup",
            Offer::Regroup { job: job(), task: task("train"), attempt: 2, when: RegroupWhen::NextStep },
        ),
        message("gang_offer_regrouping", Reply::Ok(OfferAnswer::Regrouping)),
        message("gang_offer_accepted", Reply::Ok(OfferAnswer::Accepted { slots: 4, fingerprint: "x86-64-v3".into() })),
        message("gang_offer_started", Reply::Ok(OfferAnswer::Started)),
        message("gang_offer_released", Reply::Ok(OfferAnswer::Released)),
        message("gang_offer_declined", Reply::Ok(OfferAnswer::Declined { reason: "draining".into() })),
        message(
            "rdzv_join",
            Join {
                job: job(),
                task: task("train"),
                attempt: 2,
                fence: Fence(41),
                generation: 1,
                rank: 0,
                worker: worker(),
                host: "node1".into(),
                pid: 4_321,
                address: Some("10.0.0.1:4000".into()),
                left: Some(Left { generation: 2, step: 40, suspect: Some(3), error: Some(error()) }),
            },
        ),
        message(
            "rdzv_joined",
            Reply::Ok(Joined {
                generation: 1,
                world_size: 1,
                peers: vec![peer],
                fence: Some(Fence(43)),
                token: Some("5a".repeat(32)),
            }),
        ),
    ]
}

fn feeds() -> Vec<Sample> {
    vec![
        message(
            "feed_open",
            OpenFeed {
                feed: "f1".into(),
                job: job(),
                fence: Fence(41),
                rank: 0,
                world_size: 1,
                subject_rank: Some(5),
                deliver_subject: "within.v1.acme.feed.order-7.0".into(),
                dataset: artifact("manifest.json"),
                split: Split::Train,
                global_batch_size: 256,
                logical_shards: 8,
                shuffle_seed: Some(42),
                shuffle_window_mb: 1_000,
                augmentation: None,
                drop_last: false,
                epoch: 3,
                batch: 17,
                end_epoch: 20,
                credits: 8,
                max_frame_bytes: 1_048_576,
            },
        ),
        message(
            "feed_opened",
            Reply::Ok(FeedOpened {
                worker: worker(),
                credit_subject: "within.v1.acme.svc.data_loader.w1.feed".into(),
                rows: 10_000,
                batches_per_epoch: 40,
                feature_names: vec!["age".into(), "platform=tiktok".into()],
            }),
        ),
        message("translate", Translate { languages: "eng-spa".into(), texts: vec!["one dog".into()] }),
        message("translate_reply", Reply::Ok(Translated { texts: vec!["un perro".into()] })),
        message("feed_credit", FeedControl::Credit { id: "f1".into(), frames: 4 }),
        message("feed_close", FeedControl::Close { id: "f1".into() }),
        value(
            "feed_frame_header",
            FrameHeader {
                feed: "f1".into(),
                sequence: 9,
                epoch: 3,
                batch: 17,
                global_rows: 256,
                first_row: 0,
                part: 0,
                parts: 1,
                end_of_epoch: false,
                error: Some(error()),
            },
        ),
    ]
}

fn works() -> Vec<Sample> {
    let (dataset, report) = (artifact("manifest.json"), artifact("report.json"));
    vec![
        message("work_prepare", work(WorkInput::Prepare)),
        message("work_train", work(WorkInput::Train { dataset: dataset.clone(), resume: Some(checkpoint()) })),
        message("work_evaluate", work(WorkInput::Evaluate { dataset: dataset.clone(), model: model() })),
        message("work_record", work(WorkInput::Record { dataset, model: model(), metrics: summary(), report })),
    ]
}

fn events() -> Vec<Sample> {
    let accepted = Accepted {
        name: "quickstart".into(),
        plan: artifact("plan.json"),
        tasks: ["prepare", "train", "evaluate", "record"].map(task).into(),
        warnings: vec!["w".into()],
    };
    let progress = Progress {
        task: task("train"),
        epoch: 3,
        epochs: 20,
        step: 120,
        steps: 800,
        loss: MetricValue::Defined(0.25),
        samples_per_s: 51_200.5,
        eta_s: 3.25,
    };
    let metric = Metric { task: task("train"), epoch: 3, step: 120, metrics: metrics() };
    let started = Event::TaskStarted { task: task("train"), role: Role::Trainer, attempt: 2, worker: worker() };
    vec![
        message("evt_accepted", Event::Accepted(accepted)),
        message("evt_rejected", Event::Rejected { error: error(), errors: vec![spec_error()] }),
        message("evt_task_started", started),
        message("evt_task_done", Event::TaskDone { task: task("train"), attempt: 2, duration_s: 9.5 }),
        message("evt_task_retried", Event::TaskRetried { task: task("train"), attempt: 2, error: error() }),
        message("evt_progress", Event::Progress(progress)),
        message("evt_metric", Event::Metric(metric)),
        message("evt_checkpoint", Event::Checkpoint(checkpoint())),
        message(
            "evt_checkpoint_refused",
            Event::CheckpointRefused {
                task: task("train"),
                name: "checkpoint_epoch_007".into(),
                reason: "model.safetensors of 640 bytes has another hash".into(),
                used: Some("checkpoint_epoch_006".into()),
            },
        ),
        message("evt_hook", Event::Hook { hook: "on_epoch_end".into(), epoch: 3, detail: Some("d".into()) }),
        message(
            "evt_worker_lost",
            Event::WorkerLost { worker: worker(), task: task("train"), attempt: 1, error: error() },
        ),
        message("evt_step", Event::Step { task: task("prepare"), attempt: 1, report: step_report() }),
        message("evt_waiting", Event::Waiting { task: task("train"), reason: "4 slots, 2 are free".into() }),
        message("evt_completed", Event::Completed(completed())),
        message(
            "evt_failed",
            Event::Failed { name: "quickstart".into(), run: "order-7".into(), duration_s: 1.5, error: error() },
        ),
        message("evt_cancelled", Event::Cancelled { reason: "asked".into() }),
        message(
            "log_line",
            LogLine {
                timestamp: "2023-11-14T22:13:20.123Z".into(),
                level: "INFO".into(),
                module: "trainer".into(),
                message: "epoch 3".into(),
            },
        ),
    ]
}

fn gang_events() -> Vec<Sample> {
    vec![
        message(
            "evt_rank_lost",
            Event::RankLost { task: task("train"), attempt: 1, rank: 2, worker: worker(), error: error() },
        ),
        message(
            "evt_regrouped",
            Event::Regrouped {
                task: task("train"),
                attempt: 1,
                generation: 3,
                world_size: 3,
                ranks: vec![0, 1, 4],
                joined: vec![4],
                gone: vec![2],
                step: 120,
            },
        ),
        message(
            "evt_straggler",
            Event::Straggler {
                task: task("train"),
                rank: 1,
                host: "node1".into(),
                step_ms: 90.0,
                median_ms: 20.0,
                evicted: false,
            },
        ),
    ]
}

fn workers() -> Vec<Sample> {
    let held = HeldLease { job: job(), task: task("train"), attempt: 2, fence: Fence(41), ranks: vec![0] };
    vec![
        message(
            "worker_heartbeat",
            Heartbeat {
                worker: worker(),
                role: Role::Trainer,
                host: "node1".into(),
                pid: 4_321,
                build: "0.1.0+abc".into(),
                fingerprint: "x86-64-v3".into(),
                slots: 4,
                slots_free: 2,
                held: vec![held],
                draining: false,
                sequence: 99,
            },
        ),
        message(
            "worker_stop_task",
            Control::StopTask { job: job(), task: task("train"), fence: Fence(41), reason: "cancelled".into() },
        ),
        message("worker_drain", Control::Drain),
        message("worker_log_level", Control::LogLevel { filter: "info,trainer=debug".into() }),
    ]
}

fn runs() -> Vec<Sample> {
    let summary = RunSummary {
        run: "order-7".into(),
        experiment: "quickstart".into(),
        name: "quickstart".into(),
        status: RunStatus::Finished,
        start_time: Some(NOW),
        end_time: Some(NOW + 12_500),
        metrics: metrics(),
    };
    let run = Run {
        summary: summary.clone(),
        params: BTreeMap::from([("training.epochs".into(), "20".into())]),
        tags: BTreeMap::from([("project".into(), "ad_score".into())]),
        history: BTreeMap::from([(
            "val_loss".into(),
            vec![MetricPoint { step: 40, epoch: 1, timestamp: NOW, value: MetricValue::Defined(0.5) }],
        )]),
        history_cut: false,
        artifacts: vec![RunArtifact {
            kind: "report".into(),
            name: "report.json".into(),
            artifact: artifact("report.json"),
        }],
    };
    vec![
        message("run_list", ListRuns { experiment: Some("quickstart".into()), limit: 10 }),
        message("run_list_reply", Reply::Ok(RunList { runs: vec![summary] })),
        message("run_get", GetRun { run: job(), history: true }),
        message("run_get_reply", Reply::Ok(run)),
    ]
}

fn record() -> JobRecord {
    let member = GangMember { worker: worker(), slots: 1, fingerprint: "x86-64-v3".into(), ranks: vec![0] };
    let train = TaskRecord {
        id: task("train"),
        role: Role::Trainer,
        needs: vec![task("prepare")],
        state: TaskState::Running,
        attempt: 2,
        failures: 1,
        fence: Some(Fence(41)),
        worker: Some(worker()),
        gang: Some(Gang {
            generation: 1,
            members: vec![member],
            next_rank: 1,
            finished: Vec::new(),
            losses: Vec::new(),
        }),
        since: NOW,
        not_before: Some(NOW + 1),
        waiting: None,
        output: Some(TaskOutput::Prepared {
            dataset: artifact("manifest.json"),
            rows_train: 64,
            rows_val: 16,
            rows_test: 20,
            warnings: vec!["w".into()],
            reports: std::collections::BTreeMap::new(),
            steps: Vec::new(),
        }),
        error: Some(error()),
        checkpoint: Some(checkpoint()),
    };
    JobRecord {
        schema: 1,
        job: job(),
        source: "urn:shop:checkout".into(),
        event_id: "order-7".into(),
        content_blake3: "12".repeat(32),
        name: "quickstart".into(),
        spec: artifact("spec.yaml"),
        plan: artifact("plan.json"),
        state: JobState::Running,
        submitted_at: NOW,
        since: NOW,
        deadline_at: NOW + 3_600_000,
        max_attempts: 3,
        world_size: 1,
        min_world_size: 1,
        cuda: false,
        max_world_size: 2,
        tasks: vec![train],
        cancel_reason: Some("asked".into()),
        completed: Some(completed()),
        error: Some(error()),
        outbox: vec![OutboxEntry {
            id: "evt.order-7.completed.0".into(),
            at: NOW,
            event: Event::Completed(completed()),
        }],
        traceparent: Some(trace()),
    }
}

/// What is kept and must be read by the next version.
fn stored() -> Vec<Sample> {
    let text = "\
name: golden
task: binary
seed: 7
data:
  path: [a.csv, b.csv]
  target: {column: y, positive: '1'}
  columns: {c: {type: number, scale: log1p, impute: zero, null_values: ['?']}}
training:
  scheduler: {type: cosine_annealing, T_max: 3}
  early_stopping: {monitor: val_auc}
experiment: {tags: {project: p}}
notifications: {webhooks: [{url: 'https://host/x', events: [failed]}]}
environment: {benchmark: false}
";
    let input = SpecInput { file: Some("golden.yaml"), text, format: SpecFormat::Yaml };
    let tree = resolve_base(&input, &mut |_, _| Err("no base".into())).expect("parses");
    let plan = plan(&tree, &["training.epochs=3".into()], &PlanDefaults::default()).expect("plans");
    vec![value("job_record", record()), value("job_plan", plan)]
}
