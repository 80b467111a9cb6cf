//! What one event costs the coordinator's state with 10,000 workers and 100,000 jobs in memory.
//! Everything but the state is left out: commits succeed at once, workers answer at once.
//!
//! `cargo bench -p within-coordinator --bench scale [-- WORKERS JOBS]` prints one JSON object a line.

use std::collections::VecDeque;
use std::time::Instant;

use messages::event::{MetricSummary, ModelRef};
use messages::gang::{Join, Offer, OfferAnswer};
use messages::job::Role;
use messages::rpc::{Claim, ClaimAnswer, Report, ReportBody};
use messages::timings::Timings;
use messages::work::{TaskOutput, Work};
use messages::worker::Heartbeat;
use messages::{ArtifactRef, Fence, JobId, UnixMs, WorkerId};
use within_coordinator::state::{Answer, Effect, Input, State, Submission};

struct Bench {
    state: State,
    now: UnixMs,
    revision: u64,
    token: u64,
    inputs: VecDeque<Input>,
    events: u64,
    ended: u64,
    /// The work behind the token of a claim or a join.
    works: std::collections::HashMap<u64, (Work, WorkerId)>,
}

fn worker(number: u64) -> WorkerId {
    WorkerId::new(format!("w{number}")).expect("invariant: a token")
}

fn artifact() -> ArtifactRef {
    ArtifactRef { uri: "file:///a".into(), blake3: String::new(), size_bytes: 1 }
}

fn beat(number: u64, role: Role, sequence: u64) -> Heartbeat {
    Heartbeat {
        worker: worker(number),
        role,
        host: "host".into(),
        pid: 1,
        build: "bench".into(),
        fingerprint: "cpu".into(),
        slots: 1,
        slots_free: 1,
        held: Vec::new(),
        draining: false,
        sequence,
    }
}

impl Bench {
    fn new(workers: u64) -> Self {
        let mut bench = Self {
            state: State::new(Timings::default(), [0; 32]),
            now: 1_000_000,
            revision: 0,
            token: 0,
            inputs: VecDeque::new(),
            events: 0,
            ended: 0,
            works: std::collections::HashMap::new(),
        };
        for number in 0..workers {
            for role in [Role::DataLoader, Role::Trainer, Role::Evaluator, Role::Tracker] {
                bench.inputs.push_back(Input::Heartbeat(Box::new(beat(number, role, 1))));
            }
        }
        bench.run();
        bench
    }

