//! The quality of data within a job: a report as an artifact of the run, and corrected labels that make a better model.
//! The full figures, on real tables with injected noise, are asserted with `WITHIN_ACCEPT=1`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::datasets::{data, has, is_full, make_table};
use crate::harness::{Running, Sandbox, file_of, number, root, spec, table, text};

/// What a whole job may take on two cores.
const WHOLE_JOB: Duration = Duration::from_mins(15);

/// A pseudo-random number in 0..1.
fn draw(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as f64 / f64::from(1_u32 << 31)
}

/// Flips the label at the end of a share of the rows; answers the numbers of those rows.
fn flip(rows: &mut [String], share: f64, labels: [&str; 2]) -> BTreeSet<usize> {
    let (mut state, mut flipped) = (9, BTreeSet::new());
    for (number, row) in rows.iter_mut().enumerate() {
        if draw(&mut state) < share {
            let (rest, label) = row.rsplit_once(',').expect("a label");
            let other = if label.trim() == labels[0] { labels[1] } else { labels[0] };
            *row = format!("{rest},{other}");
            flipped.insert(number);
        }
    }
    flipped
}

fn write(sandbox: &Sandbox, name: &str, header: &str, rows: &[String]) {
    sandbox.write(name, format!("{header}\n{}\n", rows.join("\n")));
}

/// Header and rows of a table.
fn lines(text: &str) -> (String, Vec<String>) {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned);
    (lines.next().expect("a header"), lines.collect())
}

fn report(last: &Value) -> Value {
    let bytes = std::fs::read(file_of(&last["data_reports"]["quality_report"])).expect("the report is there");
    serde_json::from_slice(&bytes).expect("JSON")
}

const SPEC: &str = "\
task: binary_classification
seed: 7
data:
  path: train.csv
  test_path: test.csv
  target: {column: class, positive: good}
  id_column: id
  exclude: [y]
model:
  type: mlp
  hidden_layers: [32]
training:
  epochs: 30
  batch_size: 32
  learning_rate: 0.005
evaluation:
  metrics: [brier, accuracy]
  primary_metric: brier
";

/// Where another label is likelier than the one given, also of val: by wrong labels an epoch is chosen in which the model
/// is no surer of any than they are.
const CORRECT: [&str; 6] = [
    "--set",
    "data.quality.correct=true",
    "--set",
    "data.quality.correct_parts=[train, val]",
    "--set",
    "data.quality.confidence_threshold=0.5",
];

#[test]
fn corrected_labels_make_a_better_model_and_are_recorded() {
    let sandbox = Sandbox::new();
    let (header, mut rows) = lines(&table(2000));
    let test = rows.split_off(1500);
    let flipped = flip(&mut rows, 0.2, ["good", "bad"]);
    write(&sandbox, "train.csv", &header, &rows);
    write(&sandbox, "test.csv", &header, &test);
    let path = sandbox.write("job.yaml", SPEC).display().to_string();
    let run = |more: &[&str]| sandbox.within(&[&["run", &path, "--json"], more].concat()).expect(0).last();
    let plain = run(&[]);
    assert_eq!(plain["data_reports"], serde_json::json!({}));
    let corrected = run(&CORRECT);
    let brier = |last: &Value| number(last, "/metrics/test/brier");
    let (before, after) = (brier(&plain), brier(&corrected));
    println!("brier {before:.4} without corrections, {after:.4} with");
    assert!(after < 0.5 * before, "{before} without corrections, {after} with");
    let report = report(&corrected);
    let keys = ["detected_outliers", "potential_mislabels", "corrections_applied", "duplicates", "leakage_suspects"];
    assert!(keys.iter().all(|key| report[key].is_array() || report[key].is_object()), "{report:#}");
    let uri = &corrected["data_reports"]["quality_corrections"];
    let record = std::fs::read_to_string(file_of(uri)).expect("the record is there");
    let count = record.lines().count();
    assert_eq!(report["totals"]["corrections_applied"].as_u64(), Some(count as u64));
    assert!(count * 10 > flipped.len() * 5, "{count} corrected of about {} flipped", flipped.len());
    for line in record.lines() {
        let correction: Value = serde_json::from_str(line).expect("JSON");
        let labels = (text(&correction, "/original_value"), text(&correction, "/corrected_value"));
        assert!(matches!(labels, ("good", "bad") | ("bad", "good")), "{correction}");
        assert!(matches!(text(&correction, "/part"), "train" | "val"), "{correction}");
        assert!(number(&correction, "/confidence") > 0.5);
        text(&correction, "/sample_id").parse::<u64>().expect("a sample id");
    }
}

