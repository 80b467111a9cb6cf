//! The threads that tie a rank to its worker: stdin, whose end is the worker's death, and stdout, which
//! carries signs of life. Plain threads, so that neither waits for the runtime or for training.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use messages::WireError;

use crate::link::{Phase, RankConfig, RankLine};
use crate::vitals::Vitals;

/// Exit code of a rank that could not report by itself.
pub const EXIT_INFRASTRUCTURE: u8 = 3;
/// Largest configuration that a rank reads, in bytes.
const MAX_CONFIG_BYTES: u64 = 8 * 1024 * 1024;
/// The worker sends the configuration at once.
const CONFIG_PATIENCE: Duration = Duration::from_secs(30);
/// Shortest time between two signs of life, and longest.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// How long the last line may take; a worker that does not read does not hold its rank up.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Configurations from the worker, one a task.
pub struct Configs {
    lines: tokio::sync::mpsc::Receiver<std::io::Result<String>>,
    busy: Arc<AtomicBool>,
}

impl Configs {
    /// Begins to read stdin. Its end ends a process that works, at once: the worker is dead, or wants this
    /// process dead, and nothing may be done in its name any more.
    pub fn from_stdin() -> std::io::Result<Self> {
        let (tell, lines) = tokio::sync::mpsc::channel(1);
        let busy = Arc::new(AtomicBool::new(false));
        let working = Arc::clone(&busy);
        std::thread::Builder::new().name("stdin".into()).spawn(move || {
            let mut stdin = BufReader::new(std::io::stdin());
            loop {
                let mut line = String::new();
                let read = stdin.by_ref().take(MAX_CONFIG_BYTES).read_line(&mut line);
                if matches!(read, Ok(0)) {
                    break;
                }
                working.store(true, Ordering::SeqCst);
                let failed = read.is_err();
                if tell.blocking_send(read.map(|_| line)).is_err() || failed {
                    break;
                }
            }
            if working.load(Ordering::SeqCst) {
                std::process::exit(i32::from(EXIT_INFRASTRUCTURE));
            }
        })?;
        Ok(Self { lines, busy })
    }

    /// The first: the worker sends it at once.
    pub async fn first(&mut self) -> Result<RankConfig, String> {
        match tokio::time::timeout(CONFIG_PATIENCE, self.next()).await {
            Ok(Some(config)) => config,
            Ok(None) | Err(_) => Err("no configuration on stdin".to_owned()),
        }
    }

    /// The next; None when the worker wants no more of this process.
    pub async fn next(&mut self) -> Option<Result<RankConfig, String>> {
        let line = self.lines.recv().await?.map_err(|e| e.to_string());
        Some(line.and_then(|line| serde_json::from_str(&line).map_err(|e| format!("configuration on stdin: {e}"))))
    }

    /// Nothing is done in the worker's name until the next configuration.
    pub fn idle(&self) {
        self.busy.store(false, Ordering::SeqCst);
    }
}

/// What the last line of a task says.
#[derive(Debug, Default)]
pub struct LastLine {
    /// Why it ends, if the coordinator does not know of it.
    pub error: Option<WireError>,
    /// The process waits for another task.
    pub ready: bool,
}

/// Writes signs of life to the worker.
pub struct Reporter {
    end: Sender<LastLine>,
    done: Receiver<()>,
    _thread: JoinHandle<()>,
}

impl Reporter {
    pub fn start(rank: u32, vitals: Arc<Vitals>, out: impl Write + Send + 'static) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let (tell_done, done) = channel();
        let thread = std::thread::Builder::new().name("vitals".into()).spawn(move || {
            write_lines(rank, &vitals, out, &ended);
            let _ = tell_done.send(());
        })?;
        Ok(Self { end, done, _thread: thread })
    }

    /// Writes the last line.
    pub fn finish(self, last: LastLine) {
        if self.end.send(last).is_ok() {
            let _ = self.done.recv_timeout(LAST_WORDS);
        }
    }
}

fn write_lines(rank: u32, vitals: &Vitals, mut out: impl Write, ended: &Receiver<LastLine>) {
    let mut last: Option<(u64, u64, Phase)> = None;
    let mut written_at = Instant::now();
    loop {
        let end = match ended.recv_timeout(SHORTEST) {
            Ok(end) => Some(end),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = vitals.read();
        if end.is_none() && last == Some(now) && written_at.elapsed() < LONGEST {
            continue;
        }
        let (step, progress, phase) = now;
        let ends = end.is_some();
        let phase = if ends { Phase::Ended } else { phase };
        let LastLine { error, ready } = end.unwrap_or_default();
        let (fence, doing) = (vitals.fence(), vitals.doing());
        let device_lost = crate::device::is_lost();
        let line = RankLine { rank, step, fence, progress, phase, doing, error, ready, device_lost };
        let text = serde_json::to_string(&line).expect("invariant: a sign of life serializes");
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() || ends {
            return;
        }
        (last, written_at) = (Some(now), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use messages::error::Code;

    #[test]
    fn the_last_line_carries_the_error() {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let vitals = Arc::new(Vitals::default());
        let reporter = Reporter::start(2, vitals.clone(), writer).expect("starts");
        vitals.enter(Phase::Training);
        vitals.step(5);
        let mut lines = BufReader::new(reader).lines();
        let first: RankLine = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("parses");
        assert_eq!((first.rank, first.phase, first.error, first.ready), (2, Phase::Training, None, false));
        reporter.finish(LastLine { error: Some(WireError::new(Code::BusUnavailable, "gone")), ready: false });
        let last = lines.map(|l| l.expect("read")).last().expect("a last line");
        let last: RankLine = serde_json::from_str(&last).expect("parses");
        assert_eq!((last.phase, last.step, last.error.map(|e| e.code)), (Phase::Ended, 5, Some(Code::BusUnavailable)));
    }
}
