//! Random faults on a running platform: processes are killed, stopped and drained, the server is killed
//! and started again, submissions are repeated. Every job must end once, with the bits of an undisturbed
//! run, and stand in the tracker once.
//!
//! `make fault SEED=n FAULTS=n`; the counts go to `WITHIN_FAULT_REPORT` as one line of JSON.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bus::From;
use messages::event::Event;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::harness::{PATIENCE, Running, Sandbox, Server, children, python_json, spec, table, wait_for};

/// Faults of `make test`.
const FAULTS: u64 = 20;
/// Short deadlines, so that what was lost is missed soon.
const TIMINGS: &str = "timings: {ack_wait_ms: 3000, heartbeat_ms: 300, worker_lost_ms: 2500, lease_ttl_ms: 3000, \
    request_timeout_ms: 2000, reserve_timeout_ms: 2000, join_timeout_ms: 5000, step_timeout_ms: 3000, \
    feed_timeout_ms: 2000, retry_backoff_ms: 100, drain_grace_ms: 10000}\n";
/// A disturbed job has to end within this.
const JOB_DEADLINE: Duration = Duration::from_secs(90);
const NODES: usize = 3;
const ROLES: &str = "coordinator,data_loader,trainer,evaluator,tracker,notifier";

#[derive(Debug, Clone, Copy)]
enum Fault {
    KillNode,
    PauseNode,
    DrainNode,
    KillRank,
    PauseRank,
    KillServer,
    Resubmit,
    ReplaceNode,
}

const KINDS: [Fault; 8] = [
    Fault::KillNode,
    Fault::PauseNode,
    Fault::DrainNode,
    Fault::KillRank,
    Fault::PauseRank,
    Fault::KillServer,
    Fault::Resubmit,
    Fault::ReplaceNode,
];

/// splitmix64: the whole run follows from the seed, but for the timing of the machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n.max(1)
    }
}

struct Cluster {
    // Dropped in this order: nodes first, then their server.
    nodes: Vec<Running>,
    sandbox: Sandbox,
    server: Server,
    random: Random,
    booted: u32,
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Lets time pass.
fn pass(duration: Duration) {
    let begun = Instant::now();
    wait_for("time passes", PATIENCE, || (begun.elapsed() >= duration).then_some(()));
}

impl Cluster {
    fn start(seed: u64) -> Self {
        let server = Server::start();
        let sandbox = Sandbox::at(&server, "default");
        sandbox.share_store(TIMINGS);
        sandbox.write("table.csv", table(2_000));
        sandbox.write("job.yaml", spec("table.csv", 30, "  checkpoint: {keep_best: 2}\nlimits: {max_attempts: 8}\n"));
        let mut cluster = Self { nodes: Vec::new(), sandbox, server, random: Random(seed), booted: 0 };
        for _ in 0..NODES {
            cluster.boot();
        }
        for node in &mut cluster.nodes {
            node.line("worker_ready", |line| line["event"] == "worker_ready");
        }
        cluster
    }

    /// Another node, with every role; all nodes of this host share home, store and tracker.
    fn boot(&mut self) {
        self.booted += 1;
        let name = format!("n{}", self.booted);
        self.nodes.push(self.sandbox.start(&["worker", "--json", "--name", &name, "--roles", ROLES]));
    }

    fn submit(&self, id: &str) -> Running {
        self.sandbox.start(&["submit", "job.yaml", "--watch", "--json", "--id", id])
    }

    /// Waits until the job is at some random point of its life.
    fn reach_a_moment(&mut self, job: &mut Running) -> String {
        match self.random.below(6) {
            0 => {
                job.line("accepted", |line| line["event"] == "accepted");
                "accepted".into()
            }
            1 => {
                job.line("train", |line| line["event"] == "task_started" && line["task"] == "train");
                "train started".into()
            }
            _ => {
                let count = 1 + self.random.below(25) as usize;
                job.lines("checkpoints", count, |line| line["event"] == "checkpoint");
                format!("checkpoint {count}")
            }
        }
    }

    fn any_node(&mut self) -> usize {
        self.random.below(self.nodes.len() as u64) as usize
    }

    fn ranks(&self) -> Vec<u32> {
        self.nodes.iter().flat_map(|node| children(node.pid(), " rank")).map(|seen| seen.pid).collect()
    }

