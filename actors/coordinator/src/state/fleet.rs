//! The workers as their heartbeats show them.

use std::collections::{BTreeMap, BTreeSet};

use messages::job::{Role, TaskState};
use messages::worker::{Control, Heartbeat, HeldLease};
use messages::{JobId, UnixMs, WorkerId};

use super::{Effect, Input, State};

/// Why a task cannot begin now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lack {
    /// Nobody is there who could ever take it.
    Missing(String),
    /// It has to wait for its turn.
    Busy(String),
}

/// A role of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    pub host: String,
    pub pid: u32,
    pub build: String,
    pub fingerprint: String,
    pub slots: u32,
    pub draining: bool,
    pub seen: UnixMs,
    pub sequence: u64,
    /// Gang slots that this coordinator has reserved or sees in use, by job.
    pub(super) reserved: BTreeMap<JobId, u32>,
}

impl Worker {
    /// Whether gang slots are reserved or in use on it.
    pub fn holds_reservations(&self) -> bool {
        !self.reserved.is_empty()
    }

    /// Gang slots that may be offered.
    pub(super) fn slots_open(&self) -> u32 {
        if self.draining { 0 } else { self.slots.saturating_sub(self.reserved.values().sum()) }
    }
}

impl State {
    pub(super) fn on_heartbeat(&mut self, beat: Heartbeat, now: UnixMs) {
        let key = (beat.role, beat.worker.clone());
        let mut known = self.workers.remove(&key);
        // Another process of the same name counts its heartbeats from the beginning.
        let same = |w: &Worker| (w.pid, &w.host) == (beat.pid, &beat.host);
        if let Some(worker) = known.take_if(|w| same(w) && w.sequence > beat.sequence && w.seen <= now) {
            self.workers.insert(key, worker); // reordered
            return;
        }
        let opened = known.as_ref().is_none_or(|w| w.slots != beat.slots || w.draining != beat.draining);
        let worker = Worker {
            host: beat.host,
            pid: beat.pid,
            build: beat.build,
            fingerprint: beat.fingerprint,
            slots: beat.slots,
            draining: beat.draining,
            seen: now,
            sequence: beat.sequence,
            reserved: known.map(|w| w.reserved).unwrap_or_default(),
        };
        self.workers.insert(key, worker);
        if beat.role == Role::Trainer {
            self.index(&beat.worker);
        }
        for lease in beat.held {
            if self.jobs.get(&lease.job).is_some_and(|entry| entry.busy || lease.fence.0 <= entry.revision) {
                self.on_held(&beat.worker, beat.role, &lease, now);
            } else {
                let (worker, role) = (beat.worker.clone(), beat.role);
                self.on_job_input(Input::Held { worker, role, lease }, now);
            }
        }
        if opened && beat.role == Role::Trainer {
            self.schedule_gangs(now);
        }
    }

    /// A lease that a worker believes to hold: it lives on, or the worker is told that it is void.
    pub(super) fn on_held(&mut self, worker: &WorkerId, role: Role, lease: &HeldLease, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(&lease.job) else { return };
        let Some(task) = entry.record.task(&lease.task) else { return };
        // A gang's fence grows with each generation, and a worker may not have heard of the last.
        let of_gang = |gang: &messages::job::Gang| {
            let invited = entry.gang.as_ref().is_some_and(|gang| gang.invites.contains_key(worker));
            invited || gang.members.iter().any(|member| member.worker == *worker)
        };
        let valid = task.state.is_held()
            && task.role == role
            && task.attempt == lease.attempt
            && task.gang.as_ref().map_or(task.fence == Some(lease.fence), of_gang);
        if valid {
            let theirs = task.gang.iter().flat_map(|gang| super::gang::ranks_of(gang, worker));
            // A worker of the version before does not say which.
            let named: Vec<u32> = theirs.filter(|r| lease.ranks.is_empty() || lease.ranks.contains(r)).collect();
            entry.seen.insert((lease.task.clone(), worker.clone()), now);
            if let Some(gang) = &mut entry.gang {
                gang.seen.extend(named.into_iter().map(|rank| (rank, now)));
            }
            let known = self.workers.get(&(role, worker.clone()));
            if known.is_some_and(|known| !known.reserved.contains_key(&lease.job)) {
                // Heard of for the first time by this coordinator, which found the gang in the record.
                self.account(&lease.job, worker);
            }
            return;
        }
        // A commit may be on its way that this lease stems from.
        if entry.busy && task.state.is_held() && task.fence.is_none() {
            return;
        }
        // Whoever has just reported needs a moment to hear the answer and tidy up.
        let tidying = task.state == TaskState::Done
            && task.attempt == lease.attempt
            && now.saturating_sub(task.since) < 2 * self.timings.heartbeat_ms;
        if !tidying {
            self.stop_lease(worker, lease);
        }
    }

