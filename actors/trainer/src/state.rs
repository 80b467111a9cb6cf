//! What a trainer worker believes about its slots: reservations, running gangs, the ranks of each,
//! and the leases it holds. Pure: no IO, no clock, no await; the actor executes the effects.
//!
//! A gang's life here: reserved -> running -> (stopping) -> reporting -> gone. Its slots are free
//! again when the last of its processes has ended, never before.

use std::collections::BTreeMap;

use messages::error::{Class, Code};
use messages::gang::{Offer, OfferAnswer};
use messages::rpc::ReportBody;
use messages::timings::Timings;
use messages::trace::TraceParent;
use messages::work::Work;
use messages::worker::HeldLease;
use messages::{Fence, JobId, TaskId, UnixMs, WireError};

use crate::link::{Phase, RankLine};

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
    /// Why it could not be started, if it could not.
    pub not_started: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum StopCause {
    /// The coordinator took the task back: it is no longer held.
    Released,
    Drained,
    /// A rank died or hung, and the gang goes with it.
    Failed,
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
    step: u64,
    progress: u64,
    progressed_at: UnixMs,
    /// What it said it failed of, where it could not report by itself.
    error: Option<WireError>,
}

#[derive(Debug, Clone)]
struct Gang {
    fence: Fence,
    slots: u32,
    ranks: BTreeMap<u32, Rank>,
    stop: Option<Stop>,
    /// Somebody has spoken for this gang: a rank that ended in order, or this worker.
    spoken: bool,
    /// A report of this worker is on its way.
    reporting: bool,
}

#[derive(Debug, Clone)]
struct Reservation {
    slots: u32,
    expires_at: UnixMs,
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
    /// Highest attempt that ran here, and when it was last heard of.
    ran: BTreeMap<(JobId, TaskId), (u32, UnixMs)>,
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

