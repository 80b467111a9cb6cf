//! What a trainer worker believes about its slots: reservations, running gangs, the ranks of each,
//! and the leases it holds. Pure: no IO, no clock, no await; the actor executes the effects.
//!
//! A gang's life here: reserved -> running -> (stopping) -> reporting -> gone. Each rank stands for itself: the
//! others go on without one that dies or hangs, and its slot is free again when its process has ended, never
//! before. More ranks may be added to a gang under way.

use std::collections::BTreeMap;

use messages::error::{Class, Code};
use messages::gang::{Offer, OfferAnswer, RegroupWhen};
use messages::rpc::ReportBody;
use messages::timings::Timings;
use messages::trace::TraceParent;
use messages::work::Work;
use messages::worker::HeldLease;
use messages::{Fence, JobId, TaskId, UnixMs, WireError};

use crate::link::{Doing, Phase, RankLine};

/// From SIGTERM to SIGKILL when a task is stopped, so that a cancellation is done within 2 s.
pub const STOP_GRACE_MS: u64 = 1_000;
/// Kept free of the drain grace, for the report and the end of the actor.
const DRAIN_MARGIN_MS: u64 = 2_000;
/// Two ticks further apart than this mean that the worker itself stood still, not its ranks.
const STANDSTILL_MS: u64 = 2_000;
/// How long an attempt that ran here is remembered, to refuse its late repetitions.
const REMEMBER_MS: u64 = 600_000;
/// Most attempts remembered.
const REMEMBER_MAX: usize = 4_096;

/// One attempt at one training task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GangKey {
    pub job: JobId,
    pub task: TaskId,
    pub attempt: u32,
}

/// What a rank process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Finish the step, checkpoint, give the task back.
    Term,
    Kill,
    /// Meet the other ranks again at the next step boundary.
    Regroup,
    /// Meet them at once: the exchange under way is over.
    RegroupNow,
}

/// What follows from a transition.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Start one rank process.
    Spawn {
        key: GangKey,
        fence: Fence,
        generation: u32,
        rank: u32,
        world_size: u32,
        /// It is to join a gang under way.
        joining: bool,
        work: Box<Work>,
        trace: Option<TraceParent>,
    },
    Signal {
        key: GangKey,
        rank: u32,
        signal: Signal,
    },
    /// Report to the coordinator on behalf of a gang that did not; then [`State::on_reported`].
    Report {
        key: GangKey,
        fence: Fence,
        body: ReportBody,
    },
}

/// How a rank process ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exit {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Last lines of its log, oldest first.
    pub log: Vec<String>,
    /// The kernel killed for lack of memory meanwhile.
    pub oom_killed: bool,
    /// Why it could not be started, if it could not.
    pub not_started: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum StopCause {
    /// The coordinator took the task back: it is no longer held.
    Released,
    Drained,
}

#[derive(Debug, Clone)]
struct Stop {
    cause: StopCause,
    kill_at: UnixMs,
    killed: bool,
}

#[derive(Debug, Clone)]
struct Rank {
    phase: Phase,
    doing: Doing,
    step: u64,
    progress: u64,
    progressed_at: UnixMs,
    /// When it last said anything.
    heard_at: UnixMs,
    /// It was given up: killed, and its end is no news.
    given_up: bool,
    /// What it said it failed of, where it could not report by itself.
    error: Option<WireError>,
}

#[derive(Debug, Clone)]
struct Gang {
    /// The highest that was heard of: each generation has its own.
    fence: Fence,
    ranks: BTreeMap<u32, Rank>,
    /// The highest number of a rank that was started here; none is started twice.
    last_rank: u32,
    stop: Option<Stop>,
    /// Reports of this worker that are on their way.
    reporting: u32,
}

#[derive(Debug, Clone)]
struct Reservation {
    slots: u32,
    /// The first of the ranks that join a gang under way.
    joining: Option<u32>,
    expires_at: UnixMs,
}

/// The highest attempt that ran here, its highest rank, and when it was last heard of.
#[derive(Debug, Clone, Copy)]
struct Ran {
    attempt: u32,
    last_rank: u32,
    at: UnixMs,
}

