//! Gangs: slots reserved all or nothing, ranks started, and the rendezvous where they meet.

use std::collections::BTreeMap;

use messages::error::Code;
use messages::gang::{Join, Joined, Offer, OfferAnswer, Peer};
use messages::job::{Gang, GangMember, TaskRecord, TaskState};
use messages::{Fence, JobId, TaskId, UnixMs, WireError, WorkerId};

use super::{After, Answer, Effect, State, Token, lifecycle, requests};

/// Pause after a reservation that was declined, so that a worker which always declines is not asked in a loop.
const DECLINED_PAUSE_MS: u64 = 250;

/// So many waiting gangs are looked at for one that fits the slots that are open.
const LOOK_AHEAD: usize = 64;

/// Where a gang stands, beside what the record says.
#[derive(Debug)]
pub(super) struct GangRun {
    task: TaskId,
    attempt: u32,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    /// Offers are out.
    Reserving {
        picks: Vec<(WorkerId, u32)>,
        accepted: BTreeMap<WorkerId, String>,
        expires_at: UnixMs,
    },
    /// The lease is committed, ranks are starting and joining.
    Joining {
        expires_at: UnixMs,
        joins: BTreeMap<u32, (Token, Join)>,
    },
    Running,
}

impl GangRun {
    /// A gang found in a record: its ranks may be running or may be gone; the heartbeats will tell.
    pub(super) fn adopted(task: &TaskRecord) -> Self {
        Self { task: task.id.clone(), attempt: task.attempt, phase: Phase::Running }
    }

    pub(super) fn waiting_tokens(&self) -> Vec<Token> {
        match &self.phase {
            Phase::Joining { joins, .. } => joins.values().map(|(token, _)| *token).collect(),
            _ => Vec::new(),
        }
    }
}

impl State {
    /// Offers slots to gangs that wait, first come first served; a gang that does not fit does not
    /// hold up a smaller one behind it, but keeps its place.
    pub(super) fn schedule_gangs(&mut self, now: UnixMs) {
        if self.open_slots() == 0 {
            return;
        }
        let waiting: Vec<JobId> = self.gang_queue.iter().take(LOOK_AHEAD).map(|(_, job)| job.clone()).collect();
        for job in waiting {
            if self.open_slots() == 0 {
                return;
            }
            let Some(entry) = self.jobs.get(&job) else { continue };
            if entry.busy || entry.gang.is_some() {
                continue;
            }
            let ready = |t: &&TaskRecord| {
                t.role == messages::job::Role::Trainer
                    && t.state == TaskState::Queued
                    && t.not_before.is_none_or(|at| at <= now)
            };
            let Some((task, attempt)) = entry.record.tasks.iter().find(ready).map(|t| (t.id.clone(), t.attempt)) else {
                continue;
            };
            if let Some(picks) = self.pick_slots(entry.record.world_size) {
                self.offer_slots(&job, &task, attempt, picks, now);
            }
        }
    }

    fn offer_slots(&mut self, job: &JobId, task: &TaskId, attempt: u32, picks: Vec<(WorkerId, u32)>, now: UnixMs) {
        let expires_at = now + self.timings.reserve_timeout_ms;
        for (worker, slots) in &picks {
            self.reserve(worker, job, *slots);
            let offer = Offer::Reserve { job: job.clone(), task: task.clone(), attempt, slots: *slots, expires_at };
            self.offer(worker, job, task, attempt, offer);
        }
        if let Some(entry) = self.jobs.get_mut(job) {
            let phase = Phase::Reserving { picks, accepted: BTreeMap::new(), expires_at };
            entry.gang = Some(GangRun { task: task.clone(), attempt, phase });
        }
    }

    fn offer(&mut self, worker: &WorkerId, job: &JobId, task: &TaskId, attempt: u32, offer: Offer) {
        let trace = self.jobs.get(job).and_then(|entry| entry.record.traceparent.clone());
        self.effects.push(Effect::Offer {
            worker: worker.clone(),
            job: job.clone(),
            task: task.clone(),
            attempt,
            offer: Box::new(offer),
            trace,
        });
    }

