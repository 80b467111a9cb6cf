//! What the bus carries on this machine, over a server of its own: events stored, requests answered,
//! records committed, artifacts kept. Prints a JSON object a line, and writes them to `bus.json` in
//! `WITHIN_BENCH_DIR`. There is no peer: the figures of the bare server are what they are held against.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use messages::event::{Event, MetricValue, Progress};
use messages::job::{JobRecord, JobState, Role};
use messages::rpc::{GetJob, JobList, ListJobs, Request};
use messages::timings::Timings;
use messages::{ArtifactRef, JobId, TaskId, Tenant, WireError};
use within_bus::artifact::ArtifactStore;
use within_bus::embedded::{EmbeddedConfig, EmbeddedServer};
use within_bus::{Bus, BusConfig, Once, now_ms};

const EVENTS: u64 = 50_000;
const WINDOW: usize = 512;
const REQUESTS: usize = 5_000;
const COMMITS: u64 = 3_000;
const ARTIFACT_BYTES: usize = 64 << 20;

/// The figures so far, and how the server that is measured writes.
#[derive(Default)]
struct Rows {
    rows: Vec<serde_json::Value>,
    sync_always: bool,
}

fn row(to: &mut Rows, name: &str, figure: f64, unit: &str) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load1: Option<f64> = load.split(' ').next().and_then(|text| text.parse().ok());
    let row = serde_json::json!({
        "name": name, "sync_always": to.sync_always, "figure": figure, "unit": unit, "peer": null, "peer_figure": null, "ratio": null, "load1": load1,
    });
    println!("{row}");
    to.rows.push(row);
}

fn progress(step: u64) -> Event {
    Event::Progress(Progress {
        task: TaskId::new("train").expect("invariant: a token"),
        epoch: 1,
        epochs: 1,
        step,
        steps: EVENTS,
        loss: MetricValue::Defined(0.5),
        samples_per_s: 1.0,
        eta_s: 1.0,
    })
}

async fn events(bus: &Bus, rows: &mut Rows) {
    let job = JobId::new("bench").expect("invariant: a token");
    for (name, window, count) in
        [("events stored, one by one", 1, EVENTS / 10), ("events stored, window 512", WINDOW, EVENTS)]
    {
        let begun = Instant::now();
        stream::iter(0..count)
            .map(|step| {
                let (bus, job) = (bus.clone(), job.clone());
                async move {
                    let id = format!("bench.{window}.{step}");
                    bus.publish_event(&job, &id, progress(step), None, None, now_ms(), Once::ById)
                        .await
                        .expect("stored");
                }
            })
            .buffer_unordered(window)
            .collect::<Vec<()>>()
            .await;
        row(rows, name, (count as f64 / begun.elapsed().as_secs_f64()).round(), "events/s");
    }
    let mut replay = bus.events(Some(&job), within_bus::From::First).await.expect("events");
    let (begun, mut seen) = (Instant::now(), 0u64);
    while seen < EVENTS && replay.next(Duration::from_secs(10)).await.expect("reads").is_some() {
        seen += 1;
    }
    row(rows, "events read back in order", (seen as f64 / begun.elapsed().as_secs_f64()).round(), "events/s");
}

async fn requests(bus: &Bus, rows: &mut Rows) {
    let subject = bus.subjects().svc(Role::Coordinator, ListJobs::VERB);
    let mut incoming = bus.serve(&subject, None).await.expect("serves");
    let server = tokio::spawn(async move {
        while let Some(request) = incoming.next().await {
            request.reply::<JobList>(Ok(JobList { jobs: Vec::new() })).await;
        }
    });
    let mut times: Vec<Duration> = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        bus.request(ListJobs { limit: 1 }, None, Duration::from_secs(5)).await.expect("an answer");
        times.push(begun.elapsed());
    }
    times.sort();
    row(rows, "request and answer, p50", times[REQUESTS / 2].as_secs_f64() * 1e6, "us");
    row(rows, "request and answer, p99", times[REQUESTS * 99 / 100].as_secs_f64() * 1e6, "us");
    server.abort();
    let nobody: Result<JobRecord, WireError> =
        bus.request(GetJob { job: JobId::new("x").expect("invariant: a token") }, None, Duration::from_millis(1)).await;
    assert!(nobody.is_err(), "nobody serves it");
}

