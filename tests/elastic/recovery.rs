//! How soon a gang goes on after it has lost a rank, and how soon a new one takes part.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Cluster, Model, TIMINGS, between, changes, ranks_in, reaches, reference};
use crate::harness::{number, text};

/// Beyond detection, and from the arrival of the joiner: declared deadlines.
const RECOVERY: Duration = Duration::from_secs(2);
const JOIN: Duration = Duration::from_secs(2);

#[test]
fn a_killed_rank_is_missed_and_replaced_in_time() {
    let mut cluster = Cluster::start(TIMINGS);
    cluster.boot(&[("one", 2), ("two", 2)]);
    let expected = reference(Model::Mlp, &[]);
    let mut job = cluster.submit(Model::Mlp, "killed", 4, 4, &[]);
    reaches(&mut job, expected.steps / 5);
    cluster.hit(&["two"], 1, Signal::SIGKILL);
    let ended = cluster.succeeded(job, &expected);
    let lost = ended.events("rank_lost");
    let [lost] = &lost[..] else { panic!("{}\n{}", ended.stdout, cluster.logs(&"killed".into())) };
    let (worker, message) = (text(lost, "/worker"), text(lost, "/error/message"));
    assert_eq!((text(lost, "/error/class"), worker), ("worker_died", "two"), "{lost}");
    for part in ["SIGKILL".to_owned(), format!("rank {}", lost["rank"]), "step".to_owned()] {
        assert!(message.contains(&part), "{part}: {message}");
    }
    let regrouped = changes(&ended);
    let [shrunk, grown] = &regrouped[..] else { panic!("{regrouped:#?}") };
    assert_eq!((number(shrunk, "/world_size"), number(grown, "/world_size")), (3.0, 4.0));
    assert_eq!((ranks_in(shrunk, "gone"), ranks_in(grown, "joined")), (vec![number(lost, "/rank") as u64], vec![4]));
    let (recovered, joined) = (between(lost, shrunk), between(shrunk, grown));
    println!("goes on {recovered:?} after the loss was known; the next rank takes part {joined:?} later");
    assert!(recovered <= RECOVERY, "{recovered:?}");
    assert!(joined <= JOIN, "{joined:?}");
    assert!(ended.events("task_retried").is_empty() && ended.events("worker_lost").is_empty(), "{}", ended.stdout);
    let shown = cluster.platform.sandbox.within(&["jobs", "show", "killed"]).expect(0).stdout;
    let told = shown.lines().find(|line| line.starts_with("lost ")).unwrap_or_else(|| panic!("{shown}"));
    assert!(told.contains("SIGKILL") && told.ends_with("[worker_died]"), "{told}");
    cluster.slots_are_free();
    cluster.dismiss();
}
