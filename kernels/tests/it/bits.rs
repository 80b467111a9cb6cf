//! The same bits for any number of threads, any world, any split of a prediction, and after a resume.

use crate::support::{against, batch, bits, model, random, run, store};
use kernels::cpu::isa::{Isa, available, limit};
use kernels::ops::Activation;
use kernels::ops::loss::{LossConfig, Targets};
use kernels::optim::{ClipConfig, OptimizerConfig, SchedulerConfig};
use kernels::pool::Pool;
use kernels::shard::{complete, rows_of, shards_of};
use kernels::train::{Batch, LossSum, RankBatch, StepOutcome, TrainConfig, Trainer};
use kernels::weights::params_blake3;
use std::sync::Arc;

const FEATURES: usize = 11;

fn plan(shards: usize) -> TrainConfig {
    TrainConfig {
        optimizer: OptimizerConfig::default(),
        scheduler: SchedulerConfig::WarmupCosine { warmup_steps: 3, total_steps: 20, eta_min: 1e-5 },
        loss: LossConfig::Huber { delta: 1.0 },
        clip: ClipConfig { max_norm: Some(0.5), max_value: Some(0.1) },
        logical_shards: shards,
        seed: 77,
        ..TrainConfig::default()
    }
}

fn trainer(shards: usize, threads: usize) -> Trainer {
    Trainer::new(model(FEATURES, 1, 3), plan(shards), Arc::new(Pool::new(threads))).expect("valid")
}

/// Rows `range` of a batch.
fn part(batch: &Batch, range: std::ops::Range<usize>) -> Batch {
    let Targets::Real(targets) = &batch.targets else { panic!("real targets") };
    Batch {
        rows: range.len(),
        features: batch.features[range.start * FEATURES..range.end * FEATURES].to_vec(),
        inputs: Default::default(),
        targets: Targets::Real(targets[range.clone()].to_vec()),
        weights: batch.weights.as_ref().map(|w| w[range.clone()].to_vec()),
        sample_ids: batch.sample_ids[range].to_vec(),
    }
}

/// A step as `world` ranks take it, each with its own trainer; returns what rank 0 says.
fn world_step(ranks: &mut [Trainer], batch: &Batch, shards: usize) -> StepOutcome {
    let world = ranks.len();
    let mut nodes = Vec::new();
    let mut losses = vec![LossSum::default(); shards];
    for (rank, trainer) in ranks.iter_mut().enumerate() {
        let held = shards_of(rank, world, shards);
        let rows = rows_of(held.start, shards, batch.rows).start..rows_of(held.end - 1, shards, batch.rows).end;
        let own = part(batch, rows);
        let partial = trainer.partial(&RankBatch { batch: &own, global_rows: batch.rows, held }).expect("valid");
        nodes.extend(partial.nodes);
        partial.losses.iter().for_each(|(shard, loss)| losses[*shard] = *loss);
    }
    let root = complete(nodes, shards).expect("the ranks cover the tree");
    let outcomes: Vec<StepOutcome> = ranks
        .iter_mut()
        .map(|trainer| {
            trainer.accumulate_root(&root, &losses).expect("valid");
            trainer.apply().expect("finite")
        })
        .collect();
    outcomes[0]
}

#[test]
fn worlds_and_threads_agree_to_the_last_bit() {
    for (shards, rows) in [(8, 53), (5, 64), (8, 3)] {
        let batches: Vec<Batch> = (0..4).map(|seed| batch(rows, FEATURES, seed + 1)).collect();
        let mut seen = Vec::new();
        for threads in [1, 2, 3] {
            let mut one = trainer(shards, threads);
            let outcomes: Vec<_> = batches.iter().map(|b| one.step(b).expect("finite")).collect();
            seen.push((outcomes, params_blake3(one.model())));
        }
        for world in [1, 2, 3, 4, 5, 8].into_iter().filter(|w| *w <= shards) {
            let mut ranks: Vec<Trainer> = (0..world).map(|_| trainer(shards, 1)).collect();
            let outcomes: Vec<_> = batches.iter().map(|b| world_step(&mut ranks, b, shards)).collect();
            for rank in &ranks {
                seen.push((outcomes.clone(), params_blake3(rank.model())));
            }
        }
        assert!(seen.iter().all(|one| *one == seen[0]), "{shards} shards, {rows} rows");
    }
}

