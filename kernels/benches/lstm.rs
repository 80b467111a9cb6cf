//! LSTM training speed at the sizes of the PyTorch peer (2 layers, hidden 128, 30 steps of 8 numbers, batch 64,
//! AdamW, MSE): one line of JSON per figure. A sample is one sequence. The sequences have the peer's form, not its
//! numbers and not its target: speeds can be compared, errors cannot.
//!
//! Arguments: `--rows N` (default 2000), `--epochs N` (default 3), `--threads N` (default 1 and 2), `--shards N`
//! (default 1 and 8), `--peer FILE` (the lines of torch_lstm).

mod figures;

use figures::{Figures, argument, cpu_seconds};
use kernels::nn::{Init, Inputs, LstmSequenceConfig, Model, ModelConfig, Steps};
use kernels::ops::Activation;
use kernels::optim::{AdamWConfig, OptimizerConfig};
use kernels::philox::{Key, Stream, permutation};
use kernels::pool::Pool;
use kernels::train::{Batch, Targets, TrainConfig, Trainer};
use std::sync::Arc;
use std::time::Instant;

const BATCH: usize = 64;
const STEPS: usize = 30;
const METRICS: usize = 8;

/// Sequences of level + slope * step / 29 + uniform noise; the target follows from levels and slopes.
fn table(rows: usize) -> (Vec<f32>, Vec<f32>) {
    let (mut x, mut y) = (Vec::with_capacity(rows * STEPS * METRICS), Vec::with_capacity(rows));
    for row in 0..rows as u64 {
        let mut rng = Key::new(1, Stream::Generate).rng(row, 0);
        let mut uniform = || rng.uniform() * 2.0 - 1.0;
        let lines: Vec<[f64; 2]> = (0..METRICS).map(|_| [uniform(), uniform()]).collect();
        for step in 0..STEPS {
            let value = |[level, slope]: &[f64; 2]| level + slope * step as f64 / 29.0 + 0.2 * uniform();
            x.extend(lines.iter().map(value).map(|v| v as f32));
        }
        let z = lines[0][1] + lines[1][0] * lines[2][0] - 0.5 * lines[3][1];
        y.push((0.5 + 0.5 * z / (1.0 + z.abs())) as f32);
    }
    (x, y)
}

fn gather(x: &[f32], y: &[f32], order: &[u32]) -> Batch {
    const ONE: usize = STEPS * METRICS;
    let values = order.iter().flat_map(|&r| x[r as usize * ONE..][..ONE].iter().copied()).collect();
    let offsets = (0..=order.len()).map(|r| (r * STEPS) as u32).collect();
    Batch {
        rows: order.len(),
        features: Vec::new(),
        inputs: Inputs { steps: Some(Steps { values, offsets }), ..Inputs::default() },
        targets: Targets::Real(order.iter().map(|&r| y[r as usize]).collect()),
        weights: None,
        sample_ids: order.iter().map(|&r| u64::from(r)).collect(),
    }
}

fn measure(figures: &mut Figures, x: &[f32], y: &[f32], threads: usize, shards: usize, epochs: usize) {
    let cut = y.len() * 4 / 5;
    let config = LstmSequenceConfig {
        input_dim: METRICS,
        output_activation: Activation::Sigmoid,
        ..LstmSequenceConfig::default()
    };
    let model = Model::new(&ModelConfig::LstmSequence(config), &Init::Default, 1).expect("a valid model");
    let optimizer = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 2e-3, ..Default::default() });
    let plan = TrainConfig { optimizer, logical_shards: shards, ..TrainConfig::default() };
    let mut trainer = Trainer::new(model, plan, Arc::new(Pool::new(threads))).expect("a valid plan");
    let steps = cut / BATCH;
    let mut seconds = Vec::with_capacity(epochs);
    let mut cpu = f64::INFINITY;
    for epoch in 0..epochs {
        let (begin, cpu_begin) = (Instant::now(), cpu_seconds());
        let order = permutation(1, Stream::Shuffle, epoch as u64, cut);
        for step in 0..steps {
            trainer.step(&gather(x, y, &order[step * BATCH..(step + 1) * BATCH])).expect("a finite step");
        }
        seconds.push(begin.elapsed().as_secs_f64());
        cpu = cpu.min(cpu_seconds() - cpu_begin);
        trainer.end_epoch(None).expect("no metric needed");
    }
    let held: Vec<u32> = (cut as u32..y.len() as u32).collect();
    let loss = trainer.evaluate(&gather(x, y, &held)).expect("a valid table").mean().expect("rows");
    let best = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let line = serde_json::json!({
        "figure": "lstm_train_samples_per_s",
        "unit": "samples/s",
        "threads": threads,
        "logical_shards": shards,
        "value": (steps * BATCH) as f64 / best,
        "median": (steps * BATCH) as f64 / { seconds.sort_by(f64::total_cmp); seconds[epochs / 2] },
        "per_cpu_s": (steps * BATCH) as f64 / cpu,
        "val_rmse": loss.sqrt(),
        "params": trainer.model().parameter_count(),
        "blake3": kernels::weights::params_blake3(trainer.model()),
    });
    figures.line(line);
}

fn main() {
    if !figures::wanted() {
        return;
    }
    let mut figures = Figures::new("lstm");
    let (x, y) = table(argument("--rows").unwrap_or(2000).max(320));
    let epochs = argument("--epochs").unwrap_or(3).max(1);
    for threads in argument("--threads").map_or(vec![1, 2], |n| vec![n]) {
        for shards in argument("--shards").map_or(vec![1, 8], |n| vec![n]) {
            measure(&mut figures, &x, &y, threads, shards, epochs);
        }
    }
    figures.ratio(("lstm_train_samples_per_s", "value"), ("train_samples_per_s", "best"), "at least 1.2", f64::max);
}
