//! Confident learning against cleanlab (`tests/golden/make_quality_goldens.py`).

use serde_json::Value;
use within_data_loader::quality::confident::{Predicted, normalized_margin};

fn goldens() -> Value {
    serde_json::from_str(include_str!("../golden/quality.json")).expect("the goldens parse")
}

fn list<T>(value: &Value, read: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().expect("a list").iter().map(read).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn whole(value: &Value) -> u64 {
    value.as_u64().expect("a whole number")
}

#[test]
fn confident_learning_is_cleanlabs() {
    for (index, case) in goldens()["confident"].as_array().expect("cases").iter().enumerate() {
        let labels = list(&case["labels"], |label| whole(label) as u32);
        let probabilities = list(&case["probabilities"], number);
        let classes = whole(&case["classes"]) as usize;
        let predicted = Predicted { labels: &labels, probabilities: &probabilities, classes };
        let thresholds = predicted.thresholds();
        for (found, expected) in thresholds.iter().zip(list(&case["thresholds"], Value::as_f64)) {
            match (found, expected) {
                (Some(found), Some(expected)) => assert!((found - expected).abs() < 1e-12, "case {index}"),
                (found, expected) => assert_eq!(*found, expected, "case {index}"),
            }
        }
        let joint = predicted.joint(&thresholds);
        assert_eq!(joint, list(&case["joint"], |row| list(row, whole)), "case {index}: the joint");
        let issues = predicted.issues(&joint);
        let found: Vec<u64> = (0..labels.len() as u64).filter(|&row| issues[row as usize]).collect();
        assert_eq!(found, list(&case["issues"], whole), "case {index}: the issues");
        let margins: Vec<f64> = probabilities
            .chunks(classes)
            .zip(&labels)
            .map(|(row, label)| normalized_margin(row, *label as usize))
            .collect();
        for (found, expected) in margins.iter().zip(list(&case["normalized_margin"], number)) {
            assert!((found - expected).abs() < 1e-12, "case {index}: {found}, expected {expected}");
        }
        let mut ranked = found;
        ranked.sort_by(|a, b| margins[*a as usize].total_cmp(&margins[*b as usize]));
        assert_eq!(ranked, list(&case["by_normalized_margin"], whole), "case {index}: the ranks");
    }
}