#[test]
fn instruction_sets_agree_to_the_last_bit_over_whole_steps() {
    let digest = || {
        let mut one = trainer(8, 1);
        let outcomes: Vec<_> = (1..4).map(|seed| one.step(&batch(53, FEATURES, seed)).expect("finite")).collect();
        (outcomes, params_blake3(one.model()))
    };
    let seen: Vec<_> = available()
        .into_iter()
        .map(|isa| {
            limit(isa);
            digest()
        })
        .collect();
    limit(Isa::Avx512);
    assert!(seen.iter().all(|one| *one == seen[0]));
}

#[test]
fn a_prediction_does_not_depend_on_its_neighbors() {
    let model = model(FEATURES, 3, 9);
    let x = random(4, 4103 * FEATURES);
    let together = model.predict(&x, 4103, &Pool::new(2)).expect("valid");
    let mut apart = Vec::new();
    let mut ws = Default::default();
    for block in [1, 7, 500, 1, 3594] {
        let from = apart.len() / 3;
        let rows = &x[from * FEATURES..(from + block) * FEATURES];
        apart.extend(model.predict_with(rows, block, &Pool::new(1), &mut ws).expect("valid"));
    }
    assert_eq!(bits(&together), bits(&apart));
    assert!(model.predict(&[], 0, &Pool::new(1)).expect("no rows").is_empty());
    assert!(model.predict(&x[..5], 1, &Pool::new(1)).is_err());
}

#[test]
fn a_resume_is_the_same_as_no_interruption() {
    for optimizer in [r#"{"type":"adamw"}"#, r#"{"type":"sgd","learning_rate":0.01}"#] {
        let plateau = r#"{"type":"reduce_on_plateau","patience":0,"factor":0.3}"#;
        let plan = TrainConfig {
            optimizer: serde_json::from_str(optimizer).expect("well-formed"),
            scheduler: serde_json::from_str(plateau).expect("well-formed"),
            ..plan(4)
        };
        let fresh = || Trainer::new(model(FEATURES, 1, 3), plan.clone(), Arc::new(Pool::new(2))).expect("valid");
        let run = |trainer: &mut Trainer, steps: std::ops::Range<u64>| {
            for step in steps {
                trainer.step(&batch(32, FEATURES, step)).expect("finite");
                trainer.end_epoch(Some(1.0 / (1.0 + step as f64 % 3.0))).expect("a metric");
            }
        };
        let mut whole = fresh();
        run(&mut whole, 0..9);
        let mut first = fresh();
        run(&mut first, 0..4);
        let saved = first.save_state().expect("nothing is pending");
        assert_eq!(saved, first.save_state().expect("nothing is pending"), "equal states are equal bytes");
        let mut second = fresh();
        second.load_state(&saved).expect("its own state");
        run(&mut second, 4..9);
        assert_eq!(whole.save_state().expect("saved"), second.save_state().expect("saved"));
        assert_eq!(
            (whole.epoch(), whole.global_step(), whole.learning_rate()),
            (second.epoch(), 9, second.learning_rate())
        );
    }
}

#[test]
fn gradients_of_odd_shapes_do_not_depend_on_threads() {
    for (rows, inputs, outputs, shards) in
        [(0, 3, 2, 4), (1, 1, 1, 1), (97, 31, 29, 8), (64, 300, 5, 3), (700, 7, 33, 2)]
    {
        let (w, b) = (random(1, inputs * outputs), random(2, outputs));
        let params = store(&[("l.weight", &[outputs, inputs], &w), ("l.bias", &[outputs], &b)]);
        let (weight, bias) = (params.find("l.weight").expect("added"), params.find("l.bias").expect("added"));
        let (x, targets) = (random(3, rows * inputs), Targets::Real(random(4, rows * outputs)));
        let of = |threads| {
            let graph = |tape: &mut kernels::tape::Tape<'_>, x| tape.linear(x, weight, Some(bias), Activation::Tanh);
            let run = run(&params, &x, inputs, &against(&targets), (shards, threads), graph).expect("valid");
            (bits(&run.output), bits(&run.input_grad), bits(&run.gradient))
        };
        assert_eq!(of(1), of(2), "{rows}x{inputs}x{outputs}");
        assert!(rows > 0 || of(1).2.iter().all(|b| *b == 0), "no rows, no gradient");
    }
}
