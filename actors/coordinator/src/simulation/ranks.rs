//! The ranks of the simulated gangs: each is a process of its own, that joins, trains in step with its peers,
//! notices when one of them is gone, joins again, and reports.

use std::rc::Rc;

use messages::error::Code;
use messages::gang::{Join, Joined, Left, Offer, OfferAnswer};
use messages::job::Role;
use messages::rpc::{Report, ReportBody};
use messages::worker::{Control, HeldLease};
use messages::{Fence, UnixMs, WireError};

use super::world::{Asker, Key, World, output};
use crate::state::Input;

/// A rank that waits so long for a peer gives the exchange up and blames it.
const EXCHANGE_MS: u64 = 2_000;
/// The same for a peer that is only slower.
const SLOW_MS: u64 = 5_000;
/// A worker kills a rank that has stood still for so long.
const HUNG_MS: u64 = 4_000;

#[derive(Debug, Clone, PartialEq)]
pub enum Phase {
    Joining,
    Training,
    Reporting(Box<ReportBody>),
}

/// One process.
#[derive(Debug)]
pub struct Rank {
    pub worker: usize,
    pub key: Key,
    pub attempt: u32,
    pub rank: u32,
    /// The generation it was started for.
    generation: u32,
    pub fence: Fence,
    pub phase: Phase,
    pub at: UnixMs,
    pub joined: Option<Rc<Joined>>,
    left: Option<Left>,
    step: u64,
    progressed_at: UnixMs,
    /// When it acts on what it has noticed.
    notices_at: Option<UnixMs>,
    pub hung_since: Option<UnixMs>,
}

/// What a worker says of a rank, until it is heard.
#[derive(Debug)]
pub struct Tell {
    pub worker: usize,
    pub report: Report,
    pub at: UnixMs,
}

/// What a rank sees of its peers.
enum View {
    Fine,
    Closed(u32),
    Waits(u32, u64),
}

impl Rank {
    fn generation(&self) -> u32 {
        self.joined.as_ref().map_or(0, |joined| joined.generation)
    }

    fn leaves(&mut self, suspect: Option<u32>, error: Option<WireError>, at: UnixMs) {
        self.left = Some(Left { generation: self.generation(), step: self.step, suspect, error });
        self.phase = Phase::Joining;
        self.notices_at = None;
        self.at = at;
    }
}

impl World {
    pub fn ranks_on(&self, worker: usize) -> u32 {
        self.ranks.iter().filter(|rank| rank.worker == worker).count() as u32
    }

    pub fn slots_used(&self, worker: usize) -> u32 {
        self.workers[worker].slots_reserved(self.now) + self.ranks_on(worker)
    }

    /// Leases of a worker's gangs.
    pub fn held_gangs(&self, worker: usize) -> Vec<HeldLease> {
        let mut held: Vec<HeldLease> = Vec::new();
        for rank in self.ranks.iter().filter(|rank| rank.worker == worker) {
            let of = |lease: &&mut HeldLease| lease.job == rank.key.0 && lease.attempt == rank.attempt;
            if let Some(lease) = held.iter_mut().find(of) {
                lease.fence = lease.fence.max(rank.fence);
                lease.ranks.push(rank.rank);
            } else {
                let (job, task) = rank.key.clone();
                held.push(HeldLease { job, task, attempt: rank.attempt, fence: rank.fence, ranks: vec![rank.rank] });
            }
        }
        held
    }

