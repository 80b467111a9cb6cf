//! Outputs and gradients of whole models against PyTorch (tests/golden/make_model_goldens.py): transformers of both
//! norms, LSTM of one direction and two, convolutions with and without batch norm, categories, all branches of
//! `ad_score`. Tolerance 5e-5,
//! relative above 1.

use crate::support::close;
use kernels::buffer::AlignedBuf;
use kernels::nn::{Images, Init, Inputs, Model, ModelConfig, PixelValues, Steps};
use kernels::ops::Randomness;
use kernels::ops::loss::{Loss, LossConfig, Targets};
use kernels::optim::{OptimizerConfig, SgdConfig};
use kernels::pool::Pool;
use kernels::shard::Node;
use kernels::tape::{HeldShards, InputGrad, Mode, Rows, Tape, Workspace};
use kernels::text::Packed;
use kernels::train::{Batch, TrainConfig, Trainer};
use serde_json::Value;
use std::sync::Arc;

const TOLERANCE: f64 = 5e-5;

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("an array").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn singles(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

fn whole(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|v| v as u32).collect()
}

fn offsets(lengths: &Value) -> Vec<u32> {
    let ends = whole(lengths).into_iter().scan(0, |sum, n| {
        *sum += n;
        Some(*sum)
    });
    std::iter::once(0).chain(ends).collect()
}

fn inputs(case: &Value) -> Inputs {
    let given = &case["inputs"];
    let tokens = given.get("tokens").map(|t| Packed { ids: whole(&t["ids"]), offsets: offsets(&t["lengths"]) });
    let steps = given.get("steps").map(|s| Steps { values: singles(&s["values"]), offsets: offsets(&s["lengths"]) });
    let images = given.get("images").map(|i| {
        let [channels, height, width] = *whole(&i["shape"]) else { panic!("three sizes") };
        let pixels = PixelValues::Floats(singles(&i["values"]));
        Images { channels: channels as usize, height: height as usize, width: width as usize, pixels }
    });
    let categories = given.get("categories").map(whole).unwrap_or_default();
    Inputs { tokens, images, categories, steps }
}

pub fn batch(case: &Value) -> Batch {
    let rows = case["rows"].as_u64().expect("a count") as usize;
    Batch {
        rows,
        features: singles(&case["features"]),
        inputs: inputs(case),
        targets: Targets::Real(singles(&case["targets"])),
        weights: None,
        sample_ids: (0..rows as u64).collect(),
    }
}

pub fn model(case: &Value) -> Model {
    let config: ModelConfig = serde_json::from_value(case["config"].clone()).expect("a known model");
    let mut model = Model::new(&config, &Init::Default, 1).expect("valid");
    let begin = |name: &str, len: usize| vec![if name.ends_with("variance") { 1.0 } else { 0.0 }; len];
    model
        .set_parameters(|param| match case["params"].get(&param.name) {
            Some(values) => singles(values),
            None => begin(&param.name, param.shape.iter().product()),
        })
        .expect("shapes agree");
    model
}

#[test]
fn outputs_and_gradients_of_every_model() {
    let goldens: Value = serde_json::from_str(include_str!("../golden/models.json")).expect("the goldens parse");
    for case in goldens["models"].as_array().expect("cases") {
        let what = case["config"].to_string();
        let (model, batch) = (model(case), batch(case));
        let (mut ws, pool) = (Workspace::default(), Pool::new(2));
        let rows = Rows {
            count: batch.rows,
            sample_ids: &batch.sample_ids,
            mode: Mode::Train,
            randomness: Randomness::default(),
        };
        let mut tape = Tape::new(&mut ws, model.params(), rows).expect("valid");
        let y = model.forward(&mut tape, &batch.feed(), InputGrad::Skip).expect("valid");
        let loss = Loss { config: &LossConfig::Mse, targets: &batch.targets, weights: None };
        tape.forward_backward(&pool, y, &loss).expect("valid");
        close(&what, tape.value(y), &numbers(&case["outputs"]), TOLERANCE);
        let held = HeldShards { nodes: vec![Node::root(1)], bounds: vec![0, batch.rows], first: 0 };
        let mut gradient = [AlignedBuf::zeroed(model.params().flat_len()).expect("small")];
        tape.param_gradients(&pool, &held, &mut gradient).expect("computes");
        let grads = case["grads"].as_object().expect("by name");
        for (name, want) in grads {
            let id = model.params().find(name).unwrap_or_else(|| panic!("{what}: no parameter {name}"));
            close(&format!("{what} {name}"), model.params().part(id, &gradient[0]), &numbers(want), TOLERANCE);
        }
    }
}

#[test]
fn running_statistics_after_a_step() {
    let goldens: Value = serde_json::from_str(include_str!("../golden/models.json")).expect("the goldens parse");
    let cases = goldens["models"].as_array().expect("cases").iter().filter(|c| c.get("statistics").is_some());
    for case in cases {
        let optimizer = OptimizerConfig::Sgd(SgdConfig { learning_rate: 0.1, ..SgdConfig::default() });
        let plan = TrainConfig { optimizer, logical_shards: 1, ..TrainConfig::default() };
        let mut trainer = Trainer::new(model(case), plan, Arc::new(Pool::new(1))).expect("valid");
        trainer.step(&batch(case)).expect("finite");
        let params = trainer.model().params();
        for (name, want) in case["statistics"].as_object().expect("by name") {
            close(name, params.values(params.find(name).expect("declared")), &numbers(want), TOLERANCE);
        }
        let seen = params.values(params.find("visual.layers.0.norm.rows_seen").expect("declared"));
        assert_eq!(seen, [6.0 * 5.0 * 4.0], "rows of the first layer: six images of 5 x 4 pixels");
    }
}
