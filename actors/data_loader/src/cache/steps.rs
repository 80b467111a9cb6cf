//! A task's way through its steps: what is kept is taken, what is not is computed and kept, and of each it is told
//! which of the two it was and why. Nothing that goes wrong with the cache fails the task.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use frame::manifest::Source;
use messages::WireError;
use messages::error::Code;
use messages::plan::{CacheMode, ColumnPlan, ColumnType, DataPlan, Task};
use messages::step::{CacheOutcome, StepReport};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::StepCache;
use super::entry;
use super::recipe::{Difference, Key, Recipe};
use super::settings::{Step, settings_of};
use super::tier::Lookup;
use crate::load::alive;
use crate::source::path::{cannot_open, resolve, resolve_folder};
use crate::source::{self, glob};

/// A file that the data are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Input {
    /// The key that names it, and the name: `data.path[0] ads.csv`.
    name: String,
    /// As in the plan.
    path: String,
    real: PathBuf,
    blake3: String,
    /// The first step that reads it.
    of: Step,
}

/// What a task knows of its cache; without one, every step is computed and nothing is told.
pub struct Steps {
    known: Option<Known>,
    reports: Vec<StepReport>,
    /// Hears of each step as it ends.
    tell: Option<mpsc::Sender<StepReport>>,
}

struct Known {
    cache: Arc<StepCache>,
    mode: CacheMode,
    settings: BTreeMap<Step, BTreeMap<String, serde_json::Value>>,
    inputs: Vec<Input>,
    /// What runs on the same files share: where the last recipes of each step are found.
    slot: String,
    /// What differs from the last time, by step; none: nothing does.
    differences: BTreeMap<Step, Option<String>>,
    begun: BTreeMap<Step, Begun>,
    /// Found, and not yet accepted.
    found: BTreeMap<Step, StepReport>,
    /// A file is not what its remembered hash says.
    changed: bool,
    /// Something that was kept could not be used.
    refused: bool,
    /// Why nothing is kept, or not the whole.
    not_kept: Option<String>,
    whole_not_kept: Option<String>,
}

struct Begun {
    key: Key,
    outcome: CacheOutcome,
    reason: String,
    at: Instant,
}

impl Steps {
    /// Without a cache.
    pub fn uncached() -> Self {
        Self { known: None, reports: Vec::new(), tell: None }
    }

    /// The steps of a plan. Hashes its files, as far as their hashes are not remembered.
    pub fn of(
        cache: Arc<StepCache>,
        data: &DataPlan,
        task: Task,
        roots: &[PathBuf],
        cancelled: &CancellationToken,
    ) -> Result<Self, WireError> {
        if data.cache == CacheMode::Off {
            return Ok(Self::uncached());
        }
        let mut inputs = files_of(data, roots)?;
        for input in &mut inputs {
            if data.cache == CacheMode::Refresh {
                cache.files.forget(&input.real);
            }
            let mut go_on = || alive(cancelled).map_err(|_| io::Error::other("cancelled"));
            let hash = cache.files.hash(&input.real, cache.now(), &mut go_on);
            alive(cancelled)?;
            input.blake3 = hash.map_err(|error| cannot_open(&input.path, &error))?;
        }
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        let slot = blake3::hash(names.join("\n").as_bytes()).to_hex()[..32].to_owned();
        let settings = Step::ALL.into_iter().map(|step| (step, settings_of(step, data, task))).collect();
        let known = Known {
            mode: data.cache,
            cache,
            settings,
            inputs,
            slot,
            differences: BTreeMap::new(),
            begun: BTreeMap::new(),
            found: BTreeMap::new(),
            changed: false,
            refused: false,
            not_kept: not_kept(data),
            whole_not_kept: whole_not_kept(data),
        };
        Ok(Self { known: Some(known), reports: Vec::new(), tell: None })
    }

    /// From now on each step is told here as it ends.
    pub fn tell(&mut self, to: mpsc::Sender<StepReport>) {
        self.tell = Some(to);
    }

    /// What was told so far.
    pub fn reports(&self) -> &[StepReport] {
        &self.reports
    }

