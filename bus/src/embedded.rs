//! A supervised child `nats-server` with JetStream: on a free loopback port, its store in a given
//! folder, with a random credential for each start so that no other local user can use it, and dying
//! with this process however that dies. `within run` and the tests use it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::connection::{Credentials, MIN_SERVER, UPGRADE, parse_version};
use crate::error::{Error, ErrorKind, Result};

/// A server that does not accept within this time has failed. Recovery of a large store takes a while.
const READY_WITHIN: Duration = Duration::from_mins(1);
/// A server that does not end within this time after SIGTERM is killed.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at a child.
const LOOK: Duration = Duration::from_millis(10);
/// Lines of the server's log shown when it fails.
const LOG_LINES: usize = 5;

/// Without a wrapper: a shell that kills the server when our end of its standard input closes.
const WATCHDOG: &str = r#"exec 3<&0
"$@" </dev/null 3<&- &
server=$!
( read -r _ <&3; kill -KILL "$server" ) 2>/dev/null &
reader=$!
wait "$server"
code=$?
kill "$reader" 2>/dev/null
exit "$code""#;

/// What to start.
#[derive(Debug, Clone)]
pub struct EmbeddedConfig {
    /// The `nats-server` executable, 2.12 or newer.
    pub binary: PathBuf,
    /// Streams, configuration and log; created where needed. One server at a time may use it.
    pub store_dir: PathBuf,
    /// None: a free one, kept over restarts.
    pub port: Option<u16>,
    /// Largest message, in bytes.
    pub max_payload: usize,
    /// Flush every write to disk before it is acknowledged (the server's default is every 2 minutes).
    pub sync_always: bool,
    /// A command that sets its parent-death signal and then becomes the command given to it. None: a
    /// shell that watches a pipe.
    pub wrapper: Option<Vec<String>>,
}

impl EmbeddedConfig {
    /// A server on a free port with 8 MiB messages, flushed by the server's default.
    pub fn new(binary: impl Into<PathBuf>, store_dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            store_dir: store_dir.into(),
            port: None,
            max_payload: 8 * 1024 * 1024,
            sync_always: false,
            wrapper: None,
        }
    }
}

/// A running server; dropping it kills it.
pub struct EmbeddedServer {
    config: EmbeddedConfig,
    user: String,
    password: String,
    port: u16,
    process: Option<Process>,
    /// Held for as long as the store may be used.
    _lock: File,
}

struct Process {
    child: Child,
    pid: Pid,
    /// The parent-death signal fires when the *thread* that spawned ends, so that one waits for this.
    _thread: mpsc::Sender<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        kill(self.pid, Signal::SIGKILL).ok();
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl EmbeddedServer {
    /// Starts a server and returns when it accepts connections.
    pub async fn start(config: EmbeddedConfig) -> Result<EmbeddedServer> {
        check_binary(&config.binary).await?;
        let folder = &config.store_dir;
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Storage, format!("NATS store {}: {error}", folder.display())).because(error)
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        let store_dir = folder.canonicalize().map_err(failed)?;
        let lock = lock(&store_dir)?;
        predecessor_ended(&store_dir).await?;
        let (user, password) = (random_hex(8)?, random_hex(24)?);
        let config = EmbeddedConfig { store_dir, ..config };
        let port = config.port.unwrap_or(0);
        let mut server = EmbeddedServer { config, user, password, port, process: None, _lock: lock };
        server.launch().await?;
        Ok(server)
    }

    /// `nats://127.0.0.1:PORT`, without credentials.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of this start.
    pub fn credentials(&self) -> Credentials {
        Credentials::UserPassword { user: self.user.clone(), password: self.password.clone() }
    }