fn record() -> JobRecord {
    let artifact = ArtifactRef { uri: "file:///plan.json".into(), blake3: "0".repeat(64), size_bytes: 1 };
    JobRecord {
        schema: messages::SCHEMA_VERSION,
        job: JobId::new("bench").expect("invariant: a token"),
        source: "/bench".into(),
        event_id: "bench".into(),
        content_blake3: "0".repeat(64),
        name: "bench".into(),
        spec: artifact.clone(),
        plan: artifact,
        state: JobState::Running,
        submitted_at: 0,
        since: 0,
        deadline_at: 0,
        max_attempts: 3,
        world_size: 1,
        min_world_size: 1,
        cuda: false,
        max_world_size: 1,
        tasks: Vec::new(),
        cancel_reason: None,
        completed: None,
        error: None,
        outbox: Vec::new(),
        traceparent: None,
    }
}

async fn commits(bus: &Bus, rows: &mut Rows) {
    let store = bus.jobs().await.expect("a bucket");
    let record = record();
    let mut revision = store.create(&record).await.expect("created");
    let begun = Instant::now();
    for _ in 0..COMMITS {
        revision = store.update(&record, revision).await.expect("committed");
    }
    row(rows, "record committed, one by one", (COMMITS as f64 / begun.elapsed().as_secs_f64()).round(), "commits/s");
}

async fn artifacts(folder: &Path, rows: &mut Rows) {
    let store = ArtifactStore::open(&folder.display().to_string()).expect("a store");
    let bytes = Bytes::from((0..ARTIFACT_BYTES).map(|i| (i * 31 % 251) as u8).collect::<Vec<u8>>());
    let begun = Instant::now();
    let artifact = store.put_bytes("bench", "blob", bytes).await.expect("kept");
    row(rows, "artifact kept (64 MiB, synced)", ARTIFACT_BYTES as f64 / 1e6 / begun.elapsed().as_secs_f64(), "MB/s");
    let begun = Instant::now();
    store.get(&artifact).await.expect("read");
    row(rows, "artifact read and checked", ARTIFACT_BYTES as f64 / 1e6 / begun.elapsed().as_secs_f64(), "MB/s");
}

#[tokio::main]
async fn main() {
    let home = tempfile::tempdir().expect("a folder");
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server-2.15.1/nats-server");
    let binary = std::env::var_os("WITHIN_NATS_SERVER").map_or(tools, PathBuf::from);
    let mut rows = Rows::default();
    for sync_always in [false, true] {
        let store = home.path().join(format!("nats-{sync_always}"));
        measure(EmbeddedConfig { sync_always, ..EmbeddedConfig::new(&binary, store) }, &mut rows).await;
    }
    rows.sync_always = false;
    artifacts(&home.path().join("artifacts"), &mut rows).await;
    if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
        let text = serde_json::to_vec_pretty(&rows.rows).expect("invariant: figures serialize");
        std::fs::write(PathBuf::from(folder).join("bus.json"), text).expect("writes");
    }
}

/// What touches the server, with its default flush or with every write flushed.
async fn measure(config: EmbeddedConfig, rows: &mut Rows) {
    rows.sync_always = config.sync_always;
    let server = EmbeddedServer::start(config).await.expect("starts");
    let config = BusConfig {
        url: server.url(),
        credentials: server.credentials(),
        tls: within_bus::Tls::default(),
        tenant: Tenant::default(),
        name: "bench".into(),
        timings: Timings::default(),
    };
    let bus = Bus::connect(config).await.expect("connects");
    bus.ensure_topology().await.expect("streams");
    events(&bus, rows).await;
    requests(&bus, rows).await;
    commits(&bus, rows).await;
    bus.close().await;
}
