//! The world of the simulation: the record store, the work stream, the event stream, the network,
//! two coordinators and some workers, driven by one seeded generator.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use messages::error::Code;
use messages::event::{MetricSummary, ModelRef};
use messages::gang::{Joined, Offer, OfferAnswer};
use messages::job::{JobRecord, JobState, Role};
use messages::rpc::{Cancel, Report, ReportAnswer, ReportBody};
use messages::timings::Timings;
use messages::work::{TaskOutput, Work};
use messages::{ArtifactRef, Fence, JobId, TaskId, UnixMs, WireError};

use super::ranks::{Phase as RankPhase, Rank, Tell};
use super::worker::{Attempt, Phase, SimWorker, role_of};
use crate::state::{Answer, Effect, Input, State, Submission, Token};

/// Simulated milliseconds with disturbances, and without afterwards.
const STORM_MS: u64 = 12_000;
const CALM_MS: u64 = 120_000;
/// In the calm, so much later everything that the storm has broken has been noticed.
const CLEARED_MS: u64 = 20_000;
const DEADLINE_MS: u64 = 100_000;
const STEP_MS: u64 = 100;
const START_MS: UnixMs = 1_000_000;

pub type Key = (JobId, TaskId);

/// Who asked, by token.
#[derive(Debug, Clone)]
pub enum Asker {
    Claim {
        worker: usize,
        key: Key,
        attempt: u32,
    },
    Report {
        worker: usize,
        key: Key,
        fence: Fence,
        body: Box<ReportBody>,
    },
    Join {
        worker: usize,
        key: Key,
        attempt: u32,
        rank: u32,
    },
    /// A rank that reports by itself, and its worker in its name.
    RankReport {
        worker: usize,
        attempt: u32,
        rank: u32,
        report: Box<Report>,
    },
    Tell {
        report: Box<Report>,
    },
    Submitter,
}

#[derive(Debug, Clone)]
enum Packet {
    To { coordinator: usize, term: u64, input: Input },
    Commit { coordinator: usize, term: u64, record: Box<JobRecord>, revision: u64 },
    Load { coordinator: usize, term: u64, job: JobId },
    Outbox { coordinator: usize, term: u64, job: JobId, id: String, name: &'static str, terminal: bool },
    Work(Box<Work>),
    Offer { coordinator: usize, term: u64, worker: usize, job: JobId, task: TaskId, attempt: u32, offer: Box<Offer> },
    Control { worker: usize, control: messages::worker::Control },
    Answer { token: Token, answer: Box<Answer> },
}

struct Leader {
    state: State,
    term: u64,
    clock_skew: i64,
}

/// A message of the work stream.
struct Queued {
    work: Work,
    redeliver_at: UnixMs,
}

pub struct World {
    random: u64,
    storm: bool,
    pub now: UnixMs,
    timings: Timings,
    records: BTreeMap<JobId, (JobRecord, u64)>,
    sequence: u64,
    coordinators: [Option<Leader>; 2],
    term: u64,
    pub workers: Vec<SimWorker>,
    pub ranks: Vec<Rank>,
    pub tells: Vec<Tell>,
    /// Workers whose ranks cannot exchange, and until when.
    pub partitions: Vec<(usize, usize, UnixMs)>,
    /// Followers that have done all steps.
    pub finished: BTreeSet<(JobId, u32, u32)>,
    /// What those who joined were told, by generation.
    pub met: BTreeMap<(JobId, u32), Rc<Joined>>,
    stream: BTreeMap<(JobId, TaskId, u32), Queued>,
    stored: BTreeMap<JobId, BTreeSet<&'static str>>,
    terminal: BTreeMap<JobId, &'static str>,
    network: BTreeMap<(UnixMs, u64), Packet>,
    askers: BTreeMap<Token, Asker>,
    /// Requests that a coordinator of this term has not answered.
    open: BTreeSet<(usize, u64, Token)>,
    next: u64,
    done: BTreeMap<Key, Fence>,
    submitted: Vec<Submission>,
    boots: u32,
    pub fault: Option<String>,
    /// When the calm began, and the failures once it had cleared.
    calm_since: UnixMs,
    failures: Option<BTreeMap<JobId, u32>>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::build(seed, true)
    }