    /// Process id of the server; None while it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.pid.as_raw() as u32)
    }

    /// The server's own log.
    pub fn log_file(&self) -> PathBuf {
        self.config.store_dir.join("nats-server.log")
    }

    /// The configuration it runs with.
    pub fn config_file(&self) -> PathBuf {
        self.config.store_dir.join("nats-server.conf")
    }

    /// If the server has ended by itself: how, with the last lines of its log.
    pub fn exited(&mut self) -> Option<String> {
        let status = self.process.as_mut()?.child.try_wait().ok()??;
        Some(format!("{status}{}", self.log_tail()))
    }

    /// Ends it by SIGTERM, so that it flushes its store.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        kill(process.pid, Signal::SIGTERM).ok();
        let until = Instant::now() + STOP_WITHIN;
        while process.child.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() >= until {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("nats-server {} did not end by SIGTERM and was killed", process.pid),
                ));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Ends it by SIGKILL, as a crash does.
    pub fn kill9(&mut self) {
        self.process = None;
    }

    /// Starts it again, stopping it first if it runs: the same port, store and credentials.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        // A client that looks for the server can meet itself on its port, and so hold the port for a moment.
        let until = Instant::now() + READY_WITHIN;
        loop {
            match self.launch().await {
                Err(_) if is_taken(self.port) && Instant::now() < until => sleep(LOOK).await,
                launched => return launched,
            }
        }
    }

    async fn launch(&mut self) -> Result<()> {
        self.remove_stale();
        self.write_config()?;
        let (child, thread) = self.spawn().await?;
        // Killed by its drop if it does not come up; the pid is the wrapper's until the server says its own.
        let pid = Pid::from_raw(child.id() as i32);
        let mut process = Process { child, pid, _thread: thread };
        let until = Instant::now() + READY_WITHIN;
        loop {
            if let Ok(Some(status)) = process.child.try_wait() {
                return Err(self.failed(&format!("ended at once ({status})")));
            }
            if let Some(pid) = self.read_pid() {
                process.pid = pid;
                if let Some(port) = self.read_port(pid)
                    && accepts(port).await
                {
                    self.port = port;
                    self.process = Some(process);
                    return Ok(());
                }
            }
            if Instant::now() >= until {
                return Err(self.failed(&format!("did not accept connections within {} s", READY_WITHIN.as_secs())));
            }
            sleep(LOOK).await;
        }
    }

    /// Spawns from a thread that lives as long as the child may.
    async fn spawn(&self) -> Result<(Child, mpsc::Sender<()>)> {
        let mut command = if let Some([program, rest @ ..]) = self.config.wrapper.as_deref() {
            let mut command = Command::new(program);
            command.args(rest).stdin(Stdio::null());
            command
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", WATCHDOG, "nats-server"]).stdin(Stdio::piped());
            command
        };
        command.arg(&self.config.binary).arg("-c").arg(self.config_file());
        // Not in our process group: an interrupt at the terminal is ours, and we stop the server last.
        command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let (spawned, answer) = tokio::sync::oneshot::channel();
        let (alive, ended) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("nats-server".into()).spawn(move || {
            if spawned.send(command.spawn()).is_ok() {
                // Ends when the sender is dropped.
                ended.recv().ok();
            }
        });
        let failed = |error: std::io::Error| self.failed(&format!("cannot be started: {error}"));
        thread.map_err(failed)?;
        let child = answer.await.map_err(|_| self.failed("cannot be started"))?.map_err(failed)?;
        Ok((child, alive))
    }

    fn failed(&self, what: &str) -> Error {
        let binary = self.config.binary.display();
        Error::new(ErrorKind::Unreachable, format!("embedded nats-server ({binary}): {what}{}", self.log_tail()))
    }

    fn log_tail(&self) -> String {
        let Ok(text) = std::fs::read_to_string(self.log_file()) else { return String::new() };
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        if tail.is_empty() { tail } else { format!("; its log {} ends:\n{tail}", self.log_file().display()) }
    }

    fn pid_file(&self) -> PathBuf {
        self.config.store_dir.join("nats-server.pid")
    }

    fn remove_stale(&self) {
        std::fs::remove_file(self.pid_file()).ok();
        let files = std::fs::read_dir(&self.config.store_dir).into_iter().flatten().flatten();
        for path in files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "ports")) {
            std::fs::remove_file(path).ok();
        }
    }

    fn read_pid(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.pid_file()).ok()?;
        text.trim().parse().ok().map(Pid::from_raw)
    }

    /// The server writes where it listens; with port -1 the system chose.
    fn read_port(&self, pid: Pid) -> Option<u16> {
        let prefix = self.config.binary.file_name()?.to_string_lossy().into_owned();
        let text = std::fs::read_to_string(self.config.store_dir.join(format!("{prefix}_{pid}.ports"))).ok()?;
        let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
        ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
    }

    fn write_config(&self) -> Result<()> {
        let path = self.config_file();
        let failed = |error: std::io::Error| {
            Error::new(ErrorKind::Storage, format!("{}: {error}", path.display())).because(error)
        };
        std::fs::remove_file(&path).ok();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        file.write_all(self.config_text().as_bytes()).map_err(failed)
    }

    fn config_text(&self) -> String {
        let folder = &self.config.store_dir;
        // The server chooses a port at -1.
        let port = if self.port == 0 { -1 } else { i32::from(self.port) };
        let sync = if self.config.sync_always { "\n  sync_interval: always" } else { "" };
        format!(
            "# Written at each start; edits are lost.\n\
             listen: \"127.0.0.1:{port}\"\n\
             server_name: within\n\
             max_payload: {max_payload}\n\
             pid_file: {pid_file}\n\
             ports_file_dir: {folder}\n\
             log_file: {log_file}\n\
             logfile_size_limit: 16MB\n\
             logfile_max_num: 2\n\
             jetstream {{\n  store_dir: {folder}\n  max_memory_store: 256MB\n  max_file_store: 1TB{sync}\n}}\n\
             authorization {{\n  users = [\n    {{ user: {user}, password: {password} }}\n  ]\n}}\n",
            max_payload = self.config.max_payload,
            pid_file = quoted(&self.pid_file()),
            folder = quoted(folder),
            log_file = quoted(&self.log_file()),
            user = quoted(Path::new(&self.user)),
            password = quoted(Path::new(&self.password)),
        )
    }
}

