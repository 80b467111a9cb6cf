//! A running program: its lines as they come, its end, and its death when the test ends.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use super::{PATIENCE, wait_for};

/// Lines of standard output so far, with the time of each; whether more can come.
#[derive(Default)]
struct Output {
    lines: Vec<(Instant, String)>,
    closed: bool,
}

type Shared = Arc<(Mutex<Output>, Condvar)>;

/// A program that runs, in a process group of its own. Dropped, the group is killed.
pub struct Running {
    child: Child,
    name: String,
    started: Instant,
    output: Shared,
    stdout: Option<JoinHandle<()>>,
    stderr: Option<JoinHandle<String>>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    pub name: String,
    /// None: a signal.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    /// From the start to the line, for each line.
    pub times: Vec<Duration>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let name = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let started = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let output = Shared::default();
        let (reader, shared) = (child.stdout.take().expect("invariant: piped"), Arc::clone(&output));
        let stdout = std::thread::spawn(move || {
            let (lines, grown) = &*shared;
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                lines.lock().expect("not poisoned").lines.push((Instant::now(), line));
                grown.notify_all();
            }
            lines.lock().expect("not poisoned").closed = true;
            grown.notify_all();
        });
        let mut errors = child.stderr.take().expect("invariant: piped");
        let stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // A reader that fails has read what there is.
            let _ = errors.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Self { child, name, started, output, stdout: Some(stdout), stderr: Some(stderr) }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The first line, also of those that came before, that is JSON and that `wanted` accepts.
    pub fn line(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.lines(what, 1, wanted).pop().expect("invariant: one line was asked for")
    }

    /// The first `count` such lines.
    pub fn lines(&mut self, what: &str, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let until = Instant::now() + PATIENCE;
        let (mut seen, mut found) = (0, Vec::new());
        loop {
            let (lines, grown) = &*self.output;
            let output = lines.lock().expect("not poisoned");
            while seen < output.lines.len() {
                let parsed = serde_json::from_str::<Value>(&output.lines[seen].1);
                found.extend(parsed.ok().filter(&wanted));
                seen += 1;
                if found.len() == count {
                    return found;
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if output.closed || left.is_zero() {
                let so_far: Vec<_> = output.lines.iter().map(|(_, line)| line.clone()).collect();
                drop(output);
                killpg(Pid::from_raw(self.pid() as i32), Signal::SIGKILL).ok();
                let errors = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
                panic!("{}: no line {what}\n{}\n{errors}", self.name, so_far.join("\n"));
            }
            drop(grown.wait_timeout(output, left).expect("not poisoned"));
        }
    }

    /// Sends a signal to the program alone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid() as i32), signal).expect("the program runs");
    }

    /// Kills the program and what is in its group.
    pub fn kill_group(&self) {
        killpg(Pid::from_raw(self.pid() as i32), Signal::SIGKILL).expect("the group exists");
    }

    /// Whether it has closed its output, as it does when it ends.
    pub fn has_ended(&self) -> bool {
        self.output.0.lock().expect("not poisoned").closed
    }

    /// Waits for its end.
    pub fn wait(self) -> Ended {
        self.wait_up_to(PATIENCE)
    }

    /// The same for what takes longer.
    pub fn wait_up_to(mut self, patience: Duration) -> Ended {
        let status = wait_for(&format!("{} ends", self.name), patience, || self.child.try_wait().expect("waits"));
        // Anything that inherited its output would keep the pipes open.
        killpg(Pid::from_raw(self.pid() as i32), Signal::SIGKILL).ok();
        if let Some(reader) = self.stdout.take() {
            reader.join().expect("reads");
        }
        let stderr = self.stderr.take().map(|reader| reader.join().expect("reads")).unwrap_or_default();
        let output = self.output.0.lock().expect("not poisoned");
        Ended {
            name: self.name.clone(),
            code: status.code(),
            signal: status.signal(),
            stdout: output.lines.iter().flat_map(|(_, line)| [line.as_str(), "\n"]).collect(),
            stderr,
            times: output.lines.iter().map(|(at, _)| at.duration_since(self.started)).collect(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        killpg(Pid::from_raw(self.pid() as i32), Signal::SIGKILL).ok();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Ended {
    /// The exit code must be this one.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "{} (signal {:?})\nstdout:\n{}\nstderr:\n{}",
            self.name,
            self.signal,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Every line, which must be JSON.
    pub fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name));
        self.stdout.lines().map(parse).collect()
    }

    /// The last line.
    pub fn last(&self) -> Value {
        self.json().pop().unwrap_or_else(|| panic!("{} printed nothing\n{}", self.name, self.stderr))
    }

    /// Lines of one event.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.json().into_iter().filter(|line| line["event"] == name).collect()
    }

    /// Both outputs.
    pub fn all_text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// A process as /proc shows it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub pid: u32,
    parent: u32,
    /// Arguments, separated by blanks.
    pub command: String,
}

fn seen() -> Vec<Seen> {
    let entries = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    let of = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; what follows it is the state and the parent.
        let mut rest = stat.rsplit_once(") ")?.1.split(' ');
        let state = rest.next()?;
        let parent = rest.next()?.parse().ok()?;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        (state != "Z").then_some(Seen { pid, parent, command })
    };
    entries.filter_map(|entry| of(entry.file_name().to_str()?.parse().ok()?)).collect()
}

/// The processes below this one whose command holds `part`.
pub fn children(parent: u32, part: &str) -> Vec<Seen> {
    let all = seen();
    let mut family = vec![parent];
    let mut found = Vec::new();
    while let Some(pid) = family.pop() {
        for child in all.iter().filter(|process| process.parent == pid) {
            family.push(child.pid);
            if child.command.contains(part) {
                found.push(child.clone());
            }
        }
    }
    found
}

/// A process whose command holds `part`.
pub fn process_with(part: &str) -> Option<Seen> {
    seen().into_iter().find(|process| process.command.contains(part))
}

/// Waits until no process has this id.
pub fn gone(what: &str, pid: u32) {
    wait_for(&format!("the end of {what} ({pid})"), Duration::from_secs(30), || {
        (!seen().iter().any(|process| process.pid == pid)).then_some(())
    });
}
