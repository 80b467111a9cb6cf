//! Wrong usage, wrong specs, and surroundings that are not there: exit codes and words.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use messages::rpc::{SpecDocument, SpecFormat, Submit};
use messages::{Envelope, JobId};
use serde_json::Value;

use crate::harness::{Ended, PATIENCE, Sandbox, Server, artifacts, spec, table, text, wait_for};

/// The failure as `--json` prints it, and the same for a person.
fn refused(sandbox: &Sandbox, arguments: &[&str], code: i32) -> Value {
    let last = sandbox.within(&[arguments, &["--json"]].concat()).expect(code).last();
    assert_eq!(text(&last, "/event"), "failed");
    let person = sandbox.within(arguments).expect(code);
    let first = text(&last, "/message").lines().next().unwrap_or_default().to_owned();
    assert!(person.stderr.contains(&first), "{first:?} is not in\n{}", person.stderr);
    no_backtrace(&person);
    last
}

fn no_backtrace(ended: &Ended) {
    let said = ended.all_text();
    assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
}

fn says(told: &Value, parts: &[&str]) {
    let said = format!("{} {}", text(told, "/message"), told["hint"].as_str().unwrap_or_default());
    for part in parts {
        assert!(said.contains(part), "no {part:?} in {said:?}");
    }
}

fn is(told: &Value, class: &str, code: &str) {
    assert_eq!((text(told, "/class"), text(told, "/code")), (class, code), "{told:#}");
}

/// Mistakes in a spec, all at once, each with its place.
const MISTAKES: &str = "\
task: regresion
data:
  path: table.csv
  target: y
model:
  type: mpl
training:
  epochs: 0
  learning_rate: -0.1
  epoch: 3
";

const FOUND: [(&str, u64, &str); 5] = [
    ("task", 1, "regression"),
    ("model.type", 6, "mlp"),
    ("training.epochs", 8, "from 1"),
    ("training.learning_rate", 9, "above 0"),
    ("training.epoch", 10, "training.epochs"),
];

fn check_mistakes(errors: &Value) {
    for (key, line, expected) in FOUND {
        let error = errors.as_array().expect("a list").iter().find(|error| error["key"] == key);
        let error = error.unwrap_or_else(|| panic!("nothing about {key} in {errors:#}"));
        assert_eq!(error["line"], line, "{error:#}");
        assert!(error.to_string().contains(expected), "{error:#}");
        assert!(text(error, "/file").ends_with("job.yaml"));
    }
    assert_eq!(errors.as_array().map(Vec::len), Some(FOUND.len()), "{errors:#}");
}

#[test]
fn all_mistakes_of_a_spec_come_at_once() {
    let sandbox = Sandbox::new();
    sandbox.write("job.yaml", MISTAKES);
    let told = refused(&sandbox, &["run", "job.yaml"], 2);
    is(&told, "spec", "config_error");
    check_mistakes(&told["errors"]);
    let person = sandbox.within(&["run", "job.yaml"]).expect(2).stderr;
    for (key, line, _) in FOUND {
        assert!(person.contains(&format!("job.yaml:{line}: {key}: ")), "{person}");
    }
    assert!(!sandbox.home().join("nats").exists(), "nothing was started for a spec that is wrong");

    sandbox.write("job.yaml", spec("table.csv", 2, "evaluation: {fairness: {attribute: kind}}\n"));
    let told = refused(&sandbox, &["run", "job.yaml"], 2);
    says(&told, &["not yet supported", "evaluation.fairness"]);
    for (set, parts) in [
        ("training.epochs=0", &["training.epochs", "from 1", "0"][..]),
        ("training.learning_rate=-1", &["learning_rate", "above 0", "-1"]),
        ("training.epocs=3", &["training.epocs", "training.epochs"]),
        ("nonsense", &["nonsense", "="]),
    ] {
        sandbox.write("job.yaml", spec("table.csv", 2, ""));
        let told = refused(&sandbox, &["run", "job.yaml", "--set", set], 2);
        says(&told, parts);
    }
}