/// A string of the server's configuration language.
fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
}

/// Two servers on one store would destroy it.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let failed =
        |error: std::io::Error| Error::new(ErrorKind::Storage, format!("{}: {error}", path.display())).because(error);
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Storage,
            format!("NATS store {}: another process uses it; stop that, or give another home folder", folder.display()),
        )),
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// A killed owner's lock is free a moment before its server is dead; two servers on one store would
/// destroy it.
async fn predecessor_ended(folder: &Path) -> Result<()> {
    let config = folder.join("nats-server.conf");
    let Ok(pid) = std::fs::read_to_string(folder.join("nats-server.pid")) else { return Ok(()) };
    let command_line = format!("/proc/{}/cmdline", pid.trim());
    let runs = || {
        let arguments = std::fs::read(&command_line).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == config.as_os_str().as_encoded_bytes())
    };
    let until = Instant::now() + STOP_WITHIN;
    while runs() {
        if Instant::now() >= until {
            return Err(Error::new(
                ErrorKind::Storage,
                format!("NATS store {}: nats-server {} still uses it; stop that", folder.display(), pid.trim()),
            ));
        }
        sleep(LOOK).await;
    }
    Ok(())
}

fn random_hex(bytes: usize) -> Result<String> {
    let mut random = vec![0u8; bytes];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .map_err(|error| Error::new(ErrorKind::Other, format!("/dev/urandom: {error}")).because(error))?;
    Ok(random
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect())
}

/// Whether somebody holds the port.
fn is_taken(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_err()
}

/// Whether a server greets there.
async fn accepts(port: u16) -> bool {
    let greeting = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut start = [0u8; 5];
        stream.read_exact(&mut start).await.ok()?;
        Some(&start == b"INFO ")
    };
    timeout(Duration::from_secs(1), greeting).await.ok().flatten().unwrap_or(false)
}

/// Asks the binary for its version.
async fn check_binary(binary: &Path) -> Result<()> {
    let shown = binary.display();
    let run = tokio::process::Command::new(binary).arg("-v").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match timeout(Duration::from_secs(20), run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => {
            return Err(Error::new(ErrorKind::NotFound, format!("nats-server {shown}: {error}; {UPGRADE}"))
                .coded(messages::error::Code::BusUnavailable)
                .because(error));
        }
        Err(_) => return Err(Error::new(ErrorKind::Timeout, format!("nats-server {shown}: no answer to -v"))),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().rsplit(' ').next().unwrap_or_default();
    if parse_version(version).is_some_and(|found| found >= MIN_SERVER) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ServerTooOld,
        format!("nats-server {shown} says {:?}; expected version 2.12 or newer: {UPGRADE}", text.trim()),
    ))
}
