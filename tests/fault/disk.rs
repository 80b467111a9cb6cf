//! A full artifact disk: a job fails in bounded time and says where there is no room; when there is room again the next
//! job succeeds, and nothing half-written is used.
//!
//! The disk is a small tmpfs in a mount namespace of the worker's own, so that it ends with the worker. Where that is
//! not permitted, a limit of the size of files takes its place.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use messages::subject::CONSUMER_SUBMIT;

use super::{ALL, EPOCHS, Moment, Platform, TIMINGS, undisturbed};
use crate::harness::{Running, Worker, artifacts, children, text, wait_for};

/// Bytes of the disk.
const DISK_BYTES: u64 = 8 << 20;
/// Bytes of a file where only files are limited: less than a checkpoint's.
const FILE_BYTES: u64 = 1024;
/// A job that cannot write fails within this, all its attempts included.
const FAILS_WITHIN: Duration = Duration::from_secs(30);

/// Runs `$@` with a disk of its own at `$0`.
const WITH_DISK: &str = r#"mount -t tmpfs -o "size=$SIZE" within-test "$0" && exec "$@""#;
/// Runs `$@` so that a file that is too large is an error and not a signal.
const WITH_LIMIT: &str = r#"trap '' XFSZ; exec "$@""#;

enum Disk {
    /// Where the test sees the folder that the worker sees.
    Own(PathBuf),
    /// The worker's files are limited.
    Limit(u32),
}

/// Whether a process may mount something for itself.
fn may_mount(folder: &Path) -> bool {
    let mut command = Command::new("unshare");
    command.args(["-Urm", "sh", "-c", WITH_DISK]).arg(folder).arg("true").env("SIZE", "65536");
    command.output().is_ok_and(|output| output.status.success())
}

/// Starts a worker of all roles whose artifact store has little room.
fn start(platform: &Platform, store: &Path) -> (Worker, Disk) {
    std::fs::create_dir_all(store).expect("creates");
    let home = platform.sandbox.outside("small").display().to_string();
    let inner = platform.sandbox.command(&["worker", "--json", "--name", "small", "--roles", ALL, "--home", &home]);
    let own = may_mount(store);
    let mut command = Command::new(if own { "unshare" } else { "sh" });
    if own {
        command.args(["-Urm", "sh"]);
    }
    command.arg("-c").arg(if own { WITH_DISK } else { WITH_LIMIT }).arg(store).env("SIZE", DISK_BYTES.to_string());
    command.arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.current_dir(inner.get_current_dir().expect("invariant: a sandbox has a folder"));
    let running = Running::start(command);
    let pid = running.pid();
    let worker = Worker { running, started: serde_json::Value::Null, name: "small".into() }.ready();
    let seen = PathBuf::from(format!("/proc/{pid}/root")).join(store.strip_prefix("/").unwrap_or(store));
    println!("the disk is {}", if own { "a tmpfs" } else { "a limit of the size of files: mounting is not permitted" });
    (worker, if own { Disk::Own(seen) } else { Disk::Limit(pid) })
}

impl Disk {
    /// The store as the test sees it.
    fn store(&self, store: &Path) -> PathBuf {
        match self {
            Self::Own(seen) => seen.clone(),
            Self::Limit(_) => store.to_owned(),
        }
    }

    /// Takes the room that is left; to be repeated, because checkpoints are removed, too.
    fn fill(&self) {
        match self {
            Self::Own(seen) => {
                let mut filler =
                    std::fs::OpenOptions::new().create(true).append(true).open(seen.join("filler")).expect("opens");
                while filler.write_all(&[0u8; 4096]).is_ok() {}
            }
            Self::Limit(worker) => {
                let ranks = children(*worker, " rank");
                ranks.iter().map(|rank| rank.pid).chain([*worker]).for_each(|pid| limit(pid, &FILE_BYTES.to_string()));
            }
        }
    }

