//! The protocol of queue tasks, against a scripted coordinator.

use std::time::Duration;

use bus::queue::{Finish, Leased, Queue};
use bus::role::RoleEnv;
use bus::{Bus, BusConfig, heartbeat, queue};
use futures::StreamExt;
use messages::artifact::ArtifactRef;
use messages::envelope::Envelope;
use messages::error::Code;
use messages::job::Role;
use messages::rpc::{Claim, ClaimAnswer, Report, ReportAnswer, ReportBody, Request};
use messages::subject::{STREAM_DLQ, STREAM_WORK, consumer_work};
use messages::trace::TraceContext;
use messages::work::TaskOutput;
use messages::worker::{Control, Heartbeat};
use messages::{Fence, WireError, WorkerId};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::publish::work;
use crate::server::{self, LONG, count, job, raw, shared, task, until};

/// Nothing comes for so long.
const QUIET: Duration = Duration::from_millis(300);

/// What the coordinator was asked.
#[derive(Debug)]
enum Asked {
    Claim(Claim, Option<String>),
    Report(Report),
}

/// One worker with its queue, and the coordinator it asks.
struct Scene {
    config: BusConfig,
    bus: Bus,
    env: RoleEnv,
    queue: Queue,
    leased: mpsc::Receiver<Leased>,
    asked: mpsc::UnboundedReceiver<Asked>,
    _home: TempDir,
}

fn granted(fence: u64) -> ClaimAnswer {
    ClaimAnswer::Granted { fence: Fence(fence) }
}

async fn coordinate(
    bus: &Bus,
    mut on_claim: impl FnMut(&Claim) -> Result<ClaimAnswer, WireError> + Send + 'static,
    mut on_report: impl FnMut(&Report) -> Result<ReportAnswer, WireError> + Send + 'static,
) -> mpsc::UnboundedReceiver<Asked> {
    let mut claims = bus.serve(&bus.subjects().svc(Claim::ROLE, Claim::VERB), None).await.expect("serves");
    let mut reports = bus.serve(&bus.subjects().svc(Report::ROLE, Report::VERB), None).await.expect("serves");
    let (asked, seen) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(request) = claims.next() => {
                    let envelope = request.decode::<Claim>().expect("reads");
                    assert_eq!(envelope.traceparent.map(|t| t.0).as_deref(), request.header("traceparent"));
                    let trace = request.header("traceparent").map(str::to_owned);
                    let claim = envelope.data;
                    let answer = on_claim(&claim);
                    asked.send(Asked::Claim(claim, trace)).ok();
                    request.reply(answer).await;
                }
                Some(request) = reports.next() => {
                    let report = request.decode::<Report>().expect("reads").data;
                    let answer = on_report(&report);
                    asked.send(Asked::Report(report)).ok();
                    request.reply(answer).await;
                }
                else => return,
            }
        }
    });
    seen
}

impl Scene {
    async fn new(
        slots: u32,
        change: impl FnOnce(&mut BusConfig),
        on_claim: impl FnMut(&Claim) -> Result<ClaimAnswer, WireError> + Send + 'static,
        on_report: impl FnMut(&Report) -> Result<ReportAnswer, WireError> + Send + 'static,
    ) -> Self {
        let mut config = shared().await;
        change(&mut config);
        let bus = Bus::connect(config.clone()).await.expect("connects");
        bus.ensure_topology().await.expect("topology");
        let coordinator = Bus::connect(config.clone()).await.expect("connects");
        let asked = coordinate(&coordinator, on_claim, on_report).await;
        let home = tempfile::tempdir().expect("temporary folder");
        let env = server::env(&bus, "w1", home.path());
        let (deliver, leased) = mpsc::channel(8);
        let queue = queue::start(&env, Role::DataLoader, slots, deliver).await.expect("starts");
        Self { config, bus, env, queue, leased, asked, _home: home }
    }

    async fn simple(slots: u32) -> Self {
        Self::new(slots, |_| {}, |_| Ok(granted(7)), |_| Ok(ReportAnswer::Accepted)).await
    }

