//! Forests and logistic regression against scikit-learn (`tests/golden/make_forest_goldens.py`).

use std::path::PathBuf;

use kernels::forest::{Bins, ForestConfig, IsolationConfig, IsolationForest, Labels, RandomForest};
use kernels::linear::{Logistic, LogisticConfig, Sparse};
use kernels::metrics::Binary;
use kernels::pool::Pool;
use serde_json::Value;

fn goldens() -> Value {
    serde_json::from_str(include_str!("../golden/forest.json")).expect("the goldens parse")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().expect("a list").iter().map(numbers).collect()
}

#[test]
fn logistic_regression_has_its_minimum_where_theirs_has() {
    for case in goldens()["logistic"].as_array().expect("cases") {
        let mut table = Sparse::new(5);
        for row in rows(&case["rows"]) {
            let cells = row.iter().enumerate().filter(|(_, value)| **value != 0.0);
            table.push(cells.map(|(column, value)| (column as u32, *value as f32)));
        }
        let labels: Vec<u32> = numbers(&case["labels"]).iter().map(|label| *label as u32).collect();
        let classes = case["classes"].as_u64().expect("a number") as usize;
        let all: Vec<u32> = (0..labels.len() as u32).collect();
        let config = LogisticConfig { inverse_strength: 2.0, tolerance: 1e-10, steps: 100 };
        let model = Logistic::fit(&table, &labels, classes, &all, &config, &Pool::new(2)).expect("fits");
        let found = model.predict(&table, &all);
        let expected: Vec<f64> = rows(&case["probabilities"]).concat();
        let far = found.iter().zip(&expected).map(|(f, e)| (f - e).abs()).fold(0.0, f64::max);
        assert!(far < 1e-6, "{classes} classes: {far} away");
    }
}

/// The ranks of values, ties by their place.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    order.into_iter().enumerate().for_each(|(rank, at)| ranks[at] = rank as f64);
    ranks
}

#[test]
fn isolation_scores_are_ordered_like_theirs() {
    let golden = &goldens()["isolation"];
    let table = rows(&golden["rows"]);
    let columns: Vec<Vec<f64>> = (0..3).map(|column| table.iter().map(|row| row[column]).collect()).collect();
    let all: Vec<u32> = (0..table.len() as u32).collect();
    let config = IsolationConfig { trees: 1200, seed: 1, ..IsolationConfig::default() };
    let pool = Pool::new(2);
    let scores = IsolationForest::fit(&columns, &all, &config, &pool).expect("fits").scores(&columns, &all, &pool);
    let expected = numbers(&golden["scores"]);
    let (ours, theirs) = (ranks(&scores), ranks(&expected));
    let squares: f64 = ours.iter().zip(&theirs).map(|(a, b)| (a - b) * (a - b)).sum();
    let n = all.len() as f64;
    let spearman = 1.0 - 6.0 * squares / (n * (n * n - 1.0));
    assert!(spearman > 0.98, "rank correlation {spearman}");
    let far = scores.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(far < 0.02, "{far} away");
    let first = golden["anomalies_from"].as_u64().expect("a number") as usize;
    let planted: Vec<bool> = (0..table.len()).map(|row| row >= first).collect();
    let auc = |scores: &[f64]| Binary::new(&planted, scores).expect("fits").auc().value().expect("two classes");
    assert!((auc(&scores) - auc(&expected)).abs() < 0.01, "{} and {}", auc(&scores), auc(&expected));
}

/// Header and rows of one of the files, cut at commas.
fn adult(name: &str) -> Option<Vec<Vec<String>>> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
    let folder = PathBuf::from(std::env::var("WITHIN_DATA").unwrap_or_else(|_| default.to_owned()));
    let Ok(text) = std::fs::read_to_string(folder.join("adult").join(name)) else {
        println!("skipped: no adult/{name} in {}; set WITHIN_DATA", folder.display());
        return None;
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    Some(lines.map(|line| line.split(',').map(|field| field.trim().to_owned()).collect()).collect())
}

/// A column of both files as numbers: texts by their rank in the first, -1 for others and missing ones.
fn column(train: &[Vec<String>], test: &[Vec<String>], at: usize) -> Vec<f64> {
    let mut texts: Vec<&str> = train.iter().map(|row| row[at].as_str()).filter(|text| *text != "?").collect();
    texts.sort_unstable();
    texts.dedup();
    let whole = texts.iter().all(|text| text.parse::<i64>().is_ok());
    let number = |row: &Vec<String>| {
        if whole {
            return row[at].parse().expect("a number");
        }
        texts.binary_search(&row[at].as_str()).map_or(-1.0, |place| place as f64)
    };
    train.iter().chain(test).map(number).collect()
}

#[test]
fn a_forest_is_as_good_as_theirs_on_adult() {
    let (Some(train), Some(test)) = (adult("adult.data"), adult("adult.test")) else { return };
    let (header, train, test) = (&train[0], &train[1..], &test[1..]);
    let target = header.len() - 1;
    let used = (0..target).filter(|at| header[*at] != "fnlwgt");
    let columns: Vec<Vec<f64>> = used.map(|at| column(train, test, at)).collect();
    let is_rich = |row: &Vec<String>| row[target].trim_end_matches('.') == ">50K";
    let classes: Vec<u32> = train.iter().chain(test).map(|row| u32::from(is_rich(row))).collect();
    let (learned, asked): (Vec<u32>, Vec<u32>) =
        (0..classes.len() as u32).partition(|row| (*row as usize) < train.len());
    let golden = &goldens()["adult"];
    let leaf_rows = golden["leaf_rows"].as_u64().expect("a number") as usize;
    let config = ForestConfig { leaf_rows, seed: 4, ..ForestConfig::default() };
    let pool = Pool::new(2);
    let table = Bins::fit(&columns, &learned).apply(&columns);
    let labels = Labels::Class { classes: &classes, count: 2 };
    let forest = RandomForest::fit(&table, labels, &learned, &config, &pool).expect("fits");
    let chances: Vec<f64> = forest.predict(&table, &asked, &pool).chunks(2).map(|pair| pair[1]).collect();
    let actual: Vec<bool> = asked.iter().map(|row| classes[*row as usize] == 1).collect();
    let judged = Binary::new(&actual, &chances).expect("fits");
    for (name, found) in [("auc", judged.auc()), ("accuracy", judged.accuracy(0.5))] {
        let (found, expected) = (found.value().expect("a number"), golden[name].as_f64().expect("a number"));
        println!("adult: {name} {found:.4}, theirs {expected:.4}");
        assert!((found - expected).abs() < 0.01, "{name}: {found}, theirs {expected}");
    }
}
