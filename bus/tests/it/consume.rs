//! Reading events, logs and submissions.

use std::time::Duration;

use bus::{Bus, ErrorKind, From, Once};
use messages::envelope::Envelope;
use messages::event::{Event, LogLine};
use messages::job::Role;
use messages::rpc::{SpecDocument, Submit};
use messages::subject::{CONSUMER_NOTIFIER, STREAM_DLQ, STREAM_EVT, STREAM_WORK};

use crate::publish::cancelled;
use crate::server::{LONG, count, job, raw, ready, shared, until};

/// Nothing comes for so long.
const QUIET: Duration = Duration::from_millis(200);

async fn sequences(events: &mut bus::Events, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(events.next(LONG).await.expect("reads").expect("in time").sequence);
    }
    seen
}

#[tokio::test]
async fn events_are_read_in_order_from_anywhere() {
    let bus = ready().await;
    let mut stored_at = Vec::new();
    for i in 0..600 {
        let name = if i % 2 == 0 { "even" } else { "odd" };
        cancelled(&bus, name, &format!("e{i}"), Once::ById).await.expect("stored");
    }
    let mut first = bus.events(None, From::First).await.expect("reads");
    assert!(!first.caught_up());
    for i in 0..600 {
        let event = first.next(LONG).await.expect("reads").expect("in time");
        assert_eq!((event.sequence, event.envelope.id.as_str()), (i + 1, format!("e{i}").as_str()));
        assert_eq!(event.envelope.tenant.as_ref(), Some(bus.tenant()));
        assert!(matches!(event.envelope.data, Event::Cancelled { .. }));
        stored_at.push(event.stored_at);
    }
    assert!(first.caught_up());
    assert!(first.next(QUIET).await.expect("reads").is_none());

    let mut odd = bus.events(Some(&job("odd")), From::Sequence(101)).await.expect("reads");
    assert_eq!(sequences(&mut odd, 3).await, [102, 104, 106]);
    let mut timed = bus.events(None, From::Time(stored_at[300])).await.expect("reads");
    let begins = timed.next(LONG).await.expect("reads").expect("in time").sequence;
    let expected = stored_at.iter().position(|at| *at >= stored_at[300]).expect("there") as u64 + 1;
    assert_eq!(begins, expected);
    let mut new = bus.events(None, From::New).await.expect("reads");
    assert!(new.caught_up());
    cancelled(&bus, "later", "e600", Once::ById).await.expect("stored");
    assert_eq!(sequences(&mut new, 1).await, [601]);
}

