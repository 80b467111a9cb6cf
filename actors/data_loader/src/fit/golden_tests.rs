//! Imputation, scalings and encoders against scikit-learn.

use std::collections::BTreeMap;

use frame::manifest::{Encoding, FittedScale};
use messages::plan::Task;

use super::category::{self, Categories};
use super::{Inputs, number, target};
use crate::check::target::TargetValues;
use crate::golden::{assert_near, category as category_values, data_plan, loaded, numbers, section, texts, wholes};
use crate::load::Values;
use messages::plan::CategoryEncoding;

fn number_encoding(settings: &str) -> (f64, FittedScale) {
    let golden = section("scalings");
    let values = numbers(&golden["train"]);
    let rows: Vec<u32> = (0..values.len() as u32).collect();
    let plan = data_plan(&format!("preprocessing: {{ clip: 0, {settings} }}"), "regression");
    let statistics = number::statistics(&values, &rows);
    let Encoding::Number { impute, scale, missing_indicator: true, .. } =
        number::fit(&plan, "x", &values, &rows, &statistics)
    else {
        panic!("a number with an indicator");
    };
    (impute, scale)
}

#[test]
fn scalings_are_those_of_scikit_learn() {
    let golden = section("scalings");
    let points = numbers(&golden["points"]);
    for (name, settings) in [
        ("standard", "scale: standard"),
        ("min_max", "scale: min_max"),
        ("robust", "scale: robust"),
        ("quantile", "scale: quantile, quantiles: 11"),
        ("quantile_normal", "scale: quantile_normal"),
    ] {
        let (_, scale) = number_encoding(settings);
        let found: Vec<f64> = points.iter().map(|&x| scale.apply(x, 0.0)).collect();
        assert_near(&found, &numbers(&golden["scaled"][name]), name);
    }
}

#[test]
fn imputed_values_and_bounds_are_those_of_scikit_learn_and_numpy() {
    let golden = section("scalings");
    for name in ["mean", "median", "mode"] {
        let (found, _) = number_encoding(&format!("impute: {name}"));
        assert_near(&[found], &[golden["impute"][name].as_f64().expect("a number")], name);
    }
    assert_eq!(number_encoding("impute: constant, impute_value: -7").0, -7.0);
    for (name, settings) in [("quantile", "outliers: quantile, outlier_quantile: 0.05"), ("iqr", "outliers: iqr")] {
        let (_, FittedScale::Bounded { low, high, then }) = number_encoding(settings) else { panic!("bounds") };
        assert_near(&[low, high], &numbers(&golden["bounds"][name]), name);
        // The scaling is fitted on what is left.
        let cut: Vec<f64> = numbers(&golden["train"]).into_iter().filter(|x| !x.is_nan()).collect();
        let cut: Vec<f64> = cut.into_iter().map(|x| x.max(low).min(high)).collect();
        let (mean, std) = number::mean_and_std(&cut);
        assert_eq!(*then, FittedScale::Standard { mean, std }, "{name}");
    }
}

fn category_encoding(encoding: CategoryEncoding, settings: &str) -> Encoding {
    let golden = section("categories");
    let Values::Category { keys, texts } = category_values(&texts(&golden["train"])) else { panic!("texts") };
    let train: Vec<u32> = (0..keys.len() as u32).collect();
    let plan = data_plan(&format!("preprocessing: {{ scale: none, {settings} }}"), "regression");
    let column = Categories { keys: &keys, texts: &texts, train: &train, name: "c" };
    category::fit(&plan, encoding, &column, &mut vec![]).expect("fits")
}

