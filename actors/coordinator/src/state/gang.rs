//! Gangs: slots reserved all or nothing, ranks started, and the rendezvous where they meet. What happens
//! when ranks are lost, leave or join while the others train is in [`super::regroup`].

use std::collections::{BTreeMap, BTreeSet};

use messages::error::Code;
use messages::gang::{Join, Joined, Offer, OfferAnswer, Peer};
use messages::job::{Gang, GangMember, TaskRecord, TaskState};
use messages::{Fence, JobId, TaskId, UnixMs, WireError, WorkerId};

use super::regroup::Invite;
use super::{After, Answer, Effect, State, Token, lifecycle, requests};

/// Pause after a reservation that was declined, so that a worker which always declines is not asked in a loop.
const DECLINED_PAUSE_MS: u64 = 250;

/// So many waiting gangs are looked at for one that fits the slots that are open.
const LOOK_AHEAD: usize = 64;

/// Where a gang stands, beside what the record says.
#[derive(Debug)]
pub(super) struct GangRun {
    pub(super) task: TaskId,
    pub(super) attempt: u32,
    pub(super) phase: Phase,
    /// Ranks of the record's gang that are no more.
    pub(super) gone: BTreeSet<u32>,
    /// When each rank was last heard of, by its worker's heartbeats.
    pub(super) seen: BTreeMap<u32, UnixMs>,
    /// Workers that were asked to add ranks.
    pub(super) invites: BTreeMap<WorkerId, Invite>,
    /// The last answer to those who met.
    pub(super) met: Option<Joined>,
    /// Ranks lost in this attempt: what is lost again and again is replaced ever later.
    pub(super) losses: u32,
    pub(super) grow_after: UnixMs,
    /// Worker processes whose ranks were too slow for the others.
    pub(super) shunned: BTreeSet<(WorkerId, u32)>,
    /// The step at which the gang last met after an error, and how often since then without progress.
    pub(super) stuck_at: Option<u64>,
    pub(super) stuck: u32,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Offers are out.
    Reserving {
        picks: Vec<(WorkerId, u32)>,
        accepted: BTreeMap<WorkerId, String>,
        expires_at: UnixMs,
    },
    /// The lease is committed, and ranks are starting and joining; or they come back from a generation that is
    /// over. Only the first meeting has a deadline of its own: later ones wait for whoever lives.
    Meeting {
        /// When those who are missing were last told; the beginning, before.
        reminded_at: UnixMs,
        expires_at: Option<UnixMs>,
        joins: BTreeMap<u32, (Token, Join)>,
    },
    /// The generation that they met for is being committed.
    Seating {
        joins: BTreeMap<u32, (Token, Join)>,
    },
    Running,
}

impl GangRun {
    fn new(task: TaskId, attempt: u32, phase: Phase) -> Self {
        Self {
            task,
            attempt,
            phase,
            gone: BTreeSet::new(),
            seen: BTreeMap::new(),
            invites: BTreeMap::new(),
            met: None,
            losses: 0,
            grow_after: 0,
            shunned: BTreeSet::new(),
            stuck_at: None,
            stuck: 0,
        }
    }

    /// A gang found in a record: its ranks may be running or may be gone; the heartbeats will tell.
    pub(super) fn adopted(task: &TaskRecord) -> Self {
        let mut adopted = Self::new(task.id.clone(), task.attempt, Phase::Running);
        adopted.gone.extend(task.gang.iter().flat_map(|gang| gang.finished.iter().copied()));
        adopted
    }

    pub(super) fn waiting_tokens(&self) -> Vec<Token> {
        let joins = match &self.phase {
            Phase::Meeting { joins, .. } | Phase::Seating { joins } => Some(joins),
            Phase::Reserving { .. } | Phase::Running => None,
        };
        let arrived = self.invites.values().flat_map(|invite| invite.arrived.values());
        joins.into_iter().flat_map(BTreeMap::values).chain(arrived).map(|(token, _)| *token).collect()
    }

