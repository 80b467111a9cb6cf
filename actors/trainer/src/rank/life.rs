//! The threads that tie a rank to its worker: stdin, whose end is the worker's death, and stdout, which
//! carries signs of life. Plain threads, so that neither waits for the runtime or for training.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::Arc;
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

/// Reads the configuration, and from then on ends the process when stdin ends.
pub fn config_from_stdin() -> Result<RankConfig, String> {
    let (tell, told) = channel();
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(move || {
            let mut stdin = BufReader::new(std::io::stdin());
            let mut line = String::new();
            let read = stdin.by_ref().take(MAX_CONFIG_BYTES).read_line(&mut line);
            if tell.send(read.map(|_| line).map_err(|e| e.to_string())).is_err() {
                return;
            }
            let mut rest = [0u8; 256];
            while stdin.read(&mut rest).is_ok_and(|n| n > 0) {}
            // The worker is dead, or wants this process dead: nothing may be done in its name any more.
            std::process::exit(i32::from(EXIT_INFRASTRUCTURE));
        })
        .map_err(|e| e.to_string())?;
    let line = told.recv_timeout(CONFIG_PATIENCE).map_err(|_| "no configuration on stdin".to_owned())??;
    serde_json::from_str(&line).map_err(|e| format!("configuration on stdin: {e}"))
}

/// Writes signs of life to the worker.
pub struct Reporter {
    end: Sender<Option<WireError>>,
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

    /// Writes the last line, with the error if the coordinator does not know of it.
    pub fn finish(self, error: Option<WireError>) {
        if self.end.send(error).is_ok() {
            let _ = self.done.recv_timeout(LAST_WORDS);
        }
    }
}

fn write_lines(rank: u32, vitals: &Vitals, mut out: impl Write, ended: &Receiver<Option<WireError>>) {
    let mut last: Option<(u64, u64, Phase)> = None;
    let mut written_at = Instant::now();
    loop {
        let end = match ended.recv_timeout(SHORTEST) {
            Ok(error) => Some(error),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = vitals.read();
        if end.is_none() && last == Some(now) && written_at.elapsed() < LONGEST {
            continue;
        }
        let (step, progress, phase) = now;
        let line = RankLine {
            rank,
            step,
            progress,
            phase: if end.is_some() { Phase::Ended } else { phase },
            error: end.clone().flatten(),
        };
        let text = serde_json::to_string(&line).expect("invariant: a sign of life serializes");
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() || end.is_some() {
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
        assert_eq!((first.rank, first.phase, first.error), (2, Phase::Training, None));
        reporter.finish(Some(WireError::new(Code::BusUnavailable, "gone")));
        let last = lines.map(|l| l.expect("read")).last().expect("a last line");
        let last: RankLine = serde_json::from_str(&last).expect("parses");
        assert_eq!((last.phase, last.step, last.error.map(|e| e.code)), (Phase::Ended, 5, Some(Code::BusUnavailable)));
    }
}