    pub fn calm(seed: u64) -> Self {
        Self::build(seed, false)
    }

    fn build(seed: u64, storm: bool) -> Self {
        let timings = Timings {
            ack_wait_ms: 3_000,
            heartbeat_ms: 500,
            last_call_ms: 1_000,
            worker_lost_ms: 3_000,
            reserve_timeout_ms: 2_000,
            join_timeout_ms: 4_000,
            claim_timeout_ms: 60_000,
            tick_ms: 100,
            retry_backoff_ms: 200,
            ..Timings::default()
        };
        let mut world = Self {
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            storm,
            now: START_MS,
            timings,
            records: BTreeMap::new(),
            sequence: 0,
            coordinators: [None, None],
            term: 0,
            workers: Vec::new(),
            ranks: Vec::new(),
            tells: Vec::new(),
            partitions: Vec::new(),
            finished: BTreeSet::new(),
            met: BTreeMap::new(),
            stream: BTreeMap::new(),
            stored: BTreeMap::new(),
            terminal: BTreeMap::new(),
            network: BTreeMap::new(),
            askers: BTreeMap::new(),
            open: BTreeSet::new(),
            next: 1,
            done: BTreeMap::new(),
            submitted: Vec::new(),
            boots: 0,
            fault: None,
            calm_since: START_MS,
            failures: None,
        };
        world.lead(0);
        for _ in 0..2 + world.below(2) {
            world.boot();
        }
        let jobs = 1 + world.below(3);
        for number in 0..jobs {
            let submission = world.submission(number);
            world.submitted.push(submission.clone());
            for _ in 0..=world.below(2) {
                let token = world.token(Asker::Submitter);
                let input = Input::Submit { token: Some(token), submission: Box::new(submission.clone()) };
                world.ask_leader(input);
            }
        }
        world
    }

    fn next_random(&mut self) -> u64 {
        // splitmix64
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next_random() % n.max(1)
    }

    /// True once in `n`, and never in the calm.
    pub fn chance(&mut self, n: u64) -> bool {
        self.storm && self.below(n) == 0
    }

    fn submission(&mut self, number: u64) -> Submission {
        let artifact = ArtifactRef { uri: "file:///p".into(), blake3: String::new(), size_bytes: 0 };
        let world_size = 1 + self.below(3) as u32;
        let soon = self.chance(15);
        Submission {
            job: JobId::new(format!("job{number}")).expect("id"),
            source: "/test".into(),
            event_id: format!("job{number}"),
            content_blake3: "c".into(),
            name: "n".into(),
            spec: artifact.clone(),
            plan: artifact,
            deadline_ms: if soon { 3_000 + self.below(12_000) } else { DEADLINE_MS },
            max_attempts: 3 + self.below(3) as u32,
            world_size,
            min_world_size: 1 + self.below(u64::from(world_size)) as u32,
            cuda: false,
            max_world_size: world_size + self.below(2) as u32,
            warnings: Vec::new(),
            traceparent: None,
        }
    }

    fn boot(&mut self) {
        self.boots += 1;
        let worker = SimWorker::new(
            &format!("w{}", self.boots),
            vec![Role::DataLoader, Role::Trainer, Role::Evaluator, Role::Tracker],
            3,
            self.now,
        );
        self.workers.push(worker);
    }

    pub fn token(&mut self, asker: Asker) -> Token {
        self.next += 1;
        self.askers.insert(self.next, asker);
        self.next
    }

    fn send(&mut self, packet: Packet) {
        self.next += 1;
        let delay = if self.storm && self.below(12) == 0 { self.below(3_000) } else { 1 + self.below(20) };
        self.network.insert((self.now + delay, self.next), packet);
    }

    /// A packet of a lossy way: dropped or repeated now and then.
    fn send_lossy(&mut self, packet: Packet) {
        if self.chance(25) {
            return;
        }
        if self.chance(25) {
            self.send(packet.clone());
        }
        self.send(packet);
    }

