//! A folder of its own for each test, with the program in it: the home of the platform, the working
//! folder with specs and data.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::process::{Ended, Running};
use super::{Server, nats_server, within_bin};

/// The folder; removed when the test ends.
pub struct Sandbox {
    folder: TempDir,
    /// Options of every command, such as `--nats URL`.
    options: Vec<String>,
}

impl Sandbox {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("within-test-").tempdir().expect("a temporary folder");
        let this = Self { folder, options: Vec::new() };
        std::fs::create_dir(this.path("")).expect("creates");
        this
    }

    /// Everything goes to this server, as this tenant.
    pub fn at(server: &Server, tenant: &str) -> Self {
        let mut this = Self::new();
        let credentials = this.write("user.creds", server.credentials_line());
        this.options = ["--nats", &server.url(), "--creds", &credentials.display().to_string(), "--tenant", tenant]
            .map(str::to_owned)
            .to_vec();
        this
    }

    /// The home of the platform.
    pub fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A path in the working folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("work").join(name)
    }

    /// A path beside the working folder, outside of what jobs may read.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of the working folder.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("writes");
        path
    }

    /// The program with these arguments, not yet started. Nothing of the caller's settings is seen.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(within_bin());
        let settings = std::env::vars_os().map(|(name, _)| name);
        for name in settings.filter(|name| name.to_string_lossy().starts_with("WITHIN_")) {
            command.env_remove(name);
        }
        command
            .env("WITHIN_NATS_SERVER", nats_server())
            .env("WITHIN_HOME", self.home())
            .current_dir(self.path(""))
            .args(arguments);
        // What is given here goes before what holds for every command.
        for option in self.options.chunks(2).filter(|option| !arguments.contains(&option[0].as_str())) {
            command.args(option);
        }
        command
    }

    /// Starts the program.
    pub fn start(&self, arguments: &[&str]) -> Running {
        Running::start(self.command(arguments))
    }

    /// Runs the program to its end.
    pub fn within(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).wait()
    }

    /// Starts a worker and waits until all its roles are up. `name` is also the name of its home, so that
    /// workers share nothing but the artifact store (see [`Sandbox::share_store`]).
    pub fn worker(&self, name: &str, roles: &str, more: &[&str]) -> Worker {
        self.launch(name, roles, more).ready()
    }

    /// The same, not yet waited for (see [`Worker::ready`]).
    pub fn launch(&self, name: &str, roles: &str, more: &[&str]) -> Worker {
        let home = self.outside(name);
        let mut command = self.command(&[&["worker", "--json", "--name", name, "--roles", roles], more].concat());
        command.arg("--home").arg(&home);
        Worker { running: Running::start(command), started: Value::Null, name: name.to_owned() }
    }

    /// Writes a `within.yaml` by which every process of this folder uses one artifact store.
    pub fn share_store(&self, more: &str) {
        let store = self.outside("store");
        self.write("within.yaml", format!("artifacts: {}\ndata_roots: ['.']\n{more}", store.display()));
    }
}

/// Files of an artifact store, relative to it; specs and plans, which every accepted job has, aside.
pub fn artifacts(store: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let relative = path.strip_prefix(store).expect("invariant: below the store").display().to_string();
            if !relative.starts_with("specs/") && !relative.starts_with("plans/") {
                found.push(relative);
            }
        }
    }
    found.sort();
    found
}

/// A worker process that is up.
pub struct Worker {
    pub running: Running,
    /// Its first line, once it is ready.
    pub started: Value,
    pub name: String,
}

impl Worker {
    /// Waits until all its roles are up.
    pub fn ready(mut self) -> Self {
        self.started = self.running.line("worker_started", |line| line["event"] == "worker_started");
        self.running.line("worker_ready", |line| line["event"] == "worker_ready");
        self
    }

    /// Where /metrics, /healthz and /readyz are.
    pub fn http(&self) -> &str {
        super::text(&self.started, "/http")
    }
}
