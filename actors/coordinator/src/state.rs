//! The coordinator's decisions, pure: `step(input, now) -> effects`. No IO, no clock, no await.
//!
//! A job changes only by [`Effect::Commit`], a compare-and-set of its record. While a commit is on
//! its way, further inputs of that job wait in its backlog; what follows from the transition (work,
//! offers, answers) is kept in `after` and leaves only when the commit has succeeded.

mod adopt;
#[cfg(test)]
mod capacity_tests;
mod fleet;
mod gang;
mod lifecycle;
mod regroup;
#[cfg(test)]
mod regroup_tests;
mod requests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use messages::event::Event;
use messages::gang::{Join, Joined, Offer, OfferAnswer};
use messages::job::{JobRecord, OutboxEntry, Role};
use messages::rpc::{Cancel, CancelAnswer, Claim, ClaimAnswer, Report, ReportAnswer, Submitted};
use messages::timings::Timings;
use messages::trace::TraceParent;
use messages::work::Work;
use messages::worker::{Control, Heartbeat, HeldLease};
use messages::{ArtifactRef, Fence, JobId, TaskId, UnixMs, WireError, WorkerId};

pub use fleet::Worker;
use gang::GangRun;
pub(crate) use lifecycle::detail;

/// Names a request that waits for its answer.
pub type Token = u64;

/// A submission whose spec was found right, with spec and plan stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    pub job: JobId,
    pub source: String,
    pub event_id: String,
    pub content_blake3: String,
    pub name: String,
    pub spec: ArtifactRef,
    pub plan: ArtifactRef,
    pub deadline_ms: u64,
    pub max_attempts: u32,
    pub world_size: u32,
    pub min_world_size: u32,
    pub max_world_size: u32,
    /// It trains on CUDA devices only.
    pub cuda: bool,
    pub warnings: Vec<String>,
    pub traceparent: Option<TraceParent>,
}

/// What reaches the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    Submit {
        token: Option<Token>,
        submission: Box<Submission>,
    },
    Cancel {
        token: Option<Token>,
        cancel: Cancel,
    },
    Claim {
        token: Token,
        claim: Claim,
    },
    Report {
        token: Token,
        report: Box<Report>,
    },
    Join {
        token: Token,
        join: Join,
    },
    Heartbeat(Box<Heartbeat>),
    /// A worker's answer to an offer, or none within the time-out.
    Offered {
        worker: WorkerId,
        job: JobId,
        task: TaskId,
        attempt: u32,
        answer: Option<OfferAnswer>,
    },
    /// A commit succeeded at this revision.
    Committed {
        job: JobId,
        revision: u64,
    },
    /// A commit was refused: somebody else has written the record.
    Conflicted {
        job: JobId,
    },
    /// The record as it stands, asked for by [`Effect::Load`] or at start.
    Loaded {
        job: JobId,
        record: Option<Box<JobRecord>>,
        revision: u64,
    },
    /// A worker's heartbeat shows a lease of a job that is not in memory.
    Held {
        worker: WorkerId,
        role: Role,
        lease: HeldLease,
    },
    /// An outbox entry is stored.
    Published {
        job: JobId,
        id: String,
    },
    Tick,
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Submitted(Submitted),
    Cancel(CancelAnswer),
    Claim(ClaimAnswer),
    Report(ReportAnswer),
    Joined(Joined),
    Error(WireError),
}

/// What the loop must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Compare-and-set; revision 0 creates. Answered by `Committed` or `Conflicted`.
    Commit {
        record: Box<JobRecord>,
        revision: u64,
    },
    /// Read the record; answered by `Loaded`.
    Load {
        job: JobId,
    },
    PublishWork {
        role: Role,
        work: Box<Work>,
        trace: Option<TraceParent>,
    },
    /// Store the event exactly once; answered by `Published`.
    PublishOutbox {
        job: JobId,
        entry: Box<OutboxEntry>,
        trace: Option<TraceParent>,
    },
    /// An event that may be lost when the coordinator dies at this moment; `id` deduplicates.
    Emit {
        job: JobId,
        id: String,
        event: Box<Event>,
        /// Of the lease that it begins, with the attempt.
        fence: Option<(Fence, u32)>,
        trace: Option<TraceParent>,
    },
    Offer {
        worker: WorkerId,
        job: JobId,
        task: TaskId,
        attempt: u32,
        offer: Box<Offer>,
        trace: Option<TraceParent>,
    },
    Control {
        worker: WorkerId,
        control: Control,
    },
    Answer {
        token: Token,
        answer: Box<Answer>,
    },
}

