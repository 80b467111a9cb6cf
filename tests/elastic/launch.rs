//! A gang from the command line: `--world`, workers that join a job under way and leave it.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Bits, Cluster, MODELS, Model, TIMINGS, ranks_in, reaches, reference, run};
use crate::harness::{Sandbox, number, text};

/// From the start of the joiner's process to the event; most of it is the start of two processes.
const JOINED: Duration = Duration::from_secs(10);
/// From SIGTERM to the end of the worker.
const LEFT: Duration = Duration::from_secs(5);

#[test]
fn every_world_gives_the_same_bits() {
    for model in MODELS {
        let set = ["training.epochs=3"];
        let expected = reference(model, &set);
        assert_eq!(expected.samples.len(), 3);
        for world in [2, 3, 4, 8] {
            assert_eq!(run(model, world, &set), expected, "{model:?} by {world} ranks");
        }
    }
}

#[test]
fn ranks_that_encrypt_give_the_same_bits() {
    let set = ["training.epochs=3"];
    let sandbox = Sandbox::new();
    Model::Mlp.write(&sandbox);
    sandbox.write("within.yaml", "collective_tls: true\n");
    let arguments = ["run", Model::Mlp.file(), "--json", "--world", "3", "--set", set[0]];
    assert_eq!(Bits::of(&sandbox.within(&arguments).expect(0)), reference(Model::Mlp, &set));
}

#[test]
fn a_world_larger_than_its_shards_is_refused() {
    let sandbox = Sandbox::new();
    Model::Mlp.write(&sandbox);
    let said = sandbox.within(&["run", Model::Mlp.file(), "--world", "9"]).expect(2).all_text();
    for part in ["world_size: 9 ranks", "at most 8"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_worker_joins_a_job_and_leaves_it() {
    let mut cluster = Cluster::start(TIMINGS);
    cluster.boot(&[("one", 2)]);
    let expected = reference(Model::Mlp, &[]);
    let mut job = cluster.submit(Model::Mlp, "grows", 2, 4, &[]);
    reaches(&mut job, expected.steps / 10);
    let begun = Instant::now();
    cluster.boot(&[("two", 2)]);
    let grown = job.line("regrouped", |line| line["event"] == "regrouped");
    let took = begun.elapsed();
    println!("a worker of two slots joined {:.2} s after its start", took.as_secs_f64());
    assert!(took < JOINED, "{took:?}");
    assert_eq!((number(&grown, "/world_size"), ranks_in(&grown, "joined")), (4.0, vec![2, 3]), "{grown}");
    assert_eq!((ranks_in(&grown, "gone"), ranks_in(&grown, "ranks")), (vec![], vec![0, 1, 2, 3]), "{grown}");

    reaches(&mut job, number(&grown, "/step") as u64 + 20);
    // The one that began it: the leader of the gang leaves.
    let took = cluster.platform.drain("one");
    println!("a worker of two ranks left within {:.2} s", took.as_secs_f64());
    assert!(took < LEFT, "{took:?}");
    let ended = cluster.succeeded(job, &expected);
    let regrouped = ended.events("regrouped");
    let [_, shrunk @ ..] = &regrouped[..] else { panic!("{regrouped:#?}") };
    // Each rank hears its signal at a step of its own, so the two may leave one after the other.
    let mut gone: Vec<u64> = shrunk.iter().flat_map(|event| ranks_in(event, "gone")).collect();
    gone.sort_unstable();
    let left = shrunk.last().map(|event| number(event, "/world_size"));
    assert_eq!((left, gone), (Some(2.0), vec![0, 1]), "{regrouped:#?}");
    for event in ["rank_lost", "worker_lost", "task_retried"] {
        assert!(ended.events(event).is_empty(), "{event}: {}", ended.stdout);
    }
    cluster.slots_are_free();
    cluster.dismiss();
}

/// SIGTERM of `within run` itself keeps the job; the next process of the home goes on, with another world.
#[test]
fn an_ended_run_goes_on_with_the_same_bits() {
    let sandbox = Sandbox::new();
    Model::Mlp.write(&sandbox);
    let arguments = ["run", Model::Mlp.file(), "--json", "--id", "j", "--world", "3"];
    let expected = reference(Model::Mlp, &[]);
    let mut first = sandbox.start(&arguments);
    reaches(&mut first, expected.steps / 5);
    first.signal(Signal::SIGTERM);
    first.wait().expect(143);
    let last = sandbox.within(&arguments).expect(0).last();
    assert_eq!(text(&last, "/model/blake3"), expected.blake3);
}
