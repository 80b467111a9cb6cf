//! Training of an `image_classifier` on 28 x 28 images of one channel (the sizes of fashion_mnist: filters 32 and 64,
//! windows of 3 x 3, 10 classes, batch 64, AdamW): one line of JSON per figure. Images are random; only time counts.
//!
//! Arguments: `--batches N` (an epoch, default 20), `--epochs N` (default 3), `--threads N` (default 1 and 2),
//! `--stride N` (default 2 and 1).

mod figures;

use figures::{Figures, argument};
use kernels::nn::{ImageClassifierConfig, Images, Init, Inputs, Model, ModelConfig, PixelValues, VisualEncoderConfig};
use kernels::ops::loss::LossConfig;
use kernels::optim::{AdamWConfig, OptimizerConfig};
use kernels::philox::{Key, Stream};
use kernels::pool::Pool;
use kernels::train::{Batch, Targets, TrainConfig, Trainer};
use std::sync::Arc;
use std::time::Instant;

const BATCH: usize = 64;
const SIDE: usize = 28;
const CLASSES: usize = 10;

fn batch(seed: u64) -> Batch {
    let mut rng = Key::new(seed, Stream::Generate).rng(0, 0);
    let pixels = (0..BATCH * SIDE * SIDE).map(|_| rng.next_u32() as u8).collect();
    let images = Images { channels: 1, height: SIDE, width: SIDE, pixels: PixelValues::Bytes(pixels) };
    Batch {
        rows: BATCH,
        features: Vec::new(),
        inputs: Inputs { images: Some(images), ..Inputs::default() },
        targets: Targets::Class((0..BATCH).map(|_| rng.below(CLASSES as u32)).collect()),
        weights: None,
        sample_ids: (0..BATCH as u64).collect(),
    }
}

fn measure(figures: &mut Figures, stride: usize, threads: usize, batches: &[Batch], epochs: usize) {
    let encoder = VisualEncoderConfig {
        channels: 1,
        height: SIDE,
        width: SIDE,
        filters: vec![32, 64],
        stride,
        ..VisualEncoderConfig::default()
    };
    let config = ImageClassifierConfig { visual_encoder: encoder, output_dim: CLASSES, ..Default::default() };
    let model = Model::new(&ModelConfig::ImageClassifier(config), &Init::Default, 1).expect("a valid model");
    let plan = TrainConfig {
        optimizer: OptimizerConfig::AdamW(AdamWConfig { learning_rate: 1e-3, ..Default::default() }),
        loss: LossConfig::CrossEntropy { label_smoothing: 0.0, class_weights: None },
        ..TrainConfig::default()
    };
    let mut trainer = Trainer::new(model, plan, Arc::new(Pool::new(threads))).expect("a valid plan");
    let mut best = f64::INFINITY;
    for _ in 0..epochs {
        let begin = Instant::now();
        for batch in batches {
            trainer.step(batch).expect("a finite step");
        }
        best = best.min(begin.elapsed().as_secs_f64());
    }
    let line = serde_json::json!({
        "figure": "image_train_samples_per_s", "unit": "samples/s", "threads": threads, "stride": stride,
        "logical_shards": trainer.config().logical_shards, "value": (batches.len() * BATCH) as f64 / best,
        "blake3": kernels::weights::params_blake3(trainer.model()),
    });
    figures.line(line);
}

fn main() {
    if !figures::wanted() {
        return;
    }
    let mut figures = Figures::new("image");
    let batches: Vec<Batch> = (0..argument("--batches").unwrap_or(20).max(1) as u64).map(batch).collect();
    let epochs = argument("--epochs").unwrap_or(3).max(1);
    for stride in argument("--stride").map_or(vec![2, 1], |n| vec![n]) {
        for threads in argument("--threads").map_or(vec![1, 2], |n| vec![n]) {
            measure(&mut figures, stride, threads, &batches, epochs);
        }
    }
}