#[test]
fn category_encoders_are_those_of_scikit_learn() {
    let golden = section("categories");
    let tests = texts(&golden["tests"]);
    let Encoding::OneHot { categories, other } = category_encoding(CategoryEncoding::OneHot, "min_frequency: 5") else {
        panic!("one-hot");
    };
    assert_eq!((categories, other), (texts(&golden["kept"]), true));
    let Encoding::Ordinal { categories, .. } = category_encoding(CategoryEncoding::Ordinal, "min_frequency: 1") else {
        panic!("ordinal");
    };
    let place = |text: &String| categories.iter().position(|c| c == text).map_or(-1.0, |place| place as f64);
    assert_eq!(tests.iter().map(place).collect::<Vec<_>>(), numbers(&golden["ordinal"]));
    for (text, expected) in tests.iter().zip(golden["hashed"].as_array().expect("rows")) {
        let (at, sign) = frame::hash::bucket(text, 8);
        let mut row = vec![0.0; 8];
        row[at] = f64::from(sign);
        assert_eq!(row, numbers(expected), "{text}");
    }
    let Encoding::Frequency { categories, shares, .. } =
        category_encoding(CategoryEncoding::Frequency, "min_frequency: 1")
    else {
        panic!("frequency");
    };
    let share = |text: &String| categories.iter().position(|c| c == text).map_or(0.0, |place| shares[place]);
    assert_near(&tests.iter().map(share).collect::<Vec<_>>(), &numbers(&golden["frequency"]), "frequency");
}

#[test]
fn target_encoding_is_that_of_scikit_learn() {
    let golden = section("target");
    let Values::Category { keys, texts: distinct } = category_values(&texts(&golden["train"])) else { panic!("texts") };
    let train: Vec<u32> = (0..keys.len() as u32).collect();
    for case in golden["cases"].as_array().expect("cases") {
        let (kind, smoothing) = (case["kind"].as_str().expect("a kind"), case["smoothing"].as_f64());
        let (name, task, classes) = match kind {
            "continuous" => ("regression", Task::Regression, 0),
            "binary" => ("binary_classification", Task::BinaryClassification, 2),
            _ => ("multiclass", Task::Multiclass, 3),
        };
        let setting = smoothing.map_or(String::new(), |s| format!(", target_encoding: {{ smoothing: {s}, folds: 4 }}"));
        let plan = data_plan(&format!("preprocessing: {{ scale: none{setting} }}"), name);
        let values = numbers(&case["targets"]);
        let targets = TargetValues {
            values: values.iter().map(|&y| y as f32).collect(),
            classes: (0..classes).map(|class| class.to_string()).collect(),
        };
        let (table, images) = (loaded(vec![], keys.len()), BTreeMap::new());
        let inputs = Inputs {
            loaded: &table,
            train: &train,
            task,
            target: &targets,
            train_samples: &train,
            images: &images,
            pretrained: None,
        };
        let column = Categories { keys: &keys, texts: &distinct, train: &train, name: "c" };
        let (encoding, own) = target::fit(&plan, &column, inputs).expect("fits");
        let Encoding::Target { categories, outputs, .. } = encoding else { panic!("target") };
        assert_eq!(categories, texts(&case["categories"]));
        let (folds, expected) = (wholes(&case["folds"]), case["encodings"].as_array().expect("outputs"));
        assert_eq!((outputs.len(), own.len()), (expected.len(), expected.len()), "{kind}");
        for (index, output) in outputs.iter().enumerate() {
            let what = format!("{kind} {smoothing:?} {index}");
            let near = |found: &[f64], expected: &[f64]| {
                // Targets went through f32.
                let same = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
                assert!(same && found.len() == expected.len(), "{what}: {found:?}, expected {expected:?}");
            };
            near(&output.means, &numbers(&expected[index]));
            near(&[output.prior], &[numbers(&case["prior"])[index]]);
            let single: Vec<f64> = match kind {
                "multiclass" => values.iter().map(|&y| f64::from(u8::from(y as usize == index))).collect(),
                _ => values.clone(),
            };
            let found = target::out_of_fold_values(&keys, &single, &folds, distinct.len(), smoothing);
            near(&found, &numbers(&case["out_of_fold"][index]));
        }
    }
}
