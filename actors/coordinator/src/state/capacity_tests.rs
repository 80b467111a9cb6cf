//! What a job says that cannot run, and when it ends; a worker that comes again under its name.

use messages::error::{Class, Code};
use messages::job::{JobRecord, JobState, Role, TaskState};
use messages::timings::Timings;
use messages::work::TaskOutput;
use messages::worker::Heartbeat;
use messages::{ArtifactRef, JobId, TaskId, UnixMs, WorkerId};

use super::{Effect, Input, State, detail};

const DEADLINE_MS: u64 = 20_000;

fn artifact() -> ArtifactRef {
    ArtifactRef { uri: "file:///a".into(), blake3: "0".repeat(64), size_bytes: 1 }
}

/// A coordinator whose commits succeed at once.
struct Desk {
    state: State,
    revision: u64,
    now: UnixMs,
}

impl Desk {
    /// With one job whose training wants so many slots and waits for them.
    fn with_job(world_size: u32) -> Self {
        let mut desk = Self { state: State::new(Timings::default(), [0; 32]), revision: 0, now: 1_000 };
        let submission = super::Submission {
            job: job(),
            source: "test".into(),
            event_id: "j".into(),
            content_blake3: String::new(),
            name: "j".into(),
            spec: artifact(),
            plan: artifact(),
            deadline_ms: DEADLINE_MS,
            max_attempts: 3,
            world_size,
            min_world_size: world_size,
            cuda: false,
            max_world_size: world_size,
            warnings: Vec::new(),
            traceparent: None,
        };
        desk.input(Input::Submit { token: None, submission: Box::new(submission) });
        let mut record = desk.record();
        let prepare = record.tasks.iter_mut().find(|task| task.id.as_str() == "prepare").expect("a task");
        prepare.state = TaskState::Done;
        prepare.output = Some(TaskOutput::Prepared {
            dataset: artifact(),
            rows_train: 1,
            rows_val: 1,
            rows_test: 1,
            warnings: Vec::new(),
            reports: std::collections::BTreeMap::new(),
            steps: Vec::new(),
        });
        // As the next leader finds it.
        desk.state = State::new(Timings::default(), [0; 32]);
        let revision = desk.revision;
        desk.input(Input::Loaded { job: job(), record: Some(Box::new(record)), revision });
        desk
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for effect in self.state.step(input, self.now) {
                if let Effect::Commit { .. } = effect {
                    self.revision += 1;
                    inputs.push(Input::Committed { job: job(), revision: self.revision });
                }
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 250 {
            self.now += 250;
            self.input(Input::Tick);
        }
    }

    fn record(&self) -> JobRecord {
        self.state.record(&job()).expect("a record").clone()
    }

    fn waiting(&self) -> Option<String> {
        self.record().task(&TaskId::new("train").expect("an id")).expect("train").waiting.clone()
    }

    fn beat(&mut self, pid: u32, sequence: u64, draining: bool) {
        self.beat_of("w", "cpu", (pid, sequence, draining));
    }

    fn beat_of(&mut self, worker: &str, fingerprint: &str, (pid, sequence, draining): (u32, u64, bool)) {
        let beat = Heartbeat {
            worker: WorkerId::new(worker).expect("an id"),
            role: Role::Trainer,
            host: "host".into(),
            pid,
            build: "test".into(),
            fingerprint: fingerprint.into(),
            slots: 1,
            slots_free: 1,
            held: Vec::new(),
            draining,
            sequence,
        };
        self.input(Input::Heartbeat(Box::new(beat)));
    }
}

fn job() -> JobId {
    JobId::new("j").expect("an id")
}

#[test]
fn a_job_says_what_it_waits_for_and_ends_by_its_deadline() {
    let mut desk = Desk::with_job(2);
    desk.pass(4_000);
    assert_eq!(desk.waiting().as_deref(), Some("no trainer is up"));
    assert_eq!(detail(&desk.record()), "train waits: no trainer is up");
    for second in 1..=15 {
        desk.beat(1, second, false);
        desk.pass(1_000);
    }
    assert_eq!(desk.waiting().as_deref(), Some("2 trainer slots are needed, 1 exist"));
    desk.pass(3_000);
    let record = desk.record();
    let error = record.error.expect("an error");
    assert_eq!((record.state, error.class, error.code), (JobState::Failed, Class::Infrastructure, Code::NoCapacity));
    assert!(
        error.message.contains("deadline") && error.message.contains("2 trainer slots are needed, 1 exist"),
        "{error}"
    );
    assert!(!error.retry);
}

#[test]
fn slots_of_several_kinds_make_no_gang_and_that_is_said() {
    let mut desk = Desk::with_job(2);
    for second in 1..=6 {
        desk.beat_of("w0", "avx2", (1, second, false));
        desk.beat_of("w1", "avx512", (2, second, false));
        desk.pass(1_000);
    }
    let waits = desk.waiting().expect("it waits");
    assert!(waits.contains("kernel fingerprint") && waits.contains("2 exist, at most 1 of them alike"), "{waits}");
}

#[test]
fn a_worker_that_comes_again_under_its_name_is_heard_at_once() {
    let mut desk = Desk::with_job(2);
    let draining = |desk: &Desk| desk.state.workers().map(|(_, worker)| worker.draining).collect::<Vec<_>>();
    desk.beat(1, 7, true);
    // A late one of the same process changes nothing.
    desk.beat(1, 6, false);
    assert_eq!(draining(&desk), [true]);
    // Another process counts from the beginning.
    desk.beat(2, 1, false);
    assert_eq!(draining(&desk), [false]);
}
