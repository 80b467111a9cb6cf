//! The quality of the data beyond their form: outliers, anomalies, wrong labels, doubled rows, columns that give the
//! target away. Whatever is fitted is fitted on train, in the order of sample ids, so that neither val and test nor the
//! order of rows in a file move anything; everything is told by sample id.

mod anomalies;
mod calibrate;
pub mod confident;
mod duplicates;
mod leakage;
mod mislabels;
mod outliers;
pub mod page;
pub mod report;
mod rows;
mod totals;

use kernels::pool::{Pool, available_threads};
use messages::WireError;
use messages::plan::{DataPlan, QualityCheck, Task};
use tokio_util::sync::CancellationToken;

use crate::check::Violation;
use crate::check::target::TargetValues;
use crate::load::{Loaded, alive};
use crate::split::Parts;
use report::{Correction, Duplicates, NotRun, REPORT_VERSION, Report, Totals};
use rows::Rows;

/// What is examined.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub data: &'a DataPlan,
    pub task: Task,
    pub loaded: &'a Loaded,
    pub target: &'a TargetValues,
    pub parts: &'a Parts,
    /// Of each row.
    pub ids: &'a [u64],
}

/// A label that is to be another one.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub row: u32,
    pub class: u32,
    pub record: Correction,
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    pub report: Report,
    /// Every correction, by sample id.
    pub corrections: Vec<Correction>,
}

/// Examines the data; corrections are answered beside the report, and applied by [`apply`].
pub fn examine(
    inputs: &Inputs<'_>,
    cancelled: &CancellationToken,
    warnings: &mut Vec<String>,
) -> Result<(Quality, Vec<Change>), WireError> {
    let plan = &inputs.data.quality;
    let wanted = |check| plan.checks.contains(&check);
    let rows = Rows::new(inputs);
    let pool = Pool::new(available_threads());
    let mut report = begin(inputs, &rows);
    if wanted(QualityCheck::Outliers) {
        report.detected_outliers = outliers::find(inputs, &rows);
        report.totals.detected_outliers = report.detected_outliers.iter().map(|column| column.found.all()).sum();
    }
    alive(cancelled)?;
    let mut anomalous = None;
    if wanted(QualityCheck::Anomalies) {
        match anomalies::find(inputs, &rows, &pool) {
            Ok((found, rows)) => {
                report.totals.anomalies = found.found.all();
                report.anomalies = Some(found);
                anomalous = Some(rows);
            }
            Err(reason) => report.not_run.push(NotRun { check: QualityCheck::Anomalies, reason }),
        }
    }
    alive(cancelled)?;
    if wanted(QualityCheck::Duplicates) {
        report.duplicates = duplicates::find(inputs, &rows, &pool, &mut report.totals);
    }
    alive(cancelled)?;
    if wanted(QualityCheck::Leakage) {
        match leakage::find(inputs, &rows) {
            Ok((mut scores, left_out)) => {
                if !left_out.is_empty() {
                    let reason = format!("columns of too many values: {}", left_out.join(", "));
                    report.not_run.push(NotRun { check: QualityCheck::Leakage, reason });
                }
                report.leakage_suspects = scores.iter().filter(|score| score.value > score.limit).cloned().collect();
                let told =
                    |total: &report::ColumnScore| report.leakage_suspects.iter().all(|s| s.column != total.column);
                let totals: Vec<_> = totals::find(inputs, &rows).into_iter().filter(told).collect();
                report.leakage_suspects.extend(totals);
                scores.truncate(plan.max_listed as usize);
                report.single_column_scores = scores;
            }
            Err(reason) => report.not_run.push(NotRun { check: QualityCheck::Leakage, reason }),
        }
        report.totals.leakage_suspects = report.leakage_suspects.len() as u64;
    }
    let mut changes = Vec::new();
    if wanted(QualityCheck::Mislabels) {
        let found = mislabels::find(inputs, &rows, anomalous.as_ref(), &pool, cancelled)?;
        report.totals.potential_mislabels = found.total;
        report.potential_mislabels = found.mislabels;
        report.totals.suspicious_targets = found.suspicious_total;
        report.suspicious_targets = found.suspicious;
        report.label_distribution = found.distribution;
        report.not_run.extend(found.not_run.map(|reason| NotRun { check: QualityCheck::Mislabels, reason }));
        changes = found.changes;
    }
    changes.sort_by_key(|change| change.record.sample_id);
    let corrections: Vec<Correction> = changes.iter().map(|change| change.record.clone()).collect();
    report.totals.corrections_applied = corrections.len() as u64;
    report.corrections_applied = corrections.iter().take(plan.max_listed as usize).cloned().collect();
    summarize(&report, warnings);
    Ok((Quality { report, corrections }, changes))
}

/// A report of nothing.
fn begin(inputs: &Inputs<'_>, rows: &Rows<'_>) -> Report {
    Report {
        schema: REPORT_VERSION,
        settings: inputs.data.quality.clone(),
        rows: rows.counts(),
        totals: Totals::default(),
        detected_outliers: Vec::new(),
        anomalies: None,
        potential_mislabels: Vec::new(),
        suspicious_targets: Vec::new(),
        label_distribution: None,
        corrections_applied: Vec::new(),
        corrections_record: None,
        duplicates: Duplicates::default(),
        leakage_suspects: Vec::new(),
        single_column_scores: Vec::new(),
        not_run: Vec::new(),
    }
}

/// What those should know who read no report.
fn summarize(report: &Report, warnings: &mut Vec<String>) {
    duplicates::warnings(&report.totals, warnings);
    for suspect in &report.leakage_suspects {
        warnings.push(format!(
            "quality: column {:?} {}: exclude it if it is not known when the model is asked",
            suspect.column,
            suspect.reason()
        ));
    }
    for missing in &report.not_run {
        let check = format!("{:?}", missing.check).to_lowercase();
        warnings.push(format!("quality: {check} could not be examined: {}", missing.reason));
    }
    if report.totals.corrections_applied > 0 {
        warnings.push(format!("quality: {} labels were corrected", report.totals.corrections_applied));
    }
}

/// Changes the labels. A class of train that would lose its last row is an error, and nothing is changed.
pub fn apply(changes: &[Change], target: &mut TargetValues, train: &[u32]) -> Result<(), WireError> {
    // Targets that are numbers have no classes, and no corrections.
    if changes.is_empty() {
        return Ok(());
    }
    let mut values = target.values.clone();
    for change in changes {
        values[change.row as usize] = change.class as f32;
    }
    let count = |values: &[f32]| {
        let mut counts = vec![0_u64; target.classes.len()];
        for &row in train {
            counts[values[row as usize] as usize] += 1;
        }
        counts
    };
    let (before, after) = (count(&target.values), count(&values));
    if let Some(class) = (0..before.len()).find(|&class| before[class] > 0 && after[class] == 0) {
        let message = format!("corrections would leave class {:?} without a row of train", target.classes[class]);
        let hint = "raise data.quality.confidence_threshold, or set data.quality.correct: false and look at the report";
        return Err(Violation::new(message).hint(hint).into());
    }
    target.values = values;
    Ok(())
}
