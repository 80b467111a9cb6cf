//! The rest of the platform as a trainer meets it: a nats-server, a coordinator that the test answers
//! for, a data_loader that can be sabotaged, and the worker's actor.

mod loader;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::artifact::ArtifactStore;
use bus::embedded::{EmbeddedConfig, EmbeddedServer};
use bus::role::{Identity, RoleEnv};
use bus::{Bus, BusConfig, Incoming, now_ms};
use bytes::Bytes;
use futures::StreamExt;
use messages::event::Checkpoint;
use messages::gang::{Join, Joined, Offer, OfferAnswer, Peer};
use messages::job::Role;
use messages::plan::Task;
use messages::rpc::{Report, ReportAnswer};
use messages::timings::Timings;
use messages::work::{Work, WorkInput};
use messages::worker::Control;
use messages::{ArtifactRef, Envelope, Fence, JobId, TaskId, Tenant, WorkerId};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use within_trainer::link::Connection;
use within_trainer::train::{BatchSource, Outbox, Outcome, Outgoing, Ports, Stop, TrainJob};

use crate::fixtures::{TRAIN_ROWS, VAL_ROWS, manifest, plan, rows};

pub use loader::Sabotage;

/// Nothing in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
const TASK: Task = Task::Regression;

fn timings() -> Timings {
    Timings {
        heartbeat_ms: 200,
        lease_ttl_ms: 2_000,
        request_timeout_ms: 1_000,
        join_timeout_ms: 5_000,
        step_timeout_ms: 4_000,
        feed_timeout_ms: 700,
        drain_grace_ms: 15_000,
        retry_backoff_ms: 20,
        ..Timings::default()
    }
}

/// The parameters' hash of the job, trained in this process from memory.
pub fn without_a_bus() -> String {
    let dir = TempDir::new().expect("folder");
    let (outbox, mut outgoing) = Outbox::new(&job_id(), &task_id(), 1, 0);
    std::thread::spawn(move || {
        while let Some(told) = outgoing.blocking_recv() {
            if let Outgoing::Checkpoint { answer, .. } = told {
                answer.send(within_trainer::train::outbox::CheckpointReport::Accepted).expect("awaited");
            }
        }
    });
    let job = TrainJob {
        job: job_id(),
        task: task_id(),
        attempt: 1,
        fence: Fence(1),
        generation: 1,
        rank: 0,
        machine: None,
        threads: 1,
        plan: plan(TASK),
        manifest: Arc::new(manifest(TASK, TRAIN_ROWS as u64, VAL_ROWS as u64)),
        pretrained: None,
        dataset_blake3: "d".into(),
        resume: None,
        checkpoints: dir.path().into(),
    };
    let ports = Ports {
        train: BatchSource::memory(rows(TASK, TRAIN_ROWS, 0)),
        val: BatchSource::memory(rows(TASK, VAL_ROWS, TRAIN_ROWS as u64)),
        outbox,
        vitals: Arc::default(),
        stop: Stop::default(),
        rendezvous: None,
    };
    match within_trainer::train::train(job, ports).expect("trains") {
        Outcome::Finished(trained) => trained.params_blake3,
        other => panic!("{other:?}"),
    }
}

fn job_id() -> JobId {
    JobId::new("j1").expect("id")
}

fn task_id() -> TaskId {
    TaskId::new("train").expect("id")
}

/// Says yes to a report.
pub async fn accept(incoming: Incoming) {
    incoming.reply(Ok(ReportAnswer::Accepted)).await;
}

fn nats_server() -> PathBuf {
    if let Some(path) = std::env::var_os("WITHIN_NATS_SERVER") {
        return path.into();
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server-2.15.1/nats-server");
    assert!(
        tools.exists(),
        "no nats-server: run scripts/provision-nats, or set WITHIN_NATS_SERVER to one of 2.12 or newer"
    );
    tools
}

struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();
    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }

    /// A child that ends is no reason to end.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        _: SupervisionEvent,
        (): &mut (),
    ) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// A worker and what it needs.
pub struct Platform {
    pub bus: Bus,
    pub job: JobId,
    pub task: TaskId,
    pub drain: CancellationToken,
    worker: WorkerId,
    plan: ArtifactRef,
    dataset: ArtifactRef,
    config: BusConfig,
    store: ArtifactStore,
    reports: mpsc::Receiver<(Report, Incoming)>,
    joins: mpsc::Receiver<Join>,
    actor: ActorCell,
    supervisor: ActorCell,
    // Last: they end with the platform.
    server: EmbeddedServer,
    home: TempDir,
}

