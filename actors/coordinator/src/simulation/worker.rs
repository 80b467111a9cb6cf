//! A worker of the simulation: pulls, claims, works, reports; offers slots; beats.

use std::collections::BTreeMap;

use messages::gang::{Join, Joined, Left, Offer, OfferAnswer};
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
    /// Ranks whose join was answered, and with what.
    pub joined: BTreeMap<u32, Joined>,
    /// The generation that its ranks come back from.
    pub left: Option<u32>,
}

impl Attempt {
    pub fn new(work: Work, phase: Phase, at: UnixMs) -> Self {
        Self { work, phase, at, ranks: Vec::new(), generation: 0, joined: BTreeMap::new(), left: None }
    }

    /// A rank has met the others. All that this worker runs go on together, in the latest generation.
    pub fn on_joined(&mut self, rank: u32, joined: Joined, busy_until: UnixMs) {
        self.joined.insert(rank, joined);
        let Some(latest) = self.joined.values().map(|joined| joined.generation).max() else { return };
        if self.ranks.iter().all(|rank| self.joined.get(rank).is_some_and(|joined| joined.generation == latest)) {
            let fence = self.joined.values().filter_map(|joined| joined.fence).max().unwrap_or_default();
            self.generation = latest;
            self.phase = Phase::Working(fence);
            self.at = busy_until;
        }
    }

    /// Whether one of its ranks leads the gang.
    pub fn leads(&self) -> bool {
        let leader = self.joined.values().next().and_then(|joined| joined.peers.first()).map(|peer| peer.rank);
        self.ranks.is_empty() || leader.is_some_and(|leader| self.ranks.contains(&leader))
    }

    /// Ranks that train stop at the next step and join again.
    fn meet_again(&mut self, now: UnixMs) {
        let latest = self.joined.values().map(|joined| joined.generation).max();
        if let (Phase::Working(fence) | Phase::Joining(fence), Some(latest)) = (&self.phase, latest) {
            self.left = Some(latest);
            self.phase = Phase::Joining(*fence);
            self.joined.clear();
            self.at = now;
        }
    }
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
                        Some(HeldLease {
                            job: job.clone(),
                            task: task.clone(),
                            attempt: a.work.attempt,
                            fence,
                            ranks: a.ranks.clone(),
                        })
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
                let held = self.reserved.remove(&key.0).is_some_and(|r| r.2 > now && r.0 == work.attempt);
                if let Some(attempt) = self.attempts.get_mut(&key).filter(|a| a.work.attempt == work.attempt) {
                    // Ranks that join a gang under way; the same again does nothing.
                    let new: Vec<u32> = ranks.into_iter().filter(|rank| !attempt.ranks.contains(rank)).collect();
                    if !new.is_empty() && held {
                        attempt.ranks.extend(new);
                        attempt.meet_again(now);
                    }
                    return OfferAnswer::Started;
                }
                if self.attempts.get(&key).is_some_and(|a| a.work.attempt > work.attempt) {
                    return OfferAnswer::Started;
                }
                self.attempts.remove(&key);
                if !held && self.slots_used(now) + ranks.len() as u32 > self.slots {
                    return OfferAnswer::Declined { reason: "the reservation has run out".into() };
                }
                let attempt = Attempt { ranks, generation, ..Attempt::new(*work, Phase::Joining(fence), now) };
                self.attempts.insert(key, attempt);
                OfferAnswer::Started
            }
            Offer::Release { job, task, attempt, ranks, .. } => {
                if self.reserved.get(&job).is_some_and(|r| r.0 <= attempt) {
                    self.reserved.remove(&job);
                }
                let key = (job, task);
                if let Some(held) = self.attempts.get_mut(&key).filter(|a| a.work.attempt <= attempt) {
                    held.ranks.retain(|rank| !ranks.is_empty() && !ranks.contains(rank));
                    if held.ranks.is_empty() {
                        self.attempts.remove(&key);
                    }
                }
                OfferAnswer::Released
            }
            Offer::Regroup { job, task, attempt, .. } => {
                if let Some(held) = self.attempts.get_mut(&(job, task)).filter(|a| a.work.attempt == attempt) {
                    held.meet_again(now);
                }
                OfferAnswer::Regrouping
            }
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
                left: attempt.left.map(|generation| Left { generation, step: 0, suspect: None, error: None }),
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
