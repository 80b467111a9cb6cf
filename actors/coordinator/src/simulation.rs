//! A seeded simulation of coordinators, workers, the record store and the network between them:
//! messages are dropped, repeated, delayed and reordered, processes crash and pause, clocks jump.
//! After the disturbance everything must end, once, with nothing left over.

mod ranks;
mod worker;
mod world;

use world::World;

/// Schedules run by `cargo test`; `WITHIN_SCHEDULES` asks for another number.
const SCHEDULES: u64 = 100_000;

fn schedules() -> u64 {
    std::env::var("WITHIN_SCHEDULES").ok().and_then(|text| text.parse().ok()).unwrap_or(SCHEDULES)
}

fn first_seed() -> u64 {
    std::env::var("WITHIN_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

#[test]
fn every_schedule_ends_once_with_nothing_left_over() {
    let (first, count) = (first_seed(), schedules());
    let begun = std::time::Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let failures: Vec<String> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    (first..first + count).filter(|seed| seed % threads == thread).find_map(|seed| {
                        let mut world = World::new(seed);
                        world.run().err().map(|why| format!("seed {seed}: {why}"))
                    })
                })
            })
            .collect();
        runs.into_iter().filter_map(|run| run.join().expect("invariant: a schedule does not panic")).collect()
    });
    println!("{count} schedules from seed {first} in {:.1} s", begun.elapsed().as_secs_f64());
    assert!(failures.is_empty(), "{} (again with WITHIN_SEED=<seed> WITHIN_SCHEDULES=1)", failures.join("; "));
}

#[test]
fn an_undisturbed_schedule_succeeds_without_a_retry() {
    let mut regrouped = 0;
    for seed in 1..100 {
        let mut world = World::calm(seed);
        assert_eq!(world.run(), Ok(()), "seed {seed}");
        assert_eq!((world.succeeded(), world.retries()), (world.jobs(), 0), "seed {seed}");
        regrouped += world.generations() - world.jobs();
    }
    assert!(regrouped > 0, "gangs grew");
}
