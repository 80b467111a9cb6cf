//! Whole trainings without a bus: learning, resuming bit-exactly from every epoch and step, early
//! stopping, refusals. The same code that a rank runs, with rows in memory.

use std::path::Path;
use std::sync::Arc;

use messages::error::Code;
use messages::event::{Checkpoint, Event};
use messages::feed::Split;
use messages::plan::{
    Architecture, EarlyStoppingPlan, JobPlan, Loss, Mode, OptimizerType, Precision, SchedulerPlan, Task,
};
use messages::{Fence, JobId, TaskId};
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::fixtures::{TRAIN_ROWS, VAL_ROWS, WIDTH, manifest, plan, rows};
use super::outbox::CheckpointReport;
use super::*;
use crate::vitals::Vitals;

fn job(plan: JobPlan, dir: &Path, fence: u64, resume: Option<Checkpoint>) -> TrainJob {
    TrainJob {
        job: JobId::new("j").expect("id"),
        task: TaskId::new("train").expect("id"),
        attempt: 1,
        fence: Fence(fence),
        generation: 1,
        rank: 0,
        machine: None,
        threads: 2,
        manifest: Arc::new(manifest(plan.task, TRAIN_ROWS as u64, VAL_ROWS as u64)),
        plan,
        pretrained: None,
        dataset_blake3: "d".into(),
        resume,
        checkpoints: dir.into(),
    }
}

/// What a training said.
#[derive(Default)]
struct Heard {
    events: Vec<(String, Event)>,
    checkpoints: Vec<Checkpoint>,
}

impl Heard {
    fn hooks(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|(_, e)| match e {
                Event::Hook { hook, .. } => Some(hook.as_str()),
                _ => None,
            })
            .collect()
    }

    fn metric(&self, epoch: u32, name: &str) -> Option<f64> {
        self.events.iter().find_map(|(_, e)| match e {
            Event::Metric(m) if m.epoch == epoch => m.metrics.get(name).and_then(messages::event::MetricValue::get),
            _ => None,
        })
    }
}

/// Stops training once it says what this waits for.
type When = Box<dyn Fn(&Outgoing) -> Option<StopReason> + Send>;

fn never() -> When {
    Box::new(|_| None)
}

fn listen(mut outbox: mpsc::Receiver<Outgoing>, stop: Stop, when: When) -> std::thread::JoinHandle<Heard> {
    std::thread::spawn(move || {
        let mut heard = Heard::default();
        while let Some(outgoing) = outbox.blocking_recv() {
            if let Some(reason) = when(&outgoing) {
                stop.ask(reason);
            }
            match outgoing {
                Outgoing::Event { id, event, .. } => heard.events.push((id, event)),
                Outgoing::Checkpoint { checkpoint, answer } => {
                    heard.checkpoints.push(checkpoint);
                    let fenced = matches!(stop.reason(), Some(StopReason::Fenced { .. }));
                    let report = if fenced { CheckpointReport::Refused } else { CheckpointReport::Accepted };
                    answer.send(report).expect("training waits for the answer");
                }
            }
        }
        heard
    })
}

fn run_until(job: TrainJob, when: When) -> (Result<Outcome, messages::WireError>, Heard) {
    let task = job.plan.task;
    let sources =
        [BatchSource::memory(rows(task, TRAIN_ROWS, 0)), BatchSource::memory(rows(task, VAL_ROWS, TRAIN_ROWS as u64))];
    run_with(job, sources, &Stop::default(), when)
}

fn run_with(
    job: TrainJob,
    [train_source, val]: [BatchSource; 2],
    stop: &Stop,
    when: When,
) -> (Result<Outcome, messages::WireError>, Heard) {
    let (outbox, receiver) = Outbox::new(&job.job, &job.task, job.attempt, 0);
    let listener = listen(receiver, stop.clone(), when);
    let ports = Ports {
        train: train_source,
        val,
        outbox,
        vitals: Arc::new(Vitals::default()),
        stop: stop.clone(),
        rendezvous: None,
    };
    let outcome = train(job, ports);
    (outcome, listener.join().expect("listens"))
}

