//! Roles in processes of their own against one server: the way of a job over NATS, cancellation, tenants,
//! the end of a worker.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use messages::JobId;
use messages::rpc::GetRun;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{Sandbox, Server, Worker, artifacts, children, gone, http_get, number, spec, table, text};

/// Cancelling is done within this time, whatever the job does.
const CANCEL_WITHIN: Duration = Duration::from_secs(2);

/// A job that goes on until it is stopped.
fn endless(sandbox: &Sandbox) {
    sandbox.write("table.csv", table(2_000));
    sandbox.write("endless.yaml", spec("table.csv", 1_000_000, "  checkpoint: {save_freq: 1000}\n"));
}

/// Sends SIGTERM to all at once; each must end with 0.
fn terminate(workers: Vec<Worker>) {
    for worker in &workers {
        worker.running.signal(Signal::SIGTERM);
    }
    for worker in workers {
        let name = worker.name.clone();
        let ended = worker.running.wait();
        assert_eq!(ended.code, Some(0), "{name}\n{}\n{}", ended.stdout, ended.stderr);
    }
}

#[test]
fn every_role_in_processes_of_its_own() {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    let mut workers = Vec::new();
    for role in ["coordinator", "data_loader", "trainer", "evaluator", "tracker", "notifier"] {
        for which in ["a", "b"] {
            workers.push(sandbox.worker(&format!("{role}-{which}"), role, &[]));
        }
    }
    sandbox.write("table.csv", table(400));
    let (webhook, notice) = receiver();
    let more = format!("notifications: {{webhooks: [{{url: '{webhook}'}}]}}\n");
    sandbox.write("job.yaml", spec("table.csv", 4, &more));
    let submit = ["submit", "job.yaml", "--watch", "--json", "--id", "one", "--set", "training.batch_size=16"];
    let ended = sandbox.within(&submit).expect(0);
    assert_eq!(ended.last()["event"], "completed", "{}", ended.stdout);
    for line in ended.events("task_started") {
        let (role, worker) = (text(&line, "/role"), text(&line, "/worker"));
        assert!(worker.starts_with(&format!("{role}-")), "{line}");
    }
    let posted = notice.join().expect("a notice was posted");
    assert!(posted.contains("one") && posted.contains("completed"), "{posted}");

    look_at_the_job(&sandbox, "one");
    one_trace(&server, "one");
    asked_of_the_tracker(&server, "one", &ended.last());
    for worker in &workers {
        watch_endpoints(worker);
    }
    terminate(workers);
}

/// A webhook's receiver: its URL, and the body of the first post.
fn receiver() -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    let body = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a post");
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).expect("a header");
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a body");
        write!(reader.get_mut(), "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n").expect("answers");
        String::from_utf8(body).expect("JSON is UTF-8")
    });
    (url, body)
}

/// `jobs list`, `show`, `events`, `logs`, for a program and for a person.
fn look_at_the_job(sandbox: &Sandbox, job: &str) {
    let listed = sandbox.within(&["jobs", "list", "--json"]).expect(0).json();
    assert!(listed.iter().any(|line| line["job"] == job && line["state"] == "succeeded"), "{listed:#?}");
    assert!(sandbox.within(&["jobs", "list"]).expect(0).stdout.contains(job));

    let shown = sandbox.within(&["jobs", "show", job, "--json"]).expect(0).last();
    assert_eq!(text(&shown, "/record/state"), "succeeded");
    assert_eq!(shown["record"]["tasks"].as_array().map(Vec::len), Some(4));
    let origin = |path: &str| shown["plan"]["origins"][path]["origin"].clone();
    assert_eq!(origin("training.batch_size"), "set", "{shown:#}");
    assert_eq!(origin("training.epochs"), "file");
    assert_eq!(origin("training.optimizer.beta1"), "default");
    assert_eq!(shown["plan"]["origins"]["training.epochs"]["line"], 12);
    let person = sandbox.within(&["jobs", "show", job]).expect(0).stdout;
    for part in ["state      succeeded", "training.batch_size", "--set", "job.yaml:12", "default"] {
        assert!(person.contains(part), "no {part:?} in\n{person}");
    }

    let events = sandbox.within(&["jobs", "events", job, "--json"]).expect(0);
    assert_eq!((events.events("accepted").len(), events.events("completed").len()), (1, 1));
    let sequences: Vec<_> = events.json().iter().map(|line| number(line, "/sequence")).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
    let followed = sandbox.within(&["jobs", "events", job, "--json", "--follow"]).expect(0);
    assert_eq!(followed.stdout, events.stdout);
    let logs = sandbox.within(&["jobs", "logs", job, "--json"]).expect(0).json();
    assert!(!logs.is_empty() && logs.iter().all(|line| line["message"].is_string()), "{logs:?}");

    let unknown = sandbox.within(&["jobs", "show", "nothing"]).expect(2);
    assert!(unknown.stderr.contains("nothing"), "{}", unknown.stderr);
    let cancelled = sandbox.within(&["jobs", "cancel", job, "--json"]).expect(0).last();
    assert_eq!(text(&cancelled, "/state"), "succeeded", "what has ended stays as it is");
}

