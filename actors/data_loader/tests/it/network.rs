//! The role on a real server: a task from the queue to its report, feeds to a rank, cancelling, draining.
//! The test answers claims and reports as the leading coordinator does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bus::artifact::ArtifactStore;
use bus::embedded::{EmbeddedConfig, EmbeddedServer};
use bus::role::{Identity, RoleEnv};
use bus::{Bus, BusConfig, Subscription, now_ms};
use frame::{Encoded, Encoder, Manifest, decode_frame, read_shard};
use futures::StreamExt;
use messages::envelope::Envelope;
use messages::error::Code;
use messages::feed::{FeedControl, FeedOpened, FrameHeader, OpenFeed, Split};
use messages::job::Role;
use messages::plan::{DataPlan, JobPlan, Task};
use messages::rpc::{Claim, ClaimAnswer, Report, ReportAnswer, ReportBody, Request};
use messages::subject::HEADER_FRAME;
use messages::timings::Timings;
use messages::work::{TaskOutput, Work, WorkInput};
use messages::worker::Control;
use messages::{ArtifactRef, Fence, JobId, TaskId, Tenant, WorkerId};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::plan::{Root, data_plan};

/// Longer than anything takes on a loaded machine.
pub const LONG: Duration = Duration::from_mins(1);

pub struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// A server, a data_loader on it, and what it reports.
pub struct World {
    pub env: RoleEnv,
    pub loader: ActorCell,
    reports: mpsc::Receiver<Report>,
    root: Root,
    /// Tasks so far.
    submitted: AtomicU32,
    _home: tempfile::TempDir,
    _server: EmbeddedServer,
}

fn nats_server() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server-2.15.1/nats-server");
    let binary = std::env::var_os("WITHIN_NATS_SERVER").map_or(tools, PathBuf::from);
    assert!(
        binary.exists(),
        "no nats-server: run scripts/provision-nats, or set WITHIN_NATS_SERVER to a nats-server of 2.12 or newer"
    );
    binary
}

impl World {
    /// With no programs of the host's.
    pub async fn start(files: &[(&str, &[u8])]) -> Self {
        Self::start_with(files, bus::remote::Remote::default(), Self::config()).await
    }

    pub fn config() -> within_data_loader::Config {
        within_data_loader::Config { program_path: None, ..Default::default() }
    }

