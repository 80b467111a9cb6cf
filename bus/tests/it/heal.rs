//! Outages: a killed server, a silent partition.

use std::time::{Duration, Instant};

use bus::{Bus, From, Once};
use futures::StreamExt;
use messages::rpc::{JobList, ListJobs, Request};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::publish::cancelled;
use crate::server::{LONG, TestServer, until};
use crate::watch;

#[tokio::test]
async fn a_killed_server_loses_no_event_and_repeats_none() {
    watch::logs();
    let mut server = TestServer::start_with(|config| config.sync_always = true).await;
    let mut config = server.config("publisher-over-outage");
    // Longer than the outage: one publish is in flight all the time.
    config.timings.request_timeout_ms = 3_000;
    let publisher = Bus::connect(config).await.expect("connects");
    publisher.ensure_topology().await.expect("topology");
    let mut events = server.bus("reader").await.events(None, From::First).await.expect("reads");
    let publishing = tokio::spawn(async move {
        for i in 0..300 {
            let id = format!("e{i}");
            while let Err(error) = cancelled(&publisher, "j", &id, Once::ById).await {
                assert!(error.to_wire().retry, "{error}");
            }
        }
        publisher
    });
    let mut seen = Vec::new();
    while seen.len() < 50 {
        seen.push(events.next(LONG).await.expect("reads").expect("in time").envelope.id);
    }
    for _ in 0..2 {
        server.server.kill9();
        let next = events.next(Duration::from_millis(300)).await.expect("an outage is no error of a reader");
        // One may have been on its way.
        seen.extend(next.map(|event| event.envelope.id));
        server.server.restart().await.expect("starts again");
    }
    while seen.len() < 300 {
        if let Some(event) = events.next(LONG).await.expect("reads") {
            seen.push(event.envelope.id);
        }
    }
    seen.sort_by_key(|id| id[1..].parse::<u32>().expect("number"));
    seen.dedup();
    let mut expected: Vec<_> = (0..300).map(|i| format!("e{i}")).collect();
    expected.dedup();
    assert_eq!(seen, expected);
    let publisher = publishing.await.expect("publishes");
    assert_eq!(publisher.topology().await.expect("lists")[1].messages, 300);
    assert!(watch::lines_with(&["connection to NATS lost", "publisher-over-outage"]) >= 1);
    let told = watch::lines_with(&["cannot be reached", "publisher-over-outage"]);
    assert!(told <= 6, "each distinct trouble of an outage is told once, not at each attempt: {told}");
}

#[tokio::test]
async fn subscriptions_and_services_come_back() {
    let mut server = TestServer::start().await;
    let bus = server.bus("service").await;
    let mut got = bus.subscribe("news").await.expect("subscribes");
    let mut requests = bus.serve(&bus.subjects().svc(ListJobs::ROLE, ListJobs::VERB), Some("q")).await.expect("serves");
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            request.reply(Ok(JobList { jobs: vec![] })).await;
        }
    });
    let client = server.bus("client").await;
    server.server.restart().await.expect("starts again");
    client.request(ListJobs { limit: 1 }, None, LONG).await.expect("answered again");
    // Core NATS keeps nothing: publish until it arrives.
    let arrival = async {
        loop {
            client.publish_raw("news", &[], "x".into()).await.expect("connected");
            if let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(100), got.next()).await {
                return message;
            }
        }
    };
    let message = tokio::time::timeout(LONG, arrival).await.expect("in time");
    assert_eq!(message.payload, "x");
}

#[tokio::test]
async fn a_silent_partition_is_seen_and_healed() {
    watch::logs();
    let server = TestServer::start().await;
    let mut config = server.config("partitioned");
    config.timings.heartbeat_ms = 200;
    config.timings.request_timeout_ms = 500;
    let bus = Bus::connect(config).await.expect("connects");
    bus.ensure_topology().await.expect("topology");
    let pid = Pid::from_raw(i32::try_from(server.server.pid().expect("runs")).expect("pid"));
    kill(pid, Signal::SIGSTOP).expect("stopped");
    let begun = Instant::now();
    let error = bus.request(ListJobs { limit: 1 }, None, Duration::from_millis(100)).await.expect_err("silence");
    assert!(error.retry, "{error:?}");
    until("the partition to be seen", || async {
        (watch::lines_with(&["connection to NATS lost", "partitioned"]) > 0).then_some(())
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    kill(pid, Signal::SIGCONT).expect("continued");
    until("the connection", || async { cancelled(&bus, "j", "e1", Once::ById).await.ok() }).await;
    assert_eq!(bus.topology().await.expect("lists")[1].messages, 1);
    assert_eq!(watch::lines_with(&["connected to NATS again", "partitioned"]), 1);
}
