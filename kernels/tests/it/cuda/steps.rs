//! Optimizer steps on a device that the CPU plays, from gradients that both are given: the CPU's bits, for every optimizer,
//! precision and extra, through saves and resumes.

use std::sync::Arc;

use super::machine::{machine, machines};
use crate::models::{batch, configs, fit, model};
use kernels::cuda::Machine;
use kernels::dtype::Precision;
use kernels::nn::ModelConfig;
use kernels::optim::{ClipConfig, EmaConfig, OptimizerConfig, ParamGroup};
use kernels::pool::Pool;
use kernels::train::{LossSum, RankBatch, TrainConfig, Trainer};

const STEPS: usize = 4;

fn optimizer(name: &str, more: &str) -> OptimizerConfig {
    serde_json::from_str(&format!("{{\"type\": \"{name}\", \"learning_rate\": 0.02{more}}}")).expect("a configuration")
}

fn trainer(config: &ModelConfig, plan: &TrainConfig, machine: Option<&Arc<dyn Machine>>) -> Trainer {
    let trainer = Trainer::new(model(config), plan.clone(), Arc::new(Pool::new(1))).expect("valid");
    match machine {
        Some(machine) => trainer.on_machine(machine.clone()),
        None => trainer,
    }
}

/// The sum of the gradient over a batch, on the CPU.
fn root(config: &ModelConfig, step: usize) -> (Vec<f32>, LossSum) {
    let batch = fit(&model(config), batch(7, step as u64));
    let plan = TrainConfig { logical_shards: 1, ..TrainConfig::default() };
    let part = RankBatch { batch: &batch, global_rows: batch.rows, held: 0..1 };
    let mut partial = trainer(config, &plan, None).partial(&part).expect("valid");
    (partial.nodes.swap_remove(0).1, partial.losses[0].1)
}

/// What a training is after each step.
fn states(config: &ModelConfig, trainer: &mut Trainer) -> Vec<Vec<u8>> {
    let step = |step| {
        let (root, loss) = root(config, step);
        // In two parts, as two micro-batches.
        for part in [0.25f32, 0.75] {
            let part: Vec<f32> = root.iter().map(|g| g * part).collect();
            let loss = LossSum { sum: loss.sum / 2.0, weight: loss.weight / 2.0, rows: loss.rows / 2 };
            trainer.accumulate_root(&part, &[loss]).expect("its layout");
        }
        trainer.apply().expect("finite");
        trainer.save_state().expect("settles")
    };
    (0..STEPS).map(step).collect()
}

fn plans() -> Vec<TrainConfig> {
    let ema = || Some(EmaConfig::default());
    let group = |pattern: &str| ParamGroup {
        pattern: pattern.into(),
        learning_rate_multiplier: 0.1,
        ..serde_json::from_str("{\"pattern\": \"*\"}").expect("a group")
    };
    let base = || TrainConfig { logical_shards: 1, ..TrainConfig::default() };
    let mut plans = Vec::new();
    for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
        for (name, more) in [("adamw", ""), ("adam", ", \"weight_decay\": 0.01"), ("sgd", ", \"momentum\": 0.9")] {
            plans.push(TrainConfig { optimizer: optimizer(name, more), precision, ema: ema(), ..base() });
        }
    }
    let nesterov = optimizer("sgd", ", \"momentum\": 0.9, \"nesterov\": true, \"weight_decay\": 0.1");
    let clip = ClipConfig { max_norm: None, max_value: Some(0.3) };
    plans.push(TrainConfig { optimizer: nesterov, clip, groups: vec![group("*bias")], ..base() });
    plans
}

#[test]
fn steps_from_the_same_gradient_are_those_of_the_cpu_to_the_last_bit() {
    let machines = machines();
    for config in configs() {
        for plan in plans() {
            let expected = states(&config, &mut trainer(&config, &plan, None));
            for machine in &machines {
                let mut device = trainer(&config, &plan, Some(machine));
                assert!(states(&config, &mut device) == expected, "{plan:?} of {config:?}");
            }
        }
    }
}

#[test]
fn lamb_and_clipping_by_norm_differ_from_the_cpu_by_roundings_of_their_norms() {
    let machines = machines();
    let config = configs().swap_remove(0);
    let clip = ClipConfig { max_norm: Some(0.5), max_value: None };
    let plans = [
        TrainConfig { optimizer: optimizer("lamb", ", \"weight_decay\": 0.01"), ..TrainConfig::default() },
        TrainConfig { clip, ..TrainConfig::default() },
    ];
    for plan in plans.map(|plan| TrainConfig { logical_shards: 1, ..plan }) {
        let weights = |machine| {
            let mut trainer = trainer(&config, &plan, machine);
            states(&config, &mut trainer);
            let model = trainer.into_model().expect("settles");
            model.params().iter().flat_map(|(_, values)| values.to_vec()).collect::<Vec<f32>>()
        };
        let expected = weights(None);
        let of_machines: Vec<Vec<f32>> = machines.iter().map(|machine| weights(Some(machine))).collect();
        for got in &of_machines {
            assert_eq!(got, &of_machines[0], "one order of threads and another");
            for (got, expected) in got.iter().zip(&expected) {
                assert!((got - expected).abs() <= 1e-6 * expected.abs().max(0.1), "{got} for {expected}: {plan:?}");
            }
        }
    }
}

#[test]
fn a_training_goes_on_where_another_stood_on_a_device_or_on_the_cpu() {
    let Some(machine) = machine() else { return };
    let config = configs().swap_remove(0);
    for plan in plans() {
        let expected = states(&config, &mut trainer(&config, &plan, None));
        for (from, to) in [(Some(&machine), None), (None, Some(&machine)), (Some(&machine), Some(&machine))] {
            let mut second = trainer(&config, &plan, to);
            // It has stepped elsewhere before, so that what it had is not what it goes on from.
            states(&config, &mut second);
            let first = states(&config, &mut trainer(&config, &plan, from));
            second.load_state(&first[STEPS - 1]).expect("fits");
            assert_eq!(second.save_state().expect("settles"), expected[STEPS - 1], "{plan:?}");
        }
    }
}

#[test]
fn a_gradient_that_is_not_finite_is_named_and_moves_nothing() {
    let Some(machine) = machine() else { return };
    for config in configs() {
        let plan = TrainConfig { logical_shards: 1, ..TrainConfig::default() };
        let mut trainer = trainer(&config, &plan, Some(&machine));
        let before = trainer.save_state().expect("settles");
        let (mut root, loss) = root(&config, 1);
        root[0] = f32::INFINITY;
        trainer.accumulate_root(&root, &[loss]).expect("its layout");
        let error = trainer.apply().expect_err("not finite").to_string();
        let name = &trainer.model().params().entries()[0].name;
        assert!(error.contains(&format!("gradient of {name}")), "{error}");
        assert_eq!(trainer.save_state().expect("settles"), before, "{config:?}");
    }
}

#[test]
fn an_overflow_of_f16_moves_only_the_scale() {
    let Some(machine) = machine() else { return };
    let plan = TrainConfig { logical_shards: 1, precision: Precision::F16, ..TrainConfig::default() };
    let config = configs().swap_remove(0);
    let mut trainer = trainer(&config, &plan, Some(&machine));
    let scale = trainer.loss_scale().expect("f16 has one");
    let (mut root, loss) = root(&config, 1);
    root[0] = 1e30;
    trainer.accumulate_root(&root, &[loss]).expect("its layout");
    let outcome = trainer.apply().expect("finite");
    assert!(outcome.skipped && trainer.global_step() == 0);
    assert!(trainer.loss_scale().expect("f16 has one") < scale);
}
