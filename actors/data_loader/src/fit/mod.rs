//! Fitting preprocessing, on the rows of the train part only: no value of val or test moves anything here.

mod category;
#[cfg(test)]
mod golden_tests;
mod image;
pub mod number;
mod target;
mod text;

pub use number::mean_and_std;

use std::collections::BTreeMap;

use frame::derive::Step;
use frame::manifest::{
    Column, ColumnKind, ColumnRole, Encoding, Feature, FittedTransform, MAX_FEATURES, Statistics, Target,
};
use messages::WireError;
use messages::plan::{CategoryEncoding, ColumnType, DataPlan, TargetTransform, Task};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::check::target::TargetValues;
use crate::check::{Violation, names::Use};
use crate::derive::is_part_of_date;
use crate::load::{Loaded, Values, alive};
use crate::parallel;
use crate::pretrained::Pretrained;
use crate::source::idx::Images;

/// What was fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fitted {
    pub columns: Vec<Column>,
    pub features: Vec<Feature>,
    pub feature_names: Vec<String>,
    pub target: Target,
    /// Columns that the shards of train have beside their own: a value for each row, NaN for rows of no train.
    pub out_of_fold: Vec<(String, Vec<f64>)>,
    /// Normalization of image columns.
    pub normalized: Vec<Step>,
}

/// What fitting looks at.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub loaded: &'a Loaded,
    /// Rows of the train part.
    pub train: &'a [u32],
    pub task: Task,
    pub target: &'a TargetValues,
    /// Samples of the train part: its rows, unless several rows make a sample.
    pub train_samples: &'a [u32],
    /// Images by column.
    pub images: &'a BTreeMap<String, Images>,
    pub pretrained: Option<&'a Pretrained>,
}

/// Statistics and encodings of all columns, and the target's transform.
pub fn fit(
    plan: &DataPlan,
    task: Task,
    inputs: Inputs<'_>,
    cancelled: &CancellationToken,
    warnings: &mut Vec<String>,
) -> Result<Fitted, WireError> {
    let loaded = inputs.loaded;
    let of_column = |name: &String| {
        alive(cancelled)?;
        loaded.column(name).map(|(usage, values)| fit_column(plan, usage, values, inputs)).transpose()
    };
    let (mut columns, mut features, mut feature_names) = (Vec::new(), Vec::new(), Vec::new());
    let (mut out_of_fold, mut normalized) = (Vec::new(), Vec::new());
    for (name, fitted) in loaded.layout.names.iter().zip(parallel::map(&loaded.layout.names, of_column)) {
        let Some(fitted) = fitted? else {
            columns.push(unused(name, ColumnRole::None));
            continue;
        };
        warnings.extend(fitted.warnings);
        out_of_fold.extend(fitted.out_of_fold);
        normalized.extend(fitted.normalized);
        if let Some(encoding) = fitted.encoding {
            let feature = Feature { column: name.clone(), first: feature_names.len(), encoding };
            feature_names.extend(feature.encoding.names(name));
            features.push(feature);
        }
        columns.push(fitted.column);
    }
    if features.is_empty() || feature_names.len() > MAX_FEATURES {
        let message = format!("{} features after encoding, expected 1 to {MAX_FEATURES}", feature_names.len());
        return Err(Violation::new(message).hint("lower data.preprocessing.max_categories, or exclude columns").into());
    }
    let target = fit_target(plan, task, inputs.target, inputs.train_samples);
    Ok(Fitted { columns, features, feature_names, target, out_of_fold, normalized })
}

/// What one column came to.
struct FittedColumn {
    column: Column,
    /// None where the column is no feature, or has nothing to say.
    encoding: Option<Encoding>,
    out_of_fold: Vec<(String, Vec<f64>)>,
    normalized: Option<Step>,
    warnings: Vec<String>,
}

fn fit_column(plan: &DataPlan, usage: &Use, values: &Values, inputs: Inputs<'_>) -> Result<FittedColumn, WireError> {
    let (mut out_of_fold, mut warnings) = (Vec::new(), Vec::new());
    let column = describe(usage, values, inputs.train);
    let mut encoding = None;
    if usage.is_feature() {
        encoding = encode(plan, usage, values, inputs, &column, &mut out_of_fold, &mut warnings)?;
    }
    let normalized = match encoding {
        Some(_) => image::normalization(plan, &usage.name, values, inputs)?,
        None => None,
    };
    Ok(FittedColumn { column, encoding, out_of_fold, normalized, warnings })
}