    async fn publish(&self, name: &str) {
        let trace = TraceContext::of_job(name).to_parent();
        self.bus.publish_work(Role::DataLoader, &work(name, 1), Some(trace)).await.expect("stored");
    }

    async fn leased(&mut self) -> Leased {
        timeout(LONG, self.leased.recv()).await.expect("in time").expect("open")
    }

    async fn claim(&mut self) -> (Claim, Option<String>) {
        loop {
            if let Asked::Claim(claim, trace) = timeout(LONG, self.asked.recv()).await.expect("in time").expect("open")
            {
                return (claim, trace);
            }
        }
    }

    async fn report(&mut self) -> Report {
        loop {
            if let Asked::Report(report) = timeout(LONG, self.asked.recv()).await.expect("in time").expect("open") {
                return report;
            }
        }
    }

    /// Until nothing is queued or out.
    async fn empty(&self) {
        let js = raw(&self.config).await;
        let stream = self.bus.subjects().scoped(STREAM_WORK);
        let filter = self.bus.subjects().work_all();
        until("an empty queue", || async { (count(&js, &stream, &filter).await == 0).then_some(()) }).await;
    }

    async fn dead_letters(&self, name: &str) -> usize {
        let js = raw(&self.config).await;
        count(&js, &self.bus.subjects().scoped(STREAM_DLQ), &self.bus.subjects().dlq(Role::DataLoader, name)).await
    }
}

fn output() -> TaskOutput {
    TaskOutput::Prepared {
        dataset: ArtifactRef { uri: "file:///d".into(), blake3: "0".repeat(64), size_bytes: 1 },
        rows_train: 1,
        rows_val: 1,
        rows_test: 1,
        warnings: vec![],
        reports: std::collections::BTreeMap::new(),
        steps: vec![],
    }
}

#[tokio::test]
async fn a_task_is_claimed_worked_on_reported_and_only_then_acknowledged() {
    let mut scene = Scene::simple(2).await;
    assert_eq!((scene.queue.slots_free(), scene.queue.held()), (2, vec![]));
    scene.publish("j1").await;
    let leased = scene.leased().await;
    let (claim, trace) = scene.claim().await;
    assert_eq!(trace, Some(TraceContext::of_job("j1").to_parent().0), "a job is one trace");
    assert_eq!(leased.trace.as_ref().map(|t| t.0.clone()), trace);
    assert_eq!((claim.job, claim.attempt, claim.worker), (job("j1"), 1, scene.env.identity.worker.clone()));
    assert_eq!((leased.fence, &leased.work.job), (Fence(7), &job("j1")));
    let held = scene.queue.held();
    assert_eq!((held.len(), held[0].fence, scene.queue.slots_free()), (1, Fence(7), 1));
    let js = raw(&scene.config).await;
    let stream = scene.bus.subjects().scoped(STREAM_WORK);
    assert_eq!(count(&js, &stream, &scene.bus.subjects().work_all()).await, 1, "kept until it is reported");
    assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    let report = scene.report().await;
    assert_eq!((report.fence, report.body), (Fence(7), ReportBody::Done { output: output() }));
    scene.empty().await;
    until("a free slot", || async { (scene.queue.slots_free() == 2).then_some(()) }).await;
    assert!(scene.queue.held().is_empty());
}

#[tokio::test]
async fn only_what_there_is_a_slot_for_is_taken_from_the_queue() {
    let mut scene = Scene::simple(1).await;
    for i in 0..3 {
        scene.publish(&format!("j{i}")).await;
    }
    let js = raw(&scene.config).await;
    let stream = js.get_stream(scene.bus.subjects().scoped(STREAM_WORK)).await.expect("stream");
    for i in 0..3 {
        let leased = scene.leased().await;
        assert_eq!(leased.work.job, job(&format!("j{i}")));
        assert!(timeout(QUIET, scene.leased.recv()).await.is_err(), "one slot, one task");
        let info = stream.consumer_info(consumer_work(Role::DataLoader)).await.expect("consumer");
        assert_eq!((info.num_ack_pending, info.num_pending), (1, 2 - i), "none waits at the worker");
        assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    }
    scene.empty().await;
}

