//! Tests of the worker's state: each rule by itself, properties over arbitrary sequences, and a
//! seeded simulation of a worker with its processes, a coordinator that repeats and reorders, and
//! a drain.

use super::*;
use messages::ArtifactRef;
use messages::error::Class;
use messages::work::WorkInput;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn artifact() -> ArtifactRef {
    ArtifactRef { uri: "file:///x".into(), blake3: "0".repeat(64), size_bytes: 1 }
}

fn work(job: &str, attempt: u32) -> Box<Work> {
    Box::new(Work {
        job: JobId::new(job).expect("id"),
        task: TaskId::new("train").expect("id"),
        attempt,
        name: "n".into(),
        plan: artifact(),
        deadline_at: u64::MAX,
        input: WorkInput::Train { dataset: artifact(), resume: None },
    })
}

fn key(job: &str, attempt: u32) -> GangKey {
    let work = work(job, attempt);
    GangKey { job: work.job, task: work.task, attempt }
}

fn reserve(job: &str, attempt: u32, slots: u32, expires_at: UnixMs) -> Offer {
    let GangKey { job, task, attempt } = key(job, attempt);
    Offer::Reserve { job, task, attempt, slots, expires_at, joining: None }
}

fn start(job: &str, attempt: u32, fence: u64, ranks: &[u32]) -> Offer {
    Offer::Start {
        work: work(job, attempt),
        fence: Fence(fence),
        generation: 1,
        ranks: ranks.to_vec(),
        world_size: ranks.len() as u32,
    }
}

fn release(job: &str, attempt: u32) -> Offer {
    let GangKey { job, task, attempt } = key(job, attempt);
    Offer::Release { job, task, attempt, reason: "r".into(), done: false, ranks: Vec::new() }
}

fn state(slots: u32) -> State {
    // Most of these tests let time pass without the lines that a living process writes.
    State::new("host1", "fp", slots, Timings { rank_silent_ms: u64::MAX / 2, ..Timings::default() })
}

fn line(rank: u32, step: u64, phase: Phase) -> RankLine {
    let doing = Doing::Other;
    RankLine {
        rank,
        step,
        fence: None,
        progress: step + 1,
        phase,
        doing,
        error: None,
        ready: false,
        device_lost: false,
    }
}

fn exit_code(code: i32) -> Exit {
    Exit { code: Some(code), log: vec!["last words".into()], ..Exit::default() }
}

/// A worker with one running rank of job `j`, attempt 1, fence 10.
fn running() -> State {
    let mut s = state(2);
    assert!(matches!(s.on_offer(reserve("j", 1, 1, 5_000), None, 0).0, OfferAnswer::Accepted { .. }));
    let (answer, effects) = s.on_offer(start("j", 1, 10, &[0]), None, 1);
    assert_eq!(answer, OfferAnswer::Started);
    assert!(matches!(effects.as_slice(), [Effect::Spawn { rank: 0, fence: Fence(10), .. }]));
    s
}

/// Time passes as the actor sees it: in ticks, up to and including `to`.
fn pass(s: &mut State, from: UnixMs, to: UnixMs) -> Vec<Effect> {
    let mut effects: Vec<Effect> = (from..to).step_by(500).flat_map(|now| s.on_tick(now)).collect();
    effects.extend(s.on_tick(to));
    effects
}

fn failure(effects: &[Effect]) -> &WireError {
    let errors: Vec<_> = effects
        .iter()
        .filter_map(|e| match e {
            Effect::Report { body: ReportBody::RankLost { error, .. }, .. } => Some(error),
            _ => None,
        })
        .collect();
    assert_eq!(errors.len(), 1, "one failure in {effects:?}");
    errors[0]
}

