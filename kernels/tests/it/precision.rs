//! Mixed precision and averages of weights through whole steps: they learn, they resume to the last bit, their bits
//! do not depend on ranks or threads, a steady step allocates nothing.

use crate::allocator::allocations;
use crate::models;
use crate::support::{batch, bits, model};
use kernels::dtype::{LossScaleConfig, Precision};
use kernels::nn::Model;
use kernels::optim::{EmaConfig, OptimizerConfig, ParamGroup};
use kernels::pool::Pool;
use kernels::shard::{complete, rows_of, shards_of};
use kernels::train::{Batch, LossSum, RankBatch, Targets, TrainConfig, Trainer};
use kernels::weights::{load, params_blake3, save_with};
use kernels::{Error, ErrorKind};
use std::collections::BTreeMap;
use std::sync::Arc;

const FEATURES: usize = 9;

fn plan(precision: Precision, optimizer: &str) -> TrainConfig {
    let optimizer: OptimizerConfig = serde_json::from_str(optimizer).expect("well-formed");
    TrainConfig {
        optimizer,
        ema: Some(EmaConfig { decay: 0.9, warmup: true }),
        groups: vec![ParamGroup { pattern: "layers.0.*".into(), learning_rate_multiplier: 0.5, weight_decay: None }],
        precision,
        loss_scale: LossScaleConfig { initial_scale: 2f64.powi(17), growth_interval: 4, ..LossScaleConfig::default() },
        logical_shards: 4,
        ..TrainConfig::default()
    }
}

const ADAMW: &str = r#"{"type":"adamw","learning_rate":0.01}"#;
const LAMB: &str = r#"{"type":"lamb","learning_rate":0.01}"#;

fn trainer(plan: &TrainConfig, threads: usize) -> Trainer {
    Trainer::new(model(FEATURES, 1, 3), plan.clone(), Arc::new(Pool::new(threads))).expect("valid")
}

fn values(model: &Model) -> Vec<f32> {
    model.params().iter().flat_map(|(_, values)| values.to_vec()).collect()
}

#[test]
fn sixteen_bits_learn_as_thirty_two_do() {
    let last = |precision| {
        let mut trainer = trainer(&plan(precision, ADAMW), 2);
        for step in 0..300 {
            trainer.step(&batch(64, FEATURES, 1 + step % 5)).expect("finite");
        }
        let of =
            |trainer: &mut Trainer| trainer.evaluate(&batch(64, FEATURES, 1)).expect("valid").mean().expect("rows");
        let averaged = trainer.averaged_model().expect("settled").expect("averages are kept");
        assert_ne!(bits(&values(&averaged)), bits(&values(trainer.model())));
        let smooth = trainer.evaluate_model(&averaged, &batch(64, FEATURES, 1)).expect("valid").mean().expect("rows");
        assert!(smooth < 0.1 && smooth != of(&mut trainer), "{smooth}");
        assert!(values(trainer.model()).iter().all(|w| precision.round(*w).to_bits() == w.to_bits()));
        of(&mut trainer)
    };
    let whole = last(Precision::F32);
    assert!(whole < 0.05, "{whole}");
    for precision in [Precision::Bf16, Precision::F16] {
        let loss = last(precision);
        assert!(loss < whole + 0.05, "{precision:?}: {loss}, {whole} in f32");
    }
}

#[test]
fn a_mixed_resume_is_the_same_as_no_interruption() {
    for (precision, optimizer) in [(Precision::F16, ADAMW), (Precision::Bf16, LAMB), (Precision::F32, LAMB)] {
        let plan = plan(precision, optimizer);
        let run = |trainer: &mut Trainer, steps: std::ops::Range<u64>| {
            steps.for_each(|step| assert!(trainer.step(&batch(32, FEATURES, step)).is_ok()));
        };
        let mut whole = trainer(&plan, 2);
        run(&mut whole, 0..9);
        let mut first = trainer(&plan, 1);
        run(&mut first, 0..4);
        let saved = first.save_state().expect("nothing is pending");
        let mut second = trainer(&plan, 2);
        second.load_state(&saved).expect("its own state");
        assert_eq!(params_blake3(second.model()), params_blake3(first.model()), "the same compute weights");
        run(&mut second, 4..9);
        assert_eq!(whole.save_state().expect("saved"), second.save_state().expect("saved"));
        let (a, b) = (
            whole.averaged_model().expect("settled").expect("kept"),
            second.averaged_model().expect("settled").expect("kept"),
        );
        assert_eq!(params_blake3(&a), params_blake3(&b));
    }
    let saved = trainer(&plan(Precision::F16, ADAMW), 1).save_state().expect("saved");
    let mut without = trainer(&TrainConfig { ema: None, ..plan(Precision::F16, ADAMW) }, 1);
    assert_eq!(without.load_state(&saved).expect_err("it has averages").kind(), ErrorKind::Weights);
    let mut wider = trainer(&plan(Precision::F32, ADAMW), 1);
    wider.load_state(&saved).expect("a state is of f32 whatever the precision");
    assert_eq!(
        bits(&values(wider.model())),
        bits(&values(&trainer(&plan(Precision::F32, ADAMW), 1).master_model().expect("settled")))
    );
}

