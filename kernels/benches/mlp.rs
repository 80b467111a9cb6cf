//! MLP training speed at the sizes of the PyTorch peer (32-256-128-1, batch 256, AdamW, MSE, 80,000 rows):
//! one line of JSON per figure. Rows are gathered in a fresh order each epoch, as the peer does.
//!
//! Arguments: `--epochs N` (default 3), `--threads N` (default 1 and 2), `--shards N` (default 1 and 8),
//! `--peer FILE` (the lines of torch_mlp).

mod figures;

use figures::{Figures, argument};
use kernels::nn::{Init, MlpConfig, Model, ModelConfig};
use kernels::optim::{AdamWConfig, OptimizerConfig};
use kernels::philox::{Stream, permutation};
use kernels::pool::Pool;
use kernels::train::{Batch, Targets, TrainConfig, Trainer};
use std::sync::Arc;
use std::time::Instant;

const FEATURES: usize = 32;
const BATCH: usize = 256;
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Output `k` of the splitmix64 stream (seed, tag).
fn splitmix(seed: u64, tag: u64, k: u64) -> u64 {
    let state = mix(seed.wrapping_add(tag.wrapping_mul(GOLDEN)));
    mix(state.wrapping_add((k + 1).wrapping_mul(GOLDEN)))
}

/// The peer's `regression` table: features and targets.
fn table(rows: usize) -> (Vec<f32>, Vec<f32>) {
    let feature = |k| (splitmix(1, 1, k) >> 40) as f32 * 2f32.powi(-23) - 1.0;
    let x: Vec<f32> = (0..(rows * FEATURES) as u64).map(feature).collect();
    let uniform = |k| (splitmix(1, 2, k) >> 11) as f64 * 2f64.powi(-53);
    let target = |(row, x): (usize, &[f32])| {
        let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let noise = (0..4).map(|i| uniform(row as u64 * 4 + i)).fold(-2.0, |sum, u| sum + u) * 3f64.sqrt();
        let step = |condition: bool, yes: f64, no: f64| if condition { yes } else { no };
        let f = 2.0 * x[0] * x[1] + step(x[2] > 0.0, 1.5, -1.5) * x[3] + 3.0 * x[4] * x[4] - 2.0 * x[5].abs() + x[6];
        (f + 0.5 * x[7] * x[8] + step(x[9] > 0.5, 0.8, 0.0) + 0.3 * noise) as f32
    };
    let y = x.chunks_exact(FEATURES).enumerate().map(target).collect();
    (x, y)
}

fn measure(figures: &mut Figures, x: &[f32], y: &[f32], threads: usize, shards: usize, epochs: usize) {
    let cut = y.len() * 4 / 5;
    let config = MlpConfig { input_dim: FEATURES, hidden_layers: vec![256, 128], ..MlpConfig::default() };
    let model = Model::new(&ModelConfig::Mlp(config), &Init::Default, 1).expect("a valid model");
    let optimizer = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 1e-3, ..Default::default() });
    let plan = TrainConfig { optimizer, logical_shards: shards, ..TrainConfig::default() };
    let pool = Arc::new(Pool::new(threads));
    let mut trainer = Trainer::new(model, plan, pool.clone()).expect("a valid plan");
    let mut batch = Batch {
        rows: BATCH,
        features: vec![0.0; BATCH * FEATURES],
        inputs: Default::default(),
        targets: Targets::Real(vec![0.0; BATCH]),
        weights: None,
        sample_ids: vec![0; BATCH],
    };
    let steps = cut / BATCH;
    let mut seconds = Vec::with_capacity(epochs);
    for epoch in 0..epochs {
        let begin = Instant::now();
        let order = permutation(1, Stream::Shuffle, epoch as u64, cut);
        for step in 0..steps {
            let Targets::Real(targets) = &mut batch.targets else { unreachable!("real targets were set") };
            for (i, &row) in order[step * BATCH..(step + 1) * BATCH].iter().enumerate() {
                let row = row as usize;
                batch.features[i * FEATURES..(i + 1) * FEATURES]
                    .copy_from_slice(&x[row * FEATURES..(row + 1) * FEATURES]);
                (targets[i], batch.sample_ids[i]) = (y[row], row as u64);
            }
            trainer.step(&batch).expect("a finite step");
        }
        seconds.push(begin.elapsed().as_secs_f64());
        trainer.end_epoch(None).expect("no metric needed");
    }
    let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let predictions = trainer.model().predict(&x[cut * FEATURES..], y.len() - cut, &pool).expect("a valid table");
    let squares: f64 = predictions.iter().zip(&y[cut..]).map(|(p, t)| f64::from(p - t).powi(2)).sum();
    let line = serde_json::json!({
        "figure": "mlp_train_samples_per_s",
        "unit": "samples/s",
        "threads": threads,
        "logical_shards": shards,
        "value": (steps * BATCH) as f64 / best,
        "median": (steps * BATCH) as f64 / { seconds.sort_by(f64::total_cmp); seconds[epochs / 2] },
        "val_rmse": (squares / (y.len() - cut) as f64).sqrt(),
        "blake3": kernels::weights::params_blake3(trainer.model()),
    });
    figures.line(line);
}

fn main() {
    if !figures::wanted() {
        return;
    }
    let mut figures = Figures::new("mlp");
    let (x, y) = table(100_000);
    let epochs = argument("--epochs").unwrap_or(3).max(1);
    let threads = argument("--threads").map_or(vec![1, 2], |n| vec![n]);
    let shards = argument("--shards").map_or(vec![1, 8], |n| vec![n]);
    for &threads in &threads {
        for &shards in &shards {
            measure(&mut figures, &x, &y, threads, shards, epochs);
        }
    }
    figures.ratio(("mlp_train_samples_per_s", "value"), ("train_samples_per_s", "best"), "at least 1.5", f64::max);
}
