//! A folder of entries, `<first 2 hex>/<key>`, which any number of processes use at once. Entries appear by being
//! renamed into place, and go by being removed: a reader that has one open keeps it. When an entry was last used is its
//! file's time of change, so that nothing else has to be written on a hit.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use messages::UnixMs;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::entry::{self, Label, Unusable};
use super::recipe::{Key, Recipe};

/// What is being written is named so; the rest of the name is the writer's.
const PARTIAL: &str = ".partial-";
/// What was begun so long ago has no writer any more.
const ABANDONED_MS: u64 = 3_600_000;
/// Held by whoever makes room.
const LOCK: &str = ".lock";
/// How often it is asked for, and how long between.
const LOCK_TRIES: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(4);
/// Recipes of the last run, by what they were of.
const LAST: &str = "last";
/// Remembered hashes of files.
pub const FILES: &str = "files";
/// What was remembered so long ago is forgotten when the cache is pruned.
const REMEMBERED_MS: u64 = 90 * 86_400_000;

/// How much, and how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub ttl_ms: Option<u64>,
    pub size_limit_bytes: Option<u64>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Tier {
    folder: PathBuf,
    limits: Limits,
}

/// What was found under a key.
#[derive(Debug, PartialEq)]
pub enum Lookup<T> {
    Found {
        value: T,
        size_bytes: u64,
    },
    Missing,
    /// Older than the lifetime; it is removed.
    Expired {
        age_s: u64,
    },
    /// It is removed.
    Damaged(String),
}

/// An entry as `within cache ls` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub key: Key,
    pub step: String,
    pub size_bytes: u64,
    pub created_at: UnixMs,
    pub used_at: UnixMs,
}

/// What pruning removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    pub removed: u64,
    pub removed_bytes: u64,
    pub kept: u64,
    pub kept_bytes: u64,
}