fn unused(name: &str, role: ColumnRole) -> Column {
    Column { name: name.to_owned(), r#type: ColumnKind::Dropped, role, statistics: None, categories: Vec::new() }
}

fn describe(usage: &Use, values: &Values, train: &[u32]) -> Column {
    match values {
        Values::Number(numbers) => Column {
            name: usage.name.clone(),
            r#type: ColumnKind::Number,
            role: usage.role,
            statistics: Some(number::statistics(numbers, train)),
            categories: Vec::new(),
        },
        Values::Category { keys, texts } => {
            let counts = category::counts(keys, texts.len(), train);
            Column {
                name: usage.name.clone(),
                r#type: ColumnKind::Category,
                role: usage.role,
                statistics: Some(category::statistics(&counts, train.len())),
                categories: category::listed(&counts, texts),
            }
        }
        Values::Id(_) => Column {
            r#type: ColumnKind::Category,
            statistics: Some(Statistics {
                count: train.len() as u64,
                distinct: train.len() as u64,
                ..Statistics::default()
            }),
            ..unused(&usage.name, usage.role)
        },
        Values::Text(texts) => Column {
            name: usage.name.clone(),
            r#type: ColumnKind::Text,
            role: usage.role,
            statistics: Some(text::statistics(texts, train)),
            categories: Vec::new(),
        },
        Values::Empty => unused(&usage.name, usage.role),
    }
}

/// The encoding of a feature column; none where it has nothing to say.
fn encode(
    plan: &DataPlan,
    usage: &Use,
    values: &Values,
    inputs: Inputs<'_>,
    described: &Column,
    out_of_fold: &mut Vec<(String, Vec<f64>)>,
    warnings: &mut Vec<String>,
) -> Result<Option<Encoding>, WireError> {
    let train = inputs.train;
    let statistics = described.statistics.clone().unwrap_or_default();
    if statistics.distinct <= 1 && statistics.missing == 0 && described.r#type != ColumnKind::Dropped {
        if is_part_of_date(plan, &usage.name) {
            return Ok(None);
        }
        warnings.push(format!("column {:?} has the same value in every row of train: it teaches nothing", usage.name));
    }
    if is_date(plan, &usage.name) {
        // Its parts are features.
        return Ok(None);
    }
    if plan.columns.get(&usage.name).is_some_and(|column| column.r#type == ColumnType::Image) {
        let images = inputs.images.get(&usage.name);
        return Ok(images.map(|images| Encoding::Image {
            channels: images.channels,
            height: images.height,
            width: images.width,
        }));
    }
    Ok(match values {
        Values::Number(numbers) => {
            if plan.columns.get(&usage.name).is_some_and(|column| column.fitting.encoding.is_some()) {
                let message =
                    format!("data.columns.{}.encoding: the column holds numbers, which have none", usage.name);
                let hint = format!("declare data.columns.{}.type: category", usage.name);
                return Err(Violation::new(message).column(&usage.name).hint(hint).into());
            }
            if looks_like_id(&usage.name, numbers, &statistics) {
                warnings.push(format!("column {:?} has another whole number in each row of train: if it identifies rows, exclude it or make it data.id_column", usage.name));
            }
            Some(number::fit(plan, &usage.name, numbers, train, &statistics))
        }
        Values::Category { keys, texts } => {
            if statistics.distinct > 100 && statistics.distinct * 2 > statistics.count {
                warnings.push(format!("column {:?} has {} different texts in {} rows of train: if it identifies rows, exclude it or make it data.id_column", usage.name, statistics.distinct, statistics.count));
            }
            let column = category::Categories { keys, texts, train, name: &usage.name };
            let own = plan.columns.get(&usage.name).and_then(|column| column.fitting.encoding);
            let encoding = match own.unwrap_or(plan.preprocessing.categories) {
                CategoryEncoding::Target => {
                    let (encoding, own) = target::fit(plan, &column, inputs)?;
                    out_of_fold.extend(own);
                    encoding
                }
                other => category::fit(plan, other, &column, warnings)?,
            };
            let says = encoding.width() > 0 || matches!(encoding, Encoding::Index { .. });
            says.then_some(encoding)
        }
        Values::Text(texts) if !plan.text.clean.is_empty() => {
            let texts = text::cleaned(texts, &plan.text.clean);
            Some(text::fit(&plan.text, &usage.name, &texts, train, inputs.pretrained, warnings)?)
        }
        Values::Text(texts) => Some(text::fit(&plan.text, &usage.name, texts, train, inputs.pretrained, warnings)?),
        Values::Id(_) | Values::Empty => None,
    })
}

fn is_date(plan: &DataPlan, name: &str) -> bool {
    plan.columns.get(name).is_some_and(|column| column.r#type == ColumnType::Datetime)
}

/// All different, all whole; a name that says id, or values that rise or fall by about one a row.
fn looks_like_id(name: &str, numbers: &[f64], statistics: &Statistics) -> bool {
    let whole = || numbers.iter().all(|value| value.is_nan() || value.fract() == 0.0);
    let lower = name.to_ascii_lowercase();
    let named = lower == "id"
        || lower.ends_with("_id")
        || lower.ends_with(" id")
        || lower == "index"
        || lower == "uuid"
        || name.ends_with("Id")
        || name.ends_with("ID");
    let dense = || statistics.max.zip(statistics.min).is_some_and(|(max, min)| max - min <= 4.0 * numbers.len() as f64);
    statistics.count > 20 && statistics.distinct == statistics.count && whole() && (named || dense())
}

fn fit_target(plan: &DataPlan, task: Task, target: &TargetValues, train: &[u32]) -> Target {
    let rows = train.len().max(1) as f64;
    let (mut train_mean, mut train_priors, mut transform) = (0.0, Vec::new(), FittedTransform::None);
    if task == Task::Regression {
        let values: Vec<f64> = train.iter().map(|&row| f64::from(target.values[row as usize])).collect();
        let (mean, std) = number::mean_and_std(&values);
        train_mean = mean;
        transform = match plan.target.transform {
            TargetTransform::None => FittedTransform::None,
            TargetTransform::Log1p => FittedTransform::Log1p,
            TargetTransform::Standard => FittedTransform::Standard { mean, std },
        };
    } else {
        let mut counts = vec![0u64; target.classes.len()];
        for &row in train {
            counts[target.values[row as usize] as usize] += 1;
        }
        train_priors = counts.iter().map(|&count| count as f64 / rows).collect();
        if task == Task::BinaryClassification {
            train_mean = train_priors.get(1).copied().unwrap_or_default();
        }
    }
    Target {
        task,
        column: plan.target.column.clone(),
        classes: target.classes.clone(),
        transform,
        train_mean,
        train_priors,
    }
}