/// The worker side of gangs.
#[derive(Debug)]
pub struct State {
    host: String,
    fingerprint: String,
    slots: u32,
    timings: Timings,
    draining: bool,
    reserved: BTreeMap<GangKey, Reservation>,
    running: BTreeMap<GangKey, Gang>,
    ran: BTreeMap<(JobId, TaskId), Ran>,
    ticked_at: Option<UnixMs>,
}

impl State {
    pub fn new(host: impl Into<String>, fingerprint: impl Into<String>, slots: u32, timings: Timings) -> Self {
        Self {
            host: host.into(),
            fingerprint: fingerprint.into(),
            slots,
            timings,
            draining: false,
            reserved: BTreeMap::new(),
            running: BTreeMap::new(),
            ran: BTreeMap::new(),
            ticked_at: None,
        }
    }

    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// The worker can hold this many ranks from now on, unless it drains.
    pub fn set_slots(&mut self, slots: u32) {
        self.slots = slots;
    }

    pub fn slots_free(&self) -> u32 {
        let used: u32 = self.reserved.values().map(|r| r.slots).sum::<u32>()
            + self.running.values().map(|g| g.ranks.len() as u32).sum::<u32>();
        self.slots.saturating_sub(used)
    }

    /// Leases for the heartbeat: of every gang that the coordinator has not taken back.
    pub fn held(&self) -> Vec<HeldLease> {
        self.running
            .iter()
            .filter(|(_, gang)| gang.stop.as_ref().is_none_or(|stop| stop.cause != StopCause::Released))
            .map(|(key, gang)| HeldLease {
                job: key.job.clone(),
                task: key.task.clone(),
                attempt: key.attempt,
                fence: gang.fence,
                ranks: gang.ranks.keys().copied().collect(),
            })
            .collect()
    }

    /// Nothing runs, nothing is reserved, no report is outstanding.
    pub fn is_idle(&self) -> bool {
        self.reserved.is_empty() && self.running.is_empty()
    }

    /// Answers the coordinator. The same offer again gets the same answer and does nothing twice.
    pub fn on_offer(&mut self, offer: Offer, trace: Option<TraceParent>, now: UnixMs) -> (OfferAnswer, Vec<Effect>) {
        self.end_reservations(now);
        match offer {
            Offer::Reserve { job, task, attempt, slots, expires_at, joining } => {
                let reservation = Reservation { slots, joining, expires_at };
                (self.reserve(GangKey { job, task, attempt }, reservation, now), Vec::new())
            }
            Offer::Start { work, fence, generation, ranks, world_size } => {
                self.start(work, fence, generation, &ranks, world_size, trace, now)
            }
            Offer::Release { job, task, attempt, ranks, .. } if !ranks.is_empty() => {
                (OfferAnswer::Released, self.give_up(&GangKey { job, task, attempt }, &ranks))
            }
            Offer::Release { job, task, attempt, done, .. } => {
                self.reserved.retain(|k, _| !(k.job == job && k.task == task && k.attempt <= attempt));
                let mut effects =
                    self.stop_matching(now, |k, _| k.job == job && k.task == task && k.attempt <= attempt);
                if done {
                    // The ranks have reported and end by themselves, within the grace.
                    effects.clear();
                }
                (OfferAnswer::Released, effects)
            }
            Offer::Regroup { job, task, attempt, when } => {
                let key = GangKey { job, task, attempt };
                let signal = match when {
                    RegroupWhen::NextStep => Signal::Regroup,
                    RegroupWhen::Now => Signal::RegroupNow,
                };
                // One that has not begun would not understand, and joins by itself.
                let begun = |rank: &Rank| rank.progress > 0 && !rank.given_up;
                let gang = self.running.get(&key);
                let ranks = gang.into_iter().flat_map(|gang| gang.ranks.iter()).filter(|(_, rank)| begun(rank));
                let effects = ranks.map(|(rank, _)| Effect::Signal { key: key.clone(), rank: *rank, signal }).collect();
                (OfferAnswer::Regrouping, effects)
            }
        }
    }

