//! The sentinel: NaN and infinity are reported with the first operation and the samples, and change nothing.

use crate::support::batch;
use kernels::nn::{Init, MlpConfig, Model, ModelConfig};
use kernels::ops::loss::Targets;
use kernels::optim::{OptimizerConfig, SgdConfig};
use kernels::pool::Pool;
use kernels::train::{Batch, TrainConfig, Trainer};
use kernels::weights::params_blake3;
use kernels::{Error, ErrorKind};
use std::sync::Arc;

fn trainer(learning_rate: f64) -> Trainer {
    let config = MlpConfig { input_dim: 3, hidden_layers: vec![5, 4], ..MlpConfig::default() };
    let model = Model::new(&ModelConfig::Mlp(config), &Init::Default, 2).expect("valid");
    let optimizer = OptimizerConfig::Sgd(SgdConfig { learning_rate, ..SgdConfig::default() });
    Trainer::new(model, TrainConfig { optimizer, ..TrainConfig::default() }, Arc::new(Pool::new(2))).expect("valid")
}

/// The same with every value of a parameter as `value` says for its name.
fn with_parameters(trainer: &Trainer, value: impl Fn(&str) -> f32) -> Trainer {
    let mut model = trainer.model().clone();
    model.set_parameters(|p| vec![value(&p.name); p.shape.iter().product()]).expect("shapes agree");
    Trainer::new(model, trainer.config().clone(), Arc::new(Pool::new(1))).expect("valid")
}

fn culprit(trainer: &mut Trainer, batch: &Batch) -> (String, Vec<u64>) {
    let before = params_blake3(trainer.model());
    let error = trainer.step(batch).expect_err("not finite");
    assert_eq!(error.kind(), ErrorKind::Numeric);
    assert_eq!(params_blake3(trainer.model()), before, "the parameters are untouched");
    let Error::Numeric { op, samples, .. } = error else { unreachable!("checked above") };
    (op, samples)
}

#[test]
fn names_the_input_and_its_samples() {
    let mut bad = batch(20, 3, 1);
    (bad.features[3 * 7], bad.features[3 * 9 + 2]) = (f32::NAN, f32::INFINITY);
    assert_eq!(culprit(&mut trainer(0.1), &bad), ("input".into(), vec![1007, 1009]));
}

#[test]
fn names_an_overflow_in_a_layer_and_in_the_loss() {
    let mut bad = batch(20, 3, 1);
    bad.features[3 * 4..3 * 5].fill(3e38);
    assert_eq!(culprit(&mut with_parameters(&trainer(0.1), |_| 2.0), &bad), ("linear layers.0".into(), vec![1004]));
    let mut bad = batch(20, 3, 1);
    let Targets::Real(targets) = &mut bad.targets else { panic!("real targets") };
    targets[2] = f32::NAN;
    assert_eq!(culprit(&mut trainer(0.1), &bad), ("loss mse".into(), vec![1002]));
}

#[test]
fn names_a_gradient_that_overflows_though_the_loss_does_not() {
    let mut trainer = trainer(0.1);
    let mut bad = batch(4, 3, 1);
    let Targets::Real(targets) = &mut bad.targets else { panic!("real targets") };
    // The loss is summed in f64: finite. The gradient of the sum is not.
    targets[1] = 3e38;
    assert_eq!(culprit(&mut trainer, &bad), ("backward of linear layers.2".into(), vec![1001]));
    let mut bad = batch(20, 3, 1);
    bad.features[3 * 4..3 * 5].copy_from_slice(&[3e38, -3e38, 3e38]);
    assert_eq!(culprit(&mut trainer, &bad), ("gradient of layers.0.weight".into(), vec![]));
    assert!(trainer.step(&batch(4, 3, 2)).is_ok(), "training can go on");
}

#[test]
fn names_a_parameter_that_diverged() {
    let mut trainer = with_parameters(&trainer(0.1), |name| if name == "layers.1.weight" { f32::NAN } else { 0.1 });
    assert_eq!(culprit(&mut trainer, &batch(4, 3, 1)).0, "parameter layers.1.weight");
}
