//! CSV to a dataset version: parsed, checked, fitted and written, in MB (10^6 bytes) of the file a second, beside pandas
//! in the same run where `WITHIN_PEER_PYTHON` names a Python that has it. Prints a JSON object a line, and writes them
//! to `prepare.json` in `WITHIN_BENCH_DIR`.
//!
//! The peer (`prepare.py`) reads the same file, checks that counts are not negative, splits, fits and applies median
//! imputation, standard scaling and one-hot encoding on its train part, and writes three Feather files.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use frame::manifest::Lineage;
use frame::write_shard;
use messages::feed::Split;
use messages::plan::{DataPlan, Task};
use tokio_util::sync::CancellationToken;
use within_data_loader::prepare::prepare;

#[path = "../tests/it/plan.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod plan;

/// About 100 MB.
const ROWS: u64 = 1_000_000;
/// The best of so many runs counts: other work on the machine only ever slows one down.
const RUNS: usize = 3;

/// A table as advertisers export it: counts, money, codes, texts of few values, some of them missing.
fn table() -> String {
    let mut text = String::from(
        "ad_id,campaign,placement,age,gender,impressions,clicks,spent,ctr,frequency,reach,video_views,score,conversions\n",
    );
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31)
    };
    for row in 0..ROWS {
        let impressions = (next() * 90_000.0) as u64 + 10;
        let clicks = (impressions as f64 * next() * 0.05) as u64;
        let spent = clicks as f64 * (0.2 + next());
        let missing = next() < 0.03;
        let frequency = if missing { String::new() } else { format!("{:.4}", 1.0 + next() * 9.0) };
        let campaign = ["spring", "summer", "autumn", "winter"][(next() * 4.0) as usize];
        let placement = ["feed", "story", "search", "network", "reel"][(next() * 5.0) as usize];
        let age = ["18-24", "25-34", "35-44", "45-54", "55-64", "65+"][(next() * 6.0) as usize];
        let gender = if next() < 0.5 { "F" } else { "M" };
        text.push_str(&format!(
            "ad{row},{campaign}-{},{placement},{age},{gender},{impressions},{clicks},{spent:.4},{:.6},{frequency},{},{},{:.3},{}\n",
            (next() * 40.0) as u64,
            clicks as f64 / impressions as f64,
            (impressions as f64 * 0.7) as u64,
            (next() * 5_000.0) as u64,
            next() * 100.0,
            (clicks as f64 * next() * 0.2) as u64,
        ));
    }
    text
}

fn plan() -> DataPlan {
    let mut plan = plan::data_plan(&["ads.csv"], "conversions");
    plan.id_column = Some("ad_id".into());
    plan
}

/// Everything but the artifact store: shards are made as they are written.
fn ours(root: &Path, out: &Path) -> f64 {
    let begun = Instant::now();
    let prepared =
        prepare(&plan(), Task::Regression, &[root.to_path_buf()], &CancellationToken::new()).expect("prepares");
    for split in Split::ALL {
        for (index, range) in prepared.shards(split).into_iter().enumerate() {
            let shard = write_shard(&prepared.table(split, range).expect("a table")).expect("writes");
            std::fs::write(out.join(format!("{}-{index}.arrow", split.as_str())), shard).expect("written");
        }
    }
    let manifest = prepared.manifest(Lineage::default(), Default::default(), None, None);
    std::fs::write(out.join("manifest.json"), manifest.to_json()).expect("written");
    begun.elapsed().as_secs_f64()
}

fn theirs(file: &Path, out: &Path) -> Option<f64> {
    let python = std::env::var_os("WITHIN_PEER_PYTHON")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/prepare.py");
    let output = Command::new(python).arg(script).arg(file).arg(out).output().expect("the peer runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    Some(text.trim().parse().expect("seconds"))
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = table();
    let file = folder.path().join("ads.csv");
    std::fs::write(&file, &text).expect("writes");
    let megabytes = text.len() as f64 / 1e6;
    let (mut best, mut peer) = (f64::INFINITY, None);
    for _ in 0..RUNS {
        best = best.min(ours(folder.path(), folder.path()));
        if let Some(seconds) = theirs(&file, folder.path()) {
            peer = Some(peer.map_or(seconds, |known: f64| known.min(seconds)));
        }
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load1: Option<f64> = load.split(' ').next().and_then(|text| text.parse().ok());
    let (figure, peer_figure) = (megabytes / best, peer.map(|seconds| megabytes / seconds));
    let row = serde_json::json!({
        "name": "prepare: CSV parsed, checked, fitted, written", "figure": figure.round(), "unit": "MB/s",
        "peer": peer_figure.map(|_| "pandas"), "peer_figure": peer_figure.map(f64::round),
        "ratio": peer_figure.map(|peer| (figure / peer * 100.0).round() / 100.0), "load1": load1,
    });
    println!("{row}");
    if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
        let text = serde_json::to_string_pretty(&[row]).expect("JSON");
        std::fs::write(Path::new(&folder).join("prepare.json"), text).expect("written");
    }
}
