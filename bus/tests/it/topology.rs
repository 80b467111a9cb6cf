//! Streams, consumers and buckets.

use std::time::Duration;

use async_nats::jetstream::stream;
use bus::{Bus, ErrorKind, From, Limits, Once};
use messages::job::Role;
use messages::subject::{BUCKET_LEASE, CONSUMER_NOTIFIER, CONSUMER_SUBMIT, STREAM_EVT, STREAM_WORK, consumer_work};

use serde_json::Value;

use crate::publish::cancelled;
use crate::server::{LONG, raw, ready, shared, until};

#[tokio::test]
async fn it_is_created_once_and_found_by_others() {
    let config = shared().await;
    let coordinator = Bus::connect(config.clone()).await.expect("connects");
    let worker = Bus::connect(config.clone()).await.expect("connects");
    let error = worker.bind(Duration::from_millis(200)).await.expect_err("nothing there");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("start a coordinator"), "{error}");
    assert!(worker.topology().await.expect("lists").is_empty());
    let waiting = tokio::spawn(async move { worker.bind(LONG).await.map(|()| worker) });
    for _ in 0..2 {
        coordinator.ensure_topology().await.expect("topology");
    }
    let worker = waiting.await.expect("runs").expect("bound");
    let summaries = worker.topology().await.expect("lists");
    assert_eq!(summaries.len(), 7);
    let work = &summaries[0];
    assert_eq!(work.name, worker.subjects().scoped(STREAM_WORK));
    assert_eq!((work.storage.as_str(), work.max_messages), ("file", Some(200_000)));
    let mut consumers: Vec<_> = work.consumers.iter().map(|c| c.name.clone()).collect();
    consumers.sort();
    let mut expected: Vec<_> = Role::QUEUE.into_iter().map(consumer_work).chain([CONSUMER_SUBMIT.to_owned()]).collect();
    expected.sort();
    assert_eq!(consumers, expected);
    let events: Vec<_> = summaries[1].consumers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(events, [CONSUMER_NOTIFIER]);
    assert_eq!(summaries[1].max_age, None, "age alone discards no event: the tracker may not have it");

    let js = raw(&config).await;
    let stream = js.get_stream(&work.name).await.expect("stream");
    let info = stream.get_info().await.expect("info");
    assert_eq!(info.config.retention, stream::RetentionPolicy::WorkQueue);
    assert_eq!(info.config.discard, stream::DiscardPolicy::New);
    assert_eq!(info.config.duplicate_window, Duration::from_mins(10));
    let consumer = stream.consumer_info(consumer_work(Role::DataLoader)).await.expect("consumer");
    assert_eq!(consumer.config.ack_wait, Duration::from_millis(config.timings.ack_wait_ms));
    assert_eq!(consumer.config.max_deliver, -1);
    assert!(consumer.config.backoff.is_empty());
    let lease = js.get_stream(format!("KV_{}", worker.subjects().scoped(BUCKET_LEASE))).await.expect("bucket");
    assert!(lease.get_info().await.expect("info").config.allow_message_ttl);
}

#[tokio::test]
async fn other_limits_and_timings_are_taken_over() {
    let mut config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    config.timings.ack_wait_ms = 1_000;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology_with(&Limits { work_messages: 9, ..Limits::default() }).await.expect("topology");
    let summaries = bus.topology().await.expect("lists");
    assert_eq!(summaries[0].max_messages, Some(9));
    let js = raw(&config).await;
    let stream = js.get_stream(&summaries[0].name).await.expect("stream");
    let consumer = stream.consumer_info(CONSUMER_SUBMIT).await.expect("consumer");
    assert_eq!(consumer.config.ack_wait, Duration::from_secs(1));
}

#[tokio::test]
async fn a_stream_of_another_kind_is_named_with_what_differs() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    let js = raw(&config).await;
    js.create_stream(stream::Config {
        name: bus.subjects().scoped(STREAM_EVT),
        subjects: vec![bus.subjects().evt_all()],
        storage: stream::StorageType::Memory,
        ..stream::Config::default()
    })
    .await
    .expect("created");
    let error = bus.ensure_topology().await.expect_err("memory cannot become file");
    let text = error.to_string();
    assert!(text.contains(&bus.subjects().scoped(STREAM_EVT)), "{text}");
    assert!(text.contains("storage"), "{text}");
}

/// What an earlier version created and nobody pulled is gone with the next coordinator.
#[tokio::test]
async fn a_consumer_that_nobody_needs_is_removed() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let js = raw(&config).await;
    let stream = js.get_stream(bus.subjects().scoped(STREAM_EVT)).await.expect("stream");
    let retired = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("tracker_projection".into()),
        ..Default::default()
    };
    stream.create_consumer(retired).await.expect("created");
    bus.ensure_topology().await.expect("topology");
    let consumers: Vec<_> = bus.topology().await.expect("lists")[1].consumers.iter().map(|c| c.name.clone()).collect();
    assert_eq!(consumers, [CONSUMER_NOTIFIER]);
}

