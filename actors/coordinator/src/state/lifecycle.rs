//! The life of a job: which task comes next, what a failure means, deadlines, and the end.

use std::collections::BTreeMap;

use messages::error::{Class, Code};
use messages::event::{Completed, Event, MetricSummary};
use messages::job::{JobRecord, JobState, OutboxEntry, Role, TaskRecord, TaskState};
use messages::subject::event_msg_id;
use messages::work::{TaskOutput, Work, WorkInput};
use messages::{JobId, TaskId, UnixMs, WireError, WorkerId};

use super::fleet::Lack;
use super::{After, Effect, Entry, State};

/// A queued task's message is published again after so many ack waits without a claim: a repetition
/// is harmless, a lost message is not.
const REPUBLISH_ACK_WAITS: u64 = 2;

impl Entry {
    /// Gives a queued task a new lease; its fence is known when the commit has succeeded.
    pub(super) fn lease(&mut self, id: &TaskId, set: impl FnOnce(&mut TaskRecord), now: UnixMs) {
        let Some(task) = self.record.task_mut(id) else { return };
        task.state = TaskState::Leased;
        task.fence = None;
        task.since = now;
        task.not_before = None;
        task.waiting = None;
        set(task);
        self.unservable_since.remove(id);
        self.dirty = true;
        if self.record.state == JobState::Accepted {
            self.record.state = JobState::Running;
            self.record.since = now;
        }
    }

    /// Records what a queued task waits for, so that it shows in the job's state.
    fn wait_for(&mut self, id: &TaskId, reason: Option<String>) {
        let changed = self.record.task_mut(id).filter(|task| task.waiting != reason);
        if let Some(task) = changed {
            task.waiting = reason;
            self.dirty = true;
        }
    }

    /// Everyone who holds or may hold the task.
    fn holders(&self, id: &TaskId) -> Vec<WorkerId> {
        let Some(task) = self.record.task(id) else { return Vec::new() };
        let members = task.gang.iter().flat_map(|gang| gang.members.iter().map(|m| m.worker.clone()));
        task.worker.clone().into_iter().chain(members).collect()
    }
}

impl State {
    /// Decides what comes next for a job, given what is done.
    pub(super) fn advance(&mut self, job: &JobId, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        if entry.busy || entry.record.state.is_terminal() {
            return;
        }
        if now >= entry.record.deadline_at {
            let error = deadline_passed(&entry.record);
            self.fail_job(job, error, now);
            return;
        }
        let ready: Vec<TaskId> = entry
            .record
            .tasks
            .iter()
            .filter(|t| t.state == TaskState::Waiting)
            .filter(|t| t.needs.iter().all(|need| entry.record.task(need).is_some_and(|n| n.state == TaskState::Done)))
            .map(|t| t.id.clone())
            .collect();
        for id in ready {
            self.queue_task(job, &id, now);
        }
        let Some(entry) = self.jobs.get_mut(job) else { return };
        if entry.record.tasks.iter().all(|t| t.state == TaskState::Done) {
            let completed = completed(&entry.record, now);
            entry.record.completed = Some(completed.clone());
            self.end_job(job, JobState::Succeeded, Event::Completed(completed), None, now);
        }
    }

    fn queue_task(&mut self, job: &JobId, id: &TaskId, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let submitted_at = entry.record.submitted_at;
        let Some(task) = entry.record.task_mut(id) else { return };
        task.state = TaskState::Queued;
        task.since = now;
        entry.dirty = true;
        // What was published was the attempt before.
        entry.published.remove(id);
        let due = task.not_before.is_none_or(|at| at <= now);
        if task.role == Role::Trainer {
            self.gang_queue.insert((submitted_at, job.clone()));
        } else if due {
            entry.after.push(After::PublishWork { task: id.clone() });
        }
    }

