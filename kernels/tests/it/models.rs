//! Whole models of every kind: they learn, their bits do not depend on threads, ranks, neighbors or blocks, a
//! steady step allocates nothing though batches vary in size, files bring them back, bad inputs are refused.

use crate::allocator::allocations;
use crate::support::{bits, random};
use kernels::buffer::AlignedBuf;
use kernels::cpu::isa::{Isa, available, limit};
use kernels::nn::{
    AdScoreConfig, ImageClassifierConfig, ImageNorm, Images, Init, Inputs, LstmSequenceConfig, Model, ModelConfig,
    NormPlace, PixelValues, Steps, TableConfig, TabularConfig, TextEncoderConfig, TransformerClassifierConfig,
    VisualEncoderConfig,
};
use kernels::ops::Randomness;
use kernels::ops::loss::{Loss, LossConfig, Targets};
use kernels::optim::{AdamWConfig, OptimizerConfig};
use kernels::philox::{Key, Stream};
use kernels::pool::Pool;
use kernels::shard::{Node, complete, rows_of, shards_of};
use kernels::tape::{HeldShards, InputGrad, Mode, Rows, Tape, Workspace};
use kernels::text::Packed;
use kernels::train::{Batch, LossSum, RankBatch, TrainConfig, Trainer};
use kernels::weights::{load, params_blake3, save};
use kernels::{Error, ErrorKind};
use std::collections::BTreeMap;
use std::sync::Arc;

const SIDE: usize = 7;

fn text() -> TextEncoderConfig {
    TextEncoderConfig {
        vocab_size: 50,
        max_length: 9,
        hidden_size: 12,
        heads: 3,
        intermediate_size: 20,
        output_dim: Some(10),
        ..Default::default()
    }
}

fn visual(norm: ImageNorm) -> VisualEncoderConfig {
    let filters = vec![5, 9];
    VisualEncoderConfig { channels: 2, height: SIDE, width: SIDE, filters, norm, ..Default::default() }
}

fn table() -> TableConfig {
    TableConfig { input_dim: 3, categories: vec![4, 7], hidden_layers: vec![11], dropout: 0.1, ..Default::default() }
}

/// One of each kind; the first three read all inputs, some or other settings of them.
pub fn configs() -> Vec<ModelConfig> {
    let bert = TextEncoderConfig {
        embedding_norm: true,
        type_vocab_size: 2,
        norm: NormPlace::Pre,
        pooler: Some(kernels::ops::Activation::Tanh),
        pooling: kernels::ops::Pooling::Cls,
        ..text()
    };
    vec![
        ModelConfig::AdScore(AdScoreConfig {
            text_encoder: Some(text()),
            visual_encoder: Some(visual(ImageNorm::None)),
            table: Some(table()),
            ..Default::default()
        }),
        ModelConfig::AdScore(AdScoreConfig {
            visual_encoder: Some(visual(ImageNorm::BatchNorm)),
            ..Default::default()
        }),
        ModelConfig::TransformerClassifier(TransformerClassifierConfig {
            text_encoder: bert,
            dropout: 0.2,
            ..Default::default()
        }),
        ModelConfig::ImageClassifier(ImageClassifierConfig {
            visual_encoder: visual(ImageNorm::None),
            ..Default::default()
        }),
        ModelConfig::Tabular(TabularConfig { table: table(), hidden_layers: vec![6], ..Default::default() }),
        ModelConfig::LstmSequence(LstmSequenceConfig {
            input_dim: 3,
            hidden_size: 7,
            bidirectional: true,
            dropout: 0.1,
            ..Default::default()
        }),
    ]
}

pub fn model(config: &ModelConfig) -> Model {
    Model::new(config, &Init::Default, 5).expect("valid")
}

/// Offsets of `rows` rows of 0 to `most` - 1 items, at least `least`.
fn offsets(rows: usize, seed: u64, least: u32, most: u32) -> Vec<u32> {
    let mut rng = Key::new(seed, Stream::Generate).rng(1, 0);
    let lengths = (0..rows).map(|_| least + rng.below(most - least));
    std::iter::once(0)
        .chain(lengths.scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        }))
        .collect()
}

