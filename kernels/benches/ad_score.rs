//! `ad_score` training and inference at the sizes of the PyTorch peer (headline of up to 32 tokens, 3 x 32 x 32
//! image, 16 numbers and a platform; batch 64, AdamW, MSE): one line of JSON per figure. Rows have the
//! peer's shapes and lengths, from splitmix64 streams like its own, but neither its numbers nor its words nor its
//! target: speeds can be compared, errors cannot. They are gathered in a fresh order each epoch, as the peer does.
//!
//! Arguments: `--rows N` (default 4000), `--epochs N` (default 2), `--threads N` (default 1 and 2), `--shards N`
//! (default 1 and 8), `--calls N` (default 50), `--peer FILE` (the lines of torch_ad_score, plain and nested).

mod figures;

use figures::{Figures, argument, cpu_seconds};
use kernels::nn::{
    AdScoreConfig, Feed, Images, Init, Inputs, Model, ModelConfig, PixelValues, TableConfig, TextEncoderConfig,
    VisualEncoderConfig,
};
use kernels::ops::Activation;
use kernels::optim::{AdamWConfig, OptimizerConfig};
use kernels::philox::{Stream, permutation};
use kernels::pool::Pool;
use kernels::tape::Workspace;
use kernels::text::Packed;
use kernels::train::{Batch, Targets, TrainConfig, Trainer};
use std::sync::Arc;
use std::time::Instant;

const BATCH: usize = 64;
const NUMBERS: usize = 16;
const PIXELS: usize = 3 * 32 * 32;
const VOCAB: u64 = 30_000;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Output `k` of the splitmix64 stream (seed 1, tag).
fn splitmix(tag: u64, k: u64) -> u64 {
    let state = mix(1u64.wrapping_add(tag.wrapping_mul(GOLDEN)));
    mix(state.wrapping_add((k + 1).wrapping_mul(GOLDEN)))
}

/// One table of rows.
struct Rows {
    tokens: Vec<Vec<u32>>,
    platform: Vec<u32>,
    numbers: Vec<f32>,
    pixels: Vec<u8>,
    targets: Vec<f32>,
}

/// Rows of the peer's shapes and lengths: 5 to 11 words after the class token, out of 2000.
fn rows(count: usize) -> Rows {
    let uniform = |tag, k| (splitmix(tag, k) >> 11) as f64 * 2f64.powi(-53);
    let mut rows = Rows { tokens: vec![], platform: vec![], numbers: vec![], pixels: vec![], targets: vec![] };
    for row in 0..count as u64 {
        let words = 5 + splitmix(11, row) % 7;
        let word = |w: u64| {
            let u = uniform(12, row * 11 + w);
            2 + (mix((u * u * 2000.0) as u64) % (VOCAB - 2)) as u32
        };
        rows.tokens.push(std::iter::once(1).chain((0..words).map(word)).collect());
        rows.platform.push((splitmix(10, row) % 5) as u32);
        let numbers = (0..NUMBERS as u64).map(|i| (splitmix(13, row * 16 + i) >> 40) as f32 * 2f32.powi(-23) - 1.0);
        rows.numbers.extend(numbers);
        let base = splitmix(14, row) % 192;
        rows.pixels.extend((0..PIXELS as u64).map(|i| ((splitmix(15, row * PIXELS as u64 + i) & 63) + base) as u8));
        let x = &rows.numbers[row as usize * NUMBERS..];
        let words = &rows.tokens[row as usize];
        let z = x[0] * x[1] + 0.5 * x[2] + (base as f32 - 96.0) / 96.0 + (words[1] % 7) as f32 / 3.5 - 1.0;
        rows.targets.push(0.5 + 0.5 * z / (1.0 + z.abs()));
    }
    rows
}

fn empty() -> Batch {
    let images = Images { channels: 3, height: 32, width: 32, pixels: PixelValues::Bytes(Vec::new()) };
    let inputs = Inputs { tokens: Some(Packed::default()), images: Some(images), ..Inputs::default() };
    Batch { rows: 0, features: vec![], inputs, targets: Targets::Real(vec![]), weights: None, sample_ids: vec![] }
}

/// Gathers rows into a batch.
fn gather(rows: &Rows, order: &[u32], batch: &mut Batch) {
    let Inputs { tokens: Some(tokens), images: Some(images), categories, .. } = &mut batch.inputs else { return };
    let (PixelValues::Bytes(pixels), Targets::Real(targets)) = (&mut images.pixels, &mut batch.targets) else { return };
    batch.rows = order.len();
    batch.features.clear();
    batch.sample_ids.clear();
    [&mut tokens.ids, &mut tokens.offsets, categories].into_iter().for_each(Vec::clear);
    pixels.clear();
    targets.clear();
    tokens.offsets.push(0);
    for &row in order {
        let at = row as usize;
        tokens.ids.extend_from_slice(&rows.tokens[at]);
        tokens.offsets.push(tokens.ids.len() as u32);
        pixels.extend_from_slice(&rows.pixels[at * PIXELS..][..PIXELS]);
        batch.features.extend_from_slice(&rows.numbers[at * NUMBERS..][..NUMBERS]);
        categories.push(rows.platform[at]);
        targets.push(rows.targets[at]);
        batch.sample_ids.push(u64::from(row));
    }
}