#[test]
fn what_contradicts_itself_is_refused_by_line() {
    let sandbox = Sandbox::new();
    let refused = |job: &str| {
        let path = sandbox.write("job.yaml", job).display().to_string();
        sandbox.within(&["run", &path]).expect(2).stderr
    };
    let regression = spec("a.csv", 1, "").replace("  exclude", "  quality: {correct: true}\n  exclude");
    let said = refused(&regression);
    assert!(said.contains("data.quality.correct: the targets of a regression are numbers"), "{said}");
    let said = refused(&SPEC.replace("  exclude", "  quality: {chekcs: [outliers]}\n  exclude"));
    assert!(said.contains("data.quality.chekcs: unknown key (did you mean data.quality.checks?)"), "{said}");
    let said = refused(&SPEC.replace("  exclude", "  quality: {checks: [outliers], correct: true}\n  exclude"));
    assert!(said.contains("data.quality.checks does not list mislabels"), "{said}");
}

/// The job of `deploy/jobs` on these files, with or without corrections.
fn reached(job: &str, sandbox: &Sandbox, settings: &[&str]) -> Value {
    let path = root().join("deploy/jobs").join(format!("{job}.yaml")).display().to_string();
    let files = ["--set", "data.path=noisy.csv", "--set", "data.test_path=clean.csv"];
    let mut command = sandbox.command(&[&["run", &path, "--json"], &files[..], settings].concat());
    command.env("WITHIN_DATA", data());
    Running::start(command).wait_up_to(WHOLE_JOB).expect(0).last()
}

/// On the clean test part.
fn corrections_help(job: &str, sandbox: &Sandbox, noise: f64, metrics: &[&str]) {
    let judged = ["--set", "evaluation.metrics=[accuracy, auc, brier]"];
    let checked = ["--set", "data.quality.checks=[mislabels]"];
    let plain = reached(job, sandbox, &judged);
    let corrected = reached(job, sandbox, &[&judged[..], &checked, &CORRECT].concat());
    for metric in metrics {
        let of = |last: &Value| number(last, &format!("/metrics/test/{metric}"));
        let (plain, corrected) = (of(&plain), of(&corrected));
        println!("{job} with {noise} of the labels flipped: test {metric} {plain:.4}, corrected {corrected:.4}");
        let better = if *metric == "brier" { corrected < plain } else { corrected > plain };
        assert!(better, "{job}, {noise}: {metric} {plain} without corrections, {corrected} with");
    }
}

#[test]
fn corrections_improve_the_model_of_noisy_adult() {
    if !is_full() || !has("adult/adult.data") {
        println!("skipped: a full figure (WITHIN_ACCEPT=1)");
        return;
    }
    let text = std::fs::read_to_string(data().join("adult/adult.data")).expect("reads");
    let (header, clean) = lines(&text);
    for noise in [0.05, 0.15] {
        let (sandbox, mut rows) = (Sandbox::new(), clean.clone());
        flip(&mut rows, noise, ["<=50K", ">50K"]);
        write(&sandbox, "noisy.csv", &header, &rows);
        std::fs::copy(data().join("adult/adult.test"), sandbox.path("clean.csv")).expect("copies");
        corrections_help("adult", &sandbox, noise, &["brier", "auc"]);
    }
}

#[test]
fn corrections_improve_the_model_of_noisy_clickbait_headlines() {
    if !is_full() || !has("clickbait_headlines/clickbait_data.gz") {
        println!("skipped: a full figure (WITHIN_ACCEPT=1)");
        return;
    }
    let sandbox = Sandbox::new();
    make_table(&sandbox, "clickbait_headlines");
    let text = std::fs::read_to_string(sandbox.path("clickbait_headlines.csv")).expect("reads");
    let (header, rows) = lines(&text);
    let (test, train): (Vec<_>, Vec<_>) = rows.into_iter().enumerate().partition(|(number, _)| number % 4 == 0);
    let rows_of = |of: &[(usize, String)]| of.iter().map(|(_, row)| row.clone()).collect::<Vec<_>>();
    write(&sandbox, "clean.csv", &header, &rows_of(&test));
    for noise in [0.05, 0.15] {
        let mut noisy = rows_of(&train);
        flip(&mut noisy, noise, ["0", "1"]);
        write(&sandbox, "noisy.csv", &header, &noisy);
        corrections_help("clickbait_headlines", &sandbox, noise, &["brier"]);
    }
}