/// A batch with every input; the target follows from the first feature, the first token and a pixel.
pub fn batch(rows: usize, seed: u64) -> Batch {
    let mut rng = Key::new(seed, Stream::Generate).rng(2, 0);
    let features = random(seed, rows * 3);
    let tokens = offsets(rows, seed, 1, 10);
    let ids: Vec<u32> = (0..tokens[rows]).map(|_| rng.below(50)).collect();
    let pixels: Vec<u8> = (0..rows * 2 * SIDE * SIDE).map(|_| rng.next_u32() as u8).collect();
    let categories = (0..rows).flat_map(|_| [rng.below(4), rng.below(7)]).collect();
    let steps = offsets(rows, seed + 1, 0, 6);
    let values = random(seed + 2, steps[rows] as usize * 3);
    let target = |r: usize| features[r * 3] + ids[tokens[r] as usize] as f32 / 50.0;
    let targets = Targets::Real((0..rows).map(target).collect());
    let images = Images { channels: 2, height: SIDE, width: SIDE, pixels: PixelValues::Bytes(pixels) };
    Batch {
        rows,
        features,
        inputs: Inputs {
            tokens: Some(Packed { ids, offsets: tokens }),
            images: Some(images),
            categories,
            steps: Some(Steps { values, offsets: steps }),
        },
        targets,
        weights: None,
        sample_ids: (0..rows as u64).map(|i| seed * 1000 + i).collect(),
    }
}

/// Features are read by models that have plain columns; others are fed none.
pub fn fit(model: &Model, mut batch: Batch) -> Batch {
    if model.input_dim() == 0 || matches!(model.config(), ModelConfig::LstmSequence(_)) {
        batch.features.clear();
    }
    batch
}

/// Rows `range` of a batch.
pub fn part(batch: &Batch, range: std::ops::Range<usize>) -> Batch {
    let Targets::Real(targets) = &batch.targets else { panic!("real targets") };
    let of = |offsets: &[u32]| -> (std::ops::Range<usize>, Vec<u32>) {
        let own = &offsets[range.start..=range.end];
        (own[0] as usize..own[own.len() - 1] as usize, own.iter().map(|o| o - own[0]).collect())
    };
    let inputs = &batch.inputs;
    let tokens = inputs.tokens.as_ref().map(|t| {
        let (span, offsets) = of(&t.offsets);
        Packed { ids: t.ids[span].to_vec(), offsets }
    });
    let steps = inputs.steps.as_ref().map(|s| {
        let (span, offsets) = of(&s.offsets);
        Steps { values: s.values[span.start * 3..span.end * 3].to_vec(), offsets }
    });
    let images = inputs.images.clone().map(|images| {
        let PixelValues::Bytes(bytes) = &images.pixels else { panic!("bytes") };
        let one = 2 * SIDE * SIDE;
        Images { pixels: PixelValues::Bytes(bytes[range.start * one..range.end * one].to_vec()), ..images }
    });
    let columns = batch.features.len() / batch.rows;
    Batch {
        rows: range.len(),
        features: batch.features[range.start * columns..range.end * columns].to_vec(),
        inputs: Inputs {
            tokens,
            images,
            steps,
            categories: inputs.categories[range.start * 2..range.end * 2].to_vec(),
        },
        targets: Targets::Real(targets[range.clone()].to_vec()),
        weights: None,
        sample_ids: batch.sample_ids[range].to_vec(),
    }
}

pub fn trainer(config: &ModelConfig, shards: usize, threads: usize) -> Trainer {
    let optimizer = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 3e-3, ..Default::default() });
    let plan = TrainConfig { optimizer, logical_shards: shards, ..TrainConfig::default() };
    Trainer::new(model(config), plan, Arc::new(Pool::new(threads))).expect("valid")
}