fn model() -> Model {
    let table =
        TableConfig { input_dim: NUMBERS, categories: vec![5], embedding_dim: Some(8), ..TableConfig::default() };
    let config = AdScoreConfig {
        text_encoder: Some(TextEncoderConfig::default()),
        visual_encoder: Some(VisualEncoderConfig::default()),
        table: Some(table),
        output_activation: Activation::Sigmoid,
        ..AdScoreConfig::default()
    };
    Model::new(&ModelConfig::AdScore(config), &Init::Default, 1).expect("a valid model")
}

fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

fn train(figures: &mut Figures, rows: &Rows, threads: usize, shards: usize, epochs: usize) -> Model {
    let cut = rows.targets.len() * 4 / 5;
    let optimizer = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 1e-3, ..Default::default() });
    let plan = TrainConfig { optimizer, logical_shards: shards, ..TrainConfig::default() };
    let pool = Arc::new(Pool::new(threads));
    let mut trainer = Trainer::new(model(), plan, pool.clone()).expect("a valid plan");
    let (mut batch, steps) = (empty(), cut / BATCH);
    let mut seconds = Vec::with_capacity(epochs);
    let mut cpu = f64::INFINITY;
    for epoch in 0..epochs {
        let (begin, cpu_begin) = (Instant::now(), cpu_seconds());
        let order = permutation(1, Stream::Shuffle, epoch as u64, cut);
        for step in 0..steps {
            gather(rows, &order[step * BATCH..(step + 1) * BATCH], &mut batch);
            trainer.step(&batch).expect("a finite step");
        }
        seconds.push(begin.elapsed().as_secs_f64());
        cpu = cpu.min(cpu_seconds() - cpu_begin);
        trainer.end_epoch(None).expect("no metric needed");
    }
    let held: Vec<u32> = (cut as u32..rows.targets.len() as u32).collect();
    gather(rows, &held, &mut batch);
    let loss = trainer.evaluate(&batch).expect("a valid table").mean().expect("rows");
    let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let line = serde_json::json!({
        "figure": "ad_score_train_samples_per_s",
        "unit": "samples/s",
        "threads": threads,
        "logical_shards": shards,
        "value": (steps * BATCH) as f64 / best,
        "median": (steps * BATCH) as f64 / { seconds.sort_by(f64::total_cmp); seconds[epochs / 2] },
        "per_cpu_s": (steps * BATCH) as f64 / cpu,
        "val_rmse": loss.sqrt(),
        "params": trainer.model().parameter_count(),
        "peak_mib": peak_mib(),
        "blake3": kernels::weights::params_blake3(trainer.model()),
    });
    figures.line(line);
    trainer.into_model().expect("settles")
}

fn infer(figures: &mut Figures, rows: &Rows, model: &Model, threads: usize, size: usize, calls: usize) {
    let pool = Pool::new(threads);
    let (mut batch, mut ws) = (empty(), Workspace::default());
    let mut times = Vec::with_capacity(calls);
    for call in 0..calls + 5 {
        let first = call * size % (rows.targets.len() - size + 1).max(1);
        let order: Vec<u32> = (first as u32..(first + size) as u32).collect();
        gather(rows, &order, &mut batch);
        let begin = Instant::now();
        let outputs = model.predict_feed(&Feed::new(size, &batch.features, &batch.inputs), &pool, &mut ws);
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        assert_eq!(outputs.expect("valid").len(), size);
    }
    let mut times = times.split_off(5);
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    let line = serde_json::json!({
        "figure": format!("ad_score_infer_ms_batch_{size}"), "unit": "ms", "threads": threads,
        "p50": at(0.5), "p99": at(0.99), "n": times.len(),
    });
    figures.line(line);
}

fn main() {
    if !figures::wanted() {
        return;
    }
    let mut figures = Figures::new("ad_score");
    let rows = rows(argument("--rows").unwrap_or(4000).max(512));
    let epochs = argument("--epochs").unwrap_or(2).max(1);
    let calls = argument("--calls").unwrap_or(50).max(1);
    for threads in argument("--threads").map_or(vec![1, 2], |n| vec![n]) {
        let mut trained = None;
        for shards in argument("--shards").map_or(vec![1, 8], |n| vec![n]) {
            trained = Some(train(&mut figures, &rows, threads, shards, epochs));
        }
        let model = trained.expect("at least one number of shards");
        for size in [1, 32, 256] {
            let calls = if size < 256 { calls } else { (calls / 4).max(20) };
            infer(&mut figures, &rows, &model, threads, size, calls);
        }
    }
    figures.ratio(("ad_score_train_samples_per_s", "value"), ("train_samples_per_s", "best"), "at least 1.2", f64::max);
    for size in [1, 32, 256] {
        let of = (format!("ad_score_infer_ms_batch_{size}"), format!("infer_ms_batch_{size}"));
        figures.ratio((&of.0, "p50"), (&of.1, "p50"), "at most 0.7", f64::min);
    }
}
