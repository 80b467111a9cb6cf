//! Tests of saving beside training: what is due when, what waits and what does not, and that errors and
//! refusals are seen at the next boundary. The time is an input.

use std::path::Path;
use std::thread::JoinHandle;

use kernels::train::Batch;
use messages::event::MetricValue;
use messages::plan::Task;
use messages::{Fence, JobId, TaskId};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::train::engine::Engine;
use crate::train::fixtures::{TRAIN_ROWS, VAL_ROWS, manifest, plan, rows};
use crate::train::{Outgoing, mapping};

const BATCHES: u64 = 10;

/// A rank whose epochs have [`BATCHES`] steps on the same rows.
struct Rank {
    engine: Engine,
    selection: Selection,
    saver: Saver,
    outbox: Outbox,
    position: Position,
    metrics: Metrics,
    batch: Batch,
    now: Instant,
}

impl Rank {
    fn new(dir: &Path, plan: &JobPlan, share: Share) -> Self {
        let job = TrainJob {
            job: JobId::new("j").expect("id"),
            task: TaskId::new("train").expect("id"),
            attempt: 1,
            fence: Fence(1),
            generation: 1,
            rank: 0,
            machine: None,
            threads: 1,
            manifest: Arc::new(manifest(Task::Regression, TRAIN_ROWS as u64, VAL_ROWS as u64)),
            plan: plan.clone(),
            pretrained: None,
            dataset_blake3: "d".into(),
            resume: None,
            checkpoints: dir.into(),
        };
        let recipe = mapping::recipe(plan, &job.manifest, BATCHES).expect("a recipe");
        let engine = Engine::new(recipe, plan.task, 1).expect("an engine");
        let batch = engine.batch((*rows(Task::Regression, 32, 0)).clone());
        let store = CheckpointStore::open(dir, Fence(1)).expect("opens");
        let mut saver = Saver::new(store, &job, "p", None);
        saver.regroup(Fence(1), 1, share.of, share, false).expect("a folder");
        Self {
            engine,
            selection: Selection::new(plan).expect("a selection"),
            saver,
            outbox: Outbox::new(&job.job, &job.task, 1, 1).0,
            position: Position::default(),
            metrics: Metrics::default(),
            batch,
            now: Instant::now(),
        }
    }

    /// The rank leads from now on; its reports are answered so, and their checkpoints' names handed back.
    fn lead(&mut self, answer: CheckpointReport) -> JoinHandle<Vec<String>> {
        let info = &self.saver.info;
        let (outbox, mut outgoing): (_, mpsc::Receiver<Outgoing>) = Outbox::new(&info.job, &info.task, 1, 0);
        self.outbox = outbox;
        std::thread::spawn(move || {
            let mut names = Vec::new();
            while let Some(told) = outgoing.blocking_recv() {
                if let Outgoing::Checkpoint { checkpoint, answer: to } = told {
                    names.push(checkpoint.name);
                    let _ = to.send(answer);
                }
            }
            names
        })
    }

    fn at(&mut self, at: At) -> Result<Flow, WireError> {
        let moment = Moment {
            at,
            position: self.position,
            running: Running::default(),
            trainer: self.engine.trainer_mut(),
            selection: &mut self.selection,
            metrics: &self.metrics,
            best_model: None,
        };
        self.saver.at(moment, &mut self.outbox, &Vitals::default(), self.now)
    }

    fn steps(&mut self, steps: u64) {
        for _ in 0..steps {
            self.engine.trainer_mut().step(&self.batch).expect("steps");
            self.position.batch += 1;
            assert_eq!(self.at(At::Step { ends_epoch: self.position.batch == BATCHES }), Ok(Flow::On));
        }
    }

    fn epoch(&mut self, val_loss: f64) {
        self.steps(BATCHES - self.position.batch);
        self.position = Position { epoch: self.position.epoch + 1, batch: 0 };
        self.metrics = [("val_loss".to_owned(), MetricValue::of(val_loss))].into();
        assert_eq!(self.at(At::EpochEnd { last: false }), Ok(Flow::On));
    }

    fn params(&self) -> String {
        kernels::weights::params_blake3(self.engine.trainer().model())
    }

    /// Ends the rank; the names that were reported, in order.
    fn end(mut self, listener: JoinHandle<Vec<String>>) -> Vec<String> {
        assert_eq!(self.saver.settle(&mut self.outbox), Ok(Flow::On));
        drop(self);
        listener.join().expect("listens")
    }
}

fn plan_with(save_steps: u32, save_minutes: f64) -> JobPlan {
    let mut plan = plan(Task::Regression);
    (plan.training.checkpoint.save_steps, plan.training.checkpoint.save_minutes) = (save_steps, save_minutes);
    plan.training.epochs = 100;
    plan
}