/// A feed over rows in memory that asks for a drain once `batches` of the train part are taken.
fn draining_feed(task: Task, batches: u64, stop: Stop) -> BatchSource {
    let (opener, mut requests) = mpsc::channel::<source::OpenRequest>(4);
    std::thread::spawn(move || {
        while let Some(request) = requests.blocking_recv() {
            let train_part = request.plan.split == Split::Train;
            let (n, first) = if train_part { (TRAIN_ROWS, 0) } else { (VAL_ROWS, TRAIN_ROWS as u64) };
            let mut memory = BatchSource::memory(rows(task, n, first));
            let (go_on, last_epoch) = (Stop::default(), request.plan.end_epoch);
            memory.open(request.plan, &go_on).expect("opens");
            let (out, stop) = (request.out, stop.clone());
            std::thread::spawn(move || {
                let mut sent = 0;
                while let Ok(Some(batch)) = memory.next(&go_on) {
                    if batch.epoch >= last_epoch || out.blocking_send(Ok(batch)).is_err() {
                        return;
                    }
                    sent += 1;
                    if train_part && sent == batches {
                        // All permits are back: every batch was taken.
                        let taken = futures::executor::block_on(out.reserve_many(source::PREFETCH_BATCHES)).map(drop);
                        stop.ask(drain());
                        return taken.unwrap_or_default();
                    }
                }
            });
        }
    });
    BatchSource::feed(opener)
}

fn run(job: TrainJob) -> (Trained, Heard) {
    let (outcome, heard) = run_until(job, never());
    match outcome.expect("trains") {
        Outcome::Finished(trained) => (*trained, heard),
        other => panic!("stopped: {other:?}"),
    }
}

fn drain() -> StopReason {
    StopReason::Drain { reason: "test".into() }
}

#[test]
fn each_task_is_learned_and_the_model_file_serves_alone() {
    for (task, metric, at_least) in [
        (Task::Regression, "val_r2", 0.85),
        (Task::BinaryClassification, "val_auc", 0.9),
        (Task::Multiclass, "val_accuracy", 0.7),
    ] {
        let dir = TempDir::new().expect("folder");
        let mut p = plan(task);
        p.training.epochs = 15;
        let (trained, heard) = run(job(p, dir.path(), 1, None));
        assert!(heard.metric(15, metric) > Some(at_least), "{metric}: {:?}", heard.metric(15, metric));
        assert!(heard.metric(15, "loss") < heard.metric(1, "loss"));
        assert!(heard.metric(1, "val_loss").is_some() && heard.metric(1, "lr") == Some(0.01));
        let (model, serving) = frame::model_file::read(&trained.file).expect("reads");
        assert_eq!(kernels::weights::params_blake3(&model), trained.params_blake3);
        assert_eq!((serving.feature_names.len(), serving.target.task), (WIDTH, task));
        assert_eq!((trained.epochs, trained.steps), (15, 150));
    }
}

#[test]
fn hooks_and_events_come_in_order_with_unique_ids() {
    let dir = TempDir::new().expect("folder");
    let mut p = plan(Task::Regression);
    p.training.epochs = 2;
    let (_, heard) = run(job(p, dir.path(), 7, None));
    assert_eq!(
        heard.hooks(),
        ["on_train_begin", "on_epoch_begin", "on_epoch_end", "on_epoch_begin", "on_epoch_end", "on_train_end"]
    );
    let ids: std::collections::BTreeSet<&str> = heard.events.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids.len(), heard.events.len());
    assert!(ids.contains("j.train.1.on_train_begin.0"));
    assert!(heard.events.iter().any(|(_, e)| matches!(e, Event::Progress(p) if p.step == 1 && p.steps == 20)));
    assert!(heard.events.iter().any(|(_, e)| matches!(e, Event::Progress(p) if p.step == 20)));
}

/// Variations that must all survive an interruption.
fn variants() -> Vec<(&'static str, JobPlan)> {
    let base = plan(Task::Regression);
    let with = |change: &dyn Fn(&mut JobPlan)| {
        let mut p = base.clone();
        change(&mut p);
        p
    };
    vec![
        ("adamw", base.clone()),
        ("accumulation", with(&|p| p.training.accumulation_steps = 3)),
        (
            "f16, lamb",
            with(&|p| {
                p.training.precision = Precision::F16;
                p.training.optimizer.r#type = OptimizerType::Lamb;
            }),
        ),
        (
            "plateau",
            with(&|p| {
                p.training.scheduler = SchedulerPlan::ReduceOnPlateau {
                    factor: 0.5,
                    patience: 0,
                    threshold: 0.5,
                    cooldown: 0,
                    min_lr: 0.0,
                };
            }),
        ),
        (
            "one cycle, sgd",
            with(&|p| {
                p.training.optimizer.r#type = OptimizerType::Sgd;
                p.training.optimizer.momentum = 0.9;
                p.training.scheduler =
                    SchedulerPlan::OneCycle { max_lr: 0.01, pct_start: 0.3, div_factor: 25.0, final_div_factor: 1e4 };
            }),
        ),
        (
            "early stopping",
            with(&|p| {
                p.training.epochs = 6;
                p.training.early_stopping = Some(EarlyStoppingPlan {
                    monitor: "val_rmse".into(),
                    patience: 2,
                    min_delta: 10.0,
                    mode: Mode::Min,
                    restore_best: true,
                });
            }),
        ),
        (
            "last model, rare checkpoints",
            with(&|p| {
                p.training.checkpoint.save_freq = 3;
                p.training.checkpoint.keep_best = 0;
            }),
        ),
    ]
}

