//! Clients of another language: the README's Python snippet as it stands there, MessagePack and
//! request/reply, and messages that nobody can read.

use std::fmt::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{PATIENCE, Sandbox, Server, Worker, number, python, root, script, table, text, wait_for};

/// A platform with one worker that does everything.
fn platform() -> (Server, Sandbox, Worker) {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    sandbox.write("table.csv", table(200));
    let worker = sandbox.worker("alone", "all", &[]);
    (server, sandbox, worker)
}

/// A right spec as an object.
fn object(epochs: u32) -> Value {
    json!({
        "name": "from a client", "task": "regression",
        "data": { "path": "table.csv", "target": "y", "exclude": ["class", "id"] },
        "model": { "type": "mlp", "hidden_layers": [8] },
        "training": { "epochs": epochs, "batch_size": 32 },
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02X}").expect("writes to a text");
        text
    })
}

/// The code block of the README in this language that holds `mark`.
fn readme_block(language: &str, mark: &str) -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("a README");
    let fence = format!("```{language}\n");
    let blocks = readme.split(&fence).skip(1).filter_map(|rest| rest.split("\n```").next());
    let mut found = blocks.filter(|block| block.contains(mark));
    let block = found.next().unwrap_or_else(|| panic!("no {language} block with {mark:?} in the README"));
    format!("{block}\n")
}

#[test]
fn the_snippet_of_the_readme_runs() {
    let (server, sandbox, _worker) = platform();
    sandbox.write("ads.csv", "");
    sandbox.within(&["generate", "ads.csv", "--rows", "600"]).expect(0);
    let snippet = sandbox.write("client.py", readme_block("python", "job.submit"));
    let (user, password) = server.user();
    let output = Command::new(python())
        .arg(snippet)
        .envs([("NATS_URL", server.url()), ("NATS_USER", user), ("NATS_PASSWORD", password)])
        .output()
        .expect("python runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    for part in ["accepted", "progress", "completed", "r2"] {
        assert!(out.contains(part), "no {part} in\n{out}\n{err}");
    }
}

/// The README's own job and spec are right too.
#[test]
fn the_job_of_the_readme_runs() {
    let sandbox = Sandbox::new();
    sandbox.within(&["generate", "mine.csv", "--rows", "2000"]).expect(0);
    sandbox.write("mine.yaml", readme_block("yaml", "mine.csv"));
    let last = sandbox.within(&["run", "mine.yaml", "--json"]).expect(0).last();
    assert!(number(&last, "/metrics/test/r2") > 0.3, "{last:#}");
}

#[test]
fn messagepack_and_request_reply() {
    let (server, _sandbox, _worker) = platform();
    let wrong = json!({
        "task": "regression", "data": { "path": "table.csv", "target": "y" },
        "model": { "type": "mpl" }, "training": { "epochs": 0, "learning_rate": -1.0, "epoch": 3 },
    });
    let lines = [
        json!({ "id": "packed", "spec": object(2), "follow": true }),
        json!({ "id": "packed", "spec": object(2) }),
        json!({ "id": "packed", "spec": object(3) }),
        json!({ "id": "wrong", "spec": wrong }),
        json!({ "id": "not a token / 1", "spec": object(1) }),
    ];
    let answers = script(&server, "request.py", &lines);

    let first = &answers[0];
    assert_eq!(first["content"], "application/cloudevents+msgpack", "answered in the encoding of the request");
    assert_eq!(first["answer"]["ok"]["state"], "accepted", "{first:#}");
    assert_eq!(first["answer"]["ok"]["duplicate"], false);
    let types: Vec<&str> =
        first["followed"]["types"].as_array().expect("types").iter().filter_map(Value::as_str).collect();
    for event in ["accepted", "task_started", "progress", "metric", "checkpoint", "completed"] {
        assert!(types.contains(&format!("within.job.{event}").as_str()), "no {event} in {types:?}");
    }
    assert_eq!((types[0], types[types.len() - 1]), ("within.job.accepted", "within.job.completed"));
    assert_eq!(text(first, "/followed/last/data/model/blake3").len(), 64);

    assert_eq!(
        (&answers[1]["answer"]["ok"]["duplicate"], &answers[1]["answer"]["ok"]["state"]),
        (&json!(true), &json!("succeeded"))
    );
    assert_eq!(answers[2]["answer"]["ok"]["error"]["code"], "duplicate_conflict", "{:#}", answers[2]);

    let rejected = &answers[3]["answer"]["ok"];
    assert_eq!((text(rejected, "/state"), text(rejected, "/error/code")), ("rejected", "config_error"));
    let keys: Vec<&str> =
        rejected["errors"].as_array().expect("errors").iter().map(|error| text(error, "/key")).collect();
    for key in ["model.type", "training.epochs", "training.learning_rate", "training.epoch"] {
        assert!(keys.contains(&key), "no {key} in {keys:?}");
    }
    let named = text(&answers[4], "/answer/ok/job");
    assert!(
        named.len() == 32 && named.bytes().all(|b| b.is_ascii_alphanumeric()),
        "an id that is no token is hashed: {named}"
    );
}