    pub fn slots_free(&self) -> u32 {
        let used: u32 = self.reserved.values().map(|r| r.slots).sum::<u32>()
            + self.running.values().filter(|g| !g.ranks.is_empty()).map(|g| g.slots).sum::<u32>();
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
            Offer::Reserve { job, task, attempt, slots, expires_at } => {
                (self.reserve(GangKey { job, task, attempt }, slots, expires_at, now), Vec::new())
            }
            Offer::Start { work, fence, generation, ranks, world_size } => {
                self.start(work, fence, generation, &ranks, world_size, trace, now)
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
        }
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

    /// A rank said where it is. Only a growing progress counts as life.
    pub fn on_line(&mut self, key: &GangKey, line: &RankLine, now: UnixMs) {
        let Some(rank) = self.running.get_mut(key).and_then(|gang| gang.ranks.get_mut(&line.rank)) else {
            return;
        };
        if line.progress > rank.progress || line.phase != rank.phase {
            rank.progressed_at = now;
        }
        rank.phase = line.phase;
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
        if exit.code == Some(0) {
            gang.spoken = true;
        } else if !gang.spoken {
            match gang.stop.as_ref().map(|stop| &stop.cause) {
                Some(StopCause::Released) => gang.spoken = true,
                Some(StopCause::Failed) => {}
                Some(StopCause::Drained) => {
                    gang.spoken = true;
                    gang.reporting = true;
                    let reason = format!("worker on {} drains; rank {rank_id} ended without its own report", self.host);
                    effects.push(report(key, gang, ReportBody::Released { reason }));
                }
                None => {
                    let error = rank.error.clone().unwrap_or_else(|| died(&self.host, rank_id, &rank, exit));
                    effects.extend(fail(key, gang, error, now));
                }
            }
        }
        if gang.ranks.is_empty() && !gang.reporting {
            self.running.remove(key);
        }
        self.remember(key, now);
        effects
    }

    /// The report of this worker for the gang was accepted, fenced or given up.
    pub fn on_reported(&mut self, key: &GangKey) {
        if let Some(gang) = self.running.get_mut(key) {
            gang.reporting = false;
            if gang.ranks.is_empty() {
                self.running.remove(key);
            }
        }
    }

    /// Time passes: reservations end, hung ranks and those past their grace are killed.
    pub fn on_tick(&mut self, now: UnixMs) -> Vec<Effect> {
        self.forgive_standstill(now);
        self.end_reservations(now);
        self.ran.retain(|_, (_, at)| now.saturating_sub(*at) < REMEMBER_MS);
        let mut effects = Vec::new();
        for (key, gang) in &mut self.running {
            match &mut gang.stop {
                Some(stop) if !stop.killed && now >= stop.kill_at => {
                    stop.killed = true;
                    effects.extend(signals(key, gang, Signal::Kill));
                }
                Some(_) => {}
                None => {
                    let hung = gang.ranks.iter().find_map(|(id, rank)| {
                        let silent_ms = now.saturating_sub(rank.progressed_at);
                        let limit_ms = patience_ms(&self.timings, rank.phase);
                        (silent_ms >= limit_ms).then(|| hung(&self.host, *id, rank, silent_ms))
                    });
                    match hung {
                        Some(error) if !gang.spoken => effects.extend(fail(key, gang, error, now)),
                        // The gang has reported; what will not end is only in the way.
                        Some(_) => {
                            gang.stop = Some(Stop { cause: StopCause::Failed, kill_at: now, killed: true });
                            effects.extend(signals(key, gang, Signal::Kill));
                        }
                        None => {}
                    }
                }
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
            }
        }
    }

    fn reserve(&mut self, key: GangKey, slots: u32, expires_at: UnixMs, now: UnixMs) -> OfferAnswer {
        let decline = |reason: String| OfferAnswer::Declined { reason };
        if self.draining {
            return decline("the worker drains".into());
        }
        if self.running.contains_key(&key) {
            return self.accepted(slots);
        }
        if let Some(newest) = self.newest_attempt(&key)
            && newest > key.attempt
        {
            return decline(format!("attempt {} is older than attempt {newest}", key.attempt));
        }
        if self.has_run(&key) {
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
        self.reserved.insert(key, Reservation { slots, expires_at: expires_at.min(latest) });
        self.accepted(slots)
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
        if let Some(gang) = self.running.get(&key) {
            return if gang.fence == fence {
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
        let Some(reservation) = self.reserved.get(&key) else {
            return decline("no slots are reserved for this attempt: the reservation has ended".into());
        };
        let distinct: std::collections::BTreeSet<u32> = ranks.iter().copied().collect();
        if distinct.len() != ranks.len()
            || ranks.is_empty()
            || ranks.len() > reservation.slots as usize
            || ranks.iter().any(|&rank| rank >= world_size)
        {
            return decline(format!(
                "ranks {ranks:?} of a world of {world_size} do not fit {} reserved slots",
                reservation.slots
            ));
        }
        self.reserved.remove(&key);
        let fresh = Rank { phase: Phase::Starting, step: 0, progress: 0, progressed_at: now, error: None };
        let gang = Gang {
            fence,
            slots: ranks.len() as u32,
            ranks: ranks.iter().map(|&rank| (rank, fresh.clone())).collect(),
            stop: None,
            spoken: false,
            reporting: false,
        };
        let effects = ranks
            .iter()
            .map(|&rank| Effect::Spawn {
                key: key.clone(),
                fence,
                generation,
                rank,
                world_size,
                work: work.clone(),
                trace: trace.clone(),
            })
            .collect();
        self.remember(&key, now);
        self.running.insert(key, gang);
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
        here.chain(self.ran.get(&(key.job.clone(), key.task.clone())).map(|(attempt, _)| *attempt)).max()
    }

    fn has_run(&self, key: &GangKey) -> bool {
        self.ran.get(&(key.job.clone(), key.task.clone())).is_some_and(|(attempt, _)| *attempt >= key.attempt)
    }

    fn remember(&mut self, key: &GangKey, now: UnixMs) {
        let entry = self.ran.entry((key.job.clone(), key.task.clone())).or_insert((key.attempt, now));
        *entry = (entry.0.max(key.attempt), now);
        if self.ran.len() > REMEMBER_MAX
            && let Some(oldest) = self.ran.iter().min_by_key(|(_, (_, at))| *at).map(|(id, _)| id.clone())
        {
            self.ran.remove(&oldest);
        }
    }
}

/// How long a rank in this phase may go without progress. One that still joins waits for others, too.
fn patience_ms(timings: &Timings, phase: Phase) -> u64 {
    match phase {
        Phase::Starting | Phase::Joining => timings.join_timeout_ms + timings.step_timeout_ms,
        _ => timings.step_timeout_ms,
    }
}

fn signals(key: &GangKey, gang: &Gang, signal: Signal) -> Vec<Effect> {
    gang.ranks.keys().map(|&rank| Effect::Signal { key: key.clone(), rank, signal }).collect()
}

fn report(key: &GangKey, gang: &Gang, body: ReportBody) -> Effect {
    Effect::Report { key: key.clone(), fence: gang.fence, body }
}

/// Speaks for the gang and kills what is left of it.
fn fail(key: &GangKey, gang: &mut Gang, error: WireError, now: UnixMs) -> Vec<Effect> {
    gang.spoken = true;
    gang.reporting = true;
    gang.stop = Some(Stop { cause: StopCause::Failed, kill_at: now, killed: true });
    let mut effects = signals(key, gang, Signal::Kill);
    effects.push(report(key, gang, ReportBody::Failed { error }));
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
    let mut message = format!("rank {rank_id} on {host} {how} at step {} ({})", rank.step, rank.phase.as_str());
    if !exit.log.is_empty() {
        message.push_str("; last log lines:\n");
        message.push_str(&exit.log.join("\n"));
    }
    let error = WireError::new(Code::WorkerDied, message).with_class(Class::WorkerDied);
    if exit.signal == Some(9) {
        error.with_hint("nobody but the kernel or an operator sends signal 9: look for the out-of-memory killer")
    } else {
        error
    }
}

fn hung(host: &str, rank_id: u32, rank: &Rank, silent_ms: u64) -> WireError {
    WireError::new(
        Code::WorkerHung,
        format!(
            "rank {rank_id} on {host} made no progress for {silent_ms} ms at step {} ({}) and was killed",
            rank.step,
            rank.phase.as_str()
        ),
    )
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