    pub(super) fn publish_work(&mut self, job: &JobId, id: &TaskId, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(task) = entry.record.task(id) else { return };
        if task.state != TaskState::Queued || task.role == Role::Trainer {
            return;
        }
        let Some(work) = work_of(&entry.record, task) else { return };
        let role = task.role;
        entry.published.insert(id.clone(), now);
        let trace = entry.record.traceparent.clone();
        self.effects.push(Effect::PublishWork { role, work: Box::new(work), trace });
    }

    pub(super) fn task_done(&mut self, job: &JobId, id: &TaskId, output: TaskOutput, now: UnixMs) {
        self.free_gang(job, id, "done");
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(task) = entry.record.task_mut(id) else { return };
        task.state = TaskState::Done;
        task.output = Some(output);
        task.error = None;
        let duration_s = now.saturating_sub(task.since) as f64 / 1e3;
        task.since = now;
        let attempt = task.attempt;
        entry.dirty = true;
        let event = Event::TaskDone { task: id.clone(), attempt, duration_s };
        entry.after.push(After::Emit { id: format!("task_done.{id}.{attempt}"), event });
    }

    /// A failed attempt: again, if that can help, else the job ends.
    pub(super) fn task_failed(&mut self, job: &JobId, id: &TaskId, error: WireError, now: UnixMs) {
        self.free_gang(job, id, "failed");
        let backoff_ms = self.timings.retry_backoff_ms;
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let max_attempts = entry.record.max_attempts;
        let Some(task) = entry.record.task_mut(id) else { return };
        task.failures += 1;
        task.error = Some(error.clone());
        if !error.retry || task.failures >= max_attempts {
            task.state = TaskState::Failed;
            task.since = now;
            let error = if error.retry {
                let message = format!("{} (attempt {} of {max_attempts})", error.message, task.failures);
                WireError { message, retry: false, ..error }
            } else {
                error
            };
            self.fail_job(job, error, now);
            return;
        }
        let attempt = task.attempt;
        task.not_before = Some(now + (backoff_ms << (task.failures - 1).min(6)));
        requeue(task);
        let event = Event::TaskRetried { task: id.clone(), attempt, error };
        entry.after.push(After::Emit { id: format!("task_retried.{id}.{attempt}"), event });
        self.queue_task(job, id, now);
    }

    /// A draining worker gave the task back: another attempt, that does not count as a failure.
    pub(super) fn task_released(&mut self, job: &JobId, id: &TaskId, reason: &str, now: UnixMs) {
        self.free_gang(job, id, reason);
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(task) = entry.record.task_mut(id) else { return };
        task.not_before = None;
        requeue(task);
        self.queue_task(job, id, now);
    }

    /// The holder has not been heard of: its lease is void, the task begins again elsewhere.
    pub(super) fn task_lost(&mut self, job: &JobId, id: &TaskId, worker: &WorkerId, silent_ms: u64, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let Some(task) = entry.record.task(id) else { return };
        let (attempt, fence) = (task.attempt, task.fence.unwrap_or_default());
        let host = self.workers.get(&(task.role, worker.clone())).map_or("?", |w| w.host.as_str());
        // Of several hosts, the silent one may as well be cut off.
        let code = match &task.gang {
            Some(gang) if gang.members.len() > 1 => Code::NetworkPartition,
            _ => Code::WorkerDied,
        };
        let message = format!("worker {worker} on host {host} has not been heard of with this task for {silent_ms} ms");
        let error = WireError::new(code, message);
        let event = Event::WorkerLost { worker: worker.clone(), task: id.clone(), attempt, error: error.clone() };
        entry.after.push(After::Emit { id: format!("worker_lost.{id}.{attempt}"), event });
        for holder in entry.holders(id) {
            let reason = "the lease was given up".to_owned();
            entry.after.push(After::Stop { worker: holder, task: id.clone(), fence, reason });
        }
        self.task_failed(job, id, error, now);
    }

    pub(super) fn fail_job(&mut self, job: &JobId, error: WireError, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        entry.record.error = Some(error.clone());
        let event = Event::Failed {
            name: entry.record.name.clone(),
            run: job.to_string(),
            duration_s: now.saturating_sub(entry.record.submitted_at) as f64 / 1e3,
            error: error.clone(),
        };
        self.end_job(job, JobState::Failed, event, Some(&error), now);
    }