    /// The gang goes on without these ranks.
    fn give_up(&mut self, key: &GangKey, ranks: &[u32]) -> Vec<Effect> {
        self.reserved.retain(|k, r| k != key || r.joining.is_none_or(|first| !ranks.contains(&first)));
        let Some(gang) = self.running.get_mut(key) else { return Vec::new() };
        let theirs = gang.ranks.iter_mut().filter(|(number, _)| ranks.contains(number));
        theirs
            .map(|(number, rank)| {
                rank.given_up = true;
                Effect::Signal { key: key.clone(), rank: *number, signal: Signal::Kill }
            })
            .collect()
    }

    /// The task was cancelled or its lease has passed on: every lease up to `fence` ends.
    pub fn on_stop_task(&mut self, job: &JobId, task: &TaskId, fence: Fence, now: UnixMs) -> Vec<Effect> {
        self.stop_matching(now, |k, gang| &k.job == job && &k.task == task && gang.fence <= fence)
    }

    /// Takes nothing new; asks every rank to checkpoint and give its task back.
    pub fn on_drain(&mut self, now: UnixMs) -> Vec<Effect> {
        self.draining = true;
        self.reserved.clear();
        let grace = self.timings.drain_grace_ms.saturating_sub(DRAIN_MARGIN_MS).max(STOP_GRACE_MS);
        let mut effects = Vec::new();
        for (key, gang) in &mut self.running {
            if gang.stop.is_none() {
                gang.stop = Some(Stop { cause: StopCause::Drained, kill_at: now + grace, killed: false });
                effects.extend(signals(key, gang, Signal::Term));
            }
        }
        effects
    }

    /// The worker cannot be what it said it was: it gives back what it has and has no slots any more.
    pub fn on_retire(&mut self, now: UnixMs) -> Vec<Effect> {
        self.slots = 0;
        self.on_drain(now)
    }

    /// A rank said where it is. Only a growing progress counts as life.
    pub fn on_line(&mut self, key: &GangKey, line: &RankLine, now: UnixMs) {
        let Some(gang) = self.running.get_mut(key) else { return };
        let Some(rank) = gang.ranks.get_mut(&line.rank) else { return };
        gang.fence = gang.fence.max(line.fence.unwrap_or_default());
        rank.heard_at = now;
        if line.progress > rank.progress || line.phase != rank.phase {
            rank.progressed_at = now;
        }
        (rank.phase, rank.doing) = (line.phase, line.doing);
        rank.step = rank.step.max(line.step);
        rank.progress = rank.progress.max(line.progress);
        if line.error.is_some() {
            rank.error.clone_from(&line.error);
        }
    }

    /// A rank process has ended, or could not be started.
    pub fn on_exit(&mut self, key: &GangKey, rank_id: u32, exit: &Exit, now: UnixMs) -> Vec<Effect> {
        let Some(gang) = self.running.get_mut(key) else { return Vec::new() };
        let Some(rank) = gang.ranks.remove(&rank_id) else { return Vec::new() };
        let mut effects = Vec::new();
        // One that ended in order has told, or has nothing to tell.
        if exit.code != Some(0) && !rank.given_up {
            let body = match gang.stop.as_ref().map(|stop| &stop.cause) {
                Some(StopCause::Released) => None,
                Some(StopCause::Drained) => {
                    let reason = format!("worker on {} drains; rank {rank_id} ended without its own report", self.host);
                    Some(ReportBody::RankLeft { rank: rank_id, finished: false, reason })
                }
                None => {
                    let error = rank.error.clone().unwrap_or_else(|| died(&self.host, rank_id, &rank, exit));
                    Some(ReportBody::RankLost { rank: rank_id, error })
                }
            };
            effects.extend(body.map(|body| report(key, gang, body)));
        }
        if gang.ranks.is_empty() && gang.reporting == 0 {
            self.running.remove(key);
        }
        self.remember(key, now);
        effects
    }

    /// The report of this worker for the gang was accepted, fenced or given up.
    pub fn on_reported(&mut self, key: &GangKey) {
        if let Some(gang) = self.running.get_mut(key) {
            gang.reporting = gang.reporting.saturating_sub(1);
            if gang.ranks.is_empty() && gang.reporting == 0 {
                self.running.remove(key);
            }
        }
    }

