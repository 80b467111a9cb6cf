//! How much memory a preparation may use for what it keeps of the files; what is more lies in files of the home.

use std::path::Path;
use std::sync::OnceLock;

use scratch::Scope;

/// The folder of the home in which files without a name lie while a preparation runs.
pub const FOLDER: &str = "scratch";
/// What large vectors may take of the limit before they lie in files, one part in so many; the rest is for what cannot.
const LARGE_PART: usize = 2;

/// Set once, as the role starts.
static LIMIT: OnceLock<usize> = OnceLock::new();

/// Share of what there is that columns may take: shards and fitted values come on top.
const SHARE: f64 = 0.5;

/// The operator's limit; a second start of the role in a process does not move it.
pub fn set_limit_bytes(limit: usize) {
    LIMIT.set(limit).ok();
}

/// The limit: the operator's, else half of what the machine, or the group that the process is in, has.
pub fn limit_bytes() -> usize {
    *LIMIT.get_or_init(|| {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse::<f64>().ok());
        let machine = read("/proc/meminfo").and_then(|text| total(&text));
        let least = [group, machine].into_iter().flatten().fold(f64::INFINITY, f64::min);
        if least.is_finite() { (least * SHARE) as usize } else { usize::MAX }
    })
}

/// The scope of a preparation: what its large vectors take beyond their share of the limit lies below the home.
pub fn scope(home: &Path) -> Scope {
    let folder = home.join(FOLDER);
    // Where that fails, so does the first file, which is told then.
    std::fs::create_dir_all(&folder).ok();
    Scope::new(folder, limit_bytes() / LARGE_PART)
}

/// What is to be told where files could not be had, and memory beyond the share was taken in their place.
pub fn without_files(scope: &Scope) -> Option<String> {
    let failure = scope.failure()?;
    let folder = scope.folder().display();
    Some(format!(
        "{folder} could not take what is beyond 1/{LARGE_PART} of memory_limit_bytes, so that memory did: {failure}"
    ))
}

/// `MemTotal` in bytes.
fn total(meminfo: &str) -> Option<f64> {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_it_has() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       16 kB\n"), Some(16_384.0));
        assert_eq!(total(""), None);
        assert!(limit_bytes() > 1 << 20);
    }
}