    fn inject(&mut self, fault: Fault, job: &str) {
        match fault {
            Fault::KillNode => {
                let victim = self.any_node();
                self.nodes.remove(victim).signal(Signal::SIGKILL);
                self.boot();
            }
            Fault::PauseNode => {
                let (victim, pause) = (self.any_node(), 500 + self.random.below(5_000));
                self.nodes[victim].signal(Signal::SIGSTOP);
                pass(Duration::from_millis(pause));
                self.nodes[victim].signal(Signal::SIGCONT);
            }
            Fault::DrainNode => {
                let victim = self.any_node();
                let node = self.nodes.remove(victim);
                self.boot();
                node.signal(Signal::SIGTERM);
                node.wait().expect(0);
            }
            Fault::KillRank | Fault::PauseRank => {
                let signal = if matches!(fault, Fault::KillRank) { Signal::SIGKILL } else { Signal::SIGSTOP };
                for rank in self.ranks() {
                    // It may have ended meanwhile.
                    kill(Pid::from_raw(rank as i32), signal).ok();
                }
            }
            Fault::KillServer => {
                self.server.kill9();
                pass(Duration::from_millis(self.random.below(2_000)));
                self.server.restart();
            }
            Fault::Resubmit => {
                let ended = self.sandbox.within(&["submit", "job.yaml", "--json", "--id", job]).expect(0);
                assert_eq!(ended.last()["job"], job);
            }
            Fault::ReplaceNode => {
                self.boot();
                let victim = self.any_node();
                self.nodes.remove(victim).signal(Signal::SIGKILL);
            }
        }
    }

    /// The terminal events of every job, as they are stored.
    fn terminal_events(&self) -> BTreeMap<String, Vec<Event>> {
        let bus = self.server.connect("default");
        self.server.block_on(async {
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

    /// Runs of the tracker with their status and number of rows.
    fn runs(&self) -> Value {
        const READ: &str = "import json, sqlite3, sys\n\
            rows = sqlite3.connect(sys.argv[1]).execute('select run_id, status, count(*) from runs group by run_id, status')\n\
            print(json.dumps([list(row) for row in rows]))";
        python_json(READ, &[&self.sandbox.home().join("tracker.db").display().to_string()])
    }
}

fn blake3(event: &Event) -> Option<String> {
    match event {
        Event::Completed(done) => done.model.as_ref().map(|model| model.blake3.clone()),
        _ => None,
    }
}

/// Waits for the end of the process that watches a job; false when it does not come in time.
fn ends_in_time(job: &Running) -> bool {
    let begun = Instant::now();
    wait_for("the job's end, or its deadline", JOB_DEADLINE + PATIENCE, || {
        (job.has_ended() || begun.elapsed() > JOB_DEADLINE).then(|| job.has_ended())
    })
}

#[test]
fn random_faults_lose_nothing_and_change_no_bit() {
    let (seed, faults) = (number("WITHIN_SEED", 1), number("WITHIN_FAULTS", FAULTS));
    let mut cluster = Cluster::start(seed);
    let undisturbed = cluster.submit("undisturbed").wait().expect(0).last();
    let expected = undisturbed["model"]["blake3"].as_str().expect("a hash").to_owned();

    let mut hung = Vec::new();
    for number in 0..faults {
        // Each kind comes before any comes again.
        let fault = KINDS[((number + seed) % KINDS.len() as u64) as usize];
        let id = format!("job{number}");
        let mut job = cluster.submit(&id);
        let moment = cluster.reach_a_moment(&mut job);
        let begun = Instant::now();
        cluster.inject(fault, &id);
        if !ends_in_time(&job) {
            hung.push(id.clone());
        }
        println!("{id}: {fault:?} at {moment}, ended {:.1} s later", begun.elapsed().as_secs_f64());
    }

    let terminal = cluster.terminal_events();
    let jobs = faults + 1;
    let lost = jobs - terminal.len().min(jobs as usize) as u64;
    let twice: Vec<_> = terminal.iter().filter(|(_, events)| events.len() != 1).collect();
    let differing: Vec<_> = terminal
        .iter()
        .filter(|(_, events)| events.iter().any(|event| blake3(event).as_ref() != Some(&expected)))
        .collect();
    let counts = json!({
        "seed": seed, "faults": faults, "jobs": jobs, "lost": lost, "twice": twice.len(), "hung": hung.len(),
        "hash_mismatch": differing.len(),
    });
    println!("{counts}");
    if let Some(path) = std::env::var_os("WITHIN_FAULT_REPORT") {
        std::fs::write(path, format!("{counts}\n")).expect("writes the counts");
    }
    assert!(hung.is_empty() && lost == 0, "seed {seed}: {counts}, hung {hung:?}");
    assert!(twice.is_empty(), "seed {seed}: {twice:#?}");
    assert!(differing.is_empty(), "seed {seed}: {differing:#?}");
    wait_for("every run in the tracker, finished, once", Duration::from_secs(60), || {
        let runs = cluster.runs();
        let rows = runs.as_array().expect("rows");
        let finished = rows.iter().filter(|row| row[1] == "FINISHED" && row[2] == 1).count();
        (rows.len() as u64 == jobs && finished as u64 == jobs).then_some(())
    });
}
