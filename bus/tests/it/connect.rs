//! Connecting: what goes wrong is named, in bounded time, without credentials in the text.

use std::time::{Duration, Instant};

use bus::{Bus, Credentials, ErrorKind};
use bytes::Bytes;
use futures::StreamExt;
use messages::job::Role;
use messages::timings::Timings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server::{LONG, TestServer, config, env, shared, until};
use crate::watch;

fn secret() -> Credentials {
    Credentials::UserPassword { user: "someone".into(), password: "hunter2".into() }
}

async fn refused(url: &str, limit_ms: u64) -> bus::Error {
    let mut config = config(url, secret(), "refused");
    config.timings = Timings { request_timeout_ms: limit_ms, ..config.timings };
    let begun = Instant::now();
    let error = Bus::connect(config).await.expect_err("nobody there");
    assert!(begun.elapsed() < Duration::from_millis(limit_ms) + Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!error.to_string().contains("hunter2") && !error.to_string().contains("in-url"), "{error}");
    error
}

#[tokio::test]
async fn a_refused_connection_names_the_server() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let port = listener.local_addr().expect("address").port();
    drop(listener);
    let error = refused(&format!("nats://u:in-url@127.0.0.1:{port}"), 10_000).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains(&format!("nats://127.0.0.1:{port}")), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert_eq!(error.to_wire().code.as_str(), "bus_unavailable");
}

#[tokio::test]
async fn a_server_that_says_nothing_is_left_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    let error = refused(&format!("nats://127.0.0.1:{port}"), 300).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("no answer"), "{error}");
}

#[tokio::test]
async fn an_unknown_host_and_a_url_that_is_none_are_told() {
    let error = refused("nats://no-such-host.invalid:4222", 5_000).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    let error = refused("nats://127.0.0.1:notaport", 5_000).await;
    assert!(error.to_string().contains("nats://HOST:PORT"), "{error}");
}

#[tokio::test]
async fn wrong_credentials_are_told_from_an_absent_server() {
    let right = shared().await;
    let error = refused(&right.url, 10_000).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("\"someone\""), "{error}");
    let none = Bus::connect(bus::BusConfig { credentials: Credentials::None, ..right.clone() }).await;
    assert_eq!(none.expect_err("needs credentials").kind(), ErrorKind::Unauthorized);
    let file = Credentials::File("/no/such.creds".into());
    let error = Bus::connect(bus::BusConfig { credentials: file, ..right }).await.expect_err("no such file");
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    assert!(error.to_string().contains("/no/such.creds"), "{error}");
}

/// Greets as an old server does.
async fn old_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let info = "INFO {\"server_id\":\"x\",\"version\":\"2.9.10\",\"max_payload\":1048576,\"headers\":true}\r\n";
            stream.write_all(info.as_bytes()).await.ok();
            let mut seen = Vec::new();
            let mut buffer = [0u8; 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                seen.extend_from_slice(&buffer[..read]);
                if seen.windows(6).any(|window| window == b"PING\r\n") {
                    stream.write_all(b"PONG\r\n").await.ok();
                    seen.clear();
                }
            }
        }
    });
    port
}

#[tokio::test]
async fn an_old_server_is_refused_with_what_to_do() {
    let error = refused(&format!("nats://127.0.0.1:{}", old_server().await), 10_000).await;
    assert_eq!(error.kind(), ErrorKind::ServerTooOld);
    let text = error.to_string();
    assert!(text.contains("2.9.10") && text.contains("2.12 or newer") && text.contains("WITHIN_NATS_SERVER"), "{text}");
}

#[tokio::test]
async fn the_server_is_told_without_credentials() {
    let config = shared().await;
    let bus = Bus::connect(config.clone()).await.expect("connects");
    let info = bus.server_info();
    assert_eq!(info.url, config.url);
    assert!(info.jetstream && info.version.starts_with("2."), "{info:?}");
    assert_eq!(bus.max_frame_bytes(), 8 * 1024 * 1024 - 4096);
}