/// Every event carries the trace of the job.
fn one_trace(server: &Server, job: &str) {
    let bus = server.connect("default");
    let events = server.events(&bus, job);
    let trace =
        |event: &Value| event["traceparent"].as_str().and_then(|text| text.split('-').nth(1)).map(str::to_owned);
    let mut traces: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
    for event in &events {
        traces.entry(trace(event)).or_default().push(text(event, "/type").to_owned());
    }
    assert_eq!(traces.len(), 1, "{traces:#?}");
    assert!(traces.keys().all(Option::is_some), "{traces:#?}");
    for event in &events {
        assert_eq!(
            (text(event, "/specversion"), text(event, "/jobid"), text(event, "/tenant")),
            ("1.0", job, "default")
        );
    }
}

/// The tracker's service has the run.
fn asked_of_the_tracker(server: &Server, job: &str, last: &Value) {
    let bus = server.connect("default");
    let run = JobId::new(job).expect("a job id");
    let answer =
        server.block_on(bus.request(GetRun { run, history: true }, None, crate::harness::PATIENCE)).expect("a run");
    assert_eq!(serde_json::to_value(answer.summary.status).expect("serializes"), "FINISHED");
    assert!(answer.params.contains_key("training.batch_size"));
    assert!(answer.history["val_loss"].len() >= 4, "one point an epoch: {:?}", answer.history);
    let model = answer.artifacts.iter().find(|artifact| artifact.kind == "model").expect("a model");
    assert_eq!(model.artifact.blake3, text(last, "/model/file_blake3"));
}

fn watch_endpoints(worker: &Worker) {
    assert_eq!(http_get(worker.http(), "/healthz"), (200, "ok\n".into()), "{}", worker.name);
    assert_eq!(http_get(worker.http(), "/readyz"), (200, "ready\n".into()), "{}", worker.name);
    let (status, metrics) = http_get(worker.http(), "/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("within_build_info{version=\"0.1."), "{}: {metrics}", worker.name);
    assert_eq!(http_get(worker.http(), "/other").0, 404);
}

/// Cancels; the time until the event is there.
fn cancel(server: &Server, sandbox: &Sandbox, job: &str) -> Duration {
    let bus = server.connect("default");
    let begun = Instant::now();
    let answer = sandbox.within(&["jobs", "cancel", job, "--reason", "no longer wanted", "--json"]).expect(0).last();
    assert!(["cancelled", "cancelling"].contains(&text(&answer, "/state")), "{answer}");
    let events = server.events(&bus, job);
    let took = begun.elapsed();
    let last = events.last().expect("events");
    assert_eq!((text(last, "/data/event"), text(last, "/data/reason")), ("cancelled", "no longer wanted"));
    took
}

