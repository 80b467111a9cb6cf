//! A gang that changes while it trains: ranks are lost, leave or join, and those who are there meet again in
//! the next generation, under a new fence. Nothing is begun anew: the ranks hold the state.
//!
//! Whoever is needed is waited for as long as it lives: its worker says when a rank has died or hangs, and
//! the heartbeats when a worker is gone. Three things end the waiting before: the first meeting's deadline,
//! the last call for ranks whose connections are closed while their worker says nothing, and the eviction of
//! the one that most others cannot exchange with.

use std::collections::{BTreeMap, BTreeSet};

use messages::error::{Class, Code};
use messages::event::Event;
use messages::gang::{Join, Left, Offer, OfferAnswer, RegroupWhen};
use messages::job::{Gang, GangMember, RankLoss, TaskState};
use messages::{JobId, TaskId, UnixMs, WireError, WorkerId};

use super::gang::{GangRun, Phase, join_refusal, ranks_of};
use super::{After, Answer, State, Token, lifecycle};

/// So often doubles the pause before a gang that loses ranks again and again is given new ones.
const MOST_DOUBLINGS: u32 = 7;

/// Losses that a record tells.
const LOSSES_KEPT: usize = 16;

/// So often in a row a gang may meet again without having got on, and without anybody to blame.
const MOST_STUCK: u32 = 5;

/// A worker that was asked to add ranks to a gang under way.
#[derive(Debug)]
pub(super) struct Invite {
    ranks: Vec<u32>,
    fingerprint: String,
    /// Its slots are reserved and the ranks were ordered to start.
    started: bool,
    expires_at: UnixMs,
    pub(super) arrived: BTreeMap<u32, (Token, Join)>,
    /// When the gang was last asked to meet.
    called_at: Option<UnixMs>,
}

impl State {
    pub(super) fn on_join(&mut self, token: Token, join: Join, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(&join.job) else { return };
        let refused = |reason: String| Answer::Error(WireError::new(Code::Fenced, reason));
        if let Some(reason) = join_refusal(entry.record.task(&join.task), &join) {
            self.answer(token, refused(reason));
            return;
        }
        let record = entry.record.task(&join.task).and_then(|t| t.gang.clone()).unwrap_or_default();
        let gang = entry.gang.as_mut().filter(|g| g.attempt == join.attempt && g.task == join.task);
        let Some(gang) = gang else {
            self.answer(token, refused("no such gang".into()));
            return;
        };
        let (job, rank) = (join.job.clone(), join.rank);
        let stale = if let Some(invite) = gang.invites.get_mut(&join.worker).filter(|i| i.ranks.contains(&rank)) {
            invite.arrived.insert(rank, (token, join))
        } else if record.worker_of(rank) != Some(&join.worker) || gang.gone.contains(&rank) {
            self.answer(token, refused(format!("rank {rank} is no longer one of the gang")));
            return;
        } else {
            let back_from = join.left.as_ref().map_or(0, |left| left.generation);
            let unheard = gang.met.as_ref().filter(|met| {
                matches!(gang.phase, Phase::Running)
                    && met.generation > back_from
                    && met.peers.iter().any(|peer| peer.rank == rank)
            });
            if let Some(met) = unheard.cloned() {
                // The answer was lost on its way.
                self.answer(token, Answer::Joined(met));
                return;
            }
            if matches!(gang.phase, Phase::Running) {
                gang.phase = Phase::Meeting { reminded_at: now, expires_at: None, joins: BTreeMap::new() };
            }
            match &mut gang.phase {
                Phase::Meeting { joins, .. } => joins.insert(rank, (token, join)),
                _ => Some((token, join)),
            }
        };
        if let Some((old, _)) = stale {
            self.answer(old, Answer::Error(WireError::new(Code::NotLeader, "asked again")));
        }
        self.call_for_invited(&job, now);
    }