#[test]
fn a_reservation_ends_by_itself() {
    let mut s = state(2);
    s.on_offer(reserve("j", 1, 2, 1_000), None, 0);
    assert_eq!(s.slots_free(), 0);
    assert!(matches!(s.on_offer(reserve("k", 1, 1, 1_000), None, 500).0, OfferAnswer::Declined { .. }));
    assert!(s.on_tick(1_000).is_empty());
    assert_eq!(s.slots_free(), 2);
    assert!(matches!(s.on_offer(start("j", 1, 10, &[0, 1]), None, 1_001).0, OfferAnswer::Declined { .. }));
    let far = reserve("j", 1, 1, u64::MAX);
    assert!(matches!(s.on_offer(far, None, 2_000).0, OfferAnswer::Accepted { .. }));
    s.on_tick(2_000 + 4 * Timings::default().reserve_timeout_ms);
    assert_eq!(s.slots_free(), 2, "bounded by the worker's own clock");
}

#[test]
fn repeated_offers_do_nothing_twice() {
    let mut s = running();
    assert_eq!(s.on_offer(start("j", 1, 10, &[0]), None, 2), (OfferAnswer::Started, vec![]));
    assert!(matches!(s.on_offer(reserve("j", 1, 1, 9_000), None, 3).0, OfferAnswer::Accepted { .. }));
    assert_eq!(s.slots_free(), 1);
    assert!(matches!(s.on_offer(start("j", 1, 11, &[0]), None, 4).0, OfferAnswer::Declined { .. }));
    let first = s.on_offer(release("j", 1), None, 5);
    assert_eq!(first.0, OfferAnswer::Released);
    assert_eq!(first.1.len(), 1);
    assert_eq!(s.on_offer(release("j", 1), None, 6), (OfferAnswer::Released, vec![]));
}

#[test]
fn lower_and_ended_attempts_are_refused() {
    let mut s = state(2);
    s.on_offer(reserve("j", 2, 1, 9_000), None, 0);
    assert!(matches!(s.on_offer(reserve("j", 1, 1, 9_000), None, 1).0, OfferAnswer::Declined { .. }));
    assert!(matches!(s.on_offer(start("j", 1, 10, &[0]), None, 1).0, OfferAnswer::Declined { .. }));
    let mut s = running();
    s.on_exit(&key("j", 1), 0, &exit_code(0), 10);
    assert!(s.is_idle());
    assert!(matches!(s.on_offer(reserve("j", 1, 1, 9_000), None, 11).0, OfferAnswer::Declined { .. }));
    assert!(matches!(s.on_offer(start("j", 1, 10, &[0]), None, 11).0, OfferAnswer::Declined { .. }));
    assert!(matches!(s.on_offer(reserve("j", 2, 1, 9_000), None, 12).0, OfferAnswer::Accepted { .. }));
}

#[test]
fn a_start_that_does_not_fit_its_reservation_is_declined() {
    for ranks in [&[][..], &[0, 1][..], &[0, 0][..], &[7][..]] {
        let mut s = state(2);
        s.on_offer(reserve("j", 1, 1, 9_000), None, 0);
        let mut offer = start("j", 1, 10, ranks);
        if let Offer::Start { world_size, .. } = &mut offer {
            *world_size = 2;
        }
        assert!(matches!(s.on_offer(offer, None, 1).0, OfferAnswer::Declined { .. }), "{ranks:?}");
    }
}