    /// Requests reach whoever leads; with two at once, either.
    pub fn ask_leader(&mut self, input: Input) {
        let leading: Vec<(usize, u64)> =
            self.coordinators.iter().enumerate().filter_map(|(i, c)| c.as_ref().map(|c| (i, c.term))).collect();
        if leading.is_empty() {
            return;
        }
        let (coordinator, term) = leading[self.below(leading.len() as u64) as usize];
        if matches!(input, Input::Join { .. }) {
            // It would be repeated under another token.
            if !self.chance(25) {
                self.send(Packet::To { coordinator, term, input });
            }
            return;
        }
        self.send_lossy(Packet::To { coordinator, term, input });
    }

    fn lead(&mut self, index: usize) {
        self.term += 1;
        self.coordinators[index] =
            Some(Leader { state: State::new(self.timings, [0; 32]), term: self.term, clock_skew: 0 });
        let records: Vec<_> = self.records.values().filter(|(r, _)| !r.is_settled()).cloned().collect();
        for (record, revision) in records {
            let input = Input::Loaded { job: record.job.clone(), record: Some(Box::new(record)), revision };
            self.step(index, input);
        }
    }

    fn step(&mut self, index: usize, input: Input) {
        let Some(leader) = self.coordinators[index].as_mut() else { return };
        let now = self.now.saturating_add_signed(leader.clock_skew);
        let term = leader.term;
        if let Some(token) = token_of(&input) {
            self.open.insert((index, term, token));
        }
        let effects = leader.state.step(input, now);
        for effect in effects {
            self.effect(index, term, effect);
        }
    }

    fn effect(&mut self, coordinator: usize, term: u64, effect: Effect) {
        match effect {
            Effect::Commit { record, revision } => self.send(Packet::Commit { coordinator, term, record, revision }),
            Effect::Load { job } => self.send(Packet::Load { coordinator, term, job }),
            Effect::PublishWork { work, .. } => self.send_lossy(Packet::Work(work)),
            Effect::PublishOutbox { job, entry, .. } => {
                let (name, terminal) = (entry.event.name(), entry.event.is_terminal());
                self.send(Packet::Outbox { coordinator, term, job, id: entry.id, name, terminal });
            }
            Effect::Emit { .. } => {}
            Effect::Offer { worker, job, task, attempt, offer, .. } => {
                match self.workers.iter().position(|w| w.id == worker) {
                    Some(worker) if !self.chance(25) => {
                        self.send(Packet::Offer { coordinator, term, worker, job, task, attempt, offer });
                    }
                    _ => {
                        let input = Input::Offered { worker, job, task, attempt, answer: None };
                        self.send(Packet::To { coordinator, term, input });
                    }
                }
            }
            Effect::Control { worker, control } => {
                if let Some(worker) = self.workers.iter().position(|w| w.id == worker) {
                    self.send_lossy(Packet::Control { worker, control });
                }
            }
            Effect::Answer { token, answer } => {
                self.open.remove(&(coordinator, term, token));
                self.send_lossy(Packet::Answer { token, answer });
            }
        }
    }

    /// Runs the storm, then the calm, then looks at what is left.
    pub fn run(&mut self) -> Result<(), String> {
        let end = START_MS + STORM_MS;
        while self.storm && self.now < end && self.fault.is_none() {
            self.disturb();
            self.advance();
        }
        self.storm = false;
        self.calm_since = self.now;
        self.settle_down();
        let end = self.now + CALM_MS;
        while self.now < end && self.fault.is_none() && !self.is_quiet() {
            self.advance();
            if self.failures.is_none() && self.now >= self.calm_since + CLEARED_MS {
                self.failures = Some(self.failures_now());
            }
        }
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        self.check()
    }

    /// Everything that was stopped goes on; one coordinator leads; submitters that heard nothing ask again.
    fn settle_down(&mut self) {
        let first = usize::from(self.coordinators[0].is_none() && self.coordinators[1].is_some());
        let keep = if self.coordinators[first].is_some() { first } else { 0 };
        self.coordinators[1 - keep] = None;
        self.lead(keep);
        if self.workers.is_empty() {
            self.boot();
        }
        for worker in &mut self.workers {
            worker.paused_until = 0;
        }
        for submission in self.submitted.clone() {
            let token = self.token(Asker::Submitter);
            self.ask_leader(Input::Submit { token: Some(token), submission: Box::new(submission) });
        }
    }