    /// Seats everybody, if everybody who is needed has come. Looked at when all else of a step is done, so that
    /// nothing happens between its decision and its commit.
    pub(super) fn look_at_meeting(&mut self, job: &JobId, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job).filter(|entry| !entry.busy) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let id = gang.task.clone();
        let Phase::Meeting { joins, expires_at, .. } = &mut gang.phase else { return };
        let Some(record) = entry.record.task(&id).and_then(|task| task.gang.as_ref()) else { return };
        let there = |rank: &u32| gang.gone.contains(rank) || joins.contains_key(rank);
        if joins.is_empty() || !record.ranks().iter().all(there) {
            return;
        }
        let joins = std::mem::take(joins);
        let first = expires_at.is_some();
        if first && gang.gone.is_empty() {
            gang.phase = Phase::Running;
            if let Some(task) = entry.record.task_mut(&id) {
                // Not worth a commit of its own; the next one carries it.
                task.state = TaskState::Running;
            }
            self.answer_all(job, &id, joins);
            return;
        }
        let progress = progress(gang, &joins);
        gang.phase = Phase::Meeting { reminded_at: now, expires_at: None, joins };
        match progress {
            Progress::Some => {}
            Progress::Blocked(rank, error) => self.ranks_given_up(job, &id, &[rank], &error, now),
            Progress::None(error) => return self.task_failed(job, &id, error, now),
        }
        // Unless it has become too small.
        if self.jobs.get(job).is_some_and(|entry| entry.gang.is_some()) {
            self.seat(job, &id, now);
        }
    }

    /// Commits the next generation: those who met, and the invited who have arrived.
    fn seat(&mut self, job: &JobId, id: &TaskId, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let Some(before) = entry.record.task(id).and_then(|task| task.gang.as_ref()) else { return };
        let Phase::Meeting { joins, .. } = &mut gang.phase else { return };
        let mut joins = std::mem::take(joins);
        let mut fingerprints: BTreeMap<WorkerId, String> =
            before.members.iter().map(|m| (m.worker.clone(), m.fingerprint.clone())).collect();
        let mut joined = Vec::new();
        let mut kept = BTreeMap::new();
        for (worker, mut invite) in std::mem::take(&mut gang.invites) {
            joined.extend(invite.arrived.keys().copied());
            fingerprints.insert(worker.clone(), invite.fingerprint.clone());
            invite.ranks.retain(|rank| !invite.arrived.contains_key(rank));
            joins.append(&mut invite.arrived);
            if !invite.ranks.is_empty() {
                invite.called_at = None;
                kept.insert(worker, invite);
            }
        }
        gang.invites = kept;
        let mut members: BTreeMap<WorkerId, GangMember> = BTreeMap::new();
        for (rank, (_, join)) in &joins {
            let worker = join.worker.clone();
            let fingerprint = fingerprints.get(&worker).cloned().unwrap_or_default();
            let empty = GangMember { worker: worker.clone(), slots: 0, fingerprint, ranks: Vec::new() };
            let member = members.entry(worker).or_insert(empty);
            member.slots += 1;
            member.ranks.push(*rank);
        }
        let workers: Vec<WorkerId> = members.keys().cloned().collect();
        let leader = joins.values().next().map(|(_, join)| join.worker.clone());
        let step = joins.values().filter_map(|(_, j)| j.left.as_ref()).map(|left| left.step).max().unwrap_or(0);
        let gone: Vec<u32> = std::mem::take(&mut gang.gone).into_iter().collect();
        let before = before.clone();
        let ranks: Vec<u32> = joins.keys().copied().collect();
        gang.seen.retain(|rank, _| joins.contains_key(rank));
        gang.phase = Phase::Seating { joins };
        gang.met = None;
        for worker in &workers {
            entry.seen.insert((id.clone(), worker.clone()), now);
        }
        let Some(task) = entry.record.task_mut(id) else { return };
        // A new lease of the same attempt: its fence is the revision of this commit.
        task.fence = None;
        task.state = TaskState::Running;
        task.worker = leader;
        let generation = before.generation + 1;
        task.gang = Some(Gang { generation, members: members.into_values().collect(), ..before });
        let attempt = task.attempt;
        entry.dirty = true;
        let world_size = ranks.len() as u32;
        let event = Event::Regrouped { task: id.clone(), attempt, generation, world_size, ranks, joined, gone, step };
        entry.after.push(After::Emit { id: format!("regrouped.{id}.{attempt}.{generation}"), event });
        entry.after.push(After::Seat { task: id.clone() });
    }

    /// The generation is committed: everybody may begin.
    pub(super) fn seated(&mut self, job: &JobId, id: &TaskId) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut().filter(|gang| &gang.task == id) else { return };
        let Phase::Seating { joins } = &mut gang.phase else { return };
        let joins = std::mem::take(joins);
        gang.phase = Phase::Running;
        self.answer_all(job, id, joins);
    }

    fn answer_all(&mut self, job: &JobId, id: &TaskId, joins: BTreeMap<u32, (Token, Join)>) {
        let Some(task) = self.jobs.get(job).and_then(|entry| entry.record.task(id)) else { return };
        let joined = self.joined(task, &joins, job);
        let workers: Vec<WorkerId> =
            task.gang.iter().flat_map(|gang| gang.members.iter().map(|m| m.worker.clone())).collect();
        if let Some(gang) = self.jobs.get_mut(job).and_then(|entry| entry.gang.as_mut()) {
            gang.met = Some(joined.clone());
        }
        for (token, _) in joins.into_values() {
            self.answer(token, Answer::Joined(joined.clone()));
        }
        for worker in &workers {
            self.account(job, worker);
        }
    }

    /// A rank has died, hangs, or cannot be reached.
    pub(super) fn rank_lost(&mut self, job: &JobId, id: &TaskId, rank: u32, error: WireError, now: UnixMs) {
        let first_pause_ms = self.timings.retry_backoff_ms;
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let attempt = entry.record.task(id).map_or(0, |task| task.attempt);
        let Some(gang) = entry.gang.as_mut().filter(|gang| &gang.task == id) else { return };
        let seated = || entry.record.task(id).and_then(|t| t.gang.as_ref()).and_then(|g| g.worker_of(rank)).cloned();
        let invited = inviting(gang, rank);
        let worker = invited.clone().or_else(seated);
        let (Some(worker), false) = (worker, gang.gone.contains(&rank)) else { return };
        gang.losses += 1;
        gang.grow_after = now + (first_pause_ms << (gang.losses - 1).min(MOST_DOUBLINGS));
        if let Some(record) = entry.record.task_mut(id).and_then(|task| task.gang.as_mut()) {
            let message = error.message.lines().next().unwrap_or_default().to_owned();
            let error = WireError { message, ..error.clone() };
            record.losses.push(RankLoss { attempt, rank, worker: worker.clone(), at: now, error });
            let old = record.losses.len().saturating_sub(LOSSES_KEPT);
            record.losses.drain(..old);
        }
        let event = Event::RankLost { task: id.clone(), attempt, rank, worker: worker.clone(), error: error.clone() };
        entry.after.push(After::Emit { id: format!("rank_lost.{id}.{attempt}.{rank}"), event });
        entry.dirty = true;
        if invited.is_some() {
            self.uninvite(job, &worker, "a rank was lost", now);
        } else {
            self.rank_gone(job, id, rank, &worker, &Gone::Lost(error), now);
        }
    }

    /// A rank has left in order.
    pub(super) fn rank_left(&mut self, job: &JobId, id: &TaskId, rank: u32, finished: bool, reason: &str, now: UnixMs) {
        let Some(entry) = self.jobs.get(job) else { return };
        let Some(gang) = entry.gang.as_ref().filter(|gang| &gang.task == id) else { return };
        if let Some(worker) = inviting(gang, rank) {
            self.uninvite(job, &worker, reason, now);
            return;
        }
        let worker = entry.record.task(id).and_then(|t| t.gang.as_ref()).and_then(|g| g.worker_of(rank)).cloned();
        let (Some(worker), false) = (worker, gang.gone.contains(&rank)) else { return };
        let how = if finished { Gone::Finished } else { Gone::Left(reason.to_owned()) };
        if !finished {
            self.shun(job, &worker);
        }
        self.rank_gone(job, id, rank, &worker, &how, now);
    }

    /// A worker whose rank left while it does not drain itself was too slow: this attempt wants no more of it.
    fn shun(&mut self, job: &JobId, worker: &WorkerId) {
        let known = self.workers.get(&(messages::job::Role::Trainer, worker.clone()));
        let Some(pid) = known.filter(|known| !known.draining).map(|known| known.pid) else { return };
        if let Some(gang) = self.jobs.get_mut(job).and_then(|entry| entry.gang.as_mut()) {
            gang.shunned.insert((worker.clone(), pid));
        }
    }

    fn rank_gone(&mut self, job: &JobId, id: &TaskId, rank: u32, worker: &WorkerId, how: &Gone, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(record) = entry.record.task_mut(id).and_then(|t| t.gang.as_mut()) else { return };
        if matches!(how, Gone::Finished) {
            record.finished.push(rank);
        }
        let record = record.clone();
        let least = least_of(entry.record.world_sizes().0, &record);
        let Some(gang) = entry.gang.as_mut() else { return };
        gang.gone.insert(rank);
        let stale = match &mut gang.phase {
            Phase::Meeting { joins, .. } => joins.remove(&rank),
            _ => None,
        };
        let left = gang.present(&record).len();
        if matches!((&gang.phase, how), (Phase::Running, Gone::Lost(_) | Gone::Left(_))) {
            // The others see it by their connections, and come.
            gang.phase = Phase::Meeting { reminded_at: now, expires_at: None, joins: BTreeMap::new() };
        }
        if let Some((token, _)) = stale {
            let error = WireError::new(Code::Fenced, format!("rank {rank} is no longer one of the gang"));
            self.answer(token, Answer::Error(error));
        }
        self.account(job, worker);
        match how {
            Gone::Lost(error) if left < least => self.task_failed(job, id, error.clone(), now),
            Gone::Left(reason) if left < least => self.task_released(job, id, reason, now),
            Gone::Finished if left == 0 => {
                let what = format!("rank {rank} was the last to end, and nobody who could tell the result is left");
                self.task_failed(job, id, WireError::new(Code::WorkerDied, what), now);
            }
            _ => {}
        }
    }

    /// Goes on without ranks that their workers have not given up: those are told.
    pub(super) fn ranks_given_up(&mut self, job: &JobId, id: &TaskId, ranks: &[u32], error: &WireError, now: UnixMs) {
        let Some(entry) = self.jobs.get(job) else { return };
        let Some(task) = entry.record.task(id) else { return };
        let (attempt, record) = (task.attempt, task.gang.clone().unwrap_or_default());
        for member in &record.members {
            let theirs: Vec<u32> = ranks.iter().copied().filter(|rank| member.ranks.contains(rank)).collect();
            if !theirs.is_empty() {
                let (job, task, reason) = (job.clone(), id.clone(), error.message.clone());
                let offer = Offer::Release { job, task, attempt, reason, done: false, ranks: theirs };
                self.offer(&member.worker, offer);
            }
        }
        for rank in ranks {
            self.rank_lost(job, id, *rank, error.clone(), now);
        }
    }

    /// Some have waited for the others for a while. The workers of those who are missing are told that the gang
    /// meets; ranks whose connections are closed, and whose worker has had its time to say what became of them,
    /// are given up.
    pub(super) fn last_call(&mut self, job: &JobId, now: UnixMs) {
        let call_ms = self.timings.last_call_ms;
        let silent_ms = call_ms + self.timings.heartbeat_ms;
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let (id, attempt) = (gang.task.clone(), gang.attempt);
        let Some(record) = entry.record.task(&id).and_then(|t| t.gang.clone()) else { return };
        let present = gang.present(&record);
        let Phase::Meeting { reminded_at, joins, .. } = &mut gang.phase else { return };
        if now.saturating_sub(*reminded_at) < call_ms || joins.is_empty() {
            return;
        }
        *reminded_at = now;
        let missing: Vec<u32> = present.into_iter().filter(|rank| !joins.contains_key(rank)).collect();
        let blamed: BTreeSet<u32> = joins
            .values()
            .filter_map(|(_, join)| join.left.as_ref())
            .filter(|left| left.error.as_ref().is_some_and(|e| e.class == Class::WorkerDied))
            .filter_map(|left| left.suspect)
            .collect();
        // Connections close as well where others have left the generation while a rank still computes: it is
        // gone only if its worker would have mentioned it again by now.
        let seen = |rank: &u32| gang.seen.get(rank).copied().unwrap_or(0);
        let unmentioned = |rank: &u32| now.saturating_sub(seen(rank)) >= silent_ms;
        let beside = |rank: &u32| {
            let ranks = record.worker_of(*rank).map(|worker| ranks_of(&record, worker)).unwrap_or_default();
            ranks.iter().any(|rank| blamed.contains(rank))
        };
        let closed: Vec<u32> = missing.iter().copied().filter(|rank| beside(rank) && unmentioned(rank)).collect();
        if !closed.is_empty() {
            let names: Vec<String> = closed.iter().map(ToString::to_string).collect();
            let what = format!("rank {} closed its connections, and its worker says nothing of it", names.join(", "));
            self.ranks_given_up(job, &id, &closed, &WireError::new(Code::WorkerDied, what), now);
            return;
        }
        for member in record.members.iter().filter(|m| m.ranks.iter().any(|rank| missing.contains(rank))) {
            let (job, task) = (job.clone(), id.clone());
            self.offer(&member.worker, Offer::Regroup { job, task, attempt, when: RegroupWhen::Now });
        }
    }

    /// A worker of a gang has not been heard of: its ranks are gone, the others go on if they are enough.
    /// Whether the gang took care of it.
    pub(super) fn gang_lost_worker(
        &mut self,
        job: &JobId,
        id: &TaskId,
        worker: &WorkerId,
        silent_ms: u64,
        now: UnixMs,
    ) -> bool {
        let host = self.workers.get(&(messages::job::Role::Trainer, worker.clone())).map(|w| w.host.clone());
        let Some(entry) = self.jobs.get(job) else { return false };
        let Some(gang) = entry.gang.as_ref().filter(|g| &g.task == id) else { return false };
        let Some(task) = entry.record.task(id) else { return false };
        let Some(record) = task.gang.clone() else { return false };
        let least = least_of(entry.record.world_sizes().0, &record);
        if matches!(gang.phase, Phase::Reserving { .. }) {
            return false;
        }
        let present = gang.present(&record);
        let (theirs, others): (Vec<u32>, Vec<u32>) =
            present.into_iter().partition(|rank| record.worker_of(*rank) == Some(worker));
        if theirs.is_empty() {
            // Nothing of it counts any more.
            return true;
        }
        if others.len() < least {
            return false;
        }
        let (attempt, fence) = (task.attempt, task.fence.unwrap_or_default());
        let names: Vec<String> = theirs.iter().map(ToString::to_string).collect();
        let message = format!(
            "worker {worker} on host {} with rank {} has not been heard of for {silent_ms} ms: cut off, or the host \
             is down",
            host.as_deref().unwrap_or("?"),
            names.join(", ")
        );
        let error = WireError::new(Code::NetworkPartition, message);
        let event = Event::WorkerLost { worker: worker.clone(), task: id.clone(), attempt, error: error.clone() };
        let generation = record.generation;
        let Some(entry) = self.jobs.get_mut(job) else { return false };
        entry.after.push(After::Emit { id: format!("worker_lost.{id}.{attempt}.{generation}.{worker}"), event });
        let reason = "the gang goes on without it".to_owned();
        entry.after.push(After::Stop { worker: worker.clone(), task: id.clone(), fence, reason });
        entry.dirty = true;
        for rank in theirs {
            self.rank_lost(job, id, rank, error.clone(), now);
        }
        for member in record.members.iter().filter(|member| member.worker != *worker) {
            let (job, task) = (job.clone(), id.clone());
            self.offer(&member.worker, Offer::Regroup { job, task, attempt, when: RegroupWhen::Now });
        }
        true
    }

    /// Ranks that their worker, which lives, has not mentioned for as long as a lost worker is silent.
    pub(super) fn look_at_ranks(&mut self, job: &JobId, now: UnixMs) {
        let lost_ms = self.timings.worker_lost_ms;
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let id = gang.task.clone();
        let Some(record) = entry.record.task(&id).and_then(|t| t.gang.as_ref()) else { return };
        if matches!(gang.phase, Phase::Reserving { .. }) {
            return;
        }
        let mut silent = Vec::new();
        for rank in gang.present(record) {
            let silent_ms = now.saturating_sub(*gang.seen.entry(rank).or_insert(now));
            if silent_ms >= lost_ms {
                silent.push((rank, silent_ms));
            }
        }
        for (rank, silent_ms) in silent {
            let what = format!("rank {rank} is not among those that its worker runs, for {silent_ms} ms");
            self.ranks_given_up(job, &id, &[rank], &WireError::new(Code::WorkerDied, what), now);
        }
    }

    /// Slots of a worker that a job has: seated ranks and invited ones.
    pub(super) fn account(&mut self, job: &JobId, worker: &WorkerId) {
        let Some(entry) = self.jobs.get(job) else { return };
        let Some(gang) = &entry.gang else { return };
        let record = entry.record.task(&gang.task).and_then(|t| t.gang.as_ref());
        let seated =
            record.map_or(0, |record| ranks_of(record, worker).iter().filter(|rank| !gang.gone.contains(rank)).count());
        let invited = gang.invites.get(worker).map_or(0, |invite| invite.ranks.len());
        match (seated + invited) as u32 {
            0 => self.unreserve(worker, job),
            slots => self.reserve(worker, job, slots),
        }
    }

    /// Invites workers with open slots to a gang that may grow. Jobs that wait come first.
    pub(super) fn grow_gang(&mut self, job: &JobId, now: UnixMs) {
        if !self.gang_queue.is_empty() || self.open_slots() == 0 {
            return;
        }
        let Some(entry) = self.jobs.get(job) else { return };
        let Some(gang) = &entry.gang else { return };
        let Some(record) = entry.record.task(&gang.task).and_then(|task| task.gang.as_ref()) else { return };
        let settled = matches!(gang.phase, Phase::Running) && gang.gone.is_empty() && gang.invites.is_empty();
        let room = entry.record.world_sizes().1.saturating_sub(record.world_size());
        if !settled || room == 0 || now < gang.grow_after {
            return;
        }
        let (id, fingerprint) = (gang.task.clone(), record.members.first().map(|m| m.fingerprint.clone()));
        let fingerprint = fingerprint.unwrap_or_default();
        let expires_at = now + self.timings.reserve_timeout_ms;
        let shunned = gang.shunned.clone();
        for (worker, slots) in self.pick_more(&fingerprint, room, &shunned) {
            let Some(entry) = self.jobs.get_mut(job) else { return };
            let Some(record) = entry.record.task_mut(&id).and_then(|task| task.gang.as_mut()) else { return };
            // The numbers are recorded before anybody hears of them: no other leader gives them again.
            let ranks: Vec<u32> = (record.next_rank..record.next_rank + slots).collect();
            record.next_rank += slots;
            entry.dirty = true;
            entry.after.push(After::Invite { worker: worker.clone() });
            let fingerprint = fingerprint.clone();
            let arrived = BTreeMap::new();
            let invite = Invite { ranks, fingerprint, started: false, expires_at, arrived, called_at: None };
            if let Some(gang) = &mut entry.gang {
                gang.invites.insert(worker.clone(), invite);
            }
            self.account(job, &worker);
        }
    }

    /// The numbers of the invited are recorded: their worker is asked.
    pub(super) fn invite(&mut self, job: &JobId, worker: &WorkerId) {
        let Some(gang) = self.jobs.get(job).and_then(|entry| entry.gang.as_ref()) else { return };
        let Some(invite) = gang.invites.get(worker) else { return };
        let (slots, joining) = (invite.ranks.len() as u32, invite.ranks.first().copied());
        let (job, task, attempt) = (job.clone(), gang.task.clone(), gang.attempt);
        let expires_at = invite.expires_at;
        self.offer(worker, Offer::Reserve { job, task, attempt, slots, expires_at, joining });
    }

    pub(super) fn on_invite_answered(
        &mut self,
        job: &JobId,
        worker: &WorkerId,
        answer: Option<OfferAnswer>,
        now: UnixMs,
    ) {
        let join_timeout_ms = self.timings.join_timeout_ms;
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let Some(invite) = gang.invites.get_mut(worker) else { return };
        match answer {
            Some(OfferAnswer::Accepted { slots, fingerprint })
                if !invite.started && slots as usize == invite.ranks.len() && fingerprint == invite.fingerprint =>
            {
                invite.started = true;
                invite.expires_at = now + join_timeout_ms;
                let ranks = invite.ranks.clone();
                let Some(task) = entry.record.task(&gang.task) else { return };
                let (Some(record), Some(fence)) = (&task.gang, task.fence) else { return };
                let Some(work) = lifecycle::work_of(&entry.record, task) else { return };
                let world_size = record.world_size() + ranks.len() as u32;
                let generation = record.generation + 1;
                entry.seen.insert((gang.task.clone(), worker.clone()), now);
                self.offer(worker, Offer::Start { work: Box::new(work), fence, generation, ranks, world_size });
            }
            Some(OfferAnswer::Started | OfferAnswer::Released | OfferAnswer::Regrouping) => {}
            // The answer to its start may be lost: the ranks come, or the deadline.
            None if invite.started => {}
            _ => self.uninvite(job, worker, "the slots could not be had", now),
        }
    }

    /// Invitations end when their ranks do not come in time, or when their worker is gone.
    pub(super) fn look_at_invites(&mut self, job: &JobId, now: UnixMs) {
        let lost_ms = self.timings.worker_lost_ms;
        let Some(entry) = self.jobs.get(job) else { return };
        let Some(gang) = &entry.gang else { return };
        let why_over = |worker: &WorkerId, invite: &Invite| {
            let seen = entry.seen.get(&(gang.task.clone(), worker.clone()));
            if invite.expires_at <= now && invite.arrived.len() < invite.ranks.len() {
                Some("its ranks did not come in time")
            } else if invite.started && seen.is_some_and(|at| now.saturating_sub(*at) >= lost_ms) {
                Some("its worker has not been heard of")
            } else {
                None
            }
        };
        let over: Vec<(WorkerId, &str)> = gang
            .invites
            .iter()
            .filter_map(|(worker, invite)| why_over(worker, invite).map(|why| (worker.clone(), why)))
            .collect();
        for (worker, why) in over {
            self.uninvite(job, &worker, why, now);
        }
        self.call_for_invited(job, now);
    }

    /// Takes an invitation back, and whoever came of it.
    fn uninvite(&mut self, job: &JobId, worker: &WorkerId, reason: &str, now: UnixMs) {
        let pause_ms = self.timings.last_call_ms;
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let Some(invite) = gang.invites.remove(worker) else { return };
        gang.grow_after = gang.grow_after.max(now + pause_ms);
        let (id, attempt) = (gang.task.clone(), gang.attempt);
        for (token, _) in invite.arrived.into_values() {
            self.answer(
                token,
                Answer::Error(WireError::new(Code::Fenced, format!("the invitation is over: {reason}"))),
            );
        }
        self.account(job, worker);
        let (job, reason) = (job.clone(), reason.to_owned());
        self.offer(worker, Offer::Release { job, task: id, attempt, reason, done: false, ranks: invite.ranks });
    }

    /// Asks the gang to meet once all who were invited are there; again where it has not heard.
    fn call_for_invited(&mut self, job: &JobId, now: UnixMs) {
        let call_ms = self.timings.last_call_ms;
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(gang) = entry.gang.as_mut() else { return };
        let complete = |invite: &Invite| invite.arrived.len() == invite.ranks.len();
        let called = |invite: &Invite| invite.called_at.is_some_and(|at| now.saturating_sub(at) < call_ms);
        if !matches!(gang.phase, Phase::Running)
            || gang.invites.is_empty()
            || !gang.invites.values().all(complete)
            || gang.invites.values().all(called)
        {
            return;
        }
        gang.invites.values_mut().for_each(|invite| invite.called_at = Some(now));
        let (id, attempt) = (gang.task.clone(), gang.attempt);
        let members = entry.record.task(&id).and_then(|t| t.gang.clone()).unwrap_or_default().members;
        for member in members {
            let (job, task) = (job.clone(), id.clone());
            self.offer(&member.worker, Offer::Regroup { job, task, attempt, when: RegroupWhen::NextStep });
        }
    }
}

