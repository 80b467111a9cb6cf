//! Faults, each with an asserted outcome: every accepted job ends, its terminal event is stored once, it stands in
//! the tracker once, and the weights are those of an undisturbed run, to the last bit.
//!
//! Here is what the faults share: worker processes against a server of their own, a job that is long enough to be
//! disturbed, seeded moments in its life, and the outcome.

mod ahead;
mod cache;
mod cancel;
mod capacity;
mod checkpoint;
mod deliveries;
mod disk;
mod drain;
mod leaders;
mod random;
mod roles;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bus::{Bus, From};
use messages::event::Event;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{
    Ended, PATIENCE, Running, Sandbox, Server, Worker, children, python_json, spec, table, text, wait_for,
};

/// Short deadlines, so that what was lost is missed soon.
pub const TIMINGS: &str = "timings: {ack_wait_ms: 3000, heartbeat_ms: 300, worker_lost_ms: 2500, lease_ttl_ms: 3000, \
    request_timeout_ms: 2000, reserve_timeout_ms: 2000, join_timeout_ms: 5000, step_timeout_ms: 3000, \
    feed_timeout_ms: 2000, retry_backoff_ms: 100, drain_grace_ms: 10000}\n";
/// Longer than the lease and than a worker may be silent, by [`TIMINGS`].
pub const LONG_PAUSE: Duration = Duration::from_millis(3_500);
/// A disturbed job has to end within this.
pub const JOB_DEADLINE: Duration = Duration::from_secs(90);
/// Epochs of the job, and so checkpoints: of one that is over soon, and of one that lasts for some seconds.
pub const EPOCHS: u32 = 30;
pub const LONG: u32 = 200;
pub const ALL: &str = "coordinator,data_loader,trainer,evaluator,tracker,notifier";

/// splitmix64: what a test does follows from the seed, but for the timing of the machine.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }
}

/// A number from the environment.
pub fn setting(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Lets time pass.
pub fn pass(duration: Duration) {
    let begun = Instant::now();
    wait_for("time passes", PATIENCE, || (begun.elapsed() >= duration).then_some(()));
}

/// Signals a process that may have ended meanwhile.
pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).ok();
}

/// The table and the job that is disturbed.
fn write_job(sandbox: &Sandbox, epochs: u32) {
    sandbox.write("table.csv", table(2_000));
    let more = "  checkpoint: {keep_best: 2}\nlimits: {max_attempts: 8}\n";
    sandbox.write("job.yaml", spec("table.csv", epochs, more));
}

/// BLAKE3 of the weights of the job when nothing disturbs it.
pub fn undisturbed(epochs: u32) -> String {
    static HASHES: Mutex<BTreeMap<u32, String>> = Mutex::new(BTreeMap::new());
    let mut hashes = HASHES.lock().expect("not poisoned");
    let hash = hashes.entry(epochs).or_insert_with(|| {
        let sandbox = Sandbox::new();
        write_job(&sandbox, epochs);
        let ended = sandbox.within(&["run", "job.yaml", "--json", "--id", "undisturbed"]).expect(0);
        text(&ended.last(), "/model/blake3").to_owned()
    });
    hash.clone()
}

/// BLAKE3 of the weights that an event announces.
pub fn blake3_of(event: &Event) -> Option<&str> {
    match event {
        Event::Completed(done) => done.model.as_ref().map(|model| model.blake3.as_str()),
        _ => None,
    }
}

/// Whether the process that watches a job ends in time.
pub fn ends_in_time(job: &Running) -> bool {
    let begun = Instant::now();
    wait_for("the job's end, or its deadline", JOB_DEADLINE + PATIENCE, || {
        (job.has_ended() || begun.elapsed() > JOB_DEADLINE).then(|| job.has_ended())
    })
}

/// A moment in the life of a job.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    Accepted,
    TrainStarted,
    Checkpoint(usize),
}

impl Moment {
    /// Any, up to so many checkpoints.
    pub fn any(random: &mut Random, checkpoints: u64) -> Self {
        match random.below(6) {
            0 => Self::Accepted,
            1 => Self::TrainStarted,
            _ => Self::Checkpoint(1 + random.below(checkpoints) as usize),
        }
    }

