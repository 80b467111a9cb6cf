//! Requests of submitters and workers: submit, cancel, claim, report.

use messages::error::Code;
use messages::event::{Accepted, Event};
use messages::job::{JobRecord, JobState, Role, TaskRecord, TaskState};
use messages::rpc::{Cancel, CancelAnswer, Claim, ClaimAnswer, Report, ReportAnswer, ReportBody, Submitted};
use messages::{Fence, JobId, SCHEMA_VERSION, TaskId, UnixMs, WireError};

use super::{After, Answer, Entry, Input, State, Submission, Token};

/// Longest reason kept of a cancellation, in characters.
const REASON_CHARS: usize = 500;

impl State {
    /// There is no record: the job was never accepted.
    pub(super) fn on_unknown_job(&mut self, input: Input) {
        let gone = || WireError::new(Code::JobNotFound, "no such job, or it has ended");
        match input {
            Input::Claim { token, .. } => {
                let reason = "the job has ended or is not known".into();
                self.answer(token, Answer::Claim(ClaimAnswer::Gone { reason }));
            }
            Input::Report { token, .. } => {
                let reason = "the job has ended or is not known".into();
                self.answer(token, Answer::Report(ReportAnswer::Fenced { reason }));
            }
            Input::Cancel { token: Some(token), .. } | Input::Join { token, .. } => {
                self.answer(token, Answer::Error(gone()));
            }
            Input::Held { worker, lease, .. } => self.stop_lease(&worker, &lease),
            _ => {}
        }
    }

    pub(super) fn on_submit(&mut self, token: Option<Token>, submission: Submission, now: UnixMs) {
        let job = submission.job.clone();
        if let Some(entry) = self.jobs.get(&job) {
            let answer = duplicate(&entry.record, &submission);
            if let Some(token) = token {
                self.answer(token, Answer::Submitted(answer));
            }
            return;
        }
        let record = new_record(&submission, now);
        let mut entry = Entry::new(record, 0, now);
        entry.dirty = true;
        if let Some(token) = token {
            let submitted = Submitted {
                job: job.clone(),
                state: JobState::Accepted,
                duplicate: false,
                warnings: submission.warnings.clone(),
                errors: Vec::new(),
                error: None,
            };
            entry.after.push(After::Answer { token, answer: Answer::Submitted(submitted) });
        }
        entry.creating = Some(Box::new(submission));
        self.jobs.insert(job, entry);
    }

    pub(super) fn on_cancel(&mut self, token: Option<Token>, cancel: Cancel, now: UnixMs) {
        let reason: String = cancel.reason.unwrap_or_else(|| "asked for".into()).chars().take(REASON_CHARS).collect();
        let ended = self.jobs.get(&cancel.job).is_none_or(|e| e.record.state.is_terminal());
        if !ended {
            self.end_job(&cancel.job, JobState::Cancelled, Event::Cancelled { reason: reason.clone() }, None, now);
            if let Some(entry) = self.jobs.get_mut(&cancel.job) {
                entry.record.cancel_reason = Some(reason);
            }
        }
        let Some(entry) = self.jobs.get_mut(&cancel.job) else { return };
        if let Some(token) = token {
            let answer = Answer::Cancel(CancelAnswer { state: entry.record.state });
            if ended {
                self.answer(token, answer);
            } else {
                entry.after.push(After::Answer { token, answer });
            }
        }
    }

    pub(super) fn on_claim(&mut self, token: Token, claim: Claim, now: UnixMs) {
        let retry_after_ms = self.timings.ack_wait_ms.min(5_000);
        let Some(entry) = self.jobs.get_mut(&claim.job) else { return };
        let verdict = claim_verdict(&entry.record, &claim, now, retry_after_ms);
        match verdict {
            Verdict::Say(answer) => self.answer(token, Answer::Claim(answer)),
            Verdict::Lease => {
                let event = Event::TaskStarted {
                    task: claim.task.clone(),
                    role: entry.record.task(&claim.task).map_or(Role::DataLoader, |t| t.role),
                    attempt: claim.attempt,
                    worker: claim.worker.clone(),
                };
                entry.lease(&claim.task, |task| task.worker = Some(claim.worker.clone()), now);
                entry.seen.insert((claim.task.clone(), claim.worker), now);
                let id = format!("task_started.{}.{}", claim.task, claim.attempt);
                entry.after.push(After::Emit { id, event });
                entry.after.push(After::Grant { token, task: claim.task });
            }
        }
    }

