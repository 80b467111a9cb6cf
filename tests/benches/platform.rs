//! What the whole platform does on this machine, with the shipped binary and a real `nats-server`: a tiny job
//! from submission to `completed`, tiny jobs at once, an idle worker's memory, a cold start, the size of the
//! binary. Each figure that the server's disk touches is taken twice: with its default flush and with
//! `sync_interval: always`. Prints a JSON object a line and writes them to `platform.json` in
//! `WITHIN_BENCH_DIR`. No peer does the same work; what is held against the figures are those of the issue.

#[path = "../it/harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the black-box tests use the rest")]
mod harness;

use std::collections::HashSet;
use std::time::Instant;

use bus::{Bus, From};
use harness::{PATIENCE, Sandbox, Server, Worker, children, spec, table, within_bin};
use messages::rpc::{SpecDocument, SpecFormat, Submit};
use messages::{Envelope, JobId};
use serde_json::{Value, json};

/// Jobs one after the other.
const ALONE: usize = 40;
/// Jobs that are submitted at once.
const TOGETHER: usize = 400;

fn row(rows: &mut Vec<Value>, name: &str, figure: f64, unit: &str, goal: f64) {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load1: Option<f64> = load.split(' ').next().and_then(|text| text.parse().ok());
    let row = json!({
        "name": name, "figure": figure, "unit": unit, "goal": goal, "peer": null, "peer_figure": null, "ratio": null,
        "load1": load1,
    });
    println!("{row}");
    rows.push(row);
}

fn submission(text: &str) -> Submit {
    let spec = SpecDocument::Text { text: text.into(), format: SpecFormat::Yaml, file: None, bases: Vec::new() };
    Submit { spec, set: Vec::new() }
}

async fn submit(bus: &Bus, id: &str, text: &str) {
    let envelope = Envelope::new(id, "/bench", bus::now_ms(), submission(text));
    bus.submit(&envelope).await.expect("submitted");
}