/// `x-streams` and `x-buckets` of the AsyncAPI document are what a server really has.
#[tokio::test]
async fn the_document_says_what_the_server_has() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let js = raw(&config).await;
    let files = messages::schema::files();
    let (_, text) = files.iter().find(|(name, _)| name == "asyncapi.json").expect("a document");
    let document: Value = serde_json::from_str(text).expect("JSON");
    let tenant = config.tenant.to_string();
    let subjects = |list: &Value| -> Vec<String> {
        let one = |subject: &Value| subject.as_str().expect("a subject").replace("{tenant}", &tenant);
        let mut all: Vec<String> = list.as_array().expect("subjects").iter().map(one).collect();
        all.sort();
        all
    };
    let streams = document["x-streams"].as_object().expect("streams");
    for (name, told) in streams {
        let mut stream = js.get_stream(bus.subjects().scoped(name)).await.expect("stream");
        let config = serde_json::to_value(&stream.info().await.expect("info").config).expect("serializes");
        assert_eq!((&told["retention"], &told["discard"]), (&config["retention"], &config["discard"]), "{name}");
        assert_eq!(subjects(&told["subjects"]), subjects(&config["subjects"]), "{name}");
        let told: Vec<_> = told["consumers"].as_object().expect("consumers").iter().collect();
        let durable = bus.topology().await.expect("lists");
        let durable = durable.iter().find(|summary| summary.name == bus.subjects().scoped(name)).expect("listed");
        assert_eq!(told.len(), durable.consumers.len(), "{name}: {:?}", durable.consumers);
        for (consumer, filters) in told {
            let config = stream.consumer_info(consumer).await.expect("consumer").config;
            let mut found = config.filter_subjects;
            found.extend(Some(config.filter_subject).filter(|filter| !filter.is_empty()));
            found.sort();
            assert_eq!(subjects(filters), found, "{name} {consumer}");
        }
    }
    let buckets = document["x-buckets"].as_object().expect("buckets");
    for bucket in buckets.keys() {
        js.get_key_value(bus.subjects().scoped(bucket)).await.expect("bucket");
    }
    assert_eq!(streams.len() + buckets.len(), bus.topology().await.expect("lists").len(), "nothing is untold");
}

#[tokio::test]
async fn old_events_go_and_what_is_not_projected_stays() {
    let bus = ready().await;
    for i in 0..10 {
        cancelled(&bus, "j", &format!("e{i}"), Once::ById).await.expect("stored");
    }
    let all = after_last(&bus).await;
    assert_eq!(bus.discard_events(0, 10).await.expect("asks"), 0, "nothing is that old");
    assert_eq!(bus.discard_events(all, 0).await.expect("asks"), 0, "nothing is projected");
    assert_eq!(bus.discard_events(all, 4).await.expect("asks"), 4);
    let mut events = bus.events(None, From::First).await.expect("reads");
    let first = events.next(LONG).await.expect("reads").expect("in time");
    assert_eq!((first.sequence, first.envelope.id.as_str()), (5, "e4"));
    assert_eq!(bus.discard_events(first.stored_at, 10).await.expect("asks"), 0, "not older than the first one kept");
    assert_eq!(bus.discard_events(all, 1_000).await.expect("asks"), 6, "no more than there are");
    assert_eq!(bus.topology().await.expect("lists")[1].messages, 0);
}

/// A time that is later than that of every event so far, by the server's clock.
async fn after_last(bus: &Bus) -> messages::UnixMs {
    let mut events = bus.events(None, From::First).await.expect("reads");
    let mut last = 0;
    while last == 0 || !events.caught_up() {
        last = events.next(LONG).await.expect("reads").expect("in time").stored_at;
    }
    until("a later millisecond", || async { (bus::now_ms() > last).then_some(last + 1) }).await
}

#[tokio::test]
async fn new_jobs_are_refused_before_the_event_stream_is_full() {
    let bus = Bus::connect(shared().await).await.expect("connects");
    bus.ensure_topology_with(&Limits { event_messages: 10, ..Limits::default() }).await.expect("topology");
    for i in 0..9 {
        assert!(i > 0 || bus.has_room().await.is_ok());
        cancelled(&bus, "j", &format!("e{i}"), Once::ById).await.expect("stored");
    }
    let refusal = until("the refusal", || async { bus.has_room().await.err() }).await;
    assert_eq!(refusal.kind(), ErrorKind::Full);
    let wire = refusal.to_wire();
    assert!(wire.message.contains("9 of 10 messages") && wire.retry && wire.hint.is_some(), "{wire:?}");
    cancelled(&bus, "j", "e9", Once::ById).await.expect("what runs can still tell its end");
    assert_eq!(cancelled(&bus, "j", "e10", Once::ById).await.expect_err("full").kind(), ErrorKind::Full);
    bus.discard_events(after_last(&bus).await, 10).await.expect("discards");
    until("room", || async { bus.has_room().await.ok() }).await;
}
