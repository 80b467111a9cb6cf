//! The example jobs on real data, as the files stand. `WITHIN_DATA` names the folder of the data. The
//! full figures are asserted with `WITHIN_ACCEPT=1`; otherwise fewer epochs must beat the baseline.

use std::path::PathBuf;

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

const QUICK: [&str; 2] = ["--set", "training.epochs=4"];

/// Runs the job, or says that its data are missing.
fn run(job: &Job) {
    let data = std::env::var_os("WITHIN_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from);
    if !data.join(job.file).exists() {
        println!("skipped: {} is not in {}", job.file, data.display());
        assert!(std::env::var_os("WITHIN_ACCEPT").is_none(), "the full figures need the data: set WITHIN_DATA");
        return;
    }
    let full = std::env::var("WITHIN_ACCEPT").is_ok_and(|value| value == "1");
    let sandbox = Sandbox::new();
    let spec = root().join("deploy/jobs").join(format!("{}.yaml", job.name)).display().to_string();
    let mut arguments = vec!["run", &spec, "--json"];
    if !full {
        arguments.extend(QUICK);
    }
    let mut command = sandbox.command(&arguments);
    command.env("WITHIN_DATA", &data);
    let last = Running::start(command).wait().expect(0).last();
    check(job, &last, full);
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
