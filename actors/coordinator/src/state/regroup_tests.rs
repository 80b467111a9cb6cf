//! A gang that loses ranks, regroups and grows, seen from the coordinator's desk: each test is a short story.

use messages::error::{Class, Code};
use messages::event::Event;
use messages::gang::{Join, Joined, Left, Offer, OfferAnswer, RegroupWhen};
use messages::job::{JobRecord, RankLoss, Role, TaskRecord, TaskState};
use messages::rpc::{Report, ReportAnswer, ReportBody};
use messages::timings::Timings;
use messages::work::TaskOutput;
use messages::worker::{Heartbeat, HeldLease};
use messages::{ArtifactRef, JobId, TaskId, UnixMs, WireError, WorkerId};

use super::{Answer, Effect, Input, State, Submission, Token};

fn artifact() -> ArtifactRef {
    ArtifactRef { uri: "file:///a".into(), blake3: "0".repeat(64), size_bytes: 1 }
}

fn id(name: &str) -> JobId {
    JobId::new(name).expect("an id")
}

fn train() -> TaskId {
    TaskId::new("train").expect("an id")
}

fn died(rank: u32) -> WireError {
    WireError::new(Code::WorkerDied, format!("rank {rank} was killed"))
}

fn left(generation: u32, step: u64, suspect: Option<u32>) -> Left {
    let error = suspect.map(|rank| WireError::new(Code::NetworkPartition, format!("rank {rank} does not answer")));
    Left { generation, step, suspect, error }
}

/// A coordinator whose commits succeed at once and whose workers say yes. One slot a worker, rank r on worker wr
/// as long as the gang is the first.
struct Desk {
    state: State,
    revision: u64,
    now: UnixMs,
    token: Token,
    answers: Vec<(Token, Answer)>,
    events: Vec<Event>,
    offers: Vec<(WorkerId, Offer)>,
    /// Ranks that run, and where.
    runs: Vec<(u32, WorkerId)>,
    workers: Vec<WorkerId>,
    sequence: u64,
    pid: u32,
}

impl Desk {
    fn new(workers: u32) -> Self {
        let workers = (0..workers).map(|n| WorkerId::new(format!("w{n}")).expect("an id")).collect();
        let mut desk = Self {
            state: State::new(Timings::default(), [7; 32]),
            revision: 0,
            now: 1_000_000,
            token: 0,
            answers: Vec::new(),
            events: Vec::new(),
            offers: Vec::new(),
            runs: Vec::new(),
            workers,
            sequence: 0,
            pid: 1,
        };
        desk.beat();
        desk
    }

    /// A job that is prepared, of fewest, first and most ranks.
    fn submit(&mut self, job: &str, (min_world_size, world_size, max_world_size): (u32, u32, u32)) {
        let submission = Submission {
            job: id(job),
            source: "test".into(),
            event_id: job.into(),
            content_blake3: String::new(),
            name: job.into(),
            spec: artifact(),
            plan: artifact(),
            deadline_ms: 3_600_000,
            max_attempts: 3,
            world_size,
            min_world_size,
            cuda: false,
            max_world_size,
            warnings: Vec::new(),
            traceparent: None,
        };
        self.input(Input::Submit { token: None, submission: Box::new(submission) });
        let (prepare, worker) = (TaskId::new("prepare").expect("an id"), self.workers[0].clone());
        let claim = messages::rpc::Claim { job: id(job), task: prepare.clone(), attempt: 1, worker: worker.clone() };
        self.input(Input::Claim { token: 0, claim });
        let (dataset, warnings) = (artifact(), Vec::new());
        let output = TaskOutput::Prepared {
            dataset,
            rows_train: 1,
            rows_val: 1,
            rows_test: 1,
            warnings,
            steps: Vec::new(),
            reports: std::collections::BTreeMap::new(),
        };
        let fence = self.record(job).task(&prepare).and_then(|task| task.fence).expect("a fence");
        let body = ReportBody::Done { output };
        let report = Report { job: id(job), task: prepare, attempt: 1, fence, worker, body };
        self.input(Input::Report { token: 0, report: Box::new(report) });
    }