/// What follows once the commit on its way has succeeded.
#[derive(Debug, Clone, PartialEq)]
enum After {
    PublishWork { task: TaskId },
    Grant { token: Token, task: TaskId },
    Answer { token: Token, answer: Answer },
    StartGang { task: TaskId },
    Seat { task: TaskId },
    Invite { worker: WorkerId },
    Emit { id: String, event: Event },
    Stop { worker: WorkerId, task: TaskId, fence: Fence, reason: String },
    ReleaseGang { task: TaskId, attempt: u32, members: Vec<WorkerId>, reason: String },
}

/// A job in memory: its record and what is not worth recording.
#[derive(Debug)]
struct Entry {
    record: JobRecord,
    /// Of the record as last read or written; 0: not yet created.
    revision: u64,
    /// A commit or a load is on its way.
    busy: bool,
    dirty: bool,
    /// What it is being created from, until the first commit has succeeded.
    creating: Option<Box<Submission>>,
    after: Vec<After>,
    backlog: VecDeque<Input>,
    /// When each holder of a task's lease was last heard of with it.
    seen: BTreeMap<(TaskId, WorkerId), UnixMs>,
    /// When a queued task's message was last published.
    published: BTreeMap<TaskId, UnixMs>,
    /// Since when nobody could take the task.
    unservable_since: BTreeMap<TaskId, UnixMs>,
    /// Tasks whose waiting has been announced.
    announced: BTreeSet<(TaskId, u32)>,
    gang: Option<GangRun>,
    /// Outbox entries that are being published.
    leaving: BTreeSet<String>,
    /// When it wants to be looked at again.
    wake_at: UnixMs,
}

/// The coordinator's whole state.
#[derive(Debug)]
pub struct State {
    timings: Timings,
    jobs: BTreeMap<JobId, Entry>,
    /// What waits for the record of a job that is not in memory: it has ended, or another leader
    /// accepted it at the last moment.
    loading: BTreeMap<JobId, VecDeque<Input>>,
    workers: BTreeMap<(Role, WorkerId), Worker>,
    /// Jobs by when they want to be looked at.
    wakes: BTreeSet<(UnixMs, JobId)>,
    /// Jobs whose gang waits for slots, by submission.
    gang_queue: BTreeSet<(UnixMs, JobId)>,
    /// Where the tokens of groups come from: this process's own, so that nobody else can tell them.
    secret: [u8; 32],
    /// Open gang slots by kernel fingerprint.
    open: BTreeMap<String, fleet::Group>,
    effects: Vec<Effect>,
}

