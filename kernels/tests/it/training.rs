//! The engine as a whole: it learns, accumulation weighs by samples, a steady step allocates nothing, and
//! what is wrong is refused.

use crate::allocator::allocations;
use crate::support::{batch, model, random};
use kernels::nn::{Init, MlpConfig, Model, ModelConfig};
use kernels::ops::loss::{LossConfig, Targets};
use kernels::optim::{AdamWConfig, OptimizerConfig};
use kernels::pool::Pool;
use kernels::train::{Batch, TrainConfig, Trainer};
use kernels::{Error, ErrorKind};
use std::sync::Arc;

fn mlp(input_dim: usize, hidden: &[usize], output_dim: usize) -> Model {
    let config = MlpConfig { input_dim, hidden_layers: hidden.to_vec(), output_dim, ..MlpConfig::default() };
    Model::new(&ModelConfig::Mlp(config), &Init::KaimingNormal, 1).expect("valid")
}

fn plan(loss: LossConfig) -> TrainConfig {
    let optimizer = OptimizerConfig::AdamW(AdamWConfig { learning_rate: 3e-3, ..Default::default() });
    TrainConfig { optimizer, loss, ..TrainConfig::default() }
}

fn trainer(model: Model, loss: LossConfig) -> Trainer {
    Trainer::new(model, plan(loss), Arc::new(Pool::new(2))).expect("valid")
}

#[test]
fn it_learns_a_regression_a_binary_and_a_multiclass_task() {
    let rows = 256;
    let x = random(1, rows * 4);
    let value = |r: usize| x[r * 4] * x[r * 4 + 1] + 0.5 * x[r * 4 + 2];
    let tasks = [
        (LossConfig::Mse, 1, Targets::Real((0..rows).map(value).collect()), 0.01),
        (
            LossConfig::BceWithLogits { pos_weight: None },
            1,
            Targets::Real((0..rows).map(|r| f32::from(u8::from(value(r) > 0.0))).collect()),
            0.15,
        ),
        (
            LossConfig::CrossEntropy { label_smoothing: 0.0, class_weights: None },
            3,
            Targets::Class(
                (0..rows).map(|r| if value(r) < -0.2 { 0 } else { 1 + u32::from(value(r) > 0.2) }).collect(),
            ),
            0.2,
        ),
    ];
    for (loss, outputs, targets, goal) in tasks {
        let batch = Batch {
            rows,
            features: x.clone(),
            inputs: Default::default(),
            targets,
            weights: None,
            sample_ids: (0..rows as u64).collect(),
        };
        let mut trainer = trainer(mlp(4, &[32, 16], outputs), loss.clone());
        let first = trainer.step(&batch).expect("finite").loss;
        for _ in 0..400 {
            trainer.step(&batch).expect("finite");
        }
        let last = trainer.evaluate(&batch).expect("valid").mean().expect("rows");
        assert!(last < goal && last < first / 2.0, "{loss:?}: {first} to {last}");
        let mut predictions = trainer.model().predict(&x, rows, &Pool::new(1)).expect("valid");
        loss.to_predictions(&mut predictions, outputs);
        if loss != LossConfig::Mse {
            assert!(predictions.iter().all(|p| (0.0..=1.0).contains(p)));
        }
    }
}

#[test]
fn accumulation_weighs_by_samples_and_weights() {
    let whole = Batch { weights: Some(random(5, 20).iter().map(|w| w.abs() + 0.1).collect()), ..batch(20, 6, 1) };
    let cut = |from: usize, to: usize| {
        let Targets::Real(t) = &whole.targets else { panic!("real targets") };
        Batch {
            rows: to - from,
            features: whole.features[from * 6..to * 6].to_vec(),
            inputs: Default::default(),
            targets: Targets::Real(t[from..to].to_vec()),
            weights: whole.weights.as_ref().map(|w| w[from..to].to_vec()),
            sample_ids: whole.sample_ids[from..to].to_vec(),
        }
    };
    let mut at_once = trainer(mlp(6, &[9], 1), LossConfig::Mse);
    let mut in_parts = trainer(mlp(6, &[9], 1), LossConfig::Mse);
    let one = at_once.step(&whole).expect("finite");
    for (from, to) in [(0, 8), (8, 16), (16, 20)] {
        in_parts.accumulate(&cut(from, to)).expect("finite");
    }
    assert!(in_parts.save_state().is_err(), "a state in the middle of a step is not saved");
    let parts = in_parts.apply().expect("finite");
    assert_eq!((one.rows, one.step), (parts.rows, parts.step));
    assert!((one.loss - parts.loss).abs() < 1e-9 && (one.grad_norm - parts.grad_norm).abs() < 1e-6);
    for ((_, a), (_, b)) in at_once.model().params().iter().zip(in_parts.model().params().iter()) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5));
    }
}

