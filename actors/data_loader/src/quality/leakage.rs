//! Columns that give the target away: each one alone predicts it, by the mean of the target among rows of about the
//! same value in the other folds. Known by a value that hardly any honest column reaches.

use kernels::metrics::{Binary, Multiclass, Regression};
use messages::plan::Task;

use super::Inputs;
use super::mislabels::folds;
use super::report::{ColumnScore, LeakageMeasure};
use super::rows::{Rows, features, quantile};
use crate::load::{MISSING_KEY, Values};

/// Bins of a number column.
const BINS: usize = 32;
/// Rows of the mean of all that stand beside the rows of a bin.
const PRIOR_ROWS: f64 = 1.0;
/// Most classes for which each column is tried.
const MAX_CLASSES: usize = 100;
/// Most sums that are held for a column: values times classes.
const MAX_SUMS: usize = 20_000_000;

/// What each column alone tells of the target, the most telling first, and the columns of too many values; suspects are
/// those above their limit.
pub fn find(inputs: &Inputs<'_>, rows: &Rows<'_>) -> Result<(Vec<ColumnScore>, Vec<String>), String> {
    let plan = &inputs.data.quality;
    let outputs = inputs.target.classes.len();
    if outputs > MAX_CLASSES {
        return Err(format!("{outputs} classes, at most {MAX_CLASSES} are examined"));
    }
    let train = rows.train();
    if train.len() < plan.folds as usize {
        return Err(format!("{} rows of train in {} folds", train.len(), plan.folds));
    }
    let fold_of = folds(inputs, rows);
    let (mut scores, mut left_out) = (Vec::new(), Vec::new());
    for (usage, values) in features(inputs) {
        let Some((codes, count)) = codes(values, train) else { continue };
        if count.saturating_mul(outputs.max(1)) > MAX_SUMS {
            left_out.push(usage.name.clone());
            continue;
        }
        let predicted = out_of_fold(inputs, train, &codes, count, &fold_of);
        let Some((measure, value)) = judge(inputs, train, &predicted) else { continue };
        let limit = if measure == LeakageMeasure::R2 { plan.leakage_r2 } else { plan.leakage_auc };
        scores.push(ColumnScore { column: usage.name.clone(), measure, value, limit });
    }
    scores.sort_by(|a, b| b.value.total_cmp(&a.value).then_with(|| a.column.cmp(&b.column)));
    Ok((scores, left_out))
}

/// A small number for the value of each row of train, and how many there are; none for columns that are not judged.
fn codes(values: &Values, train: &[u32]) -> Option<(Vec<usize>, usize)> {
    match values {
        Values::Number(numbers) => {
            let mut sorted: Vec<f64> =
                train.iter().map(|&row| numbers[row as usize]).filter(|number| !number.is_nan()).collect();
            sorted.sort_unstable_by(f64::total_cmp);
            let mut cuts: Vec<f64> = (1..BINS).filter_map(|bin| quantile(&sorted, bin as f64 / BINS as f64)).collect();
            cuts.dedup();
            let code = |&row: &u32| {
                let number = numbers[row as usize];
                if number.is_nan() { cuts.len() + 1 } else { cuts.partition_point(|cut| *cut < number) }
            };
            Some((train.iter().map(code).collect(), cuts.len() + 2))
        }
        Values::Category { keys, texts } => {
            let code = |&row: &u32| match keys[row as usize] {
                MISSING_KEY => texts.len(),
                key => key as usize,
            };
            Some((train.iter().map(code).collect(), texts.len() + 1))
        }
        Values::Text(_) | Values::Id(_) | Values::Empty => None,
    }
}

/// For each row of train: share of each class, or the mean target, among rows of the other folds with its code.
fn out_of_fold(inputs: &Inputs<'_>, train: &[u32], codes: &[usize], count: usize, fold_of: &[u32]) -> Vec<f64> {
    let width = inputs.target.classes.len().max(1);
    let classes = !inputs.target.classes.is_empty();
    let mut predicted = vec![0.0; train.len() * width];
    let folds = fold_of.iter().max().map_or(0, |last| last + 1);
    for fold in 0..folds {
        let mut sums = vec![0.0; count * width];
        let mut rows = vec![0.0; count];
        let mut whole = vec![0.0; width];
        let mut seen = 0.0;
        for place in (0..train.len()).filter(|&place| fold_of[place] != fold) {
            let target = inputs.target.values[train[place] as usize];
            let (at, value) = if classes { (target as usize, 1.0) } else { (0, f64::from(target)) };
            sums[codes[place] * width + at] += value;
            whole[at] += value;
            rows[codes[place]] += 1.0;
            seen += 1.0;
        }
        for place in (0..train.len()).filter(|&place| fold_of[place] == fold) {
            let code = codes[place];
            for at in 0..width {
                let prior = PRIOR_ROWS * whole[at] / seen;
                predicted[place * width + at] = (sums[code * width + at] + prior) / (rows[code] + PRIOR_ROWS);
            }
        }
    }
    predicted
}

fn judge(inputs: &Inputs<'_>, train: &[u32], predicted: &[f64]) -> Option<(LeakageMeasure, f64)> {
    let target = |row: &u32| inputs.target.values[*row as usize];
    match inputs.task {
        Task::Regression => {
            let actual: Vec<f64> = train.iter().map(|row| f64::from(target(row))).collect();
            let value = Regression::new(&actual, predicted).ok()?.r2().value()?;
            Some((LeakageMeasure::R2, value))
        }
        Task::BinaryClassification => {
            let actual: Vec<bool> = train.iter().map(|row| target(row) == 1.0).collect();
            let scores: Vec<f64> = predicted.chunks(2).map(|pair| pair[1]).collect();
            Some((LeakageMeasure::Auc, Binary::new(&actual, &scores).ok()?.auc().value()?))
        }
        Task::Multiclass => {
            let actual: Vec<u32> = train.iter().map(|row| target(row) as u32).collect();
            let classes = inputs.target.classes.len();
            let judged = Multiclass::new(&actual, predicted, classes).ok()?;
            Some((LeakageMeasure::AucOvrMacro, judged.auc_ovr_macro().value()?))
        }
    }
}