impl State {
    /// `secret` must be random where ranks listen on a network.
    pub fn new(timings: Timings, secret: [u8; 32]) -> Self {
        Self {
            timings,
            jobs: BTreeMap::new(),
            loading: BTreeMap::new(),
            workers: BTreeMap::new(),
            wakes: BTreeSet::new(),
            gang_queue: BTreeSet::new(),
            secret,
            open: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// Takes one input and says what must be done. `now` never has to be monotonic; time that goes
    /// back only delays what is due.
    pub fn step(&mut self, input: Input, now: UnixMs) -> Vec<Effect> {
        match input {
            Input::Tick => self.on_tick(now),
            Input::Heartbeat(heartbeat) => self.on_heartbeat(*heartbeat, now),
            Input::Committed { job, revision } => self.on_committed(&job, revision, now),
            Input::Conflicted { job } => self.on_conflicted(&job),
            Input::Loaded { job, record, revision } => self.on_loaded(&job, record, revision, now),
            other => self.on_job_input(other, now),
        }
        std::mem::take(&mut self.effects)
    }

    /// The record of a job that is not settled.
    pub fn record(&self, job: &JobId) -> Option<&JobRecord> {
        self.jobs.get(job).map(|entry| &entry.record)
    }

    pub fn records(&self) -> impl Iterator<Item = &JobRecord> {
        self.jobs.values().map(|entry| &entry.record)
    }

    /// Workers heard of, by role.
    pub fn workers(&self) -> impl Iterator<Item = (&(Role, WorkerId), &Worker)> {
        self.workers.iter()
    }

    fn on_job_input(&mut self, input: Input, now: UnixMs) {
        let Some(job) = input_job(&input).cloned() else { return };
        if let Some(entry) = self.jobs.get_mut(&job) {
            if entry.busy {
                entry.backlog.push_back(input);
                return;
            }
            // A fence is a revision: one that is newer than the record as we know it was given by another leader,
            // whose last write came after we had read.
            if input_fence(&input).is_some_and(|fence| fence.0 > entry.revision) {
                entry.busy = true;
                entry.backlog.push_back(input);
                self.effects.push(Effect::Load { job });
                return;
            }
        } else if let Some(waiting) = self.loading.get_mut(&job) {
            waiting.push_back(input);
            return;
        } else if !matches!(input, Input::Submit { .. }) {
            self.loading.insert(job.clone(), VecDeque::from([input]));
            self.effects.push(Effect::Load { job });
            return;
        }
        self.handle(&job, input, now);
        self.settle(&job, now);
    }

    fn handle(&mut self, job: &JobId, input: Input, now: UnixMs) {
        match input {
            Input::Submit { token, submission } => self.on_submit(token, *submission, now),
            Input::Cancel { token, cancel } => self.on_cancel(token, cancel, now),
            Input::Claim { token, claim } => self.on_claim(token, claim, now),
            Input::Report { token, report } => self.on_report(token, *report, now),
            Input::Join { token, join } => self.on_join(token, join, now),
            Input::Offered { worker, task, attempt, answer, .. } => {
                self.on_offered(job, &worker, &task, attempt, answer, now);
            }
            Input::Published { id, .. } => self.on_published(job, &id),
            Input::Held { worker, role, lease } => self.on_held(&worker, role, &lease, now),
            _ => unreachable!("invariant: on_job_input passes inputs of jobs only"),
        }
    }

    /// Ends a step of a job: decides what comes next, writes what changed, drops what is over.
    fn settle(&mut self, job: &JobId, now: UnixMs) {
        self.advance(job, now);
        self.look_at_meeting(job, now);
        let Some(entry) = self.jobs.get_mut(job) else { return };
        if entry.busy {
            return;
        }
        if entry.dirty {
            entry.dirty = false;
            entry.busy = true;
            self.effects.push(Effect::Commit { record: Box::new(entry.record.clone()), revision: entry.revision });
            return;
        }
        self.publish_outbox(job);
        let Some(entry) = self.jobs.get(job) else { return };
        if entry.record.is_settled() && entry.backlog.is_empty() {
            self.forget(job);
        } else {
            self.reschedule(job, now);
        }
        if !self.gang_queue.is_empty() {
            self.schedule_gangs(now);
        }
    }

    fn on_committed(&mut self, job: &JobId, revision: u64, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        assert!(entry.busy, "invariant: a commit of {job} was on its way");
        entry.busy = false;
        entry.creating = None;
        entry.revision = revision;
        for task in &mut entry.record.tasks {
            if task.state.is_held() && task.fence.is_none() {
                task.fence = Some(Fence(revision));
            }
        }
        let after = std::mem::take(&mut entry.after);
        for step in after {
            self.perform(job, step, now);
        }
        self.drain_backlog(job, now);
    }

    /// Handles what came in while the job was busy, until it is busy again.
    fn drain_backlog(&mut self, job: &JobId, now: UnixMs) {
        self.settle(job, now);
        while let Some(entry) = self.jobs.get_mut(job) {
            if entry.busy {
                return;
            }
            let Some(input) = entry.backlog.pop_front() else { return };
            self.handle(job, input, now);
            self.settle(job, now);
        }
    }

    /// Somebody else wrote: nothing of what we decided holds. Read what stands and go on from there.
    fn on_conflicted(&mut self, job: &JobId) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let after = std::mem::take(&mut entry.after);
        entry.dirty = false;
        entry.busy = true;
        // A record of this name exists from before: the submission is looked at again, once the
        // record is loaded, as what it is: a repetition.
        let created = entry.creating.take();
        if let Some(submission) = created {
            let token = after.iter().find_map(|step| match step {
                After::Answer { token, answer: Answer::Submitted(_) } => Some(*token),
                _ => None,
            });
            entry.backlog.push_front(Input::Submit { token, submission });
            self.effects.push(Effect::Load { job: job.clone() });
            return;
        }
        for step in after {
            if let After::Answer { token, .. } | After::Grant { token, .. } = step {
                self.effects.push(Effect::Answer { token, answer: Box::new(Answer::Error(not_leader())) });
            }
        }
        self.effects.push(Effect::Load { job: job.clone() });
    }

    fn perform(&mut self, job: &JobId, after: After, now: UnixMs) {
        match after {
            After::PublishWork { task } => self.publish_work(job, &task, now),
            After::Grant { token, task } => {
                let fence = self.jobs.get(job).and_then(|e| e.record.task(&task)).and_then(|t| t.fence);
                let answer = match fence {
                    Some(fence) => ClaimAnswer::Granted { fence },
                    None => ClaimAnswer::Busy { retry_after_ms: self.timings.tick_ms },
                };
                self.answer(token, Answer::Claim(answer));
            }
            After::Answer { token, answer } => self.answer(token, answer),
            After::StartGang { task } => self.start_gang(job, &task),
            After::Seat { task } => self.seated(job, &task),
            After::Invite { worker } => self.invite(job, &worker),
            After::Emit { id, event } => self.emit(job, id, event),
            After::Stop { worker, task, fence, reason } => {
                let control = Control::StopTask { job: job.clone(), task, fence, reason };
                self.effects.push(Effect::Control { worker, control });
            }
            After::ReleaseGang { task, attempt, members, reason } => {
                self.release(job, &task, attempt, &members, &reason);
            }
        }
    }

    fn emit(&mut self, job: &JobId, id: String, event: Event) {
        let Some(entry) = self.jobs.get(job) else { return };
        // From the beginning of an attempt on, nothing counts that is said in the name of an earlier one.
        let fence = match &event {
            Event::TaskStarted { task, attempt, .. } => {
                entry.record.task(task).and_then(|task| task.fence).map(|fence| (fence, *attempt))
            }
            _ => None,
        };
        let trace = entry.record.traceparent.clone();
        self.effects.push(Effect::Emit { job: job.clone(), id, event: Box::new(event), fence, trace });
    }

    fn answer(&mut self, token: Token, answer: Answer) {
        self.effects.push(Effect::Answer { token, answer: Box::new(answer) });
    }

    /// Sends every outbox entry that is not on its way yet.
    fn publish_outbox(&mut self, job: &JobId) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        for item in &entry.record.outbox {
            if entry.leaving.insert(item.id.clone()) {
                self.effects.push(Effect::PublishOutbox {
                    job: job.clone(),
                    entry: Box::new(item.clone()),
                    trace: entry.record.traceparent.clone(),
                });
            }
        }
    }