    pub fn on_offer(&mut self, worker: usize, offer: Offer) -> OfferAnswer {
        let (now, used) = (self.now, self.slots_used(worker));
        match offer {
            Offer::Reserve { job, attempt, slots, expires_at, .. } => {
                let target = &mut self.workers[worker];
                let own = target.reserved.get(&job).filter(|r| r.2 > now).map_or(0, |r| r.1);
                if used - own + slots > target.slots {
                    return OfferAnswer::Declined { reason: "full".into() };
                }
                target.reserved.insert(job, (attempt, slots, expires_at));
                OfferAnswer::Accepted { slots, fingerprint: "cpu".into() }
            }
            Offer::Start { work, fence, generation, ranks, .. } => {
                let (key, attempt) = ((work.job.clone(), work.task.clone()), work.attempt);
                let slots = self.workers[worker].slots;
                let held = self.workers[worker].reserved.remove(&key.0).is_some_and(|r| r.2 > now && r.0 == attempt);
                let mine = |r: &Rank| r.worker == worker && r.key == key;
                if self.ranks.iter().any(|r| mine(r) && r.attempt > attempt) {
                    return OfferAnswer::Started;
                }
                self.ranks.retain(|r| !mine(r) || r.attempt == attempt);
                let runs = |rank: u32| self.ranks.iter().any(|r| mine(r) && r.rank == rank);
                let new: Vec<u32> = ranks.into_iter().filter(|rank| !runs(*rank)).collect();
                if !held && self.slots_used(worker) + new.len() as u32 > slots {
                    return OfferAnswer::Declined { reason: "the reservation has run out".into() };
                }
                for rank in new {
                    self.start_rank(worker, &key, attempt, fence, generation, rank);
                }
                OfferAnswer::Started
            }
            Offer::Release { job, task, attempt, ranks, .. } => {
                let target = &mut self.workers[worker];
                if target.reserved.get(&job).is_some_and(|r| r.0 <= attempt) {
                    target.reserved.remove(&job);
                }
                let named = |rank: u32| ranks.is_empty() || ranks.contains(&rank);
                self.ranks.retain(|r| {
                    r.worker != worker || (&r.key.0, &r.key.1) != (&job, &task) || r.attempt > attempt || !named(r.rank)
                });
                OfferAnswer::Released
            }
            Offer::Regroup { job, attempt, .. } => {
                for rank in &mut self.ranks {
                    let mine = rank.worker == worker && rank.key.0 == job && rank.attempt == attempt;
                    if mine && rank.phase == Phase::Training && rank.hung_since.is_none() {
                        rank.leaves(None, None, now);
                    }
                }
                OfferAnswer::Regrouping
            }
        }
    }

    fn start_rank(&mut self, worker: usize, key: &Key, attempt: u32, fence: Fence, generation: u32, rank: u32) {
        let twin = |r: &Rank| r.worker != worker && &r.key == key && r.attempt == attempt && r.rank == rank;
        if self.ranks.iter().any(twin) {
            self.fault = Some(format!("rank {rank} of {key:?} attempt {attempt} runs on two workers"));
        }
        let at = self.now + self.below(500);
        self.ranks.push(Rank {
            worker,
            key: key.clone(),
            attempt,
            rank,
            generation,
            fence,
            phase: Phase::Joining,
            at,
            joined: None,
            left: None,
            step: 0,
            progressed_at: self.now,
            notices_at: None,
            hung_since: None,
        });
    }

    pub fn stop_ranks(&mut self, worker: usize, control: &Control) {
        let Control::StopTask { job, task, fence, .. } = control else { return };
        let mine = |r: &Rank| r.worker == worker && (&r.key.0, &r.key.1) == (job, task);
        let known = self.ranks.iter().filter(|r| mine(r)).map(|r| r.fence).max();
        if known.is_some_and(|known| known <= *fence) {
            self.ranks.retain(|r| !mine(r));
        }
    }

    /// A process has ended out of order: its worker says so.
    pub fn end_rank(&mut self, index: usize, code: Code) {
        let rank = self.ranks.remove(index);
        let error = WireError::new(code, "simulated");
        let report = Report {
            job: rank.key.0.clone(),
            task: rank.key.1.clone(),
            attempt: rank.attempt,
            fence: rank.fence,
            worker: self.workers[rank.worker].id.clone(),
            body: ReportBody::RankLost { rank: rank.rank, error },
        };
        let at = self.now + self.below(300);
        self.tells.push(Tell { worker: rank.worker, report, at });
    }

    /// Everything of a worker's ranks dies with it.
    pub fn forget_ranks(&mut self, worker: usize) {
        self.ranks.retain(|rank| rank.worker != worker);
        self.tells.retain(|tell| tell.worker != worker);
    }

    pub fn disturb_ranks(&mut self) {
        if self.ranks.is_empty() {
            return;
        }
        if self.chance(50) {
            let victim = self.below(self.ranks.len() as u64) as usize;
            self.end_rank(victim, Code::WorkerDied);
        } else if self.chance(100) {
            let victim = self.below(self.ranks.len() as u64) as usize;
            let now = self.now;
            self.ranks[victim].hung_since.get_or_insert(now);
        } else if self.chance(120) && self.workers.len() > 1 {
            let (a, b) = (self.below(self.workers.len() as u64), self.below(self.workers.len() as u64));
            let until = self.now + self.below(8_000);
            self.partitions.push((a as usize, b as usize, until));
        }
    }