#[tokio::test]
async fn the_server_s_smaller_limit_bounds_a_frame() {
    let server = TestServer::start_with(|config| config.max_payload = 1024 * 1024).await;
    let bus = server.bus("small").await;
    assert_eq!(bus.max_frame_bytes(), 1024 * 1024 - 4096);
    let mut got = bus.subscribe("frames").await.expect("subscribes");
    let frame = Bytes::from(vec![7u8; bus.max_frame_bytes()]);
    let headers = [("Within-Frame", "x".repeat(2_000))];
    let headers: Vec<(&str, &str)> = headers.iter().map(|(k, v)| (*k, v.as_str())).collect();
    bus.publish_raw("frames", &headers, frame.clone()).await.expect("fits");
    let message = tokio::time::timeout(LONG, got.next()).await.expect("in time").expect("open");
    assert_eq!(message.payload, frame);
    assert_eq!(message.header("Within-Frame").map(str::len), Some(2_000));
    assert_eq!(message.header("within-frame"), None, "look-up is case-sensitive");
    let error = bus.publish_raw("frames", &[], vec![0u8; 1024 * 1024 + 1].into()).await.expect_err("too large");
    assert_eq!((error.kind(), error.to_wire().code.as_str()), (ErrorKind::BadMessage, "too_large"));
}

#[tokio::test]
async fn close_returns_when_everything_was_sent() {
    let config = shared().await;
    let listener = Bus::connect(config.clone()).await.expect("connects");
    let subject = format!("close.{}", config.tenant);
    let mut got = listener.subscribe(&subject).await.expect("subscribes");
    let speaker = Bus::connect(config).await.expect("connects");
    for i in 0..20_000u32 {
        speaker.publish_raw(&subject, &[], i.to_string().into()).await.expect("publishes");
    }
    speaker.close().await;
    for i in 0..20_000u32 {
        let message = tokio::time::timeout(LONG, got.next()).await.expect("in time").expect("open");
        assert_eq!(message.payload, i.to_string().as_bytes());
    }
    let error = speaker.publish_raw(&subject, &[], Bytes::new()).await.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    let error = speaker.request(messages::rpc::ListJobs { limit: 1 }, None, LONG).await.expect_err("closed");
    assert!(!error.retry, "{error:?}");
}

#[tokio::test]
async fn a_slow_subscriber_loses_the_newest_and_it_is_logged_once() {
    watch::logs();
    let mut config = shared().await;
    config.name = "slow-subscriber".into();
    let subject = format!("slow.{}", config.tenant);
    let slow = Bus::connect(config.clone()).await.expect("connects");
    let mut got = slow.subscribe(&subject).await.expect("subscribes");
    let mut other = config.clone();
    other.name = "speaker".into();
    let speaker = Bus::connect(other).await.expect("connects");
    let sent = 80_000u32;
    for i in 0..sent {
        speaker.publish_raw(&subject, &[], i.to_string().into()).await.expect("publishes");
    }
    speaker.close().await;
    until("the warning", || async { (watch::lines_with(&["slow consumer", "slow-subscriber"]) > 0).then_some(()) })
        .await;
    // A second connection's message would be behind all of them: everything has been delivered or dropped.
    slow.close().await;
    let mut received = 0;
    while let Some(message) = got.next().await {
        assert_eq!(message.payload, received.to_string().as_bytes());
        received += 1;
    }
    assert!(received < sent, "nothing was dropped");
    assert_eq!(watch::lines_with(&["slow consumer", "slow-subscriber"]), 1);
}

/// Adds a user who may do little, as an operator does: in the configuration, then a reload.
async fn restricted(server: &TestServer, publish: &str, subscribe: &str) -> Credentials {
    let path = server.server.config_file();
    let text = std::fs::read_to_string(&path).expect("configuration");
    let user = format!(
        "users = [ {{ user: limited, password: limited, permissions: {{ publish: [{publish}, \"_INBOX.>\"], subscribe: [{subscribe}] }} }},"
    );
    std::fs::write(&path, text.replace("users = [", &user)).expect("written");
    let pid = i32::try_from(server.server.pid().expect("runs")).expect("pid");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGHUP).expect("reloads");
    let credentials = Credentials::UserPassword { user: "limited".into(), password: "limited".into() };
    let config = config(&server.server.url(), credentials.clone(), "probe");
    until("the reload", || async { Bus::connect(config.clone()).await.ok() }).await;
    credentials
}

