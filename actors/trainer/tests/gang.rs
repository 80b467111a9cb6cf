//! Gangs with real rank processes over a real nats-server: the same bits as without a bus, whatever
//! happens to feeds, ranks and workers. The test plays coordinator and data_loader, and starts itself
//! with the argument `rank` as the rank process.

#[path = "../src/train/fixtures.rs"]
mod fixtures;
mod peers;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use bus::From;
use messages::error::{Class, Code};
use messages::event::{Checkpoint, Event, ModelRef};
use messages::gang::OfferAnswer;
use messages::rpc::{ReportAnswer, ReportBody};
use messages::work::TaskOutput;
use messages::worker::Control;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use peers::{Platform, Sabotage, accept};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("rank") {
        return within_trainer::rank_main();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let expected = peers::without_a_bus();
        for (name, sabotage) in [
            ("undisturbed", Sabotage::None),
            ("a frame is lost", Sabotage::LoseFrame),
            ("a data_loader falls silent", Sabotage::FallSilent),
            ("a feed ends with an error", Sabotage::Fail),
        ] {
            trains_to_the_same_bits(&expected, sabotage).await;
            println!("test trains_to_the_same_bits, {name} ... ok");
        }
        a_killed_rank_is_named_and_the_next_attempt_goes_on(&expected).await;
        println!("test a_killed_rank_is_named_and_the_next_attempt_goes_on ... ok");
        a_process_is_used_again_while_it_lives(&expected).await;
        println!("test a_process_is_used_again_while_it_lives ... ok");
        a_stopped_rank_is_hung().await;
        println!("test a_stopped_rank_is_hung ... ok");
        a_cancelled_task_ends_within_two_seconds().await;
        println!("test a_cancelled_task_ends_within_two_seconds ... ok");
        a_drained_worker_gives_its_task_back(&expected).await;
        println!("test a_drained_worker_gives_its_task_back ... ok");
    });
    ExitCode::SUCCESS
}

/// Accepts every report until the task is done.
async fn until_done(platform: &mut Platform) -> (ModelRef, Vec<Checkpoint>) {
    let mut checkpoints = Vec::new();
    loop {
        let (report, incoming) = platform.report().await;
        accept(incoming).await;
        match report.body {
            ReportBody::Done { output: TaskOutput::Trained { model, .. } } => return (model, checkpoints),
            ReportBody::Checkpoint { checkpoint } => checkpoints.push(checkpoint),
            other => panic!("unexpected {other:?}"),
        }
    }
}

async fn trains_to_the_same_bits(expected: &str, sabotage: Sabotage) {
    let mut platform = Platform::start(sabotage).await;
    platform.start_gang(1, None).await;
    let (model, checkpoints) = until_done(&mut platform).await;
    assert_eq!(model.blake3, expected);
    assert_eq!(checkpoints.len(), 4);
    platform.slots_are_free(2).await;
    let mut events = platform.bus.events(Some(&platform.job), From::First).await.expect("events");
    let (mut hooks, mut epochs) = (Vec::new(), 0);
    while let Some(stored) = events.next(Duration::from_secs(2)).await.expect("event") {
        match stored.envelope.data {
            Event::Hook { hook, .. } => hooks.push(hook),
            Event::Metric(metric) => {
                epochs += 1;
                assert!(metric.metrics.contains_key("val_rmse"));
            }
            _ => {}
        }
        assert_eq!(stored.envelope.fence, Some(messages::Fence(10)));
        if hooks.last().is_some_and(|h| h == "on_train_end") {
            break;
        }
    }
    assert_eq!((epochs, hooks.first().map(String::as_str)), (4, Some("on_train_begin")));
    platform.end().await;
}

/// Accepts the first checkpoint and keeps the second waiting, so that the rank stands still.
async fn stand_still(platform: &mut Platform) -> Checkpoint {
    let (report, incoming) = platform.report().await;
    accept(incoming).await;
    let ReportBody::Checkpoint { checkpoint } = report.body else { panic!("unexpected {:?}", report.body) };
    platform.report().await;
    checkpoint
}

/// The next report that is no repetition of one about a checkpoint.
async fn after_checkpoints(platform: &mut Platform) -> ReportBody {
    loop {
        let (report, incoming) = platform.report().await;
        accept(incoming).await;
        if !matches!(report.body, ReportBody::Checkpoint { .. }) {
            return report.body;
        }
    }
}