/// The worker that was asked to run a rank which has not been seated.
fn inviting(gang: &GangRun, rank: u32) -> Option<WorkerId> {
    gang.invites.iter().find(|(_, invite)| invite.ranks.contains(&rank)).map(|(worker, _)| worker.clone())
}

/// So many ranks the gang needs to go on. Where one has finished, all have come as far, and one can tell the rest.
fn least_of(min_world_size: u32, gang: &Gang) -> usize {
    if gang.finished.is_empty() { min_world_size as usize } else { 1 }
}

/// How a rank went.
enum Gone {
    Lost(WireError),
    Left(String),
    Finished,
}

/// Whether a gang that meets again has got on since it last did.
enum Progress {
    Some,
    /// Not for some time, and most others blame this rank.
    Blocked(u32, WireError),
    /// Not for a long time, and there is nobody to blame.
    None(WireError),
}

fn progress(gang: &mut GangRun, joins: &BTreeMap<u32, (Token, Join)>) -> Progress {
    let lefts = || joins.values().filter_map(|(_, join)| join.left.as_ref());
    let failed: Vec<&Left> = lefts().filter(|left| left.error.is_some()).collect();
    let step = lefts().map(|left| left.step).max();
    let got_on = gang.stuck_at.is_none() || step > gang.stuck_at;
    if got_on {
        gang.stuck = 0;
    }
    let Some(last) = failed.iter().find_map(|left| left.error.clone()) else { return Progress::Some };
    // Where a rank is gone, that is what went wrong.
    gang.stuck += u32::from(!got_on && gang.gone.is_empty());
    gang.stuck_at = step.max(gang.stuck_at);
    if gang.stuck < 2 || !gang.gone.is_empty() {
        return Progress::Some;
    }
    let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
    for suspect in failed.iter().filter_map(|left| left.suspect).filter(|suspect| joins.contains_key(suspect)) {
        *votes.entry(suspect).or_default() += 1;
    }
    let Some((suspect, blamed_by)) = votes.into_iter().max_by_key(|(rank, votes)| (*votes, *rank)) else {
        return if gang.stuck < MOST_STUCK { Progress::Some } else { Progress::None(last) };
    };
    gang.stuck = 0;
    let said = failed.iter().find(|left| left.suspect == Some(suspect)).and_then(|left| left.error.as_ref());
    let host = joins.get(&suspect).map_or("?", |(_, join)| join.host.as_str());
    let message = format!(
        "rank {suspect} on {host}: {blamed_by} of {} ranks cannot exchange with it; last: {}",
        joins.len(),
        said.map_or("", |error| error.message.as_str())
    );
    Progress::Blocked(suspect, WireError::new(Code::NetworkPartition, message))
}