    /// Enters a terminal state, once: stops what runs, and puts the event into the outbox.
    pub(super) fn end_job(
        &mut self,
        job: &JobId,
        state: JobState,
        event: Event,
        error: Option<&WireError>,
        now: UnixMs,
    ) {
        let Some(entry) = self.jobs.get_mut(job) else { return };
        assert!(!entry.record.state.is_terminal(), "invariant: job {job} ends once");
        let open: Vec<TaskId> =
            entry.record.tasks.iter().filter(|t| !t.state.is_terminal()).map(|t| t.id.clone()).collect();
        let reason = error.map_or_else(|| state.as_str().to_owned(), |e| e.message.clone());
        for id in open {
            let Some(entry) = self.jobs.get_mut(job) else { return };
            if let Some(task) = entry.record.task(&id).filter(|t| t.state.is_held()) {
                let fence = task.fence.unwrap_or_default();
                for worker in entry.holders(&id) {
                    entry.after.push(After::Stop { worker, task: id.clone(), fence, reason: reason.clone() });
                }
            }
            self.free_gang(job, &id, &reason);
            let Some(task) = self.jobs.get_mut(job).and_then(|e| e.record.task_mut(&id)) else { return };
            task.state = TaskState::Cancelled;
            task.waiting = None;
            task.since = now;
        }
        let Some(entry) = self.jobs.get_mut(job) else { return };
        entry.record.state = state;
        entry.record.since = now;
        entry.dirty = true;
        self.gang_queue.remove(&(entry.record.submitted_at, job.clone()));
        into_outbox(&mut entry.record, event, now);
    }

    pub(super) fn on_tick(&mut self, now: UnixMs) {
        self.drop_silent_workers(now);
        while let Some((at, job)) = self.wakes.first().cloned() {
            if at > now {
                break;
            }
            self.wakes.remove(&(at, job.clone()));
            if self.jobs.get(&job).is_some_and(|entry| entry.busy) {
                // Its commit's answer looks at it again.
                if let Some(entry) = self.jobs.get_mut(&job) {
                    entry.wake_at = now + self.timings.tick_ms;
                    self.wakes.insert((entry.wake_at, job));
                }
                continue;
            }
            self.look_at_holders(&job, now);
            self.look_at_queue(&job, now);
            self.look_at_gang(&job, now);
            self.settle(&job, now);
        }
        self.schedule_gangs(now);
    }

    /// Holders that have not been heard of with their lease.
    fn look_at_holders(&mut self, job: &JobId, now: UnixMs) {
        let lost_ms = self.timings.worker_lost_ms;
        let Some(entry) = self.jobs.get(job) else { return };
        let lost: Vec<_> = entry
            .record
            .tasks
            .iter()
            .filter(|t| t.state.is_held())
            .flat_map(|t| entry.holders(&t.id).into_iter().map(move |w| (t.id.clone(), w, t.since)))
            .filter_map(|(id, worker, since)| {
                let seen = entry.seen.get(&(id.clone(), worker.clone())).copied().unwrap_or(since);
                let silent = now.saturating_sub(seen);
                (silent >= lost_ms).then_some((id, worker, silent))
            })
            .collect();
        for (id, worker, silent) in lost {
            let held = self.jobs.get(job).and_then(|e| e.record.task(&id)).is_some_and(|t| t.state.is_held());
            if held && !self.gang_lost_worker(job, &id, &worker, silent, now) {
                self.task_lost(job, &id, &worker, silent, now);
            }
        }
    }

