//! Real servers for tests: one shared by tests that keep to a tenant of their own, and own ones for
//! tests that kill, stop or configure theirs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use bus::artifact::ArtifactStore;
use bus::embedded::{EmbeddedConfig, EmbeddedServer};
use bus::role::{Identity, RoleEnv};
use bus::{Bus, BusConfig, Credentials};
use messages::timings::Timings;
use messages::{JobId, TaskId, Tenant, WorkerId};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// Longer than anything takes on a loaded machine.
pub const LONG: Duration = Duration::from_mins(1);

/// A folder that is removed with its test; the shared server's with the next run.
fn folder() -> TempDir {
    static SWEPT: Once = Once::new();
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    SWEPT.call_once(|| {
        for left in std::fs::read_dir(parent).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let unused = |file: std::fs::File| file.try_lock().is_ok();
            if std::fs::File::open(left.join("nats/lock")).is_ok_and(unused) {
                std::fs::remove_dir_all(left).ok();
            }
        }
    });
    tempfile::Builder::new().prefix("bus-").tempdir_in(parent).expect("temporary folder")
}

/// The `nats-server` that `make` provisions, or the one in `WITHIN_NATS_SERVER`.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("WITHIN_NATS_SERVER") {
        return path.into();
    }
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server-2.15.1/nats-server");
    assert!(
        tools.exists(),
        "no nats-server: run scripts/provision-nats, or set WITHIN_NATS_SERVER to a nats-server of 2.12 or newer"
    );
    tools
}

pub struct TestServer {
    pub server: EmbeddedServer,
    // After the server, so that it is removed when that has ended.
    _dir: TempDir,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut EmbeddedConfig)) -> Self {
        let dir = folder();
        let mut config = EmbeddedConfig::new(binary(), dir.path().join("nats"));
        change(&mut config);
        let server = EmbeddedServer::start(config).await.expect("server starts");
        Self { server, _dir: dir }
    }

    pub fn config(&self, name: &str) -> BusConfig {
        config(&self.server.url(), self.server.credentials(), name)
    }

    pub async fn bus(&self, name: &str) -> Bus {
        Bus::connect(self.config(name)).await.expect("connects")
    }
}

pub fn config(url: &str, credentials: Credentials, name: &str) -> BusConfig {
    BusConfig {
        url: url.to_owned(),
        credentials,
        tls: bus::Tls::default(),
        tenant: Tenant::default(),
        name: name.to_owned(),
        timings: timings(),
    }
}

/// Time-outs that a loaded machine keeps; tests that wait for one shorten it.
pub fn timings() -> Timings {
    Timings { request_timeout_ms: 10_000, ack_wait_ms: 20_000, claim_timeout_ms: 30_000, ..Timings::default() }
}

static SHARED: OnceCell<TestServer> = OnceCell::const_new();
static TENANT: AtomicU32 = AtomicU32::new(0);

/// A configuration for the shared server with a tenant of its own.
pub async fn shared() -> BusConfig {
    let server = SHARED.get_or_init(TestServer::start).await;
    let tenant = format!("t{}", TENANT.fetch_add(1, Ordering::Relaxed));
    BusConfig { tenant: Tenant::new(tenant).expect("tenant"), ..server.config("test") }
}

/// A bus on the shared server with streams of its own.
pub async fn ready() -> Bus {
    let bus = Bus::connect(shared().await).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    bus
}

/// The client below the bus, to look at what the server really holds.
pub async fn raw(config: &BusConfig) -> async_nats::jetstream::Context {
    let Credentials::UserPassword { user, password } = &config.credentials else { panic!("user and password") };
    let options = async_nats::ConnectOptions::with_user_and_password(user.clone(), password.clone());
    async_nats::jetstream::new(options.connect(&config.url).await.expect("connects"))
}

/// Messages that a stream holds on subjects that match.
pub async fn count(js: &async_nats::jetstream::Context, stream: &str, subject: &str) -> usize {
    use futures::TryStreamExt;
    let stream = js.get_stream(stream).await.expect("stream");
    let subjects: Vec<(String, usize)> =
        stream.info_with_subjects(subject).await.expect("info").try_collect().await.expect("subjects");
    subjects.iter().map(|(_, count)| count).sum()
}

pub fn job(text: &str) -> JobId {
    JobId::new(text).expect("job id")
}

pub fn task(text: &str) -> TaskId {
    TaskId::new(text).expect("task id")
}

/// What a role is given.
pub fn env(bus: &Bus, worker: &str, home: &Path) -> RoleEnv {
    RoleEnv {
        bus: bus.clone(),
        identity: Arc::new(Identity {
            worker: WorkerId::new(worker).expect("worker id"),
            host: "host".into(),
            pid: 1,
            build: "test".into(),
            fingerprint: "cpu".into(),
        }),
        artifacts: ArtifactStore::open(home.to_str().expect("UTF-8")).expect("store"),
        drain: CancellationToken::new(),
        data_roots: Arc::default(),
        remote: bus::remote::Remote::default(),
        home: Arc::new(home.to_owned()),
    }
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