    pub(super) fn on_report(&mut self, token: Token, report: Report, now: UnixMs) {
        let Some(entry) = self.jobs.get_mut(&report.job) else { return };
        match report_verdict(&entry.record, &report) {
            ReportVerdict::Say(answer) => {
                self.answer(token, Answer::Report(answer));
                return;
            }
            ReportVerdict::Take => {}
        }
        match report.body {
            ReportBody::Done { output } => self.task_done(&report.job, &report.task, output, now),
            ReportBody::Failed { error } => self.task_failed(&report.job, &report.task, error, now),
            ReportBody::Released { reason } => self.task_released(&report.job, &report.task, &reason, now),
            ReportBody::RankLost { rank, error } => self.rank_lost(&report.job, &report.task, rank, error, now),
            ReportBody::RankLeft { rank, finished, reason } => {
                self.rank_left(&report.job, &report.task, rank, finished, &reason, now);
            }
            ReportBody::Checkpoint { checkpoint } => {
                if let Some(task) = entry.record.task_mut(&report.task) {
                    task.state = TaskState::Running;
                    task.checkpoint = Some(checkpoint);
                    entry.dirty = true;
                }
            }
        }
        if let Some(entry) = self.jobs.get_mut(&report.job) {
            entry.after.push(After::Answer { token, answer: Answer::Report(ReportAnswer::Accepted) });
            // A rank that is gone shows in the next generation; the answer waits for nothing.
            entry.dirty = true;
        }
    }
}

enum Verdict {
    Say(ClaimAnswer),
    Lease,
}

fn claim_verdict(record: &JobRecord, claim: &Claim, now: UnixMs, retry_after_ms: u64) -> Verdict {
    let gone = |reason: &str| Verdict::Say(ClaimAnswer::Gone { reason: reason.into() });
    let Some(task) = record.task(&claim.task) else { return gone("no such task") };
    if record.state.is_terminal() || task.state.is_terminal() {
        return gone("the task has ended");
    }
    if claim.attempt < task.attempt {
        return gone("an older attempt");
    }
    if claim.attempt > task.attempt {
        return Verdict::Say(ClaimAnswer::Busy { retry_after_ms });
    }
    match task.state {
        TaskState::Queued => match task.not_before {
            Some(due) if due > now => Verdict::Say(ClaimAnswer::Busy { retry_after_ms: due - now }),
            _ => Verdict::Lease,
        },
        TaskState::Leased | TaskState::Running if task.worker.as_ref() == Some(&claim.worker) => match task.fence {
            Some(fence) => Verdict::Say(ClaimAnswer::Granted { fence }),
            None => Verdict::Say(ClaimAnswer::Busy { retry_after_ms }),
        },
        _ => Verdict::Say(ClaimAnswer::Busy { retry_after_ms }),
    }
}

enum ReportVerdict {
    Say(ReportAnswer),
    Take,
}

