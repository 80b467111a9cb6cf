//! Requests and answers.

use std::time::{Duration, Instant};

use bus::{Bus, Incoming};
use futures::StreamExt;
use messages::WireError;
use messages::envelope::{CONTENT_JSON, Encoding, Envelope, decode_any};
use messages::error::Code;
use messages::job::Role;
use messages::rpc::{JobList, ListJobs, Reply, Request};

use crate::server::{LONG, job, raw, ready, shared};

async fn list_requests(bus: &Bus, queue: Option<&str>) -> bus::Requests {
    bus.serve(&bus.subjects().svc(ListJobs::ROLE, ListJobs::VERB), queue).await.expect("serves")
}

async fn next(requests: &mut bus::Requests) -> Incoming {
    tokio::time::timeout(LONG, requests.next()).await.expect("in time").expect("open")
}

#[tokio::test]
async fn a_request_is_repeated_with_the_same_id_until_a_leader_answers() {
    let config = shared().await;
    let leader = Bus::connect(config.clone()).await.expect("connects");
    let client = Bus::connect(config).await.expect("connects");
    let mut requests = list_requests(&leader, None).await;
    let asked = tokio::spawn(async move { client.request(ListJobs { limit: 7 }, Some(&job("j1")), LONG).await });
    let first = next(&mut requests).await;
    assert_eq!(first.verb(), "list");
    let (id, job_id) = first.decode::<ListJobs>().map(|e| (e.id, e.jobid)).expect("reads");
    assert_eq!(job_id, Some(job("j1")));
    first.reply::<JobList>(Err(WireError::new(Code::NotLeader, "not me"))).await;
    let second = next(&mut requests).await;
    let envelope = second.decode::<ListJobs>().expect("reads");
    assert_eq!((envelope.id, envelope.data.limit), (id, 7));
    second.reply(Ok(JobList { jobs: vec![] })).await;
    assert_eq!(asked.await.expect("runs"), Ok(JobList { jobs: vec![] }));
}

#[tokio::test]
async fn an_error_of_the_service_is_the_answer() {
    let config = shared().await;
    let bus = Bus::connect(config).await.expect("connects");
    let mut requests = list_requests(&bus, None).await;
    let served = tokio::spawn(async move {
        let request = next(&mut requests).await;
        request.reply::<JobList>(Err(WireError::new(Code::JobNotFound, "none").with_hint("look"))).await;
    });
    let error = bus.request(ListJobs { limit: 1 }, None, LONG).await.expect_err("refused");
    assert_eq!((error.code, error.hint.as_deref()), (Code::JobNotFound, Some("look")));
    served.await.expect("served");
}

#[tokio::test]
async fn nobody_and_silence_are_told_in_bounded_time() {
    let mut config = shared().await;
    config.timings.request_timeout_ms = 300;
    let bus = Bus::connect(config).await.expect("connects");
    let begun = Instant::now();
    let error = bus.request(ListJobs { limit: 1 }, None, Duration::from_millis(500)).await.expect_err("nobody");
    assert_eq!(error.code, Code::BusUnavailable);
    assert!(error.message.contains("nobody answers"), "{error}");
    let _silent = list_requests(&bus, None).await;
    let error = bus.request(ListJobs { limit: 1 }, None, Duration::from_millis(500)).await.expect_err("silence");
    assert_eq!(error.code, Code::DeadlineExceeded);
    assert!(error.retry && error.message.contains("no answer"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_json_client_is_answered_in_json() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    let mut requests = list_requests(&bus, Some("coordinators")).await;
    let served = tokio::spawn(async move {
        let good = next(&mut requests).await;
        assert_eq!(good.decode::<ListJobs>().expect("reads").data.limit, 3);
        good.reply(Ok(JobList { jobs: vec![] })).await;
        let bad = next(&mut requests).await;
        let error = bad.decode::<ListJobs>().expect_err("garbage");
        bad.reply::<JobList>(Err(error)).await;
    });
    let client = raw(&config).await.client();
    let subject = bus.subjects().svc(Role::Coordinator, "list");
    let body = Envelope::new("q1", "urn:py", 0, ListJobs { limit: 3 }).encode(Encoding::Json);
    let answer = client.request(subject.clone(), body.into()).await.expect("answered");
    let content_type = answer.headers.as_ref().and_then(|h| h.get("Content-Type")).map(|v| v.as_str().to_owned());
    assert_eq!(content_type.as_deref(), Some(CONTENT_JSON));
    let text: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
    assert_eq!(text["data"]["ok"]["jobs"], serde_json::json!([]));
    let answer = client.request(subject, "{\"a\":".into()).await.expect("answered");
    let reply: Envelope<Reply<JobList>> = decode_any(Some(CONTENT_JSON), &answer.payload).expect("JSON");
    assert_eq!(reply.data.into_result().expect_err("refused").code, Code::BadMessage);
    served.await.expect("served");
}

#[tokio::test]
async fn members_of_a_queue_share_the_requests() {
    let config = shared().await;
    let bus = Bus::connect(config).await.expect("connects");
    let (answered, mut counts) = tokio::sync::mpsc::unbounded_channel();
    for member in 0..2 {
        let mut requests = list_requests(&bus, Some("q")).await;
        let answered = answered.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.next().await {
                answered.send(member).expect("open");
                request.reply(Ok(JobList { jobs: vec![] })).await;
            }
        });
    }
    for _ in 0..40 {
        bus.request(ListJobs { limit: 1 }, None, LONG).await.expect("answered");
    }
    let mut seen = [0u32; 2];
    while let Ok(member) = counts.try_recv() {
        seen[member] += 1;
    }
    assert_eq!(seen[0] + seen[1], 40, "each request is answered by one member");
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_an_error_and_not_a_silence() {
    let bus = Bus::connect(shared().await).await.expect("connects");
    let mut requests = list_requests(&bus, None).await;
    tokio::spawn(async move {
        let request = next(&mut requests).await;
        let summary = messages::rpc::JobSummary {
            job: job("j"),
            name: "x".repeat(9 * 1024 * 1024),
            state: messages::job::JobState::Running,
            submitted_at: 0,
            since: 0,
            detail: String::new(),
        };
        request.reply(Ok(JobList { jobs: vec![summary] })).await;
    });
    let error = bus.request(ListJobs { limit: 1 }, None, LONG).await.expect_err("too large");
    assert_eq!(error.code, Code::TooLarge);
}

#[tokio::test]
async fn a_request_that_a_stream_captures_is_told_from_an_answer() {
    let bus = ready().await;
    let subject = bus.subjects().job_submit();
    let error = bus.request_to::<_, JobList>(&subject, ListJobs { limit: 1 }, LONG).await.expect_err("no answer");
    assert_eq!(error.code, Code::BadMessage);
    assert!(error.message.contains("a stream captures"), "{error}");
    // And its consumer does not see the reply subject: it has no header or field for it.
    let mut submissions = bus.submissions().await.expect("consumer");
    let submission = submissions.next(LONG).await.expect("reads").expect("captured");
    assert_eq!(submission.verb(), "submit");
    submission.term().await.expect("sent");
}