    fn input(&mut self, input: Input) {
        let mut inputs = std::collections::VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.state.step(input, self.now) {
                match effect {
                    Effect::Commit { record, .. } => {
                        self.revision += 1;
                        inputs.push_back(Input::Committed { job: record.job.clone(), revision: self.revision });
                    }
                    Effect::Offer { worker, job, task, attempt, offer, .. } => {
                        let answer = Some(self.offered(&worker, &offer));
                        self.offers.push((worker.clone(), *offer));
                        inputs.push_back(Input::Offered { worker, job, task, attempt, answer });
                    }
                    Effect::Answer { token, answer } => self.answers.push((token, *answer)),
                    Effect::Emit { event, .. } => self.events.push(*event),
                    _ => {}
                }
            }
        }
    }

    fn offered(&mut self, worker: &WorkerId, offer: &Offer) -> OfferAnswer {
        match offer {
            Offer::Reserve { slots, .. } => OfferAnswer::Accepted { slots: *slots, fingerprint: "cpu".into() },
            Offer::Start { ranks, .. } => {
                self.runs.extend(ranks.iter().map(|rank| (*rank, worker.clone())));
                OfferAnswer::Started
            }
            Offer::Release { ranks, .. } => {
                self.runs.retain(|(rank, on)| on != worker || (!ranks.is_empty() && !ranks.contains(rank)));
                OfferAnswer::Released
            }
            Offer::Regroup { .. } => OfferAnswer::Regrouping,
        }
    }

    /// All workers say what they run.
    fn beat(&mut self) {
        self.sequence += 1;
        for worker in self.workers.clone() {
            let ranks: Vec<u32> = self.runs.iter().filter(|(_, on)| *on == worker).map(|(rank, _)| *rank).collect();
            let lease = |task: &TaskRecord| {
                let (fence, ranks) = (task.fence.unwrap_or_default(), ranks.clone());
                HeldLease { job: id("j"), task: train(), attempt: task.attempt, fence, ranks }
            };
            let task = self.state.record(&id("j")).and_then(|record| record.task(&train()));
            let held: Vec<HeldLease> = task.filter(|_| !ranks.is_empty()).map(lease).into_iter().collect();
            for role in [Role::DataLoader, Role::Trainer] {
                let beat = Heartbeat {
                    worker: worker.clone(),
                    role,
                    host: "host".into(),
                    pid: self.pid,
                    build: "test".into(),
                    fingerprint: "cpu".into(),
                    slots: 1,
                    slots_free: 0,
                    held: if role == Role::Trainer { held.clone() } else { Vec::new() },
                    draining: false,
                    sequence: self.sequence,
                };
                self.input(Input::Heartbeat(Box::new(beat)));
            }
        }
    }

    /// What the old leader still says.
    fn change_leader(&mut self) -> Vec<Effect> {
        let record = self.record("j");
        let effects = self.state.step_down();
        self.state = State::new(Timings::default(), [8; 32]);
        let revision = self.revision;
        self.input(Input::Loaded { job: id("j"), record: Some(Box::new(record)), revision });
        effects
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms / 250 {
            self.now += 250;
            if self.now.is_multiple_of(2_000) {
                self.beat();
            }
            self.input(Input::Tick);
        }
    }

    fn record(&self, job: &str) -> JobRecord {
        self.state.record(&id(job)).expect("a record").clone()
    }

    fn task(&self) -> TaskRecord {
        self.record("j").task(&train()).expect("train").clone()
    }

    fn join(&mut self, rank: u32, left: Option<Left>) -> Token {
        self.token += 1;
        let task = self.task();
        let worker = self.runs.iter().find(|(of, _)| *of == rank).expect("a rank that runs").1.clone();
        let join = Join {
            job: id("j"),
            task: train(),
            attempt: task.attempt,
            fence: task.fence.unwrap_or_default(),
            generation: 1,
            rank,
            worker,
            host: format!("host-{rank}"),
            pid: 1,
            address: None,
            left,
        };
        self.input(Input::Join { token: self.token, join });
        self.token
    }

    /// Ranks come back from a generation; what they were told.
    fn join_all(&mut self, ranks: &[u32], left: Option<&Left>) -> Option<Joined> {
        let tokens: Vec<Token> = ranks.iter().map(|rank| self.join(*rank, left.cloned())).collect();
        let mut told: Vec<Option<Joined>> = tokens.into_iter().map(|token| self.told(token)).collect();
        assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{told:?}");
        told.pop().flatten()
    }

    fn told(&self, token: Token) -> Option<Joined> {
        self.answers.iter().find_map(|(of, answer)| match answer {
            Answer::Joined(joined) if *of == token => Some(joined.clone()),
            _ => None,
        })
    }

    fn refused(&self, token: Token) -> Option<Code> {
        self.answers.iter().find_map(|(of, answer)| match answer {
            Answer::Error(error) if *of == token => Some(error.code),
            _ => None,
        })
    }

    fn report(&mut self, rank: u32, body: ReportBody) {
        self.token += 1;
        let task = self.task();
        let place = self.runs.iter().position(|(of, _)| *of == rank).expect("a rank that runs");
        let (_, worker) = self.runs.remove(place);
        let (attempt, fence) = (task.attempt, task.fence.unwrap_or_default());
        let report = Report { job: id("j"), task: train(), attempt, fence, worker, body };
        self.input(Input::Report { token: self.token, report: Box::new(report) });
        let answer = self.answers.iter().find(|(of, _)| *of == self.token).map(|(_, answer)| answer.clone());
        assert_eq!(answer, Some(Answer::Report(ReportAnswer::Accepted)));
    }

    fn kill(&mut self, rank: u32) {
        self.report(rank, ReportBody::RankLost { rank, error: died(rank) });
    }

    fn heard(&self, name: &str) -> Vec<&Event> {
        self.events.iter().filter(|event| event.name() == name).collect()
    }

    fn told_to_regroup(&self) -> Vec<(&str, RegroupWhen)> {
        let regroup = |(worker, offer): &'_ (WorkerId, Offer)| match offer {
            Offer::Regroup { when, .. } => {
                let place = self.workers.iter().position(|of| of == worker);
                Some((place.map_or("?", |n| self.workers[n].as_str()), *when))
            }
            _ => None,
        };
        self.offers.iter().filter_map(regroup).collect()
    }
}

