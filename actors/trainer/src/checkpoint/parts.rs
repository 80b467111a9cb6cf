//! A checkpoint whose training state lies in several parts, each written by another rank of the same
//! store. The state is replicated, so every rank can cut its part from its own copy, and the leader knows
//! what every part must hash to: a part counts only under its hash, and one that does not come in time is
//! written by the leader.
//!
//! ```text
//! .parts-<fence>-<name>/part-001-<BLAKE3>     until the checkpoint is put together
//! <name>/part-001.safetensors                 one tensor `bytes` of U8: a contiguous range of the state's file
//! ```

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{CheckpointStore, FileEntry, Writing, blake3_hex, sync_dir, write_synced};
use crate::error::{Error, ErrorKind};

/// Prefix of the folder in which the parts of one checkpoint and fence are gathered.
pub(super) const PARTS: &str = ".parts-";
/// The most parts of a checkpoint.
pub const MAX_PARTS: u32 = 1_000;
/// Pause between two looks for the parts of others.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The part of a checkpoint that a rank writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Less than `of`.
    pub index: u32,
    /// 1 to [`MAX_PARTS`].
    pub of: u32,
}

impl Share {
    /// The checkpoint is one part.
    pub const WHOLE: Self = Self { index: 0, of: 1 };

    pub(super) fn file(self) -> String {
        format!("part-{:03}.safetensors", self.index)
    }

    /// Its bytes of a state of `total` bytes: sizes differ by one at most.
    fn range(self, total: usize) -> Range<usize> {
        let at = |index: u32| (total as u128 * u128::from(index) / u128::from(self.of)) as usize;
        at(self.index)..at(self.index + 1)
    }

    fn check(self) -> Result<(), Error> {
        if self.index < self.of && self.of <= MAX_PARTS {
            return Ok(());
        }
        let message = format!("part {} of {}: expected one of 1 to {MAX_PARTS}", self.index, self.of);
        Err(Error::new(ErrorKind::Mismatch, message))
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    #[serde(rename = "__metadata__")]
    metadata: Metadata,
    bytes: Tensor,
}

/// Safetensors takes strings only.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Metadata {
    /// `<index>/<of>`
    part: String,
    /// Bytes of the whole state.
    total_bytes: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Tensor {
    dtype: String,
    shape: [usize; 1],
    data_offsets: [usize; 2],
}

impl Header {
    fn of(share: Share, total: usize) -> Self {
        let len = share.range(total).len();
        Self {
            metadata: Metadata { part: format!("{}/{}", share.index, share.of), total_bytes: total.to_string() },
            bytes: Tensor { dtype: "U8".into(), shape: [len], data_offsets: [0, len] },
        }
    }
}

/// The file of a part.
fn encode(share: Share, state: &[u8]) -> Vec<u8> {
    let header = Header::of(share, state.len());
    let mut text = serde_json::to_vec(&header).expect("invariant: a header serializes");
    text.resize(text.len().next_multiple_of(8), b' ');
    let own = &state[share.range(state.len())];
    let mut bytes = Vec::with_capacity(8 + text.len() + own.len());
    bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&text);
    bytes.extend_from_slice(own);
    bytes
}

/// The state of all its parts, in order.
pub(super) fn join(name: &str, parts: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let mut state = Vec::new();
    for (index, file) in parts.iter().enumerate() {
        let share = Share { index: index as u32, of: parts.len() as u32 };
        let damaged = || Error::new(ErrorKind::Corrupt, format!("checkpoint {name}: {} is no such part", share.file()));
        let (length, rest) = file.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (text, own) = rest.split_at_checked(u64::from_le_bytes(*length) as usize).ok_or_else(damaged)?;
        let header: Header = serde_json::from_slice(text).map_err(|_| damaged())?;
        let total: usize = header.metadata.total_bytes.parse().map_err(|_| damaged())?;
        if header != Header::of(share, total) || own.len() != header.bytes.shape[0] {
            return Err(damaged());
        }
        state.extend_from_slice(own);
        if share.index + 1 == share.of && state.len() != total {
            return Err(damaged());
        }
    }
    Ok(state)
}