    fn token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }

    fn submit(&mut self, number: u64) {
        let token = self.token();
        let submission = Submission {
            job: JobId::new(format!("job{number}")).expect("invariant: a token"),
            source: "/bench".into(),
            event_id: format!("job{number}"),
            content_blake3: String::new(),
            name: "bench".into(),
            spec: artifact(),
            plan: artifact(),
            deadline_ms: 86_400_000,
            max_attempts: 3,
            world_size: 1,
            min_world_size: 1,
            cuda: false,
            max_world_size: 1,
            warnings: Vec::new(),
            traceparent: None,
        };
        self.inputs.push_back(Input::Submit { token: Some(token), submission: Box::new(submission) });
    }

    fn run(&mut self) {
        while let Some(input) = self.inputs.pop_front() {
            self.events += 1;
            let effects = self.state.step(input, self.now);
            for effect in effects {
                self.perform(effect);
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Commit { record, .. } => {
                self.revision += 1;
                let input = Input::Committed { job: record.job.clone(), revision: self.revision };
                self.inputs.push_back(input);
            }
            Effect::PublishWork { work, .. } => {
                let (token, worker) = (self.token(), worker(self.token % 10_000));
                let claim = Claim {
                    job: work.job.clone(),
                    task: work.task.clone(),
                    attempt: work.attempt,
                    worker: worker.clone(),
                };
                self.works.insert(token, (*work, worker));
                self.inputs.push_back(Input::Claim { token, claim });
            }
            Effect::PublishOutbox { job, entry, .. } => {
                self.ended += u64::from(entry.event.is_terminal());
                self.inputs.push_back(Input::Published { job, id: entry.id });
            }
            Effect::Offer { worker, job, task, attempt, offer, .. } => self.offer(worker, job, task, attempt, *offer),
            Effect::Answer { token, answer } => self.answered(token, *answer),
            Effect::Emit { .. } | Effect::Control { .. } | Effect::Load { .. } => {}
        }
    }

    fn offer(&mut self, worker: WorkerId, job: JobId, task: messages::TaskId, attempt: u32, offer: Offer) {
        let answer = match offer {
            Offer::Reserve { slots, .. } => OfferAnswer::Accepted { slots, fingerprint: "cpu".into() },
            Offer::Release { .. } | Offer::Regroup { .. } => return,
            Offer::Start { work, fence, generation, ranks, .. } => {
                for rank in ranks {
                    let token = self.token();
                    let join = Join {
                        job: job.clone(),
                        task: task.clone(),
                        attempt,
                        fence,
                        generation,
                        rank,
                        worker: worker.clone(),
                        host: "host".into(),
                        pid: 1,
                        address: None,
                        left: None,
                    };
                    self.inputs.push_back(Input::Join { token, join });
                }
                self.report(&work, &worker, fence);
                OfferAnswer::Started
            }
        };
        self.inputs.push_back(Input::Offered { worker, job, task, attempt, answer: Some(answer) });
    }

    fn answered(&mut self, token: u64, answer: Answer) {
        let Some((work, worker)) = self.works.remove(&token) else { return };
        if let Answer::Claim(ClaimAnswer::Granted { fence }) = answer {
            self.report(&work, &worker, fence);
        }
    }

    fn report(&mut self, work: &Work, worker: &WorkerId, fence: Fence) {
        let token = self.token();
        let output = match work.task.as_str() {
            "prepare" => TaskOutput::Prepared {
                dataset: artifact(),
                rows_train: 1,
                rows_val: 1,
                rows_test: 1,
                warnings: Vec::new(),
                reports: std::collections::BTreeMap::new(),
                steps: Vec::new(),
            },
            "train" => TaskOutput::Trained {
                model: ModelRef {
                    uri: String::new(),
                    file_blake3: String::new(),
                    blake3: String::new(),
                    size_bytes: 1,
                },
                epochs: 1,
                steps: 1,
                stopped_early: false,
            },
            "evaluate" => TaskOutput::Evaluated { metrics: MetricSummary::default(), report: artifact() },
            _ => TaskOutput::Recorded { run: String::new() },
        };
        let report = Report {
            job: work.job.clone(),
            task: work.task.clone(),
            attempt: work.attempt,
            fence,
            worker: worker.clone(),
            body: ReportBody::Done { output },
        };
        self.inputs.push_back(Input::Report { token, report: Box::new(report) });
    }
}

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|text| text.parse().ok()).collect();
    let (workers, jobs) = (numbers.first().copied().unwrap_or(10_000), numbers.get(1).copied().unwrap_or(100_000));
    let mut bench = Bench::new(workers);
    let started = Instant::now();
    let before = bench.events;
    // All jobs are in memory before the first is worked on: the worst case for every scan.
    for number in 0..jobs {
        bench.submit(number);
    }
    bench.run();
    let seconds = started.elapsed().as_secs_f64();
    let events = bench.events - before;
    let line = serde_json::json!({
        "name": "coordinator_event", "workers": workers, "jobs": jobs, "ended": bench.ended, "events": events,
        "figure": seconds * 1e6 / events as f64, "unit": "us/event",
    });
    println!("{line}");
    let started = Instant::now();
    let beats = 4 * workers;
    for number in 0..workers {
        for role in [Role::DataLoader, Role::Trainer, Role::Evaluator, Role::Tracker] {
            bench.inputs.push_back(Input::Heartbeat(Box::new(beat(number, role, 2))));
        }
    }
    bench.run();
    let line = serde_json::json!({
        "name": "coordinator_heartbeat", "workers": workers, "figure": started.elapsed().as_secs_f64() * 1e6 / beats as f64,
        "unit": "us/event",
    });
    println!("{line}");
}