#[tokio::test]
async fn a_long_task_is_kept_alive_and_delivered_once() {
    let mut scene =
        Scene::new(2, |config| config.timings.ack_wait_ms = 2_000, |_| Ok(granted(1)), |_| Ok(ReportAnswer::Accepted))
            .await;
    scene.publish("j1").await;
    let leased = scene.leased().await;
    let again = timeout(Duration::from_secs(6), scene.leased.recv()).await;
    assert!(again.is_err(), "delivered again after three ack waits");
    assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    scene.empty().await;
}

#[tokio::test]
async fn a_dead_worker_s_message_comes_again() {
    let mut scene =
        Scene::new(1, |config| config.timings.ack_wait_ms = 1_000, |_| Ok(granted(1)), |_| Ok(ReportAnswer::Accepted))
            .await;
    scene.publish("j1").await;
    let leased = scene.leased().await;
    // A worker that dies says nothing any more: its connection is gone, its keep-alives with it.
    scene.bus.close().await;
    let other = Bus::connect(scene.config.clone()).await.expect("connects");
    let env = RoleEnv { bus: other, ..scene.env.clone() };
    let (deliver, mut second) = mpsc::channel(1);
    let _queue = queue::start(&env, Role::DataLoader, 1, deliver).await.expect("starts");
    let taken_over = timeout(LONG, second.recv()).await.expect("in time").expect("open");
    assert_eq!(taken_over.work, leased.work);
    assert_eq!(taken_over.finish(Ok(output())).await, Finish::Accepted);
}

#[tokio::test]
async fn busy_comes_again_and_gone_is_forgotten() {
    let mut tries = 0;
    let mut scene = Scene::new(
        1,
        |_| {},
        move |claim| {
            if claim.job == job("gone") {
                return Ok(ClaimAnswer::Gone { reason: "done".into() });
            }
            tries += 1;
            Ok(if tries == 1 { ClaimAnswer::Busy { retry_after_ms: 50 } } else { granted(2) })
        },
        |_| Ok(ReportAnswer::Accepted),
    )
    .await;
    scene.publish("gone").await;
    scene.publish("busy").await;
    let leased = scene.leased().await;
    assert_eq!(leased.work.job, job("busy"));
    assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    scene.empty().await;
}

#[tokio::test]
async fn no_leader_and_no_coordinator_lose_no_task() {
    let mut tries = 0;
    let mut scene = Scene::new(
        1,
        |config| config.timings.claim_timeout_ms = 200,
        move |_| {
            tries += 1;
            match tries {
                1..=8 => Err(WireError::new(Code::NotLeader, "not me")),
                9 => Err(WireError::new(Code::Overloaded, "later")),
                _ => Ok(granted(3)),
            }
        },
        |_| Ok(ReportAnswer::Accepted),
    )
    .await;
    scene.publish("j1").await;
    let leased = scene.leased().await;
    assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    scene.empty().await;
    assert_eq!(scene.dead_letters("j1").await, 0);
}

#[tokio::test]
async fn a_late_result_is_fenced_and_a_lost_answer_is_asked_for_again() {
    let mut tries = 0;
    let mut scene = Scene::new(
        1,
        |_| {},
        |_| Ok(granted(4)),
        move |report| {
            if report.job == job("late") {
                return Ok(ReportAnswer::Fenced { reason: "passed on".into() });
            }
            tries += 1;
            if tries < 3 { Err(WireError::new(Code::NotLeader, "not me")) } else { Ok(ReportAnswer::Accepted) }
        },
    )
    .await;
    scene.publish("late").await;
    let leased = scene.leased().await;
    assert_eq!(leased.finish(Err(WireError::new(Code::Cancelled, "stopped"))).await, Finish::Fenced);
    scene.publish("again").await;
    let leased = scene.leased().await;
    let error = WireError::new(Code::DatasetNotFound, "no file");
    assert_eq!(leased.finish(Err(error.clone())).await, Finish::Accepted);
    scene.empty().await;
    scene.report().await;
    assert_eq!(scene.report().await.body, ReportBody::Failed { error });
}

