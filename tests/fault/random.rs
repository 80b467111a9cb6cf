//! Random faults on a running platform: processes are killed, stopped and drained, the server is killed
//! and started again, submissions are repeated. Every job must end once, with the bits of an undisturbed
//! run, and stand in the tracker once.
//!
//! `make fault SEED=n FAULTS=n`; the counts go to `WITHIN_FAULT_REPORT` as one line of JSON.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;

use super::{
    ALL, EPOCHS, Moment, Random, TIMINGS, blake3_of, ends_in_time, pass, runs, setting, terminal_events, undisturbed,
    write_job,
};
use crate::harness::{Running, Sandbox, Server, children, wait_for};

/// Faults of `make test`.
const FAULTS: u64 = 20;
const NODES: usize = 3;

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

struct Cluster {
    // Dropped in this order: nodes first, then their server.
    nodes: Vec<Running>,
    sandbox: Sandbox,
    server: Server,
    random: Random,
    booted: u32,
}

impl Cluster {
    fn start(seed: u64) -> Self {
        let server = Server::start();
        let sandbox = Sandbox::at(&server, "default");
        sandbox.share_store(TIMINGS);
        write_job(&sandbox, EPOCHS);
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
        self.nodes.push(self.sandbox.start(&["worker", "--json", "--name", &name, "--roles", ALL]));
    }

    fn submit(&self, id: &str) -> Running {
        self.sandbox.start(&["submit", "job.yaml", "--watch", "--json", "--id", id])
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
                    super::signal(rank, signal);
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
}

#[test]
fn random_faults_lose_nothing_and_change_no_bit() {
    let whole = Instant::now();
    let (seed, faults) = (setting("WITHIN_SEED", 1), setting("WITHIN_FAULTS", FAULTS));
    let mut cluster = Cluster::start(seed);
    cluster.submit("undisturbed").wait().expect(0);

    let mut hung = Vec::new();
    for number in 0..faults {
        // Each kind comes before any comes again.
        let fault = KINDS[((number + seed) % KINDS.len() as u64) as usize];
        let id = format!("job{number}");
        let mut job = cluster.submit(&id);
        let moment = Moment::any(&mut cluster.random, 25);
        moment.reach(&mut job);
        let begun = Instant::now();
        cluster.inject(fault, &id);
        if !ends_in_time(&job) {
            hung.push(id.clone());
        }
        println!("{id}: {fault:?} at {moment:?}, ended {:.1} s later", begun.elapsed().as_secs_f64());
    }

    let weights = undisturbed(EPOCHS);
    let terminal = terminal_events(&cluster.server);
    let jobs = faults + 1;
    let lost = jobs - terminal.len().min(jobs as usize) as u64;
    let twice: Vec<_> = terminal.iter().filter(|(_, events)| events.len() != 1).collect();
    let differing: Vec<_> = terminal
        .iter()
        .filter(|(_, events)| events.iter().any(|event| blake3_of(event) != Some(weights.as_str())))
        .collect();
    let counts = json!({
        "seed": seed, "faults": faults, "jobs": jobs, "lost": lost, "twice": twice.len(), "hung": hung.len(),
        "hash_mismatch": differing.len(), "seconds": whole.elapsed().as_secs(),
    });
    println!("{counts}");
    if let Some(path) = std::env::var_os("WITHIN_FAULT_REPORT") {
        std::fs::write(path, format!("{counts}\n")).expect("writes the counts");
    }
    assert!(hung.is_empty() && lost == 0, "seed {seed}: {counts}, hung {hung:?}");
    assert!(twice.is_empty(), "seed {seed}: {twice:#?}");
    assert!(differing.is_empty(), "seed {seed}: {differing:#?}");
    wait_for("every run in the tracker, finished, once", Duration::from_secs(60), || {
        let runs = runs(&cluster.sandbox.home().join("tracker.db").display().to_string());
        let distinct: BTreeSet<_> = runs.iter().filter(|(_, status)| status == "FINISHED").collect();
        (runs.len() as u64 == jobs && distinct.len() as u64 == jobs).then_some(())
    });
}
