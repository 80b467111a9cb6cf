//! A real nats-server, a bus on it, and the coordinator's part of the conversation, played by the test.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bus::artifact::ArtifactStore;
use bus::embedded::{EmbeddedConfig, EmbeddedServer};
use bus::role::{Identity, RoleEnv};
use bus::{Bus, BusConfig};
use futures::StreamExt;
use messages::job::{JobRecord, Role};
use messages::rpc::{Claim, ClaimAnswer, GetJob, Report, ReportAnswer, Request};
use messages::timings::Timings;
use messages::{Fence, Tenant, WorkerId};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Longer than anything takes on a loaded machine.
pub const LONG: Duration = Duration::from_mins(1);

fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WITHIN_NATS_SERVER") {
        return path.into();
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server-2.15.1/nats-server");
    assert!(
        tools.exists(),
        "no nats-server: run scripts/provision-nats, or set WITHIN_NATS_SERVER to a nats-server of 2.12 or newer"
    );
    tools
}

pub struct Stage {
    pub server: EmbeddedServer,
    pub home: TempDir,
}

impl Stage {
    pub async fn start() -> Self {
        let home = tempfile::tempdir().expect("temporary folder");
        Self { server: Self::server(home.path(), "nats").await, home }
    }

    /// Another server, with a store of its own in the same home.
    pub async fn server(home: &Path, store: &str) -> EmbeddedServer {
        EmbeddedServer::start(EmbeddedConfig::new(binary(), home.join(store))).await.expect("server starts")
    }

    pub async fn bus(&self) -> Bus {
        let timings =
            Timings { request_timeout_ms: 10_000, lease_ttl_ms: 3_000, heartbeat_ms: 200, ..Timings::default() };
        let config = BusConfig {
            url: self.server.url(),
            credentials: self.server.credentials(),
            tls: bus::Tls::default(),
            tenant: Tenant::default(),
            name: "test".into(),
            timings,
        };
        let bus = Bus::connect(config).await.expect("connects");
        bus.ensure_topology().await.expect("topology");
        bus
    }

    pub fn env(&self, bus: &Bus, worker: &str) -> RoleEnv {
        let store = self.home.path().join("artifacts");
        RoleEnv {
            bus: bus.clone(),
            identity: Arc::new(Identity {
                worker: WorkerId::new(worker).expect("worker id"),
                host: "host".into(),
                pid: 1,
                build: "test".into(),
                fingerprint: "cpu".into(),
            }),
            artifacts: ArtifactStore::open(store.to_str().expect("UTF-8")).expect("store"),
            drain: CancellationToken::new(),
            data_roots: Arc::default(),
            remote: bus::remote::Remote::default(),
            home: Arc::new(self.home.path().to_owned()),
        }
    }
}

/// Plays the coordinator: grants every claim, takes every report and hands it on, knows one job.
pub async fn coordinate(bus: &Bus, record: JobRecord) -> mpsc::Receiver<Report> {
    let (reports, taken) = mpsc::channel(100);
    let mut requests = bus.serve(&bus.subjects().svc(Role::Coordinator, "*"), None).await.expect("serves");
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            match request.verb() {
                Claim::VERB => request.reply(Ok(ClaimAnswer::Granted { fence: Fence(70) })).await,
                GetJob::VERB => request.reply(Ok(record.clone())).await,
                Report::VERB => {
                    let report = request.decode::<Report>().expect("a report").data;
                    request.reply(Ok(ReportAnswer::Accepted)).await;
                    reports.send(report).await.ok();
                }
                verb => panic!("unexpected request {verb}"),
            }
        }
    });
    taken
}

/// Supervises the role under test and says how it ended: None, or its error.
pub struct Watch;

impl Actor for Watch {
    type Msg = ();
    type State = mpsc::Sender<Option<String>>;
    type Arguments = mpsc::Sender<Option<String>>;

    async fn pre_start(&self, _: ActorRef<()>, ends: Self::Arguments) -> Result<Self::State, ActorProcessingErr> {
        Ok(ends)
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<()>,
        event: SupervisionEvent,
        ends: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(..) => ends.send(None).await.ok(),
            SupervisionEvent::ActorFailed(_, error) => ends.send(Some(error.to_string())).await.ok(),
            _ => None,
        };
        Ok(())
    }
}

pub async fn watch() -> (ActorCell, mpsc::Receiver<Option<String>>) {
    let (ends, ended) = mpsc::channel(10);
    let (actor, _) = Actor::spawn(None, Watch, ends).await.expect("supervisor");
    (actor.get_cell(), ended)
}

/// Runs `probe` until it gives something.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let search = async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, search).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}
