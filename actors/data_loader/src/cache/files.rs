//! The content hash of a source file. To read a file only to see that nothing changed would cost as much as the cache
//! saves, so the hash is remembered together with what the file system says of the file: device, number, size, time of
//! its content and time of its record. It counts again only where all of that is the same, and where both times lay well
//! before the hashing: a file that is written to twice within one tick of the file system's clock may keep its times.
//! (The time of the record cannot be set by a program, so tools that restore a content's time do not deceive.)

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use messages::UnixMs;
use serde::{Deserialize, Serialize};

use super::tier::place;

/// Times of a file must lie this long before it was hashed.
const MARGIN_MS: u64 = 2_000;
/// Read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Remembered hashes.
#[derive(Debug, Clone)]
pub struct Files {
    folder: PathBuf,
}

/// What the file system says of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    path: PathBuf,
    device: u64,
    number: u64,
    size_bytes: u64,
    /// Of the content, and of the record; nanoseconds of a second apart.
    changed: (i64, i64),
    recorded: (i64, i64),
}

impl Stamp {
    fn of(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            device: metadata.dev(),
            number: metadata.ino(),
            size_bytes: metadata.len(),
            changed: (metadata.mtime(), metadata.mtime_nsec()),
            recorded: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether both times lie well before.
    fn is_settled(&self, at: UnixMs) -> bool {
        let ms = |(seconds, nanos): (i64, i64)| seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000);
        let latest = ms(self.changed).max(ms(self.recorded));
        latest.saturating_add(MARGIN_MS as i64) <= at as i64
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    stamp: Stamp,
    blake3: String,
}

impl Files {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// BLAKE3 of a file's bytes, as 64 hexadecimal digits. `alive` is asked while it is read.
    pub fn hash(&self, path: &Path, now: UnixMs, alive: &mut dyn FnMut() -> io::Result<()>) -> io::Result<String> {
        let stamp = Stamp::of(path, &fs::metadata(path)?);
        let known = self.known(path).filter(|known| known.stamp == stamp);
        if let Some(known) = known {
            return Ok(known.blake3);
        }
        let mut file = File::open(path)?;
        let mut hasher = blake3::Hasher::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            alive()?;
            let read = file.read(&mut piece)?;
            if read == 0 {
                break;
            }
            hasher.update(&piece[..read]);
        }
        let blake3 = hasher.finalize().to_hex().to_string();
        let same = Stamp::of(path, &file.metadata()?) == stamp;
        if same && stamp.is_settled(now) {
            let text = serde_json::to_vec(&Remembered { stamp, blake3: blake3.clone() })?;
            // Where it cannot be remembered, it is hashed again.
            place(&self.place_of(path), |file| file.write_all(&text).map(|()| text.len() as u64)).ok();
        }
        Ok(blake3)
    }

    /// The file is to be read, whatever the file system says.
    pub fn forget(&self, path: &Path) {
        fs::remove_file(self.place_of(path)).ok();
    }

    fn known(&self, path: &Path) -> Option<Remembered> {
        serde_json::from_slice(&fs::read(self.place_of(path)).ok()?).ok()
    }

    fn place_of(&self, path: &Path) -> PathBuf {
        self.folder.join(format!("{}.json", blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn now() -> UnixMs {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as UnixMs)
    }

    struct Case {
        folder: tempfile::TempDir,
        files: Files,
    }

    impl Case {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let files = Files::new(folder.path().join("memory"));
            Self { folder, files }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("a.csv")
        }

        /// The hash as of this time, and whether the file was read for it.
        fn hash(&self, now: UnixMs) -> (String, bool) {
            let mut read = false;
            let mut alive = || {
                read = true;
                Ok(())
            };
            let hash = self.files.hash(&self.path(), now, &mut alive).expect("hashes");
            (hash, read)
        }
    }

    #[test]
    fn a_file_that_did_not_change_is_not_read_again() {
        let case = Case::new();
        fs::write(case.path(), "a,b\n1,2\n").expect("writes");
        let expected = blake3::hash(b"a,b\n1,2\n").to_hex().to_string();
        // Written just now: what the file system says of it does not tell it from what may come within the same tick.
        assert_eq!(case.hash(now()), (expected.clone(), true));
        assert_eq!(case.hash(now()), (expected.clone(), true));
        let later = now() + 2 * MARGIN_MS;
        assert_eq!(case.hash(later), (expected.clone(), true), "read, and remembered");
        assert_eq!(case.hash(later), (expected.clone(), false));
        case.files.forget(&case.path());
        assert_eq!(case.hash(later), (expected, true));
    }

    #[test]
    fn a_change_of_the_same_size_and_time_is_seen() {
        let case = Case::new();
        fs::write(case.path(), "before").expect("writes");
        let old = SystemTime::now() - Duration::from_hours(1);
        let set =
            |path: &Path| File::options().append(true).open(path).and_then(|f| f.set_modified(old)).expect("sets");
        set(&case.path());
        let later = now() + 2 * MARGIN_MS;
        case.hash(later);
        assert!(!case.hash(later).1);
        // In place, with the time of the content put back; as late as the file system's clock can tell.
        let recorded = || fs::metadata(case.path()).map(|m| (m.ctime(), m.ctime_nsec())).expect("is there");
        let before = recorded();
        while recorded() == before {
            fs::write(case.path(), "after!").expect("writes");
            set(&case.path());
        }
        assert_eq!(case.hash(later), (blake3::hash(b"after!").to_hex().to_string(), true));
        // Another file under the same name.
        case.hash(later);
        fs::write(case.folder.path().join("new"), "behind").expect("writes");
        fs::rename(case.folder.path().join("new"), case.path()).expect("renames");
        assert_eq!(case.hash(later).0, blake3::hash(b"behind").to_hex().to_string());
    }
}