    /// Time passes: reservations end, hung ranks and those past their grace are killed.
    pub fn on_tick(&mut self, now: UnixMs) -> Vec<Effect> {
        self.forgive_standstill(now);
        self.end_reservations(now);
        self.ran.retain(|_, ran| now.saturating_sub(ran.at) < REMEMBER_MS);
        let mut effects = Vec::new();
        for (key, gang) in &mut self.running {
            match &mut gang.stop {
                Some(stop) if !stop.killed && now >= stop.kill_at => {
                    stop.killed = true;
                    effects.extend(signals(key, gang, Signal::Kill));
                }
                Some(_) => {}
                None => effects.extend(kill_hung(&self.host, &self.timings, key, gang, now)),
            }
        }
        effects
    }

    /// A worker that was stopped or starved heard nothing meanwhile: that is not its ranks' silence.
    fn forgive_standstill(&mut self, now: UnixMs) {
        let gap_ms = self.ticked_at.replace(now).map_or(0, |last| now.saturating_sub(last));
        if gap_ms > STANDSTILL_MS {
            for rank in self.running.values_mut().flat_map(|gang| gang.ranks.values_mut()) {
                rank.progressed_at = (rank.progressed_at + gap_ms).min(now);
                rank.heard_at = (rank.heard_at + gap_ms).min(now);
            }
        }
    }

    fn reserve(&mut self, key: GangKey, wanted: Reservation, now: UnixMs) -> OfferAnswer {
        let Reservation { slots, joining, expires_at } = wanted;
        let decline = |reason: String| OfferAnswer::Declined { reason };
        if self.draining {
            return decline("the worker drains".into());
        }
        if self.running.contains_key(&key) && joining.is_none() {
            return self.accepted(slots);
        }
        if self.stops(&key) {
            return decline(format!("attempt {} stops here", key.attempt));
        }
        if let Some(newest) = self.newest_attempt(&key)
            && newest > key.attempt
        {
            return decline(format!("attempt {} is older than attempt {newest}", key.attempt));
        }
        if self.has_run(&key, joining) {
            return decline(format!("attempt {} has ended here", key.attempt));
        }
        if expires_at <= now {
            return decline(format!(
                "the reservation expired {} ms before it arrived: late, or the clocks differ",
                now - expires_at
            ));
        }
        // A lower attempt's reservation is superseded; a lower attempt that runs keeps its slots until it ends.
        self.reserved.retain(|k, _| !(k.job == key.job && k.task == key.task && k.attempt <= key.attempt));
        let free = self.slots_free();
        if slots == 0 || slots > free {
            return decline(format!("{free} of {} slots are free, {slots} asked for", self.slots));
        }
        // Bounded by our own clock too, so that a coordinator whose clock is ahead leaks no slot.
        let latest = now + self.timings.reserve_timeout_ms.saturating_mul(4);
        self.reserved.insert(key, Reservation { slots, joining, expires_at: expires_at.min(latest) });
        self.accepted(slots)
    }

    /// Whether the gang's ranks here have been told to end.
    fn stops(&self, key: &GangKey) -> bool {
        self.running.get(key).is_some_and(|gang| gang.stop.is_some())
    }

    fn accepted(&self, slots: u32) -> OfferAnswer {
        OfferAnswer::Accepted { slots, fingerprint: self.fingerprint.clone() }
    }

