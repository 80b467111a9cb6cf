//! What splits, columns and steps of `data.derive` ask of their keys.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::super::draft::Draft;
use crate::plan::{DatePart, DeriveStep, Gap, WindowUnit};

const STRATEGY: &str = "data.split.strategy";

pub(super) fn complete(draft: &mut Draft<'_>) {
    split(draft);
    sizes(draft);
    columns(draft);
    derive(draft);
}

/// Keys that belong to a strategy.
fn split(draft: &mut Draft<'_>) {
    let Some(strategy) = draft.text(STRATEGY).map(str::to_owned) else { return };
    let fits: [(&str, &[&str]); 3] = [
        ("data.split.group_column", &["group", "stratified_group"]),
        ("data.split.time_column", &["time"]),
        ("data.split.stratify_column", &["stratified", "stratified_group"]),
    ];
    for (path, strategies) in fits {
        let given = draft.text(path).is_some() || draft.is_bad(path);
        let needed = !path.ends_with("stratify_column");
        if strategies.contains(&strategy.as_str()) {
            if needed && !given {
                draft.blame(path, format!("missing: data.split.strategy {strategy} needs it"));
            }
        } else if given {
            draft.warn(path, &format!("no effect because data.split.strategy is {strategy}"));
        }
    }
    gap(draft, &strategy);
    by_hash(draft, &strategy);
    let (folds, fold) = (draft.whole("data.split.folds"), draft.whole("data.split.fold").unwrap_or(0));
    match folds {
        Some(folds) if fold >= folds => {
            draft.blame("data.split.fold", format!("{fold}, but folds are counted from 0 to {}", folds - 1));
        }
        None if draft.is_written("data.split.fold") && !draft.is_bad("data.split.folds") => {
            draft.blame("data.split.fold", "without data.split.folds: expected both");
        }
        _ => {}
    }
    if strategy == "time" && draft.whole("data.split.repeat").is_some_and(|repeat| repeat > 0) {
        draft.blame("data.split.repeat", "a split by time has no other draw: expected 0");
    }
}

fn gap(draft: &mut Draft<'_>, strategy: &str) {
    let path = "data.split.gap";
    let Some(gap) = draft.text(path).map(str::to_owned) else { return };
    if strategy != "time" {
        draft.blame(path, format!("only a split by time has a gap; here {STRATEGY} is {strategy}"));
    } else if Gap::parse(&gap).is_none() {
        draft.blame(path, format!("expected a number of rows, or a duration such as 36h or 7d, found {gap:?}"));
    }
}

fn by_hash(draft: &mut Draft<'_>, strategy: &str) {
    if draft.text("data.split.by") != Some("hash") {
        return;
    }
    if !matches!(strategy, "random" | "group") {
        let message = format!(
            "hash, but a hash knows nothing of the other rows, and {STRATEGY} is {strategy}: expected exact, or strategy random or group"
        );
        draft.blame("data.split.by", message);
    } else if strategy == "random" && draft.text("data.id_column").is_none() {
        let message =
            "without data.id_column the hash is of the row's number: a row that is put in before others moves them";
        draft.warn("data.split.by", message);
    }
}

/// What is left to train on.
fn sizes(draft: &mut Draft<'_>) {
    let has_test = !draft.texts("data.test_path").is_empty();
    let folds = draft.whole("data.split.folds");
    let (test_path, val_path) = ("data.split.test_size", "data.split.val_size");
    if has_test && draft.is_written(test_path) {
        draft.warn(test_path, "no effect because data.test_path is given");
    }
    if let Some(folds) = folds {
        let replaced = if has_test { val_path } else { test_path };
        if draft.is_written(replaced) && !(has_test && replaced == test_path) {
            draft.warn(replaced, &format!("no effect because one of {folds} folds is held out"));
        }
    }
    let (Some(mut test), Some(mut val)) = (draft.number(test_path), draft.number(val_path)) else { return };
    match folds {
        Some(folds) if has_test => val = 1.0 / folds as f64,
        Some(folds) => test = 1.0 / folds as f64,
        None => {}
    }
    let train = (1.0 - if has_test { 0.0 } else { test }) * (1.0 - val);
    if train < 0.01 {
        let message = format!("leaves {:.2} % of the rows to train on: expected at least 1 %", train * 100.0);
        let path = if draft.is_written(val_path) { val_path } else { test_path };
        draft.blame(path, message);
    }
}

