//! Cancelled in every state: within two seconds, once, with nothing left behind.

use std::time::{Duration, Instant};

use messages::rpc::{Claim, ClaimAnswer};
use messages::{JobId, TaskId, WorkerId};
use nix::sys::signal::Signal;

use super::{EPOCHS, Platform, TIMINGS};
use crate::harness::{PATIENCE, Running, artifacts, children, gone, spec, text};

/// Cancelling is done within this time, whatever the job does.
const CANCEL_WITHIN: Duration = Duration::from_secs(2);
const ENDLESS: &str = "training.epochs=1000000";

/// Cancels, and waits for the stored event; the time that took is asserted.
fn cancel(platform: &Platform, job: Running, id: &str, state: &str) {
    let bus = platform.bus();
    let begun = Instant::now();
    let answer = platform.sandbox.within(&["jobs", "cancel", id, "--reason", state, "--json"]).expect(0).last();
    let events = platform.server.events(&bus, id);
    let took = begun.elapsed();
    println!("cancelled while {state}: {:.2} s", took.as_secs_f64());
    assert_eq!(text(&answer, "/state"), "cancelled", "{state}");
    let last = events.last().expect("events");
    assert_eq!((text(last, "/data/event"), text(last, "/data/reason")), ("cancelled", state));
    assert!(took < CANCEL_WITHIN, "while {state}: {took:?}");
    let ended = job.wait().expect(1).last();
    assert_eq!((text(&ended, "/event"), text(&ended, "/code")), ("cancelled", "cancelled"), "{state}");
    let record = platform.record(id);
    let open = record["tasks"].as_array().expect("tasks").iter().filter(|task| task["state"] != "done");
    assert_eq!(text(&record, "/state"), "cancelled");
    assert!(open.clone().count() > 0 && open.clone().all(|task| task["state"] == "cancelled"), "{record:#}");
}

/// Takes a task's lease and does nothing with it, as a worker that hangs.
fn hold(platform: &Platform, job: &str, task: &str) {
    let claim = Claim {
        job: JobId::new(job).expect("a job id"),
        task: TaskId::new(task).expect("a task id"),
        attempt: 1,
        worker: WorkerId::new("hangs").expect("a worker id"),
    };
    let bus = platform.bus();
    let answer = platform.server.block_on(bus.request(claim, None, PATIENCE)).expect("an answer");
    assert!(matches!(answer, ClaimAnswer::Granted { .. }), "{answer:?}");
}

#[test]
fn cancelled_in_every_state() {
    let mut platform = Platform::start(TIMINGS, EPOCHS, &[("lead", "coordinator")]);
    platform.sandbox.write("short.yaml", spec("table.csv", 2, ""));
    let mut job = platform.submit("queued");
    job.line("accepted", |line| line["event"] == "accepted");
    platform.reaches("queued", "prepare", &["queued"]);
    cancel(&platform, job, "queued", "no worker is up");

    // Its worker has the task and stands still.
    let job = platform.submit("preparing");
    platform.reaches("preparing", "prepare", &["queued"]);
    hold(&platform, "preparing", "prepare");
    cancel(&platform, job, "preparing", "preparing");

    platform.boot(&[("loader", "data_loader"), ("trainer", "trainer")]);
    let mut training = platform.submit_spec("job.yaml", "training", &[ENDLESS]);
    training.line("progress", |line| line["event"] == "progress");
    let job = platform.submit_spec("job.yaml", "waiting", &[ENDLESS]);
    platform.reaches("waiting", "train", &["queued"]);
    cancel(&platform, job, "waiting", "waiting for slots");
    let ranks = children(platform.worker("trainer").running.pid(), " rank");
    assert_eq!(ranks.len(), 1, "{ranks:?}");
    cancel(&platform, training, "training", "training");
    gone("the rank", ranks[0].pid);

    // A worker that stands still when it is to be told.
    let mut job = platform.submit_spec("job.yaml", "deaf", &[ENDLESS]);
    job.line("progress", |line| line["event"] == "progress");
    let rank = children(platform.worker("trainer").running.pid(), " rank")[0].pid;
    platform.worker("trainer").running.signal(Signal::SIGSTOP);
    cancel(&platform, job, "deaf", "training on a worker that stands still");
    platform.worker("trainer").running.signal(Signal::SIGCONT);
    gone("the rank of a worker that woke up", rank);
    assert!(!artifacts(&platform.sandbox.outside("store")).iter().any(|file| file.contains("models/")));

    for (id, task, state) in [("evaluating", "evaluate", "evaluating"), ("recording", "record", "recording")] {
        let job = platform.submit_spec("short.yaml", id, &[]);
        platform.reaches(id, task, &["queued"]);
        hold(&platform, id, task);
        platform.reaches(id, task, &["leased", "running"]);
        cancel(&platform, job, id, state);
        if task == "evaluate" {
            platform.boot(&[("evaluator", "evaluator")]);
        }
    }

    // What was cancelled stays so when the workers come, and the next job has what it needs.
    platform.boot(&[("tracker", "tracker")]);
    platform.succeeded(platform.submit("next"));
    let ended = platform.terminal_events();
    assert_eq!(ended.len(), 8);
    assert!(ended.values().all(|events| events.len() == 1), "{ended:#?}");
    let killed = ["deaf", "evaluating", "preparing", "queued", "recording", "training", "waiting"];
    let mut rows: Vec<_> = killed.map(|job| (job.to_owned(), "KILLED".to_owned())).to_vec();
    rows.push(("next".into(), "FINISHED".into()));
    rows.sort();
    platform.tracked(&rows);
}
