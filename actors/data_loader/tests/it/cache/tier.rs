//! A tier of the cache under everything that may happen to it.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use within_data_loader::cache::tier::Lookup;
use within_data_loader::cache::{Key, Limits, Recipe, Tier, entry};

const NOW: u64 = 1_700_000_000_000;

fn key(name: &str) -> Key {
    let recipe = Recipe { step: name.into(), version: 1, inputs: [].into(), settings: [].into() };
    recipe.key()
}

fn tier(folder: &Path, ttl_ms: Option<u64>, size_limit_bytes: Option<u64>) -> Tier {
    Tier::new(folder.to_owned(), Limits { ttl_ms, size_limit_bytes })
}

/// Puts a text of so many bytes.
fn put(tier: &Tier, name: &str, bytes: usize, now: u64) -> std::io::Result<u64> {
    let value = name.repeat(bytes / name.len() + 1)[..bytes].to_owned();
    tier.put(&key(name), "read", now, |out| entry::write_value(out, &value))
}

fn names(tier: &Tier, among: &[&str]) -> Vec<String> {
    let listed = tier.list();
    among.iter().filter(|name| listed.iter().any(|entry| entry.key == key(name))).map(|n| (*n).to_owned()).collect()
}

fn path_of(tier: &Tier, name: &str) -> PathBuf {
    let key = key(name);
    tier.folder().join(&key.as_str()[..2]).join(key.as_str())
}

#[test]
fn entries_live_as_long_as_they_may() {
    let folder = TempDir::new().expect("a folder");
    let tier = tier(folder.path(), Some(10_000), None);
    put(&tier, "a", 100, NOW).expect("kept");
    let get = |now| tier.get::<String>(&key("a"), now);
    assert!(matches!(get(NOW + 10_000), Lookup::Found { value, .. } if value.len() == 100));
    // To be used does not make it younger.
    assert_eq!(get(NOW + 10_001), Lookup::Expired { age_s: 10 });
    assert_eq!(get(NOW), Lookup::Missing, "it is gone");
    put(&tier, "a", 100, NOW).expect("kept");
    put(&tier, "b", 100, NOW + 5_000).expect("kept");
    let pruned = tier.prune(None, NOW + 10_001);
    assert_eq!((pruned.removed, pruned.kept, names(&tier, &["a", "b"])), (1, 1, vec!["b".to_owned()]));
}

#[test]
fn what_was_not_used_for_longest_makes_room() {
    let folder = TempDir::new().expect("a folder");
    let tier = tier(folder.path(), None, Some(4_000));
    for (name, at) in [("a", 1), ("b", 2), ("c", 3)] {
        put(&tier, name, 1_000, NOW + at * 1_000).expect("kept");
    }
    assert_eq!(names(&tier, &["a", "b", "c"]), ["a", "b", "c"]);
    assert!(matches!(tier.get::<String>(&key("a"), NOW + 4_000), Lookup::Found { .. }));
    put(&tier, "d", 1_000, NOW + 5_000).expect("kept");
    assert_eq!(names(&tier, &["a", "b", "c", "d"]), ["a", "c", "d"], "b was not used for longest");
    let sizes: u64 = tier.list().iter().map(|entry| entry.size_bytes).sum();
    assert!(sizes <= 4_000, "{sizes}");
    assert_eq!(tier.list()[0].key, key("d"), "the one used last comes first");

    let error = put(&tier, "huge", 5_000, NOW + 6_000).expect_err("larger than the whole cache");
    assert_eq!(error.kind(), std::io::ErrorKind::FileTooLarge);
    assert_eq!(names(&tier, &["a", "c", "d", "huge"]), ["a", "c", "d"], "and nothing made room for it");

    let pruned = tier.prune(Some(2_500), NOW + 6_000);
    assert_eq!((pruned.removed, pruned.kept), (1, 2), "c was used 3 s ago, the others 2 s and 1 s: {pruned:?}");
    assert_eq!(tier.prune(Some(0), NOW + 7_000).kept, 0);
}