#[tokio::test]
async fn a_denied_permission_is_an_error_at_once_and_logged_once() {
    watch::logs();
    let server = TestServer::start().await;
    server.bus("coordinator").await.ensure_topology().await.expect("topology");
    let credentials = restricted(&server, "\"within.v1.default.evt.>\"", "\"_INBOX.>\"").await;
    let bus = Bus::connect(bus::BusConfig { credentials, ..server.config("limited-one") }).await.expect("connects");
    let begun = Instant::now();
    for _ in 0..3 {
        let error = bus.bind(LONG).await.expect_err("the API is not allowed");
        assert_eq!(error.kind(), ErrorKind::Permission);
        assert!(error.to_string().contains("$JS.API.STREAM.INFO"), "{error}");
    }
    let error = bus.request(messages::rpc::ListJobs { limit: 1 }, None, LONG).await.expect_err("not allowed");
    assert_eq!(error.code.as_str(), "permission_denied");
    let error = bus.subscribe("within.v1.default.hb.>").await.err().expect("not allowed");
    assert_eq!(error.kind(), ErrorKind::Permission);
    assert!(error.to_string().contains("within.v1.default.hb.>"), "{error}");
    let stored = crate::publish::cancelled(&bus, "j1", "e1", bus::Once::ById).await.expect("allowed");
    assert!(stored.sequence.is_some());
    assert!(begun.elapsed() < Duration::from_secs(9), "a denial looked like a time-out: {:?}", begun.elapsed());
    assert_eq!(watch::lines_with(&["permission denied", "limited-one", "STREAM.INFO"]), 1);
}

/// A role that may not pull its tasks, and one that may not say that it lives, would be up and do nothing.
#[tokio::test]
async fn a_role_that_cannot_run_for_want_of_a_permission_is_given_up() {
    watch::logs();
    let server = TestServer::start().await;
    server.bus("coordinator").await.ensure_topology().await.expect("topology");
    let publish = "\"within.v1.default.hb.evaluator.>\", \"$SYS.REQ.USER.INFO\", \"$JS.API.STREAM.INFO.>\", \
                   \"$JS.API.CONSUMER.INFO.>\", \"$JS.API.CONSUMER.MSG.NEXT.*.work_data_loader\"";
    let subscribe = "\"_INBOX.>\", \"within.v1.default.ctl.>\"";
    let credentials = restricted(&server, publish, subscribe).await;
    let home = tempfile::tempdir().expect("a temporary folder");
    for (role, subject) in [
        (Role::Evaluator, "$JS.API.CONSUMER.MSG.NEXT.WITHIN_WORK.work_evaluator"),
        (Role::DataLoader, "hb.data_loader.w"),
    ] {
        let name = format!("denied-{role}");
        let config = bus::BusConfig { credentials: credentials.clone(), ..server.config(&name) };
        let bus = Bus::connect(config).await.expect("connects");
        bus.bind(LONG).await.expect("allowed");
        let env = env(&bus, "w", home.path());
        let (deliver, _tasks) = tokio::sync::mpsc::channel(1);
        let begun = Instant::now();
        let _queue = bus::queue::start(&env, role, 1, deliver).await.expect("begins");
        let (heart, _beat) = bus::heartbeat::spawn(&env, role, bus::heartbeat::Pulse::default);
        let (which, error) = tokio::time::timeout(LONG, bus.given_up()).await.expect("in time");
        assert_eq!((which, error.code.as_str(), error.retry), (role, "permission_denied", false));
        assert!(error.message.contains(subject), "{error:?}");
        assert!(
            begun.elapsed() < Duration::from_millis(bus.timings().request_timeout_ms),
            "no time-out was waited for"
        );
        assert_eq!(watch::lines_with(&["permission denied", &name]), 1);
        heart.abort();
        env.drain.cancel();
    }
}
