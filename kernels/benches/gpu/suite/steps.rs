//! Whole training steps of `ad_score`: samples a second, and joules by NVML's counter; as graphs, and with their kernels
//! started one by one. Each batch is brought beside the step before, as in a training.

use super::{Bench, Scale, random};
use kernels::Result;
use kernels::cuda::{Gpu, Machine};
use kernels::dtype::Precision;
use kernels::nn::{
    AdScoreConfig, Images, Init, Inputs, Model, ModelConfig, PixelValues, TableConfig, TextEncoderConfig,
    VisualEncoderConfig,
};
use kernels::ops::Activation;
use kernels::philox::{Key, Stream};
use kernels::pool::Pool;
use kernels::text::Packed;
use kernels::train::{Batch, Targets, TrainConfig, Trainer};
use serde_json::{Value, json};
use std::sync::Arc;

/// Steps at one size.
pub struct Step {
    pub batch: usize,
    pub precision: Precision,
    /// Whether all that was measured was started as graphs.
    pub graphs: bool,
    pub seconds: f64,
    /// None: nothing counts them.
    pub joules: Option<f64>,
    pub loss: f64,
}

/// Sizes of the model's inputs.
pub struct Sizes {
    pub numbers: usize,
    pub side: usize,
    pub words: usize,
    pub tokens: usize,
    pub platforms: usize,
}

impl Sizes {
    pub fn of(scale: Scale) -> Sizes {
        match scale {
            Scale::Full => Sizes { numbers: 16, side: 32, words: 30_000, tokens: 12, platforms: 5 },
            Scale::Quick => Sizes { numbers: 3, side: 6, words: 50, tokens: 4, platforms: 5 },
        }
    }

    /// What the peer trains.
    pub fn peer(&self, batch: usize) -> Value {
        json!({
            "op": "ad_score", "batch": batch, "numbers": self.numbers, "side": self.side, "words": self.words,
            "tokens": self.tokens, "platforms": self.platforms,
        })
    }

    fn model(&self, scale: Scale) -> Result<Model> {
        let table = TableConfig {
            input_dim: self.numbers,
            categories: vec![self.platforms],
            embedding_dim: Some(8),
            ..TableConfig::default()
        };
        let mut text = TextEncoderConfig { vocab_size: self.words, ..TextEncoderConfig::default() };
        let mut visual = VisualEncoderConfig { height: self.side, width: self.side, ..VisualEncoderConfig::default() };
        if scale == Scale::Quick {
            (text.hidden_size, text.intermediate_size, text.layers) = (12, 16, 1);
            visual.filters = vec![4];
        }
        let config = AdScoreConfig {
            text_encoder: Some(text),
            visual_encoder: Some(visual),
            table: Some(table),
            output_activation: Activation::Sigmoid,
            ..AdScoreConfig::default()
        };
        Model::new(&ModelConfig::AdScore(config), &Init::Default, 1)
    }

    /// Rows whose target follows from their numbers.
    fn rows(&self, count: usize, seed: u64) -> Batch {
        let mut rng = Key::new(seed, Stream::Generate).rng(1, 0);
        let features = random(count * self.numbers);
        let offsets: Vec<u32> = (0..=count as u32).map(|row| row * self.tokens as u32).collect();
        let ids = (0..count * self.tokens).map(|_| rng.below(self.words as u32)).collect();
        let pixels = (0..count * 3 * self.side * self.side).map(|_| rng.next_u32() as u8).collect();
        let categories = (0..count).map(|_| rng.below(self.platforms as u32)).collect();
        let target = |x: &[f32]| 0.5 + 0.5 * x[0] * x[1];
        let targets = Targets::Real(features.chunks_exact(self.numbers).map(target).collect());
        let images = Images { channels: 3, height: self.side, width: self.side, pixels: PixelValues::Bytes(pixels) };
        Batch {
            rows: count,
            features,
            inputs: Inputs {
                tokens: Some(Packed { ids, offsets }),
                images: Some(images),
                categories,
                ..Inputs::default()
            },
            targets,
            weights: None,
            sample_ids: (0..count as u64).collect(),
        }
    }
}

/// Steps at every size and precision.
pub fn measure(bench: &Bench) -> Result<Vec<Step>> {
    let batches: &[usize] = if bench.scale == Scale::Full { &[64, 512, 4_096] } else { &[3] };
    let mut all = Vec::new();
    for &batch in batches {
        for precision in [Precision::F32, Precision::Bf16] {
            for gpu in [&bench.gpu, &bench.without_graphs] {
                all.push(step(bench, gpu, batch, precision)?);
            }
        }
    }
    Ok(all)
}

fn step(bench: &Bench, gpu: &Arc<Gpu>, size: usize, precision: Precision) -> Result<Step> {
    /// Long enough that the counter of energy, which moves some ten times a second, says something.
    const SECONDS: f64 = 3.0;
    /// Enough that work is steady.
    const FIRST: usize = 8;
    let sizes = Sizes::of(bench.scale);
    let plan = TrainConfig { precision, logical_shards: 1, ..TrainConfig::default() };
    let machine: Arc<dyn Machine> = gpu.clone();
    let mut trainer = Trainer::new(sizes.model(bench.scale)?, plan, Arc::new(Pool::new(1)))?.on_machine(machine);
    let batches = [Arc::new(sizes.rows(size, 1)), Arc::new(sizes.rows(size, 2))];
    let mut loss = f64::NAN;
    let mut taken = 0;
    let mut run = |count: usize| {
        gpu.timed(|| {
            (0..count).try_for_each(|_| {
                taken += 1;
                trainer.expect(&batches[(taken + 1) % 2]);
                trainer.step(&batches[taken % 2]).map(|outcome| loss = outcome.loss)
            })
        })
    };
    run(FIRST)?;
    let one = run(2)? / 2.0;
    let count = if bench.scale == Scale::Full { ((SECONDS / one) as usize).clamp(10, 5_000) } else { 2 };
    let joules = || bench.nvml.as_ref().ok().and_then(|nvml| nvml.joules());
    let (before, replays) = (joules(), gpu.replays());
    let seconds = run(count)? / count as f64;
    let graphs = gpu.replays() - replays >= count as u64;
    let joules = before.zip(joules()).map(|(before, after)| (after - before) / count as f64);
    Ok(Step { batch: size, precision, graphs, seconds, joules, loss })
}