    pub(super) fn on_offered(
        &mut self,
        job: &JobId,
        worker: &WorkerId,
        task: &TaskId,
        attempt: u32,
        answer: Option<OfferAnswer>,
        now: UnixMs,
    ) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut().filter(|g| g.attempt == attempt && &g.task == task) else { return };
        match (&mut gang.phase, answer) {
            (Phase::Reserving { picks, accepted, .. }, Some(OfferAnswer::Accepted { slots, fingerprint })) => {
                if picks.iter().any(|(id, wanted)| id == worker && *wanted == slots) {
                    accepted.insert(worker.clone(), fingerprint);
                }
                if accepted.len() == picks.len() {
                    self.lease_gang(job, now);
                }
            }
            (Phase::Reserving { .. }, Some(OfferAnswer::Declined { .. }) | None) => {
                self.abandon_reservation(job, "not all slots could be had", now);
            }
            (Phase::Joining { .. }, Some(OfferAnswer::Declined { reason })) => {
                let error =
                    WireError::new(Code::NoCapacity, format!("worker {worker} did not start its ranks: {reason}"));
                self.task_failed(job, task, error, now);
            }
            _ => {}
        }
    }

    /// All slots are reserved: the gang takes the lease.
    fn lease_gang(&mut self, job: &JobId, now: UnixMs) {
        let expires_at = now + self.timings.join_timeout_ms;
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let Phase::Reserving { picks, accepted, .. } = &gang.phase else { return };
        let mixed = accepted.values().collect::<std::collections::BTreeSet<_>>().len() > 1;
        if mixed {
            self.abandon_reservation(job, "the members' kernel fingerprints differ", now);
            return;
        }
        let members: Vec<GangMember> = picks
            .iter()
            .map(|(worker, slots)| GangMember {
                worker: worker.clone(),
                slots: *slots,
                fingerprint: accepted.get(worker).cloned().unwrap_or_default(),
            })
            .collect();
        gang.phase = Phase::Joining { expires_at, joins: BTreeMap::new() };
        let (id, submitted_at) = (gang.task.clone(), entry.record.submitted_at);
        for member in &members {
            entry.seen.insert((id.clone(), member.worker.clone()), now);
        }
        entry.lease(
            &id,
            |task| {
                let generation = task.gang.as_ref().map_or(0, |g| g.generation) + 1;
                task.worker = members.first().map(|m| m.worker.clone());
                task.gang = Some(Gang { generation, members });
            },
            now,
        );
        entry.after.push(After::StartGang { task: id });
        self.gang_queue.remove(&(submitted_at, job.clone()));
    }

    pub(super) fn start_gang(&mut self, job: &JobId, id: &TaskId) {
        let Some(entry) = self.jobs.get(job) else { return };
        let Some(task) = entry.record.task(id) else { return };
        let (Some(gang), Some(fence)) = (&task.gang, task.fence) else { return };
        let Some(work) = lifecycle::work_of(&entry.record, task) else { return };
        let world_size = entry.record.world_size;
        let event = messages::event::Event::TaskStarted {
            task: id.clone(),
            role: task.role,
            attempt: task.attempt,
            worker: gang
                .members
                .first()
                .map_or_else(|| unreachable!("invariant: a gang has members"), |m| m.worker.clone()),
        };
        let (attempt, generation, members) = (task.attempt, gang.generation, gang.members.clone());
        self.emit(job, format!("task_started.{id}.{attempt}"), event);
        let mut first = 0;
        for member in members {
            let ranks = (first..first + member.slots).collect();
            first += member.slots;
            let start = Offer::Start { work: Box::new(work.clone()), fence, generation, ranks, world_size };
            self.offer(&member.worker, job, id, attempt, start);
        }
    }

    pub(super) fn on_join(&mut self, token: Token, join: Join, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(&join.job) else { return };
        let refusal = join_refusal(entry.record.task(&join.task), &join, entry.record.world_size);
        let gang = entry.gang.as_mut().filter(|g| g.attempt == join.attempt && g.task == join.task);
        let (None, Some(gang)) = (refusal.clone(), gang) else {
            let error = WireError::new(Code::Fenced, refusal.unwrap_or_else(|| "no such gang".into()));
            self.answer(token, Answer::Error(error));
            return;
        };
        if matches!(gang.phase, Phase::Running) {
            // The ranks of an adopted gang ask again, because the coordinator they asked is gone.
            gang.phase = Phase::Joining { expires_at: now + self.timings.join_timeout_ms, joins: BTreeMap::new() };
        }
        let Phase::Joining { joins, .. } = &mut gang.phase else { return };
        let stale = joins.insert(join.rank, (token, join.clone()));
        let complete = joins.len() as u32 == entry.record.world_size;
        if let Some((old, _)) = stale {
            let error = WireError::new(Code::NotLeader, "asked again");
            self.answer(old, Answer::Error(error));
        }
        if complete {
            self.complete_gang(&join.job, &join.task, join.generation);
        }
    }

    fn complete_gang(&mut self, job: &JobId, id: &TaskId, generation: u32) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let Phase::Joining { joins, .. } = std::mem::replace(&mut gang.phase, Phase::Running) else { return };
        let peers = joins
            .values()
            .map(|(_, join)| Peer {
                rank: join.rank,
                worker: join.worker.clone(),
                host: join.host.clone(),
                address: join.address.clone(),
            })
            .collect();
        let joined = Joined { generation, world_size: entry.record.world_size, peers };
        if let Some(task) = entry.record.task_mut(id) {
            // Not worth a commit of its own; the next one carries it.
            task.state = TaskState::Running;
        }
        for (token, _) in joins.into_values() {
            self.answer(token, Answer::Joined(joined.clone()));
        }
    }

    /// Deadlines of a gang.
    pub(super) fn look_at_gang(&mut self, job: &JobId, now: UnixMs) {
        let Some(entry) = self.jobs.get(job) else { return };
        let Some(gang) = &entry.gang else { return };
        let id = gang.task.clone();
        match &gang.phase {
            Phase::Reserving { expires_at, .. } if *expires_at <= now => {
                self.abandon_reservation(job, "not all workers answered the offer", now);
            }
            Phase::Joining { expires_at, joins } if *expires_at <= now => {
                let missing: Vec<String> = (0..entry.record.world_size)
                    .filter(|rank| !joins.contains_key(rank))
                    .map(|rank| rank.to_string())
                    .collect();
                let message = format!(
                    "{}: rank {} did not join within {} ms",
                    requests::name(job, &id),
                    missing.join(", "),
                    self.timings.join_timeout_ms
                );
                self.task_failed(job, &id, WireError::new(Code::WorkerHung, message), now);
            }
            _ => {}
        }
    }

    /// Gives reserved slots back; the gang goes on waiting.
    fn abandon_reservation(&mut self, job: &JobId, reason: &str, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.take() else { return };
        let Phase::Reserving { picks, .. } = gang.phase else { return };
        if let Some(task) = entry.record.task_mut(&gang.task) {
            task.not_before = Some(now + DECLINED_PAUSE_MS);
        }
        let members: Vec<WorkerId> = picks.into_iter().map(|(worker, _)| worker).collect();
        self.release(job, &gang.task, gang.attempt, &members, reason);
    }

    pub(super) fn release(&mut self, job: &JobId, task: &TaskId, attempt: u32, members: &[WorkerId], reason: &str) {
        let record = self.jobs.get(job).and_then(|entry| entry.record.task(task));
        let done = record.is_some_and(|t| t.attempt == attempt && t.state == TaskState::Done);
        for worker in members {
            self.unreserve(worker, job);
            let reason = reason.to_owned();
            let offer = Offer::Release { job: job.clone(), task: task.clone(), attempt, reason, done };
            self.offer(worker, job, task, attempt, offer);
        }
    }

    /// The gang of a task is over, however it ended: its slots become free, whoever waits is told.
    pub(super) fn free_gang(&mut self, job: &JobId, id: &TaskId, reason: &str) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.take_if(|g| &g.task == id) else { return };
        let members = match &gang.phase {
            Phase::Reserving { picks, .. } => picks.iter().map(|(worker, _)| worker.clone()).collect(),
            _ => entry
                .record
                .task(id)
                .and_then(|t| t.gang.as_ref())
                .map(|g| g.members.iter().map(|m| m.worker.clone()).collect())
                .unwrap_or_default(),
        };
        entry.after.push(After::ReleaseGang {
            task: id.clone(),
            attempt: gang.attempt,
            members,
            reason: reason.to_owned(),
        });
        for token in gang.waiting_tokens() {
            let error = WireError::new(Code::Fenced, format!("the gang is over: {reason}"));
            self.answer(token, Answer::Error(error));
        }
    }
}

fn join_refusal(task: Option<&TaskRecord>, join: &Join, world_size: u32) -> Option<String> {
    let Some(task) = task else { return Some("no such task".into()) };
    let generation = task.gang.as_ref().map_or(0, |g| g.generation);
    let current = task.fence.unwrap_or(Fence(0));
    if !task.state.is_held() || task.attempt != join.attempt || current != join.fence {
        return Some(format!("fence {} of attempt {}; now {current} of {}", join.fence, join.attempt, task.attempt));
    }
    if generation != join.generation {
        return Some(format!("generation {}; now {generation}", join.generation));
    }
    (join.rank >= world_size).then(|| format!("rank {} of a world of {world_size}", join.rank))
}