    fn disturb(&mut self) {
        self.disturb_ranks();
        if self.chance(60) {
            let victim = self.below(self.workers.len() as u64) as usize;
            if victim < self.workers.len() {
                self.crash_worker(victim);
                self.boot();
            }
        }
        if self.chance(60) {
            let (victim, pause) = (self.below(self.workers.len() as u64) as usize, self.below(8_000));
            if let Some(worker) = self.workers.get_mut(victim) {
                worker.paused_until = self.now + pause;
            }
        }
        if self.chance(120) {
            let again = self.below(self.workers.len() as u64) as usize;
            if self.workers[again].paused_until != UnixMs::MAX {
                self.workers[again].restart(self.now);
                self.forget_ranks(again);
            }
        }
        if self.chance(100) {
            let index = self.below(2) as usize;
            self.coordinators[index] = None; // crash: what it had in flight comes back to nobody
            if self.coordinators.iter().all(Option::is_none) {
                let index = self.below(2) as usize;
                self.lead(index);
            }
        }
        if self.chance(120) {
            let other = usize::from(self.coordinators[0].is_some());
            if self.coordinators[other].is_none() {
                self.lead(other); // the first was paused, wakes up, and does not know yet
            }
        }
        if self.chance(120) {
            let skew = self.below(20_000) as i64 - 10_000;
            if let Some(leader) = self.coordinators.iter_mut().flatten().next() {
                leader.clock_skew = skew;
            }
        }
        if self.chance(400) && !self.submitted.is_empty() {
            let pick = self.below(self.submitted.len() as u64) as usize;
            let job = self.submitted[pick].job.clone();
            let token = self.token(Asker::Submitter);
            self.ask_leader(Input::Cancel { token: Some(token), cancel: Cancel { job, reason: None } });
        }
    }

    fn crash_worker(&mut self, victim: usize) {
        let worker = &mut self.workers[victim];
        worker.attempts.clear();
        worker.reserved.clear();
        worker.paused_until = UnixMs::MAX; // its id never comes back
        self.forget_ranks(victim);
    }