/// A step of some ranks, each on its shards of the batch; its loss, which is the same on each.
pub fn step_together(ranks: &mut [Trainer], batch: &Batch, shards: usize) -> f64 {
    let (mut nodes, mut losses) = (Vec::new(), vec![LossSum::default(); shards]);
    let world = ranks.len();
    for (rank, trainer) in ranks.iter_mut().enumerate() {
        let held = shards_of(rank, world, shards);
        let rows = rows_of(held.start, shards, batch.rows).start..rows_of(held.end - 1, shards, batch.rows).end;
        let own = part(batch, rows);
        let partial = trainer.partial(&RankBatch { batch: &own, global_rows: batch.rows, held }).expect("valid");
        nodes.extend(partial.nodes);
        partial.losses.iter().for_each(|(shard, loss)| losses[*shard] = *loss);
    }
    let root = complete(nodes, shards).expect("the ranks cover the tree");
    let apply = |trainer: &mut Trainer| {
        trainer.accumulate_root(&root, &losses).expect("valid");
        trainer.apply().expect("finite").loss
    };
    let found: Vec<f64> = ranks.iter_mut().map(apply).collect();
    assert!(found.iter().all(|loss| *loss == found[0]), "{found:?}");
    found[0]
}

#[test]
fn threads_and_worlds_agree_to_the_last_bit() {
    const SHARDS: usize = 4;
    for config in configs() {
        let batches: Vec<Batch> = (0..3).map(|seed| fit(&model(&config), batch(19, seed + 1))).collect();
        let mut seen = Vec::new();
        for threads in [1, 2, 3] {
            let mut one = trainer(&config, SHARDS, threads);
            let losses: Vec<f64> = batches.iter().map(|b| one.step(b).expect("finite").loss).collect();
            seen.push((losses, params_blake3(one.model())));
        }
        for world in [2, 3] {
            let mut ranks: Vec<Trainer> = (0..world).map(|_| trainer(&config, SHARDS, 1)).collect();
            let losses = batches.iter().map(|batch| step_together(&mut ranks, batch, SHARDS)).collect();
            seen.push((losses, params_blake3(ranks[0].model())));
        }
        assert!(seen.iter().all(|one| *one == seen[0]), "{config:?}: {seen:?}");
    }
}

#[test]
fn instruction_sets_agree_to_the_last_bit() {
    for config in configs() {
        let digest = || {
            let mut one = trainer(&config, 4, 1);
            let batch = fit(one.model(), batch(13, 2));
            let losses: Vec<f64> = (0..2).map(|_| one.step(&batch).expect("finite").loss).collect();
            (losses, params_blake3(one.model()))
        };
        let seen: Vec<_> = available()
            .into_iter()
            .map(|isa| {
                limit(isa);
                digest()
            })
            .collect();
        limit(Isa::Avx512);
        assert!(seen.iter().all(|one| *one == seen[0]), "{config:?}");
    }
}

#[test]
fn predictions_do_not_depend_on_neighbors_and_survive_a_file() {
    for config in configs() {
        let mut trainer = trainer(&config, 2, 2);
        for seed in 0..3 {
            trainer.step(&fit(trainer.model(), batch(12, seed))).expect("finite");
        }
        let model = trainer.model();
        let whole = fit(model, batch(23, 9));
        let predict = |model: &Model, batch: &Batch, threads: usize| {
            model.predict_feed(&batch.feed(), &Pool::new(threads), &mut Workspace::default()).expect("valid")
        };
        let together = predict(model, &whole, 2);
        let apart: Vec<f32> = (0..23).flat_map(|r| predict(model, &part(&whole, r..r + 1), 1)).collect();
        assert_eq!(bits(&together), bits(&apart), "{config:?}");
        let (again, _) = load(&save(model, &BTreeMap::new()).expect("saved")).expect("its own file");
        assert_eq!((params_blake3(&again), again.config()), (params_blake3(model), &config));
        assert_eq!(bits(&predict(&again, &whole, 1)), bits(&together));
        assert!(predict(model, &part(&whole, 4..4), 1).is_empty());
    }
}

#[test]
fn each_learns() {
    for config in configs() {
        let mut trainer = trainer(&config, 4, 2);
        let batch = fit(trainer.model(), batch(32, 4));
        let first = trainer.evaluate(&batch).expect("valid").mean().expect("rows");
        for _ in 0..150 {
            trainer.step(&batch).expect("finite");
        }
        let last = trainer.evaluate(&batch).expect("valid").mean().expect("rows");
        assert!(last < 0.5 * first, "{config:?}: {first} to {last}");
    }
}