    pub(super) fn stop_lease(&mut self, worker: &WorkerId, lease: &HeldLease) {
        let control = Control::StopTask {
            job: lease.job.clone(),
            task: lease.task.clone(),
            fence: lease.fence,
            reason: "the lease has passed on or the job has ended".into(),
        };
        self.effects.push(Effect::Control { worker: worker.clone(), control });
    }

    /// Gang slots that may be offered, over all workers.
    pub(super) fn open_slots(&self) -> u32 {
        self.open.values().map(|group| group.total).sum()
    }

    /// Brings the index of open slots up to date with one trainer.
    fn index(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get(&(Role::Trainer, id.clone())) else {
            self.open.values_mut().for_each(|group| group.set(id, 0));
            return;
        };
        if !self.open.contains_key(&worker.fingerprint) {
            self.open.insert(worker.fingerprint.clone(), Group::default());
        }
        for (fingerprint, group) in &mut self.open {
            let slots = if *fingerprint == worker.fingerprint { worker.slots_open() } else { 0 };
            group.set(id, slots);
        }
    }

    pub(super) fn drop_silent_workers(&mut self, now: UnixMs) {
        let lost_ms = self.timings.worker_lost_ms;
        let silent: Vec<(Role, WorkerId)> = self
            .workers
            .iter()
            .filter(|(_, w)| now.saturating_sub(w.seen) >= lost_ms && w.reserved.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        for key in silent {
            self.workers.remove(&key);
            self.index(&key.1);
        }
    }

    fn alive(&self, role: Role) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.workers.iter().filter(move |((r, _), w)| *r == role && !w.draining).map(|((_, id), w)| (id, w))
    }

    /// Why nobody can take a queue task; none if somebody can.
    pub(super) fn why_no_worker(&self, role: Role) -> Option<Lack> {
        self.alive(role).next().is_none().then(|| Lack::Missing(format!("no {role} is up")))
    }

    /// Why a gang of at least this size cannot be placed as things stand; none if it can.
    pub(super) fn why_no_gang(&self, least: u32, cuda: bool) -> Option<Lack> {
        let mut alike: BTreeMap<&str, u32> = BTreeMap::new();
        let (mut up, mut seen) = (false, 0);
        for (_, worker) in self.alive(Role::Trainer) {
            up = true;
            if serves(&worker.fingerprint, cuda) {
                *alike.entry(&worker.fingerprint).or_default() += worker.slots;
            } else {
                seen += 1;
            }
        }
        let (slots, most) = (alike.values().sum::<u32>(), alike.values().copied().max().unwrap_or(0));
        let open = self.open.iter().filter(|(of, _)| serves(of, cuda)).map(|(_, group)| group.total).max().unwrap_or(0);
        match slots {
            0 if up && cuda => Some(Lack::Missing(format!(
                "resources.device asks for a CUDA device, and none of the {seen} trainers that are up has one that works \
                 (within doctor on its host says why)"
            ))),
            0 => Some(Lack::Missing("no trainer is up".into())),
            n if n < least => Some(Lack::Missing(format!("{least} trainer slots are needed, {n} exist"))),
            n if most < least => Some(Lack::Missing(format!(
                "{least} trainer slots of one kernel fingerprint (build, instruction set, device) are needed; {n} \
                 exist, at most {most} of them alike"
            ))),
            _ if open < least => Some(Lack::Busy("too many trainer slots are in use".into())),
            _ => None,
        }
    }