fn ranks(joined: &Joined) -> Vec<u32> {
    joined.peers.iter().map(|peer| peer.rank).collect()
}

/// A gang of four that has met, with so many workers.
fn four(workers: u32, sizes: (u32, u32, u32)) -> (Desk, Joined) {
    let mut desk = Desk::new(workers);
    desk.submit("j", sizes);
    let first = desk.join_all(&[0, 1, 2, 3], None).expect("they meet");
    (desk, first)
}

#[test]
fn a_gang_begins_with_all_its_slots_or_after_the_last_call_with_enough() {
    let (desk, first) = four(4, (1, 4, 4));
    assert_eq!((first.generation, ranks(&first), first.fence), (1, vec![0, 1, 2, 3], desk.task().fence));
    for (least, began) in [(1, 2), (3, 0)] {
        let mut desk = Desk::new(2);
        desk.submit("j", (least, 4, 4));
        desk.pass(1_500);
        assert_eq!(desk.runs.len(), 0, "it waits for more");
        desk.pass(3_000);
        assert_eq!(desk.runs.len(), began, "at least {least} of 2 slots");
    }
}

#[test]
fn the_others_go_on_without_a_rank_that_was_killed_and_a_new_one_joins() {
    let (mut desk, first) = four(4, (1, 4, 4));
    desk.kill(2);
    assert_eq!(desk.join_all(&[0, 1], Some(&left(1, 5, None))), None, "one is missing");
    let second = desk.join_all(&[0, 1, 3], Some(&left(1, 5, None))).expect("they meet");
    assert_eq!((second.generation, ranks(&second), second.world_size), (2, vec![0, 1, 3], 3));
    assert!(second.fence > first.fence && second.fence == desk.task().fence);
    assert!(second.token.is_some() && second.token != first.token);
    let lost = desk.heard("rank_lost");
    assert!(matches!(lost[..], [Event::RankLost { rank: 2, error, .. }] if *error == died(2)), "{lost:?}");
    let recorded = desk.task().gang.map(|gang| gang.losses).unwrap_or_default();
    assert!(
        matches!(&recorded[..], [RankLoss { attempt: 1, rank: 2, error, .. }] if *error == died(2)),
        "{recorded:?}"
    );
    let regrouped = desk.heard("regrouped");
    assert!(
        matches!(regrouped[..], [Event::Regrouped { generation: 2, ranks, gone, step: 5, .. }]
            if *ranks == [0, 1, 3] && *gone == [2]),
        "{regrouped:?}"
    );
    desk.pass(2_000);
    assert_eq!(desk.runs.last(), Some(&(4, desk.workers[2].clone())), "the free slot is used, the number is new");
    let waiting = desk.join(4, None);
    let asked = [0, 1, 3].map(|n| (desk.workers[n].as_str(), RegroupWhen::NextStep));
    assert_eq!(desk.told_to_regroup(), asked);
    let third = desk.join_all(&[0, 1, 3], Some(&left(2, 9, None))).expect("they meet");
    assert_eq!((ranks(&third), desk.told(waiting)), (vec![0, 1, 3, 4], Some(third.clone())));
    assert!(third.fence > second.fence);
}

