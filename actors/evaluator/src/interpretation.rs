//! What the figures say, in sentences for a person. Each rule states the figures that it rests on.

use messages::event::MetricValue;

use crate::report::{PrimaryMetric, Report};

/// From this relative difference on, val and test are said to differ.
const NOTABLE_GAP: f64 = 0.2;
/// A part with fewer rows than this says little.
const FEW_ROWS: u64 = 100;
/// From this share of the largest class on, classes are said to be unbalanced.
const UNBALANCED: f64 = 0.9;

/// Sentences about a report, the most important first. The same report gives the same sentences.
pub fn interpret(report: &Report) -> Vec<String> {
    let mut said = vec![against_baseline(&report.primary_metric)];
    said.extend(explained_variance(report));
    said.extend(val_against_test(&report.primary_metric));
    said.extend(imbalance(report));
    said.extend(few_rows(report));
    said
}

fn against_baseline(primary: &PrimaryMetric) -> String {
    let PrimaryMetric { name, test, baseline, .. } = primary;
    match (test, baseline, primary.beats_baseline) {
        (MetricValue::Undefined { reason, .. }, ..) => format!("{name} on test is undefined: {reason}."),
        (MetricValue::Defined(test), MetricValue::Undefined { reason, .. }, _) => {
            format!("{name} on test is {}; the baseline has none: {reason}.", short(*test))
        }
        (MetricValue::Defined(test), MetricValue::Defined(baseline), Some(true)) => {
            format!(
                "{name} on test is {} against {} of the baseline: the model is better than a constant answer.",
                short(*test),
                short(*baseline)
            )
        }
        (MetricValue::Defined(test), MetricValue::Defined(baseline), _) => {
            format!(
                "{name} on test is {} against {} of the baseline: the model is NOT better than a constant answer.",
                short(*test),
                short(*baseline)
            )
        }
    }
}

fn explained_variance(report: &Report) -> Option<String> {
    let r2 = report.metrics.test.get("r2")?.get()?;
    let target = &report.target;
    Some(if r2 < 0.0 {
        format!("r2 on test is {}: the predictions of {target} are worse than its mean.", short(r2))
    } else {
        format!("r2 on test is {}: the model explains {:.0} % of the variance of {target}.", short(r2), r2 * 100.0)
    })
}

fn val_against_test(primary: &PrimaryMetric) -> Option<String> {
    let (val, test) = (primary.val.get()?, primary.test.get()?);
    let scale = val.abs().max(test.abs());
    if scale == 0.0 || (val - test).abs() / scale < NOTABLE_GAP {
        return None;
    }
    let worse = if primary.higher_is_better { test < val } else { test > val };
    let what = if worse {
        "worse on test than on val: val was overfitted, or the parts differ"
    } else {
        "better on test than on val: the parts differ"
    };
    Some(format!("{} is {what} ({} against {}).", primary.name, short(test), short(val)))
}

fn imbalance(report: &Report) -> Option<String> {
    let confusion = report.confusion_matrix.as_ref()?;
    let rows: Vec<u64> = confusion.counts.iter().map(|row| row.iter().sum()).collect();
    let total: u64 = rows.iter().sum();
    let (class, count) = rows.iter().enumerate().max_by_key(|(index, count)| (**count, std::cmp::Reverse(*index)))?;
    let share = *count as f64 / total.max(1) as f64;
    (total > 0 && share >= UNBALANCED).then(|| {
        format!(
            "{:.1} % of the test rows are of class {:?}: accuracy says little here.",
            share * 100.0,
            confusion.labels[class]
        )
    })
}

fn few_rows(report: &Report) -> Option<String> {
    let rows = report.dataset.rows_test;
    (rows < FEW_ROWS).then(|| format!("The test part has {rows} rows: its figures are rough."))
}

/// Four significant digits.
fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let digits = (3 - value.abs().log10().floor() as i32).clamp(0, 12) as usize;
    if value.abs() < 1e-9 { format!("{value:.3e}") } else { format!("{value:.digits$}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_digits_are_shown() {
        for (value, text) in [
            (0.0, "0"),
            (0.123456, "0.1235"),
            (12345.6, "12346"),
            (-0.00123456, "-0.001235"),
            (1.0, "1.000"),
            (1e-12, "1.000e-12"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    fn primary(val: f64, test: f64, baseline: f64, higher_is_better: bool) -> PrimaryMetric {
        PrimaryMetric {
            name: "m".into(),
            higher_is_better,
            val: MetricValue::of(val),
            test: MetricValue::of(test),
            baseline: MetricValue::of(baseline),
            beats_baseline: Some(if higher_is_better { test > baseline } else { test < baseline }),
        }
    }

    #[test]
    fn a_constant_answer_is_the_measure() {
        assert!(against_baseline(&primary(0.5, 0.5, 1.0, false)).contains("is better than"));
        assert!(against_baseline(&primary(0.5, 0.5, 1.0, true)).contains("NOT better"));
        assert!(against_baseline(&primary(0.5, f64::NAN, 1.0, true)).contains("undefined"));
    }

    #[test]
    fn a_gap_between_val_and_test_is_named_with_its_direction() {
        assert_eq!(val_against_test(&primary(0.9, 0.85, 0.5, true)), None);
        assert_eq!(val_against_test(&primary(0.0, 0.0, 0.5, true)), None);
        let worse = val_against_test(&primary(0.9, 0.5, 0.5, true)).expect("differs");
        assert!(worse.contains("worse on test"), "{worse}");
        let worse = val_against_test(&primary(0.5, 0.9, 0.5, false)).expect("differs");
        assert!(worse.contains("worse on test"), "{worse}");
        let better = val_against_test(&primary(0.9, 0.5, 0.5, false)).expect("differs");
        assert!(better.contains("better on test"), "{better}");
    }
}
