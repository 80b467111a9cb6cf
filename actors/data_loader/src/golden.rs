//! What scikit-learn and pandas say of small inputs (`tests/golden/make.py`), and plans to compare with.

use std::collections::BTreeMap;

use frame::manifest::ColumnRole;
use messages::plan::DataPlan;
use messages::rpc::SpecFormat;
use messages::spec::{PlanDefaults, SpecInput, plan, resolve_base};
use serde_json::Value as Json;

use crate::check::datetime::DateReader;
use crate::check::names::{Layout, Need, Use};
use crate::check::value::ValueReader;
use crate::load::{Loaded, MISSING_KEY, Values};

/// One section of the file.
pub fn section(name: &str) -> Json {
    let all: Json = serde_json::from_str(include_str!("../tests/golden/features.json")).expect("JSON");
    all[name].clone()
}

/// Numbers; null is NaN.
pub fn numbers(value: &Json) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|item| item.as_f64().unwrap_or(f64::NAN)).collect()
}

pub fn wholes(value: &Json) -> Vec<u32> {
    numbers(value).into_iter().map(|number| number as u32).collect()
}

pub fn texts(value: &Json) -> Vec<String> {
    value.as_array().expect("a list").iter().map(|item| item.as_str().unwrap_or_default().to_owned()).collect()
}

pub fn category(values: &[String]) -> Values {
    let (mut keys, mut distinct) = (Vec::new(), Vec::<String>::new());
    for text in values {
        let key = distinct.iter().position(|known| known == text).unwrap_or_else(|| {
            distinct.push(text.clone());
            distinct.len() - 1
        });
        keys.push(if text.is_empty() { MISSING_KEY } else { key as u32 });
    }
    Values::Category { keys, texts: distinct }
}

/// Equal but for rounding; NaN is NaN.
pub fn assert_near(found: &[f64], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (row, (a, b)) in found.iter().zip(expected).enumerate() {
        let near = (a.is_nan() && b.is_nan()) || (a - b).abs() <= 1e-12 * (1.0 + b.abs());
        assert!(near, "{what}, row {row}: {a}, expected {b}");
    }
}

/// The data part of a spec's plan; `data` stands below `data:`.
pub fn data_plan(data: &str, task: &str) -> DataPlan {
    let lines: Vec<String> = data.lines().map(|line| format!("  {line}")).collect();
    let text = format!("task: {task}\ndata:\n  path: a.csv\n  target: y\n{}\n", lines.join("\n"));
    let input = SpecInput { file: Some("job.yaml"), text: &text, format: SpecFormat::Yaml };
    let tree = resolve_base(&input, &mut |_, _| Err("no files".into())).expect("reads");
    plan(&tree, &[], &PlanDefaults::default()).unwrap_or_else(|errors| panic!("{errors:?}")).data
}

/// A table in memory.
pub fn loaded(columns: Vec<(&str, Values)>, rows: usize) -> Loaded {
    let uses = columns.iter().map(|(name, _)| Use {
        name: (*name).to_owned(),
        role: if *name == "y" { ColumnRole::Target } else { ColumnRole::Feature },
        need: Need::Infer,
        why: "",
        required: None,
        values: ValueReader::new(Vec::new(), false),
        dates: DateReader::default(),
    });
    Loaded {
        layout: Layout { names: columns.iter().map(|(name, _)| (*name).to_owned()).collect(), uses: uses.collect() },
        columns: columns.into_iter().map(|(_, values)| values).collect(),
        sources: Vec::new(),
        rows,
        first_test_row: rows,
        warnings: Vec::new(),
        row_of: None,
        pictures: BTreeMap::new(),
        inference: Vec::new(),
    }
}