#[test]
fn a_join_that_is_asked_twice_gets_the_same_answer() {
    let (mut desk, first) = four(4, (1, 4, 4));
    let again = desk.join(1, None);
    assert_eq!(desk.told(again), Some(first));
    desk.kill(0);
    let (early, late) = (desk.join(1, Some(left(1, 3, None))), desk.join(1, Some(left(1, 3, None))));
    assert_eq!(desk.refused(early), Some(Code::NotLeader), "nobody waits for it any more");
    let second = desk.join_all(&[2, 3], Some(&left(1, 3, None)));
    assert_eq!((second.is_some(), desk.told(late)), (true, second));
}

#[test]
fn too_few_ranks_begin_anew_and_say_why() {
    let (mut desk, _) = four(4, (4, 4, 4));
    desk.kill(2);
    let retried = desk.heard("task_retried");
    assert!(matches!(retried[..], [Event::TaskRetried { error, .. }] if *error == died(2)), "{retried:?}");
    assert_eq!((desk.task().attempt, desk.task().failures), (2, 1));
    // A rank that leaves in order is no failure, however few are left.
    let (mut desk, _) = four(4, (4, 4, 4));
    desk.report(2, ReportBody::RankLeft { rank: 2, finished: false, reason: "the worker drains".into() });
    assert_eq!((desk.task().attempt, desk.task().failures, desk.heard("task_retried").len()), (2, 0, 0));
}

#[test]
fn followers_that_have_finished_do_not_disturb_but_somebody_must_tell() {
    let (mut desk, _) = four(4, (2, 4, 4));
    for rank in [1, 2, 3] {
        desk.report(rank, ReportBody::RankLeft { rank, finished: true, reason: "done".into() });
    }
    desk.pass(15_000);
    assert_eq!((desk.task().attempt, desk.task().state, desk.task().failures), (1, TaskState::Running, 0));
    assert!(desk.told_to_regroup().is_empty() && desk.heard("rank_lost").is_empty());
    desk.report(0, ReportBody::RankLeft { rank: 0, finished: true, reason: "done".into() });
    assert_eq!((desk.task().attempt, desk.task().failures), (2, 1), "nobody is left who could tell the result");
}

