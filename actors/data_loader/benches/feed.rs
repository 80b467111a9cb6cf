//! What a feed carries: frames made, frames read, and frames over a real server on loopback, in MB (10^6 bytes)
//! of frames a second; ads with words and images in samples a second, beside a peer's where `--peer FILE` names what it
//! printed. Prints a JSON object a line, and writes them to `feed.json` in `WITHIN_BENCH_DIR`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use bus::artifact::ArtifactStore;
use bus::embedded::{EmbeddedConfig, EmbeddedServer};
use bus::role::{Identity, RoleEnv};
use bus::{Bus, BusConfig, now_ms};
use frame::{Encoded, decode_frame, encode_frame};
use futures::StreamExt;
use kernels::nn::PixelValues;
use messages::envelope::Envelope;
use messages::feed::{FeedControl, FrameHeader, OpenFeed, Split};
use messages::plan::{ColumnPlan, ColumnType, DataPlan, Task};
use messages::subject::HEADER_FRAME;
use messages::timings::Timings;
use messages::{ArtifactRef, Fence, JobId, Tenant, WorkerId};
use parquet::arrow::ArrowWriter;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::sync::CancellationToken;
use within_data_loader::prepare::prepare;

#[path = "../tests/it/methods.rs"]
mod methods;
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
/// Ads, of which 64 % are the training part.
const ADS: usize = 20_000;

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
    let figure = (bytes as f64 / 1e6 / took.as_secs_f64()).round();
    let row = serde_json::json!({
        "name": name, "figure": figure, "unit": "MB/s", "peer": null, "peer_figure": null, "ratio": null, "load1": load1(),
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

/// A server, and the role running on it beside an artifact store.
struct World {
    env: RoleEnv,
    _home: tempfile::TempDir,
    _server: EmbeddedServer,
}

impl World {
    async fn start(root: &plan::Root) -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/nats-server-2.15.1/nats-server");
        let binary = std::env::var_os("WITHIN_NATS_SERVER").map_or(tools, PathBuf::from);
        let server =
            EmbeddedServer::start(EmbeddedConfig::new(binary, home.path().join("nats"))).await.expect("starts");
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
        let env = RoleEnv {
            bus,
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
        let (supervisor, _) = Actor::spawn(None, Supervisor, ()).await.expect("a supervisor");
        let config = within_data_loader::Config::default();
        within_data_loader::start(env.clone(), config, supervisor.get_cell()).await.expect("starts");
        Self { env, _home: home, _server: server }
    }

    /// A dataset version in the store.
    async fn prepared(&self, data: &DataPlan) -> ArtifactRef {
        let token = CancellationToken::new();
        let prepared = prepare(data, Task::Regression, &self.env.data_roots, &token).expect("prepares");
        let lineage = frame::manifest::Lineage::default();
        match within_data_loader::write::write(prepared, &self.env.artifacts, lineage, &token).await {
            Ok(messages::work::TaskOutput::Prepared { dataset, .. }) => dataset,
            other => panic!("not written: {other:?}"),
        }
    }

    fn open(&self, feed: &str, dataset: ArtifactRef, batch: u32) -> OpenFeed {
        let job = JobId::new("j1").expect("id");
        OpenFeed {
            feed: feed.into(),
            fence: Fence(1),
            rank: 0,
            world_size: 1,
            subject_rank: None,
            deliver_subject: self.env.bus.subjects().feed(&job, 0),
            job,
            dataset,
            split: Split::Train,
            global_batch_size: batch,
            logical_shards: 8,
            shuffle_seed: Some(1),
            shuffle_window_mb: messages::plan::DEFAULT_SHUFFLE_WINDOW_MB,
            augmentation: None,
            drop_last: true,
            epoch: 0,
            batch: 0,
            end_epoch: u32::MAX,
            credits: CREDITS,
            max_frame_bytes: self.env.bus.max_frame_bytes() as u32,
        }
    }

    /// So many frames, each read; the first is not timed.
    async fn frames(&self, open: OpenFeed, count: usize, mut each: impl FnMut(&[u8], Encoded)) -> Duration {
        let (bus, feed) = (&self.env.bus, open.feed.clone());
        let mut frames = bus.subscribe(&open.deliver_subject).await.expect("subscribes");
        let opened = bus.request(open, None, Duration::from_mins(1)).await.expect("opens");
        let mut begun = Instant::now();
        for number in 0..=count {
            let message = frames.next().await.expect("a frame");
            let header: FrameHeader =
                serde_json::from_str(message.header(HEADER_FRAME).expect("a header")).expect("reads");
            assert!(header.error.is_none(), "{header:?}");
            if number == 0 {
                begun = Instant::now();
            } else {
                each(&message.payload, decode_frame(&message.payload).expect("decodes"));
            }
            let credit = FeedControl::Credit { id: feed.clone(), frames: 1 };
            let credit = Envelope::new("credit", "/bench", now_ms(), credit);
            bus.publish(&opened.credit_subject, &credit).await.expect("published");
        }
        let took = begun.elapsed();
        let close = Envelope::new("close", "/bench", now_ms(), FeedControl::Close { id: feed });
        bus.publish(&opened.credit_subject, &close).await.expect("published");
        took
    }
}

/// A table of numbers, prepared and written, then fed.
async fn feed(figures: &mut Vec<serde_json::Value>) {
    let header: Vec<String> = (0..WIDTH).map(|c| format!("c{c}")).collect();
    let lines: Vec<String> = (0..50_000)
        .map(|i| (0..=WIDTH).map(|c| (i * (c + 3) % 1009).to_string()).collect::<Vec<_>>().join(","))
        .collect();
    let table = format!("{},y\n{}\n", header.join(","), lines.join("\n"));
    let root = plan::Root::new(&[("a.csv", table.as_bytes())]);
    let world = World::start(&root).await;
    let begun = Instant::now();
    let dataset = world.prepared(&plan::data_plan(&["a.csv"], "y")).await;
    row(figures, "prepare and write: CSV, 65 number columns", table.len(), begun.elapsed());
    let mut bytes = 0;
    let took = world
        .frames(world.open("f", dataset, ROWS), FRAMES, |payload, rows| {
            bytes += payload.len();
            assert_eq!(rows.rows, ROWS as usize);
        })
        .await;
    row(figures, "feed: 1 MiB frames on loopback", bytes, took);
}

/// Ads as the peer reads them: words, a platform, 16 numbers and an image of 3 x 32 x 32, from Parquet. Fed in batches of
/// 64, tokenized; pixels normalized by who receives them.
async fn ads(figures: &mut Vec<serde_json::Value>, peer: Option<f64>) {
    let words: Vec<String> = (0..2_000).map(|word| format!("w{word}")).collect();
    let rows = ADS;
    let texts = (0..rows).map(|row| {
        let words: Vec<&str> = (0..5 + row % 7).map(|i| words[(row * 31 + i * 977) % 2_000].as_str()).collect();
        words.join(" ")
    });
    let numbers = |from: usize| Float64Array::from_iter_values((0..rows).map(|row| ((row * from) % 997) as f64));
    let mut columns: Vec<(String, ArrayRef)> = vec![
        ("headline".into(), Arc::new(StringArray::from_iter_values(texts))),
        ("platform".into(), Arc::new(StringArray::from_iter_values((0..rows).map(|row| format!("p{}", row % 5))))),
        ("image".into(), Arc::new(Int64Array::from_iter_values(0..rows as i64))),
        ("y".into(), Arc::new(numbers(13))),
    ];
    columns.extend((0..16).map(|c| (format!("x{c}"), Arc::new(numbers(c + 3)) as ArrayRef)));
    let batch = RecordBatch::try_from_iter(columns).expect("a table");
    let mut parquet = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut parquet, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("is written");
    writer.close().expect("is closed");
    let mut idx = vec![0, 0, 8, 4];
    idx.extend([rows as u32, 3, 32, 32].iter().flat_map(|side| side.to_be_bytes()));
    idx.extend((0..rows * 3_072).map(|i| (i * 31 % 251) as u8));
    let root = plan::Root::new(&[("ads.parquet", &parquet), ("ads.idx", &idx), ("words.tsv", b"w1\tw2,w3\nw4\tw5\n")]);
    let world = World::start(&root).await;
    let mut data = plan::data_plan(&["ads.parquet"], "y");
    data.columns.insert("headline".into(), plan::column(ColumnType::Text));
    let image = ColumnPlan { images: Some("ads.idx".into()), ..plan::column(ColumnType::Image) };
    data.columns.insert("image".into(), image);
    let mut augmentation = methods::augmentation(0.3);
    augmentation.image.style.references = vec!["ads.idx".into()];
    augmentation.text.synonyms = Some("words.tsv".into());
    (augmentation.text_augmentation, augmentation.visual_augmentation) = (true, true);
    data.augmentation = Some(augmentation.clone());
    let dataset = world.prepared(&data).await;
    let mut pixels = vec![0f32; 64 * 3_072];
    let mut normalized = |_: &[u8], rows: Encoded| {
        let Some(PixelValues::Bytes(bytes)) = rows.inputs.images.map(|images| images.pixels) else { panic!("images") };
        for (out, byte) in pixels.iter_mut().zip(bytes) {
            *out = (f32::from(byte) / 255.0 - 0.5) / 0.25;
        }
        assert!(rows.rows == 64 && rows.inputs.tokens.is_some() && std::hint::black_box(&pixels)[0].is_finite());
    };
    let frames = 3 * ADS * 64 / 100 / 64;
    let took = world.frames(world.open("plain", dataset.clone(), 64), frames, &mut normalized).await;
    rate(figures, "feed: ads, tokenized, image normalized", frames * 64, took, peer);
    for (name, texts, images) in [("texts", true, false), ("images", false, true)] {
        (augmentation.text_augmentation, augmentation.visual_augmentation) = (texts, images);
        let open = OpenFeed { augmentation: Some(augmentation.clone()), ..world.open(name, dataset.clone(), 64) };
        let took = world.frames(open, frames, &mut normalized).await;
        rate(figures, &format!("feed: ads, {name} augmented at 0.3"), frames * 64, took, None);
    }
}

/// Samples a second, beside those of the peer.
fn rate(rows: &mut Vec<serde_json::Value>, name: &str, samples: usize, took: Duration, peer: Option<f64>) {
    let figure = (samples as f64 / took.as_secs_f64()).round();
    let row = serde_json::json!({
        "name": name, "figure": figure, "unit": "samples/s", "peer": peer.map(|_| "torch DataLoader, batched, 2 workers"),
        "peer_figure": peer, "ratio": peer.map(|peer| (figure / peer * 100.0).round() / 100.0), "load1": load1(),
    });
    println!("{row}");
    rows.push(row);
}

fn load1() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// The peer's figure from what its script printed: the last line, JSON, with `batched.samples_per_s_best`.
fn peer() -> Option<f64> {
    let mut args = std::env::args().skip_while(|arg| arg != "--peer");
    let path = args.nth(1)?;
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("--peer {path}: {error}"));
    let line: serde_json::Value = serde_json::from_str(text.trim().lines().last()?).expect("a line of JSON");
    line.pointer("/batched/samples_per_s_best")
        .or_else(|| line.pointer("/results/batched/samples_per_s_best"))?
        .as_f64()
}

fn main() {
    let mut figures = Vec::new();
    codec(&mut figures);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(feed(&mut figures));
    runtime.block_on(ads(&mut figures, peer()));
    if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
        let text = serde_json::to_string_pretty(&figures).expect("JSON");
        std::fs::write(Path::new(&folder).join("feed.json"), text).expect("written");
    }
}