/// Settings of columns that belong together.
fn columns(draft: &mut Draft<'_>) {
    let named: BTreeSet<String> = draft
        .entries
        .values()
        .filter(|entry| entry.key.path.starts_with("data.columns.*."))
        .map(|entry| entry.segments[2].clone())
        .collect();
    let embeds = draft.text("data.preprocessing.categories") == Some("embedding");
    for name in named {
        let path = |setting: &str| format!("data.columns.{name}.{setting}");
        let kind = draft.text(&path("type")).unwrap_or("auto").to_owned();
        let encoding = draft.text(&path("encoding")).map(str::to_owned);
        if encoding.as_deref() == Some("embedding") && !embeds {
            let kind = draft.text("model.type").unwrap_or_default().to_owned();
            if !matches!(kind.as_str(), "tabular" | "ad_score") {
                draft.blame(
                    &path("encoding"),
                    format!("embedding, but model.type {kind} has no embeddings for categories"),
                );
            }
        }
        if draft.value(&path("order")).is_some() && encoding.as_deref() != Some("ordinal") {
            draft.blame(&path("order"), "only categories with encoding: ordinal have an order");
        }
        for setting in ["date_parts", "date_reference"] {
            if draft.value(&path(setting)).is_some() && kind != "datetime" {
                draft.blame(&path(setting), format!("belongs to columns of type datetime; here the type is {kind}"));
            }
        }
        normalize(draft, &name, &kind);
    }
}

fn normalize(draft: &mut Draft<'_>, name: &str, kind: &str) {
    let path = |setting: &str| format!("data.columns.{name}.{setting}");
    let given = |draft: &Draft<'_>, setting: &str| draft.value(&path(setting)).is_some();
    for setting in ["normalize", "mean", "std"] {
        if given(draft, setting) && kind != "image" {
            draft.blame(&path(setting), format!("belongs to columns of type image; here the type is {kind}"));
            return;
        }
    }
    let (mean, std) = (given(draft, "mean"), given(draft, "std"));
    if mean != std {
        let lacking = if mean { "std" } else { "mean" };
        draft.blame(&path(lacking), "missing: expected mean and std, one number a channel each");
        return;
    }
    if mean && draft.text(&path("normalize")).is_none() {
        draft.blame(&path("mean"), "without normalize: expected normalize: given beside mean and std");
    }
    match draft.text(&path("normalize")) {
        Some("given") if !mean => draft.blame(&path("normalize"), "given, but mean and std are not"),
        Some("fitted" | "none") if mean => {
            draft.blame(&path("mean"), "beside normalize that is not given: expected one of both");
        }
        _ => {}
    }
}

/// Keys of a step that it needs, and that it may have.
fn keys_of(kind: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        "ratio" => (&["name", "numerator", "denominator"], &["zero", "flag"]),
        "rolling" => {
            (&["columns", "time_column"], &["by", "window", "unit", "aggregates", "include_current", "min_rows"])
        }
        "lag" => (&["columns", "time_column"], &["by", "lags"]),
        "aggregate" => (&["columns", "by"], &["aggregates"]),
        "cross" => (&["columns"], &["name"]),
        "polynomial" => (&["columns"], &["degree", "interaction_only"]),
        "date_difference" => (&["name", "from", "to"], &["unit"]),
        _ => (&["columns", "parts"], &["reference"]),
    }
}

