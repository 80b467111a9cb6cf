//! What the benches share: arguments, the lines of JSON, and the ratio to a peer's figure of the same minute.
//!
//! `--peer FILE` names a file of JSON lines as the scripts of a peer print them: an object with one object per number
//! of threads (`threads_1`, ...), in it the figures. Every figure that the peer has too is then printed once more at
//! the end with its ratio: ours at its best over ours, theirs at its best over all their lines. The lines also go to
//! `SUITE.json` in the folder that `WITHIN_BENCH_DIR` names.
#![allow(dead_code, reason = "no suite has figures of every kind")]

use serde_json::{Value, json};

/// The figures of one suite.
pub struct Figures {
    suite: &'static str,
    peer: Vec<Value>,
    lines: Vec<Value>,
}

/// The number after an argument's name.
pub fn argument(name: &str) -> Option<usize> {
    text(name).and_then(|value| value.parse().ok())
}

fn text(name: &str) -> Option<String> {
    std::env::args().skip_while(|a| a != name).nth(1)
}

/// CPU seconds of this process, all threads.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(f64::NAN);
    (ticks(11) + ticks(12)) / 100.0
}

/// Whether a measurement was asked for: `cargo test` may run a bench without.
pub fn wanted() -> bool {
    std::env::args().any(|a| a == "--bench")
}

impl Figures {
    /// For the suite of this name; reads the peer's file where one is named.
    pub fn new(suite: &'static str) -> Figures {
        let peer = text("--peer").map_or_else(Vec::new, |path| {
            let lines = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("--peer {path}: {e}"));
            lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        });
        Figures { suite, peer, lines: Vec::new() }
    }

    /// Prints one figure.
    pub fn line(&mut self, line: Value) {
        println!("{line}");
        self.lines.push(line);
    }

    /// The best of the peer's figure over its lines and numbers of threads: `field` of it.
    fn theirs(&self, figure: &str, field: &str, better: fn(f64, f64) -> f64) -> Option<f64> {
        let threads = self.peer.iter().filter_map(Value::as_object).flatten();
        let runs = threads.filter(|(name, _)| name.starts_with("threads_"));
        runs.filter_map(|(_, run)| run.get(figure)?.get(field)?.as_f64()).reduce(better)
    }

    /// Prints ours over theirs for a figure that is better the larger (samples a second) or the smaller (milliseconds)
    /// it is, for each number of logical shards. `of` is (our figure, our field), `peer` the same of theirs, `goal` what is asked for.
    pub fn ratio(&mut self, of: (&str, &str), peer: (&str, &str), goal: &str, better: fn(f64, f64) -> f64) {
        let Some(theirs) = self.theirs(peer.0, peer.1, better) else { return };
        let lines: Vec<Value> = self.lines.iter().filter(|line| line["figure"] == of.0).cloned().collect();
        let mut shards: Vec<&Value> = lines.iter().map(|line| &line["logical_shards"]).collect();
        shards.sort_by_key(|n| n.as_u64());
        shards.dedup();
        for shards in shards {
            let own =
                lines.iter().filter(|line| line["logical_shards"] == *shards).filter_map(|line| line[of.1].as_f64());
            let Some(own) = own.reduce(better) else { continue };
            self.line(json!({
                "figure": format!("{}_ratio", of.0), "unit": "ours / theirs", "value": own / theirs, "ours": own,
                "theirs": theirs, "goal": goal, "logical_shards": shards,
            }));
        }
    }
}

impl Drop for Figures {
    /// Writes the suite's file.
    fn drop(&mut self) {
        if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
            let path = std::path::Path::new(&folder).join(format!("{}.json", self.suite));
            if let Err(error) = std::fs::write(&path, format!("{:#}\n", Value::from(self.lines.clone()))) {
                eprintln!("{}: {error}", path.display());
            }
        }
    }
}
