//! One version ahead: while a deploy goes on, processes of two versions talk to each other. The binary under test is the
//! older one; the newer one is played by a client whose messages are of the next schema version, with fields in
//! envelope, data and nested values, and an event type, that nobody knows yet.
//!
//! What a newer worker sends (heartbeat, claim, events, log, report), what a newer coordinator sends (work), and what it
//! stores (the record that the older one then leads from).

use serde_json::json;

use super::{EPOCHS, Platform, TIMINGS};
use crate::harness::{script, text};

#[test]
fn messages_one_version_ahead() {
    let crew = [
        ("lead", "coordinator"),
        ("loader", "data_loader"),
        ("trainer", "trainer"),
        ("evaluator", "evaluator"),
        ("rest", "tracker,notifier"),
    ];
    let mut platform = Platform::start(TIMINGS, EPOCHS, &crew);
    platform.succeeded(platform.submit("plain"));
    let output = platform.task("plain", "prepare")["output"].clone();

    // A newer worker takes a task, keeps its lease for longer than it may be silent, and reports.
    platform.drain("loader");
    let job = platform.submit("by_the_next");
    let did = script(&platform.server, "ahead.py", &[json!({ "do": "prepare", "output": output })]);
    assert_eq!(did[0]["claim"]["ok"]["claim"], "granted", "{did:?}");
    assert_eq!(did[0]["report"], json!({ "ok": { "report": "accepted" } }), "{did:?}");
    platform.boot(&[("loader", "data_loader")]);
    let ended = platform.succeeded(job);
    let prepared: Vec<_> = ended.events("task_started").into_iter().filter(|line| line["task"] == "prepare").collect();
    assert_eq!((prepared.len(), text(&prepared[0], "/worker")), (1, "next"));
    assert_eq!(ended.events("hook").iter().filter(|line| line["hook"] == "on_something_new").count(), 1);
    let logs = platform.sandbox.within(&["jobs", "logs", "by_the_next", "--json"]).expect(0).json();
    assert!(logs.iter().any(|line| line["message"] == "said by the next version"), "{logs:?}");

    // A newer coordinator queued the work.
    platform.drain("evaluator");
    let job = platform.submit("newer_work");
    platform.reaches("newer_work", "evaluate", &["queued"]);
    let subject = "within.v1.default.work.evaluator.newer_work.evaluate";
    script(&platform.server, "ahead.py", &[json!({ "do": "rewrite", "work": subject })]);
    platform.boot(&[("evaluator", "evaluator")]);
    platform.succeeded(job);

    // A newer coordinator led, and the older one leads again.
    platform.drain("trainer");
    let job = platform.submit("newer_record");
    platform.reaches("newer_record", "train", &["queued"]);
    platform.drain("lead");
    script(&platform.server, "ahead.py", &[json!({ "do": "rewrite", "record": "newer_record" })]);
    assert_eq!(platform.record("newer_record")["schema"], 2);
    platform.boot(&[("lead", "coordinator"), ("trainer", "trainer")]);
    platform.succeeded(job);

    assert!(platform.server.dead_letters().is_empty());
    platform.check(&["plain", "by_the_next", "newer_work", "newer_record"]);
}
