//! Checkpoints of one job: directories, written beside, synced, and renamed into place, so that a name
//! either holds a whole checkpoint or none. A manifest names every file with size and BLAKE3; what does
//! not match is refused.
//!
//! ```text
//! checkpoint_epoch_007/     after epoch 7          checkpoint_step_000120/   at a step within an epoch
//!   model.safetensors       parameters, readable as a model file
//!   optimizer.safetensors   everything that `kernels::train::Trainer` needs to go on bit-exactly
//!   best.safetensors        the best model so far, if the job announces the best one
//!   state.json              TrainState
//!   MANIFEST.json           the files' sizes and hashes; its own hash names the checkpoint
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use messages::event::{Checkpoint, Metrics};
use messages::{Fence, JobId, TaskId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, ErrorKind};

/// Version of `state.json` and `MANIFEST.json`. Readers accept this one and the previous one.
pub const CHECKPOINT_VERSION: u16 = 1;

const MANIFEST: &str = "MANIFEST.json";
const STATE: &str = "state.json";
const MODEL: &str = "model.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const BEST: &str = "best.safetensors";
const TEMPORARY: &str = ".tmp-";
const REPLACED: &str = ".old-";
/// Largest `MANIFEST.json` and `state.json` that a reader accepts.
const MAX_JSON_BYTES: u64 = 64 * 1024 * 1024;

/// A number by its bits (16 hexadecimal digits), because decimal text may lose the last one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bits(pub f64);

impl Serialize for Bits {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{:016x}", self.0.to_bits()))
    }
}

impl<'de> Deserialize<'de> for Bits {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        u64::from_str_radix(&text, 16)
            .map(|bits| Self(f64::from_bits(bits)))
            .map_err(|_| de::Error::custom(format!("number {text:?}: expected 16 hexadecimal digits")))
    }
}

/// The next batch of training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Completed epochs.
    pub epoch: u32,
    /// Batches of the epoch under way that are trained on.
    pub batch: u64,
}

/// Sums over the epoch under way, for its metrics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub rows: u64,
    /// Sum over steps of loss x rows.
    pub loss: Bits,
    pub grad_norm: Bits,
    pub steps: u64,
}

impl Default for Running {
    fn default() -> Self {
        Self { rows: 0, loss: Bits(0.0), grad_norm: Bits(0.0), steps: 0 }
    }
}

/// A checkpoint among the best.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BestEntry {
    pub name: String,
    pub value: Bits,
}

/// The model that would be announced if training ended here.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BestModel {
    pub epoch: u32,
    pub value: Bits,
}

/// Generators are counters: a seed and the position are all their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeds {
    pub seed: u64,
    pub shuffle_seed: u64,
    pub dropout_seed: u64,
}

/// What a checkpoint belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExtraInfo {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
    pub fence: Fence,
    pub generation: u32,
    pub world_size: u32,
    /// `JobPlan::content_blake3`.
    pub plan_blake3: String,
    /// BLAKE3 of the dataset's manifest.
    pub dataset_blake3: String,
    /// BLAKE3 of the parameters in canonical order.
    pub params_blake3: String,
}

/// Everything but weights and optimizer that training goes on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    pub schema: u16,
    /// Completed epochs.
    pub epoch: u32,
    /// Completed optimizer steps.
    pub step: u64,
    pub position: Position,
    pub learning_rate: Bits,
    /// What early stopping has observed, in order; replayed on resume.
    pub early_stopping: Vec<Bits>,
    /// The best checkpoints, best first.
    pub best: Vec<BestEntry>,
    pub best_model: Option<BestModel>,
    pub running: Running,
    pub rng: Seeds,
    /// Of the last completed epoch.
    pub metrics: Metrics,
    /// RFC 3339.
    pub timestamp: String,
    pub extra_info: ExtraInfo,
}