    /// Every rank's turn, and what workers say of those that are gone.
    pub fn turn_ranks(&mut self) {
        let now = self.now;
        let hung = |r: &Rank| r.hung_since.is_some_and(|since| now >= since + HUNG_MS);
        while let Some(index) = self.ranks.iter().position(|r| hung(r) && self.workers[r.worker].paused_until <= now) {
            self.end_rank(index, Code::WorkerHung);
        }
        for index in 0..self.ranks.len() {
            let rank = &self.ranks[index];
            if rank.at <= now && rank.hung_since.is_none() && self.workers[rank.worker].paused_until <= now {
                self.turn_rank(index);
            }
        }
        for index in 0..self.tells.len() {
            if self.tells[index].at <= now && self.workers[self.tells[index].worker].paused_until <= now {
                let report = self.tells[index].report.clone();
                self.tells[index].at = now + 1_000 + self.below(500);
                let token = self.token(Asker::Tell { report: Box::new(report.clone()) });
                self.ask_leader(Input::Report { token, report: Box::new(report) });
            }
        }
    }

    fn turn_rank(&mut self, index: usize) {
        let now = self.now;
        let again = now + 1_000 + self.below(500);
        match self.ranks[index].phase.clone() {
            Phase::Joining => {
                let rank = &self.ranks[index];
                let (worker, key) = (rank.worker, rank.key.clone());
                let join = Join {
                    job: key.0.clone(),
                    task: key.1.clone(),
                    attempt: rank.attempt,
                    fence: rank.fence,
                    generation: rank.generation,
                    rank: rank.rank,
                    worker: self.workers[worker].id.clone(),
                    host: "host".into(),
                    pid: 1,
                    address: None,
                    left: rank.left.clone(),
                };
                let (attempt, rank) = (rank.attempt, rank.rank);
                let token = self.token(Asker::Join { worker, key, attempt, rank });
                self.ask_leader(Input::Join { token, join });
                self.ranks[index].at = again + 1_000;
            }
            Phase::Training => self.train(index),
            Phase::Reporting(body) => {
                let rank = &self.ranks[index];
                let (worker, key) = (rank.worker, rank.key.clone());
                let report = Report {
                    job: key.0.clone(),
                    task: key.1.clone(),
                    attempt: rank.attempt,
                    fence: rank.fence,
                    worker: self.workers[worker].id.clone(),
                    body: *body,
                };
                let (attempt, rank) = (rank.attempt, rank.rank);
                let token = self.token(Asker::RankReport { worker, attempt, rank, report: Box::new(report.clone()) });
                self.ask_leader(Input::Report { token, report: Box::new(report) });
                self.ranks[index].at = again;
            }
        }
    }

    /// What a rank that trains sees of the others.
    fn view(&self, index: usize) -> View {
        let rank = &self.ranks[index];
        let Some(joined) = &rank.joined else { return View::Fine };
        let mut view = View::Fine;
        for peer in joined.peers.iter().filter(|peer| peer.rank != rank.rank) {
            let same = |r: &&Rank| r.rank == peer.rank && r.attempt == rank.attempt && r.key == rank.key;
            let Some(other) = self.ranks.iter().find(same) else {
                if self.finished.contains(&(rank.key.0.clone(), rank.attempt, peer.rank)) {
                    continue;
                }
                return View::Closed(peer.rank);
            };
            let cut = |(a, b, until): &(usize, usize, UnixMs)| {
                *until > self.now && [(*a, *b), (*b, *a)].contains(&(rank.worker, other.worker))
            };
            let standing = other.hung_since.is_some() || self.workers[other.worker].paused_until > self.now;
            let met = other.generation() == joined.generation;
            match &other.phase {
                Phase::Joining if other.generation() >= joined.generation => return View::Closed(peer.rank),
                _ if other.generation() > joined.generation => return View::Closed(peer.rank),
                Phase::Reporting(_) if met && other.step < steps_of(&rank.key) => return View::Closed(peer.rank),
                _ if !met || standing || self.partitions.iter().any(cut) => {
                    view = View::Waits(peer.rank, EXCHANGE_MS);
                }
                _ if other.step < rank.step && matches!(view, View::Fine) => view = View::Waits(peer.rank, SLOW_MS),
                _ => {}
            }
        }
        view
    }