#[test]
fn a_damaged_entry_is_dropped_wherever_it_is_damaged() {
    let folder = TempDir::new().expect("a folder");
    let tier = tier(folder.path(), None, None);
    put(&tier, "a", 300, NOW).expect("kept");
    let whole = fs::read(path_of(&tier, "a")).expect("reads");
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(path_of(&tier, "a"), bytes).expect("writes");
        let found = tier.get::<String>(&key("a"), NOW);
        assert!(matches!(found, Lookup::Damaged(_)), "byte {at}: {found:?}");
        assert!(!path_of(&tier, "a").exists(), "byte {at}");
    }
    for length in 0..whole.len() {
        fs::write(path_of(&tier, "a"), &whole[..length]).expect("writes");
        assert!(matches!(tier.get::<String>(&key("a"), NOW), Lookup::Damaged(_)), "{length} bytes");
    }
    // A whole entry under another's name, and one that holds something else.
    fs::write(path_of(&tier, "a"), &whole).expect("writes");
    fs::create_dir_all(path_of(&tier, "b").parent().expect("a folder")).expect("creates");
    fs::copy(path_of(&tier, "a"), path_of(&tier, "b")).expect("copies");
    assert!(matches!(tier.get::<String>(&key("b"), NOW), Lookup::Damaged(why) if why.contains("the entry of")));
    assert!(
        matches!(tier.get::<Vec<u64>>(&key("a"), NOW), Lookup::Damaged(why) if why.contains("not what is expected"))
    );
}

#[test]
fn what_a_killed_writer_left_is_swept_when_it_is_old() {
    let folder = TempDir::new().expect("a folder");
    let tier = tier(folder.path(), None, Some(10_000));
    put(&tier, "a", 100, NOW).expect("kept");
    let left = path_of(&tier, "a").with_file_name(".partial-1-2-3");
    fs::write(&left, "half").expect("writes");
    let began = SystemTime::UNIX_EPOCH + Duration::from_millis(NOW);
    fs::File::options().append(true).open(&left).and_then(|file| file.set_modified(began)).expect("sets");
    tier.prune(None, NOW + 1_000_000);
    assert!(left.exists(), "its writer may still be at it");
    tier.prune(None, NOW + 3_600_001);
    assert!(!left.exists() && path_of(&tier, "a").exists());
}

