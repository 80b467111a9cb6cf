//! Checkpoints of one job: directories, written beside, synced, and renamed into place, so that a name
//! either holds a whole checkpoint or none. A manifest names every file with size and BLAKE3; what does
//! not match is refused.
//!
//! ```text
//! checkpoint_epoch_007/     after epoch 7          checkpoint_step_000120/   at a step within an epoch
//!   model.safetensors       parameters, readable as a model file
//!   optimizer.safetensors   everything that `kernels::train::Trainer` needs to go on bit-exactly; or the
//!                           same bytes in parts by several ranks: part-000.safetensors, ...
//!   best.safetensors        the best model so far, if the job announces the best one
//!   state.json              TrainState
//!   MANIFEST.json           the files' sizes and hashes; its own hash names the checkpoint
//! ```

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use messages::event::{Checkpoint, Metrics};
use messages::{Fence, JobId, TaskId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::error::{Error, ErrorKind};
use crate::train::gang::Samples;

mod parts;

pub use parts::{MAX_PARTS, Share};

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
    /// Which samples the rows are ([`crate::train::gang::Samples`]).
    #[serde(default)]
    pub digest: u64,
}

impl Running {
    pub fn samples(&self) -> Samples {
        Samples { rows: self.rows, digest: self.digest }
    }

    pub fn with(self, samples: Samples) -> Self {
        Self { digest: samples.digest, ..self }
    }
}