impl Platform {
    pub async fn start(sabotage: Sabotage) -> Self {
        let home = TempDir::new().expect("folder");
        let server =
            EmbeddedServer::start(EmbeddedConfig::new(nats_server(), home.path().join("nats"))).await.expect("server");
        let config = BusConfig {
            url: server.url(),
            credentials: server.credentials(),
            tls: bus::Tls::default(),
            tenant: Tenant::default(),
            name: "test".into(),
            timings: timings(),
        };
        let bus = Bus::connect(config.clone()).await.expect("connects");
        bus.ensure_topology().await.expect("topology");
        let store = ArtifactStore::open(home.path().join("store").to_str().expect("text")).expect("store");
        let plan_bytes = serde_json::to_vec(&plan(TASK)).expect("serializes");
        let plan = store.put_bytes("plans", "plan.json", Bytes::from(plan_bytes)).await.expect("stores");
        let manifest = Bytes::from(stored_manifest().to_json());
        let dataset = store.put_bytes("dataset", "manifest.json", manifest).await.expect("stores");
        let reports = serve_reports(&bus).await;
        let joins = serve_joins(&bus).await;
        loader::serve(&bus, sabotage).await;
        let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await.expect("supervisor");
        let supervisor = supervisor.get_cell();
        let drain = CancellationToken::new();
        let worker = WorkerId::new("w1").expect("id");
        let actor = start_worker(&bus, &config, &store, &worker, &drain, home.path(), supervisor.clone()).await;
        Self {
            bus,
            job: job_id(),
            task: task_id(),
            drain,
            worker,
            plan,
            dataset,
            config,
            store,
            reports,
            joins,
            actor,
            supervisor,
            server,
            home,
        }
    }

    /// A second worker on the same platform, after the first has gone.
    pub async fn another_worker(mut self) -> Self {
        self.worker = WorkerId::new("w2").expect("id");
        self.drain = CancellationToken::new();
        let (home, supervisor) = (self.home.path(), self.supervisor.clone());
        self.actor =
            start_worker(&self.bus, &self.config, &self.store, &self.worker, &self.drain, home, supervisor).await;
        self
    }

    async fn offer(&self, offer: Offer) -> OfferAnswer {
        let subject = self.bus.subjects().offer(&self.worker);
        self.bus.request_to(&subject, offer, PATIENCE).await.expect("an answer")
    }

    pub async fn reserve(&self, attempt: u32, slots: u32) -> OfferAnswer {
        let (job, task) = (self.job.clone(), self.task.clone());
        self.offer(Offer::Reserve { job, task, attempt, slots, expires_at: now_ms() + 5_000, joining: None }).await
    }

    /// Reserves a slot, starts one rank and waits until it has joined: its process id.
    pub async fn start_gang(&mut self, attempt: u32, resume: Option<Checkpoint>) -> u32 {
        let reserved = self.reserve(attempt, 1).await;
        assert_eq!(reserved, OfferAnswer::Accepted { slots: 1, fingerprint: "fp".into() });
        let work = Box::new(Work {
            job: self.job.clone(),
            task: self.task.clone(),
            attempt,
            name: "t".into(),
            plan: self.plan.clone(),
            deadline_at: now_ms() + 60_000,
            input: WorkInput::Train { dataset: self.dataset.clone(), resume },
        });
        let start =
            Offer::Start { work, fence: Fence(u64::from(attempt) * 10), generation: 1, ranks: vec![0], world_size: 1 };
        assert_eq!(self.offer(start.clone()).await, OfferAnswer::Started);
        assert_eq!(self.offer(start).await, OfferAnswer::Started, "again");
        let Ok(join) = timeout(PATIENCE, self.joins.recv()).await else {
            let said: Vec<_> = std::iter::from_fn(|| self.reports.try_recv().ok()).map(|(report, _)| report).collect();
            panic!("attempt {attempt} did not join; it reported {said:?}");
        };
        let join = join.expect("a join");
        assert_eq!(
            (join.rank, join.fence, join.worker.clone()),
            (0, Fence(u64::from(attempt) * 10), self.worker.clone())
        );
        join.pid
    }