    pub(super) fn reserve(&mut self, worker: &WorkerId, job: &JobId, slots: u32) {
        if let Some(entry) = self.workers.get_mut(&(Role::Trainer, worker.clone())) {
            entry.reserved.insert(job.clone(), slots);
            self.index(worker);
        }
    }

    pub(super) fn unreserve(&mut self, worker: &WorkerId, job: &JobId) {
        if let Some(entry) = self.workers.get_mut(&(Role::Trainer, worker.clone())) {
            entry.reserved.remove(job);
            self.index(worker);
        }
    }

    pub(super) fn clear_reservations(&mut self, id: &WorkerId) {
        if let Some(worker) = self.workers.get_mut(&(Role::Trainer, id.clone())) {
            worker.reserved.clear();
            self.index(id);
        }
    }

    pub(super) fn unreserve_all(&mut self, job: &JobId) {
        let reserving =
            |((role, _), w): &(&(Role, WorkerId), &Worker)| *role == Role::Trainer && w.reserved.contains_key(job);
        let workers: Vec<WorkerId> = self.workers.iter().filter(reserving).map(|((_, id), _)| id.clone()).collect();
        for worker in workers {
            self.unreserve(&worker, job);
        }
    }

    /// Workers with open slots, of the fingerprint that has the most of them, by id: `wanted` slots, or at
    /// least `least`.
    pub(super) fn pick_slots(&self, least: u32, wanted: u32, cuda: bool) -> Option<Vec<(WorkerId, u32)>> {
        let fitting = self.open.iter().rev().filter(|(fingerprint, _)| serves(fingerprint, cuda));
        let group = fitting.max_by_key(|(_, group)| group.total).map(|(_, group)| group)?;
        (group.total >= least).then(|| group.take(wanted, |_| true))
    }

    /// Up to so many open slots of workers of one fingerprint.
    pub(super) fn pick_more(
        &self,
        fingerprint: &str,
        most: u32,
        shunned: &BTreeSet<(WorkerId, u32)>,
    ) -> Vec<(WorkerId, u32)> {
        let welcome = |id: &WorkerId| {
            let known = self.workers.get(&(Role::Trainer, id.clone()));
            known.is_some_and(|known| !shunned.contains(&(id.clone(), known.pid)))
        };
        self.open.get(fingerprint).map(|group| group.take(most, welcome)).unwrap_or_default()
    }
}

/// Whether a worker of this kernel fingerprint can train a job that wants CUDA devices, or does not care.
fn serves(fingerprint: &str, cuda: bool) -> bool {
    !cuda || fingerprint.split('+').any(|part| part.starts_with(messages::worker::CUDA))
}

/// Open slots of the trainers of one kernel fingerprint; workers without one are not in it.
#[derive(Debug, Default)]
pub(super) struct Group {
    workers: BTreeMap<WorkerId, u32>,
    total: u32,
}

impl Group {
    /// Up to `most` slots, by worker.
    fn take(&self, most: u32, welcome: impl Fn(&WorkerId) -> bool) -> Vec<(WorkerId, u32)> {
        let mut left = most;
        let mut picks = Vec::new();
        for (id, open) in self.workers.iter().filter(|(id, _)| welcome(id)) {
            let take = (*open).min(left);
            if take == 0 {
                break;
            }
            picks.push((id.clone(), take));
            left -= take;
        }
        picks
    }

    fn set(&mut self, id: &WorkerId, slots: u32) {
        let before = match slots {
            0 => self.workers.remove(id),
            n => self.workers.insert(id.clone(), n),
        };
        self.total = self.total + slots - before.unwrap_or(0);
    }
}