#[test]
fn a_run_interrupted_at_any_epoch_gives_the_same_bits() {
    for (name, p) in variants() {
        let straight_dir = TempDir::new().expect("folder");
        let (straight, heard) = run(job(p.clone(), straight_dir.path(), 1, None));
        for (at, of_straight) in heard.checkpoints.iter().enumerate() {
            // The lease passes on while the next checkpoint is reported; the next holder begins at this one.
            let dir = TempDir::new().expect("folder");
            let epoch = of_straight.epoch;
            let after = move |o: &Outgoing| match o {
                Outgoing::Checkpoint { checkpoint, .. } if checkpoint.epoch > epoch => {
                    Some(StopReason::Fenced { reason: "passed on".into() })
                }
                _ => None,
            };
            let (_, partial) = run_until(job(p.clone(), dir.path(), 1, None), Box::new(after));
            let resume = partial.checkpoints[at].clone();
            assert_eq!(resume.epoch, epoch);
            let (again, _) = run(job(p.clone(), dir.path(), 2, Some(resume)));
            assert_eq!(again, straight, "{name}, after checkpoint {at}");
        }
    }
}

#[test]
fn checkpoints_by_steps_lie_between_those_of_epochs_and_give_the_same_bits() {
    let mut p = plan(Task::Regression);
    p.training.checkpoint.save_steps = 5;
    p.training.checkpoint.save_freq = 2;
    let dir = TempDir::new().expect("folder");
    let (straight, heard) = run(job(p.clone(), dir.path(), 1, None));
    let names: Vec<&str> = heard.checkpoints.iter().map(|c| c.name.as_str()).collect();
    let [five, ten, fifteen] = ["checkpoint_step_000005", "checkpoint_step_000010", "checkpoint_step_000015"];
    let [later, thirty, last] = ["checkpoint_step_000025", "checkpoint_step_000030", "checkpoint_step_000035"];
    let expected = [five, ten, fifteen, "checkpoint_epoch_002", later, thirty, last, "checkpoint_epoch_004"];
    assert_eq!(names, expected);
    for of_straight in &heard.checkpoints[..7] {
        let (dir, step) = (TempDir::new().expect("folder"), of_straight.step);
        let after = move |o: &Outgoing| match o {
            Outgoing::Checkpoint { checkpoint, .. } if checkpoint.step > step => {
                Some(StopReason::Fenced { reason: "passed on".into() })
            }
            _ => None,
        };
        let (_, partial) = run_until(job(p.clone(), dir.path(), 1, None), Box::new(after));
        let resume = partial.checkpoints.iter().find(|c| c.step == step).cloned().expect("was reported");
        let (again, said) = run(job(p.clone(), dir.path(), 2, Some(resume)));
        assert_eq!(again, straight, "after {}", of_straight.name);
        assert!(!said.events.iter().any(|(_, e)| matches!(e, Event::CheckpointRefused { .. })));
    }
}

#[test]
fn drains_at_step_boundaries_any_number_of_times_give_the_same_bits() {
    for ((name, p), batches) in variants().into_iter().flat_map(|v| [(v.clone(), 5), (v, 7)]) {
        let straight_dir = TempDir::new().expect("folder");
        let (straight, _) = run(job(p.clone(), straight_dir.path(), 1, None));
        let dir = TempDir::new().expect("folder");
        let (mut resume, mut names) = (None, Vec::new());
        let finished = loop {
            let fence = 1 + names.len() as u64;
            let stop = Stop::default();
            let sources = [draining_feed(p.task, batches, stop.clone()), draining_feed(p.task, batches, stop.clone())];
            let (outcome, heard) = run_with(job(p.clone(), dir.path(), fence, resume.clone()), sources, &stop, never());
            match outcome.expect("trains or drains") {
                Outcome::Finished(trained) => break trained,
                Outcome::Stopped(reason) => assert_eq!(reason, drain()),
                left @ Outcome::Left { .. } => panic!("{left:?}"),
            }
            let last = heard.checkpoints.last().expect("a drain leaves a checkpoint").clone();
            assert!(resume.as_ref().is_none_or(|before: &Checkpoint| before.step < last.step), "{name}: no progress");
            names.push(last.name.clone());
            resume = Some(last);
        };
        assert_eq!(*finished, straight, "{name}, drained at {names:?}");
        assert!(names.iter().filter(|n| n.starts_with("checkpoint_step_")).count() >= 2, "{name}: {names:?}");
    }
}

