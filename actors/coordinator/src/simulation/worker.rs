//! A worker of the simulation: pulls, claims, works, reports; beats. Its ranks are in [`super::ranks`].

use std::collections::BTreeMap;

use messages::job::Role;
use messages::rpc::{Claim, ClaimAnswer, Report, ReportBody};
use messages::work::Work;
use messages::worker::{Control, Heartbeat, HeldLease};
use messages::{Fence, JobId, TaskId, UnixMs, WorkerId};

/// One attempt that this worker knows of.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub work: Work,
    pub phase: Phase,
    /// When to do the next thing (finish, or ask again).
    pub at: UnixMs,
}

impl Attempt {
    pub fn new(work: Work, phase: Phase, at: UnixMs) -> Self {
        Self { work, phase, at }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    Claiming,
    Working(Fence),
    Reporting(Fence, Box<ReportBody>),
}

impl Phase {
    fn fence(&self) -> Option<Fence> {
        match self {
            Self::Claiming => None,
            Self::Working(fence) | Self::Reporting(fence, _) => Some(*fence),
        }
    }
}

#[derive(Debug)]
pub struct SimWorker {
    pub id: WorkerId,
    pub roles: Vec<Role>,
    pub slots: u32,
    /// Nothing is done or heard before this.
    pub paused_until: UnixMs,
    pub next_beat: UnixMs,
    pub sequence: u64,
    pub pid: u32,
    pub attempts: BTreeMap<(JobId, TaskId), Attempt>,
    /// Reserved gang slots by job: attempt, slots, expiry.
    pub reserved: BTreeMap<JobId, (u32, u32, UnixMs)>,
}

impl SimWorker {
    pub fn new(id: &str, roles: Vec<Role>, slots: u32, now: UnixMs) -> Self {
        Self {
            id: WorkerId::new(id).expect("id"),
            roles,
            slots,
            paused_until: 0,
            next_beat: now,
            sequence: 0,
            pid: 1,
            attempts: BTreeMap::new(),
            reserved: BTreeMap::new(),
        }
    }

    pub fn slots_reserved(&self, now: UnixMs) -> u32 {
        self.reserved.values().filter(|r| r.2 > now).map(|r| r.1).sum()
    }

    /// Another process under the same name: nothing of the first is left.
    pub fn restart(&mut self, now: UnixMs) {
        self.pid += 1;
        self.sequence = 0;
        self.next_beat = now;
        self.attempts.clear();
        self.reserved.clear();
    }

    pub fn beats(&mut self, gangs: &[HeldLease]) -> Vec<Heartbeat> {
        self.sequence += 1;
        let held = |role: Role| -> Vec<HeldLease> {
            if role == Role::Trainer {
                return gangs.to_vec();
            }
            let held = self.attempts.iter().filter(|((_, task), _)| role_of(task) == role);
            held.filter_map(|((job, task), a)| {
                let (job, task, fence) = (job.clone(), task.clone(), a.phase.fence()?);
                Some(HeldLease { job, task, attempt: a.work.attempt, fence, ranks: Vec::new() })
            })
            .collect()
        };
        self.roles
            .iter()
            .map(|role| Heartbeat {
                worker: self.id.clone(),
                role: *role,
                host: "host".into(),
                pid: self.pid,
                build: "test".into(),
                fingerprint: "cpu".into(),
                slots: if *role == Role::Trainer { self.slots } else { 4 },
                slots_free: 0,
                held: held(*role),
                draining: false,
                sequence: self.sequence,
            })
            .collect()
    }

    pub fn claim(&self, work: &Work) -> Claim {
        Claim { job: work.job.clone(), task: work.task.clone(), attempt: work.attempt, worker: self.id.clone() }
    }

    pub fn report(&self, attempt: &Attempt) -> Option<Report> {
        let Phase::Reporting(fence, body) = &attempt.phase else { return None };
        Some(Report {
            job: attempt.work.job.clone(),
            task: attempt.work.task.clone(),
            attempt: attempt.work.attempt,
            fence: *fence,
            worker: self.id.clone(),
            body: (**body).clone(),
        })
    }

    /// Answers of claims: whether the message is done with.
    pub fn on_claimed(&mut self, key: &(JobId, TaskId), attempt: u32, answer: &ClaimAnswer, done_at: UnixMs) -> bool {
        let Some(held) = self.attempts.get_mut(key) else { return false };
        if held.phase != Phase::Claiming || held.work.attempt != attempt {
            return false;
        }
        match answer {
            ClaimAnswer::Granted { fence } => {
                held.phase = Phase::Working(*fence);
                held.at = done_at;
                false
            }
            ClaimAnswer::Gone { .. } => {
                self.attempts.remove(key);
                true
            }
            ClaimAnswer::Busy { .. } => {
                self.attempts.remove(key);
                false
            }
        }
    }

    /// The answer of a report has come, whatever it is: that attempt is over. An answer to an earlier
    /// report of the same lease changes nothing.
    pub fn on_reported(&mut self, key: &(JobId, TaskId), fence: Fence, body: &ReportBody) -> Option<u32> {
        let held = self.attempts.get(key)?;
        let over = matches!(&held.phase, Phase::Reporting(own, said) if *own == fence && **said == *body);
        let attempt = held.work.attempt;
        over.then(|| self.attempts.remove(key)).map(|_| attempt)
    }

    pub fn on_control(&mut self, control: &Control) {
        if let Control::StopTask { job, task, fence, .. } = control {
            let key = (job.clone(), task.clone());
            if self.attempts.get(&key).is_some_and(|a| a.phase.fence().is_some_and(|own| own <= *fence)) {
                self.attempts.remove(&key);
            }
        }
    }
}

pub fn role_of(task: &TaskId) -> Role {
    match task.as_str() {
        "prepare" => Role::DataLoader,
        "train" => Role::Trainer,
        "evaluate" => Role::Evaluator,
        _ => Role::Tracker,
    }
}