    /// Waits until the job has come so far.
    pub fn reach(self, job: &mut Running) {
        match self {
            Self::Accepted => drop(job.line("accepted", |line| line["event"] == "accepted")),
            Self::TrainStarted => {
                job.line("train", |line| line["event"] == "task_started" && line["task"] == "train");
            }
            Self::Checkpoint(count) => drop(job.lines("checkpoints", count, |line| line["event"] == "checkpoint")),
        }
    }
}

/// Worker processes by name, against one server; they share the artifact store and the tracker's database.
pub struct Platform {
    // Dropped in this order: processes first, then what they use.
    pub workers: BTreeMap<String, Worker>,
    pub sandbox: Sandbox,
    pub server: Server,
    /// Of its job.
    epochs: u32,
}

impl Platform {
    /// Starts the workers: names and their roles. `job.yaml` has so many epochs.
    pub fn start(timings: &str, epochs: u32, workers: &[(&str, &str)]) -> Self {
        let server = Server::start();
        let sandbox = Sandbox::at(&server, "default");
        let database = sandbox.outside("tracker.db");
        sandbox.share_store(&format!("tracker_database: 'sqlite://{}'\n{timings}", database.display()));
        write_job(&sandbox, epochs);
        let mut platform = Self { workers: BTreeMap::new(), sandbox, server, epochs };
        platform.boot(workers);
        platform
    }

    /// Starts workers, all at once, and waits until they are ready.
    pub fn boot(&mut self, workers: &[(&str, &str)]) {
        let starting: Vec<_> = workers.iter().map(|(name, roles)| self.sandbox.launch(name, roles, &[])).collect();
        for worker in starting {
            let worker = worker.ready();
            self.workers.insert(worker.name.clone(), worker);
        }
    }

    /// The process of this name.
    pub fn worker(&self, name: &str) -> &Worker {
        self.workers.get(name).unwrap_or_else(|| panic!("no worker {name}"))
    }

    /// Takes the process out; dropped, it is killed.
    pub fn take(&mut self, name: &str) -> Worker {
        self.workers.remove(name).unwrap_or_else(|| panic!("no worker {name}"))
    }

    /// kill -9 and a new process of the same name, as a host that restarts its services does.
    pub fn kill_and_restart(&mut self, name: &str, roles: &str) {
        let worker = self.take(name);
        worker.running.signal(Signal::SIGKILL);
        drop(worker);
        self.boot(&[(name, roles)]);
    }

    /// SIGTERM to one; it must end with 0.
    pub fn drain(&mut self, name: &str) -> Duration {
        let begun = Instant::now();
        let worker = self.take(name);
        worker.running.signal(Signal::SIGTERM);
        let ended = worker.running.wait();
        assert_eq!(ended.code, Some(0), "{name}\n{}\n{}", ended.stdout, ended.stderr);
        begun.elapsed()
    }

    /// Submits the job and watches it.
    pub fn submit(&self, id: &str) -> Running {
        self.submit_spec("job.yaml", id, &[])
    }

    pub fn submit_spec(&self, file: &str, id: &str, set: &[&str]) -> Running {
        let mut arguments = vec!["submit", file, "--watch", "--json", "--id", id];
        arguments.extend(set.iter().flat_map(|pair| ["--set", *pair]));
        self.sandbox.start(&arguments)
    }

    pub fn bus(&self) -> Bus {
        self.server.connect("default")
    }

    /// Rank processes of all workers.
    pub fn ranks(&self) -> Vec<u32> {
        let workers = self.workers.values();
        workers.flat_map(|worker| children(worker.running.pid(), " rank")).map(|seen| seen.pid).collect()
    }

    /// The worker that has a rank process.
    pub fn trains(&self) -> Option<String> {
        let mut workers = self.workers.values();
        workers.find(|worker| !children(worker.running.pid(), " rank").is_empty()).map(|worker| worker.name.clone())
    }

    /// Who holds a lease.
    pub fn holder(&self, lease: &str) -> Option<String> {
        let bus = self.bus();
        self.server.block_on(async { bus.lease(lease, "test").await?.holder().await }).expect("the lease can be read")
    }

