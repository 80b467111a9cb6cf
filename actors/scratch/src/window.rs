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
    let mut others = Others::default();
    loop {
        if in_files() == 0 {
            std::thread::park();
            others = Others::default();
            others.saw(mapped_bytes().unwrap_or(0));
            continue;
        }
        match mapped_bytes() {
            Some(now) if now > others.least() + WINDOW_BYTES => {
                release();
                others.saw(mapped_bytes().unwrap_or(0));
            }
            Some(now) if now < others.least() => others.saw(now),
            Some(_) => {}
            None => release(),
        }
        std::thread::park_timeout(PAUSE);
    }
}

/// What files that are none of ours have in memory: the least that was seen lately. Right after ours were taken out some
/// of them are back, as threads go on writing; if that were taken for the others', each look would allow a little more.
#[derive(Debug, Default)]
struct Others {
    seen: [Option<usize>; LATELY],
    next: usize,
}

/// Looks that are remembered.
const LATELY: usize = 32;

impl Others {
    fn saw(&mut self, bytes: usize) {
        self.seen[self.next] = Some(bytes);
        self.next = (self.next + 1) % LATELY;
    }

    fn least(&self) -> usize {
        self.seen.iter().flatten().copied().min().unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_while_ours_is_taken_out_is_not_taken_for_that_of_others() {
        let mut others = Others::default();
        assert_eq!(others.least(), 0);
        others.saw(10);
        for back in 0..LATELY - 1 {
            others.saw(100 + back);
            assert_eq!(others.least(), 10);
        }
        // Of others that have grown for good one hears in the end.
        others.saw(200);
        assert_eq!(others.least(), 100);
    }
}
