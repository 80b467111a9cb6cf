//! The example jobs on real data, as the files stand. `WITHIN_DATA` names the folder of the data. The
//! full figures are asserted with `WITHIN_ACCEPT=1`; otherwise fewer epochs must beat the baseline.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Running, Sandbox, number, root, text};

struct Job {
    name: &'static str,
    file: &'static str,
    metric: &'static str,
    /// The test part's metric after the whole job, at least.
    full: f64,
    /// With few epochs, above this: what guessing gives, and a little.
    quick: f64,
}

/// What a whole job may take on two cores.
const WHOLE_JOB: Duration = Duration::from_mins(10);

const QUICK: [&str; 2] = ["--set", "training.epochs=4"];

pub fn data() -> PathBuf {
    std::env::var_os("WITHIN_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from)
}

pub fn is_full() -> bool {
    std::env::var("WITHIN_ACCEPT").is_ok_and(|value| value == "1")
}

/// Whether the file is there; says so if not.
pub fn has(file: &str) -> bool {
    let there = data().join(file).exists();
    if !there {
        println!("skipped: {file} is not in {}", data().display());
        assert!(std::env::var_os("WITHIN_ACCEPT").is_none(), "the full figures need the data: set WITHIN_DATA");
    }
    there
}

/// Runs the job, or says that its data are missing.
fn run(job: &Job) {
    run_with(job, &Sandbox::new(), if is_full() { &[] } else { &QUICK });
}

fn run_with(job: &Job, sandbox: &Sandbox, settings: &[&str]) {
    if !has(job.file) {
        return;
    }
    let last = trained(job.name, sandbox, &data(), settings);
    check(job, &last, is_full());
}

fn trained(name: &str, sandbox: &Sandbox, data: &Path, settings: &[&str]) -> Value {
    let spec = root().join("deploy/jobs").join(format!("{name}.yaml")).display().to_string();
    let mut arguments = vec!["run", &spec, "--json"];
    arguments.extend(settings);
    let mut command = sandbox.command(&arguments);
    command.env("WITHIN_DATA", data);
    Running::start(command).wait_up_to(WHOLE_JOB).expect(0).last()
}

fn check(job: &Job, last: &Value, full: bool) {
    let reached = number(last, &format!("/metrics/test/{}", job.metric));
    println!("{}: test {} {reached:.4}, {:.1} s", job.name, job.metric, number(last, "/duration_s"));
    let least = if full { job.full } else { job.quick };
    assert!(reached >= least, "{}: {} {reached}, expected at least {least}\n{last:#}", job.name, job.metric);
    let baseline = last["metrics"]["baseline"][job.metric].as_f64();
    assert!(baseline.is_none_or(|baseline| reached > baseline), "{last:#}");
    assert_eq!(text(last, "/model/blake3").len(), 64);
}

#[test]
fn kag_conversion() {
    run(&Job {
        name: "kag_conversion",
        file: "kag_conversion/KAG_conversion_data.csv",
        metric: "auc",
        full: 0.55,
        quick: 0.5,
    });
}

#[test]
fn bank_marketing() {
    run(&Job {
        name: "bank_marketing",
        file: "bank_marketing/bank-additional-full.csv",
        metric: "auc",
        full: 0.77,
        quick: 0.7,
    });
}

#[test]
fn adult() {
    run(&Job { name: "adult", file: "adult/adult.data", metric: "auc", full: 0.90, quick: 0.85 });
}

#[test]
fn california_housing() {
    run(&Job {
        name: "california_housing",
        file: "california_housing/housing.csv",
        metric: "r2",
        full: 0.75,
        quick: 0.5,
    });
}

/// A table that the comment of a job says how to make, by the very commands of that comment.
pub fn make_table(sandbox: &Sandbox, job: &str) {
    let text = std::fs::read_to_string(root().join("deploy/jobs").join(format!("{job}.yaml"))).expect("the job");
    let comment = text.lines().map_while(|line| line.strip_prefix('#'));
    let commands: Vec<&str> = comment.skip_while(|line| !line.contains("To make it:")).skip(1).collect();
    let to = sandbox.path(&format!("{job}.csv")).display().to_string();
    let script = commands.join("\n").replace(&format!("> {job}.csv"), &format!("> {to}"));
    let made = Command::new("sh").args(["-euc", &script]).current_dir(data()).status().expect("a shell");
    assert!(made.success(), "{script}");
}

#[test]
fn clickbait_headlines() {
    if !has("clickbait_headlines/clickbait_data.gz") {
        return;
    }
    let sandbox = Sandbox::new();
    make_table(&sandbox, "clickbait_headlines");
    let quick = ["--set", "training.epochs=1", "--set", "data.split.test_size=0.8", "--set", "training.ema.decay=0"];
    let file = "clickbait_headlines/clickbait_data.gz";
    let job = Job { name: "clickbait_headlines", file, metric: "accuracy", full: 0.965, quick: 0.85 };
    run_with(&job, &sandbox, if is_full() { &[] } else { &quick });
}

#[test]
fn fashion_mnist() {
    if !has("fashion_mnist/images-idx3-ubyte.gz") {
        return;
    }
    let sandbox = Sandbox::new();
    make_table(&sandbox, "fashion_mnist");
    let quick = ["--set", "training.epochs=1", "--set", "data.split.test_size=0.8", "--set", "training.ema.decay=0"];
    let file = "fashion_mnist/images-idx3-ubyte.gz";
    let job = Job { name: "fashion_mnist", file, metric: "accuracy", full: 0.86, quick: 0.3 };
    run_with(&job, &sandbox, if is_full() { &[] } else { &quick });
}

/// From scratch: words, images and table of 3,500 rows; the data's own noise leaves 0.87 to a linear model that
/// knows the hidden labels.
#[test]
fn multimodal_ads() {
    let job = Job { name: "ad_score_predictor", file: "multimodal_ads/ads.csv", metric: "r2", full: 0.72, quick: 0.3 };
    run_with(&job, &Sandbox::new(), if is_full() { &[] } else { &QUICK });
}

/// Each branch carries what the others cannot know. The data's linear ceilings: 0.60 without the text, 0.57 without
/// the image, 0.58 without the table.
#[test]
fn a_branch_removed_is_missed_on_multimodal_ads() {
    if !is_full() {
        println!("skipped: a full figure (WITHIN_ACCEPT=1)");
        return;
    }
    for (branch, least, most) in
        [("text_encoder", 0.5, 0.6), ("visual_encoder", 0.45, 0.6), ("tabular_encoder", 0.42, 0.6)]
    {
        let off = format!("model.{branch}.type=none");
        let last = trained("ad_score_predictor", &Sandbox::new(), &data(), &["--set", &off]);
        let r2 = number(&last, "/metrics/test/r2");
        println!("multimodal_ads without {branch}: test r2 {r2:.4}");
        assert!((least..most).contains(&r2), "{branch}: {r2}");
    }
}

/// With the published encoder that `make accept` provisions; within ten minutes on two cores.
#[test]
fn multimodal_ads_with_a_pretrained_encoder() {
    let Some(folder) = std::env::var_os("WITHIN_MINILM").filter(|_| is_full()) else {
        println!("skipped: a full figure (WITHIN_ACCEPT=1) that needs WITHIN_MINILM");
        return;
    };
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("minilm")).expect("creates");
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(Path::new(&folder).join(name), sandbox.path("minilm").join(name)).expect("copies");
    }
    let job = Job { name: "ad_score_pretrained", file: "multimodal_ads/ads.csv", metric: "r2", full: 0.75, quick: 0.3 };
    run_with(&job, &sandbox, &[]);
}