/// A checkpoint's content.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub state: TrainState,
    pub model: Vec<u8>,
    pub optimizer: Vec<u8>,
    pub best: Option<Vec<u8>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct FileEntry {
    name: String,
    size_bytes: u64,
    blake3: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct DirManifest {
    schema: u16,
    files: Vec<FileEntry>,
}

/// Name of the checkpoint at a position.
pub fn name_of(position: Position, step: u64) -> String {
    if position.batch == 0 {
        format!("checkpoint_epoch_{:03}", position.epoch)
    } else {
        format!("checkpoint_step_{step:06}")
    }
}

/// The checkpoints of one job.
#[derive(Debug, Clone)]
pub struct CheckpointStore {
    dir: PathBuf,
    fence: Fence,
}

impl CheckpointStore {
    /// Opens the folder for a holder of `fence`, and finishes or removes what dead writers left.
    pub fn open(dir: impl Into<PathBuf>, fence: Fence) -> Result<Self, Error> {
        let store = Self { dir: dir.into(), fence };
        fs::create_dir_all(&store.dir).map_err(|e| Error::io("create", &store.dir, e))?;
        for name in store.entries()? {
            let path = store.dir.join(&name);
            if let Some(rest) = name.strip_prefix(TEMPORARY) {
                if fence_in(rest).is_some_and(|(of, _)| of < fence) {
                    fs::remove_dir_all(&path).map_err(|e| Error::io("remove", &path, e))?;
                }
            } else if let Some((of, original)) = name.strip_prefix(REPLACED).and_then(fence_in) {
                let target = store.dir.join(original);
                if of >= fence {
                    continue;
                }
                // Its writer died between taking the old one away and putting the new one in place.
                if target.exists() {
                    fs::remove_dir_all(&path).map_err(|e| Error::io("remove", &path, e))?;
                } else {
                    fs::rename(&path, &target).map_err(|e| Error::io("restore", &target, e))?;
                }
            }
        }
        Ok(store)
    }

    /// Writes a checkpoint and puts it in place, replacing one of the same name and a lower fence.
    /// After this returns, a crash of the machine does not undo it.
    pub fn commit(&self, snapshot: &Snapshot) -> Result<Checkpoint, Error> {
        let state = &snapshot.state;
        let name = name_of(state.position, state.step);
        let target = self.dir.join(&name);
        self.refuse_if_fenced(&name)?;
        let temporary = self.dir.join(format!("{TEMPORARY}{}-{name}", self.fence));
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(|e| Error::io("remove", &temporary, e))?;
        }
        let blake3 = write_files(&temporary, snapshot).inspect_err(|_| {
            // Best effort: what a full disk leaves is removed at the next opening, too.
            let _ = fs::remove_dir_all(&temporary);
        })?;
        let replaced = self.dir.join(format!("{REPLACED}{}-{name}", self.fence));
        if target.exists() {
            fs::rename(&target, &replaced).map_err(|e| Error::io("replace", &target, e))?;
        }
        fs::rename(&temporary, &target).map_err(|e| Error::io("put in place", &target, e))?;
        sync_dir(&self.dir)?;
        if replaced.exists() {
            fs::remove_dir_all(&replaced).map_err(|e| Error::io("remove", &replaced, e))?;
        }
        Ok(Checkpoint {
            uri: format!("file://{}", target.display()),
            name,
            blake3,
            epoch: state.epoch,
            step: state.step,
            metrics: state.metrics.clone(),
        })
    }

    /// Reads a checkpoint, every file checked. `blake3`: what its manifest must hash to, if known.
    pub fn load(&self, name: &str, blake3: Option<&str>) -> Result<Snapshot, Error> {
        if !is_checkpoint(name) {
            return Err(Error::new(ErrorKind::Corrupt, format!("{name:?} is no name of a checkpoint")));
        }
        let dir = self.dir.join(name);
        let manifest_bytes = read_bounded(&dir.join(MANIFEST), MAX_JSON_BYTES)?;
        if let Some(expected) = blake3 {
            expect_hash(name, MANIFEST, &manifest_bytes, expected)?;
        }
        let manifest: DirManifest = parse(name, MANIFEST, &manifest_bytes)?;
        readable(name, manifest.schema)?;
        let file = |wanted: &str| -> Result<Option<Vec<u8>>, Error> {
            let Some(entry) = manifest.files.iter().find(|entry| entry.name == wanted) else { return Ok(None) };
            let bytes = read_bounded(&dir.join(wanted), entry.size_bytes)?;
            expect_hash(name, wanted, &bytes, &entry.blake3)?;
            Ok(Some(bytes))
        };
        let needed = |wanted: &str| {
            file(wanted)?.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("checkpoint {name}: no {wanted}")))
        };
        let state: TrainState = parse(name, STATE, &needed(STATE)?)?;
        readable(name, state.schema)?;
        Ok(Snapshot { state, model: needed(MODEL)?, optimizer: needed(OPTIMIZER)?, best: file(BEST)? })
    }

    /// The whole checkpoint that is furthest along and that `accept` takes, and what was refused on the way.
    pub fn newest(
        &self,
        accept: impl Fn(&TrainState) -> Result<(), Error>,
    ) -> Result<(Option<Snapshot>, Vec<Error>), Error> {
        let mut refused = Vec::new();
        let mut found: Option<Snapshot> = None;
        for name in self.entries()?.into_iter().filter(|name| is_checkpoint(name)) {
            match self.load(&name, None).and_then(|snapshot| accept(&snapshot.state).map(|()| snapshot)) {
                Ok(snapshot) => {
                    let further = found.as_ref().is_none_or(|best| best.state.position < snapshot.state.position);
                    if further {
                        found = Some(snapshot);
                    }
                }
                Err(error) => refused.push(error),
            }
        }
        Ok((found, refused))
    }

    /// Removes every checkpoint that is not in `keep`.
    pub fn prune(&self, keep: &BTreeSet<String>) -> Result<(), Error> {
        for name in self.entries()? {
            if is_checkpoint(&name) && !keep.contains(&name) {
                // Renamed first: a half-removed directory must not stand under a checkpoint's name.
                let (path, doomed) = (self.dir.join(&name), self.dir.join(format!("{TEMPORARY}{}-{name}", self.fence)));
                fs::rename(&path, &doomed).map_err(|e| Error::io("remove", &path, e))?;
                fs::remove_dir_all(&doomed).map_err(|e| Error::io("remove", &doomed, e))?;
            }
        }
        Ok(())
    }

    /// A checkpoint of this name by a later lease means that ours has passed on.
    fn refuse_if_fenced(&self, name: &str) -> Result<(), Error> {
        let Ok(bytes) = read_bounded(&self.dir.join(name).join(STATE), MAX_JSON_BYTES) else { return Ok(()) };
        let Ok(state) = serde_json::from_slice::<TrainState>(&bytes) else { return Ok(()) };
        if state.extra_info.fence > self.fence {
            return Err(Error::new(
                ErrorKind::Fenced,
                format!("checkpoint {name} was written with fence {}, ours is {}", state.extra_info.fence, self.fence),
            ));
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<String>, Error> {
        let failed = |e| Error::io("list", &self.dir, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

fn is_checkpoint(name: &str) -> bool {
    ["checkpoint_epoch_", "checkpoint_step_"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// Splits `<fence>-<name>`.
fn fence_in(rest: &str) -> Option<(Fence, &str)> {
    let (fence, name) = rest.split_once('-')?;
    Some((Fence(fence.parse().ok()?), name))
}

fn readable(name: &str, schema: u16) -> Result<(), Error> {
    if (CHECKPOINT_VERSION.saturating_sub(1)..=CHECKPOINT_VERSION).contains(&schema) {
        return Ok(());
    }
    let message = format!("checkpoint {name} of schema version {schema}: this reader knows up to {CHECKPOINT_VERSION}");
    Err(Error::new(ErrorKind::Mismatch, message))
}

/// Writes every file and the manifest, synced; the manifest's hash.
fn write_files(dir: &Path, snapshot: &Snapshot) -> Result<String, Error> {
    fs::create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
    let state = serde_json::to_vec_pretty(&snapshot.state).expect("invariant: a state serializes");
    let mut files: Vec<(&str, &[u8])> =
        vec![(MODEL, &snapshot.model), (OPTIMIZER, &snapshot.optimizer), (STATE, &state)];
    if let Some(best) = &snapshot.best {
        files.push((BEST, best));
    }
    let mut entries = Vec::new();
    for (name, bytes) in files {
        write_synced(&dir.join(name), bytes)?;
        entries.push(FileEntry { name: name.to_owned(), size_bytes: bytes.len() as u64, blake3: blake3_hex(bytes) });
    }
    let manifest = serde_json::to_vec_pretty(&DirManifest { schema: CHECKPOINT_VERSION, files: entries })
        .expect("invariant: a manifest serializes");
    write_synced(&dir.join(MANIFEST), &manifest)?;
    sync_dir(dir)?;
    Ok(blake3_hex(&manifest))
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |e| Error::io("write", path, e);
    let mut file = File::create_new(path).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    file.sync_all().map_err(failed)
}

fn sync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync", dir, e))
}

/// Reads at most `max` bytes; one more means that the file is not what it should be.
fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    let failed = |e| Error::io("read", path, e);
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::with_capacity(file.metadata().map_err(failed)?.len().min(max) as usize);
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max {
        return Err(Error::new(ErrorKind::Corrupt, format!("{}: expected at most {max} bytes", path.display())));
    }
    Ok(bytes)
}

fn expect_hash(checkpoint: &str, file: &str, bytes: &[u8], expected: &str) -> Result<(), Error> {
    let found = blake3_hex(bytes);
    if found == expected {
        return Ok(());
    }
    let message =
        format!("checkpoint {checkpoint}: {file} of {} bytes has BLAKE3 {found}, expected {expected}", bytes.len());
    Err(Error::new(ErrorKind::Corrupt, message))
}

fn parse<T: serde::de::DeserializeOwned>(checkpoint: &str, file: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::new(ErrorKind::Corrupt, format!("checkpoint {checkpoint}: {file}: {e}")))
}

pub(crate) fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