    fn start(
        &mut self,
        work: Box<Work>,
        fence: Fence,
        generation: u32,
        ranks: &[u32],
        world_size: u32,
        trace: Option<TraceParent>,
        now: UnixMs,
    ) -> (OfferAnswer, Vec<Effect>) {
        let key = GangKey { job: work.job.clone(), task: work.task.clone(), attempt: work.attempt };
        let decline = |reason: String| (OfferAnswer::Declined { reason }, Vec::new());
        let new = |gang: &Gang| ranks.iter().any(|rank| *rank > gang.last_rank);
        if let Some(gang) = self.running.get(&key).filter(|gang| !new(gang)) {
            return if gang.fence >= fence {
                (OfferAnswer::Started, Vec::new())
            } else {
                decline(format!("attempt {} runs here with fence {}", key.attempt, gang.fence))
            };
        }
        if let Some(newest) = self.newest_attempt(&key)
            && newest > key.attempt
        {
            return decline(format!("attempt {} is older than attempt {newest}", key.attempt));
        }
        if self.draining {
            return decline("the worker drains".into());
        }
        if self.stops(&key) {
            return decline(format!("attempt {} stops here", key.attempt));
        }
        let Some(reservation) = self.reserved.get(&key) else {
            return decline("no slots are reserved for this attempt: the reservation has ended".into());
        };
        let distinct: std::collections::BTreeSet<u32> = ranks.iter().copied().collect();
        if distinct.len() != ranks.len()
            || ranks.is_empty()
            || ranks.len() > reservation.slots as usize
            || (reservation.joining.is_none() && ranks.iter().any(|&rank| rank >= world_size))
        {
            return decline(format!(
                "ranks {ranks:?} of a world of {world_size} do not fit {} reserved slots",
                reservation.slots
            ));
        }
        let joining = reservation.joining.is_some();
        self.reserved.remove(&key);
        let fresh = Rank {
            phase: Phase::Starting,
            doing: Doing::Other,
            step: 0,
            progress: 0,
            progressed_at: now,
            heard_at: now,
            given_up: false,
            error: None,
        };
        let empty = Gang { fence, ranks: BTreeMap::new(), last_rank: 0, stop: None, reporting: 0 };
        let gang = self.running.entry(key.clone()).or_insert(empty);
        gang.fence = gang.fence.max(fence);
        gang.ranks.extend(ranks.iter().map(|&rank| (rank, fresh.clone())));
        gang.last_rank = gang.last_rank.max(ranks.iter().copied().max().unwrap_or(0));
        let effects = ranks
            .iter()
            .map(|&rank| Effect::Spawn {
                key: key.clone(),
                fence,
                generation,
                rank,
                world_size,
                joining,
                work: work.clone(),
                trace: trace.clone(),
            })
            .collect();
        self.remember(&key, now);
        (OfferAnswer::Started, effects)
    }

    fn stop_matching(&mut self, now: UnixMs, matches: impl Fn(&GangKey, &Gang) -> bool) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (key, gang) in &mut self.running {
            if !matches(key, gang) {
                continue;
            }
            let already = gang.stop.as_ref().is_some_and(|stop| stop.cause != StopCause::Drained);
            if let Some(stop) = &mut gang.stop {
                stop.kill_at = stop.kill_at.min(now + STOP_GRACE_MS);
                stop.cause = StopCause::Released;
            } else {
                gang.stop = Some(Stop { cause: StopCause::Released, kill_at: now + STOP_GRACE_MS, killed: false });
            }
            if !already {
                effects.extend(signals(key, gang, Signal::Term));
            }
        }
        effects
    }

    fn end_reservations(&mut self, now: UnixMs) {
        self.reserved.retain(|_, reservation| reservation.expires_at > now);
    }

    /// The highest attempt of the same task that is reserved, runs or ran here.
    fn newest_attempt(&self, key: &GangKey) -> Option<u32> {
        let same = |k: &&GangKey| k.job == key.job && k.task == key.task;
        let here = self.reserved.keys().chain(self.running.keys()).filter(same).map(|k| k.attempt);
        here.chain(self.ran.get(&(key.job.clone(), key.task.clone())).map(|ran| ran.attempt)).max()
    }

    /// Whether this attempt, or one after it, has been here; of a gang under way, these ranks.
    fn has_run(&self, key: &GangKey, joining: Option<u32>) -> bool {
        let before = |ran: &Ran| match joining {
            Some(first) => ran.attempt == key.attempt && ran.last_rank >= first,
            None => ran.attempt >= key.attempt,
        };
        self.ran.get(&(key.job.clone(), key.task.clone())).is_some_and(before)
    }

    fn remember(&mut self, key: &GangKey, now: UnixMs) {
        let last_rank = self.running.get(key).map_or(0, |gang| gang.last_rank);
        let fresh = Ran { attempt: key.attempt, last_rank, at: now };
        let ran = self.ran.entry((key.job.clone(), key.task.clone())).or_insert(fresh);
        *ran = match ran.attempt.cmp(&key.attempt) {
            std::cmp::Ordering::Less => fresh,
            std::cmp::Ordering::Equal => Ran { last_rank: ran.last_rank.max(last_rank), ..fresh },
            std::cmp::Ordering::Greater => Ran { at: now, ..*ran },
        };
        if self.ran.len() > REMEMBER_MAX
            && let Some(oldest) = self.ran.iter().min_by_key(|(_, ran)| ran.at).map(|(id, _)| id.clone())
        {
            self.ran.remove(&oldest);
        }
    }
}