    fn free(&self) {
        match self {
            Self::Own(seen) => std::fs::remove_file(seen.join("filler")).expect("removes"),
            Self::Limit(worker) => limit(*worker, "unlimited"),
        }
    }
}

/// Sets the soft limit of the size of files; a process that has ended needs none.
fn limit(pid: u32, bytes: &str) {
    let set = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:")]).output();
    assert!(set.is_ok(), "prlimit: {set:?}");
}

/// Every content-addressed file holds what its address says, and no checkpoint is half-written.
fn check_whole(store: &Path) {
    let mut checked = 0;
    for file in artifacts(store) {
        assert!(!file.contains(".tmp-") && !file.contains(".old-"), "left over: {file}");
        let parts: Vec<&str> = file.split('/').collect();
        if let [_, _, address, _] = parts[..]
            && address.len() == 64
        {
            let bytes = std::fs::read(store.join(&file)).expect("reads");
            assert_eq!(blake3::hash(&bytes).to_hex().as_str(), address, "{file} of {} bytes", bytes.len());
            checked += 1;
        }
    }
    assert!(checked > 4, "{checked} files");
}

/// Whether a submission has come more than once, and is still there.
fn submissions_put_off(platform: &Platform) -> bool {
    let streams = platform.server.block_on(platform.bus().topology()).expect("streams");
    let mut consumers = streams.iter().flat_map(|stream| &stream.consumers);
    consumers.any(|consumer| consumer.name == CONSUMER_SUBMIT && consumer.redelivered > 0)
}

#[test]
fn a_full_artifact_disk() {
    let mut platform = Platform::start(TIMINGS, EPOCHS, &[]);
    let store = platform.sandbox.outside("store");
    let (worker, disk) = start(&platform, &store);
    platform.workers.insert(worker.name.clone(), worker);
    platform.succeeded(platform.submit("before"));

    let mut doomed = platform.submit_spec("job.yaml", "doomed", &["limits.max_attempts=3", "training.epochs=200"]);
    Moment::Checkpoint(2).reach(&mut doomed);
    let begun = Instant::now();
    wait_for("the job's end", FAILS_WITHIN, || {
        disk.fill();
        doomed.has_ended().then_some(())
    });
    let last = doomed.wait().expect(1).last();
    println!("failed {:.1} s after the disk was full: {}", begun.elapsed().as_secs_f64(), last["message"]);
    assert_eq!((text(&last, "/class"), text(&last, "/code")), ("infrastructure", "storage_full"), "{last}");
    let message = text(&last, "/message").to_lowercase();
    assert!(message.contains(&store.display().to_string().to_lowercase()), "names the path: {message}");
    assert!(message.contains("no space") || message.contains("file too large"), "{message}");
    assert!(message.contains("attempt 3 of 3"), "{message}");

    // A submission that cannot be stored is not lost: it is accepted when there is room.
    // (Its plan is another one: what is there already need not be stored.)
    let patient = platform.submit_spec("job.yaml", "patient", &["limits.max_attempts=7"]);
    wait_for("the submission is put off", Duration::from_secs(30), || {
        disk.fill();
        submissions_put_off(&platform).then_some(())
    });
    disk.free();
    let ended = platform.succeeded(patient);
    assert_eq!(ended.events("accepted").len(), 1);
    platform.succeeded(platform.submit("after"));

    check_whole(&disk.store(&store));
    let ended = platform.terminal_events();
    let counts: Vec<_> = ended.iter().map(|(job, events)| (job.as_str(), events.len())).collect();
    assert_eq!(counts, [("after", 1), ("before", 1), ("doomed", 1), ("patient", 1)]);
    assert_eq!(super::blake3_of(&ended["after"][0]), Some(undisturbed(EPOCHS).as_str()));
    let rows = [("after", "FINISHED"), ("before", "FINISHED"), ("doomed", "FAILED"), ("patient", "FINISHED")];
    platform.tracked(&rows.map(|(job, status)| (job.to_owned(), status.to_owned())));
}