/// Rows `range` of a batch.
fn part(batch: &Batch, range: std::ops::Range<usize>) -> Batch {
    let Targets::Real(targets) = &batch.targets else { panic!("real targets") };
    Batch {
        rows: range.len(),
        features: batch.features[range.start * FEATURES..range.end * FEATURES].to_vec(),
        inputs: Default::default(),
        targets: Targets::Real(targets[range.clone()].to_vec()),
        weights: None,
        sample_ids: batch.sample_ids[range].to_vec(),
    }
}

#[test]
fn worlds_and_threads_agree_to_the_last_bit_in_every_precision() {
    for (precision, optimizer) in [(Precision::F16, ADAMW), (Precision::Bf16, ADAMW), (Precision::F32, LAMB)] {
        let plan = plan(precision, optimizer);
        let shards = plan.logical_shards;
        let batches: Vec<Batch> = (1..6).map(|seed| batch(37, FEATURES, seed)).collect();
        let states: Vec<Vec<u8>> = [1, 2, 3]
            .into_iter()
            .map(|threads| {
                let mut one = trainer(&plan, threads);
                batches.iter().for_each(|b| assert!(one.step(b).is_ok()));
                one.save_state().expect("saved")
            })
            .collect();
        let mut ranks: Vec<Trainer> = (0..3).map(|_| trainer(&plan, 1)).collect();
        for batch in &batches {
            let mut nodes = Vec::new();
            let mut losses = vec![LossSum::default(); shards];
            for (rank, trainer) in ranks.iter_mut().enumerate() {
                let held = shards_of(rank, 3, shards);
                let rows = rows_of(held.start, shards, 37).start..rows_of(held.end - 1, shards, 37).end;
                let own = part(batch, rows);
                let partial = trainer.partial(&RankBatch { batch: &own, global_rows: 37, held }).expect("valid");
                nodes.extend(partial.nodes);
                partial.losses.iter().for_each(|(shard, loss)| losses[*shard] = *loss);
            }
            let root = complete(nodes, shards).expect("the ranks cover the tree");
            for trainer in &mut ranks {
                trainer.accumulate_root(&root, &losses).expect("valid");
                trainer.apply().expect("finite");
            }
        }
        assert!(states.iter().all(|state| *state == states[0]), "{precision:?}: threads");
        for rank in &mut ranks {
            assert_eq!(rank.save_state().expect("saved"), states[0], "{precision:?}: ranks");
        }
    }
}

#[test]
fn an_overflow_changes_nothing_but_the_scale_and_a_true_nan_is_an_error() {
    let plan = TrainConfig {
        loss_scale: LossScaleConfig { initial_scale: 2f64.powi(40), ..LossScaleConfig::default() },
        ..plan(Precision::F16, ADAMW)
    };
    let mut trainer = trainer(&plan, 2);
    let before = (params_blake3(trainer.model()), trainer.learning_rate());
    let mut scales = Vec::new();
    loop {
        let outcome = trainer.step(&batch(32, FEATURES, 1)).expect("finite");
        scales.push(trainer.loss_scale().expect("f16 has a scale"));
        if !outcome.skipped {
            break;
        }
        assert_eq!((params_blake3(trainer.model()), trainer.learning_rate()), before);
        assert_eq!((outcome.step, trainer.global_step()), (0, 0));
    }
    assert!(scales.len() > 10 && scales.windows(2).take(scales.len() - 2).all(|w| w[1] == w[0] / 2.0), "{scales:?}");
    let mut bad = batch(32, FEATURES, 1);
    bad.features[5 * FEATURES] = f32::NAN;
    let error = trainer.step(&bad).expect_err("not a number");
    assert!(matches!(&error, Error::Numeric { samples, .. } if *samples == [1005]), "{error}");
}

