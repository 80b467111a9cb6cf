//! Duplicate, late and stale messages: they are stored and delivered, and change nothing.

use std::time::Duration;

use bus::{Bus, Once, RawMessage, now_ms};
use futures::StreamExt;
use messages::envelope::{CONTENT_MSGPACK, Encoding};
use messages::error::Code;
use messages::event::{Event, Metric, MetricValue, Metrics};
use messages::gang::{Join, Joined};
use messages::rpc::{Claim, ClaimAnswer, Report, ReportAnswer, ReportBody, SpecDocument, SpecFormat, Submit};
use messages::subject::{HEADER_CONTENT_TYPE, HEADER_MSG_ID, STREAM_WORK};
use messages::{Envelope, Fence, JobId, TaskId, WireError, WorkerId};
use serde_json::Value;

use super::{ALL, EPOCHS, LONG, Moment, Platform, TIMINGS};
use crate::harness::{PATIENCE, python_json, wait_for};

fn job_id(name: &str) -> JobId {
    JobId::new(name).expect("a job id")
}

fn task_id(name: &str) -> TaskId {
    TaskId::new(name).expect("a task id")
}

/// Waits until nothing lies in the work queue.
fn emptied(platform: &Platform, bus: &Bus) {
    wait_for("the work queue is empty", Duration::from_secs(60), || {
        let streams = platform.server.block_on(bus.topology()).expect("streams");
        let work = streams.iter().find(|stream| stream.name == STREAM_WORK).expect("the work queue");
        (work.messages == 0).then_some(())
    });
}

/// Names of a job's events, each with how often it is stored, at its end.
fn count(platform: &Platform, bus: &Bus, job: &str, event: &str) -> usize {
    let events = platform.server.events(bus, job);
    assert_eq!(platform.server.later_events(bus, job, events.len()), 0, "{job}: something came after its end");
    events.iter().filter(|stored| stored["data"]["event"] == event).count()
}

/// One event id, published again with and without the header that deduplicates, before, during and after the job; and
/// once with another content.
#[test]
fn a_submission_again_and_again() {
    let platform = Platform::start(TIMINGS, LONG, &[("one", ALL), ("two", ALL)]);
    let bus = platform.bus();
    let spec = std::fs::read_to_string(platform.sandbox.path("job.yaml")).expect("reads");
    let payload = |set: &[&str]| {
        let document = SpecDocument::Text {
            text: spec.clone(),
            format: SpecFormat::Yaml,
            file: Some("job.yaml".into()),
            bases: vec![],
        };
        let submit = Submit { spec: document, set: set.iter().map(|&pair| pair.to_owned()).collect() };
        Envelope::new("again", "urn:test:shop", now_ms(), submit).encode(Encoding::MsgPack)
    };
    let publish = |payload: Vec<u8>, id: Option<&str>| {
        let mut headers = vec![(HEADER_CONTENT_TYPE, CONTENT_MSGPACK)];
        headers.extend(id.map(|id| (HEADER_MSG_ID, id)));
        let subject = bus.subjects().job_submit();
        platform.server.block_on(bus.publish_raw(&subject, &headers, payload.into())).expect("is published");
    };
    for id in [Some("again"), Some("again"), None, Some("another"), None] {
        publish(payload(&[]), id);
    }
    let mut job = platform.sandbox.start(&["jobs", "events", "again", "--follow", "--json"]);
    Moment::Checkpoint(5).reach(&mut job);
    publish(payload(&[]), None);
    publish(payload(&["training.epochs=3"]), None);
    job.wait().expect(0);
    publish(payload(&[]), None);
    publish(payload(&["training.epochs=3"]), None);
    emptied(&platform, &bus);
    for (event, expected) in [("accepted", 1), ("completed", 1), ("rejected", 0), ("task_started", 4)] {
        assert_eq!(count(&platform, &bus, "again", event), expected, "{event}");
    }
    platform.check(&["again"]);
}

/// Every work message is copied by hand while its task runs, and all of them again when the job has ended.
#[test]
fn work_messages_again() {
    let platform = Platform::start(TIMINGS, EPOCHS, &[("one", ALL), ("two", ALL), ("three", ALL)]);
    let bus = platform.bus();
    let mut work = platform.server.block_on(bus.subscribe(&bus.subjects().work_all())).expect("subscribes");
    let publish = |message: &RawMessage| {
        let kind = message.header(HEADER_CONTENT_TYPE).unwrap_or_default().to_owned();
        let headers = [(HEADER_CONTENT_TYPE, kind.as_str())];
        platform
            .server
            .block_on(bus.publish_raw(&message.subject, &headers, message.payload.clone()))
            .expect("is published");
    };
    let job = platform.submit("copied");
    let mut seen: Vec<RawMessage> = Vec::new();
    for role in ["data_loader", "evaluator", "tracker"] {
        // Copies of the test come by, too.
        let message = platform.server.block_on(async {
            let original = work.by_ref().filter(|message| std::future::ready(message.subject.contains(role)));
            tokio::time::timeout(PATIENCE, std::pin::pin!(original).next()).await.expect("in time").expect("work")
        });
        publish(&message);
        publish(&message);
        seen.push(message);
    }
    platform.succeeded(job);
    for message in seen.iter().rev().chain(&seen) {
        publish(message);
    }
    emptied(&platform, &bus);
    let events = platform.server.events(&bus, "copied");
    let of = |name: &str| events.iter().filter(|event| event["data"]["event"] == name).collect::<Vec<_>>();
    for task in ["prepare", "train", "evaluate", "record"] {
        let started = of("task_started").iter().filter(|event| event["data"]["task"] == task).count();
        let done = of("task_done").iter().filter(|event| event["data"]["task"] == task).count();
        assert_eq!((started, done), (1, 1), "{task}: {events:#?}");
    }
    assert!(of("task_retried").is_empty() && of("worker_lost").is_empty(), "{events:#?}");
    assert!(platform.server.dead_letters().is_empty());
    platform.check(&["copied"]);
}