    /// Lines of a worker's log, over all its starts, that hold this.
    pub fn logged(&self, name: &str, part: &str) -> Vec<String> {
        let log = self.sandbox.outside(name).join("logs/training.log");
        let lines = std::fs::read_to_string(&log).unwrap_or_default();
        lines.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }

    /// The record of a job, as `jobs show` gives it; null before it is accepted.
    pub fn record(&self, job: &str) -> Value {
        let shown = self.sandbox.within(&["jobs", "show", job, "--json"]);
        let code = shown.code;
        assert!(matches!(code, Some(0 | 2)), "{shown:?}");
        if code == Some(0) { shown.last()["record"].take() } else { Value::Null }
    }

    /// A task of the record; null where there is none.
    pub fn task(&self, job: &str, task: &str) -> Value {
        let record = self.record(job);
        let mut tasks = record["tasks"].as_array().cloned().unwrap_or_default().into_iter();
        tasks.find(|found| found["id"] == task).unwrap_or_default()
    }

    /// Waits until a task is in one of these states.
    pub fn reaches(&self, job: &str, task: &str, states: &[&str]) {
        wait_for(&format!("{task} of {job} is {states:?}"), PATIENCE, || {
            let found = self.task(job, task);
            states.iter().any(|state| found["state"] == *state).then_some(())
        });
    }

    /// The watched job ended in time, and well; its lines.
    pub fn succeeded(&self, job: Running) -> Ended {
        assert!(ends_in_time(&job), "a job hangs");
        let ended = job.wait().expect(0);
        assert_eq!(text(&ended.last(), "/model/blake3"), undisturbed(self.epochs), "{}", ended.stdout);
        ended
    }

    /// The terminal events of every job, as they are stored.
    pub fn terminal_events(&self) -> BTreeMap<String, Vec<Event>> {
        terminal_events(&self.server)
    }

    /// These jobs, and no others, ended: once each, with the undisturbed weights, and stand in the tracker once.
    pub fn check(&self, jobs: &[&str]) {
        let (terminal, weights) = (self.terminal_events(), undisturbed(self.epochs));
        let mut expected = jobs.to_vec();
        expected.sort_unstable();
        assert_eq!(terminal.keys().map(String::as_str).collect::<Vec<_>>(), expected);
        for (job, events) in &terminal {
            let [event] = &events[..] else { panic!("{job} ended {} times: {events:#?}", events.len()) };
            assert_eq!(blake3_of(event), Some(weights.as_str()), "{job}: {event:#?}");
        }
        let rows = expected.iter().map(|job| ((*job).to_owned(), "FINISHED".to_owned())).collect::<Vec<_>>();
        self.tracked(&rows);
    }

    /// Waits until the tracker holds these runs with these states, each in one row, and no others.
    pub fn tracked(&self, rows: &[(String, String)]) {
        let database = self.sandbox.outside("tracker.db");
        let mut seen = Vec::new();
        let patience = Duration::from_secs(60);
        let begun = Instant::now();
        wait_for("the runs in the tracker", patience * 2, || {
            seen = runs(&database.display().to_string());
            assert!(begun.elapsed() < patience, "expected {rows:?}, the tracker has {seen:?}");
            (seen == rows).then_some(())
        });
    }
}

/// Runs of a tracker's database: id and status of each row, by id.
pub fn runs(database: &str) -> Vec<(String, String)> {
    const READ: &str = "import json, sqlite3, sys\n\
        rows = sqlite3.connect(sys.argv[1]).execute('select run_id, status from runs order by run_id')\n\
        print(json.dumps([list(row) for row in rows]))";
    serde_json::from_value(python_json(READ, &[database])).expect("pairs")
}

/// The terminal events of every job, as they are stored.
pub fn terminal_events(server: &Server) -> BTreeMap<String, Vec<Event>> {
    let bus = server.connect("default");
    server.block_on(async {
        let mut found: BTreeMap<String, Vec<Event>> = BTreeMap::new();
        let mut events = bus.events(None, From::First).await.expect("events");
        while let Some(stored) = events.next(Duration::from_secs(2)).await.expect("events") {
            let job = stored.envelope.jobid.map(|job| job.to_string()).unwrap_or_default();
            if stored.envelope.data.is_terminal() {
                found.entry(job).or_default().push(stored.envelope.data);
            }
        }
        found
    })
}