#[test]
fn a_spec_that_cannot_be_read() {
    let sandbox = Sandbox::new();
    sandbox.write("quick.yaml", "");
    let told = refused(&sandbox, &["run", "quik.yaml"], 2);
    says(&told, &["quik.yaml", "no such file", "quick.yaml"]);
    says(&refused(&sandbox, &["run", "quick.yaml"], 2), &["quick.yaml", "empty"]);
    sandbox.write("latin1.yaml", b"name: x\ndescription: f\xfcr\n");
    says(&refused(&sandbox, &["run", "latin1.yaml"], 2), &["latin1.yaml", "line 2", "not UTF-8"]);
    sandbox.write("tab.yaml", "data:\n\tpath: a.csv\n");
    says(&refused(&sandbox, &["run", "tab.yaml"], 2), &["tab.yaml:2", "tab"]);
    sandbox.write("broken.json", "{\"task\": \"regression\",\n \"data\": }");
    says(&refused(&sandbox, &["run", "broken.json"], 2), &["broken.json:2", "JSON"]);

    // 100 MB, without writing them: the size alone is enough to refuse.
    let large = std::fs::File::create(sandbox.path("large.yaml")).expect("creates");
    large.set_len(100 * 1024 * 1024).expect("grows");
    says(&refused(&sandbox, &["run", "large.yaml"], 2), &["large.yaml", "104857600", "4194304"]);
    assert!(!sandbox.home().join("nats").exists());
}

#[test]
fn paths_and_hosts_outside_of_what_is_allowed() {
    let sandbox = Sandbox::new();
    for (path, parts) in [
        ("../secret.csv", &["data.path", "leaves the data roots"][..]),
        ("a/../../secret.csv", &["data.path", "leaves the data roots"]),
        ("~/secret.csv", &["data.path", "leaves the data roots"]),
        ("ftp://example.org/a.csv", &["data.path", "scheme", "ftp"]),
    ] {
        sandbox.write("job.yaml", spec(path, 2, ""));
        let told = refused(&sandbox, &["run", "job.yaml"], 2);
        says(&told, parts);
        is(&told, "spec", "forbidden");
    }
    // Which origins may be read is the worker's to say.
    sandbox.write("job.yaml", spec("http://example.org/a.csv", 2, ""));
    let told = sandbox.within(&["run", "job.yaml", "--json"]).expect(1).last();
    says(&told, &["http://example.org", "remote_sources"]);
    is(&told, "spec", "forbidden");
    for (url, parts) in [
        ("file:///etc/passwd", &["notifications.webhooks", "scheme", "http"][..]),
        ("http://user:hunter2@localhost/", &["notifications.webhooks", "credentials"]),
        ("no url", &["notifications.webhooks", "http"]),
    ] {
        let more = format!("notifications: {{webhooks: [{{url: '{url}'}}]}}\n");
        sandbox.write("job.yaml", spec("table.csv", 2, &more));
        let told = refused(&sandbox, &["run", "job.yaml"], 2);
        says(&told, parts);
        assert!(!told.to_string().contains("hunter2"), "secrets are not repeated: {told}");
    }
}

/// A host that the operator does not allow gets nothing; the job itself is done, and the notice is kept.
#[test]
fn a_webhook_host_that_is_not_allowed_gets_nothing() {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("sets");
    sandbox.share_store("webhook_hosts: [hooks.example.com]\n");
    let _worker = sandbox.worker("alone", "all", &[]);
    sandbox.write("table.csv", table(100));
    let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
    sandbox.write("job.yaml", spec("table.csv", 1, &format!("notifications: {{webhooks: [{{url: '{url}'}}]}}\n")));
    let last = sandbox.within(&["submit", "job.yaml", "--watch", "--json", "--id", "hooked"]).expect(0).last();
    assert_eq!(last["event"], "completed");
    let letter = wait_for("the dead letter", PATIENCE, || server.dead_letters().into_iter().next());
    assert!(letter.reason.contains("127.0.0.1") && letter.reason.contains("not allowed"), "{letter:?}");
    assert!(letter.subject.ends_with(".dlq.notifier.hooked"), "{letter:?}");
    assert!(listener.accept().is_err(), "nobody was posted to");
}