/// Names in a folder.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("lists").map(|e| e.expect("entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().expect("text")).collect();
    names.sort();
    names
}

const HALVES: [Share; 2] = [Share { index: 0, of: 2 }, Share { index: 1, of: 2 }];

#[test]
fn training_goes_on_while_a_checkpoint_is_written() {
    let (dir, plan) = (TempDir::new().expect("folder"), plan_with(3, 0.0));
    let mut leader = Rank::new(dir.path(), &plan, HALVES[0]);
    let mut other = Rank::new(dir.path(), &plan, HALVES[1]);
    let listener = leader.lead(CheckpointReport::Accepted);
    // The checkpoint after step 3 waits for the other's half: training does not.
    leader.steps(5);
    assert!(leader.saver.under_way.is_some() && leader.saver.reported.is_none());
    let after_five = leader.params();
    other.steps(3);
    assert_eq!(leader.saver.settle(&mut leader.outbox), Ok(Flow::On));
    assert_eq!(names(dir.path()), ["checkpoint_step_000003"]);
    let folder = dir.path().join("checkpoint_step_000003");
    assert!(folder.join("part-001.safetensors").exists() && !folder.join("optimizer.safetensors").exists());
    // A world of one goes on from the two halves.
    let snapshot = crate::checkpoint::read(&folder, None).expect("whole");
    assert_eq!(snapshot.optimizer, other.engine.trainer_mut().save_state().expect("saves"));
    assert_eq!(snapshot.state.extra_info.params_blake3, other.params());
    let mut resumed = Rank::new(dir.path(), &plan, Share::WHOLE);
    resumed.engine.trainer_mut().load_state(&snapshot.optimizer).expect("fits");
    resumed.steps(2);
    assert_eq!(resumed.params(), after_five);
    assert_eq!(leader.end(listener), ["checkpoint_step_000003"]);
}

#[test]
fn the_leader_decides_by_time_and_only_when_nothing_is_on_its_way() {
    let (dir, plan) = (TempDir::new().expect("folder"), plan_with(3, 2.0));
    let mut leader = Rank::new(dir.path(), &plan, HALVES[0]);
    let mut other = Rank::new(dir.path(), &plan, HALVES[1]);
    let listener = leader.lead(CheckpointReport::Accepted);
    let begun = leader.now;
    leader.steps(1);
    leader.now = begun + Duration::from_secs(119);
    leader.steps(1);
    assert_eq!(leader.saver.last, None);
    leader.steps(1);
    let last = |rank: &Rank| rank.saver.last.as_ref().map(|last| last.step);
    assert_eq!(last(&leader), Some(3));
    // By time again, but the one of step 3 waits for its other half: step 4 goes without.
    leader.now = begun + Duration::from_secs(239);
    leader.steps(1);
    assert_eq!(last(&leader), Some(3));
    other.now = leader.now;
    other.steps(4);
    assert_eq!(last(&other), Some(3));
    assert_eq!(leader.saver.settle(&mut leader.outbox), Ok(Flow::On));
    leader.steps(1);
    assert_eq!(last(&leader), Some(5));
    let reported = leader.end(listener);
    assert_eq!(reported, ["checkpoint_step_000003", "checkpoint_step_000005"]);
    assert_eq!(names(dir.path()), reported);
    // The one by time is whole: the others do not know of it.
    assert!(dir.path().join("checkpoint_step_000005/optimizer.safetensors").exists());
}

#[test]
fn the_k_best_the_last_and_the_one_before_stay() {
    let (dir, plan) = (TempDir::new().expect("folder"), plan_with(4, 0.0));
    let mut rank = Rank::new(dir.path(), &plan, Share::WHOLE);
    let mut follower = Rank::new(dir.path(), &plan, Share::WHOLE);
    let listener = rank.lead(CheckpointReport::Accepted);
    // Only 3 and 1 were new bests when they came.
    for val_loss in [3.0, 1.0, 5.0, 2.0, 4.0, 6.0] {
        rank.epoch(val_loss);
        follower.epoch(val_loss);
    }
    assert_eq!((rank.selection.best(), &rank.saver.last), (follower.selection.best(), &follower.saver.last));
    let reported = rank.end(listener);
    assert_eq!(reported.len(), 6 + 60 / 4 - 3, "every 4 steps and at each end, once where they meet: {reported:?}");
    let kept = ["checkpoint_epoch_002", "checkpoint_epoch_004", "checkpoint_epoch_006", "checkpoint_step_000056"];
    assert_eq!(names(dir.path()), kept);
    let last = crate::checkpoint::read(&dir.path().join("checkpoint_epoch_006"), None).expect("whole");
    let best: Vec<&str> = last.state.best.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(best, ["checkpoint_epoch_002", "checkpoint_epoch_004"]);
}

