//! Optimizers, schedules, gradient scaling, averages and 16-bit conversions against PyTorch
//! (tests/golden/make_training_goldens.py). Tolerances: 2e-6 for weights after five steps, 1e-12 for rates; conversions
//! and scales are exact.

use crate::support::close;
use kernels::dtype::{LossScaleConfig, Precision, to_bf16, to_f16};
use kernels::nn::{MlpConfig, Model, ModelConfig};
use kernels::optim::{
    EmaConfig, Extras, Optimizer, OptimizerConfig, ParamGroup, Schedule, SchedulerConfig, SgdConfig, StepGradient,
};
use kernels::params::{Decay, Layout, ParamBuilder, ParamStore};
use kernels::pool::Pool;
use kernels::train::{LossSum, TrainConfig, Trainer};
use serde_json::Value;
use std::sync::Arc;

fn goldens() -> Value {
    serde_json::from_str(include_str!("../golden/training.json")).expect("the goldens parse")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("an array")
}

fn numbers(value: &Value) -> Vec<f64> {
    list(value).iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

fn singles(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

const SHAPES: [(&str, &[usize]); 3] = [("a.weight", &[17, 3]), ("a.bias", &[17]), ("b.weight", &[2, 7])];

/// The parameters of a case.
fn store(values: &Value) -> ParamStore {
    let mut builder = ParamBuilder::default();
    for (name, shape) in SHAPES {
        let (decay, layout) = match shape.len() {
            2 => (Decay::Decayed, Layout::Product),
            _ => (Decay::Exempt, Layout::Plain),
        };
        builder.add(name.into(), shape, decay, layout).expect("small");
    }
    let mut params = builder.build().expect("small");
    for (name, _) in SHAPES {
        params.set(params.find(name).expect("added"), &singles(&values[name])).expect("its shape");
    }
    params
}

/// A gradient in the layout of the store: the store with the gradients as values would have it.
fn flat(params: &ParamStore, values: &Value) -> Vec<f32> {
    let mut flat = vec![0.0; params.flat_len()];
    let mut at = 0;
    for (name, shape) in SHAPES {
        let len = shape.iter().product::<usize>();
        flat[at..at + len].copy_from_slice(&singles(&values[name]));
        assert_eq!(params.part(params.find(name).expect("added"), &flat).len(), len);
        at = (at + len).next_multiple_of(16);
    }
    flat
}

#[test]
fn every_optimizer_takes_pytorchs_steps() {
    for case in list(&goldens()["optimizers"]) {
        let config: OptimizerConfig = serde_json::from_value(case["optimizer"].clone()).expect("a known optimizer");
        let grouped = case["grouped"] == true;
        let group = ParamGroup { pattern: "b.*".into(), learning_rate_multiplier: 0.1, weight_decay: Some(0.02) };
        let groups = if grouped { vec![group] } else { Vec::new() };
        let mut seen: Vec<Vec<u32>> = Vec::new();
        for threads in [1, 2, 3] {
            let mut params = store(&case["before"]);
            let extras = Extras { groups: &groups, ..Extras::default() };
            let mut optimizer = Optimizer::new(&config, &extras, &mut params).expect("valid");
            let pool = Pool::new(threads);
            for gradient in list(&case["gradients"]) {
                // As a sum over a batch that weighs 8.
                let sum: Vec<f32> = flat(&params, gradient).iter().map(|g| g * 8.0).collect();
                let gradient = StepGradient { sum: &sum, factor: 0.125, max_value: case["clip_value"].as_f64() };
                optimizer.step(&mut params, gradient, config.learning_rate(), &pool);
            }
            for (name, _) in SHAPES {
                let values = params.values(params.find(name).expect("added"));
                close(&format!("{config:?} {grouped} {name}"), values, &numbers(&case["after"][name]), 2e-6);
            }
            seen.push(params.iter().flat_map(|(_, values)| values.iter().map(|v| v.to_bits())).collect());
        }
        assert!(seen.iter().all(|one| *one == seen[0]), "{config:?}: threads change no bit");
    }
}

#[test]
fn every_schedule_is_pytorchs() {
    for case in list(&goldens()["schedules"]) {
        let config: SchedulerConfig = serde_json::from_value(case["config"].clone()).expect("a known schedule");
        let mut schedule = Schedule::new(&config, case["base"].as_f64().expect("a number")).expect("valid");
        let metrics = case["metrics"].as_array().map(|_| numbers(&case["metrics"]));
        for (i, want) in numbers(&case["rates"]).into_iter().enumerate() {
            let got = schedule.learning_rate();
            assert!((got - want).abs() < 1e-12, "{config:?} at {i}: {got}, not {want}");
            match case["by"].as_str() {
                Some("step") => schedule.on_step(),
                _ => schedule.on_epoch(metrics.as_ref().map(|m| m[i])).expect("a metric where one is needed"),
            }
        }
    }
}

/// A trainer of one weight matrix [4, 3] (and its bias) with these values.
fn trainer(values: &[f32], plan: TrainConfig) -> Trainer {
    let config = MlpConfig { input_dim: 2, output_dim: 4, ..MlpConfig::default() };
    let mut model = Model::new(&ModelConfig::Mlp(config), &Default::default(), 1).expect("valid");
    assert_eq!(model.parameter_count(), values.len());
    model
        .set_parameters(|param| match param.shape.len() {
            2 => values[..8].to_vec(),
            _ => values[8..].to_vec(),
        })
        .expect("its shapes");
    Trainer::new(model, plan, Arc::new(Pool::new(2))).expect("valid")
}

/// A gradient of the trainer's layout: the weight, then the bias at the next multiple of 16.
fn root(gradient: &[f32], weight: f32) -> Vec<f32> {
    let mut root = vec![0.0; 32];
    root[..8].copy_from_slice(&gradient[..8]);
    root[16..20].copy_from_slice(&gradient[8..]);
    root.iter_mut().for_each(|g| *g *= weight);
    root
}

fn weights(model: &Model) -> Vec<f32> {
    model.params().iter().flat_map(|(_, values)| values.to_vec()).collect()
}

#[test]
fn scaled_steps_are_those_of_grad_scaler() {
    let case = &goldens()["grad_scaler"];
    let plan = TrainConfig {
        optimizer: OptimizerConfig::Sgd(SgdConfig { learning_rate: 0.1, ..SgdConfig::default() }),
        scheduler: SchedulerConfig::LinearWarmup { warmup_steps: 8, start_factor: 0.25 },
        precision: Precision::F16,
        loss_scale: LossScaleConfig { initial_scale: 16384.0, growth_interval: 3, ..LossScaleConfig::default() },
        logical_shards: 1,
        ..TrainConfig::default()
    };
    let mut trainer_now = trainer(&singles(&case["before"]), plan.clone());
    let (mut steps, mut skipped) = (0, 0);
    for (i, step) in list(&case["steps"]).iter().enumerate() {
        assert_eq!(trainer_now.loss_scale().map(f64::from), step["scale"].as_f64(), "step {i}");
        let root = root(&singles(&step["gradient"]), 4.0);
        let loss = LossSum { sum: 4.0, weight: 4.0, rows: 4 };
        trainer_now.accumulate_root(&root, &[loss]).expect("its layout");
        let outcome = trainer_now.apply().expect("a finite gradient");
        assert_eq!(outcome.skipped, step["skipped"] == true, "step {i}");
        assert!((outcome.learning_rate - step["learning_rate"].as_f64().expect("a number")).abs() < 1e-12);
        (steps, skipped) = (steps + u64::from(!outcome.skipped), skipped + u64::from(outcome.skipped));
        assert_eq!((trainer_now.global_step(), outcome.step), (steps, steps), "a skipped step is none");
        close(
            &format!("step {i}"),
            &weights(&trainer_now.master_model().expect("settled")),
            &numbers(&step["after"]),
            1e-6,
        );
        let compute = weights(trainer_now.model());
        let rounded: Vec<f32> =
            weights(&trainer_now.master_model().expect("settled")).iter().map(|w| Precision::F16.round(*w)).collect();
        assert_eq!(compute, rounded, "step {i}");
        if i % 5 == 4 {
            // A resume in the middle goes on with the same scale and count.
            let saved = trainer_now.save_state().expect("nothing is pending");
            trainer_now = trainer(&[0.0; 12], plan.clone());
            trainer_now.load_state(&saved).expect("its own state");
            assert_eq!(trainer_now.save_state().expect("nothing is pending"), saved);
        }
    }
    assert!(skipped >= 3, "the case has overflows");
}

#[test]
fn averages_are_pytorchs() {
    let case = &goldens()["ema"];
    let decay = case["decay"].as_f64().expect("a number");
    let ema = EmaConfig { decay, warmup: false };
    let weights: Vec<Vec<f32>> = list(&case["weights"]).iter().map(singles).collect();
    let mut builder = ParamBuilder::default();
    let id = builder.add("w".into(), &[2, 3], Decay::Decayed, Layout::Product).expect("small");
    let mut params = builder.build().expect("small");
    params.set(id, &weights[0]).expect("its shape");
    let sgd = OptimizerConfig::Sgd(SgdConfig { learning_rate: 1.0, momentum: 0.0, ..SgdConfig::default() });
    let extras = Extras { ema: Some(&ema), ..Extras::default() };
    let mut optimizer = Optimizer::new(&sgd, &extras, &mut params).expect("valid");
    for (next, want) in weights[1..].iter().zip(&list(&case["averages"])[1..]) {
        let mut sum = vec![0.0; params.flat_len()];
        sum.iter_mut().zip(params.values(id)).zip(next).for_each(|((g, w), next)| *g = w - next);
        let gradient = StepGradient { sum: &sum, factor: 1.0, max_value: None };
        optimizer.step(&mut params, gradient, 1.0, &Pool::new(1));
        close("average", params.part(id, optimizer.averages()), &numbers(want), 1e-6);
    }
}

#[test]
fn conversions_are_pytorchs() {
    let case = &goldens()["conversions"];
    let whole = |key: &str| list(&case[key]).iter().map(|v| v.as_u64().expect("a word")).collect::<Vec<u64>>();
    let x: Vec<f32> = whole("x").iter().map(|bits| f32::from_bits(*bits as u32)).collect();
    let mut words = vec![0u16; x.len()];
    to_f16(&x, &mut words);
    assert_eq!(words.iter().map(|w| u64::from(*w)).collect::<Vec<_>>(), whole("f16"));
    to_bf16(&x, &mut words);
    assert_eq!(words.iter().map(|w| u64::from(*w)).collect::<Vec<_>>(), whole("bf16"));
}