fn derive(draft: &mut Draft<'_>) {
    let path = "data.derive";
    let Some(items) = draft.value(path).and_then(Json::as_array).cloned() else { return };
    let (mut steps, mut made): (Vec<Json>, BTreeSet<String>) = (Vec::new(), BTreeSet::new());
    for (index, item) in items.into_iter().enumerate() {
        let Json::Object(mut step) = item else { continue };
        step.retain(|_, value| !value.is_null());
        let kind = step.get("type").and_then(Json::as_str).unwrap_or_default().to_owned();
        let said = format!("step {} ({kind})", index + 1);
        let (needed, optional) = keys_of(&kind);
        for key in needed.iter().filter(|key| !step.contains_key(**key)) {
            draft.blame(path, format!("{said}: missing: {key}"));
        }
        for key in step
            .keys()
            .filter(|key| *key != "type" && !needed.contains(&key.as_str()) && !optional.contains(&key.as_str()))
        {
            let expected = [needed, optional].concat().join(", ");
            draft.blame(path, format!("{said}: {key} does not belong to it: expected {expected}"));
        }
        if draft.is_bad(path) {
            continue;
        }
        let plan = match serde_json::from_value::<DeriveStep>(Json::Object(step)) {
            Ok(plan) => plan,
            Err(error) => {
                draft.blame(path, format!("{said}: {error}"));
                continue;
            }
        };
        if let Some(problem) = problem(&plan) {
            draft.blame(path, format!("{said}: {problem}"));
        }
        for name in plan.outputs() {
            if !made.insert(name.clone()) {
                draft.blame(path, format!("{said}: makes {name:?}, which a step before it makes already"));
            }
        }
        steps.push(json!(plan));
    }
    if !draft.is_bad(path) && (draft.is_written(path) || !steps.is_empty()) {
        draft.put(path, steps);
    }
    words_only(draft);
}

/// What a step cannot mean.
fn problem(step: &DeriveStep) -> Option<String> {
    let twice = |columns: &[String]| {
        let mut seen = BTreeSet::new();
        columns.iter().find(|column| !seen.insert(*column)).map(|column| format!("column {column:?} stands twice"))
    };
    match step {
        DeriveStep::Rolling { columns, by, window, unit, min_rows, .. } => {
            if *unit == WindowUnit::Rows && min_rows > window {
                return Some(format!("min_rows {min_rows} is above window {window}"));
            }
            twice(columns).or_else(|| twice(by))
        }
        DeriveStep::Lag { columns, by, .. } | DeriveStep::Aggregate { columns, by, .. } => {
            twice(columns).or_else(|| twice(by)).or_else(|| columns.is_empty().then(|| "no columns".to_owned()))
        }
        DeriveStep::Cross { columns, .. } if columns.len() < 2 => Some("expected at least two columns".into()),
        DeriveStep::Polynomial { columns, .. } if columns.len() > 64 => Some("expected at most 64 columns".into()),
        DeriveStep::Cross { columns, .. } | DeriveStep::Polynomial { columns, .. } => twice(columns),
        DeriveStep::DateParts { columns, parts, reference } => {
            let counts = parts.contains(&DatePart::DaysSince);
            match reference {
                Some(_) if !counts => Some("reference without the part days_since".into()),
                Some(text) if date(text).is_none() => {
                    Some(format!("reference {text:?}: expected a day such as 2024-01-01"))
                }
                _ => twice(columns),
            }
        }
        DeriveStep::Ratio { .. } | DeriveStep::DateDifference { .. } => None,
    }
}

/// A day that a plan names.
fn date(text: &str) -> Option<jiff::civil::Date> {
    text.parse().ok()
}

/// Models that read nothing but words or images have no place for derived columns.
fn words_only(draft: &mut Draft<'_>) {
    let kind = draft.text("model.type").unwrap_or_default().to_owned();
    let some = draft.value("data.derive").and_then(Json::as_array).is_some_and(|steps| !steps.is_empty());
    if some && matches!(kind.as_str(), "transformer_classifier" | "image_classifier") {
        draft.blame("data.derive", format!("model.type {kind} does not read derived columns"));
    }
}