impl Tier {
    pub fn new(folder: PathBuf, limits: Limits) -> Self {
        Self { folder, limits }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path_of(&self, key: &Key) -> PathBuf {
        self.folder.join(&key.as_str()[..2]).join(key.as_str())
    }

    /// The outcome under a key; from now on it was used last.
    pub fn get<T: DeserializeOwned>(&self, key: &Key, now: UnixMs) -> Lookup<T> {
        let path = self.path_of(key);
        let read = || -> Result<Lookup<T>, Unusable> {
            let mut file = File::open(&path)?;
            let label = entry::label(&mut file)?;
            if label.key != *key {
                return Err(Unusable::Damaged(format!("it is the entry of {}", label.key)));
            }
            let age_ms = now.saturating_sub(label.created_at);
            if self.limits.ttl_ms.is_some_and(|ttl_ms| age_ms > ttl_ms) {
                return Ok(Lookup::Expired { age_s: age_ms / 1_000 });
            }
            let value = entry::payload(&mut file, &label)?;
            // Where that is not permitted, the entry only looks older than it is.
            file.set_modified(time_of(now)).ok();
            Ok(Lookup::Found { value, size_bytes: label.payload_bytes })
        };
        match read() {
            Ok(Lookup::Expired { age_s }) => {
                fs::remove_file(&path).ok();
                Lookup::Expired { age_s }
            }
            Ok(found) => found,
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => Lookup::Missing,
            Err(Unusable::Io(error)) => {
                tracing::warn!(entry = %path.display(), %error, "an entry of the step cache cannot be read");
                Lookup::Missing
            }
            Err(Unusable::Damaged(why)) => {
                tracing::warn!(entry = %path.display(), why, "a damaged entry of the step cache is dropped");
                fs::remove_file(&path).ok();
                Lookup::Damaged(why)
            }
        }
    }

    /// Keeps an outcome in the place of what is there, and makes room for it. Gives its size.
    pub fn put(
        &self,
        key: &Key,
        step: &str,
        now: UnixMs,
        mut write: impl FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<u64> {
        let limit_bytes = self.limits.size_limit_bytes.unwrap_or(u64::MAX);
        let size = place(&self.path_of(key), |file| {
            let size = entry::write(file.try_clone()?, key, step, now, limit_bytes, &mut write)?;
            file.set_modified(time_of(now)).ok();
            Ok(size)
        })?;
        if self.limits.size_limit_bytes.is_some() {
            self.make_room(Some(key), now);
        }
        Ok(size)
    }

    /// Takes another tier's entry over, so that it is near the next time. Failing that, it stays there.
    pub fn adopt(&self, other: &Self, key: &Key) {
        let copied = place(&self.path_of(key), |file| io::copy(&mut File::open(other.path_of(key))?, file));
        if let Err(error) = copied {
            tracing::debug!(%key, %error, "an entry of the shared cache cannot be kept here");
        }
    }

    /// Removes an entry.
    pub fn drop_entry(&self, key: &Key) {
        fs::remove_file(self.path_of(key)).ok();
    }

    /// Every whole entry, the one used last first. What is damaged is left out.
    pub fn list(&self) -> Vec<Listed> {
        let mut found: Vec<Listed> = self
            .files()
            .into_iter()
            .filter_map(|seen| {
                let label: Label = entry::label(&mut File::open(&seen.path).ok()?).ok()?;
                let Label { key, step, created_at, .. } = label;
                Some(Listed { key, step, created_at, size_bytes: seen.size_bytes, used_at: seen.used_at })
            })
            .collect();
        found.sort_by(|a, b| b.used_at.cmp(&a.used_at).then_with(|| a.key.cmp(&b.key)));
        found
    }

    /// Removes what was not used for longer than `unused_ms`, what is older than the lifetime, what is damaged or was
    /// never finished, and then what is beyond the size limit.
    pub fn prune(&self, unused_ms: Option<u64>, now: UnixMs) -> Pruned {
        let mut pruned = Pruned::default();
        for seen in self.files() {
            let label = File::open(&seen.path).map_err(Unusable::from).and_then(|mut file| entry::label(&mut file));
            let expired =
                |label: &Label| self.limits.ttl_ms.is_some_and(|ttl_ms| now.saturating_sub(label.created_at) > ttl_ms);
            let goes = unused_ms.is_some_and(|unused_ms| now.saturating_sub(seen.used_at) >= unused_ms)
                || match &label {
                    Ok(label) => expired(label),
                    Err(Unusable::Damaged(_)) => true,
                    Err(Unusable::Io(_)) => false,
                };
            if goes && fs::remove_file(&seen.path).is_ok() {
                pruned.removed += 1;
                pruned.removed_bytes += seen.size_bytes;
            }
        }
        self.forget_old(now);
        let (removed, removed_bytes) = self.make_room(None, now);
        pruned.removed += removed;
        pruned.removed_bytes += removed_bytes;
        for seen in self.files() {
            pruned.kept += 1;
            pruned.kept_bytes += seen.size_bytes;
        }
        pruned
    }

    /// Removes entries, those unused for longest first, until the rest fits; never `newest`. Where another process is
    /// at it already, leaves it to that.
    fn make_room(&self, newest: Option<&Key>, now: UnixMs) -> (u64, u64) {
        let Ok(lock) = File::create(self.folder.join(LOCK)) else { return (0, 0) };
        // A program that is being started holds a copy of the lock for a moment.
        let mut tries = 0;
        while lock.try_lock().is_err() {
            tries += 1;
            if tries == LOCK_TRIES {
                return (0, 0);
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        self.sweep(now);
        let Some(limit) = self.limits.size_limit_bytes else { return (0, 0) };
        let mut files = self.files();
        files.sort_by(|a, b| a.used_at.cmp(&b.used_at).then_with(|| a.path.cmp(&b.path)));
        let mut total: u64 = files.iter().map(|seen| seen.size_bytes).sum();
        let newest = newest.map(|key| self.path_of(key));
        let (mut removed, mut removed_bytes) = (0, 0);
        for seen in files {
            if total <= limit {
                break;
            }
            if newest.as_ref() != Some(&seen.path) && fs::remove_file(&seen.path).is_ok() {
                total -= seen.size_bytes;
                removed += 1;
                removed_bytes += seen.size_bytes;
            }
        }
        (removed, removed_bytes)
    }

    /// Removes what killed writers left.
    fn sweep(&self, now: UnixMs) {
        let folders = self.folders().into_iter().chain([self.folder.join(LAST)]);
        for (path, metadata) in folders.flat_map(|folder| contents(&folder)) {
            let partial = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PARTIAL));
            if partial && now.saturating_sub(ms_of(metadata.modified())) > ABANDONED_MS {
                fs::remove_file(path).ok();
            }
        }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let is_hex = |path: &Path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.len() == 2 && name.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        contents(&self.folder).into_iter().map(|(path, _)| path).filter(|path| is_hex(path)).collect()
    }

    fn files(&self) -> Vec<Seen> {
        let of_folder = |folder: PathBuf| contents(&folder);
        let is_entry = |path: &Path| path.file_name().and_then(|name| Key::parse(name.to_str()?)).is_some();
        self.folders()
            .into_iter()
            .flat_map(of_folder)
            .filter(|(path, metadata)| metadata.is_file() && is_entry(path))
            .map(|(path, metadata)| Seen { path, size_bytes: metadata.len(), used_at: ms_of(metadata.modified()) })
            .collect()
    }

    /// The recipe by which a step was last run on the same files.
    pub fn last(&self, step: &str, slot: &str) -> Option<Recipe> {
        let text = fs::read(self.last_path(step, slot)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Remembers it for the next time. A failure only makes the next reason less telling.
    pub fn remember(&self, recipe: &Recipe, slot: &str) {
        let text = serde_json::to_vec(recipe).expect("invariant: a recipe serializes");
        place(&self.last_path(&recipe.step, slot), |file| {
            file.write_all(&text)?;
            Ok(text.len() as u64)
        })
        .ok();
    }

    fn last_path(&self, step: &str, slot: &str) -> PathBuf {
        self.folder.join(LAST).join(format!("{slot}.{step}.json"))
    }

    fn forget_old(&self, now: UnixMs) {
        let folders = [LAST, FILES].into_iter();
        for (path, metadata) in folders.flat_map(|name| contents(&self.folder.join(name))) {
            if now.saturating_sub(ms_of(metadata.modified())) > REMEMBERED_MS {
                fs::remove_file(path).ok();
            }
        }
    }
}

struct Seen {
    path: PathBuf,
    size_bytes: u64,
    used_at: UnixMs,
}

/// Writes a file beside and renames it into place; what fails leaves nothing.
pub fn place(path: &Path, write: impl FnOnce(&mut File) -> io::Result<u64>) -> io::Result<u64> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    // Hosts that share a folder may have equal process ids, but not the same name and time.
    let salt = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let own = format!("{PARTIAL}{}-{salt:x}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let partial = folder.join(own);
    let result = File::create_new(&partial).and_then(|mut file| write(&mut file)).and_then(|size| {
        fs::rename(&partial, path)?;
        Ok(size)
    });
    if result.is_err() {
        fs::remove_file(&partial).ok();
    }
    result
}

/// The files of a folder with their metadata; nothing where it cannot be read.
fn contents(folder: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?))).collect()
}

fn time_of(ms: UnixMs) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(ms)
}

fn ms_of(time: io::Result<SystemTime>) -> UnixMs {
    time.ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |d| d.as_millis() as UnixMs)
}