    pub async fn report(&mut self) -> (Report, Incoming) {
        timeout(PATIENCE, self.reports.recv()).await.expect("in time").expect("a report")
    }

    pub async fn control(&self, control: Control) {
        let subject = self.bus.subjects().ctl(&self.worker, control.verb());
        let envelope = Envelope::new("c1", "/test", now_ms(), control);
        self.bus.publish(&subject, &envelope).await.expect("publishes");
    }

    /// Waits until so many slots can be reserved by a later attempt.
    pub async fn slots_are_free(&self, slots: u32) {
        self.slots_are_free_for(9, slots).await;
    }

    pub async fn slots_are_free_for(&self, attempt: u32, slots: u32) {
        let begun = Instant::now();
        let mut answer = self.reserve(attempt, slots).await;
        while matches!(answer, OfferAnswer::Declined { .. }) {
            assert!(begun.elapsed() < PATIENCE, "{answer:?}");
            answer = self.reserve(attempt, slots).await;
        }
    }

    pub async fn actor_has_stopped(&self) {
        let begun = Instant::now();
        while self.actor.get_status() != ActorStatus::Stopped {
            assert!(begun.elapsed() < PATIENCE, "the actor does not stop");
            tokio::task::yield_now().await;
        }
    }

    pub async fn end(mut self) {
        self.supervisor.stop(None);
        self.bus.close().await;
        self.server.stop().await.expect("stops");
    }
}

/// A manifest whose parts have shards, so that it can be read back.
fn stored_manifest() -> frame::Manifest {
    let mut manifest = manifest(TASK, TRAIN_ROWS as u64, VAL_ROWS as u64);
    for part in &mut manifest.parts {
        let artifact = ArtifactRef { uri: "file:///nowhere".into(), blake3: "0".repeat(64), size_bytes: 0 };
        part.shards = vec![frame::manifest::Shard { artifact, rows: part.rows }];
    }
    manifest
}

async fn start_worker(
    bus: &Bus,
    config: &BusConfig,
    store: &ArtifactStore,
    worker: &WorkerId,
    drain: &CancellationToken,
    home: &Path,
    supervisor: ActorCell,
) -> ActorCell {
    let identity = Identity {
        worker: worker.clone(),
        host: "testhost".into(),
        pid: std::process::id(),
        build: "test".into(),
        fingerprint: "fp".into(),
    };
    let env = RoleEnv {
        bus: bus.clone(),
        identity: Arc::new(identity),
        artifacts: store.clone(),
        drain: drain.clone(),
        data_roots: Arc::new(Vec::new()),
        remote: bus::remote::Remote::default(),
        home: Arc::new(home.into()),
    };
    let me = std::env::current_exe().expect("own path").to_str().expect("text").to_owned();
    let config = within_trainer::Config {
        devices: within_trainer::device::Devices::default(),
        cubins: std::path::PathBuf::new(),
        slots: 2,
        rank_command: vec![me, "rank".into()],
        connection: Connection::of(config),
        threads: 1,
        collective_tls: false,
        routes: within_trainer::routes::Routes::default(),
    };
    within_trainer::start(env, config, supervisor).await.expect("starts")
}

async fn serve_reports(bus: &Bus) -> mpsc::Receiver<(Report, Incoming)> {
    let mut incoming = bus.serve(&bus.subjects().svc(Role::Coordinator, "report"), None).await.expect("serves");
    let (sender, reports) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(request) = incoming.next().await {
            let report = request.decode::<Report>().expect("a report").data;
            if sender.send((report, request)).await.is_err() {
                return;
            }
        }
    });
    reports
}

async fn serve_joins(bus: &Bus) -> mpsc::Receiver<Join> {
    let mut incoming = bus.serve(&bus.subjects().rdzv_all(), None).await.expect("serves");
    let (sender, joins) = mpsc::channel(64);
    tokio::spawn(async move {
        while let Some(request) = incoming.next().await {
            let join = request.decode::<Join>().expect("a join").data;
            let peer = Peer { rank: join.rank, worker: join.worker.clone(), host: join.host.clone(), address: None };
            let joined =
                Joined { generation: join.generation, world_size: 1, peers: vec![peer], fence: None, token: None };
            request.reply(Ok(joined)).await;
            if sender.send(join).await.is_err() {
                return;
            }
        }
    });
    joins
}
