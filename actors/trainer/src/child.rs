//! One rank process as its worker sees it: started with its configuration on stdin, watched on stdout,
//! its log forwarded from stderr, signalled and reaped by one task, so that no signal can reach a
//! process that is no longer ours.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bus::{Bus, now_ms};
use messages::JobId;
use messages::envelope::rfc3339;
use messages::event::LogLine;
use nix::sys::signal::{Signal as OsSignal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::link::{RankConfig, RankLine, log_line};
use crate::state::{Exit, Signal};

/// Log lines that a death quotes.
const LAST_LINES: usize = 20;
/// Log lines that may wait for the bus; beyond, they stay in the worker's own log only.
const LOG_CAPACITY: usize = 1_024;
/// How long the configuration may take to be read, and the last log lines to arrive.
const PIPE_PATIENCE: Duration = Duration::from_secs(5);
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What a rank process does, as its worker hears it.
#[derive(Debug)]
pub enum Heard {
    Line(RankLine),
    Exited { rank: u32, exit: Exit },
}

/// Starts a rank and stays with it to its end. `heard` gets its signs of life and then its end, last.
pub async fn run(
    command: Vec<String>,
    config: RankConfig,
    bus: Bus,
    mut signals: mpsc::Receiver<Signal>,
    heard: impl Fn(Heard) + Send + Sync + Clone + 'static,
) {
    let rank = config.rank;
    let exit = match spawn(&command) {
        Err(reason) => Exit { not_started: Some(reason), ..Exit::default() },
        Ok(mut child) => {
            let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
            let lines = stdout.map(|out| tokio::spawn(listen(out, heard.clone())));
            let log = stderr.map(|err| tokio::spawn(forward(err, bus, config.work.job.clone(), rank)));
            // Held to the end: the rank dies with it.
            let _lifeline = configure(stdin, &config).await;
            let status = reap(&mut child, &mut signals).await;
            exit_of(status, lines, log).await
        }
    };
    heard(Heard::Exited { rank, exit });
}

fn spawn(command: &[String]) -> Result<Child, String> {
    let (program, arguments) = command.split_first().ok_or("no command to start a rank with")?;
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        // Its own group: an interrupt typed at the terminal is for the worker, which then drains its ranks.
        .process_group(0)
        .spawn()
        .map_err(|e| format!("{program}: {e}"))
}

/// Sends the configuration. A rank that does not read it ends by itself, or is found hung.
async fn configure(stdin: Option<ChildStdin>, config: &RankConfig) -> Option<ChildStdin> {
    let mut stdin = stdin?;
    let mut line = serde_json::to_vec(config).expect("invariant: a configuration serializes");
    line.push(b'\n');
    let written = timeout(PIPE_PATIENCE, async {
        stdin.write_all(&line).await?;
        stdin.flush().await
    });
    match written.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(rank = config.rank, %error, "a rank did not take its configuration"),
        Err(_) => tracing::warn!(rank = config.rank, "a rank does not read its configuration"),
    }
    Some(stdin)
}

/// Waits for the process and signals it on request, never after it was reaped.
async fn reap(child: &mut Child, signals: &mut mpsc::Receiver<Signal>) -> std::io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            signal = signals.recv() => {
                // The worker's actor is gone, and so is its claim on the process.
                let signal = signal.unwrap_or(Signal::Kill);
                if let Some(pid) = child.id() {
                    let os = match signal {
                        Signal::Term => OsSignal::SIGTERM,
                        Signal::Kill => OsSignal::SIGKILL,
                    };
                    if let Err(error) = kill(Pid::from_raw(pid as i32), os) {
                        tracing::warn!(pid, %error, "a rank could not be signalled");
                    }
                }
                if signal == Signal::Kill {
                    return child.wait().await;
                }
            }
        }
    }
}

async fn exit_of(
    status: std::io::Result<ExitStatus>,
    lines: Option<JoinHandle<()>>,
    log: Option<JoinHandle<Vec<String>>>,
) -> Exit {
    // What it said last belongs to its end; a grandchild that holds the pipe open does not.
    if let Some(lines) = lines {
        let _ = timeout(LAST_WORDS, lines).await;
    }
    let log = match log {
        Some(log) => timeout(LAST_WORDS * 2, log).await.ok().and_then(Result::ok).unwrap_or_default(),
        None => Vec::new(),
    };
    match status {
        Ok(status) => Exit { code: status.code(), signal: status.signal(), log, not_started: None },
        Err(error) => {
            Exit { not_started: Some(format!("its end could not be awaited: {error}")), log, ..Exit::default() }
        }
    }
}

async fn listen(stdout: ChildStdout, heard: impl Fn(Heard)) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        if let Ok(line) = serde_json::from_str::<RankLine>(&text) {
            heard(Heard::Line(line));
        } else {
            tracing::warn!(text, "a rank wrote something else than a sign of life to stdout");
        }
    }
}

/// Forwards the log to the bus and to the worker's own, and gives the last lines.
async fn forward(stderr: ChildStderr, bus: Bus, job: JobId, rank: u32) -> Vec<String> {
    let (sender, receiver) = mpsc::channel(LOG_CAPACITY);
    let publisher = tokio::spawn(publish(receiver, bus, job, rank));
    let mut last = VecDeque::with_capacity(LAST_LINES);
    let mut dropped = 0u64;
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(text)) = lines.next_line().await {
        if text.trim().is_empty() {
            continue;
        }
        let line = log_line(&text, &rfc3339(now_ms()));
        relay(rank, &line);
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(format!("{} {}: {}", line.level, line.module, line.message));
        // Waiting for the bus here would hold the rank up as soon as the pipe is full.
        dropped += u64::from(sender.try_send(line).is_err());
    }
    if dropped > 0 {
        tracing::warn!(rank, dropped, "log lines of a rank went to this log only: the bus is too slow");
    }
    drop(sender);
    let _ = timeout(LAST_WORDS, publisher).await;
    last.into()
}

async fn publish(mut lines: mpsc::Receiver<LogLine>, bus: Bus, job: JobId, rank: u32) {
    let source = format!("rank{rank}");
    while let Some(line) = lines.recv().await {
        if let Err(error) = bus.publish_log(&job, &source, line).await {
            tracing::debug!(%error, "a log line could not be sent");
        }
    }
}

fn relay(rank: u32, line: &LogLine) {
    let (module, message) = (&line.module, &line.message);
    match line.level.as_str() {
        "ERROR" => tracing::error!(target: "trainer::rank", rank, module, "{message}"),
        "WARN" => tracing::warn!(target: "trainer::rank", rank, module, "{message}"),
        "INFO" => tracing::info!(target: "trainer::rank", rank, module, "{message}"),
        _ => tracing::debug!(target: "trainer::rank", rank, module, "{message}"),
    }
}