impl CheckpointStore {
    /// Writes one part of the state of the checkpoint `name`, for the leader's commit to find.
    pub fn write_part(&self, name: &str, share: Share, state: &[u8]) -> Result<(), Error> {
        share.check()?;
        let folder = self.parts_folder(name);
        fs::create_dir_all(&folder).map_err(|e| Error::io("create", &folder, e))?;
        let bytes = encode(share, state);
        let (unfinished, whole) = (folder.join(share.file()), folder.join(gathered(share, &blake3_hex(&bytes))));
        if unfinished.exists() {
            fs::remove_file(&unfinished).map_err(|e| Error::io("remove", &unfinished, e))?;
        }
        write_synced(&unfinished, &bytes)?;
        fs::rename(&unfinished, &whole).map_err(|e| Error::io("put in place", &whole, e))?;
        sync_dir(&folder)
    }

    pub(super) fn parts_folder(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{PARTS}{}-{name}", self.fence))
    }

    /// Puts all parts into `target`: the own one at once, those of others as they come, and what has not
    /// come in time, or when the checkpoint is given up, from the own copy of the state.
    pub(super) fn gather(
        &self,
        name: &str,
        state: &[u8],
        target: &Path,
        writing: Writing<'_>,
    ) -> Result<Vec<FileEntry>, Error> {
        let own = writing.share;
        own.check()?;
        let folder = self.parts_folder(name);
        let until = Instant::now() + writing.patience;
        let mut entries = vec![put(own, state, target)?];
        for index in (0..own.of).filter(|index| *index != own.index) {
            let share = Share { index, ..own };
            let bytes = encode(share, state);
            let entry = FileEntry { name: share.file(), size_bytes: bytes.len() as u64, blake3: blake3_hex(&bytes) };
            let found = folder.join(gathered(share, &entry.blake3));
            let size = || fs::metadata(&found).map(|found| found.len()).ok();
            while size().is_none() && Instant::now() < until && !writing.given_up.load(Ordering::SeqCst) {
                std::thread::sleep(LOOK_EVERY);
            }
            let place = target.join(share.file());
            if size() == Some(entry.size_bytes) {
                fs::rename(&found, &place).map_err(|e| Error::io("put in place", &place, e))?;
            } else {
                tracing::warn!("checkpoint {name}: part {index} of {} did not come; written here", own.of);
                write_synced(&place, &bytes)?;
            }
            entries.push(entry);
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

/// Name of a whole part while the others are awaited.
fn gathered(share: Share, blake3: &str) -> String {
    format!("part-{:03}-{blake3}", share.index)
}

fn put(share: Share, state: &[u8], target: &Path) -> Result<FileEntry, Error> {
    let bytes = encode(share, state);
    write_synced(&target.join(share.file()), &bytes)?;
    Ok(FileEntry { name: share.file(), size_bytes: bytes.len() as u64, blake3: blake3_hex(&bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_any_cut_are_the_whole() {
        let state: Vec<u8> = (0..1_003u32).map(|i| i as u8).collect();
        for of in [1, 2, 3, 8, 1_000] {
            let parts: Vec<Vec<u8>> = (0..of).map(|index| encode(Share { index, of }, &state)).collect();
            assert_eq!(join("c", &parts).expect("joins"), state);
            if of > 1 {
                let mut swapped = parts.clone();
                swapped.swap(0, 1);
                assert_eq!(join("c", &swapped).expect_err("another order").kind(), ErrorKind::Corrupt);
                assert_eq!(join("c", &parts[1..]).expect_err("one is missing").kind(), ErrorKind::Corrupt);
            }
        }
        assert!(Share { index: 2, of: 2 }.check().is_err() && Share { index: 0, of: 1_001 }.check().is_err());
    }
}
