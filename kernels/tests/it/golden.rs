//! Values, gradients and whole training runs against PyTorch (tests/golden/make_goldens.py). Tolerances:
//! 2e-5 for single operations, 1e-4 after six optimizer steps, both relative above 1.

use crate::support::{close, run, store};
use kernels::nn::{MlpConfig, Model, ModelConfig, Norm};
use kernels::ops::Activation;
use kernels::ops::loss::{Loss, LossConfig, Targets};
use kernels::optim::{ClipConfig, OptimizerConfig, Schedule, SchedulerConfig};
use kernels::pool::Pool;
use kernels::train::{Batch, TrainConfig, Trainer};
use serde_json::Value;
use std::sync::Arc;

fn goldens() -> Value {
    serde_json::from_str(include_str!("../golden/goldens.json")).expect("the goldens parse")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn singles(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

#[test]
fn linear_with_every_activation() {
    for case in goldens()["linear"].as_array().expect("cases") {
        let act: Activation = serde_json::from_value(case["activation"].clone()).expect("a known activation");
        let (w, b) = (singles(&case["w"]), singles(&case["b"]));
        let params = store(&[("l.weight", &[6, 7], &w), ("l.bias", &[6], &b)]);
        let (weight, bias) = (params.find("l.weight").expect("added"), params.find("l.bias").expect("added"));
        let targets = Targets::Real(singles(&case["t"]));
        let loss = Loss { config: &LossConfig::Mse, targets: &targets, weights: None };
        let got =
            run(&params, &singles(&case["x"]), 7, &loss, (2, 1), |tape, x| tape.linear(x, weight, Some(bias), act))
                .expect("valid");
        close(&format!("{act:?} y"), &got.output, &numbers(&case["y"]), 2e-5);
        close(&format!("{act:?} dx"), &got.input_grad, &numbers(&case["dx"]), 2e-5);
        close(&format!("{act:?} dw"), params.part(weight, &got.gradient), &numbers(&case["dw"]), 2e-5);
        close(&format!("{act:?} db"), params.part(bias, &got.gradient), &numbers(&case["db"]), 2e-5);
    }
}

#[test]
fn layer_norm() {
    let case = &goldens()["layer_norm"];
    let (g, b) = (singles(&case["gain"]), singles(&case["bias"]));
    let params = store(&[("n.weight", &[9], &g), ("n.bias", &[9], &b)]);
    let (gain, bias) = (params.find("n.weight").expect("added"), params.find("n.bias").expect("added"));
    let targets = Targets::Real(singles(&case["t"]));
    let loss = Loss { config: &LossConfig::Mse, targets: &targets, weights: None };
    let got =
        run(&params, &singles(&case["x"]), 9, &loss, (2, 1), |tape, x| tape.layer_norm(x, gain, bias)).expect("valid");
    close("y", &got.output, &numbers(&case["y"]), 2e-5);
    close("dx", &got.input_grad, &numbers(&case["dx"]), 2e-5);
    close("dgain", params.part(gain, &got.gradient), &numbers(&case["dgain"]), 2e-5);
    close("dbias", params.part(bias, &got.gradient), &numbers(&case["dbias"]), 2e-5);
}

#[test]
fn losses_with_sample_and_class_weights() {
    for case in goldens()["loss"].as_array().expect("cases") {
        let config: LossConfig = serde_json::from_value(case["config"].clone()).expect("a known loss");
        let targets = match case.get("classes") {
            Some(classes) => Targets::Class(numbers(classes).into_iter().map(|c| c as u32).collect()),
            None => Targets::Real(singles(&case["t"])),
        };
        let weights = case.get("weights").map(singles);
        let columns = case["columns"].as_u64().expect("a count") as usize;
        let loss = Loss { config: &config, targets: &targets, weights: weights.as_deref() };
        let identity = |tape: &mut kernels::tape::Tape<'_>, x| tape.activation(x, Activation::Identity);
        let got = run(&store(&[]), &singles(&case["y"]), columns, &loss, (2, 1), identity).expect("valid");
        let want = case["loss"].as_f64().expect("a number");
        assert!((got.loss.mean().expect("weights above 0") - want).abs() < 2e-5 * want.abs().max(1.0), "{config:?}");
        close(&format!("{config:?} dy"), &got.input_grad, &numbers(&case["dy"]), 2e-5);
    }
}

fn optimizer(name: &str) -> OptimizerConfig {
    let text = match name {
        "adamw" => r#"{"type":"adamw","learning_rate":0.01,"weight_decay":0.1}"#,
        "adam" => r#"{"type":"adam","learning_rate":0.01,"weight_decay":0.1}"#,
        "sgd" => r#"{"type":"sgd","learning_rate":0.05,"weight_decay":0.1}"#,
        _ => r#"{"type":"sgd","learning_rate":0.05,"weight_decay":0.1,"nesterov":true}"#,
    };
    serde_json::from_str(text).expect("well-formed")
}

#[test]
fn six_steps_with_every_optimizer() {
    for case in goldens()["training"].as_array().expect("cases") {
        let norm = if case["norm"] == true { Norm::LayerNorm } else { Norm::None };
        let config = MlpConfig {
            input_dim: 4,
            hidden_layers: vec![9, 6],
            activation: Activation::Gelu,
            dropout: 0.0,
            norm,
            output_dim: 2,
        };
        let name = case["optimizer"].as_str().expect("a name");
        let mut model = Model::new(&ModelConfig::Mlp(config), &Default::default(), 1).expect("valid");
        model.set_parameters(|param| singles(&case["before"][&param.name])).expect("shapes agree");
        let plan = TrainConfig {
            optimizer: optimizer(name),
            scheduler: SchedulerConfig::CosineAnnealing { t_max: 4, eta_min: 0.001 },
            clip: ClipConfig { max_norm: case["clip"].as_f64(), max_value: None },
            logical_shards: 3,
            ..TrainConfig::default()
        };
        let mut trainer = Trainer::new(model, plan, Arc::new(Pool::new(2))).expect("valid");
        for step in case["steps"].as_array().expect("steps") {
            let batch = Batch {
                rows: 10,
                features: singles(&step["x"]),
                inputs: Default::default(),
                targets: Targets::Real(singles(&step["t"])),
                weights: None,
                sample_ids: (0..10).collect(),
            };
            let got = trainer.step(&batch).expect("finite");
            for (key, value) in [("loss", got.loss), ("grad_norm", got.grad_norm), ("learning_rate", got.learning_rate)]
            {
                let want = step[key].as_f64().expect("a number");
                assert!(
                    (value - want).abs() < 1e-4 * want.max(0.01),
                    "{name} {norm:?} step {}: {key} {value}, not {want}",
                    got.step
                );
            }
            trainer.end_epoch(None).expect("no metric needed");
        }
        for (param, values) in trainer.model().params().iter() {
            close(&format!("{name} {norm:?} {}", param.name), values, &numbers(&case["after"][&param.name]), 1e-4);
        }
    }
}

#[test]
fn one_cycle_rates() {
    let config = serde_json::from_str(r#"{"type":"one_cycle","total_steps":10}"#).expect("well-formed");
    let mut schedule = Schedule::new(&config, 0.1).expect("valid");
    for want in numbers(&goldens()["one_cycle"]) {
        assert!((schedule.learning_rate() - want).abs() < 1e-12);
        schedule.on_step();
    }
}