#[test]
fn a_steady_step_allocates_nothing_though_batches_vary() {
    for config in configs() {
        let mut trainer = trainer(&config, 4, 1);
        let batches: Vec<Batch> = (0..8).map(|seed| fit(trainer.model(), batch(32, seed))).collect();
        for _ in 0..2 {
            for batch in &batches {
                trainer.step(batch).expect("finite");
            }
        }
        let before = (trainer.allocations(), allocations());
        for batch in &batches {
            trainer.step(batch).expect("finite");
        }
        assert_eq!((trainer.allocations(), allocations()), before, "{config:?}");
    }
}

#[test]
fn a_steady_answer_to_one_row_allocates_nothing() {
    let plain = crate::support::model(3, 2, 1);
    for model in configs().iter().map(model).chain([plain]) {
        let batches: Vec<Batch> = (0..8).map(|seed| fit(&model, batch(1, seed))).collect();
        let (pool, mut ws, mut outputs) = (Pool::new(1), Workspace::default(), Vec::new());
        let mut round = || {
            for batch in &batches {
                model.predict_into(&batch.feed(), &pool, &mut ws, &mut outputs).expect("valid");
                assert_eq!(outputs.len(), model.output_dim());
            }
        };
        round();
        round();
        let before = allocations();
        round();
        assert_eq!(allocations(), before, "{:?}", model.config());
    }
}

#[test]
fn a_nan_of_any_input_is_named_with_its_sample() {
    const ROW: usize = 4;
    for config in configs() {
        let good = fit(&model(&config), batch(12, 2));
        let mut bad: Vec<(&str, Batch)> = Vec::new();
        if !good.features.is_empty() {
            let mut batch = good.clone();
            batch.features[ROW * 3 + 1] = f32::NAN;
            bad.push(("input", batch));
        }
        if let ModelConfig::LstmSequence(_) = config {
            let mut batch = good.clone();
            let steps = batch.inputs.steps.as_mut().expect("steps");
            steps.values[steps.offsets[ROW] as usize * 3] = f32::NAN;
            bad.push(("input", batch));
        }
        if let ModelConfig::AdScore(AdScoreConfig { visual_encoder: Some(_), .. }) | ModelConfig::ImageClassifier(_) =
            config
        {
            let mut batch = good.clone();
            let images = batch.inputs.images.as_mut().expect("images");
            let mut values = random(7, 12 * 2 * SIDE * SIDE);
            values[ROW * 2 * SIDE * SIDE + 5] = f32::NAN;
            images.pixels = PixelValues::Floats(values);
            bad.push(("image", batch));
        }
        for (first, batch) in bad {
            let error = trainer(&config, 4, 2).step(&batch).expect_err("not a number");
            let Error::Numeric { op, samples, .. } = &error else { panic!("{config:?}: {error}") };
            assert_eq!((op.as_str(), samples.as_slice()), (first, &[2000 + ROW as u64][..]), "{config:?}");
        }
    }
}

#[test]
fn bad_inputs_are_refused_by_name() {
    let config = &configs()[0];
    let mut trainer = trainer(config, 2, 1);
    let good = batch(6, 1);
    let mut refused = |change: &dyn Fn(&mut Batch), kind: ErrorKind, words: &[&str]| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = trainer.step(&bad).expect_err("refused");
        assert_eq!(error.kind(), kind, "{error}");
        assert!(words.iter().all(|w| error.to_string().contains(w)), "{error}");
    };
    fn tokens(b: &mut Batch) -> &mut Packed {
        b.inputs.tokens.as_mut().expect("tokens")
    }
    refused(&|b| tokens(b).ids[0] = 50, ErrorKind::Value, &["embedding", "below 50", "50 (sample 1000)"]);
    refused(&|b| b.inputs.tokens = None, ErrorKind::Shape, &["token ids", "none"]);
    refused(&|b| tokens(b).offsets.truncate(6), ErrorKind::Shape, &["offsets"]);
    refused(&|b| tokens(b).offsets[1] = 999, ErrorKind::Shape, &["offsets"]);
    refused(
        &|b| tokens(b).offsets = vec![0, 10, 10, 10, 10, 10, 10],
        ErrorKind::Value,
        &["at most 9", "10 (sample 1000)"],
    );
    refused(&|b| b.inputs.images = None, ErrorKind::Shape, &["images"]);
    refused(&|b| b.inputs.images.as_mut().expect("images").channels = 3, ErrorKind::Shape, &["2 x 7 x 7", "3 x 7 x 7"]);
    refused(&|b| b.inputs.categories[3] = 7, ErrorKind::Value, &["below 7", "sample 1001"]);
    refused(&|b| b.inputs.categories.truncate(11), ErrorKind::Shape, &["categories"]);
    refused(&|b| b.features.truncate(17), ErrorKind::Shape, &["features"]);
    trainer.step(&good).expect("a refusal leaves the trainer usable");
    let mut nothing = AdScoreConfig::default();
    let error = Model::new(&ModelConfig::AdScore(nothing.clone()), &Init::Default, 1).expect_err("no branch");
    assert!(error.to_string().contains("text_encoder"));
    nothing.text_encoder = Some(TextEncoderConfig { heads: 5, ..text() });
    let error = Model::new(&ModelConfig::AdScore(nothing), &Init::Default, 1).expect_err("12 is no multiple of 5");
    assert!(error.to_string().contains("heads"));
}

