//! Labels that are probably wrong: each row of train is predicted by a model that was fitted on the other folds; rows of
//! val and test by the mean of these models, which saw none of them. Folds and models follow from sample ids.

use std::collections::BTreeSet;

use kernels::forest::{Bins, ForestConfig, Labels, RandomForest};
use kernels::linear::{Logistic, LogisticConfig};
use kernels::philox::{Key, Stream};
use kernels::pool::Pool;
use messages::WireError;
use messages::feed::Split;
use messages::plan::Task;
use tokio_util::sync::CancellationToken;

use super::calibrate::Certainty;
use super::confident::{Predicted, best, normalized_margin};
use super::report::{ClassLabels, Correction, LabelDistribution, Mislabel, PartCounts, SuspiciousTarget};
use super::rows::{Rows, for_trees, for_words, has_text, median};
use super::{Change, Inputs};
use crate::load::alive;

/// The lane of the stream that folds are drawn from.
const LANE: u32 = 4;
/// Most classes of labels that are examined.
const MAX_CLASSES: usize = 1000;
/// Most classes of labels of texts: a model of all words for each.
const MAX_TEXT_CLASSES: usize = 100;
/// Most probabilities that are held: rows times classes.
const MAX_PROBABILITIES: usize = 400_000_000;
/// Median absolute deviation of a normal distribution, in standard deviations.
const NORMAL_MAD: f64 = 0.674_5;

/// What was found about labels.
#[derive(Default)]
pub struct Found {
    pub mislabels: Vec<Mislabel>,
    pub total: u64,
    pub distribution: Option<LabelDistribution>,
    pub suspicious: Vec<SuspiciousTarget>,
    pub suspicious_total: u64,
    pub changes: Vec<Change>,
    /// Why nothing was done.
    pub not_run: Option<String>,
}

impl Found {
    fn not_run(reason: String) -> Self {
        Self { not_run: Some(reason), ..Self::default() }
    }
}

/// The fold of each row of train, in the order of sample ids: every class is spread evenly. Regression: all rows are.
pub fn folds(inputs: &Inputs<'_>, rows: &Rows<'_>) -> Vec<u32> {
    let (train, plan) = (rows.train(), &inputs.data.quality);
    let mut of_class: Vec<Vec<u32>> = vec![Vec::new(); inputs.target.classes.len().max(1)];
    for (place, &row) in train.iter().enumerate() {
        let class = if inputs.target.classes.is_empty() { 0 } else { inputs.target.values[row as usize] as usize };
        of_class[class].push(place as u32);
    }
    let mut fold_of = vec![0; train.len()];
    let mut next = 0;
    let key = Key::new(plan.seed, Stream::Sample).lane(LANE);
    for (class, places) in of_class.iter_mut().enumerate() {
        key.rng(class as u64, 0).shuffle(places);
        for &place in &*places {
            fold_of[place as usize] = next % plan.folds;
            next += 1;
        }
    }
    fold_of
}

/// Predictions for the rows of all parts: train first, by the fold that did not see them.
struct Crossed {
    /// [rows, outputs].
    train: Vec<f64>,
    /// Of val, then test.
    held: Vec<f64>,
}