    fn advance(&mut self) {
        self.now += STEP_MS;
        while let Some(entry) = self.network.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let packet = entry.remove();
            self.deliver(packet);
        }
        for index in 0..self.workers.len() {
            if self.workers[index].paused_until <= self.now {
                self.work(index);
            }
        }
        self.turn_ranks();
        for index in 0..2 {
            self.step(index, Input::Tick);
        }
    }

    fn is_term(&self, coordinator: usize, term: u64) -> bool {
        self.coordinators[coordinator].as_ref().is_some_and(|c| c.term == term)
    }

    fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::To { coordinator, term, input } => {
                if self.is_term(coordinator, term) {
                    self.step(coordinator, input);
                }
            }
            Packet::Commit { coordinator, term, record, revision } => self.commit(coordinator, term, *record, revision),
            Packet::Load { coordinator, term, job } => {
                let found = self.records.get(&job).cloned();
                let (record, revision) = found.map_or((None, 0), |(r, revision)| (Some(Box::new(r)), revision));
                self.send(Packet::To { coordinator, term, input: Input::Loaded { job, record, revision } });
            }
            Packet::Outbox { coordinator, term, job, id, name, terminal } => {
                if terminal {
                    let first = *self.terminal.entry(job.clone()).or_insert(name);
                    if first != name {
                        self.fault = Some(format!("{job} ended twice: {first} and {name}"));
                    }
                }
                self.stored.entry(job.clone()).or_default().insert(name);
                if self.chance(30) {
                    // Its answer was lost: it is published again, and found stored.
                    self.send(Packet::Outbox { coordinator, term, job, id, name, terminal });
                } else {
                    self.send(Packet::To { coordinator, term, input: Input::Published { job, id } });
                }
            }
            Packet::Work(work) => {
                let key = (work.job.clone(), work.task.clone(), work.attempt);
                self.stream.entry(key).or_insert(Queued { work: *work, redeliver_at: 0 });
            }
            Packet::Offer { coordinator, term, worker, job, task, attempt, offer } => {
                let awake = self.workers[worker].paused_until <= self.now;
                let answer = awake.then(|| self.on_offer(worker, *offer));
                let lost = self.chance(25);
                let answer: Option<OfferAnswer> = answer.filter(|_| !lost);
                let worker = self.workers[worker].id.clone();
                let input = Input::Offered { worker, job, task, attempt, answer };
                self.send(Packet::To { coordinator, term, input });
            }
            Packet::Control { worker, control } => {
                if self.workers[worker].paused_until <= self.now {
                    self.workers[worker].on_control(&control);
                    self.stop_ranks(worker, &control);
                }
            }
            Packet::Answer { token, answer } => self.answered(token, *answer),
        }
    }

    fn commit(&mut self, coordinator: usize, term: u64, record: JobRecord, revision: u64) {
        let job = record.job.clone();
        let current = self.records.get(&job).map_or(0, |(_, revision)| *revision);
        let input = if current == revision {
            if let Some((before, _)) = self.records.get(&job)
                && before.state.is_terminal()
                && before.state != record.state
            {
                self.fault = Some(format!("{job} left the terminal state {:?} for {:?}", before.state, record.state));
            }
            self.sequence += 1;
            self.records.insert(job.clone(), (record, self.sequence));
            // Stored, but the answer was lost and the retry finds another revision.
            if self.chance(60) { Input::Conflicted { job } } else { Input::Committed { job, revision: self.sequence } }
        } else {
            Input::Conflicted { job }
        };
        self.send(Packet::To { coordinator, term, input });
    }

    fn answered(&mut self, token: Token, answer: Answer) {
        let Some(asker) = self.askers.remove(&token) else { return };
        let now = self.now;
        let busy_for = 200 + self.below(3_000);
        match (asker, answer) {
            (Asker::Claim { worker, key, attempt }, Answer::Claim(answer)) => {
                if self.workers[worker].paused_until > now {
                    return;
                }
                if self.workers[worker].on_claimed(&key, attempt, &answer, now + busy_for) {
                    self.stream.remove(&(key.0, key.1, attempt));
                }
            }
            (Asker::Report { worker, key, fence, body }, Answer::Report(answer)) => {
                self.note_done(&key, fence, &body, &answer);
                if self.workers[worker].paused_until > now {
                    return;
                }
                if let Some(attempt) = self.workers[worker].on_reported(&key, fence, &body) {
                    self.stream.remove(&(key.0.clone(), key.1.clone(), attempt));
                }
            }
            (Asker::Join { worker, key, attempt, rank }, answer) => {
                let Some(index) = self.find_rank(worker, &key, attempt, rank) else { return };
                match answer {
                    Answer::Joined(joined) => self.on_joined(index, joined),
                    Answer::Error(error) if error.code == Code::Fenced || error.code == Code::JobNotFound => {
                        let says = self.below(2) == 0;
                        match self.ranks[index].phase {
                            RankPhase::Joining if says => self.end_rank(index, Code::WorkerDied),
                            RankPhase::Joining => drop(self.ranks.remove(index)),
                            _ => {}
                        }
                    }
                    _ => {}
                }
            }
            (Asker::RankReport { worker, attempt, rank, report }, Answer::Report(answer)) => {
                let key = (report.job.clone(), report.task.clone());
                self.note_done(&key, report.fence, &report.body, &answer);
                let Some(index) = self.find_rank(worker, &key, attempt, rank) else { return };
                self.ranks.remove(index);
            }
            (Asker::Tell { report }, Answer::Report(_)) => self.tells.retain(|tell| tell.report != *report),
            _ => {}
        }
    }

    fn note_done(&mut self, key: &Key, fence: Fence, body: &ReportBody, answer: &ReportAnswer) {
        if *answer == ReportAnswer::Accepted && matches!(body, ReportBody::Done { .. }) {
            let first = *self.done.entry(key.clone()).or_insert(fence);
            if first != fence {
                self.fault = Some(format!("{key:?} was done under fence {first} and under {fence}"));
            }
        }
    }

    /// One worker's turn: beat, pull, ask again, finish.
    fn work(&mut self, index: usize) {
        if self.workers[index].next_beat <= self.now {
            self.workers[index].next_beat = self.now + self.timings.heartbeat_ms;
            let gangs = self.held_gangs(index);
            for beat in self.workers[index].beats(&gangs) {
                for coordinator in 0..2 {
                    if let Some(term) = self.coordinators[coordinator].as_ref().map(|c| c.term) {
                        let input = Input::Heartbeat(Box::new(beat.clone()));
                        self.send_lossy(Packet::To { coordinator, term, input });
                    }
                }
            }
        }
        self.pull(index);
        let due: Vec<Key> =
            self.workers[index].attempts.iter().filter(|(_, a)| a.at <= self.now).map(|(k, _)| k.clone()).collect();
        for key in due {
            self.turn(index, &key);
        }
    }

    fn pull(&mut self, index: usize) {
        if self.workers[index].attempts.len() >= 3 {
            return;
        }
        let now = self.now;
        let known = &self.workers[index].attempts;
        let pick = self
            .stream
            .iter()
            .find(|((job, task, _), m)| m.redeliver_at <= now && !known.contains_key(&(job.clone(), task.clone())))
            .map(|(key, _)| key.clone());
        let Some(pick) = pick else { return };
        let Some(message) = self.stream.get_mut(&pick) else { return };
        message.redeliver_at = now + self.timings.ack_wait_ms;
        let work = message.work.clone();
        let attempt = Attempt::new(work, Phase::Claiming, now);
        self.workers[index].attempts.insert((pick.0, pick.1), attempt);
    }

    fn turn(&mut self, index: usize, key: &Key) {
        let again = self.now + 1_000 + self.below(500);
        let Some(mut attempt) = self.workers[index].attempts.get(key).cloned() else { return };
        match attempt.phase.clone() {
            Phase::Claiming => {
                let claim = self.workers[index].claim(&attempt.work);
                let token = self.token(Asker::Claim { worker: index, key: key.clone(), attempt: attempt.work.attempt });
                self.ask_leader(Input::Claim { token, claim });
                attempt.at = again;
            }
            Phase::Working(fence) => {
                attempt.phase = Phase::Reporting(fence, Box::new(self.outcome(&key.1)));
                attempt.at = self.now;
            }
            Phase::Reporting(fence, _) => {
                if let Some(report) = self.workers[index].report(&attempt) {
                    let body = Box::new(report.body.clone());
                    let token = self.token(Asker::Report { worker: index, key: key.clone(), fence, body });
                    self.ask_leader(Input::Report { token, report: Box::new(report) });
                }
                attempt.at = again;
            }
        }
        if let Some(slot) = self.workers[index].attempts.get_mut(key) {
            *slot = attempt;
        }
    }

    fn outcome(&mut self, task: &TaskId) -> ReportBody {
        if self.chance(12) {
            let code = if self.below(6) == 0 { Code::DatasetValidationError } else { Code::WorkerDied };
            return ReportBody::Failed { error: WireError::new(code, "simulated") };
        }
        if self.chance(15) {
            return ReportBody::Released { reason: "simulated drain".into() };
        }
        ReportBody::Done { output: output(role_of(task)) }
    }

    fn is_quiet(&self) -> bool {
        let settled = self.submitted.iter().all(|s| self.records.get(&s.job).is_some_and(|(r, _)| r.is_settled()));
        let answered = !self.open.iter().any(|(coordinator, term, _)| self.is_term(*coordinator, *term));
        settled
            && answered
            && self.ranks.is_empty()
            && self
                .workers
                .iter()
                .filter(|w| w.paused_until <= self.now)
                .all(|w| w.slots_reserved(self.now) == 0 && w.attempts.is_empty())
    }

    fn check(&self) -> Result<(), String> {
        for submission in &self.submitted {
            let job = &submission.job;
            let Some((record, _)) = self.records.get(job) else { return Err(format!("{job} was lost")) };
            if !record.is_settled() {
                return Err(format!("{job} has not ended: {:?}, {:?}", record.state, record.tasks));
            }
            // Once the storm has cleared, somebody could always have run it.
            let cleared = record.since >= self.calm_since + CLEARED_MS;
            let forgotten = |e: &WireError| e.code == Code::DeadlineExceeded || (cleared && e.code == Code::NoCapacity);
            let patient = |e: &&WireError| submission.deadline_ms == DEADLINE_MS && forgotten(e);
            if let Some(error) = record.error.as_ref().filter(patient) {
                return Err(format!("{job} was forgotten: {error}"));
            }
            let expected = match record.state {
                JobState::Succeeded => "completed",
                JobState::Failed => "failed",
                _ => "cancelled",
            };
            if self.terminal.get(job) != Some(&expected) {
                return Err(format!("{job} is {expected}, its event is {:?}", self.terminal.get(job)));
            }
            if !self.stored.get(job).is_some_and(|names| names.contains("accepted")) {
                return Err(format!("{job} was never announced as accepted"));
            }
        }
        for worker in self.workers.iter().filter(|w| w.paused_until <= self.now) {
            if worker.slots_reserved(self.now) > 0 || !worker.attempts.is_empty() {
                return Err(format!("{} still holds {:?} {:?}", worker.id, worker.reserved, worker.attempts));
            }
        }
        if !self.ranks.is_empty() {
            return Err(format!("ranks still run: {:?}", self.ranks));
        }
        if let Some(before) = self.failures.as_ref().filter(|before| **before != self.failures_now()) {
            return Err(format!("an attempt failed in the calm: {before:?}, {:?}", self.failures_now()));
        }
        let alive: Vec<_> =
            self.open.iter().filter(|(coordinator, term, _)| self.is_term(*coordinator, *term)).collect();
        if !alive.is_empty() {
            let asked: Vec<_> = alive.iter().map(|(_, _, token)| self.askers.get(token)).collect();
            return Err(format!("requests were never answered: {alive:?} {asked:?}"));
        }
        for leader in self.coordinators.iter().flatten() {
            let left: Vec<_> = leader.state.workers().filter(|(_, w)| w.holds_reservations()).collect();
            if !left.is_empty() {
                return Err(format!("slots leaked in the coordinator: {left:?}"));
            }
        }
        Ok(())
    }

    pub fn jobs(&self) -> usize {
        self.submitted.len()
    }

    pub fn succeeded(&self) -> usize {
        self.records.values().filter(|(r, _)| r.state == JobState::Succeeded).count()
    }

    fn failures_now(&self) -> BTreeMap<JobId, u32> {
        let failures = |r: &JobRecord| r.tasks.iter().map(|task| task.failures).sum();
        self.records.iter().map(|(job, (record, _))| (job.clone(), failures(record))).collect()
    }

    /// Generations that gangs have met in.
    pub fn generations(&self) -> usize {
        self.met.len()
    }

    pub fn retries(&self) -> u32 {
        self.records.values().flat_map(|(r, _)| &r.tasks).map(|t| t.attempt - 1).sum()
    }
}

pub fn output(role: Role) -> TaskOutput {
    let artifact = ArtifactRef { uri: "file:///a".into(), blake3: String::new(), size_bytes: 1 };
    match role {
        Role::DataLoader => TaskOutput::Prepared {
            dataset: artifact,
            rows_train: 1,
            rows_val: 1,
            rows_test: 1,
            warnings: Vec::new(),
            steps: Vec::new(),
            reports: std::collections::BTreeMap::new(),
        },
        Role::Trainer => TaskOutput::Trained {
            model: ModelRef {
                uri: "file:///m".into(),
                file_blake3: String::new(),
                blake3: String::new(),
                size_bytes: 1,
            },
            epochs: 1,
            steps: 1,
            stopped_early: false,
        },
        Role::Evaluator => TaskOutput::Evaluated { metrics: MetricSummary::default(), report: artifact },
        _ => TaskOutput::Recorded { run: "r".into() },
    }
}

fn token_of(input: &Input) -> Option<Token> {
    match input {
        Input::Submit { token, .. } | Input::Cancel { token, .. } => *token,
        Input::Claim { token, .. } | Input::Report { token, .. } | Input::Join { token, .. } => Some(*token),
        _ => None,
    }
}
