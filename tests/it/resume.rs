//! Processes that are killed in the middle: the job goes on from its checkpoint and ends with the same
//! bits; nothing is left running.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Ended, Running, Sandbox, children, gone, process_with, spec, table, text};

/// Short deadlines, so that what was lost is missed soon.
const TIMINGS: &str = "timings: {ack_wait_ms: 3000, heartbeat_ms: 300, worker_lost_ms: 2000, lease_ttl_ms: 2000, retry_backoff_ms: 100}\n";
const EPOCHS: u32 = 40;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("within.yaml", TIMINGS);
    sandbox.write("table.csv", table(3_000));
    sandbox.write("job.yaml", spec("table.csv", EPOCHS, "  checkpoint: {keep_best: 2}\n"));
    sandbox
}

fn run(sandbox: &Sandbox, id: &str) -> Running {
    sandbox.start(&["run", "job.yaml", "--json", "--id", id])
}

fn is_checkpoint(line: &Value) -> bool {
    line["event"] == "checkpoint"
}

/// The hooks that say where training began.
fn beginnings(ended: &Ended) -> Vec<String> {
    let hooks = ended.events("hook");
    let begun = hooks.iter().filter(|line| line["hook"] == "on_train_begin");
    begun.map(|line| line["detail"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Each epoch's metrics came once, and training went on from a checkpoint.
fn check_resumed(ended: &Ended) {
    let beginnings = beginnings(ended);
    assert!(beginnings.len() >= 2, "{beginnings:?}");
    assert!(beginnings.last().is_some_and(|detail| detail.contains("resumed from checkpoint_")), "{beginnings:?}");
    let completed = ended.events("completed");
    assert_eq!(completed.len(), 1, "{}", ended.stdout);
}

fn same_model(ended: &Ended, undisturbed: &Ended) {
    let (mine, theirs) = (ended.last(), undisturbed.last());
    assert_eq!(mine["model"]["blake3"], theirs["model"]["blake3"]);
    assert_eq!(mine["model"]["file_blake3"], theirs["model"]["file_blake3"]);
    assert_eq!(mine["metrics"], theirs["metrics"]);
}

#[test]
fn a_killed_run_goes_on_with_the_next_one() {
    let sandbox = sandbox();
    let undisturbed = run(&sandbox, "undisturbed").wait().expect(0);

    let mut first = run(&sandbox, "killed");
    first.lines("checkpoints", 3, is_checkpoint);
    let family: Vec<_> = [children(first.pid(), " rank"), children(first.pid(), "nats-server")].concat();
    assert!(family.len() >= 2, "a rank and a server: {family:?}");
    first.kill_group();
    let ended = first.wait();
    assert_eq!(ended.signal, Some(Signal::SIGKILL as i32));
    for process in family {
        gone(&process.command, process.pid);
    }
    let store = sandbox.home().join("nats");
    assert!(process_with(&store.display().to_string()).is_none(), "no server is left");

    // A second kill, of the program alone: its children end by themselves.
    let mut second = run(&sandbox, "killed");
    let before = ended.events("checkpoint").len();
    second.lines("checkpoints", before + 2, is_checkpoint);
    let family: Vec<_> = [children(second.pid(), " rank"), children(second.pid(), "nats-server")].concat();
    second.signal(Signal::SIGKILL);
    for process in family {
        gone(&process.command, process.pid);
    }
    drop(second);

    let last = run(&sandbox, "killed").wait().expect(0);
    check_resumed(&last);
    same_model(&last, &undisturbed);
    assert!(process_with(&store.display().to_string()).is_none(), "no server is left");
}

#[test]
fn a_killed_rank_is_started_again() {
    let sandbox = sandbox();
    let undisturbed = run(&sandbox, "undisturbed").wait().expect(0);

    let mut disturbed = run(&sandbox, "disturbed");
    disturbed.lines("checkpoints", 3, is_checkpoint);
    let ranks = children(disturbed.pid(), " rank");
    for rank in &ranks {
        kill(Pid::from_raw(rank.pid as i32), Signal::SIGKILL).expect("the rank runs");
    }
    assert_eq!(ranks.len(), 1, "{ranks:?}");
    let ended = disturbed.wait().expect(0);
    let lost: Vec<_> = [ended.events("task_retried"), ended.events("worker_lost")].concat();
    assert!(!lost.is_empty(), "{}", ended.stdout);
    let error = &lost[0]["error"];
    assert_eq!((text(error, "/class"), text(error, "/code")), ("worker_died", "worker_died"));
    assert!(text(error, "/message").contains("signal 9") || text(error, "/message").contains("SIGKILL"), "{error}");
    check_resumed(&ended);
    same_model(&ended, &undisturbed);
}

#[test]
fn a_terminated_run_leaves_its_job_and_an_interrupted_one_cancels_it() {
    let sandbox = sandbox();
    let mut terminated = run(&sandbox, "terminated");
    terminated.lines("checkpoints", 2, is_checkpoint);
    terminated.signal(Signal::SIGTERM);
    let ended = terminated.wait().expect(143);
    assert!(ended.stderr.contains("stays in the store"), "{}", ended.stderr);
    let record = sandbox.within(&["jobs", "show", "terminated", "--json"]).expect(0).last();
    assert_eq!(text(&record, "/record/state"), "running");
    let resumed = run(&sandbox, "terminated").wait().expect(0);
    check_resumed(&resumed);

    let mut interrupted = run(&sandbox, "interrupted");
    interrupted.lines("checkpoints", 2, is_checkpoint);
    interrupted.signal(Signal::SIGINT);
    let ended = interrupted.wait().expect(130);
    assert!(ended.stderr.contains("interrupted"), "{}", ended.stderr);
    let record = sandbox.within(&["jobs", "show", "interrupted", "--json"]).expect(0).last();
    assert_eq!(text(&record, "/record/state"), "cancelled");
}

/// Another terminal of the same home sees a run and can end it.
#[test]
fn a_run_is_watched_and_cancelled_from_another_terminal() {
    let sandbox = sandbox();
    let mut watched =
        sandbox.start(&["run", "job.yaml", "--json", "--id", "watched", "--set", "training.epochs=100000"]);
    watched.lines("checkpoints", 2, is_checkpoint);
    let listed = sandbox.within(&["jobs", "list", "--json"]).expect(0).last();
    assert_eq!((text(&listed, "/job"), text(&listed, "/state")), ("watched", "running"));
    assert!(sandbox.within(&["jobs", "events", "watched"]).expect(0).stdout.contains("checkpoint_epoch_001"));
    assert!(sandbox.within(&["doctor"]).expect(0).stdout.contains("WITHIN_EVT"));
    sandbox.within(&["jobs", "cancel", "watched"]).expect(0);
    assert_eq!(text(&watched.wait().expect(1).last(), "/event"), "cancelled");
}

/// A server that does not come back ends the run in bounded time, and nothing is lost by it.
#[test]
fn a_run_whose_server_is_killed_ends_and_can_go_on() {
    let sandbox = sandbox();
    sandbox.write("within.yaml", format!("{}, claim_timeout_ms: 3000}}\n", TIMINGS.trim_end().trim_end_matches('}')));
    let undisturbed = run(&sandbox, "undisturbed").wait().expect(0);
    let mut cut_off = run(&sandbox, "cut_off");
    cut_off.lines("checkpoints", 2, is_checkpoint);
    let family: Vec<_> = [children(cut_off.pid(), "nats-server.conf"), children(cut_off.pid(), " rank")].concat();
    assert_eq!(family.len(), 2, "{family:?}");
    kill(Pid::from_raw(family[0].pid as i32), Signal::SIGKILL).expect("the server runs");
    let ended = cut_off.wait().expect(3);
    let last = ended.last();
    assert_eq!((text(&last, "/class"), text(&last, "/code")), ("infrastructure", "bus_unavailable"));
    assert!(
        text(&last, "/message").contains("out of reach") && text(&last, "/hint").contains("--id cut_off"),
        "{last}"
    );
    gone("the rank", family[1].pid);

    let last = run(&sandbox, "cut_off").wait().expect(0);
    same_model(&last, &undisturbed);
}