impl Default for Running {
    fn default() -> Self {
        Self { rows: 0, loss: Bits(0.0), grad_norm: Bits(0.0), steps: 0, digest: 0 }
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
    pub best: Option<Arc<Vec<u8>>>,
}

/// A checkpoint that was passed over.
#[derive(Debug)]
pub struct Refused {
    pub name: String,
    pub error: Error,
}

/// How a checkpoint is written.
#[derive(Debug, Clone, Copy)]
pub struct Writing<'a> {
    /// The part that the committing rank writes anyway.
    pub share: Share,
    /// How long the parts of other ranks are awaited.
    pub patience: Duration,
    /// Nobody wants it any more: it is not put in place.
    pub given_up: &'a AtomicBool,
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
    /// Into how many parts the optimizer's file is cut; 0: it is whole.
    #[serde(default, skip_serializing_if = "is_zero")]
    parts: u32,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
fn is_zero(parts: &u32) -> bool {
    *parts == 0
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
    /// The folder for a rank that may yet come to write there, beside one that does.
    pub fn beside(dir: impl Into<PathBuf>, fence: Fence) -> Result<Self, Error> {
        let store = Self { dir: dir.into(), fence };
        fs::create_dir_all(&store.dir).map_err(|e| Error::io("create", &store.dir, e))?;
        Ok(store)
    }

    /// Opens the folder for a holder of `fence`, and finishes or removes what dead writers left.
    pub fn open(dir: impl Into<PathBuf>, fence: Fence) -> Result<Self, Error> {
        let store = Self { dir: dir.into(), fence };
        fs::create_dir_all(&store.dir).map_err(|e| Error::io("create", &store.dir, e))?;
        for name in store.entries()? {
            let path = store.dir.join(&name);
            if let Some(rest) = name.strip_prefix(TEMPORARY) {
                if fence_in(rest).is_some_and(|(of, _)| of < fence) {
                    remove_folder(&path)?;
                }
            } else if let Some((of, _)) = name.strip_prefix(parts::PARTS).and_then(fence_in) {
                if of < fence {
                    // Best effort: several ranks open the folder at once.
                    let _ = fs::remove_dir_all(&path);
                }
            } else if let Some((of, original)) = name.strip_prefix(REPLACED).and_then(fence_in) {
                let target = store.dir.join(original);
                if of >= fence {
                    continue;
                }
                // Its writer died between taking the old one away and putting the new one in place.
                if target.exists() {
                    remove_folder(&path)?;
                } else if let Err(error) = fs::rename(&path, &target)
                    && !target.exists()
                {
                    return Err(Error::io("restore", &target, error));
                }
            }
        }
        Ok(store)
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The same folder for a later lease of the same holder.
    pub fn with_fence(&self, fence: Fence) -> Self {
        Self { dir: self.dir.clone(), fence }
    }

    /// Writes a checkpoint and puts it in place, replacing one of the same name and a lower fence.
    /// After this returns, a crash of the machine does not undo it.
    pub fn commit(&self, snapshot: &Snapshot) -> Result<Checkpoint, Error> {
        let given_up = AtomicBool::new(false);
        self.commit_as(snapshot, Writing { share: Share::WHOLE, patience: Duration::ZERO, given_up: &given_up })
    }

    /// The same, in parts by several ranks or given up on the way.
    pub fn commit_as(&self, snapshot: &Snapshot, writing: Writing<'_>) -> Result<Checkpoint, Error> {
        let state = &snapshot.state;
        let name = name_of(state.position, state.step);
        let target = self.dir.join(&name);
        self.refuse_if_fenced(&name)?;
        let temporary = self.dir.join(format!("{TEMPORARY}{}-{name}", self.fence));
        if temporary.exists() {
            fs::remove_dir_all(&temporary).map_err(|e| Error::io("remove", &temporary, e))?;
        }
        let written = self.write_files(&name, &temporary, snapshot, writing).and_then(|blake3| {
            if writing.given_up.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Aborted, format!("checkpoint {name} was given up")));
            }
            Ok(blake3)
        });
        let blake3 = written.inspect_err(|_| {
            // Best effort: what a full disk leaves is removed at the next opening, too.
            let _ = fs::remove_dir_all(&temporary);
        })?;
        // Best effort, as above.
        let _ = fs::remove_dir_all(self.parts_folder(&name));
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
        read(&self.dir.join(name), blake3)
    }

    /// The whole checkpoint that is furthest along and that `accept` takes, and what was refused on the way.
    pub fn newest(
        &self,
        accept: impl Fn(&TrainState) -> Result<(), Error>,
    ) -> Result<(Option<Snapshot>, Vec<Refused>), Error> {
        let mut refused = Vec::new();
        let mut known = Vec::new();
        for name in self.entries()?.into_iter().filter(|name| is_checkpoint(name)) {
            match read_state(&self.dir.join(&name), None) {
                Ok((_, state)) => known.push((state.position, name)),
                Err(error) => refused.push(Refused { name, error }),
            }
        }
        known.sort_unstable();
        for (_, name) in known.into_iter().rev() {
            match self.load(&name, None).and_then(|snapshot| accept(&snapshot.state).map(|()| snapshot)) {
                Ok(snapshot) => return Ok((Some(snapshot), refused)),
                Err(error) => refused.push(Refused { name, error }),
            }
        }
        Ok((None, refused))
    }

    /// Whether a checkpoint of this name lies in place.
    pub fn holds(&self, name: &str) -> bool {
        self.dir.join(name).join(MANIFEST).exists()
    }

    /// Removes every checkpoint that is not in `keep`.
    pub fn prune(&self, keep: &BTreeSet<String>) -> Result<(), Error> {
        for name in self.entries()? {
            // Parts that came after their checkpoint had been put together without them.
            if let Some((of, original)) = name.strip_prefix(parts::PARTS).and_then(fence_in)
                && of <= self.fence
                && self.holds(original)
            {
                let _ = fs::remove_dir_all(self.dir.join(&name));
            }
            if is_checkpoint(&name) && !keep.contains(&name) {
                // Renamed first: a half-removed directory must not stand under a checkpoint's name.
                let (path, doomed) = (self.dir.join(&name), self.dir.join(format!("{TEMPORARY}{}-{name}", self.fence)));
                fs::rename(&path, &doomed).map_err(|e| Error::io("remove", &path, e))?;
                fs::remove_dir_all(&doomed).map_err(|e| Error::io("remove", &doomed, e))?;
            }
        }
        Ok(())
    }

    /// Writes every file and the manifest, synced; the manifest's hash.
    fn write_files(&self, name: &str, dir: &Path, snapshot: &Snapshot, writing: Writing<'_>) -> Result<String, Error> {
        fs::create_dir(dir).map_err(|e| Error::io("create", dir, e))?;
        let state = serde_json::to_vec_pretty(&snapshot.state).expect("invariant: a state serializes");
        let mut files: Vec<(&str, &[u8])> = vec![(MODEL, &snapshot.model), (STATE, &state)];
        let share = writing.share;
        if share.of == 1 {
            files.push((OPTIMIZER, &snapshot.optimizer));
        }
        if let Some(best) = &snapshot.best {
            files.push((BEST, best));
        }
        let mut entries = Vec::new();
        for (name, bytes) in files {
            write_synced(&dir.join(name), bytes)?;
            let entry = FileEntry { name: name.to_owned(), size_bytes: bytes.len() as u64, blake3: blake3_hex(bytes) };
            entries.push(entry);
        }
        let mut parts = 0;
        if share.of > 1 {
            entries.extend(self.gather(name, &snapshot.optimizer, dir, writing)?);
            parts = share.of;
        }
        let manifest = serde_json::to_vec_pretty(&DirManifest { schema: CHECKPOINT_VERSION, files: entries, parts })
            .expect("invariant: a manifest serializes");
        write_synced(&dir.join(MANIFEST), &manifest)?;
        sync_dir(dir)?;
        Ok(blake3_hex(&manifest))
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

/// Reads the checkpoint in a folder, every file checked. `blake3`: what its manifest must hash to, if known.
pub fn read(dir: &Path, blake3: Option<&str>) -> Result<Snapshot, Error> {
    let (files, state) = read_state(dir, blake3)?;
    let optimizer = match files.manifest.parts {
        0 => files.needed(OPTIMIZER)?,
        of => {
            let share = |index| files.needed(&Share { index, of }.file());
            let parts: Vec<Vec<u8>> = (0..of.min(MAX_PARTS)).map(share).collect::<Result<_, _>>()?;
            parts::join(&files.name, &parts)?
        }
    };
    Ok(Snapshot { state, model: files.needed(MODEL)?, optimizer, best: files.file(BEST)?.map(Arc::new) })
}

/// The files of a checkpoint and its state.
fn read_state(dir: &Path, blake3: Option<&str>) -> Result<(Files, TrainState), Error> {
    let name = dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned();
    let bytes = read_bounded(&dir.join(MANIFEST), MAX_JSON_BYTES)?;
    if let Some(expected) = blake3 {
        expect_hash(&name, MANIFEST, &bytes, expected)?;
    }
    let manifest: DirManifest = parse(&name, MANIFEST, &bytes)?;
    readable(&name, manifest.schema)?;
    let files = Files { dir: dir.into(), name, manifest };
    let state: TrainState = parse(&files.name, STATE, &files.needed(STATE)?)?;
    readable(&files.name, state.schema)?;
    Ok((files, state))
}

/// The files of one checkpoint, as its manifest says.
struct Files {
    dir: PathBuf,
    name: String,
    manifest: DirManifest,
}

impl Files {
    fn file(&self, wanted: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(entry) = self.manifest.files.iter().find(|entry| entry.name == wanted) else { return Ok(None) };
        let bytes = read_bounded(&self.dir.join(wanted), entry.size_bytes)?;
        expect_hash(&self.name, wanted, &bytes, &entry.blake3)?;
        Ok(Some(bytes))
    }

    fn needed(&self, wanted: &str) -> Result<Vec<u8>, Error> {
        let missing = || Error::new(ErrorKind::Corrupt, format!("checkpoint {}: no {wanted}", self.name));
        self.file(wanted)?.ok_or_else(missing)
    }
}

fn is_checkpoint(name: &str) -> bool {
    ["checkpoint_epoch_", "checkpoint_step_"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
    })
}

/// Removes a folder; another rank of the gang may do the same at the same time.
fn remove_folder(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if path.exists() => Err(Error::io("remove", path, error)),
        _ => Ok(()),
    }
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

/// BLAKE3 of bytes, in hexadecimal.
pub fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

#[cfg(test)]
#[path = "checkpoint_tests.rs"]
mod tests;