#[test]
fn a_steady_mixed_step_allocates_nothing() {
    for (precision, optimizer) in [(Precision::F16, LAMB), (Precision::Bf16, ADAMW)] {
        let mut trainer = trainer(&plan(precision, optimizer), 1);
        let batch = batch(64, FEATURES, 1);
        (0..6).for_each(|_| assert!(trainer.step(&batch).is_ok()));
        let before = allocations();
        (0..20).for_each(|_| assert!(trainer.step(&batch).is_ok()));
        assert_eq!(allocations(), before, "{precision:?} {optimizer}");
    }
}

#[test]
fn every_model_trains_in_every_precision_and_keeps_its_statistics() {
    for config in models::configs() {
        let mut losses = Vec::new();
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let loss_scale = LossScaleConfig { initial_scale: 1024.0, ..LossScaleConfig::default() };
            let plan = TrainConfig { groups: Vec::new(), loss_scale, ..plan(precision, ADAMW) };
            let fresh = |threads| Trainer::new(models::model(&config), plan.clone(), Arc::new(Pool::new(threads)));
            let mut one = fresh(2).expect("every model takes every precision");
            let batches: Vec<Batch> = (1..4).map(|s| models::fit(one.model(), models::batch(16, s))).collect();
            for batch in &batches {
                let outcome = one.step(batch).expect("finite");
                assert!(!outcome.skipped, "{config:?} {precision:?}");
                losses.push(outcome.loss);
            }
            let before = models::model(&config);
            for ((param, values), (_, old)) in one.model().params().iter().zip(before.params().iter()) {
                let what = format!("{config:?} {precision:?} {}", param.name);
                if param.is_statistic() {
                    assert_ne!(values, old, "{what} moved");
                } else {
                    assert!(values.iter().all(|w| precision.round(*w).to_bits() == w.to_bits()), "{what} is rounded");
                }
            }
            let master = one.master_model().expect("settled");
            for ((param, values), (_, full)) in one.model().params().iter().zip(master.params().iter()) {
                assert!(!param.is_statistic() || values == full, "{config:?} {precision:?} {}", param.name);
            }
            let file = save_with(one.model(), None, &BTreeMap::new(), precision).expect("saved");
            assert_eq!(params_blake3(&load(&file).expect("its own file").0), params_blake3(one.model()));
            // A resume after two steps is the same as no interruption.
            let (mut first, mut second) = (fresh(1).expect("valid"), fresh(2).expect("valid"));
            batches[..2].iter().for_each(|b| assert!(first.step(b).is_ok()));
            second.load_state(&first.save_state().expect("saved")).expect("its own state");
            second.step(&batches[2]).expect("finite");
            assert_eq!(second.save_state().expect("saved"), one.save_state().expect("saved"), "{config:?}");
            let averaged = [one.averaged_model(), second.averaged_model()]
                .map(|m| params_blake3(&m.expect("settled").expect("kept")));
            assert_eq!(averaged[0], averaged[1], "{config:?}");
        }
        for (n, loss) in losses.iter().enumerate() {
            assert!((loss - losses[n % 3]).abs() < 0.05 * losses[n % 3] + 0.01, "{config:?}: {losses:?}");
        }
    }
}

#[test]
fn a_file_of_sixteen_bits_holds_a_mixed_model_exactly_in_half_the_size() {
    for precision in [Precision::Bf16, Precision::F16] {
        let mut trainer = trainer(&plan(precision, ADAMW), 1);
        trainer.step(&batch(32, FEATURES, 1)).expect("finite");
        let whole = save_with(trainer.model(), None, &BTreeMap::new(), Precision::F32).expect("saved");
        let half = save_with(trainer.model(), None, &BTreeMap::new(), precision).expect("saved");
        let saved = trainer.model().parameter_count() * 2;
        assert!(half.len() + saved - 64 < whole.len() && whole.len() < half.len() + saved + 64);
        let (again, _) = load(&half).expect("its own file");
        assert_eq!(params_blake3(&again), params_blake3(trainer.model()));
    }
}
