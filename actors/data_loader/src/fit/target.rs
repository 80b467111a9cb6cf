//! Target encoding: a category's mean target, smoothed (Micci-Barreca 2001). A row of train is encoded by the means of
//! the other folds, so that no feature tells its own row's target; every other row by those of all of train.

use frame::manifest::{Encoding, TargetMeans, out_of_fold};
use messages::WireError;
use messages::error::Code;
use messages::plan::{DataPlan, Task};

use super::Inputs;
use super::category::{Categories, counts, in_text_order};
use super::number::scale_of;
use crate::load::MISSING_KEY;
use crate::split::cross_fit_folds;

/// What one fit on some rows says.
struct Means {
    /// Of each key; those that none of the rows has get `prior`.
    of_key: Vec<f64>,
    missing: f64,
    prior: f64,
}

/// Names and values of columns, a value for each row.
pub type OwnValues = Vec<(String, Vec<f64>)>;

/// The encoding, and the columns of train's own values.
pub fn fit(plan: &DataPlan, column: &Categories<'_>, inputs: Inputs<'_>) -> Result<(Encoding, OwnValues), WireError> {
    if plan.sequence.group_column.is_some() {
        let message = format!("not yet supported: data.columns.{}.encoding: target beside data.sequence", column.name);
        return Err(WireError::new(Code::ConfigError, message));
    }
    let settings = &plan.preprocessing.fitting.target_encoding;
    let train = column.train;
    let targets: Vec<f32> = train.iter().map(|&row| inputs.target.values[row as usize]).collect();
    let keys: Vec<u32> = train.iter().map(|&row| column.keys[row as usize]).collect();
    let folds = cross_fit_folds(plan.split.random_state, inputs.task, &targets, settings.folds as usize);
    let classes = &inputs.target.classes;
    // Of two classes, the positive one.
    let outputs: Vec<Option<usize>> = match inputs.task {
        Task::Regression => vec![None],
        Task::BinaryClassification => vec![Some(1)],
        Task::Multiclass => (0..classes.len()).map(Some).collect(),
    };
    let (categories, known) = in_text_order(&counts(column.keys, column.texts.len(), train), column.texts);
    let (mut fitted, mut columns) = (Vec::new(), Vec::new());
    for (index, output) in outputs.into_iter().enumerate() {
        let values: Vec<f64> = targets
            .iter()
            .map(|&target| match output {
                Some(class) => f64::from(u8::from(target as usize == class)),
                None => f64::from(target),
            })
            .collect();
        let all = means(&keys, &values, |_| true, column.texts.len(), settings.smoothing);
        let own = out_of_fold_values(&keys, &values, &folds, column.texts.len(), settings.smoothing);
        fitted.push(TargetMeans {
            class: output.filter(|_| inputs.task == Task::Multiclass).map(|class| classes[class].clone()),
            means: known.iter().map(|&key| all.of_key[key]).collect(),
            missing: all.missing,
            prior: all.prior,
            scale: scale_of(plan, column.name, &own),
        });
        let mut by_row = vec![f64::NAN; column.keys.len()];
        train.iter().zip(&own).for_each(|(&row, &value)| by_row[row as usize] = value);
        columns.push((out_of_fold(column.name, index), by_row));
    }
    Ok((Encoding::Target { categories, outputs: fitted, clip: plan.preprocessing.clip }, columns))
}

/// Each row by the means of the rows of other folds.
pub fn out_of_fold_values(
    keys: &[u32],
    targets: &[f64],
    folds: &[u32],
    distinct: usize,
    smoothing: Option<f64>,
) -> Vec<f64> {
    let count = folds.iter().max().map_or(0, |&top| top + 1);
    let mut out = vec![f64::NAN; keys.len()];
    for fold in 0..count {
        let others = means(keys, targets, |row| folds[row] != fold, distinct, smoothing);
        for (row, &key) in keys.iter().enumerate().filter(|(row, _)| folds[*row] == fold) {
            out[row] = if key == MISSING_KEY { others.missing } else { others.of_key[key as usize] };
        }
    }
    out
}

/// Means of these rows. With a smoothing: as if so many rows more had the mean of all. Without: between the
/// category's mean and that of all, by the variance within the category and that of all (empirical Bayes).
fn means(
    keys: &[u32],
    targets: &[f64],
    counts: impl Fn(usize) -> bool,
    distinct: usize,
    smoothing: Option<f64>,
) -> Means {
    let place = |key: u32| if key == MISSING_KEY { distinct } else { key as usize };
    let rows = || (0..keys.len()).filter(|&row| counts(row));
    let (mut sums, mut sizes) = (vec![0.0; distinct + 1], vec![0u64; distinct + 1]);
    let (mut sum, mut size) = (0.0, 0u64);
    for row in rows() {
        sums[place(keys[row])] += targets[row];
        sizes[place(keys[row])] += 1;
        sum += targets[row];
        size += 1;
    }
    let prior = if size > 0 { sum / size as f64 } else { 0.0 };
    let value: Box<dyn Fn(usize) -> f64> = if let Some(more) = smoothing {
        let (sums, sizes) = (&sums, &sizes);
        Box::new(move |place: usize| (sums[place] + more * prior) / (sizes[place] as f64 + more))
    } else {
        let (mut squares, mut square) = (vec![0.0; distinct + 1], 0.0);
        for row in rows() {
            let place = place(keys[row]);
            let off = targets[row] - sums[place] / sizes[place] as f64;
            squares[place] += off * off;
            square += (targets[row] - prior) * (targets[row] - prior);
        }
        let variance = square / size.max(1) as f64;
        let (sums, sizes) = (&sums, &sizes);
        Box::new(move |place: usize| {
            let count = sizes[place] as f64;
            let trust = variance * count / (variance * count + squares[place] / count);
            // A target that never varies.
            if trust.is_nan() { prior } else { trust * (sums[place] / count) + (1.0 - trust) * prior }
        })
    };
    let known = |place: usize| if sizes[place] == 0 { prior } else { value(place) };
    Means { of_key: (0..distinct).map(known).collect(), missing: known(distinct), prior }
}