/// Fits a model for each fold: `fit(rows)` answers what predicts.
fn cross<M>(
    inputs: &Inputs<'_>,
    rows: &Rows<'_>,
    outputs: usize,
    cancelled: &CancellationToken,
    fit: impl Fn(&[u32]) -> Result<M, kernels::Error>,
    predict: impl Fn(&M, &[u32]) -> Vec<f64>,
) -> Result<Result<Crossed, String>, WireError> {
    let (train, fold_of) = (rows.train(), folds(inputs, rows));
    let held = [rows.of(Split::Val), rows.of(Split::Test)].concat();
    let mut crossed = Crossed { train: vec![0.0; train.len() * outputs], held: vec![0.0; held.len() * outputs] };
    let folds = inputs.data.quality.folds;
    for fold in 0..folds {
        alive(cancelled)?;
        let (mut learned, mut asked) = (Vec::new(), Vec::new());
        for (place, &row) in train.iter().enumerate() {
            if fold_of[place] == fold { asked.push(place) } else { learned.push(row) }
        }
        let model = match fit(&learned) {
            Ok(model) => model,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let asked_rows: Vec<u32> = asked.iter().map(|&place| train[place]).collect();
        for (place, answer) in asked.into_iter().zip(predict(&model, &asked_rows).chunks(outputs)) {
            crossed.train[place * outputs..][..outputs].copy_from_slice(answer);
        }
        for (sum, answer) in crossed.held.iter_mut().zip(predict(&model, &held)) {
            *sum += answer / f64::from(folds);
        }
    }
    Ok(Ok(crossed))
}

/// Looks at labels, or at the targets of a regression.
pub fn find(
    inputs: &Inputs<'_>,
    rows: &Rows<'_>,
    anomalous: Option<&BTreeSet<u32>>,
    pool: &Pool,
    cancelled: &CancellationToken,
) -> Result<Found, WireError> {
    if let Some(reason) = obstacle(inputs, rows) {
        return Ok(Found::not_run(reason));
    }
    if inputs.task == Task::Regression {
        return targets(inputs, rows, anomalous, pool, cancelled);
    }
    let classes = inputs.target.classes.len();
    let label_of: Vec<u32> = inputs.target.values.iter().map(|value| *value as u32).collect();
    let crossed = if has_text(inputs) {
        let table = for_words(inputs, rows);
        let fit = |rows: &[u32]| Logistic::fit(&table, &label_of, classes, rows, &LogisticConfig::default(), pool);
        cross(inputs, rows, classes, cancelled, fit, |model, rows| model.predict(&table, rows))?
    } else {
        let columns = for_trees(inputs);
        let table = Bins::fit(&columns, rows.train()).apply(&columns);
        let config = forest(inputs);
        let labels = Labels::Class { classes: &label_of, count: classes };
        let fit = |rows: &[u32]| RandomForest::fit(&table, labels, rows, &config, pool);
        cross(inputs, rows, classes, cancelled, fit, |model, rows| model.predict(&table, rows, pool))?
    };
    Ok(match crossed {
        Ok(crossed) => labels(inputs, rows, anomalous, &label_of, &crossed, cancelled)?,
        Err(reason) => Found::not_run(reason),
    })
}

fn forest(inputs: &Inputs<'_>) -> ForestConfig {
    let plan = &inputs.data.quality;
    ForestConfig { trees: plan.trees as usize, leaf_rows: plan.leaf_rows as usize, depth: usize::MAX, seed: plan.seed }
}

/// Why labels cannot be examined.
fn obstacle(inputs: &Inputs<'_>, rows: &Rows<'_>) -> Option<String> {
    let (classes, train, folds) = (inputs.target.classes.len(), rows.train().len(), inputs.data.quality.folds as usize);
    let words = inputs.task != Task::Regression && has_text(inputs);
    if train < 2 * folds {
        return Some(format!("{train} rows of train, at least two in each of {folds} folds are needed"));
    }
    let most = if words { MAX_TEXT_CLASSES } else { MAX_CLASSES };
    if classes > most || inputs.loaded.rows.saturating_mul(classes) > MAX_PROBABILITIES {
        return Some(format!("{classes} classes in {} rows are too many", inputs.loaded.rows));
    }
    if !words && for_trees(inputs).is_empty() {
        return Some("no feature is a number or a category, by which a forest could predict".to_owned());
    }
    None
}

/// Labels against probabilities.
fn labels(
    inputs: &Inputs<'_>,
    rows: &Rows<'_>,
    anomalous: Option<&BTreeSet<u32>>,
    label_of: &[u32],
    crossed: &Crossed,
    cancelled: &CancellationToken,
) -> Result<Found, WireError> {
    let (plan, names) = (&inputs.data.quality, &inputs.target.classes);
    let classes = names.len();
    let given: Vec<u32> = rows.train().iter().map(|&row| label_of[row as usize]).collect();
    let predicted = Predicted { labels: &given, probabilities: &crossed.train, classes };
    let thresholds = predicted.thresholds();
    let joint = predicted.joint(&thresholds);
    let issues = predicted.issues(&joint);
    let certainty = plan.correct.then(|| Certainty::fit(predicted, cancelled)).transpose()?;
    let mut found =
        Found { distribution: Some(distribution(inputs, rows, label_of, thresholds, joint)), ..Found::default() };
    let mut suspects: Vec<(f64, u32, Mislabel)> = Vec::new();
    let probabilities = crossed.train.chunks(classes).chain(crossed.held.chunks(classes));
    for (place, (row, chances)) in rows.all().into_iter().zip(probabilities).enumerate() {
        let (label, other) = (label_of[row as usize] as usize, best(chances));
        let label_issue = issues.get(place).copied().unwrap_or(false);
        let (own, confidence) = (chances[label], chances[other]);
        if other == label || (own >= 0.5 && !label_issue) {
            continue;
        }
        let (id, part) = (rows.id(row), rows.part(row));
        let certainty = certainty.as_ref().filter(|_| plan.correct_parts.contains(&part));
        if let Some(sure) = certainty.map(|certainty| certainty.wrong(chances, label, other))
            && sure > plan.confidence_threshold
        {
            let record = Correction {
                sample_id: id,
                part,
                original_value: names[label].clone(),
                corrected_value: names[other].clone(),
                confidence: sure,
            };
            found.changes.push(Change { row, class: other as u32, record });
        }
        let margin = normalized_margin(chances, label);
        let mislabel = Mislabel {
            sample_id: id,
            part,
            original_label: names[label].clone(),
            suggested_label: names[other].clone(),
            confidence,
            own_probability: own,
            normalized_margin: margin,
            label_issue,
            is_anomaly: anomalous.map(|rows| rows.contains(&row)),
        };
        suspects.push((margin, row, mislabel));
    }
    found.total = suspects.len() as u64;
    suspects.sort_by(|a, b| {
        a.0.total_cmp(&b.0)
            .then(a.2.own_probability.total_cmp(&b.2.own_probability))
            .then(a.2.sample_id.cmp(&b.2.sample_id))
    });
    found.mislabels = suspects.into_iter().take(plan.max_listed as usize).map(|(_, _, mislabel)| mislabel).collect();
    Ok(found)
}

fn distribution(
    inputs: &Inputs<'_>,
    rows: &Rows<'_>,
    label_of: &[u32],
    thresholds: Vec<Option<f64>>,
    joint: Vec<Vec<u64>>,
) -> LabelDistribution {
    let mut counts = vec![PartCounts::default(); thresholds.len()];
    for row in rows.all() {
        counts[label_of[row as usize] as usize].count(rows.part(row));
    }
    let all: u64 = joint.iter().flatten().sum();
    let right: u64 = (0..joint.len()).map(|class| joint[class][class]).sum();
    let classes = inputs.target.classes.iter().zip(counts).zip(thresholds).enumerate();
    let classes = classes.map(|(class, ((label, rows), threshold))| ClassLabels {
        label: label.clone(),
        rows,
        threshold,
        estimated: joint.iter().map(|given| given[class]).sum(),
    });
    let noise = if all > 0 { (all - right) as f64 / all as f64 } else { 0.0 };
    LabelDistribution { classes: classes.collect(), joint, noise }
}

/// Targets of a regression against predictions: residuals far from the others.
fn targets(
    inputs: &Inputs<'_>,
    rows: &Rows<'_>,
    anomalous: Option<&BTreeSet<u32>>,
    pool: &Pool,
    cancelled: &CancellationToken,
) -> Result<Found, WireError> {
    let plan = &inputs.data.quality;
    let values: Vec<f64> = inputs.target.values.iter().map(|value| f64::from(*value)).collect();
    let columns = for_trees(inputs);
    let table = Bins::fit(&columns, rows.train()).apply(&columns);
    let config = forest(inputs);
    let fit = |rows: &[u32]| RandomForest::fit(&table, Labels::Real(&values), rows, &config, pool);
    let crossed = cross(inputs, rows, 1, cancelled, fit, |model, rows| model.predict(&table, rows, pool))?;
    let crossed = match crossed {
        Ok(crossed) => crossed,
        Err(reason) => return Ok(Found::not_run(reason)),
    };
    let residual = |row: u32, predicted: f64| values[row as usize] - predicted;
    let of_train: Vec<f64> = rows.train().iter().zip(&crossed.train).map(|(&row, &p)| residual(row, p)).collect();
    let middle = median(of_train.clone()).unwrap_or(0.0);
    let deviation = median(of_train.iter().map(|r| (r - middle).abs()).collect()).unwrap_or(0.0);
    if deviation == 0.0 {
        return Ok(Found::not_run("half of the targets are predicted exactly: no residual stands out".to_owned()));
    }
    let mut suspicious: Vec<SuspiciousTarget> = Vec::new();
    for (row, &predicted) in rows.all().into_iter().zip(crossed.train.iter().chain(&crossed.held)) {
        let robust_z = NORMAL_MAD * (residual(row, predicted) - middle) / deviation;
        if robust_z.abs() > plan.outlier_threshold {
            suspicious.push(SuspiciousTarget {
                sample_id: rows.id(row),
                part: rows.part(row),
                value: values[row as usize],
                predicted,
                robust_z,
                is_anomaly: anomalous.map(|rows| rows.contains(&row)),
            });
        }
    }
    suspicious.sort_by(|a, b| b.robust_z.abs().total_cmp(&a.robust_z.abs()).then(a.sample_id.cmp(&b.sample_id)));
    let suspicious_total = suspicious.len() as u64;
    suspicious.truncate(plan.max_listed as usize);
    Ok(Found { suspicious, suspicious_total, ..Found::default() })
}
