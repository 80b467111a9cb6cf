//! One rank process as its worker sees it: started with its configuration on stdin, watched on stdout,
//! its log forwarded from stderr, signalled and reaped by one task, so that no signal can reach a
//! process that is no longer ours. One whose task ended in order is kept for a while for the next.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bus::{Bus, now_ms};
use messages::JobId;
use messages::envelope::rfc3339;
use messages::event::LogLine;
use nix::sys::signal::{Signal as OsSignal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::link::{LOG_ENDS, RankConfig, RankLine, log_line};
use crate::state::{Exit, Signal};

/// Log lines that a death quotes.
const LAST_LINES: usize = 20;
/// Log lines that may wait for the bus; beyond, they stay in the worker's own log only.
const LOG_CAPACITY: usize = 1_024;
/// How long the configuration may take to be read, and the last log lines to arrive.
const PIPE_PATIENCE: Duration = Duration::from_secs(5);
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a process waits for another task.
const SPARE_FOR: Duration = Duration::from_secs(30);

/// What a rank process does, as its worker hears it.
#[derive(Debug)]
pub enum Heard {
    Line(RankLine),
    Exited { rank: u32, exit: Exit },
}

/// A rank process of this worker; dropping it kills it.
struct Process {
    child: Child,
    /// Held for as long as the process may live: it ends with it.
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    log: Lines<BufReader<ChildStderr>>,
}

/// Processes whose task ended in order, waiting for another.
#[derive(Clone)]
pub struct Spares {
    waiting: Arc<Mutex<Waiting>>,
}

struct Waiting {
    processes: Vec<(Process, Instant)>,
    most: usize,
}

impl Spares {
    /// Room for as many as there are slots.
    pub fn new(most: u32) -> Self {
        Self { waiting: Arc::new(Mutex::new(Waiting { processes: Vec::new(), most: most as usize })) }
    }

    /// Ends those that have waited for long.
    pub fn prune(&self) {
        self.held().processes.retain(|(_, since)| since.elapsed() < SPARE_FOR);
    }

    /// Ends all, and takes no more.
    pub fn close(&self) {
        let mut held = self.held();
        held.most = 0;
        held.processes.clear();
    }

    /// One that lives, the last to have come.
    fn take(&self) -> Option<Process> {
        let mut held = self.held();
        while let Some((mut process, _)) = held.processes.pop() {
            if matches!(process.child.try_wait(), Ok(None)) {
                return Some(process);
            }
        }
        None
    }

    fn put(&self, process: Process) {
        let mut held = self.held();
        if held.processes.len() < held.most {
            held.processes.push((process, Instant::now()));
        }
    }

    fn held(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a rank is started with.
#[derive(Debug)]
pub struct Program {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables beside the worker's own.
    pub environment: Vec<(&'static str, String)>,
}

/// Gives a task to a process, a waiting one or a new one, and stays with it to the task's end. `heard` gets
/// its signs of life and then its end, last.
pub async fn run(
    program: Program,
    config: RankConfig,
    bus: Bus,
    signals: mpsc::Receiver<Signal>,
    spares: Spares,
    heard: impl Fn(Heard),
) {
    let rank = config.rank;
    let mut task = Attended::new(&config, bus, signals, &heard);
    let exit = loop {
        let spare = spares.take();
        let waited = spare.is_some();
        let mut process = match spare.map_or_else(|| Process::spawn(&program), Ok) {
            Ok(process) => process,
            Err(reason) => break Exit { not_started: Some(reason), ..Exit::default() },
        };
        configure(&mut process.stdin, &config).await;
        let status = task.attend(&mut process).await;
        if waited && status.is_some() && !task.spoke && !task.signalled {
            tracing::info!(rank, "a process died while it waited for a task; another gets it");
            continue;
        }
        let exit = task.exit(status).await;
        // A signal that came late would end the next task.
        if exit.code == Some(0) && task.ready && !task.signalled {
            spares.put(process);
        }
        break exit;
    };
    heard(Heard::Exited { rank, exit });
}

impl Process {
    fn spawn(Program { command, environment }: &Program) -> Result<Self, String> {
        let (program, arguments) = command.split_first().ok_or("no command to start a rank with")?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // Its own group: an interrupt typed at the terminal is for the worker, which then drains its ranks.
            .process_group(0)
            .spawn()
            .map_err(|e| format!("{program}: {e}"))?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(format!("{program}: no pipes"));
        };
        let (lines, log) = (BufReader::new(stdout).lines(), BufReader::new(stderr).lines());
        Ok(Self { child, stdin, lines, log })
    }
}

/// Sends the configuration. A rank that does not read it ends by itself, or is found hung.
async fn configure(stdin: &mut ChildStdin, config: &RankConfig) {
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
}

/// One task of a process, from its configuration to its end.
struct Attended<'a, F> {
    heard: &'a F,
    signals: mpsc::Receiver<Signal>,
    log: TaskLog,
    /// It gave a sign of life.
    spoke: bool,
    /// It said that it waits for another task.
    ready: bool,
    signalled: bool,
    /// The kernel's count as the task began.
    oom_kills: u64,
}

impl<'a, F: Fn(Heard)> Attended<'a, F> {
    fn new(config: &RankConfig, bus: Bus, signals: mpsc::Receiver<Signal>, heard: &'a F) -> Self {
        let log = TaskLog::start(bus, config.work.job.clone(), config.rank);
        Self { heard, signals, log, spoke: false, ready: false, signalled: false, oom_kills: oom_kills() }
    }

    /// Listens and signals until the task has ended: None, or the process has. It is never signalled after it
    /// was reaped.
    async fn attend(&mut self, process: &mut Process) -> Option<std::io::Result<ExitStatus>> {
        let (mut out, mut err) = (true, true);
        loop {
            if self.ready && self.log.ended {
                return None;
            }
            tokio::select! {
                status = process.child.wait() => {
                    self.last_words(process, out, err).await;
                    return Some(status);
                }
                signal = self.signals.recv() => {
                    // The worker's actor is gone, and so is its claim on the process.
                    let signal = signal.unwrap_or(Signal::Kill);
                    self.signalled |= matches!(signal, Signal::Term | Signal::Kill);
                    send(&process.child, signal);
                    if signal == Signal::Kill {
                        let status = process.child.wait().await;
                        self.last_words(process, out, err).await;
                        return Some(status);
                    }
                }
                line = process.lines.next_line(), if out => out = self.on_line(line),
                line = process.log.next_line(), if err => err = self.on_log(line),
            }
        }
    }

    /// What it said last belongs to its end; a grandchild that holds a pipe open does not.
    async fn last_words(&mut self, process: &mut Process, mut out: bool, mut err: bool) {
        let until = tokio::time::Instant::now() + LAST_WORDS;
        while out || err {
            tokio::select! {
                line = process.lines.next_line(), if out => out = self.on_line(line),
                line = process.log.next_line(), if err => err = self.on_log(line),
                () = tokio::time::sleep_until(until) => return,
            }
        }
    }

    /// False at the end of the lines.
    fn on_line(&mut self, line: std::io::Result<Option<String>>) -> bool {
        let Ok(Some(text)) = line else { return false };
        if let Ok(line) = serde_json::from_str::<RankLine>(&text) {
            self.spoke = true;
            self.ready |= line.ready;
            (self.heard)(Heard::Line(line));
        } else {
            tracing::warn!(text, "a rank wrote something else than a sign of life to stdout");
        }
        true
    }

    fn on_log(&mut self, line: std::io::Result<Option<String>>) -> bool {
        let Ok(Some(text)) = line else { return false };
        self.log.push(&text);
        true
    }

    async fn exit(&mut self, status: Option<std::io::Result<ExitStatus>>) -> Exit {
        let log = self.log.finish().await;
        match status {
            None => Exit { code: Some(0), log, ..Exit::default() },
            Some(Ok(status)) => {
                let signal = status.signal();
                let oom_killed = signal == Some(OsSignal::SIGKILL as i32) && oom_kills() > self.oom_kills;
                Exit { code: status.code(), signal, log, oom_killed, not_started: None }
            }
            Some(Err(error)) => {
                Exit { not_started: Some(format!("its end could not be awaited: {error}")), log, ..Exit::default() }
            }
        }
    }
}

fn send(child: &Child, signal: Signal) {
    let Some(pid) = child.id() else { return };
    let os = match signal {
        Signal::Term => OsSignal::SIGTERM,
        Signal::Kill => OsSignal::SIGKILL,
        Signal::Regroup => OsSignal::SIGUSR1,
        Signal::RegroupNow => OsSignal::SIGUSR2,
    };
    if let Err(error) = kill(Pid::from_raw(pid as i32), os) {
        tracing::warn!(pid, %error, "a rank could not be signalled");
    }
}

/// How many processes of this machine were killed for lack of memory since it started; 0 where nobody counts.
fn oom_kills() -> u64 {
    let counters = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    count.unwrap_or(0)
}

/// The log of one task: to the bus, to the worker's own log, and its last lines kept.
struct TaskLog {
    rank: u32,
    sender: Option<mpsc::Sender<LogLine>>,
    publisher: JoinHandle<()>,
    last: VecDeque<String>,
    dropped: u64,
    /// The process has written all that it will write about the task.
    ended: bool,
}

impl TaskLog {
    fn start(bus: Bus, job: JobId, rank: u32) -> Self {
        let (sender, receiver) = mpsc::channel(LOG_CAPACITY);
        let publisher = tokio::spawn(publish(receiver, bus, job, rank));
        let last = VecDeque::with_capacity(LAST_LINES);
        Self { rank, sender: Some(sender), publisher, last, dropped: 0, ended: false }
    }

    fn push(&mut self, text: &str) {
        if text == LOG_ENDS {
            self.ended = true;
            return;
        }
        if text.trim().is_empty() {
            return;
        }
        let line = log_line(text, &rfc3339(now_ms()));
        relay(self.rank, &line);
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(format!("{} {}: {}", line.level, line.module, line.message));
        // Waiting for the bus here would hold the rank up as soon as the pipe is full.
        let sent = self.sender.as_ref().is_some_and(|sender| sender.try_send(line).is_ok());
        self.dropped += u64::from(!sent);
    }

    /// Gives the last lines.
    async fn finish(&mut self) -> Vec<String> {
        let (rank, dropped) = (self.rank, self.dropped);
        if dropped > 0 {
            tracing::warn!(rank, dropped, "log lines of a rank went to this log only: the bus is too slow");
        }
        self.sender = None;
        // Lines that a slow bus still holds are given up.
        let _ = timeout(LAST_WORDS, &mut self.publisher).await;
        std::mem::take(&mut self.last).into()
    }
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