/// The same mistakes sent past the command line: rejected by the coordinator, all listed.
#[test]
fn a_wrong_spec_is_rejected_by_an_event() {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    let _worker = sandbox.worker("alone", "coordinator", &[]);
    let bus = server.connect("default");
    let submit = |id: &str, text: String| {
        let document =
            SpecDocument::Text { text, format: SpecFormat::Yaml, file: Some("job.yaml".into()), bases: Vec::new() };
        let envelope = Envelope::new(id, "/test", bus::now_ms(), Submit { spec: document, set: Vec::new() });
        server.block_on(bus.submit(&envelope)).expect("is stored");
        server.events(&bus, id)
    };
    let events = submit("wrong", MISTAKES.into());
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(text(&events[0], "/type"), "within.job.rejected");
    is(&events[0]["data"]["error"], "spec", "config_error");
    check_mistakes(&events[0]["data"]["errors"]);
    let shown = sandbox.within(&["jobs", "show", "wrong"]).expect(2).stderr;
    assert!(shown.contains("job.yaml:8: training.epochs"), "{shown}");

    let events = submit("large", "x".repeat(5 * 1024 * 1024));
    is(&events[0]["data"]["error"], "spec", "too_large");
    let escaped = submit("escaped", spec("../secret.csv", 1, ""));
    is(&escaped[0]["data"]["error"], "spec", "forbidden");
    assert!(!artifacts(&sandbox.outside("store")).iter().any(|_| true));
    let unknown = JobId::new("wrong").expect("a job id");
    let record = server.block_on(async { bus.jobs().await.expect("jobs").get(&unknown).await.expect("reads") });
    assert!(record.is_none(), "a rejected submission is no job");
}

#[test]
fn nats_that_is_not_there_or_refuses() {
    let sandbox = Sandbox::new();
    sandbox.write("table.csv", table(60));
    sandbox.write("job.yaml", spec("table.csv", 1, ""));
    let nobody = ["--nats", "nats://127.0.0.1:1"];
    for command in [&["run", "job.yaml"][..], &["submit", "job.yaml"], &["jobs", "list"], &["worker"]] {
        let told = refused(&sandbox, &[command, &nobody].concat(), 3);
        is(&told, "infrastructure", "bus_unavailable");
        says(&told, &["127.0.0.1:1", "NATS"]);
    }
    let server = Server::start();
    let url = server.url();
    sandbox.write("wrong.creds", format!("{}:not-the-password\n", server.user().0));
    sandbox.write("no.creds", "nonsense");
    let wrong = ["--nats", &url, "--creds", "wrong.creds"];
    for command in [&["submit", "job.yaml"][..], &["jobs", "list"], &["worker"]] {
        let told = refused(&sandbox, &[command, &wrong].concat(), 3);
        is(&told, "infrastructure", "permission_denied");
        says(&told, &["refuses", &server.user().0]);
        assert!(!told.to_string().contains("not-the-password"));
        says(&refused(&sandbox, &[command, &["--nats", &url]].concat(), 3), &["credentials", "--creds"]);
    }
    says(
        &refused(&sandbox, &["jobs", "list", "--nats", &url, "--creds", "no.creds"], 2),
        &["no.creds", "user:password"],
    );
    says(&refused(&sandbox, &["jobs", "list", "--nats", &url, "--creds", "gone.creds"], 2), &["gone.creds"]);
}

#[test]
fn a_server_that_is_too_old_or_not_installed() {
    let sandbox = Sandbox::new();
    let fake = sandbox.write("nats-server", "#!/bin/sh\necho 'nats-server: v2.9.10'\n");
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).expect("sets");
    let with = |binary: &Path| {
        let mut command = sandbox.command(&["run", "--json"]);
        command.env("WITHIN_NATS_SERVER", binary);
        let ended = crate::harness::Running::start(command).wait().expect(3);
        no_backtrace(&ended);
        ended.last()
    };
    let old = with(&fake);
    says(&old, &["2.9.10", "2.12", "WITHIN_NATS_SERVER"]);
    let gone = with(&sandbox.path("nothing"));
    is(&gone, "infrastructure", "bus_unavailable");
    says(&gone, &["nothing", "nats-server"]);
}