/// A JSON message on job.submit.
fn message(id: &str, change: impl Fn(&mut Value)) -> Value {
    let mut event = json!({
        "specversion": "1.0", "id": id, "source": "urn:example:shop", "type": "within.job.submit",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "data": { "spec": object(1) },
    });
    change(&mut event);
    line(event.to_string().as_bytes(), "application/cloudevents+json", id)
}

fn line(payload: &[u8], content: &str, id: &str) -> Value {
    json!({ "payload": hex(payload), "headers": { "Content-Type": content, "Nats-Msg-Id": id } })
}

#[test]
fn what_cannot_be_read_is_kept_and_the_rest_goes_on() {
    let (server, _sandbox, _worker) = platform();
    let json_kind = "application/cloudevents+json";
    let deep = format!("{{\"data\": {}", "[".repeat(100_000));
    let poison = [
        (line(b"\xff\xfe\x00garbage", json_kind, "p1"), "JSON"),
        (line(&[0xc1; 64], "application/cloudevents+msgpack", "p2"), "MessagePack"),
        (line(b"", json_kind, "p3"), "JSON"),
        (line(deep.as_bytes(), json_kind, "p4"), "deeper"),
        (
            line(&[b"\x81\xa1x".as_slice(), &vec![0x91; 100_000]].concat(), "application/cloudevents+msgpack", "p5"),
            "deeper",
        ),
        (message("p6", |event| event["withinschema"] = json!(99)), "schema version 99"),
        (message("p7", |event| event["type"] = json!("within.job.sbumit")), "within.job.sbumit"),
        (message("p8", |event| event["specversion"] = json!("2.0")), "specversion"),
        (message("p9", |event| drop(event.as_object_mut().expect("an object").remove("data"))), "data"),
    ];
    let mut lines: Vec<Value> = poison.iter().map(|(line, _)| line.clone()).collect();
    lines.push(message("good", |_| {}));
    assert_eq!(script(&server, "publish.py", &lines).len(), lines.len());

    let bus = server.connect("default");
    let events = server.events(&bus, "good");
    assert_eq!(text(events.last().expect("events"), "/type"), "within.job.completed", "the consumer goes on");
    for event in &events {
        assert!(text(event, "/traceparent").contains("4bf92f3577b34da6a3ce929d0e0e4736"), "one trace: {event:#}");
    }
    let letters = wait_for("the dead letters", PATIENCE, || {
        let letters = server.dead_letters();
        (letters.len() >= poison.len()).then_some(letters)
    });
    assert_eq!(letters.len(), poison.len(), "{letters:#?}");
    for ((line, reason), letter) in poison.iter().zip(&letters) {
        assert!(letter.reason.contains(reason), "no {reason:?} in {letter:?}");
        assert_eq!(letter.came_on, "within.v1.default.job.submit");
        assert_eq!(json!(hex(&letter.payload)), line["payload"], "the original bytes are kept");
    }
}

#[test]
fn an_event_that_comes_again_runs_once() {
    let (server, sandbox, _worker) = platform();
    // Another message id each time: the server's window of repeated messages does not help.
    let lines: Vec<Value> = (0..4)
        .map(|copy| {
            let mut line = message("again", |_| {});
            line["headers"]["Nats-Msg-Id"] = json!(format!("copy-{copy}"));
            line
        })
        .collect();
    script(&server, "publish.py", &lines);
    let bus = server.connect("default");
    let events = server.events(&bus, "again");
    script(
        &server,
        "publish.py",
        &[{
            let mut line = message("again", |_| {});
            line["headers"]["Nats-Msg-Id"] = json!("much later");
            line
        }],
    );
    assert_eq!(server.later_events(&bus, "again", events.len()), 0, "nothing happens after the end");
    let of = |name: &str| events.iter().filter(|event| event["type"] == format!("within.job.{name}")).count();
    assert_eq!((of("accepted"), of("completed")), (1, 1));
    assert_eq!(events.iter().filter(|event| event["data"]["event"] == "task_started").count(), 4, "each task once");
    let listed = sandbox.within(&["jobs", "list", "--json"]).expect(0).json();
    assert_eq!(listed.len(), 1, "{listed:?}");
}