    pub async fn start_with(
        files: &[(&str, &[u8])],
        remote: bus::remote::Remote,
        config: within_data_loader::Config,
    ) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let server =
            EmbeddedServer::start(EmbeddedConfig::new(nats_server(), home.path().join("nats"))).await.expect("starts");
        let bus_config = BusConfig {
            url: server.url(),
            credentials: server.credentials(),
            tls: bus::Tls::default(),
            tenant: Tenant::default(),
            name: "test".into(),
            timings: Timings::default(),
        };
        let bus = Bus::connect(bus_config).await.expect("connects");
        bus.ensure_topology().await.expect("streams");
        let root = Root::new(files);
        let env = RoleEnv {
            bus,
            identity: Arc::new(Identity {
                worker: WorkerId::new("w1").expect("id"),
                host: "host".into(),
                pid: 1,
                build: "test".into(),
                fingerprint: "cpu".into(),
            }),
            artifacts: ArtifactStore::open(&home.path().join("artifacts").to_string_lossy()).expect("a store"),
            drain: CancellationToken::new(),
            data_roots: Arc::new(root.roots()),
            remote,
            home: Arc::new(home.path().to_owned()),
        };
        let (to, reports) = mpsc::channel(16);
        answer_claims(&env.bus, to).await;
        let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await.expect("a supervisor");
        let loader = within_data_loader::start(env.clone(), config, supervisor.get_cell()).await.expect("starts");
        Self { env, loader, reports, root, submitted: AtomicU32::new(0), _home: home, _server: server }
    }

    /// Puts a prepare task into the queue.
    pub async fn submit(&self, data: &DataPlan, task: Task) -> Work {
        let mut plan: serde_json::Value = serde_json::from_str(include_str!("plan.json")).expect("JSON");
        plan["data"] = serde_json::to_value(data).expect("JSON");
        plan["task"] = serde_json::to_value(task).expect("JSON");
        let plan: JobPlan = serde_json::from_value(plan).expect("a plan");
        let bytes = serde_json::to_vec(&plan).expect("JSON").into();
        // A job of its own each time: the same one again would not be stored.
        let number = self.submitted.fetch_add(1, Ordering::Relaxed) + 1;
        let work = Work {
            job: JobId::new(format!("j{number}")).expect("id"),
            task: TaskId::new("prepare").expect("id"),
            attempt: 1,
            name: "test".into(),
            plan: self.env.artifacts.put_bytes("plan", "plan.json", bytes).await.expect("stored"),
            deadline_at: now_ms() + 600_000,
            input: WorkInput::Prepare,
        };
        self.env.bus.publish_work(Role::DataLoader, &work, None).await.expect("published");
        work
    }

    pub async fn report(&mut self) -> ReportBody {
        let report =
            tokio::time::timeout(LONG, self.reports.recv()).await.expect("a report in time").expect("a report");
        assert_eq!((report.fence, report.attempt), (Fence(7), 1));
        report.body
    }

    pub async fn prepared(&mut self, data: &DataPlan, task: Task) -> ArtifactRef {
        self.submit(data, task).await;
        match self.report().await {
            ReportBody::Done { output: TaskOutput::Prepared { dataset, .. } } => dataset,
            other => panic!("not prepared: {other:?}"),
        }
    }

    pub async fn open(&self, open: &OpenFeed) -> (Subscription, FeedOpened) {
        let frames = self.env.bus.subscribe(&open.deliver_subject).await.expect("subscribes");
        let opened = self.env.bus.request(open.clone(), None, LONG).await.expect("opens");
        (frames, opened)
    }

    pub fn feed(&self, name: &str, dataset: &ArtifactRef) -> OpenFeed {
        let job = JobId::new("j1").expect("id");
        OpenFeed {
            feed: name.into(),
            fence: Fence(7),
            rank: 0,
            world_size: 1,
            subject_rank: None,
            deliver_subject: self.env.bus.subjects().feed(&job, 0),
            job,
            dataset: dataset.clone(),
            split: Split::Train,
            global_batch_size: 64,
            logical_shards: 8,
            shuffle_seed: Some(5),
            shuffle_window_mb: messages::plan::DEFAULT_SHUFFLE_WINDOW_MB,
            augmentation: None,
            drop_last: false,
            epoch: 0,
            batch: 0,
            end_epoch: 2,
            credits: 2,
            max_frame_bytes: self.env.bus.max_frame_bytes() as u32,
        }
    }

    async fn control(&self, opened: &FeedOpened, control: FeedControl) {
        let envelope = Envelope::new("control", "/test", now_ms(), control);
        self.env.bus.publish(&opened.credit_subject, &envelope).await.expect("published");
    }
}

/// Grants every claim with fence 7 and takes every report.
async fn answer_claims(bus: &Bus, to: mpsc::Sender<Report>) {
    let mut claims = bus.serve(&bus.subjects().svc(Claim::ROLE, Claim::VERB), None).await.expect("serves");
    let mut reports = bus.serve(&bus.subjects().svc(Report::ROLE, Report::VERB), None).await.expect("serves");
    tokio::spawn(async move {
        while let Some(claim) = claims.next().await {
            claim.reply(Ok(ClaimAnswer::Granted { fence: Fence(7) })).await;
        }
    });
    tokio::spawn(async move {
        while let Some(incoming) = reports.next().await {
            let report = incoming.decode::<Report>().expect("a report").data;
            incoming.reply(Ok(ReportAnswer::Accepted)).await;
            to.send(report).await.ok();
        }
    });
}

