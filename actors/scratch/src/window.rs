//! How much of the files is in memory at a time. A shared mapping keeps every page that was looked at until somebody
//! needs memory; a worker has a share of the machine, not all of it. So a thread looks now and then, and once the pages
//! of files have grown by a window, takes them out.

use std::io::Read;
use std::sync::OnceLock;
use std::thread::Thread;
use std::time::Duration;

use crate::block::{PAGE_BYTES, in_files, release};

/// What files may have in memory before they are taken out of it.
const WINDOW_BYTES: usize = 128 << 20;
/// Pause between two looks: memory is written at some GB/s, so that a few tens of MB come in between.
const PAUSE: Duration = Duration::from_millis(8);

static WATCHER: OnceLock<Option<Thread>> = OnceLock::new();

/// Starts the thread that looks, if there is none yet.
pub fn watch() {
    WATCHER.get_or_init(|| {
        let thread = std::thread::Builder::new().name("scratch".into()).spawn(look);
        thread.ok().map(|handle| handle.thread().clone())
    });
}

/// A file was mapped.
pub fn wake() {
    if let Some(Some(thread)) = WATCHER.get() {
        thread.unpark();
    }
}

fn look() {
    let mut before = 0;
    loop {
        if in_files() == 0 {
            std::thread::park();
            before = mapped_bytes().unwrap_or(0);
            continue;
        }
        match mapped_bytes() {
            Some(now) if now > before + WINDOW_BYTES => {
                release();
                before = mapped_bytes().unwrap_or(0);
            }
            // What other files had was taken out by others.
            Some(now) => before = before.min(now),
            None => release(),
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// Bytes of files that this process has in memory: `shared` of `/proc/self/statm`.
fn mapped_bytes() -> Option<usize> {
    let mut text = [0; 256];
    let mut file = std::fs::File::open("/proc/self/statm").ok()?;
    let read = file.read(&mut text).ok()?;
    let text = std::str::from_utf8(&text[..read]).ok()?;
    let pages: usize = text.split(' ').nth(2)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}