    /// Queued tasks: due again after a pause, never claimed, or nobody there to claim them.
    fn look_at_queue(&mut self, job: &JobId, now: UnixMs) {
        let Some(entry) = self.jobs.get(job) else { return };
        let queued: Vec<TaskRecord> =
            entry.record.tasks.iter().filter(|t| t.state == TaskState::Queued).cloned().collect();
        for task in queued {
            if task.not_before.is_some_and(|at| at > now) {
                continue;
            }
            let lack = if task.role == Role::Trainer {
                let Some(entry) = self.jobs.get(job) else { return };
                if entry.gang.is_some() {
                    continue;
                }
                self.why_no_gang(entry.record.world_sizes().0, entry.record.cuda)
            } else {
                let again_ms = self.timings.ack_wait_ms * REPUBLISH_ACK_WAITS;
                let last = self.jobs.get(job).and_then(|e| e.published.get(&task.id).copied());
                if last.is_none_or(|at| now.saturating_sub(at) >= again_ms) {
                    self.publish_work(job, &task.id, now);
                }
                self.why_no_worker(task.role)
            };
            self.note_lack(job, &task, lack, now);
        }
    }

    /// Says once that a task waits and for what; gives up when nobody came for the claim time-out. A task that
    /// waits for its turn says so too, and goes on waiting.
    fn note_lack(&mut self, job: &JobId, task: &TaskRecord, lack: Option<Lack>, now: UnixMs) {
        let (claim_ms, say_ms) = (self.timings.claim_timeout_ms, self.timings.heartbeat_ms);
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let reason = match lack {
            Some(Lack::Missing(reason)) => reason,
            Some(Lack::Busy(reason)) => {
                entry.unservable_since.remove(&task.id);
                if now.saturating_sub(task.since) >= say_ms {
                    entry.wait_for(&task.id, Some(reason));
                }
                return;
            }
            // What waits for its turn may not get this one: the lease tidies up.
            None if entry.unservable_since.remove(&task.id).is_none() => return,
            None => return entry.wait_for(&task.id, None),
        };
        let since = *entry.unservable_since.entry(task.id.clone()).or_insert(now);
        let waited_ms = now.saturating_sub(since);
        if waited_ms >= claim_ms {
            let error = no_capacity(format!("task {} waited {waited_ms} ms: {reason}", task.id), task.role);
            self.fail_job(job, error, now);
        } else if waited_ms >= say_ms {
            entry.wait_for(&task.id, Some(reason.clone()));
            if entry.announced.insert((task.id.clone(), task.attempt)) {
                let event = Event::Waiting { task: task.id.clone(), reason };
                entry.after.push(After::Emit { id: format!("waiting.{}.{}", task.id, task.attempt), event });
                entry.dirty = true;
            }
        }
    }

    /// When to look at the job again at the latest.
    pub(super) fn reschedule(&mut self, job: &JobId, now: UnixMs) {
        let tick_ms = self.timings.tick_ms;
        let coarse_ms = (self.timings.heartbeat_ms / 2).max(tick_ms);
        let Some(entry) = self.jobs.get_mut(job) else { return };
        let queued = self.wakes.remove(&(entry.wake_at, job.clone()));
        let due = entry.record.tasks.iter().filter_map(|t| t.not_before).filter(|at| *at > now).min();
        // A job that is heard of all the time is looked at all the same: what is due stays due.
        let planned = Some(entry.wake_at).filter(|_| queued);
        let grows = entry.gang.is_some() && entry.record.world_sizes().1 > 1;
        let next = now + if grows { tick_ms } else { coarse_ms };
        entry.wake_at = [Some(next), Some(entry.record.deadline_at.max(now + 1)), due, planned]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now + coarse_ms);
        self.wakes.insert((entry.wake_at, job.clone()));
    }
}

/// The deadline has passed: what it passed over is the reason, a lack of workers before anything else.
fn deadline_passed(record: &JobRecord) -> WireError {
    let message = format!("the job's deadline has passed; {}", detail(record));
    match record.tasks.iter().find(|task| task.waiting.is_some()) {
        Some(task) => no_capacity(message, task.role),
        None => WireError::new(Code::DeadlineExceeded, message)
            .with_hint("raise limits.deadline_s, or see `within jobs events`"),
    }
}

fn no_capacity(message: String, role: Role) -> WireError {
    let error = WireError::new(Code::NoCapacity, message).with_hint(format!("start one: within worker --roles {role}"));
    WireError { retry: false, ..error }
}

