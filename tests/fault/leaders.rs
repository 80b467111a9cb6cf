//! Who leads: a stand-by takes over from a dead leader, and a leader that slept through its lease does no harm when it
//! wakes up. The same for the tracker's writer.

use std::time::{Duration, Instant};

use bus::ErrorKind;
use messages::JobId;
use messages::rpc::ListJobs;
use messages::subject::{LEASE_COORDINATOR, LEASE_TRACKER};
use nix::sys::signal::Signal;

use super::{EPOCHS, LONG, LONG_PAUSE, Moment, Platform, TIMINGS, pass};
use crate::harness::{Ended, PATIENCE, text, wait_for};

/// A stand-by leads within this after the leader's death, by the default timings.
const TAKEOVER: Duration = Duration::from_secs(15);
const REST: &str = "data_loader,evaluator,notifier";

/// Waits until another than `old` holds the lease.
fn successor(platform: &Platform, lease: &str, old: &str) -> String {
    wait_for("a successor", PATIENCE, || platform.holder(lease).filter(|holder| holder != old))
}

/// The holder of a lease.
fn leader(platform: &Platform, lease: &str) -> String {
    wait_for("a leader", PATIENCE, || platform.holder(lease))
}

/// Attempts at training, in order, with their workers.
fn trained(ended: &Ended) -> Vec<(u64, String)> {
    let started = ended.events("task_started");
    let trains = started.iter().filter(|line| line["task"] == "train");
    trains.map(|line| (line["attempt"].as_u64().unwrap_or_default(), text(line, "/worker").to_owned())).collect()
}

#[test]
fn a_standby_takes_over_within_fifteen_seconds() {
    let workers = [("first", "coordinator"), ("second", "coordinator"), ("rest", REST), ("trainer", "trainer,tracker")];
    let mut platform = Platform::start("", EPOCHS, &workers);
    let old = leader(&platform, LEASE_COORDINATOR);
    let mut job = platform.submit("led");
    Moment::Checkpoint(2).reach(&mut job);
    let bus = platform.bus();
    let begun = Instant::now();
    drop(platform.take(&old));
    // A request answered is more than a lease held.
    platform.server.block_on(bus.request(ListJobs { limit: 1 }, None, PATIENCE)).expect("an answer");
    let took = begun.elapsed();
    let new = leader(&platform, LEASE_COORDINATOR);
    println!("a stand-by answers {:.1} s after kill -9 of the leader, by the default timings", took.as_secs_f64());
    assert!(took < TAKEOVER, "{took:?}");
    assert_ne!(new, old);
    let ended = platform.succeeded(job);
    assert_eq!(trained(&ended), [(1, "trainer".to_owned())], "training went on meanwhile");
    platform.check(&["led"]);
}

#[test]
fn a_leader_that_wakes_up_is_fenced() {
    let workers =
        [("first", "coordinator"), ("second", "coordinator"), ("rest", "data_loader,evaluator,tracker,notifier")];
    let mut platform = Platform::start(TIMINGS, LONG, &workers);
    platform.boot(&[("dies", "trainer")]);
    let old = leader(&platform, LEASE_COORDINATOR);
    let mut job = platform.submit_spec("job.yaml", "fenced", &[]);
    Moment::Checkpoint(1).reach(&mut job);

    // While the leader sleeps, its successor gives the training to another worker.
    platform.worker(&old).running.signal(Signal::SIGSTOP);
    let bus = platform.bus();
    let id = JobId::new("fenced").expect("a job id");
    let records = platform.server.block_on(bus.jobs()).expect("records");
    let (stale, revision) = platform.server.block_on(records.get(&id)).expect("reads").expect("a record");
    let new = successor(&platform, LEASE_COORDINATOR, &old);
    drop(platform.take("dies"));
    platform.boot(&[("lives", "trainer")]);
    job.line("another attempt", |line| line["event"] == "task_started" && line["worker"] == "lives");
    pass(LONG_PAUSE.saturating_sub(Duration::from_secs(2)));
    platform.worker(&old).running.signal(Signal::SIGCONT);

    // What it knew is nobody's order any more.
    let ended = platform.succeeded(job);
    let expected = [(1, "dies".to_owned()), (2, "lives".to_owned())];
    assert_eq!(trained(&ended), expected, "the leader that woke up took nothing back");
    let refused = platform.server.block_on(records.update(&stale, revision)).expect_err("it was written since");
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");

    wait_for("the leader that woke up says that it steps down", PATIENCE, || {
        (platform.logged(&old, "this coordinator steps down").len() == 1).then_some(())
    });
    assert_eq!(platform.logged(&old, "this coordinator leads").len(), 1);
    assert_eq!(platform.logged(&new, "this coordinator leads").len(), 1);
    assert!(platform.logged(&new, "this coordinator steps down").is_empty());
    assert_eq!(platform.holder(LEASE_COORDINATOR).as_ref(), Some(&new));
    platform.check(&["fenced"]);
}

/// Two trackers on one database: the lease says who writes, and its token stands in the database.
#[test]
fn a_tracker_that_wakes_up_is_fenced() {
    let workers = [("first", "tracker"), ("second", "tracker"), ("rest", "coordinator,data_loader,trainer,evaluator")];
    let mut platform = Platform::start(TIMINGS, EPOCHS, &workers);
    let old = leader(&platform, LEASE_TRACKER);
    platform.succeeded(platform.submit("before"));
    platform.tracked(&[("before".into(), "FINISHED".into())]);
    // While it has nothing to write: stopped within a transaction, it would keep the database to itself.
    platform.worker(&old).running.signal(Signal::SIGSTOP);
    let job = platform.submit("tracked");
    let new = successor(&platform, LEASE_TRACKER, &old);
    platform.succeeded(job);
    platform.worker(&old).running.signal(Signal::SIGCONT);
    wait_for("the tracker that woke up stands by", PATIENCE, || {
        (!platform.logged(&old, "this tracker leads no more").is_empty()).then_some(())
    });
    let after = platform.submit("after");
    platform.succeeded(after);
    assert_eq!(platform.holder(LEASE_TRACKER).as_ref(), Some(&new));
    assert_eq!(
        (platform.logged(&old, "this tracker leads\"").len(), platform.logged(&new, "this tracker leads\"").len()),
        (1, 1)
    );

    // And once more, by the death of the one that leads.
    let mut last = platform.submit("last");
    Moment::Checkpoint(3).reach(&mut last);
    platform.kill_and_restart(&new, "tracker");
    platform.succeeded(last);
    platform.check(&["before", "tracked", "after", "last"]);
}