    /// Whether a file turned out to be another than its hash said: everything is to be begun anew.
    pub fn changed(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.changed)
    }

    /// Whether artifacts are to be written over those that are there: the job asked for it, or some were not whole.
    pub fn rewrites(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.mode == CacheMode::Refresh || known.refused)
    }

    /// The key of a step that has no more inputs than its files and the steps before.
    pub fn key(&self, step: Step) -> Option<Key> {
        self.known.as_ref().map(|known| known.recipe(step, &[]).key())
    }

    /// The kept outcome of a step or, where there is none, what `compute` makes, which is kept then.
    pub fn run<T: Serialize + DeserializeOwned>(
        &mut self,
        step: Step,
        compute: impl FnOnce(&mut Self) -> Result<T, WireError>,
    ) -> Result<T, WireError> {
        if let Some(found) = self.find(step, &[]) {
            self.accept(step);
            return Ok(found);
        }
        let made = compute(self)?;
        self.keep(step, &made);
        Ok(made)
    }

    /// The kept outcome of a step, to be accepted or refused. `more` are inputs that only now are known.
    pub fn find<T: DeserializeOwned>(&mut self, step: Step, more: &[(String, String)]) -> Option<T> {
        let known = self.known.as_mut()?;
        let begun = Instant::now();
        let recipe = known.recipe(step, more);
        let key = recipe.key();
        let difference = known.difference(step, &recipe);
        let miss = |outcome, reason| Begun { key: key.clone(), outcome, reason, at: begun };
        if known.mode == CacheMode::Refresh {
            known.begun.insert(step, miss(CacheOutcome::Refresh, "the job asked for it".into()));
            return None;
        }
        if let Some(why) = known.is_not_kept(step) {
            let begun = miss(CacheOutcome::Miss, why);
            known.begun.insert(step, begun);
            return None;
        }
        let (found, why) = known.look_up::<T>(step, &key);
        if let Some((value, outcome, size_bytes)) = found {
            let reason = "the same inputs and settings".into();
            known.found.insert(step, StepReport { size_bytes, ..report(step, outcome, &key, reason, begun) });
            return Some(value);
        }
        // What happened to the entry says more than that there were others.
        let reason = why.or(difference).unwrap_or_else(|| "it was removed from the cache".into());
        known.begun.insert(step, miss(CacheOutcome::Miss, reason));
        None
    }

    /// What was found is used.
    pub fn accept(&mut self, step: Step) {
        if let Some(found) = self.known.as_mut().and_then(|known| known.found.remove(&step)) {
            self.told(step, found);
        }
    }

    /// What was found cannot be used after all: it is to be computed.
    pub fn refuse(&mut self, step: Step, why: String) {
        let Some(known) = &mut self.known else { return };
        known.refused = true;
        let found = known.found.remove(&step);
        if let Some(key) = found.and_then(|found| Key::parse(&found.key)) {
            tracing::warn!(step = step.as_str(), why, "an entry of the step cache is dropped");
            known.cache.tiers().for_each(|(_, tier)| tier.drop_entry(&key));
            known.begun.insert(step, Begun { key, outcome: CacheOutcome::Miss, reason: why, at: Instant::now() });
        }
    }

    /// Keeps what was computed.
    pub fn keep<T: Serialize>(&mut self, step: Step, made: &T) {
        let Some(known) = &mut self.known else { return };
        let Some(begun) = known.begun.remove(&step) else { return };
        let size_bytes = if known.is_not_kept(step).is_some() { 0 } else { known.put(step, &begun.key, made) };
        let mut told = report(step, begun.outcome, &begun.key, begun.reason, begun.at);
        told.size_bytes = size_bytes;
        self.told(step, told);
    }

    /// Files that were read must be those that were hashed. A file that is not is read again the next time.
    pub fn same_files(&mut self, sources: &[Source]) -> Result<(), WireError> {
        let Some(known) = &mut self.known else { return Ok(()) };
        for source in sources {
            let other = |input: &&Input| input.path == source.path && input.blake3 != source.blake3;
            if let Some(input) = known.inputs.iter().find(other) {
                known.cache.files.forget(&input.real);
                known.changed = true;
                let message = format!("{}: changed while it was read", source.path);
                return Err(WireError::new(Code::DatasetValidationError, message));
            }
        }
        Ok(())
    }

    fn told(&mut self, step: Step, report: StepReport) {
        let StepReport { cache, reason, duration_ms, .. } = &report;
        tracing::info!(step = step.as_str(), cache = cache.as_str(), reason, duration_ms, "a step");
        if let Some(tell) = &self.tell {
            // Whoever does not listen has gone; the channel has room for every step.
            tell.try_send(report.clone()).ok();
        }
        self.reports.push(report);
    }
}

impl Known {
    /// Why the outcome of a step is not kept.
    fn is_not_kept(&self, step: Step) -> Option<String> {
        let whole = self.whole_not_kept.clone().filter(|_| step == Step::Prepare);
        self.not_kept.clone().or(whole)
    }

    fn recipe(&self, step: Step, more: &[(String, String)]) -> Recipe {
        let files = self.inputs.iter().filter(|input| input.of == step);
        let mut inputs: BTreeMap<String, String> =
            files.map(|input| (input.name.clone(), input.blake3.clone())).chain(more.iter().cloned()).collect();
        for before in step.needs() {
            inputs.insert(before.as_str().to_owned(), self.recipe(*before, &[]).key().to_string());
        }
        let settings = self.settings.get(&step).cloned().unwrap_or_default();
        Recipe { step: step.as_str().to_owned(), version: step.version(), inputs, settings }
    }