#[test]
fn a_steady_step_allocates_nothing() {
    // One thread, as the counter is of this thread.
    let mut trainer = Trainer::new(model(12, 1, 1), plan(LossConfig::Mse), Arc::new(Pool::new(1))).expect("valid");
    let batch = batch(64, 12, 1);
    for _ in 0..2 {
        trainer.step(&batch).expect("finite");
    }
    let before = (trainer.allocations(), allocations());
    for _ in 0..20 {
        trainer.step(&batch).expect("finite");
    }
    assert_eq!((trainer.allocations(), allocations()), before);
}

#[test]
fn dropout_drops_its_share_in_training_only() {
    let mut trainer = trainer(model(12, 1, 1), LossConfig::Mse);
    let batch = batch(64, 12, 1);
    let (a, b) = (trainer.evaluate(&batch).expect("valid"), trainer.evaluate(&batch).expect("valid"));
    assert_eq!(a, b);
    let trained = trainer.step(&batch).expect("finite").loss;
    assert_ne!(trained, a.mean().expect("rows"));
}

fn refused(outcome: Result<impl Sized, Error>, kind: ErrorKind, words: &[&str]) {
    let error = outcome.err().expect("refused");
    assert_eq!(error.kind(), kind, "{error}");
    let text = error.to_string();
    assert!(words.iter().all(|w| text.contains(w)), "`{text}` lacks one of {words:?}");
}

#[test]
fn batches_that_do_not_fit_are_refused_by_name() {
    let mut regression = trainer(mlp(6, &[4], 1), LossConfig::Mse);
    let good = batch(5, 6, 1);
    refused(regression.step(&Batch { rows: 4, ..good.clone() }), ErrorKind::Shape, &["4"]);
    refused(regression.step(&Batch { features: vec![0.0; 7], ..good.clone() }), ErrorKind::Shape, &["input", "7"]);
    refused(
        regression.step(&Batch { targets: Targets::Real(vec![0.0; 3]), ..good.clone() }),
        ErrorKind::Shape,
        &["mse", "3"],
    );
    refused(
        regression.step(&Batch { targets: Targets::Class(vec![0; 5]), ..good.clone() }),
        ErrorKind::Dtype,
        &["real"],
    );
    refused(regression.step(&Batch { weights: Some(vec![1.0; 2]), ..good.clone() }), ErrorKind::Shape, &["weights"]);
    refused(
        regression.step(&Batch { weights: Some(vec![-1.0; 5]), ..good.clone() }),
        ErrorKind::Value,
        &["sample 1000"],
    );
    refused(regression.step(&Batch { weights: Some(vec![0.0; 5]), ..good.clone() }), ErrorKind::Value, &["above 0"]);
    let mut classes = trainer(mlp(6, &[4], 3), LossConfig::CrossEntropy { label_smoothing: 0.0, class_weights: None });
    refused(
        classes.step(&Batch { targets: Targets::Class(vec![0, 1, 2, 3, 0]), ..good.clone() }),
        ErrorKind::Value,
        &["sample 1003", "3"],
    );
    refused(classes.step(&good), ErrorKind::Dtype, &["class"]);
    assert!(regression.step(&good).is_ok(), "a refusal leaves the trainer usable");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let bad = |config: MlpConfig| Model::new(&ModelConfig::Mlp(config), &Init::Default, 1);
    refused(bad(MlpConfig { input_dim: 0, ..MlpConfig::default() }), ErrorKind::Value, &["input_dim"]);
    refused(bad(MlpConfig { hidden_layers: vec![3, 0], ..MlpConfig::default() }), ErrorKind::Value, &["hidden_layers"]);
    refused(bad(MlpConfig { dropout: 1.0, ..MlpConfig::default() }), ErrorKind::Value, &["dropout"]);
    let with = |plan: TrainConfig| Trainer::new(mlp(2, &[], 1), plan, Arc::new(Pool::new(1)));
    refused(with(TrainConfig { logical_shards: 0, ..TrainConfig::default() }), ErrorKind::Value, &["logical_shards"]);
    refused(with(plan(LossConfig::Huber { delta: 0.0 })), ErrorKind::Value, &["delta"]);
    refused(
        with(plan(LossConfig::CrossEntropy { label_smoothing: 0.0, class_weights: None })),
        ErrorKind::Shape,
        &["2 outputs"],
    );
    let json = r#"{"type":"mlp","input_dim":3,"hiden_layers":[4]}"#;
    assert!(
        serde_json::from_str::<ModelConfig>(json).expect_err("a misspelt key").to_string().contains("hiden_layers")
    );
}