    /// An entry is ticked off with the next commit; a settled job is committed at once.
    fn on_published(&mut self, job: &JobId, id: &str) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        entry.leaving.remove(id);
        entry.record.outbox.retain(|item| item.id != id);
        if entry.record.is_settled() {
            entry.dirty = true;
        }
    }

    fn forget(&mut self, job: &JobId) {
        if let Some(entry) = self.jobs.remove(job) {
            self.wakes.remove(&(entry.wake_at, job.clone()));
            self.gang_queue.remove(&(entry.record.submitted_at, job.clone()));
            for token in entry.gang.iter().flat_map(GangRun::waiting_tokens) {
                self.answer(token, Answer::Error(not_leader()));
            }
        }
    }
}

fn input_job(input: &Input) -> Option<&JobId> {
    match input {
        Input::Submit { submission, .. } => Some(&submission.job),
        Input::Cancel { cancel, .. } => Some(&cancel.job),
        Input::Claim { claim, .. } => Some(&claim.job),
        Input::Report { report, .. } => Some(&report.job),
        Input::Join { join, .. } => Some(&join.job),
        Input::Held { lease, .. } => Some(&lease.job),
        Input::Offered { job, .. } | Input::Published { job, .. } => Some(job),
        _ => None,
    }
}

/// The fence that an input's sender believes to hold.
fn input_fence(input: &Input) -> Option<Fence> {
    match input {
        Input::Report { report, .. } => Some(report.fence),
        Input::Join { join, .. } => Some(join.fence),
        Input::Held { lease, .. } => Some(lease.fence),
        _ => None,
    }
}

fn not_leader() -> WireError {
    WireError::new(messages::error::Code::NotLeader, "the record was written by another coordinator; ask again")
}