async fn a_killed_rank_is_named_and_the_next_attempt_goes_on(expected: &str) {
    let mut platform = Platform::start(Sabotage::None).await;
    let pid = platform.start_gang(1, None).await;
    let checkpoint = stand_still(&mut platform).await;
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("killed");
    let ReportBody::RankLost { error, .. } = after_checkpoints(&mut platform).await else { panic!("no failure") };
    assert_eq!((error.class, error.code), (Class::WorkerDied, Code::WorkerDied));
    assert!(error.message.contains("signal 9") && error.message.contains("rank 0 on testhost"), "{}", error.message);
    platform.start_gang(2, Some(checkpoint)).await;
    let (model, checkpoints) = until_done(&mut platform).await;
    assert_eq!((model.blake3.as_str(), checkpoints.len()), (expected, 3));
    platform.end().await;
}

/// The process of a task that ended in order does the next one too, to the same bits; a dead one is not asked.
async fn a_process_is_used_again_while_it_lives(expected: &str) {
    let mut platform = Platform::start(Sabotage::None).await;
    let mut pids = Vec::new();
    for attempt in 1..=3 {
        pids.push(platform.start_gang(attempt, None).await);
        let (model, _) = until_done(&mut platform).await;
        assert_eq!(model.blake3, expected);
        platform.slots_are_free_for(attempt + 1, 2).await;
        if attempt == 2 {
            kill(Pid::from_raw(pids[1] as i32), Signal::SIGKILL).expect("killed");
            ends(pids[1]).await;
        }
    }
    assert_eq!(pids[0], pids[1]);
    assert_ne!(pids[1], pids[2]);
    platform.end().await;
}

/// Waits until a process is dead, reaped or not.
async fn ends(pid: u32) {
    let begun = Instant::now();
    let lives = || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"));
    while lives() {
        assert!(begun.elapsed() < Duration::from_secs(10), "{pid} lives");
        tokio::task::yield_now().await;
    }
}

async fn a_stopped_rank_is_hung() {
    let mut platform = Platform::start(Sabotage::None).await;
    let pid = platform.start_gang(1, None).await;
    stand_still(&mut platform).await;
    kill(Pid::from_raw(pid as i32), Signal::SIGSTOP).expect("stopped");
    let ReportBody::RankLost { error, .. } = after_checkpoints(&mut platform).await else { panic!("no failure") };
    assert_eq!(error.class, Class::WorkerHung, "{}", error.message);
    platform.slots_are_free(2).await;
    platform.end().await;
}

async fn a_cancelled_task_ends_within_two_seconds() {
    let mut platform = Platform::start(Sabotage::None).await;
    let pid = platform.start_gang(1, None).await;
    stand_still(&mut platform).await;
    let asked = Instant::now();
    platform
        .control(Control::StopTask {
            job: platform.job.clone(),
            task: platform.task.clone(),
            fence: messages::Fence(10),
            reason: "test".into(),
        })
        .await;
    while kill(Pid::from_raw(pid as i32), None).is_ok() {
        assert!(asked.elapsed() < Duration::from_secs(2), "still there");
        tokio::task::yield_now().await;
    }
    platform.slots_are_free(2).await;
    platform.end().await;
}

async fn a_drained_worker_gives_its_task_back(expected: &str) {
    let mut platform = Platform::start(Sabotage::None).await;
    platform.start_gang(1, None).await;
    stand_still(&mut platform).await;
    platform.drain.cancel();
    let mut last = None;
    loop {
        let (report, incoming) = platform.report().await;
        incoming.reply(Ok(ReportAnswer::Accepted)).await;
        match report.body {
            ReportBody::Checkpoint { checkpoint } => last = Some(checkpoint),
            ReportBody::Released { .. } => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    platform.actor_has_stopped().await;
    let mut next = platform.another_worker().await;
    next.start_gang(2, last).await;
    assert_eq!(until_done(&mut next).await.0.blake3, expected);
    assert!(matches!(next.reserve(3, 9).await, OfferAnswer::Declined { .. }), "more slots than there are");
    next.end().await;
}