#[test]
fn a_death_names_signal_host_rank_step_and_last_lines() {
    let mut s = running();
    s.on_line(&key("j", 1), &line(0, 42, Phase::Training), 100);
    let exit = Exit { signal: Some(9), log: vec!["last words".into()], ..Exit::default() };
    let effects = s.on_exit(&key("j", 1), 0, &exit, 200);
    let error = failure(&effects);
    assert_eq!((error.class, error.code), (Class::WorkerDied, Code::WorkerDied));
    expect_test::expect![[r"
        rank 0 on host1 was killed by signal 9 (SIGKILL) at step 42 (training); last log lines:
        last words"]]
    .assert_eq(&error.message);
    assert_eq!((s.slots_free(), s.held().len()), (2, 1), "slots are free, the lease lasts until the report");
    s.on_reported(&key("j", 1));
    assert!(s.is_idle());
}

#[test]
fn a_rank_that_could_not_report_is_quoted() {
    let mut s = running();
    let mut last = line(0, 3, Phase::Ended);
    last.error = Some(WireError::new(Code::BusUnavailable, "no server"));
    s.on_line(&key("j", 1), &last, 5);
    let effects = s.on_exit(&key("j", 1), 0, &exit_code(3), 6);
    assert_eq!(failure(&effects).code, Code::BusUnavailable);
}

#[test]
fn no_progress_is_a_hang_and_signs_of_life_alone_are_none() {
    let step_ms = Timings::default().step_timeout_ms;
    let mut s = running();
    s.on_line(&key("j", 1), &line(0, 1, Phase::Training), 1_000);
    s.on_line(&key("j", 1), &line(0, 1, Phase::Training), 50_000);
    assert!(pass(&mut s, 1_000, 1_000 + step_ms - 1).is_empty());
    let effects = s.on_tick(1_000 + step_ms);
    assert_eq!(failure(&effects).class, Class::WorkerHung);
    assert!(effects.contains(&Effect::Signal { key: key("j", 1), rank: 0, signal: Signal::Kill }));
    assert!(pass(&mut s, 1_000 + step_ms, 1_000 + 2 * step_ms).is_empty(), "reported and killed once");
    assert_eq!(s.slots_free(), 1, "the slot is held while the process is there");
    assert!(s.on_exit(&key("j", 1), 0, &Exit { signal: Some(9), ..Exit::default() }, 70_000).is_empty());
    assert_eq!(s.slots_free(), 2);
}

#[test]
fn joining_ranks_may_wait_for_the_others() {
    let t = Timings::default();
    let mut s = running();
    s.on_line(&key("j", 1), &line(0, 0, Phase::Joining), 10);
    let limit = 10 + t.step_timeout_ms + t.join_timeout_ms;
    assert!(pass(&mut s, 10, limit - 1).is_empty());
    assert_eq!(failure(&s.on_tick(limit)).class, Class::WorkerHung);
}

#[test]
fn a_rank_that_waits_for_others_is_no_culprit_before_its_exchange_gives_up() {
    let t = Timings::default();
    for doing in [Doing::SummingGradients, Doing::SharingValidation] {
        let mut s = running();
        s.on_line(&key("j", 1), &RankLine { doing, ..line(0, 1, Phase::Training) }, 1_000);
        let limit = 1_000 + t.step_timeout_ms + t.join_timeout_ms;
        assert!(pass(&mut s, 1_000, limit - 1).is_empty(), "{doing:?}");
        assert!(failure(&s.on_tick(limit)).message.contains(doing.as_str()));
    }
}

#[test]
fn no_rank_begins_in_a_gang_that_stops() {
    let mut s = two_ranks();
    s.on_offer(release("j", 1), None, 3);
    assert!(matches!(s.on_offer(join(2), None, 4).0, OfferAnswer::Declined { .. }));
    // Reserved before the stop, started after it.
    let mut s = two_ranks();
    assert!(matches!(s.on_offer(join(2), None, 3).0, OfferAnswer::Accepted { .. }));
    let GangKey { job, task, .. } = key("j", 1);
    s.on_stop_task(&job, &task, Fence(10), 4);
    assert!(
        matches!(s.on_offer(start("j", 1, 12, &[2]), None, 5), (OfferAnswer::Declined { .. }, effects) if effects.is_empty())
    );
}

#[test]
fn a_worker_that_stood_still_does_not_blame_its_ranks() {
    let step_ms = Timings::default().step_timeout_ms;
    let mut s = running();
    s.on_line(&key("j", 1), &line(0, 1, Phase::Training), 1_000);
    s.on_tick(1_000);
    let woken = 1_000 + 10 * step_ms;
    assert!(pass(&mut s, woken, woken + step_ms - 1).is_empty());
    assert_eq!(failure(&s.on_tick(woken + step_ms)).class, Class::WorkerHung);
}

#[test]
fn cancel_is_done_within_two_seconds() {
    let mut s = running();
    let k = key("j", 1);
    assert!(s.on_stop_task(&k.job, &k.task, Fence(9), 100).is_empty(), "of an older lease");
    let effects = s.on_stop_task(&k.job, &k.task, Fence(10), 100);
    assert_eq!(effects, vec![Effect::Signal { key: k.clone(), rank: 0, signal: Signal::Term }]);
    assert!(s.held().is_empty());
    assert!(s.on_tick(1_099).is_empty());
    assert_eq!(s.on_tick(1_100), vec![Effect::Signal { key: k.clone(), rank: 0, signal: Signal::Kill }]);
    assert!(s.on_exit(&k, 0, &Exit { signal: Some(9), ..Exit::default() }, 1_110).is_empty());
    assert!(s.is_idle());
}

#[test]
fn a_drain_asks_waits_kills_and_gives_back() {
    let mut s = running();
    let k = key("j", 1);
    assert_eq!(s.on_drain(100).len(), 1);
    assert_eq!(s.held().len(), 1, "still held until it is given back");
    assert!(matches!(s.on_offer(reserve("m", 1, 1, 9_000), None, 101).0, OfferAnswer::Declined { .. }));
    let kill_at = 100 + Timings::default().drain_grace_ms - DRAIN_MARGIN_MS;
    assert!(s.on_tick(kill_at - 1).is_empty());
    assert_eq!(s.on_tick(kill_at).len(), 1);
    let effects = s.on_exit(&k, 0, &Exit { signal: Some(9), ..Exit::default() }, kill_at + 5);
    assert!(matches!(effects.as_slice(), [Effect::Report { body: ReportBody::RankLeft { finished: false, .. }, .. }]));
    s.on_reported(&k);
    assert!(s.is_idle());
    let mut s = running();
    s.on_drain(100);
    assert!(s.on_exit(&k, 0, &exit_code(0), 200).is_empty(), "the rank gave it back by itself");
    assert!(s.is_idle());
}

/// A gang of two ranks of this worker, both in training.
fn two_ranks() -> State {
    let mut s = state(3);
    s.on_offer(reserve("j", 1, 2, 9_000), None, 0);
    s.on_offer(start("j", 1, 10, &[0, 1]), None, 1);
    for rank in [0, 1] {
        s.on_line(&key("j", 1), &line(rank, 5, Phase::Training), 2);
    }
    s
}

fn join(first: u32) -> Offer {
    let Offer::Reserve { job, task, attempt, .. } = reserve("j", 1, 1, 9_000) else { unreachable!() };
    Offer::Reserve { job, task, attempt, slots: 1, expires_at: 9_000, joining: Some(first) }
}

#[test]
fn one_death_is_told_once_and_leaves_the_others_alone() {
    let mut s = two_ranks();
    let effects = s.on_exit(&key("j", 1), 1, &exit_code(101), 2);
    failure(&effects);
    assert_eq!(effects.len(), 1, "nobody is signalled: {effects:?}");
    assert_eq!((s.slots_free(), s.held()[0].ranks.clone()), (2, vec![0]));
    s.on_reported(&key("j", 1));
    assert!(s.on_exit(&key("j", 1), 0, &exit_code(0), 3).is_empty());
    assert!(s.is_idle());
}

#[test]
fn a_process_that_says_nothing_stands_still() {
    let mut s = State::new("host1", "fp", 2, Timings { rank_silent_ms: 3_000, ..Timings::default() });
    s.on_offer(reserve("j", 1, 2, 9_000), None, 0);
    s.on_offer(start("j", 1, 10, &[0, 1]), None, 0);
    for now in [1_000, 2_000, 3_000] {
        // The same step again and again: it lives, and computes.
        s.on_line(&key("j", 1), &line(0, 7, Phase::Training), now);
        assert!(pass(&mut s, now - 900, now - 1).is_empty());
    }
    let effects = s.on_tick(3_000);
    let error = failure(&effects);
    assert_eq!(error.class, Class::WorkerHung);
    assert!(
        error.message.contains("rank 1 on host1 made no progress and said nothing for 3000 ms"),
        "{}",
        error.message
    );
    assert!(effects.contains(&Effect::Signal { key: key("j", 1), rank: 1, signal: Signal::Kill }));
    assert_eq!(effects.len(), 2, "{effects:?}");
}

#[test]
fn ranks_join_a_gang_under_way_and_none_starts_twice() {
    let mut s = two_ranks();
    assert!(matches!(s.on_offer(join(2), None, 3).0, OfferAnswer::Accepted { slots: 1, .. }));
    let (answer, effects) = s.on_offer(start("j", 1, 12, &[2]), None, 4);
    assert_eq!(answer, OfferAnswer::Started);
    assert!(matches!(effects.as_slice(), [Effect::Spawn { rank: 2, .. }]), "{effects:?}");
    assert_eq!(s.on_offer(start("j", 1, 12, &[2]), None, 5), (OfferAnswer::Started, vec![]));
    assert_eq!((s.slots_free(), s.held()[0].ranks.clone(), s.held()[0].fence), (0, vec![0, 1, 2], Fence(12)));
    s.on_exit(&key("j", 1), 2, &exit_code(0), 6);
    assert!(matches!(s.on_offer(join(2), None, 7).0, OfferAnswer::Declined { .. }), "it has been here");
    assert!(matches!(s.on_offer(join(3), None, 7).0, OfferAnswer::Accepted { .. }));
}

#[test]
fn ranks_are_called_to_meet_once_they_have_begun() {
    let mut s = two_ranks();
    s.on_offer(join(2), None, 3);
    s.on_offer(start("j", 1, 12, &[2]), None, 4);
    let GangKey { job, task, attempt } = key("j", 1);
    let (answer, effects) = s.on_offer(Offer::Regroup { job, task, attempt, when: RegroupWhen::NextStep }, None, 5);
    assert_eq!(answer, OfferAnswer::Regrouping);
    let told: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Signal { rank, signal, .. } => (*rank, *signal),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, [(0, Signal::Regroup), (1, Signal::Regroup)], "a new process does not know the signal yet");
}

#[test]
fn ranks_that_are_given_up_are_killed_and_their_end_is_no_news() {
    let mut s = two_ranks();
    let GangKey { job, task, attempt } = key("j", 1);
    let offer = Offer::Release { job, task, attempt, reason: "r".into(), done: false, ranks: vec![1] };
    let (answer, effects) = s.on_offer(offer, None, 5);
    assert_eq!(answer, OfferAnswer::Released);
    assert_eq!(effects, vec![Effect::Signal { key: key("j", 1), rank: 1, signal: Signal::Kill }]);
    assert!(s.on_exit(&key("j", 1), 1, &Exit { signal: Some(9), ..Exit::default() }, 6).is_empty());
    assert_eq!(s.held()[0].ranks, [0]);
}

#[derive(Debug, Clone)]
enum Op {
    Reserve { job: u8, attempt: u32, slots: u32, expires_in: u64 },
    Start { job: u8, attempt: u32, ranks: u32 },
    Release { job: u8, attempt: u32 },
    StopTask { job: u8, fence: u64 },
    Line { job: u8, attempt: u32, rank: u32, progress: u64 },
    Exit { job: u8, attempt: u32, rank: u32, code: i32 },
    Reported { job: u8, attempt: u32 },
    Tick { after: u64 },
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    let (job, attempt) = (0..3u8, 1..4u32);
    prop_oneof![
        4 => (job.clone(), attempt.clone(), 0..4u32, 0..20_000u64)
            .prop_map(|(job, attempt, slots, expires_in)| Op::Reserve { job, attempt, slots, expires_in }),
        4 => (job.clone(), attempt.clone(), 0..3u32).prop_map(|(job, attempt, ranks)| Op::Start { job, attempt, ranks }),
        2 => (job.clone(), attempt.clone()).prop_map(|(job, attempt)| Op::Release { job, attempt }),
        1 => (job.clone(), 0..40u64).prop_map(|(job, fence)| Op::StopTask { job, fence }),
        2 => (job.clone(), attempt.clone(), 0..2u32, 0..9u64)
            .prop_map(|(job, attempt, rank, progress)| Op::Line { job, attempt, rank, progress }),
        3 => (job.clone(), attempt.clone(), 0..2u32, prop_oneof![Just(0), Just(3), Just(101)])
            .prop_map(|(job, attempt, rank, code)| Op::Exit { job, attempt, rank, code }),
        2 => (job, attempt).prop_map(|(job, attempt)| Op::Reported { job, attempt }),
        3 => (0..70_000u64).prop_map(|after| Op::Tick { after }),
        1 => Just(Op::Drain),
    ]
}

/// The world around a worker: live processes, open reports, everything ever spawned or told.
struct World {
    state: State,
    now: UnixMs,
    alive: BTreeSet<(GangKey, u32)>,
    spawned: BTreeSet<(GangKey, u32)>,
    open_reports: BTreeSet<(GangKey, u32)>,
    reported: BTreeSet<(GangKey, u32)>,
}

impl World {
    fn new(slots: u32) -> Self {
        Self {
            state: state(slots),
            now: 1_000,
            alive: BTreeSet::new(),
            spawned: BTreeSet::new(),
            open_reports: BTreeSet::new(),
            reported: BTreeSet::new(),
        }
    }

    fn execute(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Spawn { key, rank, .. } => {
                    assert!(self.spawned.insert((key.clone(), rank)), "double start of {key:?} rank {rank}");
                    self.alive.insert((key, rank));
                }
                Effect::Signal { key, rank, .. } => {
                    assert!(
                        self.alive.contains(&(key.clone(), rank)),
                        "signal to a process that is gone: {key:?} {rank}"
                    );
                }
                Effect::Report { key, body, .. } => {
                    let (ReportBody::RankLost { rank, .. } | ReportBody::RankLeft { rank, .. }) = body else {
                        panic!("{body:?}");
                    };
                    assert!(self.reported.insert((key.clone(), rank)), "two reports of {key:?}, rank {rank}");
                    self.open_reports.insert((key, rank));
                }
            }
        }
    }

    fn exit(&mut self, key: &GangKey, rank: u32, exit: &Exit) {
        if self.alive.remove(&(key.clone(), rank)) {
            let effects = self.state.on_exit(key, rank, exit, self.now);
            self.execute(effects);
        }
    }

    fn offer(&mut self, offer: Offer) -> OfferAnswer {
        let (answer, effects) = self.state.on_offer(offer, None, self.now);
        self.execute(effects);
        answer
    }

    /// All reports of the attempt that are on their way have been answered.
    fn reported(&mut self, key: &GangKey) {
        let answered = |report: &(GangKey, u32)| report.0 == *key;
        for _ in self.open_reports.extract_if(.., answered) {
            self.state.on_reported(key);
        }
    }

    fn tick(&mut self) {
        let effects = self.state.on_tick(self.now);
        self.execute(effects);
    }

    fn check(&self) {
        assert!(self.alive.len() as u32 + self.state.slots_free() <= self.state.slots(), "more processes than slots");
        for (key, _) in &self.open_reports {
            assert!(self.state.running.contains_key(key), "{key:?} forgotten before its report");
        }
    }

    /// Everything ends: processes, reports, reservations. Then every slot must be free again.
    fn settle(&mut self) {
        for (key, rank) in self.alive.clone() {
            self.exit(&key, rank, &exit_code(101));
        }
        for (key, _) in self.open_reports.clone() {
            self.reported(&key);
        }
        self.now += 4 * Timings::default().reserve_timeout_ms;
        self.tick();
        assert!(self.state.is_idle(), "left over: {:?}", self.state);
        assert_eq!(self.state.slots_free(), self.state.slots(), "a slot leaked");
        assert!(self.state.held().is_empty());
    }

    fn apply(&mut self, op: Op) {
        let name = |job: u8| format!("j{job}");
        match op {
            Op::Reserve { job, attempt, slots, expires_in } => {
                self.offer(reserve(&name(job), attempt, slots, self.now + expires_in));
            }
            Op::Start { job, attempt, ranks } => {
                let ranks: Vec<u32> = (0..ranks).collect();
                self.offer(start(&name(job), attempt, u64::from(attempt) * 10, &ranks));
            }
            Op::Release { job, attempt } => {
                assert_eq!(self.offer(release(&name(job), attempt)), OfferAnswer::Released);
            }
            Op::StopTask { job, fence } => {
                let k = key(&name(job), 1);
                let effects = self.state.on_stop_task(&k.job, &k.task, Fence(fence), self.now);
                self.execute(effects);
            }
            Op::Line { job, attempt, rank, progress } => {
                self.state.on_line(&key(&name(job), attempt), &line(rank, progress, Phase::Training), self.now);
            }
            Op::Exit { job, attempt, rank, code } => self.exit(&key(&name(job), attempt), rank, &exit_code(code)),
            Op::Reported { job, attempt } => self.reported(&key(&name(job), attempt)),
            Op::Tick { after } => {
                self.now += after;
                self.tick();
            }
            Op::Drain => {
                let effects = self.state.on_drain(self.now);
                self.execute(effects);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn no_slot_leaks_and_nothing_starts_twice(ops in prop::collection::vec(op(), 0..80), slots in 1..4u32) {
        let mut world = World::new(slots);
        for op in ops {
            world.apply(op);
            world.check();
        }
        world.settle();
    }
}

/// SplitMix64: enough for a schedule.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

/// A coordinator that follows the protocol over a network that repeats, delays and reorders.
fn simulate(seed: u64) {
    let mut dice = Dice(seed);
    let mut world = World::new(1 + dice.below(3) as u32);
    let mut attempts = [1u32; 3];
    let mut late: Vec<Offer> = Vec::new();
    for _ in 0..120 {
        let job = dice.below(3) as usize;
        let (name, attempt) = (format!("j{job}"), attempts[job]);
        let offer = match dice.below(6) {
            0 | 1 => Some(reserve(&name, attempt, 1 + dice.below(2) as u32, world.now + 5_000)),
            2 | 3 => Some(start(&name, attempt, u64::from(attempt) * 10, &[0])),
            4 => Some(release(&name, attempt)),
            _ => None,
        };
        if let Some(offer) = offer {
            match dice.below(4) {
                0 => late.push(offer),
                1 => {
                    world.offer(offer.clone());
                    world.offer(offer.clone());
                    late.push(offer);
                }
                _ => {
                    world.offer(offer);
                }
            }
        }
        if !late.is_empty() && dice.below(3) == 0 {
            let at = dice.below(late.len() as u64) as usize;
            let offer = late.swap_remove(at);
            world.offer(offer);
        }
        if dice.below(4) == 0
            && let Some((key, rank)) =
                world.alive.iter().nth(dice.below(world.alive.len().max(1) as u64) as usize).cloned()
        {
            let code = [0, 3, 101][dice.below(3) as usize];
            world.exit(&key, rank, &exit_code(code));
            attempts[job] += 1;
        }
        for (key, _) in world.open_reports.clone() {
            if dice.below(3) == 0 {
                world.reported(&key);
            }
        }
        world.now += dice.below(3_000);
        world.tick();
        world.check();
    }
    let effects = world.state.on_drain(world.now);
    world.execute(effects);
    world.now += Timings::default().drain_grace_ms;
    world.tick();
    world.settle();
}

#[test]
fn simulated_schedules_leak_nothing() {
    let first = std::env::var("WITHIN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1u64);
    println!("WITHIN_SEED {first}..{}", first + 5_000);
    for seed in first..first + 5_000 {
        simulate(seed);
    }
}