#[test]
fn a_port_that_is_taken() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("an address").to_string();
    let sandbox = Sandbox::new();
    for command in ["run", "worker"] {
        let told = refused(&sandbox, &[command, "--http", &taken], 3);
        is(&told, "infrastructure", "address_unavailable");
        says(&told, &["--http", &taken, "in use", "127.0.0.1:0"]);
    }
    let told = refused(&sandbox, &["run", "--http", "nonsense"], 3);
    says(&told, &["--http", "nonsense"]);
}

/// Root may write where the mode says no, so what cannot be written is what is no folder.
#[test]
fn a_store_that_cannot_be_written() {
    for (blocked, code) in [
        ("store", "artifact_store_unavailable"),
        ("nats", "artifact_store_unavailable"),
        ("tracker.db", "tracker_unavailable"),
    ] {
        let sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.home()).expect("creates");
        if blocked == "tracker.db" {
            std::fs::create_dir(sandbox.home().join(blocked)).expect("creates");
        } else {
            std::fs::write(sandbox.home().join(blocked), "in the way").expect("writes");
        }
        let told = refused(&sandbox, &["run"], 3);
        is(&told, "infrastructure", code);
        says(&told, &[&sandbox.home().join(blocked).display().to_string()]);
    }
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.home(), "in the way").expect("writes");
    let told = refused(&sandbox, &["run"], 3);
    says(&told, &["home", "--home"]);
}

/// The store breaks under a job that was accepted: the job fails after its attempts, and leaves nothing.
#[test]
fn a_store_that_breaks_under_a_job() {
    let sandbox = Sandbox::new();
    sandbox.write("table.csv", table(60));
    sandbox.write("job.yaml", spec("table.csv", 1, "limits: {max_attempts: 2}\n"));
    std::fs::create_dir_all(sandbox.home().join("store")).expect("creates");
    std::fs::write(sandbox.home().join("store/dataset"), "in the way").expect("writes");
    let ended = sandbox.within(&["run", "job.yaml", "--json"]).expect(1);
    let last = ended.last();
    is(&last, "infrastructure", "artifact_store_unavailable");
    assert_eq!(ended.events("task_retried").len(), 1, "trying again may help: {}", ended.stdout);
    let took = ended.times.last().copied().unwrap_or_default();
    assert!(took < Duration::from_secs(30), "the pause before the second attempt is half a second, not {took:?}");
    let left = artifacts(&sandbox.home().join("store"));
    assert_eq!(left, ["dataset"]);
}

#[test]
fn wrong_settings() {
    let sandbox = Sandbox::new();
    sandbox.write("bad.yaml", "hmoe: x\n");
    for (arguments, parts) in [
        (&["jobs", "list", "--config", "bad.yaml"][..], &["bad.yaml", "hmoe"][..]),
        (&["jobs", "list", "--config", "gone.yaml"], &["gone.yaml"]),
        (&["jobs", "list", "--tenant", "a b"], &["tenant", "a b"]),
        (&["worker", "--roles", "trainre"], &["trainre", "trainer"]),
        (&["run", "--id", "a.b"], &["--id", "a.b"]),
        (&["worker", "--name", "a.b"], &["--name", "a.b"]),
        (&["jobs", "list", "--log", "=nonsense="], &["--log"]),
        (&["jobs", "list"], &["no jobs yet"]),
    ] {
        says(&refused(&sandbox, arguments, 2), parts);
    }
    sandbox.write("timings.yaml", "timings: {heartbeat: 3}\n");
    says(&refused(&sandbox, &["jobs", "list", "--config", "timings.yaml"], 2), &["timings.yaml", "heartbeat"]);
}
