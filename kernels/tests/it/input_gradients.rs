//! Gradients of a model's output with respect to all it reads: against finite differences, against PyTorch, the same
//! bits for any rows beside and any threads.

use crate::golden_models;
use crate::models;
use crate::support::{bits, close, model as mlp, random};
use kernels::ErrorKind;
use kernels::nn::{Feed, InputGradients, Model, ModelConfig, PixelValues};
use kernels::params::Param;
use kernels::pool::Pool;
use kernels::tape::Workspace;
use kernels::train::Batch;

fn gradients(model: &Model, batch: &Batch, threads: usize) -> InputGradients {
    model.input_gradients(&batch.feed(), 0, &Pool::new(threads), &mut Workspace::default()).expect("valid")
}

/// The sum of all rows' answers.
fn answer(model: &Model, batch: &Batch) -> f64 {
    let feed = Feed::new(batch.rows, &batch.features, &batch.inputs);
    let y = model.predict_feed(&feed, &Pool::new(1), &mut Workspace::default()).expect("valid");
    y.iter().map(|v| f64::from(*v)).sum()
}

/// Holds a gradient against the slope of the answer, where the two sides agree on one (no bend between them).
fn check(what: &str, grad: &[f32], step: f32, moved: impl Fn(usize, f32) -> f64) {
    if grad.is_empty() {
        return;
    }
    let (still, mut compared) = (moved(0, 0.0), 0);
    for (i, g) in grad.iter().enumerate() {
        let (up, down) = (moved(i, step), moved(i, -step));
        let slopes = [(up - still) / f64::from(step), (still - down) / f64::from(step)];
        if (slopes[0] - slopes[1]).abs() > 2e-3 {
            continue;
        }
        let slope = (slopes[0] + slopes[1]) / 2.0;
        assert!((f64::from(*g) - slope).abs() < 1e-3 + 1e-2 * slope.abs(), "{what}[{i}]: {g}, not {slope}");
        compared += 1;
    }
    assert!(compared * 10 >= grad.len() * 8, "{what}: {compared} of {} compared", grad.len());
}

/// Bytes become the numbers that they stand for, so that they can be moved a little.
fn with_numbers(mut batch: Batch) -> Batch {
    if let Some(images) = &mut batch.inputs.images
        && let PixelValues::Bytes(bytes) = &images.pixels
    {
        images.pixels = PixelValues::Floats(bytes.iter().map(|b| f32::from(*b) / 127.5 - 1.0).collect());
    }
    batch
}

/// Every token another one, so that a row of the table is one token's vector.
fn with_distinct_tokens(mut batch: Batch) -> Batch {
    let tokens = batch.inputs.tokens.as_mut().expect("tokens");
    (0..).zip(&mut tokens.ids).for_each(|(i, id)| *id = i);
    batch
}

#[test]
fn gradients_of_every_input_against_finite_differences() {
    for config in models::configs() {
        let mut model = models::model(&config);
        let fresh = model.clone();
        // Embeddings begin small, and a norm of small numbers bends too soon for a difference of f32.
        let grown = |param: &Param| {
            let factor = if param.name.contains(".embeddings.") { 20.0 } else { 1.0 };
            let id = fresh.params().find(&param.name).expect("its own");
            fresh.params().values(id).iter().map(|v| v * factor).collect()
        };
        model.set_parameters(grown).expect("shapes agree");
        let batch = models::fit(&model, with_distinct_tokens(with_numbers(models::batch(4, 8))));
        let InputGradients { features, steps, pixels, tokens } = gradients(&model, &batch, 2);
        let what = format!("{config:?}");
        let reads = [&features, &steps, &pixels, &tokens].map(|g| !g.is_empty());
        let expected = match &config {
            ModelConfig::AdScore(c) => [c.table.is_some(), false, c.visual_encoder.is_some(), c.text_encoder.is_some()],
            ModelConfig::Tabular(_) => [true, false, false, false],
            ModelConfig::LstmSequence(_) => [false, true, false, false],
            ModelConfig::ImageClassifier(_) => [false, false, true, false],
            _ => [false, false, false, true],
        };
        assert_eq!(reads, expected, "{what}");
        check(&format!("features of {what}"), &features, 4e-3, |i, by| {
            let mut batch = batch.clone();
            batch.features[i] += by;
            answer(&model, &batch)
        });
        check(&format!("steps of {what}"), &steps, 4e-3, |i, by| {
            let mut batch = batch.clone();
            batch.inputs.steps.as_mut().expect("steps").values[i] += by;
            answer(&model, &batch)
        });
        check(&format!("pixels of {what}"), &pixels, 4e-3, |i, by| {
            let mut batch = batch.clone();
            let PixelValues::Floats(values) = &mut batch.inputs.images.as_mut().expect("images").pixels else {
                unreachable!("numbers")
            };
            values[i] += by;
            answer(&model, &batch)
        });
        check(&format!("tokens of {what}"), &tokens, 4e-3, |i, by| {
            let mut moved = model.clone();
            let values = |param: &Param| {
                let id = model.params().find(&param.name).expect("its own");
                let mut values = model.params().values(id).to_vec();
                if param.name == "text.embeddings.token.weight" {
                    values[i] += by;
                }
                values
            };
            moved.set_parameters(values).expect("shapes agree");
            answer(&moved, &batch)
        });
    }
}

