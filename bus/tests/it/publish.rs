//! Publishing into streams: stored once, refused when full, kept when poison.

use std::time::{Duration, Instant};

use bus::{Bus, ErrorKind, Limits, Once, Stored};
use messages::artifact::ArtifactRef;
use messages::envelope::Envelope;
use messages::event::Event;
use messages::job::Role;
use messages::rpc::{SpecDocument, Submit};
use messages::subject::{HEADER_DLQ_BYTES, HEADER_DLQ_REASON, HEADER_DLQ_SUBJECT, STREAM_DLQ, STREAM_EVT, STREAM_WORK};
use messages::work::{Work, WorkInput};

use crate::server::{count, job, raw, ready, shared, task, until};

pub async fn cancelled(bus: &Bus, name: &str, id: &str, once: Once) -> Result<Stored, bus::Error> {
    let event = Event::Cancelled { reason: "asked".into() };
    bus.publish_event(&job(name), id, event, None, None, bus::now_ms(), once).await
}

pub fn work(name: &str, attempt: u32) -> Work {
    Work {
        job: job(name),
        task: task("prepare"),
        attempt,
        name: "n".into(),
        plan: ArtifactRef { uri: "file:///p".into(), blake3: "0".repeat(64), size_bytes: 1 },
        deadline_at: bus::now_ms() + 600_000,
        input: WorkInput::Prepare,
    }
}

#[tokio::test]
async fn the_same_id_is_stored_once() {
    let bus = ready().await;
    let first = cancelled(&bus, "j1", "e1", Once::ById).await.expect("stored");
    let again = cancelled(&bus, "j1", "e1", Once::ById).await.expect("stored");
    assert!(!first.duplicate && again.duplicate);
    assert_eq!(first.sequence, again.sequence);
    let queued = bus.publish_work(Role::DataLoader, &work("j1", 1), None).await.expect("stored");
    let again = bus.publish_work(Role::DataLoader, &work("j1", 1), None).await.expect("stored");
    assert!(!queued.duplicate && again.duplicate);
    let next = bus.publish_work(Role::DataLoader, &work("j1", 2), None).await.expect("stored");
    assert!(!next.duplicate, "another attempt is another message");
}

#[tokio::test]
async fn a_terminal_event_is_stored_once_also_after_the_window() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    let limits = Limits { duplicate_window: Duration::from_millis(100), ..Limits::default() };
    bus.ensure_topology_with(&limits).await.expect("topology");
    let first = cancelled(&bus, "j1", "e1", Once::OnSubject).await.expect("stored");
    assert!(!first.duplicate && first.sequence.is_some());
    // The window alone stores a repeated id twice: that is how we see that it has passed.
    cancelled(&bus, "other", "e2", Once::ById).await.expect("stored");
    until("the window to pass", || async {
        let again = cancelled(&bus, "other", "e2", Once::ById).await.expect("stored");
        (!again.duplicate).then_some(())
    })
    .await;
    let again = cancelled(&bus, "j1", "e1", Once::OnSubject).await.expect("stored");
    assert!(again.duplicate);
    let js = raw(&config).await;
    let stream = bus.subjects().scoped(STREAM_EVT);
    assert_eq!(count(&js, &stream, &bus.subjects().evt(&job("j1"), "cancelled")).await, 1);
    assert_eq!(count(&js, &stream, &bus.subjects().evt(&job("other"), "cancelled")).await, 2);
}

#[tokio::test]
async fn a_full_stream_says_try_later() {
    let bus = Bus::connect(shared().await).await.expect("connects");
    let limits = Limits { work_messages: 3, ..Limits::default() };
    bus.ensure_topology_with(&limits).await.expect("topology");
    for i in 0..3 {
        bus.publish_work(Role::DataLoader, &work(&format!("j{i}"), 1), None).await.expect("fits");
    }
    let error = bus.publish_work(Role::DataLoader, &work("j9", 1), None).await.expect_err("full");
    assert_eq!(error.kind(), ErrorKind::Full);
    let wire = error.to_wire();
    assert!(wire.retry && wire.code.as_str() == "overloaded", "{wire:?}");
    assert!(wire.message.contains("try later") && wire.message.contains(STREAM_WORK), "{wire:?}");
    let submit = Submit { spec: SpecDocument::Object(serde_json::Map::new()), set: vec![] };
    let error = bus.submit(&Envelope::new("e1", "/test", 0, submit)).await.expect_err("full");
    assert_eq!(error.kind(), ErrorKind::Full);
}

#[tokio::test]
async fn without_streams_a_publish_says_who_makes_them() {
    let bus = Bus::connect(shared().await).await.expect("connects");
    let begun = Instant::now();
    let error = cancelled(&bus, "j1", "e1", Once::ById).await.expect_err("no stream");
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("coordinator"), "{error}");
    assert!(error.to_wire().retry);
    let limit = Duration::from_millis(bus.timings().request_timeout_ms);
    assert!(begun.elapsed() < limit, "the server says so at once: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_dead_letter_keeps_reason_subject_and_bytes() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let original = b"\xff\x00garbage";
    for _ in 0..2 {
        bus.dead_letter(Role::Tracker, "not a token!", "bad\r\nbytes", "some.subject", original).await.expect("kept");
    }
    let js = raw(&config).await;
    let stream = js.get_stream(bus.subjects().scoped(STREAM_DLQ)).await.expect("stream");
    let subject = bus.subjects().dlq(Role::Tracker, "unknown");
    let message = stream.get_last_raw_message_by_subject(&subject).await.expect("kept");
    assert_eq!(message.payload.as_ref(), original);
    let header = |name: &str| message.headers.get(name).map(async_nats::HeaderValue::as_str);
    assert_eq!(header(HEADER_DLQ_REASON), Some("bad  bytes"));
    assert_eq!(header(HEADER_DLQ_SUBJECT), Some("some.subject"));
    assert_eq!(header(HEADER_DLQ_BYTES), Some("9"));
    assert_eq!(stream.get_info().await.expect("info").state.messages, 1, "a redelivered poison is kept once");
    let huge = vec![1u8; 8 * 1024 * 1024];
    bus.dead_letter(Role::Tracker, "huge", "too deep", "some.subject", &huge).await.expect("cut and kept");
    let subject = bus.subjects().dlq(Role::Tracker, "huge");
    let message = stream.get_last_raw_message_by_subject(&subject).await.expect("kept");
    assert_eq!(message.payload.len(), bus.max_frame_bytes());
}
