//! The step cache: which setting reaches which step, what is found again and what is computed, and what a cache must
//! survive: writers at once, writers that are killed, damage, age, a lack of room.

mod keys;
mod steps;
mod tier;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bus::artifact::ArtifactStore;
use frame::Manifest;
use frame::manifest::Lineage;
use messages::plan::{DataPlan, Task};
use messages::step::StepReport;
use messages::work::TaskOutput;
use messages::{ArtifactRef, WireError};
use tokio_util::sync::CancellationToken;
use within_data_loader::cache::{Limits, StepCache, Steps};
use within_data_loader::prepare::prepare_by;
use within_data_loader::write::{find, write_by};

use crate::plan::Root;

/// Hosts with a home each, one artifact store, and a clock that stands.
pub struct World {
    pub root: Root,
    pub folder: tempfile::TempDir,
    pub artifacts: ArtifactStore,
    pub now: Arc<AtomicU64>,
    pub limits: Limits,
}

impl World {
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let artifacts = ArtifactStore::open(&folder.path().join("store").to_string_lossy()).expect("a store");
        // Long after the files were written: their hashes can be remembered.
        let now = Arc::new(AtomicU64::new(bus::now_ms() + 60_000));
        Self { root: Root::new(files), folder, artifacts, now, limits: Limits::default() }
    }

    pub fn home(&self, host: &str) -> PathBuf {
        self.folder.path().join(host)
    }

    pub fn shared(&self) -> PathBuf {
        self.folder.path().join("shared")
    }

    /// The cache of a host; all share one more.
    pub fn cache(&self, host: &str) -> Arc<StepCache> {
        let now = Arc::clone(&self.now);
        let clock = Arc::new(move || now.load(Ordering::Relaxed));
        Arc::new(StepCache::new(self.home(host), Some(self.shared()), self.limits, clock))
    }

    /// A prepare task on a host: its output, as the role does it.
    pub async fn prepare(&self, host: &str, data: &DataPlan, task: Task) -> Result<TaskOutput, WireError> {
        let cancelled = CancellationToken::new();
        let steps = Steps::of(self.cache(host), data, task, &self.root.roots(), &cancelled)?;
        let (mut steps, found) = find(&self.artifacts, steps).await?;
        if let Some(found) = found {
            return Ok(found);
        }
        let prepared = prepare_by(data, task, &self.root.roots(), &mut steps, &cancelled)?;
        let lineage = Lineage { code_version: "test".into(), ..Lineage::default() };
        write_by(prepared, &self.artifacts, lineage, steps, &cancelled).await
    }

    /// The same: the dataset version, and what became of each step as `read hit, fit miss (…)`.
    pub async fn steps(&self, host: &str, data: &DataPlan) -> (ArtifactRef, String) {
        let output = self.prepare(host, data, Task::Regression).await.expect("prepared");
        let TaskOutput::Prepared { dataset, steps, .. } = output else { panic!("{output:?}") };
        (dataset, steps.iter().map(shown).collect::<Vec<_>>().join("\n"))
    }

    pub async fn manifest(&self, dataset: &ArtifactRef) -> Manifest {
        let bytes = self.artifacts.get(dataset).await.expect("is there");
        Manifest::from_json(&bytes).expect("a manifest")
    }
}

fn shown(report: &StepReport) -> String {
    let reason = if report.cache.is_hit() { String::new() } else { format!(": {}", report.reason) };
    format!("{} {}{reason}", report.step, report.cache.as_str())
}

/// A table of a number, a category and a target.
pub fn csv(rows: usize, salt: usize) -> String {
    let lines: Vec<String> =
        (0..rows).map(|i| format!("{},c{},{}", (i * 7 + salt) % 101, i % 5, i % 13 + salt)).collect();
    format!("x,c,y\n{}\n", lines.join("\n"))
}