    /// What differs from the last time on the same files; of an input that is a step, what differed there. Looked at
    /// once in a task, because the recipe is remembered for the next.
    fn difference(&mut self, step: Step, recipe: &Recipe) -> Option<String> {
        if let Some(known) = self.differences.get(&step) {
            return known.clone();
        }
        for before in step.needs() {
            let recipe = self.recipe(*before, &[]);
            self.difference(*before, &recipe);
        }
        let last = self.cache.local.last(step.as_str(), &self.slot);
        if last.as_ref() != Some(recipe) {
            self.cache.local.remember(recipe, &self.slot);
        }
        let of_step = |name: &str| Step::ALL.into_iter().find(|step| step.as_str() == name);
        let text = match last {
            None => Some("nothing is kept of these files".to_owned()),
            Some(last) => recipe.difference(&last).map(|difference| match &difference {
                Difference::Input { name, .. } => {
                    let there = of_step(name).and_then(|step| self.differences.get(&step).cloned().flatten());
                    there.unwrap_or_else(|| difference.to_string())
                }
                Difference::Other(text) => text.clone(),
            }),
        };
        self.differences.insert(step, text.clone());
        text
    }

    /// The outcome from the nearest tier that has it, or what happened to it.
    fn look_up<T: DeserializeOwned>(&self, step: Step, key: &Key) -> (Option<(T, CacheOutcome, u64)>, Option<String>) {
        let now = self.cache.now();
        let mut why = None;
        for (name, tier) in self.cache.tiers() {
            match tier.get::<T>(key, now) {
                Lookup::Found { value, size_bytes } => {
                    let outcome = if name == "local" { CacheOutcome::Hit } else { CacheOutcome::SharedHit };
                    if outcome == CacheOutcome::SharedHit {
                        self.cache.local.adopt(tier, key);
                    }
                    metrics::counter!("within_step_cache_hits_total", "step" => step.as_str(), "tier" => name)
                        .increment(1);
                    return (Some((value, outcome, size_bytes)), None);
                }
                Lookup::Missing => {}
                Lookup::Expired { age_s } => why = Some(format!("what was kept is {age_s} s old, which is too old")),
                Lookup::Damaged(what) => why = Some(format!("what was kept is damaged: {what}")),
            }
        }
        metrics::counter!("within_step_cache_misses_total", "step" => step.as_str()).increment(1);
        (None, why)
    }

    /// Puts an outcome into every tier; its size, 0 where none took it.
    fn put<T: Serialize>(&self, step: Step, key: &Key, made: &T) -> u64 {
        let now = self.cache.now();
        let mut size_bytes = 0;
        for (name, tier) in self.cache.tiers() {
            let put = tier.put(key, step.as_str(), now, |out| entry::write_value(out, made));
            match put {
                Ok(size) => size_bytes = size,
                Err(error) => {
                    let (step, folder) = (step.as_str(), tier.folder().display());
                    tracing::warn!(step, tier = name, %folder, %error, "the outcome of a step cannot be kept");
                }
            }
        }
        size_bytes
    }
}

fn report(step: Step, cache: CacheOutcome, key: &Key, reason: String, begun: Instant) -> StepReport {
    StepReport {
        step: step.as_str().to_owned(),
        cache,
        key: key.to_string(),
        reason,
        duration_ms: begun.elapsed().as_secs_f64() * 1_000.0,
        size_bytes: 0,
    }
}

/// Every file that the prepared data follow from, not yet hashed. A key of a spec that names a file belongs here.
fn files_of(data: &DataPlan, roots: &[PathBuf]) -> Result<Vec<Input>, WireError> {
    let mut found = Vec::new();
    let mut add = |key: &str, path: &str, real: PathBuf, of: Step| {
        let name = format!("{key} {path}");
        found.push(Input { name, path: path.to_owned(), real, blake3: String::new(), of });
    };
    for (index, file) in source::files(data, roots)?.into_iter().enumerate() {
        let key = if file.test { "data.test_path" } else { "data.path" };
        add(&format!("{key}[{index}]"), &file.path, file.real, Step::Read);
    }
    for (index, join) in data.joins.iter().enumerate() {
        for (path, real) in glob::find(&join.path, roots)? {
            add(&format!("data.joins[{index}]"), &path, real, Step::Read);
        }
    }
    for (column, plan) in &data.columns {
        if let Some(path) = &plan.images {
            add(&format!("data.columns.{column}.images"), path, resolve(path, roots)?, Step::Read);
        }
    }
    if let Some(path) = &data.text.pretrained {
        let folder = resolve_folder(path, roots)?;
        let mut names: Vec<_> = std::fs::read_dir(&folder)
            .map_err(|error| cannot_open(path, &error))?
            .flatten()
            .filter(|entry| entry.path().is_file())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        for name in names {
            let real = folder.join(&name);
            add("data.text.pretrained", &format!("{path}/{name}"), real, Step::Fit);
        }
    }
    Ok(found)
}

/// Why nothing of a plan may be kept: it follows from files that only reading finds.
fn not_kept(data: &DataPlan) -> Option<String> {
    let pictures = |(_, column): &(&String, &ColumnPlan)| column.r#type == ColumnType::Image && column.images.is_none();
    let (name, _) = data.columns.iter().find(pictures)?;
    Some(format!("column {name:?} may name pictures in files of their own, which are not looked at: nothing is kept"))
}

/// Why the whole of a plan may not be kept: what feeds need of the world outside is gathered anew each time.
fn whole_not_kept(data: &DataPlan) -> Option<String> {
    let why = "data.augmentation gathers words, translations and pictures that are no inputs of the cache";
    data.augmentation.as_ref().map(|_| why.to_owned())
}