#[test]
fn threads_do_not_change_the_bits() {
    let hash = |threads| {
        let dir = TempDir::new().expect("folder");
        run(TrainJob { threads, ..job(plan(Task::Multiclass), dir.path(), 1, None) }).0.params_blake3
    };
    assert_eq!(hash(1), hash(3));
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_previous_one_gives_the_same_bits() {
    let p = plan(Task::Regression);
    let dir = TempDir::new().expect("folder");
    let (straight, heard) = run(job(p.clone(), dir.path(), 1, None));
    let last = heard.checkpoints.last().cloned().expect("a checkpoint");
    let file = dir.path().join(&last.name).join("optimizer.safetensors");
    let mut bytes = std::fs::read(&file).expect("reads");
    bytes.truncate(bytes.len() - 7);
    std::fs::write(&file, bytes).expect("writes");
    let (again, heard) = run(job(p.clone(), dir.path(), 2, Some(last.clone())));
    assert_eq!(again.file, straight.file);
    let Some((_, Event::Hook { detail: Some(detail), .. })) = heard.events.first() else { panic!("no detail") };
    assert!(detail.contains("refused") && detail.contains("resumed from checkpoint_epoch_003"), "{detail}");
    let told = heard.events.iter().find_map(|(_, event)| match event {
        Event::CheckpointRefused { name, reason, used, .. } => Some((name.as_str(), reason.as_str(), used.as_deref())),
        _ => None,
    });
    let (name, reason, used) = told.expect("an event of its own");
    assert_eq!((name, used), (last.name.as_str(), Some("checkpoint_epoch_003")));
    assert!(reason.contains("optimizer.safetensors") && reason.contains("BLAKE3"), "{reason}");
    // All gone: begun anew, and still the same.
    std::fs::remove_dir_all(dir.path()).expect("removes");
    let (anew, _) = run(job(p, dir.path(), 3, Some(last)));
    assert_eq!(anew.file, straight.file);
}

#[test]
fn the_latest_and_the_best_checkpoints_stay() {
    let dir = TempDir::new().expect("folder");
    let mut p = plan(Task::Regression);
    p.training.epochs = 8;
    // The metric only gets worse, so the first two are the best.
    p.training.checkpoint.metric_name = "val_r2".into();
    p.training.checkpoint.mode = Mode::Min;
    run(job(p, dir.path(), 1, None));
    let mut names: Vec<String> = std::fs::read_dir(dir.path())
        .expect("lists")
        .map(|e| e.expect("entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["checkpoint_epoch_001", "checkpoint_epoch_002", "checkpoint_epoch_007", "checkpoint_epoch_008"]);
}

#[test]
fn early_stopping_stops_says_why_and_restores_the_best() {
    let dir = TempDir::new().expect("folder");
    let mut p = plan(Task::Regression);
    p.training.epochs = 50;
    p.training.early_stopping = Some(EarlyStoppingPlan {
        monitor: "val_loss".into(),
        patience: 3,
        min_delta: 100.0,
        mode: Mode::Min,
        restore_best: false,
    });
    let (last, heard) = run(job(p.clone(), dir.path(), 1, None));
    assert_eq!((last.epochs, last.stopped_early), (4, true));
    assert_eq!(heard.hooks().iter().filter(|h| **h == "should_stop").count(), 1);
    // The loss falls in every epoch, so the best of four epochs is the fourth, and of one the first.
    let one_dir = TempDir::new().expect("folder");
    p.training.early_stopping = None;
    p.training.epochs = 4;
    let (four, _) = run(job(p, one_dir.path(), 1, None));
    assert_eq!(four.params_blake3, last.params_blake3);
}

#[test]
fn the_best_model_is_announced_not_the_last() {
    let dir = TempDir::new().expect("folder");
    let mut p = plan(Task::Regression);
    // "Best" is the largest loss: the first epoch.
    p.training.checkpoint.mode = Mode::Max;
    let (trained, heard) = run(job(p.clone(), dir.path(), 1, None));
    assert!(heard.metric(1, "val_loss") > heard.metric(4, "val_loss"));
    let (_, serving) = frame::model_file::read(&trained.file).expect("reads");
    assert_eq!(serving.epoch, 1);
    let first = dir.path().join("checkpoint_epoch_001").join("model.safetensors");
    let (model, _) = kernels::weights::load(&std::fs::read(first).expect("reads")).expect("loads");
    assert_eq!(kernels::weights::params_blake3(&model), trained.params_blake3);
}

#[test]
fn a_fenced_rank_stops_at_once_and_leaves_what_it_had() {
    let dir = TempDir::new().expect("folder");
    let (outcome, heard) = run_until(
        job(plan(Task::Regression), dir.path(), 1, None),
        Box::new(|o| match o {
            Outgoing::Checkpoint { checkpoint, .. } if checkpoint.epoch == 2 => {
                Some(StopReason::Fenced { reason: "f".into() })
            }
            _ => None,
        }),
    );
    assert_eq!(outcome, Ok(Outcome::Stopped(StopReason::Fenced { reason: "f".into() })));
    assert!(heard.checkpoints.len() <= 2, "nothing after the refusal");
    assert!(!heard.hooks().contains(&"on_train_end"));
}

#[test]
fn what_cannot_be_trained_is_refused_by_its_key() {
    type Change = fn(&mut JobPlan);
    let cases: [(Change, Code, &str); 6] = [
        (
            |p| {
                p.training.early_stopping = Some(EarlyStoppingPlan {
                    monitor: "val_nonsense".into(),
                    patience: 1,
                    min_delta: 0.0,
                    mode: Mode::Min,
                    restore_best: false,
                });
            },
            Code::ConfigError,
            "training.early_stopping.monitor",
        ),
        (|p| p.training.loss = Loss::CrossEntropy, Code::ConfigError, "training.loss"),
        (|p| p.task = Task::Multiclass, Code::ConfigError, "prepared for"),
        (
            |p| {
                p.data.drop_last = true;
                p.training.batch_size = 1_000;
            },
            Code::DatasetValidationError,
            "train part",
        ),
        (|p| p.training.optimizer.learning_rate = 1e30, Code::NumericError, "step"),
        (
            |p| {
                if let Architecture::Mlp(m) = &mut p.model.architecture {
                    m.dropout = 1.5;
                }
            },
            Code::ConfigError,
            "dropout",
        ),
    ];
    for (change, code, says) in cases {
        let dir = TempDir::new().expect("folder");
        let mut p = plan(Task::Regression);
        change(&mut p);
        let job = TrainJob { manifest: Arc::new(manifest(Task::Regression, 300, 100)), ..job(p, dir.path(), 1, None) };
        let (outcome, _) = run_until(job, never());
        let error = outcome.expect_err(says);
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(says), "{says}: {error}");
    }
}

#[test]
fn a_checkpoint_of_another_plan_is_not_resumed() {
    let dir = TempDir::new().expect("folder");
    let (_, heard) = run(job(plan(Task::Regression), dir.path(), 1, None));
    let mut other = plan(Task::Regression);
    other.training.optimizer.learning_rate = 0.02;
    let resume = heard.checkpoints.last().cloned();
    let (from_other, said) = run(job(other.clone(), dir.path(), 2, resume));
    let fresh = TempDir::new().expect("folder");
    let (anew, _) = run(job(other, fresh.path(), 1, None));
    assert_eq!(from_other.params_blake3, anew.params_blake3);
    let Some((_, Event::Hook { detail: Some(detail), .. })) = said.events.first() else { panic!("no detail") };
    assert!(detail.contains("of plan") && detail.contains("begun anew"), "{detail}");
}

#[test]
fn without_a_validation_part_training_goes_by_the_train_loss() {
    let dir = TempDir::new().expect("folder");
    let base = job(plan(Task::Regression), dir.path(), 1, None);
    let job = TrainJob { manifest: Arc::new(manifest(Task::Regression, TRAIN_ROWS as u64, 0)), ..base };
    let (outcome, heard) = run_until(job, never());
    let Ok(Outcome::Finished(trained)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(trained.epochs, 4);
    assert!(heard.metric(4, "loss").is_some() && heard.metric(4, "val_loss").is_none());
}
