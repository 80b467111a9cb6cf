//! Torn checkpoints: what does not hash to what its manifest says is refused, and training goes on from the one before,
//! or from the beginning, to the same bits.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{LONG, Moment, Platform, TIMINGS};
use crate::harness::{Running, file_of, text};

const REST: &str = "coordinator,data_loader,evaluator,tracker,notifier";

/// Folder of the checkpoint that the coordinator knows of.
fn newest(platform: &Platform, job: &str) -> PathBuf {
    file_of(&platform.task(job, "train")["checkpoint"]["uri"])
}

/// What is done to a checkpoint's folder, in words and in fact.
type Damage = (&'static str, fn(&Path));

fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(file, bytes).expect("writes");
}

fn truncate(file: &Path, part: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(file).expect("opens");
    let bytes = file.metadata().expect("a size").len();
    file.set_len(bytes * part / 4).expect("truncates");
}

/// What training said of its beginning, for the attempt with this number.
fn beginning(job: &mut Running, attempt: usize) -> String {
    let begun = |line: &Value| line["event"] == "hook" && line["hook"] == "on_train_begin";
    let line = job.lines("on_train_begin", attempt, begun).pop().expect("invariant: that many were asked for");
    line["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn torn_checkpoints_are_refused() {
    let mut platform = Platform::start(TIMINGS, LONG, &[("rest", REST), ("trainer", "trainer")]);
    let mut job = platform.submit("torn");
    let damages: [Damage; 4] = [
        ("a flipped bit", |folder| flip(&folder.join("optimizer.safetensors"))),
        ("a file cut short", |folder| truncate(&folder.join("state.json"), 2)),
        ("an empty manifest", |folder| truncate(&folder.join("MANIFEST.json"), 0)),
        ("a file that is gone", |folder| std::fs::remove_file(folder.join("model.safetensors")).expect("removes")),
    ];
    for (round, (what, damage)) in damages.into_iter().enumerate() {
        Moment::Checkpoint(4 * (round + 1)).reach(&mut job);
        platform.drain("trainer");
        let folder = newest(&platform, "torn");
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        damage(&folder);
        platform.boot(&[("trainer", "trainer")]);
        let said = beginning(&mut job, round + 2);
        println!("{what}: {said}");
        assert!(said.contains("refused: ") && said.contains(&name), "{what}: {said}");
        assert!(
            said.contains("resumed from checkpoint_") && !said.contains(&format!("resumed from {name}")),
            "{what}: {said}"
        );
    }

    // None is whole any more.
    Moment::Checkpoint(20).reach(&mut job);
    platform.drain("trainer");
    let all = newest(&platform, "torn").parent().expect("a folder").to_owned();
    for entry in std::fs::read_dir(&all).expect("reads").flatten() {
        flip(&entry.path().join("model.safetensors"));
    }
    platform.boot(&[("trainer", "trainer")]);
    let said = beginning(&mut job, damages.len() + 2);
    assert!(said.contains("refused: ") && said.contains("begun anew"), "{said}");
    let logs = platform.sandbox.within(&["jobs", "logs", "torn", "--json"]).expect(0).json();
    assert!(logs.iter().any(|line| text(line, "/message").contains("BLAKE3")), "the log says so, too: {logs:#?}");
    platform.succeeded(job);
    platform.check(&["torn"]);
}