#[test]
fn cancelled_while_waiting_and_while_training() {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    endless(&sandbox);
    let rest = sandbox.worker("rest", "coordinator,data_loader,evaluator,tracker,notifier", &[]);

    // Nobody trains yet.
    let mut waiting = sandbox.start(&["submit", "endless.yaml", "--watch", "--json", "--id", "waiting"]);
    waiting.line("prepared", |line| line["event"] == "task_done" && line["task"] == "prepare");
    let took = cancel(&server, &sandbox, "waiting");
    assert!(took < CANCEL_WITHIN, "a waiting job was cancelled after {took:?}");
    let ended = waiting.wait().expect(1).last();
    assert_eq!((text(&ended, "/event"), text(&ended, "/class")), ("cancelled", "cancelled"));

    let trainer = sandbox.worker("trainer", "trainer", &[]);
    let mut running = sandbox.start(&["submit", "endless.yaml", "--watch", "--json", "--id", "running"]);
    running.line("progress", |line| line["event"] == "progress");
    let ranks = children(trainer.running.pid(), " rank");
    assert!(!ranks.is_empty(), "training runs in a process of its own");
    let took = cancel(&server, &sandbox, "running");
    println!("a running job was cancelled within {took:?}");
    assert!(took < CANCEL_WITHIN, "a running job was cancelled after {took:?}");
    running.wait().expect(1);
    for rank in ranks {
        gone("the rank", rank.pid);
    }
    assert!(!artifacts(&sandbox.outside("store")).iter().any(|file| file.contains("models/")));

    // The slot is free again.
    sandbox.write("short.yaml", spec("table.csv", 2, ""));
    let ended = sandbox.within(&["submit", "short.yaml", "--watch", "--json"]).expect(0);
    assert_eq!(ended.last()["event"], "completed");
    terminate(vec![rest, trainer]);
}

#[test]
fn a_worker_that_ends_in_the_middle_gives_its_task_to_another() {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    sandbox.write("table.csv", table(2_000));
    sandbox.write("job.yaml", spec("table.csv", 40, ""));
    let rest = sandbox.worker("rest", "coordinator,data_loader,evaluator,tracker,notifier", &[]);
    let first = sandbox.worker("first", "trainer", &[]);
    let mut job = sandbox.start(&["submit", "job.yaml", "--watch", "--json", "--id", "moved"]);
    job.lines("checkpoints", 2, |line| line["event"] == "checkpoint");
    let second = sandbox.worker("second", "trainer", &[]);
    terminate(vec![first]);
    let ended = job.wait().expect(0);
    let trained: Vec<_> = ended
        .events("task_started")
        .iter()
        .filter(|line| line["task"] == "train")
        .map(|line| text(line, "/worker").to_owned())
        .collect();
    assert_eq!(trained, ["first", "second"], "{}", ended.stdout);
    let undisturbed = sandbox.within(&["submit", "job.yaml", "--watch", "--json", "--id", "still"]).expect(0).last();
    assert_eq!(ended.last()["model"]["blake3"], undisturbed["model"]["blake3"]);
    terminate(vec![rest, second]);
}

#[test]
fn two_tenants_side_by_side() {
    let server = Server::start();
    let tenants = ["acme", "umbrella"].map(|tenant| {
        let sandbox = Sandbox::at(&server, tenant);
        sandbox.share_store("");
        sandbox.write("table.csv", table(300));
        // The same id means another job with each tenant.
        let epochs = if tenant == "acme" { 2 } else { 3 };
        sandbox.write("job.yaml", spec("table.csv", epochs, ""));
        let worker = sandbox.worker(tenant, "all", &[]);
        (sandbox, worker)
    });
    let jobs = tenants
        .each_ref()
        .map(|(sandbox, _)| sandbox.start(&["submit", "job.yaml", "--watch", "--json", "--id", "same"]));
    let ended = jobs.map(|job| job.wait().expect(0));
    for ((ended, epochs), (sandbox, worker)) in ended.iter().zip([2, 3]).zip(&tenants) {
        let last = ended.events("progress").pop().expect("progress");
        assert_eq!(number(&last, "/epochs"), f64::from(epochs));
        let listed = sandbox.within(&["jobs", "list", "--json"]).expect(0).json();
        assert_eq!(listed.len(), 1, "{}: {listed:?}", worker.name);
        let workers: Vec<_> =
            ended.events("task_started").iter().map(|line| text(line, "/worker").to_owned()).collect();
        assert!(workers.iter().all(|name| *name == worker.name), "{workers:?}");
    }
    terminate(tenants.into_iter().map(|(_, worker)| worker).collect());
}