/// Boundaries of the same step until something is seen.
fn until_seen(rank: &mut Rank) -> Result<Flow, WireError> {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = rank.at(At::Step { ends_epoch: false });
        if seen != Ok(Flow::On) || Instant::now() > until {
            return seen;
        }
        std::thread::yield_now();
    }
}

#[test]
fn what_fails_in_the_background_is_seen_at_a_later_boundary() {
    let (dir, plan) = (TempDir::new().expect("folder"), plan_with(1, 0.0));
    let folder = dir.path().join("checkpoints");
    let mut rank = Rank::new(&folder, &plan, Share::WHOLE);
    let listener = rank.lead(CheckpointReport::Accepted);
    std::fs::remove_dir(&folder).expect("empty");
    std::fs::write(&folder, b"in the way").expect("writes");
    rank.steps(1);
    let error = until_seen(&mut rank).expect_err("cannot be written");
    assert_eq!(error.code, messages::error::Code::ArtifactStoreUnavailable, "{error}");
    drop(rank);
    assert!(listener.join().expect("listens").is_empty());
}

#[test]
fn a_refused_report_stops_training() {
    let (dir, plan) = (TempDir::new().expect("folder"), plan_with(1, 0.0));
    let mut rank = Rank::new(dir.path(), &plan, Share::WHOLE);
    let listener = rank.lead(CheckpointReport::Refused);
    rank.steps(1);
    assert_eq!(until_seen(&mut rank), Ok(Flow::Stopped));
    drop(rank);
    assert_eq!(listener.join().expect("listens"), ["checkpoint_step_000001"]);
}

#[test]
fn a_new_leader_goes_on_with_the_books_and_saves_what_the_old_one_did_not() {
    let (dir, plan) = (TempDir::new().expect("folder"), plan_with(0, 0.0));
    let mut rank = Rank::new(dir.path(), &plan, Share::WHOLE);
    rank.epoch(1.0);
    rank.steps(1);
    assert!(names(dir.path()).is_empty());
    // The old leader died before the end of epoch 1 was on the disk.
    let listener = rank.lead(CheckpointReport::Accepted);
    rank.steps(2);
    assert_eq!(rank.at(At::Drain), Ok(Flow::On));
    let reported = rank.end(listener);
    assert_eq!(reported, ["checkpoint_step_000012", "checkpoint_step_000013"]);
    assert_eq!(names(dir.path()), reported);
}

#[test]
fn a_new_leader_writes_what_is_missing_where_training_still_stands() {
    let (dir, plan) = (TempDir::new().expect("folder"), plan_with(0, 0.0));
    let mut rank = Rank::new(dir.path(), &plan, Share::WHOLE);
    rank.epoch(1.0);
    let listener = rank.lead(CheckpointReport::Accepted);
    // Nothing is due, but it begins to lead.
    assert_eq!(rank.at(At::Step { ends_epoch: false }), Ok(Flow::On));
    assert_eq!(rank.end(listener), ["checkpoint_epoch_001"]);
    let written = crate::checkpoint::read(&dir.path().join("checkpoint_epoch_001"), None).expect("whole");
    assert_eq!(written.state.best.len(), 1);
}

#[test]
fn a_best_that_never_was_in_place_gives_way_to_the_one_it_replaced() {
    let (dir, plan) = (TempDir::new().expect("folder"), plan_with(0, 0.0));
    let mut old = Rank::new(dir.path(), &plan, Share::WHOLE);
    let mut rank = Rank::new(dir.path(), &plan, Share::WHOLE);
    let listener = old.lead(CheckpointReport::Accepted);
    for val_loss in [2.0, 3.0] {
        old.epoch(val_loss);
        rank.epoch(val_loss);
    }
    let best = rank.selection.best();
    assert_eq!(old.end(listener), ["checkpoint_epoch_001", "checkpoint_epoch_002"]);
    rank.epoch(1.0);
    assert_ne!(rank.selection.best(), best);
    // The old leader died while it wrote the third.
    let listener = rank.lead(CheckpointReport::Accepted);
    rank.steps(1);
    assert_eq!(rank.selection.best(), best);
    assert_eq!(rank.end(listener), ["checkpoint_step_000031"]);
    assert_eq!(names(dir.path()), ["checkpoint_epoch_001", "checkpoint_epoch_002", "checkpoint_step_000031"]);
}