/// Gradients of each sample by itself, as a batch of one gives them.
fn one_by_one(model: &Model, batch: &Batch) -> Vec<Vec<f32>> {
    let one = |row: usize| {
        let own = part(batch, row..row + 1);
        let (mut ws, pool) = (Workspace::default(), Pool::new(1));
        let held = HeldShards { nodes: vec![Node::root(1)], bounds: vec![0, 1], first: 0 };
        let mut gradient = [AlignedBuf::zeroed(model.params().flat_len()).expect("small")];
        let rows =
            Rows { count: 1, sample_ids: &own.sample_ids, mode: Mode::Explain, randomness: Randomness::default() };
        let mut tape = Tape::new(&mut ws, model.params(), rows).expect("valid");
        let y = model.forward(&mut tape, &own.feed(), InputGrad::Skip).expect("valid");
        let loss = Loss { config: &LossConfig::Mse, targets: &own.targets, weights: None };
        tape.forward_backward(&pool, y, &loss).expect("valid");
        tape.param_gradients(&pool, &held, &mut gradient).expect("computes");
        gradient[0].to_vec()
    };
    (0..batch.rows).map(one).collect()
}

#[test]
fn norms_and_clipped_sums_of_the_gradients_of_single_samples() {
    for config in configs() {
        let model = model(&config);
        let batch = fit(&model, batch(9, 3));
        let apart = one_by_one(&model, &batch);
        let (mut ws, pool) = (Workspace::default(), Pool::new(2));
        let rows =
            Rows { count: 9, sample_ids: &batch.sample_ids, mode: Mode::Explain, randomness: Randomness::default() };
        let mut tape = Tape::new(&mut ws, model.params(), rows).expect("valid");
        let y = model.forward(&mut tape, &batch.feed(), InputGrad::Skip).expect("valid");
        let loss = Loss { config: &LossConfig::Mse, targets: &batch.targets, weights: None };
        tape.forward_backward(&pool, y, &loss).expect("valid");
        let mut squares = vec![0.0; 9];
        tape.sample_grad_squares(&pool, &mut squares).expect("samples are independent");
        let mut want = vec![0.0f64; model.params().flat_len()];
        let mut factors = Vec::new();
        for (gradient, got) in apart.iter().zip(&squares) {
            let own: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum();
            assert!((got - own).abs() <= 1e-4 * own.max(1e-6), "{config:?}: {got}, not {own}");
            let factor = (0.1 / own.sqrt()).min(1.0);
            factors.push(factor as f32);
            want.iter_mut().zip(gradient).for_each(|(w, g)| *w += factor * f64::from(*g));
        }
        tape.scale_sample_grads(&pool, &factors);
        let held = HeldShards { nodes: vec![Node::root(1)], bounds: vec![0, 9], first: 0 };
        let mut gradient = [AlignedBuf::zeroed(model.params().flat_len()).expect("small")];
        tape.param_gradients(&pool, &held, &mut gradient).expect("computes");
        for (got, want) in gradient[0].iter().zip(&want) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{config:?}: {got}, not {want}");
        }
    }
}