#[tokio::test]
async fn a_task_that_is_dropped_or_released_is_given_back() {
    let mut scene = Scene::simple(1).await;
    scene.publish("j1").await;
    let leased = scene.leased().await;
    tokio::spawn(async move {
        let _leased = leased;
        panic!("the role has a bug");
    });
    assert!(matches!(scene.report().await.body, ReportBody::Released { .. }));
    let leased = scene.leased().await;
    assert_eq!(leased.work.job, job("j1"), "the message came back");
    leased.release("the disk is full").await;
    assert_eq!(scene.report().await.body, ReportBody::Released { reason: "the disk is full".into() });
    let leased = scene.leased().await;
    assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    scene.empty().await;
}

#[tokio::test]
async fn an_order_to_stop_cancels_leases_up_to_its_fence() {
    let mut fence = 10;
    let mut scene = Scene::new(
        4,
        |_| {},
        move |_| {
            fence += 1;
            Ok(granted(fence))
        },
        |_| Ok(ReportAnswer::Accepted),
    )
    .await;
    scene.publish("j1").await;
    let first = scene.leased().await;
    let stop = |name: &str, fence: u64| Control::StopTask {
        job: job(name),
        task: task("prepare"),
        fence: Fence(fence),
        reason: "cancelled".into(),
    };
    let worker = WorkerId::new("w1").expect("id");
    let send = async |order: Control| {
        let subject = scene.bus.subjects().ctl(&worker, order.verb());
        scene.bus.publish(&subject, &Envelope::new("c", "/test", 0, order)).await.expect("sent");
    };
    send(stop("j1", 10)).await;
    send(stop("other", 99)).await;
    assert!(timeout(QUIET, first.cancelled.cancelled()).await.is_err(), "an older lease's order, or another job's");
    send(stop("j1", 11)).await;
    timeout(LONG, first.cancelled.cancelled()).await.expect("cancelled");
    // An order that was faster than the answer to the claim.
    scene
        .bus
        .publish(&scene.bus.subjects().ctl_all("stop_task"), &Envelope::new("c", "/test", 0, stop("j2", 12)))
        .await
        .expect("sent");
    send(stop("j3", 12)).await;
    scene.publish("j3").await;
    let third = timeout(LONG, scene.leased.recv()).await.expect("in time").expect("open");
    assert!(third.cancelled.is_cancelled());
    scene.publish("j2").await;
    let second = timeout(LONG, scene.leased.recv()).await.expect("in time").expect("open");
    assert!(!second.cancelled.is_cancelled(), "a later lease of the task is its own");
}

#[tokio::test]
async fn poison_goes_to_the_dead_letters_and_the_queue_goes_on() {
    let mut scene = Scene::new(
        1,
        |_| {},
        |claim| match claim.job.as_str() {
            "unknown" => Err(WireError::new(Code::JobNotFound, "no such job")),
            _ => Ok(granted(1)),
        },
        |_| Ok(ReportAnswer::Accepted),
    )
    .await;
    let subject = scene.bus.subjects().work(Role::DataLoader, &job("bad"), &task("prepare"));
    for payload in [vec![0xc1u8; 10], vec![0x91u8; 8_000_000], b"{\"specversion\":\"9\"}".to_vec()] {
        scene.bus.publish_raw(&subject, &[], payload.into()).await.expect("sent");
    }
    let mut future = Envelope::new("w", "/test", 0, work("bad", 1));
    future.withinschema = 9;
    scene.bus.publish(&subject, &future).await.expect("sent");
    scene.publish("unknown").await;
    scene.publish("good").await;
    let leased = scene.leased().await;
    assert_eq!(leased.work.job, job("good"));
    assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    scene.empty().await;
    assert_eq!((scene.dead_letters("bad").await, scene.dead_letters("unknown").await), (4, 1));
}