pub async fn next_frame(frames: &mut Subscription) -> (FrameHeader, Encoded) {
    let message = tokio::time::timeout(LONG, frames.next()).await.expect("a frame in time").expect("a frame");
    let header: FrameHeader = serde_json::from_str(message.header(HEADER_FRAME).expect("a header")).expect("reads");
    let rows = if header.error.is_some() { Encoded::default() } else { decode_frame(&message.payload).expect("rows") };
    (header, rows)
}

pub fn table(rows: usize) -> String {
    let lines: Vec<String> = (0..rows).map(|i| format!("{},c{},{}", i * 7 % 101, i % 5, i)).collect();
    format!("x,c,y\n{}\n", lines.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_prepared_and_fed_row_by_row() {
    let mut world = World::start(&[("a.csv", table(1_000).as_bytes())]).await;
    let dataset = world.prepared(&data_plan(&["a.csv"], "y"), Task::Regression).await;
    let artifacts = &world.env.artifacts;
    let manifest = Manifest::from_json(&artifacts.get(&dataset).await.expect("stored")).expect("a manifest");
    assert_eq!(Split::ALL.map(|split| manifest.rows(split)), [640, 160, 200]);
    assert_eq!(manifest.lineage.code_version, "test");
    let shard = &manifest.part(Split::Train).expect("a part").shards[0];
    let stored = read_shard(&artifacts.get(&shard.artifact).await.expect("stored")).expect("a shard");
    let expected = Encoder::new(&manifest).expect("a tokenizer").encode(stored.batch()).expect("encodes");

    let open = world.feed("f1", &dataset);
    let (mut frames, opened) = world.open(&open).await;
    assert_eq!(
        (opened.rows, opened.batches_per_epoch, opened.feature_names),
        (640, 10, manifest.feature_names.clone())
    );
    let (_, again) = world.open(&open).await;
    assert_eq!(again.batches_per_epoch, 10);
    let opened = again;
    let mut epochs: Vec<Vec<u64>> = vec![vec![], vec![]];
    for sequence in 0..20 {
        if sequence >= 2 {
            world.control(&opened, FeedControl::Credit { id: "f1".into(), frames: 1 }).await;
        }
        let (header, rows) = next_frame(&mut frames).await;
        assert_eq!((header.sequence, u64::from(header.epoch), header.batch), (sequence, sequence / 10, sequence % 10));
        assert_eq!((header.end_of_epoch, header.global_rows as usize), (sequence % 10 == 9, rows.rows));
        let places: Vec<u32> = rows
            .sample_ids
            .iter()
            .map(|id| expected.sample_ids.iter().position(|e| e == id).expect("of train") as u32)
            .collect();
        assert_eq!(rows, expected.select(&places));
        epochs[header.epoch as usize].extend(&rows.sample_ids);
    }
    assert_ne!(epochs[0], epochs[1]);
    for mut ids in epochs {
        ids.sort_unstable();
        assert_eq!(ids, expected.sample_ids);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_data_is_reported_and_leaves_nothing() {
    let mut world = World::start(&[("a.csv", b"x,y\n1,2\n3\n")]).await;
    world.submit(&data_plan(&["a.csv"], "y"), Task::Regression).await;
    let ReportBody::Failed { error } = world.report().await else { panic!("must fail") };
    assert_eq!(
        (error.code, error.message.as_str()),
        (Code::DatasetValidationError, "a.csv line 3: 1 fields, expected 2")
    );
    let dataset_folder = world.env.artifacts.root().join("dataset");
    assert!(!dataset_folder.exists() || dataset_folder.read_dir().expect("a folder").next().is_none());
    let missing = ArtifactRef { uri: "file:///nowhere".into(), blake3: "0".repeat(64), size_bytes: 1 };
    let refused = world.env.bus.request(world.feed("f", &missing), None, Duration::from_secs(5)).await;
    assert!(refused.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_ends_within_two_seconds() {
    let mut world = World::start(&[("a.csv", table(2_000_000).as_bytes())]).await;
    let mut beats = world.env.bus.subscribe(&world.env.bus.subjects().hb_all()).await.expect("subscribes");
    let work = world.submit(&data_plan(&["a.csv"], "y"), Task::Regression).await;
    // The role's heartbeat lists the lease as soon as it is held.
    let held = async {
        while let Some(beat) = beats.next().await {
            let beat = beat.decode::<messages::worker::Heartbeat>().expect("a heartbeat").data;
            if !beat.held.is_empty() {
                return;
            }
        }
    };
    tokio::time::timeout(LONG, held).await.expect("the task begins");
    let stop = Control::StopTask { job: work.job, task: work.task, fence: Fence(7), reason: "asked".into() };
    let subject = world.env.bus.subjects().ctl(&world.env.identity.worker, stop.verb());
    let begun = Instant::now();
    world.env.bus.publish(&subject, &Envelope::new("stop", "/test", now_ms(), stop)).await.expect("published");
    let ReportBody::Failed { error } = world.report().await else { panic!("must not finish: the table is too small") };
    assert_eq!(error.code, Code::Cancelled);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_loader_sends_its_ranks_elsewhere() {
    let mut world = World::start(&[("a.csv", table(1_000).as_bytes())]).await;
    let dataset = world.prepared(&data_plan(&["a.csv"], "y"), Task::Regression).await;
    let (mut frames, _) = world.open(&world.feed("f1", &dataset)).await;
    assert_eq!(next_frame(&mut frames).await.0.sequence, 0);
    assert_eq!(next_frame(&mut frames).await.0.sequence, 1);
    world.env.drain.cancel();
    let (header, _) = next_frame(&mut frames).await;
    let error = header.error.expect("the end of the feed");
    assert_eq!((header.sequence, header.batch, error.code, error.retry), (2, 2, Code::NoCapacity, true));
    tokio::time::timeout(LONG, world.loader.wait(None)).await.expect("stops in time").expect("stops");
    assert!(world.root.0.path().exists());
}

/// Answers every request with these bytes; gives its origin.
async fn web_server(files: BTreeMap<String, Vec<u8>>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let origin = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let Ok(read) = stream.read(&mut head).await else { continue };
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            let file = files.get(head.split(' ').nth(1).unwrap_or_default());
            let status = if file.is_some() { "200 OK" } else { "404 Not Found" };
            let bytes = file.cloned().unwrap_or_default();
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", bytes.len());
            stream.write_all(answer.as_bytes()).await.ok();
            stream.write_all(&bytes).await.ok();
        }
    });
    origin
}

async fn allowing(origin: &str, files: &[(&str, &[u8])]) -> World {
    let limits = bus::remote::Limits { allowed: vec![origin.to_owned()], ..bus::remote::Limits::default() };
    World::start_with(files, bus::remote::Remote::new(limits).expect("an origin"), World::config()).await
}

#[tokio::test]
async fn a_table_of_a_web_server_is_prepared_where_it_is_allowed() {
    let origin = web_server(BTreeMap::from([("/ads/a.csv".into(), table(200).into_bytes())])).await;
    let mut world = allowing(&origin, &[]).await;
    let url = format!("{origin}/ads/a.csv");
    let dataset = world.prepared(&data_plan(&[&url], "y"), Task::Regression).await;
    let bytes = world.env.artifacts.get(&dataset).await.expect("is there");
    let manifest = Manifest::from_json(&bytes).expect("a manifest");
    assert_eq!((manifest.sources[0].path.as_str(), manifest.sources[0].rows), (url.as_str(), 200));
    let scratch = std::fs::read_dir(world.env.home.join("scratch")).expect("a folder").count();
    assert_eq!(scratch, 0, "what was copied is removed");
}

/// Pictures of 2 x 2 by a table that names them `pics/0.png` to `pics/3.png`, and the first of each four rows as `named`.
fn pictures(named: &str) -> (String, BTreeMap<String, Vec<u8>>) {
    let line = |row: usize| match row % 4 {
        0 => format!("{named},{row},{}\n", row % 3),
        other => format!("pics/{other}.png,{row},{}\n", row % 3),
    };
    let files = (0..4u8).map(|n| (format!("/ads/pics/{n}.png"), crate::sources::png(2, 2, |_, _| [n * 10, 100, 200])));
    (String::from("image,x,y\n") + &(0..40).map(line).collect::<String>(), files.collect())
}

/// The pictures of a dataset version: path and BLAKE3 of the source that stands for them.
async fn pictures_of(world: &mut World, path: &str) -> (String, String) {
    let mut plan = data_plan(&[path], "y");
    let mut image = crate::plan::column(messages::plan::ColumnType::Image);
    (image.source.size, image.source.channels) = (Some(vec![2, 2]), 3);
    plan.columns.insert("image".into(), image);
    let dataset = world.prepared(&plan, Task::Regression).await;
    let bytes = world.env.artifacts.get(&dataset).await.expect("is there");
    let source = Manifest::from_json(&bytes).expect("a manifest").sources.pop().expect("pictures");
    (source.path, source.blake3)
}

#[tokio::test]
async fn pictures_that_lie_elsewhere_are_those_that_lie_here() {
    let (here, files) = pictures("pics/0.png");
    let mut local: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (&path[1..], bytes.as_slice())).collect();
    local.push(("ads/a.csv", here.as_bytes()));
    let mut world = World::start(&local).await;
    let expected = pictures_of(&mut world, "ads/a.csv").await;
    assert_eq!(expected.0, "4 pictures of column \"image\"");

    // Table and pictures on the server, one of them by a URL of its own.
    let origin = web_server(files.clone()).await;
    let (elsewhere, _) = pictures(&format!("{origin}/ads/pics/0.png"));
    let both = files.clone().into_iter().chain([("/ads/a.csv".to_owned(), elsewhere.clone().into_bytes())]).collect();
    let tables = web_server(both).await;
    let limits = bus::remote::Limits { allowed: vec![origin.clone(), tables.clone()], ..Default::default() };
    let mut world = World::start_with(&[], bus::remote::Remote::new(limits).expect("origins"), World::config()).await;
    assert_eq!(pictures_of(&mut world, &format!("{tables}/ads/a.csv")).await, expected);

    // The table here, one picture there.
    local.retain(|(path, _)| *path != "ads/pics/0.png" && *path != "ads/a.csv");
    local.push(("ads/a.csv", elsewhere.as_bytes()));
    let mut world = allowing(&origin, &local).await;
    assert_eq!(pictures_of(&mut world, "ads/a.csv").await, expected);
}

#[tokio::test]
async fn a_picture_that_is_nowhere_is_told_by_its_row() {
    let (text, mut files) = pictures("pics/none.png");
    files.insert("/ads/a.csv".into(), text.into_bytes());
    let origin = web_server(files).await;
    let mut world = allowing(&origin, &[]).await;
    let mut plan = data_plan(&[&format!("{origin}/ads/a.csv")], "y");
    let mut image = crate::plan::column(messages::plan::ColumnType::Image);
    (image.source.size, image.source.channels) = (Some(vec![2, 2]), 3);
    plan.columns.insert("image".into(), image);
    world.submit(&plan, Task::Regression).await;
    match world.report().await {
        ReportBody::Failed { error } => {
            let says = format!("{origin}/ads/a.csv line 2, column \"image\": pics/none.png: no such file");
            assert!(error.message.contains(&says), "{error}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_url_that_nobody_allowed_is_refused() {
    let mut world = World::start(&[]).await;
    world.submit(&data_plan(&["http://127.0.0.1:1/a.csv"], "y"), Task::Regression).await;
    match world.report().await {
        ReportBody::Failed { error } => {
            assert_eq!(error.code, Code::Forbidden);
            assert!(error.message.contains("remote_sources"), "{error}");
        }
        other => panic!("not refused: {other:?}"),
    }
}