/// Threads that write, read and prune the same few entries: whoever reads finds a whole one or none.
#[test]
fn writers_and_readers_at_once() {
    let folder = TempDir::new().expect("a folder");
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for writer in 0..4usize {
            let tier = tier(folder.path(), None, Some(60_000));
            scope.spawn(move || {
                for round in 0..100u64 {
                    let name = ["a", "b", "c"][(writer + round as usize) % 3];
                    put(&tier, name, 20_000, NOW + round).expect("kept");
                }
            });
        }
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (tier, ended) = (tier(folder.path(), None, Some(60_000)), &ended);
                scope.spawn(move || {
                    let mut found = 0;
                    while !ended.load(Ordering::Relaxed) || found == 0 {
                        let name = ["a", "b", "c"][found % 3];
                        match tier.get::<String>(&key(name), NOW) {
                            Lookup::Found { value, .. } => {
                                assert!(value.len() == 20_000 && value.starts_with(name), "{name}");
                                found += 1;
                            }
                            Lookup::Missing => {}
                            other => panic!("reader {reader}: {other:?}"),
                        }
                        if reader == 1 && found % 10 == 9 {
                            tier.prune(Some(1_000_000), NOW);
                        }
                    }
                    found
                })
            })
            .collect();
        // The writers end by themselves; the readers when there is nothing more to come.
        let deadline = SystemTime::now() + Duration::from_mins(1);
        let all_written = tier(folder.path(), None, None);
        while names(&all_written, &["a", "b", "c"]).len() < 3 && SystemTime::now() < deadline {
            std::thread::yield_now();
        }
        ended.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().expect("reads") > 0);
        }
    });
    let left: Vec<_> = walk(folder.path()).into_iter().filter(|p| p.to_string_lossy().contains("partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Set for the process that writes until it is killed.
const WRITER: &str = "WITHIN_TEST_WRITES_INTO";
const KILLED: &str = "cache::tier::a_killed_writer_leaves_nothing_that_counts";

/// kill -9 at any moment of a write: what is there afterwards is whole, and the next writer is not in its way.
#[test]
fn a_killed_writer_leaves_nothing_that_counts() {
    if let Some(folder) = std::env::var_os(WRITER) {
        let tier = tier(Path::new(&folder), None, Some(1 << 30));
        println!("begins");
        loop {
            put(&tier, "a", 4_000_000, NOW).expect("kept");
            print!(".");
            std::io::stdout().flush().expect("flushes");
        }
    }
    let folder = TempDir::new().expect("a folder");
    let tier = tier(folder.path(), None, Some(1 << 30));
    let me = std::env::current_exe().expect("a program");
    let mut whole = 0;
    for round in 0..12u64 {
        let mut child = Command::new(&me)
            .args(["--exact", KILLED, "--nocapture"])
            .env(WRITER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        // Killed at another place of a write each time: when so much of it stands in the partial file.
        let wanted = round * 350_000;
        let deadline = SystemTime::now() + Duration::from_mins(1);
        let partial = || walk(folder.path()).into_iter().filter(|p| p.to_string_lossy().contains(".partial-"));
        while !partial().any(|path| fs::metadata(path).is_ok_and(|m| m.len() > wanted)) {
            assert!(SystemTime::now() < deadline, "the writer does not write");
            std::thread::yield_now();
        }
        child.kill().expect("kills");
        child.wait().expect("ends");
        match tier.get::<String>(&key("a"), NOW) {
            Lookup::Found { value, .. } => {
                assert_eq!(value.len(), 4_000_000);
                whole += 1;
            }
            Lookup::Missing => {}
            other => panic!("round {round}: {other:?}"),
        }
        partial().for_each(|path| fs::remove_file(path).expect("removes"));
    }
    println!("{whole} of 12 rounds found a whole entry");
    put(&tier, "a", 10, NOW).expect("the next writer is not in anybody's way");
}

/// Set for the process whose files may not grow.
const LIMITED: &str = "WITHIN_TEST_HAS_NO_ROOM";
const NO_ROOM: &str = "cache::tier::without_room_nothing_is_kept_and_nothing_is_left";

#[test]
fn without_room_nothing_is_kept_and_nothing_is_left() {
    if let Some(folder) = std::env::var_os(LIMITED) {
        let tier = tier(Path::new(&folder), None, None);
        put(&tier, "b", 4_000_000, NOW).expect_err("there is no room");
        return;
    }
    let folder = TempDir::new().expect("a folder");
    let tier = tier(folder.path(), None, None);
    put(&tier, "a", 100, NOW).expect("kept");
    // As on a full disk: a write that finds no room is an error, not a signal.
    let limited = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact \"$1\"";
    let me = std::env::current_exe().expect("a program");
    let status = Command::new("sh")
        .args(["-c", limited])
        .arg(me)
        .arg(NO_ROOM)
        .env(LIMITED, folder.path())
        .status()
        .expect("runs");
    assert!(status.success());
    assert_eq!(names(&tier, &["a", "b"]), ["a"]);
    assert_eq!(walk(folder.path()).len(), 1, "{:?}", walk(folder.path()));
}

/// What the version before wrote is read, or it is another version.
#[test]
fn the_layout_of_an_entry_is_as_it_was_written() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/entry_v1.bin");
    let folder = TempDir::new().expect("a folder");
    let tier = tier(folder.path(), None, None);
    put(&tier, "a", 40, NOW).expect("kept");
    if std::env::var_os("WITHIN_UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(golden.parent().expect("a folder")).expect("creates");
        fs::copy(path_of(&tier, "a"), &golden).expect("copies");
    }
    fs::copy(&golden, path_of(&tier, "a")).expect("copies");
    assert!(matches!(tier.get::<String>(&key("a"), NOW), Lookup::Found { value, .. } if value.len() == 40));
}