/// How long a rank may go without progress. One that waits for others is no culprit: its exchange gives up after
/// the same time, and names the one that it waits for.
fn patience_ms(timings: &Timings, rank: &Rank) -> u64 {
    let waits = matches!(rank.phase, Phase::Starting | Phase::Joining) || rank.doing.waits_for_ranks();
    timings.step_timeout_ms + if waits { timings.join_timeout_ms } else { 0 }
}

fn signals(key: &GangKey, gang: &Gang, signal: Signal) -> Vec<Effect> {
    gang.ranks.keys().map(|&rank| Effect::Signal { key: key.clone(), rank, signal }).collect()
}

fn report(key: &GangKey, gang: &mut Gang, body: ReportBody) -> Effect {
    gang.reporting += 1;
    Effect::Report { key: key.clone(), fence: gang.fence, body }
}

/// Kills ranks that hang, and tells of them.
fn kill_hung(host: &str, timings: &Timings, key: &GangKey, gang: &mut Gang, now: UnixMs) -> Vec<Effect> {
    let mut hung = Vec::new();
    for (number, rank) in gang.ranks.iter_mut().filter(|(_, rank)| !rank.given_up) {
        let (idle_ms, silent_ms) = (now.saturating_sub(rank.progressed_at), now.saturating_sub(rank.heard_at));
        if idle_ms >= patience_ms(timings, rank) || silent_ms >= timings.rank_silent_ms {
            rank.given_up = true;
            hung.push((*number, hangs(host, *number, rank, idle_ms, silent_ms)));
        }
    }
    let mut effects = Vec::new();
    for (rank, error) in hung {
        effects.push(Effect::Signal { key: key.clone(), rank, signal: Signal::Kill });
        effects.push(report(key, gang, ReportBody::RankLost { rank, error }));
    }
    effects
}

fn died(host: &str, rank_id: u32, rank: &Rank, exit: &Exit) -> WireError {
    if let Some(reason) = &exit.not_started {
        return WireError::new(Code::WorkerDied, format!("rank {rank_id} on {host} could not be started: {reason}"));
    }
    let how = match (exit.signal, exit.code) {
        (Some(signal), _) => format!("was killed by signal {signal}{}", signal_name(signal)),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended in an unknown way".into(),
    };
    let mut message = format!("rank {rank_id} on {host} {how} {}", place(rank));
    if !exit.log.is_empty() {
        message.push_str("; last log lines:\n");
        message.push_str(&exit.log.join("\n"));
    }
    // What Rust says where memory cannot be had, and what the kernel counts where it takes it back.
    if exit.oom_killed || exit.log.iter().any(|line| line.contains("memory allocation of")) {
        return WireError::new(Code::OutOfMemory, message)
            .with_hint("lower training.batch_size, the model's size or the slots of this worker");
    }
    let error = WireError::new(Code::WorkerDied, message).with_class(Class::WorkerDied);
    if exit.signal == Some(9) {
        error.with_hint("nobody but the kernel or an operator sends signal 9: look for the out-of-memory killer")
    } else {
        error
    }
}

/// Where a rank was last heard of.
fn place(rank: &Rank) -> String {
    match rank.doing {
        Doing::Other => format!("at step {} ({})", rank.step, rank.phase.as_str()),
        doing => format!("at step {} ({}: it {})", rank.step, rank.phase.as_str(), doing.as_str()),
    }
}

fn hangs(host: &str, rank_id: u32, rank: &Rank, idle_ms: u64, silent_ms: u64) -> WireError {
    let place = place(rank);
    let what = if silent_ms * 2 > idle_ms {
        format!(
            "rank {rank_id} on {host} made no progress and said nothing for {silent_ms} ms {place} and was killed: it \
             is stopped, or its host is overloaded"
        )
    } else {
        format!("rank {rank_id} on {host} made no progress for {idle_ms} ms {place} and was killed")
    };
    WireError::new(Code::WorkerHung, what)
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => " (SIGINT)",
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        8 => " (SIGFPE)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