#[tokio::test]
async fn a_deleted_consumer_is_made_again() {
    let mut scene = Scene::simple(1).await;
    let js = raw(&scene.config).await;
    let stream = js.get_stream(scene.bus.subjects().scoped(STREAM_WORK)).await.expect("stream");
    stream.delete_consumer(&consumer_work(Role::DataLoader)).await.expect("deleted");
    scene.publish("j1").await;
    let leased = scene.leased().await;
    assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    scene.empty().await;
}

#[tokio::test]
async fn drain_takes_nothing_new_and_waits_for_what_is_in_hand() {
    let mut scene = Scene::simple(2).await;
    scene.publish("j1").await;
    let leased = scene.leased().await;
    scene.env.drain.cancel();
    let queue = scene.queue.clone();
    let mut drained = tokio::spawn(async move { queue.drain().await });
    assert!(timeout(QUIET, &mut drained).await.is_err(), "a task is in hand");
    scene.publish("j2").await;
    assert!(matches!(timeout(QUIET, scene.leased.recv()).await, Ok(None) | Err(_)), "took something new");
    assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    timeout(LONG, drained).await.expect("in time").expect("drains");
    let other = Bus::connect(scene.config.clone()).await.expect("connects");
    let env = server::env(&other, "w2", scene.env.home.as_path());
    let (deliver, mut second) = mpsc::channel(1);
    let _queue = queue::start(&env, Role::DataLoader, 1, deliver).await.expect("starts");
    let leased = timeout(LONG, second.recv()).await.expect("well before the ack wait").expect("open");
    assert_eq!(leased.work.job, job("j2"));
}

#[tokio::test]
async fn a_role_that_has_stopped_is_followed_by_its_successor() {
    let mut scene = Scene::simple(1).await;
    scene.publish("j1").await;
    let leased = scene.leased().await;
    scene.leased.close();
    timeout(LONG, scene.leased.recv()).await.expect("the pull loop ends");
    scene.publish("j2").await;
    drop(leased);
    assert!(matches!(scene.report().await.body, ReportBody::Released { .. }));
    // Its successor in the same process gets both.
    let (deliver, mut successor) = mpsc::channel(2);
    let _queue = queue::start(&scene.env, Role::DataLoader, 2, deliver).await.expect("starts");
    let mut jobs = Vec::new();
    while jobs.len() < 2 {
        let leased = timeout(LONG, successor.recv()).await.expect("in time").expect("open");
        jobs.push(leased.work.job.clone());
        assert_eq!(leased.finish(Ok(output())).await, Finish::Accepted);
    }
    jobs.sort();
    assert_eq!(jobs, [job("j1"), job("j2")]);
    scene.empty().await;
}

#[tokio::test]
async fn a_heartbeat_says_what_is_held_at_once_in_turn_and_at_the_end() {
    let mut config = shared().await;
    config.timings.heartbeat_ms = 60_000;
    let bus = Bus::connect(config).await.expect("connects");
    let home = tempfile::tempdir().expect("temporary folder");
    let env = server::env(&bus, "w1", home.path());
    let mut heard = bus.subscribe(&bus.subjects().hb_all()).await.expect("subscribes");
    let (free, slots) = tokio::sync::watch::channel(1);
    let (task, beat) = heartbeat::spawn(&env, Role::Evaluator, move || heartbeat::Pulse {
        slots: 2,
        slots_free: *slots.borrow(),
        held: vec![],
    });
    let mut next = async || {
        let message = timeout(LONG, heard.next()).await.expect("in time").expect("open");
        message.decode::<Heartbeat>().expect("reads").data
    };
    let first = next().await;
    assert_eq!((first.role, first.slots, first.slots_free, first.draining), (Role::Evaluator, 2, 1, false));
    beat.now();
    let second = next().await;
    assert!(second.sequence > first.sequence);
    env.drain.cancel();
    assert!(next().await.draining);
    free.send_replace(2);
    beat.now();
    let last = next().await;
    assert!(last.draining && last.slots_free == 2);
    timeout(LONG, task).await.expect("ends when nothing is left").expect("ends");
}
