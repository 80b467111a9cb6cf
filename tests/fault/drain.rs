//! SIGTERM under load, a second signal, and a deploy that restarts every worker one by one.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{LONG, Moment, Platform, TIMINGS, signal};
use crate::harness::{Running, Worker};

/// `drain_grace_ms` of the timings, with what the system needs to start and end a process.
const GRACE: Duration = Duration::from_secs(12);
/// The second signal ends the process at once, some hundredths of a second later; a busy machine takes its time.
const AT_ONCE: Duration = Duration::from_secs(3);
const WORK: &str = "data_loader,trainer,evaluator,tracker,notifier";

fn submit_all(platform: &Platform, jobs: &[&str]) -> Vec<Running> {
    jobs.iter().map(|job| platform.submit(job)).collect()
}

fn drain_and_restart(platform: &mut Platform, name: &str, roles: &str) {
    let took = platform.drain(name);
    println!("{name} drained in {:.2} s", took.as_secs_f64());
    assert!(took < GRACE, "{name}: {took:?}");
    platform.boot(&[(name, roles)]);
}

#[test]
fn sigterm_under_load() {
    let crew = [("lead", "coordinator"), ("spare", "coordinator"), ("one", WORK), ("two", WORK)];
    let mut platform = Platform::start(TIMINGS, LONG, &crew);
    let jobs = ["j1", "j2", "j3", "j4"];
    let mut running = submit_all(&platform, &jobs);
    Moment::Checkpoint(3).reach(&mut running[0]);
    drain_and_restart(&mut platform, "one", WORK);
    drain_and_restart(&mut platform, "lead", "coordinator");
    drain_and_restart(&mut platform, "two", WORK);

    // Everything at once, as when a machine is shut down; the jobs stay in the store.
    let begun = Instant::now();
    let all: Vec<Worker> = std::mem::take(&mut platform.workers).into_values().collect();
    for worker in &all {
        worker.running.signal(Signal::SIGTERM);
    }
    for worker in all {
        let ended = worker.running.wait();
        assert_eq!(ended.code, Some(0), "{}\n{}", worker.name, ended.stderr);
    }
    let took = begun.elapsed();
    println!("everything drained in {:.2} s", took.as_secs_f64());
    assert!(took < GRACE, "{took:?}");
    platform.boot(&crew);
    for job in running {
        platform.succeeded(job);
    }
    platform.check(&jobs);
}

/// The rank stands still, so that the drain would take the whole grace.
#[test]
fn a_second_signal_ends_at_once() {
    let mut platform =
        Platform::start(TIMINGS, LONG, &[("rest", "coordinator,data_loader,evaluator,tracker"), ("slow", "trainer")]);
    let mut job = platform.submit("cut_short");
    Moment::Checkpoint(2).reach(&mut job);
    for rank in platform.ranks() {
        signal(rank, Signal::SIGSTOP);
    }
    let slow = platform.take("slow");
    slow.running.signal(Signal::SIGTERM);
    crate::harness::wait_for("the worker drains", GRACE, || {
        (!platform.logged("slow", "draining").is_empty()).then_some(())
    });
    assert!(!slow.running.has_ended());
    let begun = Instant::now();
    slow.running.signal(Signal::SIGTERM);
    let ended = slow.running.wait();
    let took = begun.elapsed();
    println!("ended {:.3} s after the second signal", took.as_secs_f64());
    assert_eq!(ended.code, Some(143), "{}", ended.stderr);
    assert!(took < AT_ONCE, "{took:?}");
    platform.boot(&[("quick", "trainer")]);
    platform.succeeded(job);
    platform.check(&["cut_short"]);
}

/// Every worker is replaced by a process of the same name, while jobs run.
#[test]
fn a_rolling_restart() {
    let crew = [
        ("lead", "coordinator"),
        ("spare", "coordinator"),
        ("loader", "data_loader"),
        ("trainer-1", "trainer"),
        ("trainer-2", "trainer"),
        ("evaluator", "evaluator"),
        ("tracker", "tracker"),
        ("notifier", "notifier"),
    ];
    let mut platform = Platform::start(TIMINGS, LONG, &crew);
    let jobs = ["j1", "j2", "j3", "j4"];
    let mut running = submit_all(&platform, &jobs);
    Moment::Checkpoint(1).reach(&mut running[0]);
    for (name, roles) in crew {
        drain_and_restart(&mut platform, name, roles);
    }
    for job in running {
        let ended = platform.succeeded(job);
        assert!(ended.events("worker_lost").is_empty() && ended.events("task_retried").is_empty(), "{}", ended.stdout);
    }
    platform.check(&jobs);
}
