//! The notifier on a real nats-server, posting to a real HTTP listener.

mod stage;

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use bus::artifact::ArtifactStore;
use bus::{Bus, Once};
use messages::event::{Completed, Event, MetricSummary, MetricValue, Metrics};
use messages::job::{JobRecord, JobState};
use messages::subject::{CONSUMER_NOTIFIER, STREAM_DLQ, STREAM_EVT};
use messages::trace::{TraceContext, TraceParent};
use messages::{ArtifactRef, JobId};
use serde_json::{Value, json};
use stage::{LONG, Stage, coordinate, until, watch};
use tokio::net::TcpListener;
use within_notifier::{Config, start};

/// What a post was: path, headers, body.
type Post = (String, HeaderMap, Value);

/// Answers `/ok` with 200, `/gone` with 410, `/flaky` with 503 at first and 200 from the third post on.
#[derive(Clone, Default)]
struct Receiver {
    posts: Arc<Mutex<Vec<Post>>>,
}

impl Receiver {
    async fn start() -> (String, Self) {
        let receiver = Self::default();
        let router = Router::new().fallback(take).with_state(receiver.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let at = format!("http://{}", listener.local_addr().expect("address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (at, receiver)
    }

    fn to(&self, path: &str) -> Vec<Post> {
        self.posts.lock().expect("lock").iter().filter(|post| post.0 == path).cloned().collect()
    }
}

async fn take(State(receiver): State<Receiver>, uri: Uri, headers: HeaderMap, body: Bytes) -> StatusCode {
    let body = serde_json::from_slice(&body).expect("JSON");
    let mut posts = receiver.posts.lock().expect("lock");
    posts.push((uri.path().to_owned(), headers, body));
    match uri.path() {
        "/gone" => StatusCode::GONE,
        "/flaky" if posts.iter().filter(|post| post.0 == "/flaky").count() < 3 => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    }
}

async fn plan(artifacts: &ArtifactStore, webhooks: &[(String, &str)]) -> ArtifactRef {
    let mut plan: Value = serde_json::from_str(include_str!("../plan.json")).expect("a plan");
    let webhook = |(url, event): &(String, &str)| json!({ "url": url, "events": [event] });
    plan["notifications"]["webhooks"] = webhooks.iter().map(webhook).collect();
    artifacts.put_bytes("plans", "plan.json", plan.to_string().into()).await.expect("stored")
}

fn record(job: &JobId, plan: &ArtifactRef) -> JobRecord {
    serde_json::from_value(json!({
        "schema": messages::SCHEMA_VERSION, "job": job, "source": "/shop", "event_id": "order-1",
        "content_blake3": "", "name": "ads", "spec": plan, "plan": plan, "state": JobState::Succeeded,
        "submitted_at": 500, "since": 500, "deadline_at": 9_000_000, "max_attempts": 3, "world_size": 1,
        "outbox": [], "tasks": [],
    }))
    .expect("a job record")
}

fn completed() -> Event {
    let test = Metrics::from([("rmse".to_owned(), MetricValue::of(0.5))]);
    Event::Completed(Completed {
        name: "ads".into(),
        run: "j1".into(),
        duration_s: 1.0,
        metrics: MetricSummary { test, ..MetricSummary::default() },
        model: None,
        report: None,
        data_reports: std::collections::BTreeMap::new(),
    })
}

async fn publish(bus: &Bus, job: &JobId, event: Event) -> TraceParent {
    let trace = TraceContext::of_job(job.as_str()).to_parent();
    let id = format!("evt.{job}.{}.1", event.name());
    bus.publish_event(job, &id, event, None, Some(trace.clone()), bus::now_ms(), Once::OnSubject)
        .await
        .expect("publishes");
    trace
}

/// Waits until every event is acknowledged.
async fn settled(bus: &Bus) {
    until("acknowledgements", || async {
        let streams = bus.topology().await.ok()?;
        let events = streams.into_iter().find(|stream| stream.name == STREAM_EVT)?;
        let consumer = events.consumers.into_iter().find(|consumer| consumer.name == CONSUMER_NOTIFIER)?;
        (consumer.pending == 0 && consumer.ack_pending == 0).then_some(())
    })
    .await;
}

async fn dead_letters(bus: &Bus) -> u64 {
    let streams = bus.topology().await.expect("topology");
    streams.into_iter().find(|stream| stream.name == STREAM_DLQ).expect("dead letters").messages
}

fn config() -> Config {
    Config { first_pause_ms: 10, attempts: 4, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_webhook_gets_its_notice_once() {
    let stage = Stage::start().await;
    let bus = stage.bus().await;
    let env = stage.env(&bus, "w1");
    let (at, receiver) = Receiver::start().await;
    let job = JobId::new("j1").expect("id");
    let webhooks = [
        (format!("{at}/ok?token=s3cret"), "completed"),
        (format!("{at}/flaky"), "completed"),
        (format!("{at}/other"), "failed"),
    ];
    let plan = plan(&env.artifacts, &webhooks).await;
    let _reports = coordinate(&bus, record(&job, &plan)).await;
    // Before any notifier runs: the durable consumer keeps it.
    let trace = publish(&bus, &job, completed()).await;
    let (supervisor, mut ends) = watch().await;
    start(env.clone(), config(), supervisor).await.expect("starts");
    settled(&bus).await;

    let posts = receiver.to("/ok");
    assert_eq!(posts.len(), 1);
    let (_, headers, body) = &posts[0];
    assert_eq!(headers["content-type"], "application/cloudevents+json");
    assert_eq!(headers["idempotency-key"], "evt.j1.completed.1");
    assert_eq!(headers["traceparent"], trace.0.as_str());
    assert_eq!(body["type"], "within.job.completed");
    assert_eq!(body["data"]["metrics"]["test"]["rmse"], 0.5);
    assert_eq!(body["data"]["notification"]["type"], "experiment_completed");
    assert_eq!(body["data"]["notification"]["experiment_name"], "ads");
    let flaky = receiver.to("/flaky");
    assert_eq!(flaky.len(), 3);
    assert!(
        flaky
            .iter()
            .all(|(_, headers, body)| headers["idempotency-key"] == "evt.j1.completed.1" && *body == flaky[0].2)
    );
    assert!(receiver.to("/other").is_empty());
    assert_eq!(dead_letters(&bus).await, 0);
    env.drain.cancel();
    assert_eq!(tokio::time::timeout(LONG, ends.recv()).await.expect("in time"), Some(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_delivered_goes_to_the_dead_letters() {
    let stage = Stage::start().await;
    let bus = stage.bus().await;
    let env = stage.env(&bus, "w1");
    let (at, receiver) = Receiver::start().await;
    let job = JobId::new("j1").expect("id");
    let webhooks = [
        (format!("{at}/gone"), "cancelled"),
        ("http://192.0.2.1/forbidden".to_owned(), "cancelled"),
        (format!("{at}/ok"), "cancelled"),
    ];
    let plan = plan(&env.artifacts, &webhooks).await;
    let _reports = coordinate(&bus, record(&job, &plan)).await;
    let (supervisor, mut ends) = watch().await;
    start(env.clone(), config(), supervisor).await.expect("starts");
    publish(&bus, &job, Event::Cancelled { reason: "asked".into() }).await;
    until("the notice", || async { (!receiver.to("/ok").is_empty()).then_some(()) }).await;
    settled(&bus).await;
    assert_eq!((receiver.to("/gone").len(), receiver.to("/ok").len()), (1, 1));
    assert_eq!(dead_letters(&bus).await, 2);
    env.drain.cancel();
    assert_eq!(tokio::time::timeout(LONG, ends.recv()).await.expect("in time"), Some(None));
}