/// The lease of a task's first attempt, and what is said in its name when it has passed on.
struct Stale<'a> {
    platform: &'a Platform,
    bus: &'a Bus,
    job: JobId,
    fence: Fence,
    worker: WorkerId,
}

impl Stale<'_> {
    fn report(&self, fence: Fence, attempt: u32, body: ReportBody) -> ReportAnswer {
        let report =
            Report { job: self.job.clone(), task: task_id("train"), attempt, fence, worker: self.worker.clone(), body };
        self.platform.server.block_on(self.bus.request(report, Some(&self.job), PATIENCE)).expect("an answer")
    }

    fn fenced(&self, fence: Fence, attempt: u32, body: ReportBody) {
        let answer = self.report(fence, attempt, body.clone());
        assert!(matches!(answer, ReportAnswer::Fenced { .. }), "{body:?} with fence {fence}: {answer:?}");
    }

    fn claim(&self, task: &str) -> ClaimAnswer {
        let claim = Claim { job: self.job.clone(), task: task_id(task), attempt: 1, worker: self.worker.clone() };
        self.platform.server.block_on(self.bus.request(claim, Some(&self.job), PATIENCE)).expect("an answer")
    }

    fn join(&self) -> WireError {
        let join = Join {
            job: self.job.clone(),
            task: task_id("train"),
            attempt: 1,
            fence: self.fence,
            generation: 1,
            rank: 0,
            worker: self.worker.clone(),
            host: "test".into(),
            pid: 1,
            address: None,
            left: None,
        };
        let subject = self.bus.subjects().rdzv(&self.job, "join");
        let asked = self.bus.request_to::<Join, Joined>(&subject, join, PATIENCE);
        self.platform.server.block_on(asked).expect_err("refused")
    }
}

#[test]
fn reports_of_a_lower_fence() {
    let mut platform =
        Platform::start(TIMINGS, LONG, &[("rest", "coordinator,data_loader,evaluator,tracker"), ("dies", "trainer")]);
    let bus = platform.bus();
    let mut job = platform.submit("passed_on");
    Moment::Checkpoint(4).reach(&mut job);
    let train = platform.task("passed_on", "train");
    let fence: Fence = serde_json::from_value(train["fence"].clone()).expect("a fence");
    let checkpoint = serde_json::from_value(train["checkpoint"].clone()).expect("a checkpoint");
    let prepared = serde_json::from_value(platform.task("passed_on", "prepare")["output"].clone()).expect("an output");
    drop(platform.take("dies"));
    platform.boot(&[("lives", "trainer")]);
    job.line("another attempt", |line| line["event"] == "task_started" && line["worker"] == "lives");
    job.line("its beginning", |line| line["detail"].as_str().is_some_and(|detail| detail.contains("resumed")));

    let worker = WorkerId::new("dies").expect("a worker id");
    let stale = Stale { platform: &platform, bus: &bus, job: job_id("passed_on"), fence, worker };
    let failed = ReportBody::Failed { error: WireError::new(Code::TrainingError, "from the past") };
    let bodies = [
        ReportBody::Checkpoint { checkpoint },
        ReportBody::Released { reason: "from the past".into() },
        failed.clone(),
        ReportBody::Done { output: prepared },
    ];
    for body in bodies {
        stale.fenced(fence, 1, body.clone());
        // Neither a guess of the new lease counts.
        stale.fenced(fence, 2, body.clone());
        stale.fenced(Fence(u64::MAX), 2, body);
    }
    for task in ["prepare", "train"] {
        assert!(matches!(stale.claim(task), ClaimAnswer::Gone { .. }), "{task}");
    }
    assert_eq!(stale.join().code, Code::Fenced);
    publish_metric(&stale, 424_242.0);
    let ended = platform.succeeded(job);
    assert!(!ended.stdout.contains("from the past"), "{}", ended.stdout);
    // Nor does anything count that is said after the end.
    let stale = Stale { platform: &platform, ..stale };
    stale.fenced(fence, 1, failed);
    platform.check(&["passed_on"]);
    let rows = metrics(&platform, "passed_on");
    assert!(rows.as_array().is_some_and(|rows| rows.len() > 20 && !rows.contains(&Value::from(424_242.0))), "{rows}");
}

/// A metric in the name of the lease that has passed on: stored, as any event, and refused by the tracker.
fn publish_metric(stale: &Stale<'_>, value: f64) {
    let metrics = Metrics::from([("val_loss".to_owned(), MetricValue::Defined(value))]);
    let event = Event::Metric(Metric { task: task_id("train"), epoch: 29, step: 29_000, metrics });
    let publish =
        stale.bus.publish_event(&stale.job, "stale.1", event, Some((stale.fence, 1)), None, now_ms(), Once::ById);
    stale.platform.server.block_on(publish).expect("is stored");
}

/// Values of a run's metrics in the tracker.
fn metrics(platform: &Platform, run: &str) -> Value {
    const READ: &str = "import json, sqlite3, sys\n\
        rows = sqlite3.connect(sys.argv[1]).execute('select value from metrics where run_id = ?', (sys.argv[2],))\n\
        print(json.dumps([row[0] for row in rows]))";
    python_json(READ, &[&platform.sandbox.outside("tracker.db").display().to_string(), run])
}
