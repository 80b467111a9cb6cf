//! A durable subscriber downstream: away during a thousand completions, it gets each once, in order, and
//! can read them again from a time on.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use bus::{Bus, From, Limits, Once, Stored};
use futures::{StreamExt, TryStreamExt, stream};
use messages::artifact::ArtifactRef;
use messages::event::{Completed, Event, MetricSummary, ModelRef};
use messages::subject::{HEADER_MSG_ID, STREAM_EVT, event_msg_id};

use crate::publish::cancelled;
use crate::server::{LONG, job, raw, shared, until};

const COMPLETIONS: usize = 1_000;
/// Publications under way at once.
const WINDOW: usize = 64;
/// How long nothing more must come.
const QUIET: Duration = Duration::from_millis(300);

fn name(i: usize) -> String {
    format!("job-{i:04}")
}

/// The event as the coordinator's outbox publishes it.
async fn complete(bus: &Bus, i: usize) -> Stored {
    let job = job(&name(i));
    let file = ArtifactRef { uri: format!("file:///models/{i}"), blake3: "0".repeat(64), size_bytes: 1 };
    let event = Event::Completed(Completed {
        name: format!("number {i}"),
        run: job.to_string(),
        duration_s: 1.5,
        metrics: MetricSummary::default(),
        model: Some(ModelRef {
            uri: file.uri.clone(),
            file_blake3: file.blake3.clone(),
            blake3: "1".repeat(64),
            size_bytes: 1,
        }),
        report: Some(file),
        data_reports: std::collections::BTreeMap::new(),
    });
    let id = event_msg_id(&job, event.name(), 0);
    bus.publish_event(&job, &id, event, None, None, bus::now_ms(), Once::OnSubject).await.expect("stored")
}

fn of(event: &bus::StoredEvent) -> String {
    assert!(matches!(event.envelope.data, Event::Completed(_)), "{event:?}");
    event.envelope.jobid.as_ref().expect("a job").to_string()
}

async fn all_of(events: &mut bus::DurableEvents, count: usize) -> Vec<(u64, String)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let event = events.next(LONG).await.expect("reads").expect("in time");
        event.ack().await.expect("sent");
        assert_eq!(event.delivered, 1);
        seen.push((event.sequence, of(&event)));
    }
    assert!(events.next(QUIET).await.expect("reads").is_none(), "nothing comes twice");
    seen
}

#[tokio::test]
async fn a_subscriber_that_was_away_gets_each_completion_once_in_order_and_again_by_time() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    let limits = Limits { duplicate_window: Duration::from_millis(100), ..Limits::default() };
    bus.ensure_topology_with(&limits).await.expect("topology");
    drop(bus.durable_events("downstream", &["completed"]).await.expect("a consumer"));

    // While it is away: every completion, with others in between, and half of them again, by an outbox that
    // was not ticked off.
    stream::iter(0..COMPLETIONS / 2)
        .for_each_concurrent(WINDOW, async |i| {
            complete(&bus, i).await;
        })
        .await;
    // The window alone stores a repeated id twice: that is how we see that it has passed.
    cancelled(&bus, "window", "w", Once::ById).await.expect("stored");
    let half = until("the window to pass", || async {
        let again = cancelled(&bus, "window", "w", Once::ById).await.expect("stored");
        (!again.duplicate).then(bus::now_ms)
    })
    .await;
    let again = stream::iter(0..COMPLETIONS / 2).map(|i| complete(&bus, i)).buffered(WINDOW);
    assert!(again.all(|stored| std::future::ready(stored.duplicate)).await, "stored once, also after the window");
    stream::iter(COMPLETIONS / 2..COMPLETIONS)
        .for_each_concurrent(WINDOW, async |i| {
            complete(&bus, i).await;
        })
        .await;

    let mut back = bus.durable_events("downstream", &["completed"]).await.expect("a consumer");
    let seen = all_of(&mut back, COMPLETIONS).await;
    assert!(seen.is_sorted_by_key(|(sequence, _)| *sequence), "in the order of storing");
    let jobs: BTreeSet<&str> = seen.iter().map(|(_, job)| job.as_str()).collect();
    let expected: Vec<String> = (0..COMPLETIONS).map(name).collect();
    assert!(jobs.into_iter().eq(expected.iter().map(String::as_str)), "each completion once");

    // Absent again, for one.
    drop(back);
    complete(&bus, COMPLETIONS).await;
    let mut back = bus.durable_events("downstream", &["completed"]).await.expect("a consumer");
    assert_eq!(all_of(&mut back, 1).await[0].1, name(COMPLETIONS));
    by_time(&config, &bus, half, &seen).await;
}

/// Reads again what was stored since a time: as an ordered reader of ours, and as a plain client does.
async fn by_time(config: &bus::BusConfig, bus: &Bus, since: messages::UnixMs, seen: &[(u64, String)]) {
    let mut events = bus.events(None, From::Time(since)).await.expect("reads");
    let mut replayed = Vec::new();
    while replayed.is_empty() || !events.caught_up() {
        let event = events.next(LONG).await.expect("reads").expect("in time");
        assert!(event.stored_at >= since, "{event:?} is older");
        if matches!(event.envelope.data, Event::Completed(_)) {
            replayed.push((event.sequence, of(&event)));
        }
    }
    assert_eq!(replayed.pop().expect("events").1, name(COMPLETIONS));
    assert!(
        replayed == seen[COMPLETIONS / 2..],
        "not the later half in the same order, but from {:?}",
        replayed.first()
    );

    let js = raw(config).await;
    let stream = js.get_stream(bus.subjects().scoped(STREAM_EVT)).await.expect("stream");
    let start_time = std::time::UNIX_EPOCH + Duration::from_millis(since);
    let consumer = pull::Config {
        filter_subject: bus.subjects().evt_type("completed"),
        deliver_policy: async_nats::jetstream::consumer::DeliverPolicy::ByStartTime { start_time: start_time.into() },
        ..pull::Config::default()
    };
    let consumer = stream.create_consumer(consumer).await.expect("a consumer");
    let messages = consumer.fetch().max_messages(2 * COMPLETIONS).messages().await.expect("fetches");
    let ids: Vec<String> = messages
        .map_ok(|message| {
            let headers = message.headers.as_ref().expect("headers");
            headers.get(HEADER_MSG_ID).expect("an id").to_string()
        })
        .try_collect()
        .await
        .expect("reads");
    let expected = seen[COMPLETIONS / 2..].iter().map(|(_, job)| job.clone()).chain([name(COMPLETIONS)]);
    assert!(ids.into_iter().eq(expected.map(|name| event_msg_id(&job(&name), "completed", 0))));
}