fn report_verdict(record: &JobRecord, report: &Report) -> ReportVerdict {
    let fenced = |reason: String| ReportVerdict::Say(ReportAnswer::Fenced { reason });
    let Some(task) = record.task(&report.task) else { return fenced("no such task".into()) };
    // A worker may not know yet that its gang has regrouped.
    let of_a_rank = match &report.body {
        ReportBody::RankLost { .. } | ReportBody::RankLeft { .. } => true,
        // The leader's last checkpoint of a generation may be on its way while the next one is committed.
        ReportBody::Checkpoint { checkpoint } => {
            task.fence.is_some_and(|fence| report.fence < fence)
                && task.gang.iter().flat_map(|gang| &gang.members).any(|member| member.worker == report.worker)
                && task.checkpoint.as_ref().is_none_or(|last| last.step <= checkpoint.step)
        }
        _ => false,
    };
    if (task.fence != Some(report.fence) && !of_a_rank) || task.attempt != report.attempt {
        let current = task.fence.unwrap_or(Fence(0));
        return fenced(format!(
            "fence {} of attempt {}; now {} of {}",
            report.fence, report.attempt, current, task.attempt
        ));
    }
    match (&task.state, &report.body) {
        // The same report again, because its answer was lost.
        (TaskState::Done, ReportBody::Done { .. }) => ReportVerdict::Say(ReportAnswer::Accepted),
        (state, _) if state.is_held() && !record.state.is_terminal() => ReportVerdict::Take,
        (state, _) => fenced(format!("the task is {}", state.as_str())),
    }
}

fn duplicate(record: &JobRecord, submission: &Submission) -> Submitted {
    let same = record.source == submission.source
        && record.event_id == submission.event_id
        && record.content_blake3 == submission.content_blake3;
    let error = (!same).then(|| {
        WireError::new(
            Code::DuplicateConflict,
            format!("job {} exists and was submitted with another content or by another source", record.job),
        )
        .with_hint("give the event a new id")
    });
    Submitted {
        job: record.job.clone(),
        state: if same { record.state } else { JobState::Rejected },
        duplicate: true,
        warnings: Vec::new(),
        errors: Vec::new(),
        error,
    }
}

/// prepare -> train -> evaluate -> record.
fn new_record(submission: &Submission, now: UnixMs) -> JobRecord {
    let id = |name: &str| TaskId::new(name).expect("invariant: a literal task id");
    let chain = [
        ("prepare", Role::DataLoader),
        ("train", Role::Trainer),
        ("evaluate", Role::Evaluator),
        ("record", Role::Tracker),
    ];
    let mut tasks: Vec<TaskRecord> = Vec::new();
    for (name, role) in chain {
        tasks.push(TaskRecord {
            id: id(name),
            role,
            needs: tasks.last().map(|t| t.id.clone()).into_iter().collect(),
            state: TaskState::Waiting,
            attempt: 1,
            failures: 0,
            fence: None,
            worker: None,
            gang: None,
            since: now,
            not_before: None,
            waiting: None,
            output: None,
            error: None,
            checkpoint: None,
        });
    }
    let mut record = JobRecord {
        schema: SCHEMA_VERSION,
        job: submission.job.clone(),
        source: submission.source.clone(),
        event_id: submission.event_id.clone(),
        content_blake3: submission.content_blake3.clone(),
        name: submission.name.clone(),
        spec: submission.spec.clone(),
        plan: submission.plan.clone(),
        state: JobState::Accepted,
        submitted_at: now,
        since: now,
        deadline_at: now.saturating_add(submission.deadline_ms),
        max_attempts: submission.max_attempts.max(1),
        world_size: submission.world_size.max(1),
        min_world_size: submission.min_world_size.max(1),
        max_world_size: submission.max_world_size.max(1),
        cuda: submission.cuda,
        tasks,
        cancel_reason: None,
        completed: None,
        error: None,
        outbox: Vec::new(),
        traceparent: submission.traceparent.clone(),
    };
    let accepted = Event::Accepted(Accepted {
        name: record.name.clone(),
        plan: record.plan.clone(),
        tasks: record.tasks.iter().map(|t| t.id.clone()).collect(),
        warnings: submission.warnings.clone(),
    });
    super::lifecycle::into_outbox(&mut record, accepted, now);
    record
}

/// Names a job in an error.
pub(super) fn name(job: &JobId, task: &TaskId) -> String {
    format!("job {job}, task {task}")
}