#[test]
fn a_worker_that_is_not_heard_of_is_cut_off_and_the_others_are_told() {
    let (mut desk, _) = four(4, (1, 4, 4));
    let silent = desk.workers.pop().expect("a worker");
    desk.pass(14_000);
    let lost = desk.heard("worker_lost");
    assert!(
        matches!(lost[..], [Event::WorkerLost { worker, error, .. }]
            if *worker == silent && error.class == Class::NetworkPartition),
        "{lost:?}"
    );
    assert_eq!(desk.told_to_regroup(), [0, 1, 2].map(|n| (desk.workers[n].as_str(), RegroupWhen::Now)));
    let second = desk.join_all(&[0, 1, 2], Some(&left(1, 5, None))).expect("they meet");
    assert_eq!(ranks(&second), [0, 1, 2]);
}

#[test]
fn the_rank_that_nobody_can_reach_is_named_and_left_out() {
    let (mut desk, _) = four(4, (1, 4, 4));
    for generation in 1..=3 {
        let blames = |rank: u32| Some(left(generation, 5, Some(if rank == 3 { 0 } else { 3 })));
        let tokens = [0, 1, 2, 3].map(|rank| (rank, desk.join(rank, blames(rank))));
        let seated: Vec<u32> = tokens.iter().filter(|(_, t)| desk.told(*t).is_some()).map(|(rank, _)| *rank).collect();
        assert_eq!(seated, if generation < 3 { vec![0, 1, 2, 3] } else { vec![0, 1, 2] });
    }
    let lost = desk.heard("rank_lost");
    let [Event::RankLost { rank: 3, error, .. }] = lost[..] else { panic!("{lost:?}") };
    assert!(error.message.contains("3 of 4 ranks cannot exchange"), "{error}");
    assert!(!desk.runs.iter().any(|(rank, _)| *rank == 3), "it is stopped");
}

#[test]
fn a_gang_that_does_not_get_on_and_blames_nobody_ends_its_attempt() {
    let (mut desk, _) = four(4, (1, 4, 4));
    let mut generation = 0;
    while desk.task().attempt == 1 {
        generation += 1;
        assert!(generation < 10, "an end must be");
        let error = Some(WireError::new(Code::InternalError, "the sums differ"));
        let back = Left { generation, step: 5, suspect: None, error };
        desk.join_all(&[0, 1, 2, 3], Some(&back));
    }
    assert_eq!(desk.task().error.map(|error| error.message), Some("the sums differ".into()));
}

#[test]
fn another_leader_in_the_middle_of_a_meeting_lets_the_same_ranks_meet() {
    let (mut desk, first) = four(4, (1, 4, 4));
    desk.kill(2);
    let lost = desk.join(0, Some(left(1, 5, None)));
    let effects = desk.change_leader();
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Answer { token, answer }
            if *token == lost && matches!(**answer, Answer::Error(ref error) if error.code == Code::NotLeader))),
        "{effects:?}"
    );
    // The report of the rank that was killed was heard by the leader before; the heartbeats tell this one.
    assert_eq!(desk.join_all(&[0, 1, 3], Some(&left(1, 5, None))), None);
    desk.pass(14_000);
    let second = desk.join_all(&[0, 1, 3], Some(&left(1, 5, None))).expect("they have met");
    assert_eq!((second.generation, ranks(&second)), (2, vec![0, 1, 3]));
    assert!(second.fence > first.fence);
}

#[test]
fn a_job_that_waits_comes_before_growth() {
    let (mut desk, _) = four(4, (1, 4, 4));
    desk.submit("k", (1, 1, 1));
    desk.kill(2);
    desk.join_all(&[0, 1, 3], Some(&left(1, 5, None))).expect("they meet");
    desk.pass(4_000);
    assert_eq!(desk.record("k").task(&train()).map(|task| task.state), Some(TaskState::Leased));
    assert!(!desk.runs.iter().any(|(rank, _)| *rank == 4), "nothing is left to grow by");
}

