//! A system downstream with a durable consumer, away while jobs complete: it gets each completion once, in
//! order, and can read them again by time.

use std::time::Duration;

use bus::From;
use messages::event::Event;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{PATIENCE, Sandbox, Server, Worker, spec, table, text};

const TYPES: [&str; 1] = ["completed"];
/// How long nothing more must come.
const QUIET: Duration = Duration::from_millis(500);

/// The jobs of the next events, acknowledged; none may be left.
fn read(server: &Server, bus: &bus::Bus, count: usize) -> Vec<(String, u64)> {
    server.block_on(async {
        let mut events = bus.durable_events("downstream", &TYPES).await.expect("a consumer");
        let mut seen = Vec::new();
        while seen.len() < count {
            let event = events.next(PATIENCE).await.expect("reads").expect("in time");
            assert!(matches!(event.envelope.data, Event::Completed(_)));
            event.ack().await.expect("sent");
            seen.push((event.envelope.jobid.as_ref().expect("a job").to_string(), event.stored_at));
        }
        assert!(events.next(QUIET).await.expect("reads").is_none(), "nothing comes twice");
        seen
    })
}

fn complete(sandbox: &Sandbox, job: &str) -> Value {
    sandbox.within(&["submit", "job.yaml", "--watch", "--json", "--id", job]).expect(0).last()
}

fn restart(sandbox: &Sandbox, worker: Worker) -> Worker {
    worker.running.signal(Signal::SIGTERM);
    worker.running.wait().expect(0);
    sandbox.worker("again", "all", &[])
}

#[test]
fn completions_of_real_jobs_reach_a_subscriber_that_was_away() {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    sandbox.write("table.csv", table(100));
    sandbox.write("job.yaml", spec("table.csv", 1, ""));
    let worker = sandbox.worker("alone", "all", &[]);
    let bus = server.connect("default");
    assert!(read(&server, &bus, 0).is_empty());

    let jobs = ["first", "second", "third", "fourth"];
    for job in &jobs[..2] {
        complete(&sandbox, job);
    }
    // The platform too is away for a while, and what it completed before is not told again.
    let _worker = restart(&sandbox, worker);
    for job in &jobs[2..] {
        let last = complete(&sandbox, job);
        assert_eq!(text(&last, "/job"), *job);
    }
    // Submitted again: the job is done, and its completion is not a new one.
    sandbox.within(&["submit", "job.yaml", "--json", "--id", "second"]).expect(0);

    let seen = read(&server, &bus, jobs.len());
    assert!(seen.iter().map(|(job, _)| job).eq(jobs.iter()), "{seen:?}");
    let since = seen[2].1;
    let replayed = server.block_on(async {
        let mut events = bus.events(None, From::Time(since)).await.expect("reads");
        let mut replayed = Vec::new();
        while replayed.is_empty() || !events.caught_up() {
            let event = events.next(PATIENCE).await.expect("reads").expect("in time");
            if matches!(event.envelope.data, Event::Completed(_)) {
                replayed.push(event.envelope.jobid.as_ref().expect("a job").to_string());
            }
        }
        replayed
    });
    assert_eq!(replayed, jobs[2..]);
}
