//! Streams, consumers and buckets.

use std::time::Duration;

use async_nats::jetstream::stream;
use bus::{Bus, ErrorKind, Limits};
use messages::job::Role;
use messages::subject::{
    BUCKET_LEASE, CONSUMER_NOTIFIER, CONSUMER_SUBMIT, CONSUMER_TRACKER, STREAM_EVT, STREAM_WORK, consumer_work,
};

use crate::server::{LONG, raw, shared};

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
    assert!(events.contains(&CONSUMER_TRACKER) && events.contains(&CONSUMER_NOTIFIER), "{events:?}");
    assert_eq!(summaries[1].max_age, Some(Duration::from_hours(30 * 24)));

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
