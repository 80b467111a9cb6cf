//! kill -9 and SIGSTOP of each role at seeded moments of a job, of a rank process, and kill -9 of the server. Each role
//! has a process of its own and a second one beside it; both are hit, one after the other, in the same job.

use std::time::{Duration, Instant};

use messages::subject::{LEASE_COORDINATOR, LEASE_TRACKER};
use nix::sys::signal::Signal;

use super::{ALL, EPOCHS, LONG, LONG_PAUSE, Moment, Platform, Random, TIMINGS, pass, setting};
use crate::harness::{Running, text};

const ROLES: [&str; 6] = ["coordinator", "data_loader", "trainer", "evaluator", "tracker", "notifier"];

/// Two processes for each role, `<role>-a` and `<role>-b`.
fn crew() -> Platform {
    let names: Vec<_> =
        ROLES.iter().flat_map(|role| ["a", "b"].map(|which| (format!("{role}-{which}"), *role))).collect();
    let workers: Vec<_> = names.iter().map(|(name, role)| (name.as_str(), *role)).collect();
    Platform::start(TIMINGS, EPOCHS, &workers)
}

/// The process of a role that is hit next: who leads, or trains, else one by chance; nobody twice.
fn victim(platform: &Platform, role: &str, hit: Option<&str>, random: &mut Random) -> String {
    let [a, b] = ["a", "b"].map(|which| format!("{role}-{which}"));
    let busy = match role {
        "coordinator" => platform.holder(LEASE_COORDINATOR),
        "tracker" => platform.holder(LEASE_TRACKER),
        "trainer" => platform.trains(),
        _ => None,
    };
    match hit {
        Some(first) => {
            if first == a {
                b
            } else {
                a
            }
        }
        None => busy.unwrap_or(if random.below(2) == 0 { a } else { b }),
    }
}

/// One job for each role; both processes of the role are hit in it.
fn hit_each_role(fault: &str, mut hit: impl FnMut(&mut Platform, &str, &str)) {
    let mut random = Random(setting("WITHIN_SEED", 1));
    let mut platform = crew();
    let mut jobs = Vec::new();
    for role in ROLES {
        let mut job = platform.submit(role);
        let moments = [Moment::any(&mut random, 10), Moment::Checkpoint(12 + random.below(15) as usize)];
        let (mut said, mut first) = (Vec::new(), None);
        let begun = Instant::now();
        for moment in moments {
            moment.reach(&mut job);
            let name = victim(&platform, role, first.as_deref(), &mut random);
            hit(&mut platform, &name, role);
            said.push(format!("{name} at {moment:?}"));
            first = Some(name);
        }
        let ended = platform.succeeded(job);
        println!("{fault} of {}: the job ended after {:.1} s", said.join(", "), begun.elapsed().as_secs_f64());
        assert_eq!(ended.events("accepted").len(), 1, "{}", ended.stdout);
        jobs.push(role);
    }
    platform.check(&jobs);
}

#[test]
fn kill_9_of_each_role() {
    hit_each_role("kill -9", Platform::kill_and_restart);
}

#[test]
fn sigstop_of_each_role() {
    hit_each_role("SIGSTOP", |platform, victim, _| {
        platform.worker(victim).running.signal(Signal::SIGSTOP);
        pass(LONG_PAUSE);
        platform.worker(victim).running.signal(Signal::SIGCONT);
    });
}

/// The reason of the retries of a job, as class, code and message.
fn retries(ended: &crate::harness::Ended) -> Vec<(String, String, String)> {
    let events = [ended.events("task_retried"), ended.events("worker_lost")].concat();
    let part = |event: &serde_json::Value, pointer: &str| text(event, pointer).to_owned();
    events.iter().map(|e| (part(e, "/error/class"), part(e, "/error/code"), part(e, "/error/message"))).collect()
}

fn at(job: &mut Running, checkpoints: usize) {
    Moment::Checkpoint(checkpoints).reach(job);
}

/// The culprit is named; then the server itself dies and comes back on its store.
#[test]
fn ranks_and_the_server() {
    let mut random = Random(setting("WITHIN_SEED", 1));
    let mut platform = Platform::start(TIMINGS, LONG, &[("one", ALL), ("two", ALL)]);
    for (job, kind, expected) in [
        ("killed", Signal::SIGKILL, ("worker_died", "SIGKILL")),
        ("stopped", Signal::SIGSTOP, ("worker_hung", "no progress")),
    ] {
        let mut watched = platform.submit(job);
        at(&mut watched, 1 + random.below(20) as usize);
        let begun = Instant::now();
        let ranks = platform.ranks();
        assert_eq!(ranks.len(), 1, "{ranks:?}");
        super::signal(ranks[0], kind);
        let ended = platform.succeeded(watched);
        println!("{kind} of a rank: the job ended {:.1} s later", begun.elapsed().as_secs_f64());
        let retries = retries(&ended);
        let (class, word) = expected;
        assert!(
            retries.len() == 1 && retries[0].0 == class && retries[0].1 == class && retries[0].2.contains(word),
            "{retries:?}"
        );
        assert!(retries[0].2.contains("rank 0 on "), "the culprit is named: {retries:?}");
    }
    for (job, away) in [("short", Duration::ZERO), ("long", LONG_PAUSE)] {
        let mut watched = platform.submit(job);
        at(&mut watched, 1 + random.below(20) as usize);
        let begun = Instant::now();
        platform.server.kill9();
        pass(away);
        platform.server.restart();
        platform.succeeded(watched);
        println!("server away for {away:?}: the job ended {:.1} s later", begun.elapsed().as_secs_f64());
    }
    platform.check(&["killed", "stopped", "short", "long"]);
}
