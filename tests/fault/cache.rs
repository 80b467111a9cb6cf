//! A data_loader that is killed while it fills the step cache: the task is done again, what was kept whole is used, and
//! the weights are those of an undisturbed run.

use super::{EPOCHS, Platform, TIMINGS};
use crate::harness::text;

#[test]
fn a_data_loader_that_is_killed_between_its_steps() {
    let others = "coordinator,trainer,evaluator,tracker,notifier";
    let mut platform = Platform::start(TIMINGS, EPOCHS, &[("others", others), ("loader", "data_loader")]);
    for (job, step) in [("after-read", "read"), ("after-fit", "fit")] {
        // Every job has files of its own, so that each begins with nothing.
        let copy = format!("{job}.csv");
        std::fs::copy(platform.sandbox.path("table.csv"), platform.sandbox.path(&copy)).expect("copies");
        let path = format!("data.path=[{copy}]");
        let mut watched = platform.submit_spec("job.yaml", job, &[&path]);
        watched.line(step, |line| line["event"] == "step" && line["step"] == step);
        platform.kill_and_restart("loader", "data_loader");
        let ended = platform.succeeded(watched);
        let outcomes: Vec<String> = ended
            .events("step")
            .iter()
            .map(|line| format!("{} {} {}", line["attempt"], text(line, "/step"), text(line, "/cache")))
            .collect();
        println!("{job}: {outcomes:?}");
        // The kill may come after the task was done; where it was done again, what was kept before counts.
        if outcomes.iter().any(|outcome| outcome.starts_with("2 ")) {
            assert!(
                outcomes.iter().any(|outcome| outcome.starts_with("2 ") && outcome.contains("hit")),
                "{outcomes:?}"
            );
        }
    }
    platform.check(&["after-read", "after-fit"]);
}