/// Ranks that others see the connections of closed.
fn closed(generation: u32, step: u64, rank: u32) -> Left {
    Left { generation, step, suspect: Some(rank), error: Some(died(rank)) }
}

#[test]
fn a_rank_that_still_computes_is_waited_for_though_its_connections_are_closed() {
    let (mut desk, _) = four(4, (1, 4, 4));
    let waiting = [0, 1, 2].map(|rank| desk.join(rank, Some(closed(1, 5, 3))));
    desk.pass(12_000);
    assert!(desk.heard("rank_lost").is_empty() && waiting.iter().all(|token| desk.told(*token).is_none()));
    assert!(desk.told_to_regroup().iter().all(|asked| *asked == ("w3", RegroupWhen::Now)), "{:?}", desk.offers);
    let last = desk.join(3, Some(left(1, 5, None)));
    let seated = desk.told(last).expect("they meet");
    assert_eq!((ranks(&seated), desk.told(waiting[0])), (vec![0, 1, 2, 3], Some(seated.clone())));
}

#[test]
fn a_rank_whose_worker_says_nothing_is_given_up_soon() {
    let (mut desk, _) = four(4, (1, 4, 4));
    desk.workers.pop();
    let waiting = [0, 1, 2].map(|rank| desk.join(rank, Some(closed(1, 5, 3))));
    desk.pass(6_000);
    let lost = desk.heard("rank_lost");
    let [Event::RankLost { rank: 3, error, .. }] = lost[..] else { panic!("{lost:?}") };
    assert!(error.message.contains("closed its connections"), "{error}");
    assert_eq!(desk.told(waiting[1]).map(|seated| ranks(&seated)), Some(vec![0, 1, 2]));
}

#[test]
fn the_next_leader_counts_the_slots_in_use_and_remembers_who_has_finished() {
    let (mut desk, _) = four(4, (2, 4, 4));
    for rank in [1, 2] {
        desk.report(rank, ReportBody::RankLeft { rank, finished: true, reason: "done".into() });
    }
    desk.change_leader();
    desk.beat();
    assert_eq!(desk.state.open_slots(), 2, "two of four run ranks");
    desk.pass(15_000);
    assert_eq!((desk.task().attempt, desk.heard("rank_lost").len()), (1, 0), "it knows who has finished");
    // The leader dies while it saves: the last one is enough, although the gang wants two.
    desk.kill(0);
    let alone = desk.join_all(&[3], Some(&left(1, 9, None))).expect("it goes on");
    assert_eq!((ranks(&alone), desk.task().attempt), (vec![3], 1));
}

#[test]
fn a_worker_whose_rank_was_too_slow_is_not_asked_again() {
    let (mut desk, _) = four(4, (1, 4, 4));
    desk.report(2, ReportBody::RankLeft { rank: 2, finished: false, reason: "it was too slow".into() });
    desk.join_all(&[0, 1, 3], Some(&left(1, 5, None))).expect("they meet");
    desk.pass(30_000);
    assert_eq!(desk.runs.len(), 3);
    // Another process of the same name is.
    desk.pid = 2;
    desk.pass(4_000);
    assert_eq!(desk.runs.last(), Some(&(4, desk.workers[2].clone())));
}

#[test]
fn what_becomes_of_an_invited_rank_is_its_own() {
    let (mut desk, _) = four(4, (1, 4, 4));
    desk.kill(2);
    desk.join_all(&[0, 1, 3], Some(&left(1, 5, None))).expect("they meet");
    desk.pass(2_000);
    desk.kill(4);
    assert_eq!((desk.task().attempt, desk.heard("rank_lost").len()), (1, 2));
    desk.pass(10_000);
    assert_eq!(desk.runs.last().map(|(rank, _)| *rank), Some(5), "another is asked");
    desk.report(5, ReportBody::RankLeft { rank: 5, finished: false, reason: "the worker drains".into() });
    assert_eq!((desk.task().attempt, desk.task().state), (1, TaskState::Running));
}
