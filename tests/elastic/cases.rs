//! Seeded disturbances of every kind, of every model, at every world size: one set of weights for each model, each
//! sample of an epoch once, and the loss named.
//!
//! `WITHIN_SEED=n WITHIN_ELASTIC_CASES=n`; each case says what it was.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Cluster, MODELS, Model, TIMINGS, ranks_in, reaches, reference};
use crate::fault::{Random, pass, setting};
use crate::harness::{Ended, text};

/// Cases of `make test`, in two tests that run at the same time.
const CASES: u64 = 20;
const WORLDS: [u32; 5] = [1, 2, 3, 4, 8];
/// Longer than a rank may be silent.
const PAUSE_MS: u64 = 2_500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disturbance {
    None,
    KillRank,
    StopRank,
    Join,
    Drain,
    KillCoordinator,
    KillServer,
}

const DISTURBANCES: [Disturbance; 7] = [
    Disturbance::KillRank,
    Disturbance::Join,
    Disturbance::StopRank,
    Disturbance::Drain,
    Disturbance::KillServer,
    Disturbance::KillCoordinator,
    Disturbance::None,
];

#[derive(Debug)]
struct Case {
    number: u64,
    model: Model,
    world: u32,
    disturbance: Disturbance,
    /// Which rank, which pause.
    choice: u64,
    step: u64,
}

impl Case {
    /// Each kind comes before any comes again, and so do the models.
    fn draw(seed: u64, number: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let model = MODELS[((number + seed) % MODELS.len() as u64) as usize];
        let world = WORLDS[random.below(WORLDS.len() as u64) as usize];
        let disturbance = DISTURBANCES[((number + seed) % DISTURBANCES.len() as u64) as usize];
        let steps = reference(model, &[]).steps;
        // A joiner needs the time of two processes to start.
        let span = if disturbance == Disturbance::Join { steps / 20 } else { steps / 2 };
        Self { number, model, world, disturbance, choice: random.below(1 << 20), step: 1 + random.below(span) }
    }

    /// A joiner has to find the others still at work, however long its process takes to start.
    fn set(&self) -> &'static [&'static str] {
        match (self.disturbance, self.model) {
            (Disturbance::Join, Model::AdScore) => &["training.epochs=250"],
            (Disturbance::Join, Model::Mlp | Model::LstmSequence) => &["training.epochs=900"],
            _ => &[],
        }
    }

    /// Slots of the two trainers that the job begins with.
    fn slots(&self) -> [u32; 2] {
        let begins_with = if self.disturbance == Disturbance::Join { (self.world - 1).max(1) } else { self.world };
        [begins_with.div_ceil(2), begins_with / 2]
    }

    fn run(&self, cluster: &mut Cluster) {
        let begun = Instant::now();
        let (first, second, spare) = (format!("a{}", self.number), format!("b{}", self.number), self.spare());
        let slots = self.slots();
        let crew: Vec<_> =
            [(first.as_str(), slots[0]), (&second, slots[1])].into_iter().filter(|(_, slots)| *slots > 0).collect();
        let names: Vec<_> = crew.iter().map(|(name, _)| *name).collect();
        cluster.boot(&crew);
        let world = slots.iter().sum();
        let most = if self.disturbance == Disturbance::Join { self.world.max(2) } else { world };
        let mut job = cluster.submit(self.model, &format!("case{}", self.number), world, most, self.set());
        reaches(&mut job, self.step);
        let at = begun.elapsed();
        self.disturb(cluster, &names, &spare);
        let ended = cluster.succeeded(job, &reference(self.model, self.set()));
        self.is_named(&ended, &cluster.logs(&ended.last()["job"]));
        cluster.slots_are_free();
        cluster.dismiss();
        println!(
            "{self:?}: disturbed after {:.1} s, over after {:.1} s",
            at.as_secs_f64(),
            begun.elapsed().as_secs_f64()
        );
    }

    fn spare(&self) -> String {
        format!("c{}", self.number)
    }

    fn disturb(&self, cluster: &mut Cluster, names: &[&str], spare: &str) {
        match self.disturbance {
            Disturbance::None => {}
            Disturbance::KillRank => cluster.hit(names, self.choice, Signal::SIGKILL),
            Disturbance::StopRank => cluster.hit(names, self.choice, Signal::SIGSTOP),
            Disturbance::Join => cluster.boot(&[(spare, 1)]),
            Disturbance::Drain => {
                // Somebody has to go on; else the gang shrinks.
                if self.world == 1 || self.choice.is_multiple_of(2) {
                    cluster.boot(&[(spare, self.slots()[0])]);
                }
                cluster.platform.drain(names[self.choice as usize / 2 % names.len()]);
            }
            Disturbance::KillCoordinator => cluster.platform.kill_and_restart("lead", "coordinator"),
            Disturbance::KillServer => {
                cluster.platform.server.kill9();
                pass(Duration::from_millis(self.choice % PAUSE_MS));
                cluster.platform.server.restart();
            }
        }
    }

    /// What happened is told: who, and of what class.
    fn is_named(&self, ended: &Ended, logs: &str) {
        let lost = ended.events("rank_lost");
        let classes: BTreeSet<_> = lost.iter().map(|event| text(event, "/error/class")).collect();
        let regrouped = ended.events("regrouped");
        let said = || format!("{self:?}\n{}\n{logs}", ended.stdout);
        let expected = match self.disturbance {
            Disturbance::KillRank => Some("worker_died"),
            Disturbance::StopRank => Some("worker_hung"),
            _ => None,
        };
        if let Some(class) = expected {
            assert!(lost.len() == 1 && classes.contains(class), "{}", said());
            let gone =
                regrouped.iter().any(|event| ranks_in(event, "gone").contains(&lost[0]["rank"].as_u64().unwrap_or(99)));
            let anew = !ended.events("task_retried").is_empty();
            assert!(if self.world == 1 { anew } else { gone && !anew }, "{}", said());
        } else {
            assert!(lost.is_empty() && ended.events("worker_lost").is_empty(), "{}", said());
        }
        match self.disturbance {
            Disturbance::Join => assert!(regrouped.iter().any(|e| !ranks_in(e, "joined").is_empty()), "{}", said()),
            Disturbance::Drain if self.world > 1 => {
                assert!(regrouped.iter().any(|e| !ranks_in(e, "gone").is_empty()), "{}", said());
            }
            Disturbance::None => assert!(regrouped.is_empty(), "{}", said()),
            _ => {}
        }
    }
}

/// Every second case, beginning with this one.
fn cases(first: u64) {
    let (seed, count) = (setting("WITHIN_SEED", 1), setting("WITHIN_ELASTIC_CASES", CASES));
    println!("seed {seed}, {count} cases");
    let mut cluster = Cluster::start(TIMINGS);
    for number in (first..count).step_by(2) {
        Case::draw(seed, number).run(&mut cluster);
    }
}

#[test]
fn seeded_even() {
    cases(0);
}

#[test]
fn seeded_odd() {
    cases(1);
}