/// Milliseconds from submission to `completed` of jobs that come one after the other, sorted.
async fn alone(bus: &Bus, text: &str) -> Vec<f64> {
    let mut times = Vec::with_capacity(ALONE);
    for number in 0..ALONE + 3 {
        let id = format!("alone{number}");
        let job = JobId::new(&id).expect("invariant: a token");
        let mut events = bus.events(Some(&job), From::First).await.expect("events");
        let begun = Instant::now();
        submit(bus, &id, text).await;
        loop {
            let stored = events.next(PATIENCE).await.expect("events").expect("the job goes on");
            if stored.envelope.data.is_terminal() {
                assert_eq!(stored.envelope.data.name(), "completed", "{id}");
                break;
            }
        }
        // The first few find cold caches.
        if number >= 3 {
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    times
}

/// Jobs a second, from the first submission to the last `completed`.
async fn together(bus: &Bus, text: &str) -> f64 {
    let mut events = bus.events(None, From::New).await.expect("events");
    let mut open: HashSet<String> = (0..TOGETHER).map(|number| format!("together{number}")).collect();
    let begun = Instant::now();
    let ids: Vec<String> = open.iter().cloned().collect();
    futures::future::join_all(ids.iter().map(|id| submit(bus, id, text))).await;
    while !open.is_empty() {
        let stored = events.next(PATIENCE).await.expect("events").expect("the jobs go on");
        if stored.envelope.data.is_terminal() {
            assert_eq!(stored.envelope.data.name(), "completed");
            open.remove(stored.envelope.jobid.expect("a job").as_str());
        }
    }
    TOGETHER as f64 / begun.elapsed().as_secs_f64()
}

/// Resident memory of a process, in MiB.
fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("reads");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number");
    kib / 1024.0
}

fn worker(sandbox: &Sandbox, slots: &str) -> Worker {
    sandbox.worker("bench", "coordinator,data_loader,trainer,evaluator,tracker,notifier", &["--slots", slots])
}

fn jobs(rows: &mut Vec<Value>, sync_always: bool) {
    let with = if sync_always { ", sync_interval: always" } else { "" };
    let server = Server::start_with(sync_always);
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    sandbox.write("table.csv", table(40));
    let text = spec("table.csv", 1, "");
    let worker = worker(&sandbox, "4");
    if !sync_always {
        row(rows, "idle worker with every role, resident", resident(worker.running.pid()), "MiB", 40.0);
    }
    let bus = server.connect("default");
    server.block_on(async {
        let times = alone(&bus, &text).await;
        row(rows, &format!("tiny job, submit to completed, p50{with}"), times[ALONE / 2], "ms", 150.0);
        row(rows, &format!("tiny job, submit to completed, p90{with}"), times[ALONE * 9 / 10], "ms", 150.0);
        row(rows, &format!("tiny jobs at once{with}"), together(&bus, &text).await, "jobs/s", 100.0);
        bus.close().await;
    });
}

/// Milliseconds of processor time of a process, and of its rank processes.
fn cpu(pid: u32) -> [f64; 2] {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("reads");
    let fields: Vec<f64> = stat
        .rsplit_once(')')
        .expect("a name")
        .1
        .split_whitespace()
        .map(|text| text.parse().unwrap_or_default())
        .collect();
    // utime, stime, cutime, cstime in ticks of 10 ms; the latter of children that have ended.
    let living: f64 = children(pid, " rank").iter().map(|rank| cpu(rank.pid)[0]).sum();
    [10.0 * (fields[11] + fields[12]), 10.0 * (fields[13] + fields[14]) + living]
}

/// Where the time of tiny jobs goes: each role in a process of its own.
fn by_role(rows: &mut Vec<Value>) {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    sandbox.write("table.csv", table(40));
    let text = spec("table.csv", 1, "");
    let roles = ["coordinator", "data_loader", "trainer", "evaluator", "tracker", "notifier"];
    let workers = roles.map(|role| sandbox.worker(role, role, &["--slots", "4"]));
    let pids = workers.each_ref().map(|worker| worker.running.pid());
    let bus = server.connect("default");
    let before = pids.map(cpu);
    let nats = cpu(server.pid());
    server.block_on(async {
        together(&bus, &text).await;
        bus.close().await;
    });
    let jobs = TOGETHER as f64;
    for ((role, pid), [own, ranks]) in roles.iter().zip(pids).zip(before) {
        let [own_now, ranks_now] = cpu(pid);
        row(rows, &format!("processor time of a tiny job, {role}"), (own_now - own) / jobs, "ms", f64::NAN);
        if *role == "trainer" {
            row(rows, "processor time of a tiny job, ranks", (ranks_now - ranks) / jobs, "ms", f64::NAN);
        }
    }
    row(rows, "processor time of a tiny job, nats-server", (cpu(server.pid())[0] - nats[0]) / jobs, "ms", f64::NAN);
}

/// Seconds from the start of `within run` to the first training step.
fn cold_start() -> f64 {
    let sandbox = Sandbox::new();
    sandbox.write("table.csv", table(2_000));
    sandbox.write("job.yaml", spec("table.csv", 2, ""));
    let begun = Instant::now();
    let mut run = sandbox.start(&["run", "job.yaml", "--json"]);
    run.line("a step", |line| line["event"] == "progress" || line["event"] == "metric");
    let first = begun.elapsed().as_secs_f64();
    let ended = run.wait().expect(0);
    assert_eq!(ended.last()["event"], "completed");
    first
}

fn main() {
    let mut rows = Vec::new();
    let size = std::fs::metadata(within_bin()).expect("the binary").len() as f64 / (1 << 20) as f64;
    row(&mut rows, "binary", size, "MiB", 40.0);
    let mut starts: Vec<f64> = (0..5).map(|_| cold_start()).collect();
    starts.sort_by(f64::total_cmp);
    row(&mut rows, "within run, cold start to first step, median of 5", starts[2], "s", 2.0);
    for sync_always in [false, true] {
        jobs(&mut rows, sync_always);
    }
    by_role(&mut rows);
    if let Some(folder) = std::env::var_os("WITHIN_BENCH_DIR") {
        let text = serde_json::to_vec_pretty(&rows).expect("invariant: figures serialize");
        std::fs::write(std::path::PathBuf::from(folder).join("platform.json"), text).expect("writes");
    }
}