#[test]
fn those_of_a_plain_model_and_of_every_output() {
    let model = mlp(5, 3, 4);
    let x = random(1, 4 * 5);
    let (pool, inputs) = (Pool::new(1), Default::default());
    for column in 0..3 {
        let feed = Feed::new(4, &x, &inputs);
        let got = model.input_gradients(&feed, column, &pool, &mut Workspace::default()).expect("valid");
        check(&format!("output {column}"), &got.features, 4e-3, |i, by| {
            let mut x = x.clone();
            x[i] += by;
            let y = model.predict(&x, 4, &pool).expect("valid");
            y.iter().skip(column).step_by(3).map(|v| f64::from(*v)).sum()
        });
    }
    let feed = Feed::new(4, &x, &inputs);
    let error = model.input_gradients(&feed, 3, &pool, &mut Workspace::default()).expect_err("three outputs");
    assert_eq!(error.kind(), ErrorKind::Value);
    assert!(error.to_string().contains("below 3"), "{error}");
    let error = model.input_gradients(&Feed::new(3, &x, &inputs), 0, &pool, &mut Workspace::default());
    assert_eq!(error.expect_err("four rows").kind(), ErrorKind::Shape);
}

#[test]
fn those_of_ad_score_are_those_of_pytorch() {
    let goldens: serde_json::Value =
        serde_json::from_str(include_str!("../golden/models.json")).expect("the goldens parse");
    let cases = goldens["models"].as_array().expect("cases");
    let case = cases.iter().find(|case| case.get("input_grads").is_some()).expect("ad_score");
    let got = gradients(&golden_models::model(case), &golden_models::batch(case), 1);
    assert!(got.steps.is_empty());
    for (name, got) in [("features", got.features), ("pixels", got.pixels), ("tokens", got.tokens)] {
        close(name, &got, &golden_models::numbers(&case["input_grads"][name]), 1e-7);
    }
}

#[test]
fn they_do_not_depend_on_rows_beside_or_threads_and_bytes_count_as_bytes() {
    for config in models::configs() {
        let model = models::model(&config);
        let batch = models::fit(&model, models::batch(150, 3));
        let whole = gradients(&model, &batch, 1);
        let all = |g: &InputGradients| [bits(&g.features), bits(&g.steps), bits(&g.pixels), bits(&g.tokens)];
        assert_eq!(all(&gradients(&model, &batch, 2)), all(&whole), "{config:?}");
        let mut apart = InputGradients::default();
        for rows in [0..1, 1..77, 77..150] {
            let part = batch.feed().part(rows);
            let got = model.input_gradients(&part, 0, &Pool::new(1), &mut Workspace::default()).expect("valid");
            apart.features.extend(got.features);
            apart.steps.extend(got.steps);
            apart.pixels.extend(got.pixels);
            apart.tokens.extend(got.tokens);
        }
        assert_eq!(all(&apart), all(&whole), "{config:?}");
        let numbers = gradients(&model, &with_numbers(batch.clone()), 1);
        for (byte, number) in whole.pixels.iter().zip(&numbers.pixels) {
            assert!((byte * 127.5 - number).abs() <= 1e-5 * number.abs().max(1e-3), "{byte} a byte, {number} a unit");
        }
        let none = batch.feed().part(5..5);
        let nothing = model.input_gradients(&none, 0, &Pool::new(1), &mut Workspace::default()).expect("valid");
        assert_eq!(nothing, InputGradients::default());
    }
}
