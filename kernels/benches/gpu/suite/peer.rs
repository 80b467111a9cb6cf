//! PyTorch's figures of the same operations, by a script that a given Python runs (`peers/torch_ops.py`).

use super::cases::Case;
use super::report::{Peer, Theirs};
use super::steps::{Sizes, Step};
use super::{Scale, name};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

const SCRIPT: &str = include_str!("../../peers/torch_ops.py");

/// What the script is asked for: each case by its name in the table.
fn questions(scale: Scale, cases: &[Case], steps: &[Step]) -> Value {
    let mut all: Vec<Value> = Vec::new();
    for case in cases {
        let precisions: Vec<&str> = case.precisions.iter().map(|precision| name(*precision)).collect();
        all.push(json!({
            "name": format!("{} {}", case.name, case.shape), "precisions": precisions, "case": case.peer,
        }));
    }
    let (sizes, batches) = (Sizes::of(scale), steps.iter().map(|step| step.batch).collect::<BTreeSet<_>>());
    for batch in batches {
        let precisions: BTreeSet<&str> =
            steps.iter().filter(|step| step.batch == batch).map(|step| name(step.precision)).collect();
        all.push(json!({
            "name": format!("ad_score {batch}"), "precisions": precisions, "case": sizes.peer(batch),
        }));
    }
    Value::from(all)
}

/// Runs the script; why there is nothing where it does not run.
pub fn ask(python: &Path, scale: Scale, cases: &[Case], steps: &[Step]) -> Peer {
    let asked = questions(scale, cases, steps).to_string();
    let output = Command::new(python)
        .args(["-c", SCRIPT, &asked])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{}: {error}", python.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let last = said.lines().last().unwrap_or("it says nothing").to_owned();
        return Err(format!("{} ended with {}: {last}", python.display(), output.status));
    }
    read(&said)
}

/// Lines of JSON: one with `torch`, its version, then one for each figure. Other lines are not ours.
fn read(said: &str) -> Peer {
    let (mut version, mut all) = (None, BTreeMap::new());
    for line in said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        if let Some(torch) = text("torch") {
            version = Some(torch);
        } else if let (Some(name), Some(what), Some(precision)) = (text("name"), text("what"), text("precision")) {
            let theirs = Theirs { eager: line["eager_s"].as_f64(), compiled: line["compiled_s"].as_f64() };
            all.insert((name, what, precision), theirs);
        }
    }
    version.map(|version| (version, all)).ok_or_else(|| "the script did not say which torch it has".into())
}