fn requeue(task: &mut TaskRecord) {
    task.attempt += 1;
    task.state = TaskState::Waiting;
    task.worker = None;
    task.fence = None;
}

/// Puts an event into the record's outbox under an id that follows from the job alone.
pub(super) fn into_outbox(record: &mut JobRecord, event: Event, now: UnixMs) {
    let id = event_msg_id(&record.job, event.name(), 0);
    record.outbox.push(OutboxEntry { id, at: now, event });
}

fn output<'a>(record: &'a JobRecord, name: &str) -> Option<&'a TaskOutput> {
    record.tasks.iter().find(|t| t.id.as_str() == name)?.output.as_ref()
}

/// The work of a task, made of the outputs of those before it.
pub(super) fn work_of(record: &JobRecord, task: &TaskRecord) -> Option<Work> {
    let dataset = || match output(record, "prepare") {
        Some(TaskOutput::Prepared { dataset, .. }) => Some(dataset.clone()),
        _ => None,
    };
    let model = || match output(record, "train") {
        Some(TaskOutput::Trained { model, .. }) => Some(model.clone()),
        _ => None,
    };
    let input = match task.id.as_str() {
        "prepare" => WorkInput::Prepare,
        "train" => WorkInput::Train { dataset: dataset()?, resume: task.checkpoint.clone() },
        "evaluate" => WorkInput::Evaluate { dataset: dataset()?, model: model()? },
        "record" => {
            let Some(TaskOutput::Evaluated { metrics, report }) = output(record, "evaluate") else { return None };
            WorkInput::Record { dataset: dataset()?, model: model()?, metrics: metrics.clone(), report: report.clone() }
        }
        _ => return None,
    };
    Some(Work {
        job: record.job.clone(),
        task: task.id.clone(),
        attempt: task.attempt,
        name: record.name.clone(),
        plan: record.plan.clone(),
        deadline_at: record.deadline_at,
        input,
    })
}

fn completed(record: &JobRecord, now: UnixMs) -> Completed {
    let (metrics, report) = match output(record, "evaluate") {
        Some(TaskOutput::Evaluated { metrics, report }) => (metrics.clone(), Some(report.clone())),
        _ => (MetricSummary::default(), None),
    };
    let model = match output(record, "train") {
        Some(TaskOutput::Trained { model, .. }) => Some(model.clone()),
        _ => None,
    };
    let run = match output(record, "record") {
        Some(TaskOutput::Recorded { run }) => run.clone(),
        _ => record.job.to_string(),
    };
    let data_reports = match output(record, "prepare") {
        Some(TaskOutput::Prepared { reports, .. }) => reports.clone(),
        _ => BTreeMap::new(),
    };
    Completed {
        name: record.name.clone(),
        run,
        duration_s: now.saturating_sub(record.submitted_at) as f64 / 1e3,
        metrics,
        model,
        report,
        data_reports,
    }
}

/// What the job does or waits for, in a few words.
pub(crate) fn detail(record: &JobRecord) -> String {
    if let Some(error) = &record.error {
        return format!("{} ({})", error.message, error.class.as_str());
    }
    if record.state.is_terminal() {
        return record.state.as_str().to_owned();
    }
    let open: Vec<String> = record
        .tasks
        .iter()
        .filter(|t| !t.state.is_terminal() && t.state != TaskState::Waiting)
        .map(|t| match (&t.worker, &t.error) {
            _ if t.waiting.is_some() => format!("{} waits: {}", t.id, t.waiting.as_deref().unwrap_or_default()),
            (Some(worker), _) => format!("{} {} on {worker}", t.id, t.state.as_str()),
            (None, Some(e)) => format!("{} {} after {}", t.id, t.state.as_str(), Class::as_str(e.class)),
            (None, None) => format!("{} {}", t.id, t.state.as_str()),
        })
        .collect();
    if open.is_empty() { "accepted".to_owned() } else { open.join(", ") }
}
