//! Taking a record over: after a conflict, or when this coordinator begins to lead. Everything that
//! is not recorded is derived anew, so that a crash at any moment loses nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use messages::job::{JobRecord, Role, TaskState};
use messages::{Fence, JobId, UnixMs};

use super::{Answer, Entry, Input, State};
use crate::state::gang::GangRun;

impl Entry {
    pub(super) fn new(record: JobRecord, revision: u64, now: UnixMs) -> Self {
        Self {
            record,
            revision,
            busy: false,
            dirty: false,
            creating: None,
            after: Vec::new(),
            backlog: VecDeque::new(),
            seen: BTreeMap::new(),
            published: BTreeMap::new(),
            unservable_since: BTreeMap::new(),
            announced: BTreeSet::new(),
            gang: None,
            leaving: BTreeSet::new(),
            wake_at: now,
        }
    }
}

impl State {
    pub(super) fn on_loaded(&mut self, job: &JobId, record: Option<Box<JobRecord>>, revision: u64, now: UnixMs) {
        let previous = self.jobs.get_mut(job);
        if previous.as_ref().is_some_and(|entry| !entry.busy) {
            return;
        }
        let mut backlog = previous.map(|entry| std::mem::take(&mut entry.backlog)).unwrap_or_default();
        backlog.extend(self.loading.remove(job).unwrap_or_default());
        self.forget(job);
        self.unreserve_all(job);
        let Some(record) = record else {
            for input in backlog {
                match input {
                    Input::Submit { .. } => self.on_job_input(input, now),
                    other => self.on_unknown_job(other),
                }
            }
            return;
        };
        let mut entry = Entry::new(*record, revision, now);
        entry.backlog = backlog;
        for task in &mut entry.record.tasks {
            if task.state.is_held() && task.fence.is_none() {
                task.fence = Some(Fence(revision));
            }
            if task.state.is_held() {
                // Holders get the whole time again to be heard of.
                let workers = task.gang.iter().flat_map(|gang| gang.members.iter().map(|m| m.worker.clone()));
                for worker in task.worker.clone().into_iter().chain(workers) {
                    entry.seen.insert((task.id.clone(), worker), now);
                }
            }
        }
        let gang = entry.record.tasks.iter().find(|t| t.role == Role::Trainer && t.state.is_held()).cloned();
        if let Some(task) = gang {
            for member in task.gang.iter().flat_map(|gang| &gang.members) {
                self.reserve(&member.worker, job, member.slots);
            }
            entry.gang = Some(GangRun::adopted(&task));
        }
        let waits_for_slots = |t: &messages::job::TaskRecord| t.role == Role::Trainer && t.state == TaskState::Queued;
        if entry.record.tasks.iter().any(waits_for_slots) {
            self.gang_queue.insert((entry.record.submitted_at, job.clone()));
        }
        self.jobs.insert(job.clone(), entry);
        let queued: Vec<_> = self.jobs[job]
            .record
            .tasks
            .iter()
            .filter(|t| {
                t.state == TaskState::Queued && t.role != Role::Trainer && t.not_before.is_none_or(|at| at <= now)
            })
            .map(|t| t.id.clone())
            .collect();
        for task in queued {
            self.publish_work(job, &task, now);
        }
        self.drain_backlog(job, now);
    }

    /// Forgets everything: this coordinator does not lead any more. Whoever waits is told.
    pub fn step_down(&mut self) -> Vec<super::Effect> {
        let jobs = std::mem::take(&mut self.jobs);
        for entry in jobs.into_values() {
            let waiting = entry.after.iter().filter_map(|after| match after {
                super::After::Answer { token, .. } | super::After::Grant { token, .. } => Some(*token),
                _ => None,
            });
            let queued = entry.backlog.iter().filter_map(token_of);
            let joining = entry.gang.iter().flat_map(GangRun::waiting_tokens);
            for token in waiting.chain(queued).chain(joining) {
                self.effects
                    .push(super::Effect::Answer { token, answer: Box::new(Answer::Error(super::not_leader())) });
            }
        }
        for input in std::mem::take(&mut self.loading).into_values().flatten() {
            if let Some(token) = token_of(&input) {
                self.effects
                    .push(super::Effect::Answer { token, answer: Box::new(Answer::Error(super::not_leader())) });
            }
        }
        self.wakes.clear();
        self.gang_queue.clear();
        let workers: Vec<_> = self.workers.keys().cloned().collect();
        for (_, id) in workers {
            self.clear_reservations(&id);
        }
        std::mem::take(&mut self.effects)
    }
}

fn token_of(input: &Input) -> Option<super::Token> {
    match input {
        Input::Submit { token, .. } | Input::Cancel { token, .. } => *token,
        Input::Claim { token, .. } | Input::Report { token, .. } | Input::Join { token, .. } => Some(*token),
        _ => None,
    }
}
