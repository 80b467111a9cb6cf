//! Jobs that nobody can run yet: they say so, naming the role, and end when the worker comes or by their deadline.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{EPOCHS, Platform, TIMINGS};
use crate::harness::{Running, text, wait_for};

/// Seconds of the short deadline.
const DEADLINE_S: u64 = 3;
/// How much later than its deadline a job may end.
const LATE: Duration = Duration::from_secs(3);

const REST: &str = "coordinator,data_loader,evaluator,tracker,notifier";

/// Waits until the job's record says what its train task waits for.
fn waits_for(platform: &Platform, job: &str) -> String {
    wait_for("the job's state says what it waits for", Duration::from_secs(30), || {
        platform.task(job, "train")["waiting"].as_str().map(str::to_owned)
    })
}

/// A job that fails by its deadline for want of workers; its last line.
fn fails_in_time(begun: Instant, job: Running) -> Value {
    let last = job.wait().expect(1).last();
    let took = begun.elapsed();
    println!("{} failed after {:.1} s: {}", last["job"], took.as_secs_f64(), last["message"]);
    let deadline = Duration::from_secs(DEADLINE_S);
    assert!(took >= deadline && took < deadline + LATE, "{took:?}: {last}");
    assert_eq!(
        (text(&last, "/event"), text(&last, "/class"), text(&last, "/code")),
        ("failed", "infrastructure", "no_capacity")
    );
    assert!(text(&last, "/message").contains("deadline") && text(&last, "/hint").contains("--roles trainer"), "{last}");
    last
}

#[test]
fn a_worker_that_starts_late() {
    let mut platform = Platform::start(TIMINGS, EPOCHS, &[("rest", REST)]);
    let short = format!("limits.deadline_s={DEADLINE_S}");
    let mut late = platform.submit("late");
    let begun = Instant::now();
    let hopeless = platform.submit_spec("job.yaml", "hopeless", &[&short]);
    let said = late.line("waiting", |line| line["event"] == "waiting");
    assert_eq!((text(&said, "/task"), text(&said, "/reason")), ("train", "no trainer is up"));
    assert_eq!(waits_for(&platform, "late"), "no trainer is up");
    let shown = platform.sandbox.within(&["jobs", "show", "late"]).expect(0).stdout;
    assert!(shown.contains("waits: no trainer is up"), "{shown}");
    let last = fails_in_time(begun, hopeless);
    assert!(text(&last, "/message").contains("train waits: no trainer is up"), "{last}");

    // One slot comes up, and another job takes it for good.
    platform.boot(&[("trainer", "trainer")]);
    platform.succeeded(late);
    assert_eq!(platform.task("late", "train")["waiting"], Value::Null);
    let mut endless = platform.submit_spec("job.yaml", "endless", &["training.epochs=1000000"]);
    endless.line("progress", |line| line["event"] == "progress");
    let begun = Instant::now();
    let crowded = platform.submit_spec("job.yaml", "crowded", &[&short]);
    assert_eq!(waits_for(&platform, "crowded"), "too many trainer slots are in use");
    let last = fails_in_time(begun, crowded);
    assert!(text(&last, "/message").contains("train waits: too many trainer slots are in use"), "{last}");
    platform.sandbox.within(&["jobs", "cancel", "endless"]).expect(0);
    endless.wait().expect(1);

    let ended = platform.terminal_events();
    let counts: Vec<_> = ended.iter().map(|(job, events)| (job.as_str(), events.len())).collect();
    assert_eq!(counts, [("crowded", 1), ("endless", 1), ("hopeless", 1), ("late", 1)]);
    let rows = [("crowded", "FAILED"), ("endless", "KILLED"), ("hopeless", "FAILED"), ("late", "FINISHED")];
    platform.tracked(&rows.map(|(job, status)| (job.to_owned(), status.to_owned())));
}
