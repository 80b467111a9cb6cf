//! A worker of the simulation: pulls, claims, works, reports; offers slots; beats.

use std::collections::BTreeMap;

use messages::gang::{Join, Offer, OfferAnswer};
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
    pub ranks: Vec<u32>,
    pub generation: u32,
    pub joined: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    Claiming,
    /// Ranks are joining.
    Joining(Fence),
    Working(Fence),
    Reporting(Fence, Box<ReportBody>),
}

impl Phase {
    fn fence(&self) -> Option<Fence> {
        match self {
            Self::Claiming => None,
            Self::Joining(fence) | Self::Working(fence) | Self::Reporting(fence, _) => Some(*fence),
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
            attempts: BTreeMap::new(),
            reserved: BTreeMap::new(),
        }
    }

    pub fn slots_used(&self, now: UnixMs) -> u32 {
        let reserved: u32 = self.reserved.values().filter(|r| r.2 > now).map(|r| r.1).sum();
        reserved + self.attempts.values().map(|a| a.ranks.len() as u32).sum::<u32>()
    }

    pub fn beats(&mut self) -> Vec<Heartbeat> {
        self.sequence += 1;
        self.roles
            .iter()
            .map(|role| Heartbeat {
                worker: self.id.clone(),
                role: *role,
                host: "host".into(),
                pid: 1,
                build: "test".into(),
                fingerprint: "cpu".into(),
                slots: if *role == Role::Trainer { self.slots } else { 4 },
                slots_free: 0,
                held: self
                    .attempts
                    .iter()
                    .filter(|(_, a)| (*role == Role::Trainer) != a.ranks.is_empty())
                    .filter(|((_, task), _)| role_of(task) == *role)
                    .filter_map(|((job, task), a)| {
                        let fence = a.phase.fence()?;
                        Some(HeldLease { job: job.clone(), task: task.clone(), attempt: a.work.attempt, fence })
                    })
                    .collect(),
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

    pub fn on_offer(&mut self, offer: Offer, now: UnixMs) -> OfferAnswer {
        match offer {
            Offer::Reserve { job, attempt, slots, expires_at, .. } => {
                let others = self.slots_used(now) - self.reserved.get(&job).filter(|r| r.2 > now).map_or(0, |r| r.1);
                if others + slots > self.slots {
                    return OfferAnswer::Declined { reason: "full".into() };
                }
                self.reserved.insert(job, (attempt, slots, expires_at));
                OfferAnswer::Accepted { slots, fingerprint: "cpu".into() }
            }
            Offer::Start { work, fence, generation, ranks, .. } => {
                let key = (work.job.clone(), work.task.clone());
                if self.attempts.get(&key).is_some_and(|a| a.work.attempt >= work.attempt) {
                    return OfferAnswer::Started;
                }
                self.attempts.remove(&key);
                let held = self.reserved.remove(&key.0).is_some_and(|r| r.2 > now && r.0 == work.attempt);
                if !held && self.slots_used(now) + ranks.len() as u32 > self.slots {
                    return OfferAnswer::Declined { reason: "the reservation has run out".into() };
                }
                let attempt =
                    Attempt { work: *work, phase: Phase::Joining(fence), at: now, ranks, generation, joined: 0 };
                self.attempts.insert(key, attempt);
                OfferAnswer::Started
            }
            Offer::Release { job, task, attempt, .. } => {
                if self.reserved.get(&job).is_some_and(|r| r.0 <= attempt) {
                    self.reserved.remove(&job);
                }
                let key = (job, task);
                if self.attempts.get(&key).is_some_and(|a| a.work.attempt <= attempt) {
                    self.attempts.remove(&key);
                }
                OfferAnswer::Released
            }
            Offer::Regroup { .. } => OfferAnswer::Regrouping,
        }
    }

    pub fn is_joining(&self, key: &(JobId, TaskId), fence: Fence) -> bool {
        self.attempts.get(key).is_some_and(|a| a.phase == Phase::Joining(fence))
    }

    pub fn on_control(&mut self, control: &Control) {
        if let Control::StopTask { job, task, fence, .. } = control {
            let key = (job.clone(), task.clone());
            if self.attempts.get(&key).is_some_and(|a| a.phase.fence().is_some_and(|own| own <= *fence)) {
                self.attempts.remove(&key);
            }
        }
    }

    pub fn joins(&self, key: &(JobId, TaskId)) -> Vec<Join> {
        let Some(attempt) = self.attempts.get(key) else { return Vec::new() };
        let Phase::Joining(fence) = attempt.phase else { return Vec::new() };
        attempt
            .ranks
            .iter()
            .map(|rank| Join {
                job: key.0.clone(),
                task: key.1.clone(),
                attempt: attempt.work.attempt,
                fence,
                generation: attempt.generation,
                rank: *rank,
                worker: self.id.clone(),
                host: "host".into(),
                pid: 1,
                address: None,
                left: None,
            })
            .collect()
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