    /// Ranks of the record's gang that are still there.
    pub(super) fn present(&self, record: &Gang) -> Vec<u32> {
        record.ranks().into_iter().filter(|rank| !self.gone.contains(rank)).collect()
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
            let Some(task) = entry.record.tasks.iter().find(ready) else { continue };
            let (id, attempt, wanted) = (task.id.clone(), task.attempt, entry.record.world_size);
            // After the last call it begins with what is there.
            let least = match now.saturating_sub(task.since.max(task.not_before.unwrap_or(0))) {
                waited if waited >= self.timings.last_call_ms => entry.record.world_sizes().0,
                _ => wanted,
            };
            if let Some(picks) = self.pick_slots(least, wanted, entry.record.cuda) {
                self.offer_slots(&job, &id, attempt, picks, now);
            }
        }
    }

    fn offer_slots(&mut self, job: &JobId, task: &TaskId, attempt: u32, picks: Vec<(WorkerId, u32)>, now: UnixMs) {
        let expires_at = now + self.timings.reserve_timeout_ms;
        for (worker, slots) in &picks {
            self.reserve(worker, job, *slots);
            let (job, task, slots) = (job.clone(), task.clone(), *slots);
            let offer = Offer::Reserve { job, task, attempt, slots, expires_at, joining: None };
            self.offer(worker, offer);
        }
        if let Some(entry) = self.jobs.get_mut(job) {
            let phase = Phase::Reserving { picks, accepted: BTreeMap::new(), expires_at };
            entry.gang = Some(GangRun::new(task.clone(), attempt, phase));
        }
    }

    pub(super) fn offer(&mut self, worker: &WorkerId, offer: Offer) {
        let (job, task, attempt) = match &offer {
            Offer::Reserve { job, task, attempt, .. }
            | Offer::Release { job, task, attempt, .. }
            | Offer::Regroup { job, task, attempt, .. } => (job.clone(), task.clone(), *attempt),
            Offer::Start { work, .. } => (work.job.clone(), work.task.clone(), work.attempt),
        };
        let trace = self.jobs.get(&job).and_then(|entry| entry.record.traceparent.clone());
        let (worker, offer) = (worker.clone(), Box::new(offer));
        self.effects.push(Effect::Offer { worker, job, task, attempt, offer, trace });
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
        if gang.invites.contains_key(worker) {
            self.on_invite_answered(job, worker, answer, now);
            return;
        }
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
            (Phase::Meeting { expires_at: Some(_), .. }, Some(OfferAnswer::Declined { reason })) => {
                let error =
                    WireError::new(Code::NoCapacity, format!("worker {worker} did not start its ranks: {reason}"));
                let ranks = entry.record.task(task).and_then(|t| t.gang.as_ref()).map(|g| ranks_of(g, worker));
                for rank in ranks.unwrap_or_default() {
                    self.rank_lost(job, task, rank, error.clone(), now);
                }
            }
            _ => {}
        }
    }

    /// All slots are reserved: the gang takes the lease.
    fn lease_gang(&mut self, job: &JobId, now: UnixMs) {
        let expires_at = Some(now + self.timings.join_timeout_ms);
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let Phase::Reserving { picks, accepted, .. } = &gang.phase else { return };
        if accepted.values().collect::<BTreeSet<_>>().len() > 1 {
            self.abandon_reservation(job, "the members' kernel fingerprints differ", now);
            return;
        }
        let mut members: Vec<GangMember> = Vec::new();
        let mut next_rank = 0;
        for (worker, slots) in picks {
            let (worker, fingerprint) = (worker.clone(), accepted.get(worker).cloned().unwrap_or_default());
            let ranks = (next_rank..next_rank + slots).collect();
            next_rank += slots;
            members.push(GangMember { worker, slots: *slots, fingerprint, ranks });
        }
        gang.phase = Phase::Meeting { reminded_at: now, expires_at, joins: BTreeMap::new() };
        let (id, submitted_at) = (gang.task.clone(), entry.record.submitted_at);
        for member in &members {
            entry.seen.insert((id.clone(), member.worker.clone()), now);
        }
        entry.lease(
            &id,
            |task| {
                let before = task.gang.take().unwrap_or_default();
                let generation = before.generation + 1;
                task.worker = members.first().map(|m| m.worker.clone());
                task.gang = Some(Gang { generation, members, next_rank, finished: Vec::new(), losses: before.losses });
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
        let event = messages::event::Event::TaskStarted {
            task: id.clone(),
            role: task.role,
            attempt: task.attempt,
            worker: gang
                .members
                .first()
                .map_or_else(|| unreachable!("invariant: a gang has members"), |m| m.worker.clone()),
        };
        let (attempt, gang) = (task.attempt, gang.clone());
        let (generation, world_size) = (gang.generation, gang.world_size());
        self.emit(job, format!("task_started.{id}.{attempt}"), event);
        for GangMember { worker, ranks, .. } in gang.members {
            let start = Offer::Start { work: Box::new(work.clone()), fence, generation, ranks, world_size };
            self.offer(&worker, start);
        }
    }

    /// The group as those who met see it; `joins` of all of it.
    pub(super) fn joined(&self, record: &TaskRecord, joins: &BTreeMap<u32, (Token, Join)>, job: &JobId) -> Joined {
        let peers = joins.values().map(|(_, join)| Peer {
            rank: join.rank,
            worker: join.worker.clone(),
            host: join.host.clone(),
            address: join.address.clone(),
        });
        let generation = record.gang.as_ref().map_or(0, |gang| gang.generation);
        let fence = record.fence.unwrap_or_default();
        let of = format!("{job}/{}/{}/{generation}/{fence}", record.id, record.attempt);
        let token = blake3::keyed_hash(&self.secret, of.as_bytes()).to_hex().to_string();
        let peers: Vec<Peer> = peers.collect();
        Joined { generation, world_size: peers.len() as u32, peers, fence: Some(fence), token: Some(token) }
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
            Phase::Meeting { expires_at: Some(at), joins, .. } if *at <= now => {
                let present = entry.record.task(&id).and_then(|t| t.gang.as_ref()).map(|g| gang.present(g));
                let missing: Vec<u32> =
                    present.unwrap_or_default().into_iter().filter(|rank| !joins.contains_key(rank)).collect();
                let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
                let message = format!(
                    "{}: rank {} did not join within {} ms",
                    requests::name(job, &id),
                    names.join(", "),
                    self.timings.join_timeout_ms
                );
                let error = WireError::new(Code::WorkerHung, message);
                self.ranks_given_up(job, &id, &missing, &error, now);
            }
            Phase::Meeting { .. } => self.last_call(job, now),
            _ => {}
        }
        self.look_at_ranks(job, now);
        self.look_at_invites(job, now);
        self.grow_gang(job, now);
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
            let (job, task, reason) = (job.clone(), task.clone(), reason.to_owned());
            self.offer(worker, Offer::Release { job, task, attempt, reason, done, ranks: Vec::new() });
        }
    }

    /// The gang of a task is over, however it ended: its slots become free, whoever waits is told.
    pub(super) fn free_gang(&mut self, job: &JobId, id: &TaskId, reason: &str) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.take_if(|g| &g.task == id) else { return };
        let mut members: BTreeSet<WorkerId> = match &gang.phase {
            Phase::Reserving { picks, .. } => picks.iter().map(|(worker, _)| worker.clone()).collect(),
            _ => entry
                .record
                .task(id)
                .and_then(|t| t.gang.as_ref())
                .map(|g| g.members.iter().map(|m| m.worker.clone()).collect())
                .unwrap_or_default(),
        };
        members.extend(gang.invites.keys().cloned());
        entry.after.push(After::ReleaseGang {
            task: id.clone(),
            attempt: gang.attempt,
            members: members.into_iter().collect(),
            reason: reason.to_owned(),
        });
        for token in gang.waiting_tokens() {
            let error = WireError::new(Code::Fenced, format!("the gang is over: {reason}"));
            self.answer(token, Answer::Error(error));
        }
    }
}

/// The ranks that a worker runs.
pub(super) fn ranks_of(gang: &Gang, worker: &WorkerId) -> Vec<u32> {
    gang.members.iter().filter(|member| &member.worker == worker).flat_map(|member| member.ranks.clone()).collect()
}

/// Why a rank cannot join, as far as the record tells.
pub(super) fn join_refusal(task: Option<&TaskRecord>, join: &Join) -> Option<String> {
    let Some(task) = task else { return Some("no such task".into()) };
    let current = task.fence.unwrap_or(Fence(0));
    if !task.state.is_held() || task.attempt != join.attempt || join.fence > current {
        return Some(format!("fence {} of attempt {}; now {current} of {}", join.fence, join.attempt, task.attempt));
    }
    None
}