#[tokio::test]
async fn a_reader_of_streams_that_do_not_exist_is_told() {
    let bus = Bus::connect(shared().await).await.expect("connects");
    let error = bus.events(None, From::First).await.err().expect("no stream");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(bus.jobs().await.err().expect("no bucket").kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_lost_consumer_is_replaced_without_loss_or_repetition() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let mut events = bus.events(None, From::First).await.expect("reads");
    for i in 0..10 {
        cancelled(&bus, "j", &format!("e{i}"), Once::ById).await.expect("stored");
    }
    assert_eq!(sequences(&mut events, 5).await, [1, 2, 3, 4, 5]);
    let stream = raw(&config).await.get_stream(bus.subjects().scoped(STREAM_EVT)).await.expect("stream");
    for consumer in bus_consumers(&stream).await {
        stream.delete_consumer(&consumer).await.expect("deleted");
    }
    for i in 10..400 {
        cancelled(&bus, "j", &format!("e{i}"), Once::ById).await.expect("stored");
    }
    assert_eq!(sequences(&mut events, 395).await, (6..=400).collect::<Vec<u64>>());
    assert!(events.next(QUIET).await.expect("reads").is_none());
}

/// Names of the stream's ephemeral consumers.
async fn bus_consumers(stream: &async_nats::jetstream::stream::Stream) -> Vec<String> {
    use futures::TryStreamExt;
    let infos: Vec<_> = stream.consumers().try_collect().await.expect("lists");
    infos.into_iter().filter(|info| info.config.durable_name.is_none()).map(|info| info.name).collect()
}

#[tokio::test]
async fn a_durable_reader_gets_each_event_until_it_acknowledges_also_after_an_absence() {
    let bus = ready().await;
    {
        let mut absent = bus.durable_events("mine", &["cancelled"]).await.expect("consumer");
        assert!(absent.next(QUIET).await.expect("reads").is_none());
    }
    for i in 0..1_000 {
        cancelled(&bus, "j", &format!("e{i}"), Once::ById).await.expect("stored");
    }
    let log = Event::Waiting { task: crate::server::task("t"), reason: "r".into() };
    bus.publish_event(&job("j"), "w", log, None, None, 0, Once::ById).await.expect("stored");
    let mut events = bus.durable_events("mine", &["cancelled"]).await.expect("consumer");
    for i in 0..1_000 {
        let event = events.next(LONG).await.expect("reads").expect("in time");
        assert_eq!(event.envelope.id, format!("e{i}"));
        event.ack().await.expect("sent");
    }
    assert!(events.next(QUIET).await.expect("reads").is_none(), "another type, or one twice");

    cancelled(&bus, "j", "again", Once::ById).await.expect("stored");
    let event = events.next(LONG).await.expect("reads").expect("in time");
    assert_eq!(event.delivered, 1);
    event.nak(Duration::from_millis(10)).await.expect("sent");
    let event = events.next(LONG).await.expect("reads").expect("in time");
    assert_eq!((event.envelope.id.as_str(), event.delivered), ("again", 2));
    event.term().await.expect("sent");
    assert!(events.next(QUIET).await.expect("reads").is_none());
}

#[tokio::test]
async fn a_stale_buffer_is_given_back_and_nothing_is_lost() {
    let mut config = shared().await;
    config.timings.ack_wait_ms = 600;
    let bus = Bus::connect(config).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    for i in 0..20 {
        cancelled(&bus, "j", &format!("e{i}"), Once::ById).await.expect("stored");
    }
    let mut events = bus.durable_events("mine", &[]).await.expect("consumer");
    let first = events.next(LONG).await.expect("reads").expect("in time");
    // Worked on for longer than the ack wait: what was fetched with it has gone stale.
    let work = tokio::time::Instant::now() + Duration::from_millis(900);
    while tokio::time::Instant::now() < work {
        first.in_progress().await.expect("sent");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first.ack().await.expect("sent");
    // The server may bring one that its own timer took back later than the others: at least once, and
    // in order only as long as nobody is late.
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 19 {
        let event = events.next(LONG).await.expect("reads").expect("in time");
        event.ack().await.expect("sent");
        seen.insert(event.sequence);
    }
    assert_eq!(seen, (2..=20).collect());
}

#[tokio::test]
async fn poison_goes_to_the_dead_letters_and_reading_goes_on() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let mut durable = bus.durable_events(CONSUMER_NOTIFIER, &["completed", "cancelled"]).await.expect("consumer");
    let mut ordered = bus.events(None, From::First).await.expect("reads");
    let subject = bus.subjects().evt(&job("bad"), "completed");
    bus.publish_raw(&subject, &[], "garbage\u{0}".into()).await.expect("sent");
    let nested = "[".repeat(8_000_000 - 10_000);
    bus.publish_raw(&subject, &[("Content-Type", "application/json")], nested.into()).await.expect("sent");
    let mut future = Envelope::new("f", "/test", 0, Event::Cancelled { reason: "r".into() });
    future.withinschema = 9;
    bus.publish(&bus.subjects().evt(&job("bad"), "cancelled"), &future).await.expect("sent");
    cancelled(&bus, "good", "e1", Once::ById).await.expect("stored");
    let event = durable.next(LONG).await.expect("reads").expect("in time");
    assert_eq!(event.envelope.id, "e1");
    event.ack().await.expect("sent");
    assert_eq!(ordered.next(LONG).await.expect("reads").expect("in time").envelope.id, "e1");
    let js = raw(&config).await;
    let kept = count(&js, &bus.subjects().scoped(STREAM_DLQ), &bus.subjects().dlq(Role::Notifier, "bad")).await;
    assert_eq!(kept, 3);
}

#[tokio::test]
async fn a_submission_stays_until_its_outcome_is_stored() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let submit = Submit { spec: SpecDocument::Object(serde_json::Map::new()), set: vec!["a=1".into()] };
    let envelope = Envelope::new("ev-1", "urn:shop", bus::now_ms(), submit);
    assert!(!bus.submit(&envelope).await.expect("stored").duplicate);
    assert!(bus.submit(&envelope).await.expect("stored").duplicate);
    bus.publish_raw(&bus.subjects().job_cancel(), &[], "poison".into()).await.expect("sent");

    let mut submissions = bus.submissions().await.expect("consumer");
    let first = submissions.next(LONG).await.expect("reads").expect("in time");
    assert_eq!((first.verb(), first.delivered), ("submit", 1));
    let read = first.decode::<Submit>().expect("reads");
    assert_eq!((read.id.as_str(), read.source.as_str()), ("ev-1", "urn:shop"));
    first.nak(Duration::ZERO).await.expect("sent");
    let mut left = vec!["submit", "cancel"];
    while !left.is_empty() {
        let submission = submissions.next(LONG).await.expect("reads").expect("in time");
        left.retain(|verb| *verb != submission.verb());
        if submission.verb() == "submit" {
            assert_eq!(submission.delivered, 2);
            submission.ack().await.expect("sent");
        } else {
            let error = submission.decode::<messages::rpc::Cancel>().expect_err("poison");
            let (subject, payload) = (&submission.subject, &submission.payload);
            bus.dead_letter(Role::Coordinator, "none", &error.to_string(), subject, payload).await.expect("kept");
            submission.term().await.expect("sent");
        }
    }
    let js = raw(&config).await;
    until("an empty queue", || async {
        (count(&js, &bus.subjects().scoped(STREAM_WORK), &bus.subjects().job_all()).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn logs_are_read_in_order() {
    let bus = ready().await;
    let line =
        |text: &str| LogLine { timestamp: "t".into(), level: "INFO".into(), module: "m".into(), message: text.into() };
    for i in 0..50 {
        bus.publish_log(&job("j"), "rank0", line(&i.to_string())).await.expect("sent");
    }
    bus.publish_log(&job("other"), "rank0", line("not mine")).await.expect("sent");
    bus.publish_log(&job("j"), "rank1", line("last")).await.expect("sent");
    let mut logs = bus.logs(&job("j"), From::First).await.expect("reads");
    for i in 0..50 {
        let stored = logs.next(LONG).await.expect("reads").expect("in time");
        assert_eq!((stored.source.as_str(), stored.envelope.data.message.as_str()), ("rank0", i.to_string().as_str()));
    }
    let last = logs.next(LONG).await.expect("reads").expect("in time");
    assert_eq!((last.source.as_str(), last.envelope.data.message.as_str()), ("rank1", "last"));
    assert!(logs.caught_up());
}
