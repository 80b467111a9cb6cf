//! A real `nats-server` with JetStream on a free port, killed when the test ends, and the test's own
//! connection to it.

use std::future::Future;
use std::time::Duration;

use bus::embedded::{EmbeddedConfig, EmbeddedServer};
use bus::{Bus, BusConfig, Credentials, From};
use messages::subject::{HEADER_DLQ_REASON, HEADER_DLQ_SUBJECT};
use messages::timings::Timings;
use messages::{JobId, Tenant};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{nats_server, python_json};

/// The server.
pub struct Server {
    // Dropped in this order: the server, then its folder.
    inner: EmbeddedServer,
    runtime: Runtime,
    _folder: TempDir,
}

/// A message of the dead letters.
#[derive(Debug, Clone)]
pub struct Letter {
    pub subject: String,
    pub reason: String,
    pub came_on: String,
    pub payload: Vec<u8>,
}

/// Reads a stream from its beginning to its present end.
const READ_STREAM: &str = r#"
import asyncio, base64, json, sys
import nats

async def main(url, user, password, stream):
    nc = await nats.connect(url, user=user, password=password, allow_reconnect=False)
    js = nc.jetstream()
    state = (await js.stream_info(stream)).state
    out = []
    for sequence in range(max(state.first_seq, 1), state.last_seq + 1):
        try:
            message = await js.get_msg(stream, sequence)
        except nats.js.errors.NotFoundError:
            continue
        payload = base64.b16encode(message.data or b"").decode()
        out.append({"subject": message.subject, "headers": message.headers or {}, "payload": payload})
    print(json.dumps(out))
    await nc.close()

asyncio.run(main(*sys.argv[1:]))
"#;

impl Server {
    pub fn start() -> Self {
        Self::start_with(false)
    }

    /// With every write flushed to the disk before it is acknowledged, or by the server's default.
    pub fn start_with(sync_always: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let folder = tempfile::Builder::new().prefix("within-nats-").tempdir().expect("a temporary folder");
        let config = EmbeddedConfig { sync_always, ..EmbeddedConfig::new(nats_server(), folder.path().join("nats")) };
        let inner = runtime.block_on(EmbeddedServer::start(config)).expect("the server starts");
        Self { inner, runtime, _folder: folder }
    }

    pub fn url(&self) -> String {
        self.inner.url()
    }

    /// The process of the server.
    #[allow(dead_code, reason = "a bench asks for it")]
    pub fn pid(&self) -> u32 {
        self.inner.pid().expect("it runs")
    }

    /// Kills the server; what it has stored stays.
    pub fn kill9(&mut self) {
        self.inner.kill9();
    }

    /// Starts it again on the same port and store.
    pub fn restart(&mut self) {
        self.runtime.block_on(self.inner.restart()).expect("the server starts again");
    }

    /// User and password.
    pub fn user(&self) -> (String, String) {
        match self.inner.credentials() {
            Credentials::UserPassword { user, password } => (user, password),
            other => panic!("expected user and password, got {other:?}"),
        }
    }

    /// The content of a credentials file.
    pub fn credentials_line(&self) -> String {
        let (user, password) = self.user();
        format!("{user}:{password}\n")
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// A connection of the test.
    pub fn connect(&self, tenant: &str) -> Bus {
        let config = BusConfig {
            url: self.url(),
            credentials: self.inner.credentials(),
            tls: bus::Tls::default(),
            tenant: Tenant::new(tenant).expect("a tenant"),
            name: "test".into(),
            timings: Timings::default(),
        };
        self.block_on(Bus::connect(config)).expect("connects")
    }

    /// All events of a job up to its terminal one: the whole envelopes.
    pub fn events(&self, bus: &Bus, job: &str) -> Vec<Value> {
        let job = JobId::new(job).expect("a job id");
        self.block_on(async {
            let mut events = bus.events(Some(&job), From::First).await.expect("events");
            let mut found = Vec::new();
            loop {
                let next = events.next(super::PATIENCE).await.expect("events");
                let stored = next.unwrap_or_else(|| panic!("job {job} does not end: {found:#?}"));
                let ended = stored.envelope.data.is_terminal();
                found.push(json!(stored.envelope));
                if ended {
                    return found;
                }
            }
        })
    }

    /// Events of a job that are stored after its terminal one, within a short time.
    pub fn later_events(&self, bus: &Bus, job: &str, terminal: usize) -> usize {
        let job = JobId::new(job).expect("a job id");
        self.block_on(async {
            let mut events = bus.events(Some(&job), From::First).await.expect("events");
            let mut count = 0;
            while events.next(Duration::from_millis(1_500)).await.expect("events").is_some() {
                count += 1;
            }
            count - terminal
        })
    }

    /// The dead letters so far.
    pub fn dead_letters(&self) -> Vec<Letter> {
        let (user, password) = self.user();
        let read = python_json(READ_STREAM, &[&self.url(), &user, &password, "WITHIN_DLQ"]);
        let header = |letter: &Value, name: &str| letter["headers"][name].as_str().unwrap_or_default().to_owned();
        let letters = read.as_array().expect("a list").iter();
        letters
            .map(|letter| Letter {
                subject: letter["subject"].as_str().unwrap_or_default().to_owned(),
                reason: header(letter, HEADER_DLQ_REASON),
                came_on: header(letter, HEADER_DLQ_SUBJECT),
                payload: from_hex(letter["payload"].as_str().unwrap_or_default()),
            })
            .collect()
    }
}

fn from_hex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a hexadecimal digit") as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}