    fn train(&mut self, index: usize) {
        let (now, view) = (self.now, self.view(index));
        let soon = now + 100 + self.below(500);
        let steps = steps_of(&self.ranks[index].key);
        let rank = &mut self.ranks[index];
        match view {
            View::Closed(peer) => {
                if *rank.notices_at.get_or_insert(soon) <= now {
                    let error = WireError::new(Code::WorkerDied, format!("rank {peer} closed its connection"));
                    rank.leaves(Some(peer), Some(error), now);
                }
            }
            View::Waits(peer, patience_ms) => {
                if now.saturating_sub(rank.progressed_at) >= patience_ms {
                    let error = WireError::new(Code::NetworkPartition, format!("rank {peer} does not answer"));
                    rank.leaves(Some(peer), Some(error), now);
                }
            }
            View::Fine => {
                rank.step += 1;
                rank.progressed_at = now;
                rank.at = soon;
                if rank.step >= steps {
                    self.finish(index);
                } else if self.chance(100) {
                    let body = self.mishap(index);
                    self.ranks[index].phase = Phase::Reporting(Box::new(body));
                }
            }
        }
    }

    fn finish(&mut self, index: usize) {
        let rank = &mut self.ranks[index];
        rank.at = self.now;
        let leads = rank.joined.as_ref().and_then(|j| j.peers.first()).is_some_and(|peer| peer.rank == rank.rank);
        let body = if leads {
            ReportBody::Done { output: output(Role::Trainer) }
        } else {
            self.finished.insert((rank.key.0.clone(), rank.attempt, rank.rank));
            ReportBody::RankLeft { rank: rank.rank, finished: true, reason: "done".into() }
        };
        rank.phase = Phase::Reporting(Box::new(body));
    }

    /// What a rank says that ends before its time.
    fn mishap(&mut self, index: usize) -> ReportBody {
        match self.below(6) {
            0 => ReportBody::Failed { error: WireError::new(Code::DatasetValidationError, "simulated") },
            1 => ReportBody::Failed { error: WireError::new(Code::WorkerDied, "simulated") },
            2 => ReportBody::Released { reason: "simulated drain of all".into() },
            _ => {
                let rank = self.ranks[index].rank;
                ReportBody::RankLeft { rank, finished: false, reason: "simulated drain".into() }
            }
        }
    }

    /// The process that asked, if it lives.
    pub fn find_rank(&self, worker: usize, key: &Key, attempt: u32, rank: u32) -> Option<usize> {
        let same = |r: &Rank| r.worker == worker && r.rank == rank && r.attempt == attempt && &r.key == key;
        let index = self.ranks.iter().position(same)?;
        (self.workers[worker].paused_until <= self.now && self.ranks[index].hung_since.is_none()).then_some(index)
    }

    pub fn on_joined(&mut self, index: usize, joined: Joined) {
        let rank = &self.ranks[index];
        let mine = joined.peers.iter().any(|p| p.rank == rank.rank && p.worker == self.workers[rank.worker].id);
        if !mine {
            self.fault = Some(format!("rank {} of {:?} is not in what it joined: {joined:?}", rank.rank, rank.key));
        }
        let back_from = rank.left.as_ref().map_or(0, |left| left.generation);
        // The answer to a join of before.
        if rank.phase != Phase::Joining || joined.generation <= back_from {
            return;
        }
        let job = rank.key.0.clone();
        let met = self.met.entry((job.clone(), joined.generation)).or_insert_with(|| Rc::new(joined.clone()));
        if **met != joined {
            self.fault = Some(format!("{job}: generation {} is {met:?} and {joined:?}", joined.generation));
        }
        let joined = Rc::clone(met);
        let before = self.met.range(..(job.clone(), joined.generation)).next_back();
        let after = self.met.range((job.clone(), joined.generation + 1)..).next();
        let grows = before.is_none_or(|((of, _), met)| of != &job || met.fence < joined.fence)
            && after.is_none_or(|((of, _), met)| of != &job || met.fence > joined.fence);
        if !grows {
            self.fault = Some(format!("fences of {job} do not grow: {before:?}, {joined:?}, {after:?}"));
        }
        let is_peer = |r: &&Rank| {
            r.key == rank.key && r.attempt == rank.attempt && joined.peers.iter().any(|peer| peer.rank == r.rank)
        };
        let step = self.ranks.iter().filter(is_peer).map(|r| r.step).max().unwrap_or(0);
        let (now, soon) = (self.now, self.now + 100 + self.below(400));
        let rank = &mut self.ranks[index];
        // What a rank has missed it is given by the others.
        rank.step = step;
        rank.fence = joined.fence.unwrap_or_default();
        rank.joined = Some(joined);
        rank.phase = Phase::Training;
        rank.progressed_at = now;
        rank.at = soon;
    }
}

/// How many steps the training of a job takes.
fn steps_of(key: &Key) -> u64 {
    3 + key.0.as_str().bytes().map(u64::from).sum::<u64>() % 5
}
