//! What a feed carries: frames made, frames read, and frames over a real server on loopback, in MB (10^6 bytes)
//! of frames a second. Prints a JSON object a line, and writes them to `feed.json` in `WITHIN_BENCH_DIR`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bus::artifact::ArtifactStore;
use bus::embedded::{EmbeddedConfig, EmbeddedServer};
use bus::role::{Identity, RoleEnv};
use bus::{Bus, BusConfig, now_ms};
use frame::{Encoded, decode_frame, encode_frame};
use futures::StreamExt;
use messages::envelope::Envelope;
use messages::feed::{FeedControl, FrameHeader, OpenFeed, Split};
use messages::plan::Task;
use messages::subject::HEADER_FRAME;
use messages::timings::Timings;
use messages::{Fence, JobId, Tenant, WorkerId};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::sync::CancellationToken;
use within_data_loader::prepare::prepare;

#[path = "../tests/it/plan.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod plan;

/// Features of a row; with id and target a row takes 268 bytes.
const WIDTH: usize = 64;
/// Rows of a frame of about 1 MiB.
const ROWS: u32 = 3_900;
/// How many frames a rank asks for ahead.
const CREDITS: u32 = 8;
const FRAMES: usize = 800;

struct Supervisor;

impl Actor for Supervisor {
    type Msg = ();
    type State = ();
    type Arguments = ();

    async fn pre_start(&self, _: ActorRef<()>, (): ()) -> Result<(), ActorProcessingErr> {
        Ok(())
    }
}

/// One figure. No peer is measured beside it: nothing else feeds a trainer over NATS.
fn row(rows: &mut Vec<serde_json::Value>, name: &str, bytes: usize, took: Duration) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load1: Option<f64> = load.split(' ').next().and_then(|text| text.parse().ok());
    let figure = (bytes as f64 / 1e6 / took.as_secs_f64()).round();
    let row = serde_json::json!({
        "name": name, "figure": figure, "unit": "MB/s", "peer": null, "peer_figure": null, "ratio": null, "load1": load1,
    });
    println!("{row}");
    rows.push(row);
}

fn codec(figures: &mut Vec<serde_json::Value>) {
    let rows = ROWS as usize;
    let encoded = Encoded {
        inputs: kernels::nn::Inputs::default(),
        rows,
        width: WIDTH,
        features: (0..rows * WIDTH).map(|i| i as f32).collect(),
        targets: vec![1.0; rows],
        sample_ids: (0..rows as u64).collect(),
        weights: None,
    };
    let order: Vec<u32> = (0..ROWS).rev().collect();
    let mut bytes = 0;
    let begun = Instant::now();
    for _ in 0..FRAMES {
        bytes += encode_frame(encoded.select(&order)).expect("encodes").len();
    }
    row(figures, "frame: select and encode", bytes, begun.elapsed());
    let frame = encode_frame(encoded).expect("encodes");
    let begun = Instant::now();
    for _ in 0..FRAMES {
        assert_eq!(decode_frame(&frame).expect("decodes").rows, rows);
    }
    row(figures, "frame: decode", FRAMES * frame.len(), begun.elapsed());
}

/// A table of numbers, prepared and written; the role running on a server of its own.
async fn feed(figures: &mut Vec<serde_json::Value>) {
    let home = tempfile::tempdir().expect("a folder");
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server-2.15.1/nats-server");
    let binary = std::env::var_os("WITHIN_NATS_SERVER").map_or(tools, PathBuf::from);
    let server = EmbeddedServer::start(EmbeddedConfig::new(binary, home.path().join("nats"))).await.expect("starts");
    let config = BusConfig {
        url: server.url(),
        credentials: server.credentials(),
        tls: bus::Tls::default(),
        tenant: Tenant::default(),
        name: "bench".into(),
        timings: Timings::default(),
    };
    let bus = Bus::connect(config).await.expect("connects");
    bus.ensure_topology().await.expect("streams");
    let header: Vec<String> = (0..WIDTH).map(|c| format!("c{c}")).collect();
    let lines: Vec<String> = (0..50_000)
        .map(|i| (0..=WIDTH).map(|c| (i * (c + 3) % 1009).to_string()).collect::<Vec<_>>().join(","))
        .collect();
    let table = format!("{},y\n{}\n", header.join(","), lines.join("\n"));
    let root = plan::Root::new(&[("a.csv", table.as_bytes())]);
    let env = RoleEnv {
        bus: bus.clone(),
        identity: Arc::new(Identity {
            worker: WorkerId::new("w1").expect("id"),
            host: "host".into(),
            pid: 1,
            build: "bench".into(),
            fingerprint: "cpu".into(),
        }),
        artifacts: ArtifactStore::open(&home.path().join("artifacts").to_string_lossy()).expect("a store"),
        drain: CancellationToken::new(),
        data_roots: Arc::new(root.roots()),
        remote: bus::remote::Remote::default(),
        home: Arc::new(home.path().to_owned()),
    };
    let begun = Instant::now();
    let token = CancellationToken::new();
    let prepared =
        prepare(&plan::data_plan(&["a.csv"], "y"), Task::Regression, &root.roots(), &token).expect("prepares");
    row(figures, "prepare: CSV, 65 number columns", table.len(), begun.elapsed());
    let output = within_data_loader::write::write(
        prepared,
        &env.artifacts,
        frame::manifest::Lineage::default(),
        std::collections::BTreeMap::new(),
        &token,
    )
    .await;
    let Ok(messages::work::TaskOutput::Prepared { dataset, .. }) = output else { panic!("not written") };
    let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await.expect("a supervisor");
    within_data_loader::start(env, within_data_loader::Config::default(), supervisor.get_cell()).await.expect("starts");
    let job = JobId::new("j1").expect("id");
    let open = OpenFeed {
        feed: "f".into(),
        fence: Fence(1),
        rank: 0,
        world_size: 1,
        subject_rank: None,
        deliver_subject: bus.subjects().feed(&job, 0),
        job,
        dataset,
        split: Split::Train,
        global_batch_size: ROWS,
        logical_shards: 8,
        shuffle_seed: Some(1),
        drop_last: true,
        epoch: 0,
        batch: 0,
        end_epoch: u32::MAX,
        credits: CREDITS,
        max_frame_bytes: bus.max_frame_bytes() as u32,
    };
    let mut frames = bus.subscribe(&open.deliver_subject).await.expect("subscribes");
    let opened = bus.request(open, None, Duration::from_mins(1)).await.expect("opens");
    let (mut bytes, begun) = (0, Instant::now());
    for _ in 0..FRAMES {
        let message = frames.next().await.expect("a frame");
        let header: FrameHeader = serde_json::from_str(message.header(HEADER_FRAME).expect("a header")).expect("reads");
        assert!(header.error.is_none(), "{header:?}");
        bytes += message.payload.len();
        assert_eq!(decode_frame(&message.payload).expect("decodes").rows, ROWS as usize);
        let credit = Envelope::new("credit", "/bench", now_ms(), FeedControl::Credit { id: "f".into(), frames: 1 });
        bus.publish(&opened.credit_subject, &credit).await.expect("published");
    }
    row(figures, "feed: 1 MiB frames on loopback", bytes, begun.elapsed());
}

fn main() {
    let mut figures = Vec::new();
    codec(&mut figures);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(feed(&mut figures));
    if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
        let text = serde_json::to_string_pretty(&figures).expect("JSON");
        std::fs::write(Path::new(&folder).join("feed.json"), text).expect("written");
    }
}
