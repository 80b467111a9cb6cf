//! CSV to a dataset version: parsed, checked, fitted and written, in MB (10^6 bytes) of the file a second, beside pandas
//! in the same run where `WITHIN_PEER_PYTHON` names a Python that has it. Prints a JSON object a line, and writes them
//! to `prepare.json` in `WITHIN_BENCH_DIR`. `--large GB --memory MIB [--gz]` adds a file of so many GB of text, prepared with
//! so many MiB of memory, and the most that the process had of it.
//!
//! The peer (`prepare.py`) reads the same file, checks that counts are not negative, splits, fits and applies median
//! imputation, standard scaling and one-hot encoding on its train part, and writes three Feather files.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use frame::manifest::Lineage;
use frame::write_shard;
use messages::feed::Split;
use messages::plan::{DataPlan, Task};
use scratch::Scope;
use tokio_util::sync::CancellationToken;
use within_data_loader::parallel;
use within_data_loader::prepare::prepare;

#[path = "../tests/it/plan.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod plan;

#[global_allocator]
static ALLOCATOR: scratch::Scratch = scratch::Scratch;

/// About 100 MB.
const ROWS: u64 = 1_000_000;
/// The best of so many runs counts: other work on the machine only ever slows one down.
const RUNS: usize = 3;

const HEADER: &str =
    "ad_id,campaign,placement,age,gender,impressions,clicks,spent,ctr,frequency,reach,video_views,score,conversions\n";

/// Rows of a table as advertisers export it: counts, money, codes, texts of few values, some of them missing.
fn rows(rows: Range<u64>) -> String {
    let mut text = String::new();
    let mut state = rows.start + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 31)
    };
    for row in rows {
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

/// What the peer checks too.
const SCHEMA: &str = r#"{
  "not_null": ["conversions"],
  "value_ranges": {
    "impressions": {"min": 0}, "clicks": {"min": 0}, "spent": {"min": 0}, "reach": {"min": 0},
    "video_views": {"min": 0}, "conversions": {"min": 0}
  }
}"#;

/// Ids are held to be different as they are read.
fn plan(schema: bool) -> DataPlan {
    let mut plan = plan::data_plan(&["ads.csv"], "conversions");
    plan.id_column = Some("ad_id".into());
    plan.validation.schema = schema.then(|| SCHEMA.to_owned());
    plan
}

/// Everything but the artifact store: shards are made as they are written.
fn ours(plan: &DataPlan, root: &Path, out: &Path) -> f64 {
    let begun = Instant::now();
    let prepared = prepare(plan, Task::Regression, &[root.to_path_buf()], &CancellationToken::new()).expect("prepares");
    let read = begun.elapsed().as_secs_f64();
    let pieces: Vec<_> = Split::ALL
        .into_iter()
        .flat_map(|split| prepared.shards(split).into_iter().map(move |range| (split, range)))
        .collect();
    parallel::map(&pieces, |(split, range)| {
        let shard = write_shard(&prepared.table(*split, range.clone()).expect("a table")).expect("writes");
        std::fs::write(out.join(format!("{}-{}.arrow", split.as_str(), range.start)), shard).expect("written");
    });
    let manifest = prepared.manifest(Lineage::default(), Default::default(), None, None);
    std::fs::write(out.join("manifest.json"), manifest.to_json()).expect("written");
    let took = begun.elapsed().as_secs_f64();
    println!("read, checked, split and fitted: {read:.3} s; shards: {:.3} s", took - read);
    took
}

/// A file of `gigabytes` (10^9 bytes) of text, prepared with `memory_mib` for what large columns take.
fn large(gigabytes: f64, memory_mib: usize, gz: bool) -> serde_json::Value {
    let folder = tempfile::tempdir().expect("a folder");
    let name = if gz { "ads.csv.gz" } else { "ads.csv" };
    let file = std::fs::File::create(folder.path().join(name)).expect("a file");
    let mut out: Box<dyn Write> = if gz {
        Box::new(flate2::write::GzEncoder::new(file, flate2::Compression::fast()))
    } else {
        Box::new(std::io::BufWriter::new(file))
    };
    out.write_all(HEADER.as_bytes()).expect("written");
    let (mut bytes, mut row) = (HEADER.len(), 0);
    while (bytes as f64) < gigabytes * 1e9 {
        let text = rows(row..row + 100_000);
        out.write_all(text.as_bytes()).expect("written");
        bytes += text.len();
        row += 100_000;
    }
    out.flush().expect("written");
    drop(out);
    // The most so far is forgotten: writing the file is not what is measured.
    std::fs::write("/proc/self/clear_refs", "5").expect("the most memory is reset");
    let scope = Scope::new(folder.path().to_path_buf(), memory_mib << 20);
    let _inside = scope.enter();
    let mut plan = plan(true);
    plan.path = vec![name.to_owned()];
    let took = ours(&plan, folder.path(), folder.path());
    assert!(scope.failure().is_none(), "{:?}", scope.failure());
    serde_json::json!({
        "name": format!("prepare: {gigabytes} GB of CSV{}, {row} rows, {memory_mib} MiB", if gz { ", gzip" } else { "" }),
        "figure": (bytes as f64 / 1e6 / took).round(), "unit": "MB/s", "rss_peak_mib": status_mib("VmHWM"),
        "files_peak_mib": scope.file_peak_bytes() >> 20, "load1": load1(),
    })
}

/// A line of `/proc/self/status`, in MiB.
fn status_mib(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? >> 10)
}

fn load1() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// What follows a flag among the arguments.
fn argument(flag: &str) -> Option<f64> {
    let text = std::env::args().skip_while(|arg| arg != flag).nth(1)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{flag} {text}: expected a number")))
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
    let text = HEADER.to_owned() + &rows(0..ROWS);
    let file = folder.path().join("ads.csv");
    std::fs::write(&file, &text).expect("writes");
    let megabytes = text.len() as f64 / 1e6;
    let (mut best, mut without, mut peer) = (f64::INFINITY, f64::INFINITY, None);
    for _ in 0..RUNS {
        best = best.min(ours(&plan(true), folder.path(), folder.path()));
        without = without.min(ours(&plan(false), folder.path(), folder.path()));
        if let Some(seconds) = theirs(&file, folder.path()) {
            peer = Some(peer.map_or(seconds, |known: f64| known.min(seconds)));
        }
    }
    let (figure, peer_figure) = (megabytes / best, peer.map(|seconds| megabytes / seconds));
    let row = serde_json::json!({
        "name": "prepare: CSV parsed, validated, profiled, fitted, written", "figure": figure.round(), "unit": "MB/s",
        "without_schema": (megabytes / without).round(),
        "peer": peer_figure.map(|_| "pandas"), "peer_figure": peer_figure.map(f64::round),
        "ratio": peer_figure.map(|peer| (figure / peer * 100.0).round() / 100.0), "load1": load1(),
    });
    println!("{row}");
    let mut figures = vec![row];
    if let Some(gigabytes) = argument("--large") {
        let memory_mib = argument("--memory").unwrap_or(256.0) as usize;
        let row = large(gigabytes, memory_mib, std::env::args().any(|arg| arg == "--gz"));
        println!("{row}");
        figures.push(row);
    }
    if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
        let text = serde_json::to_string_pretty(&figures).expect("JSON");
        std::fs::write(Path::new(&folder).join("prepare.json"), text).expect("written");
    }
}
