//! `within run`: everything on one machine, from a spec to a model, a report, a tracked run.

use std::time::Duration;

use serde_json::Value;

use crate::harness::{Ended, Sandbox, file_of, nats_server, number, python_json, root, spec, table, text, within_bin};

/// What the tracker's database holds of one run.
const READ_RUN: &str = r#"
import json, sqlite3, sys
db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
db.row_factory = sqlite3.Row
rows = lambda query: [dict(row) for row in db.execute(query, (sys.argv[2],))]
print(json.dumps({
    "runs": rows("select r.*, e.name as experiment from runs r join experiments e using (experiment_id) where run_id = ?"),
    "params": {row["key"]: row["value"] for row in rows("select * from params where run_id = ?")},
    "tags": {row["key"]: row["value"] for row in rows("select * from tags where run_id = ?")},
    "latest": {row["key"]: row["value"] for row in rows("select * from latest_metrics where run_id = ?")},
    "points": rows("select count(*) as n from metrics where run_id = ?")[0]["n"],
    "artifacts": {row["kind"]: row["blake3"] for row in rows("select * from artifacts where run_id = ?")},
}))
"#;

fn tracked(sandbox: &Sandbox, run: &str) -> Value {
    let database = sandbox.home().join("tracker.db");
    python_json(READ_RUN, &[&database.display().to_string(), run])
}

/// Every documented field of the last line of a completed job.
fn check_summary(last: &Value, job: &str) {
    for pointer in ["/job", "/run", "/name", "/model/uri", "/model/file_blake3", "/model/blake3", "/report"] {
        assert!(!text(last, pointer).is_empty());
    }
    assert_eq!((text(last, "/event"), text(last, "/job")), ("completed", job));
    assert!(number(last, "/duration_s") > 0.0);
    for part in ["val", "test", "baseline"] {
        assert!(!last["metrics"][part].as_object().expect("metrics").is_empty());
    }
}

/// The model's file is what its reference says.
fn check_model(last: &Value) {
    let bytes = std::fs::read(file_of(&last["model"]["uri"])).expect("the model is there");
    assert_eq!(blake3::hash(&bytes).to_hex().as_str(), text(last, "/model/file_blake3"));
    assert_eq!(number(last, "/model/size_bytes") as usize, bytes.len());
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_bytes]).expect("a safetensors header");
    assert!(header["__metadata__"].is_object());
    assert_eq!(text(last, "/model/blake3").len(), 64);
}

/// From the start of the process to the first sign of training.
fn time_to_first_step(ended: &Ended) -> Duration {
    let lines = ended.json();
    let begun = |line: &Value| line["event"] == "progress" && line["step"].as_u64() >= Some(1);
    let first = lines.iter().position(begun).expect("progress");
    ended.times[first]
}

#[test]
fn quickstart_ends_with_everything() {
    let sandbox = Sandbox::new();
    let first = sandbox.within(&["run", "--json", "--id", "first"]).expect(0);
    let to_first_step = time_to_first_step(&first);
    println!("from the start of the process to the first training step: {to_first_step:?}");
    assert!(to_first_step < Duration::from_mins(1), "{to_first_step:?}");

    for event in ["accepted", "task_started", "progress", "metric", "checkpoint", "hook", "task_done"] {
        assert!(!first.events(event).is_empty(), "no {event} event");
    }
    let tasks: Vec<_> = first.events("task_done").iter().map(|line| text(line, "/task").to_owned()).collect();
    assert_eq!(tasks, ["prepare", "train", "evaluate", "record"]);
    let last = first.last();
    check_summary(&last, "first");
    assert!(number(&last, "/metrics/test/r2") > 0.5, "{last:#}");
    assert!(number(&last, "/metrics/val/r2") > 0.5, "{last:#}");
    assert!(number(&last, "/metrics/test/rmse") < number(&last, "/metrics/baseline/rmse"), "{last:#}");
    check_model(&last);

    let report: Value = serde_json::from_slice(&std::fs::read(file_of(&last["report"])).expect("the report is there"))
        .expect("the report is JSON");
    assert_eq!((&report["metrics"], &report["model"]["file"]), (&last["metrics"], &last["model"]));
    assert_eq!((text(&report, "/run"), &report["primary_metric"]["beats_baseline"]), ("first", &Value::Bool(true)));

    let run = tracked(&sandbox, text(&last, "/run"));
    assert_eq!(text(&run, "/runs/0/status"), "FINISHED");
    assert_eq!(text(&run, "/runs/0/experiment"), "quickstart");
    assert_eq!(run["params"]["training.epochs"], "15");
    assert_eq!(run["tags"]["project"], "ad_score");
    assert_eq!(run["artifacts"]["model"], last["model"]["file_blake3"]);
    assert!(run["artifacts"]["report"].is_string() && run["artifacts"]["dataset"].is_string(), "{run:#}");
    assert!(number(&run, "/points") > 10.0 && run["latest"]["val_loss"].is_number(), "{run:#}");

    let second = sandbox.within(&["run", "--json", "--id", "second"]).expect(0).last();
    check_summary(&second, "second");
    assert_eq!(second["model"], last["model"], "the same job gives the same file");
    assert_eq!(second["metrics"], last["metrics"]);
    assert_eq!(text(&tracked(&sandbox, "second"), "/runs/0/status"), "FINISHED");
}

#[test]
fn a_person_reads_plain_lines_and_a_summary() {
    let sandbox = Sandbox::new();
    let ended = sandbox.within(&["run", "--set", "training.epochs=3", "--id", "mine"]).expect(0);
    let out = &ended.stdout;
    assert!(!out.contains('\u{1b}'), "no terminal, no control sequences: {out:?}");
    for part in [
        "accepted: quickstart",
        "prepare: started on ",
        "epoch 3/3 step ",
        "epoch 3 done: ",
        "quickstart completed in ",
        "metric",
        "baseline",
        "rmse",
        "r2",
        "model   file://",
        "report  file://",
        "run     mine in ",
        "events  within jobs events mine --home ",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    assert!(!out.contains("epoch 4"), "{out}");
    assert!(!ended.stderr.contains("WARN") && !ended.stderr.contains("ERROR"), "nothing went wrong: {}", ended.stderr);

    let log = std::fs::read_to_string(sandbox.home().join("logs/training.log")).expect("a log");
    for line in log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line")) {
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(), "{line}");
    }

    // What the summary says to look at the events with.
    let events = sandbox.within(&["jobs", "events", "mine"]).expect(0);
    assert!(events.stdout.contains(" accepted ") && events.stdout.contains(" completed "), "{}", events.stdout);
    let list = sandbox.within(&["jobs", "list", "--json"]).expect(0).last();
    assert_eq!((text(&list, "/job"), text(&list, "/state")), ("mine", "succeeded"));
    let record = sandbox.within(&["jobs", "show", "mine"]).expect(0);
    assert!(record.stdout.contains("training.epochs") && record.stdout.contains("--set"), "{}", record.stdout);

    // Done is done: the same id again shows the same end and trains nothing.
    let again = sandbox.within(&["run", "--set", "training.epochs=3", "--id", "mine", "--json"]).expect(0);
    assert_eq!(again.events("accepted").len(), 1);
    assert_eq!(again.last()["event"], "completed");
}

/// Runs a program on a terminal of its own and prints what that shows, as JSON.
const ON_A_TERMINAL: &str = r#"
import fcntl, json, os, pty, struct, sys, termios
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    os.execvp(sys.argv[1], sys.argv[1:])
shown = bytearray()
while True:
    try:
        data = os.read(terminal, 4096)
    except OSError:  # the other end is closed
        break
    if not data:
        break
    shown.extend(data)
status = os.waitpid(pid, 0)[1]
print(json.dumps({"code": os.waitstatus_to_exitcode(status), "shown": shown.decode(errors="replace")}))
"#;

#[test]
fn a_terminal_shows_live_progress() {
    let sandbox = Sandbox::new();
    let (home, server) = (sandbox.home().display().to_string(), nats_server().display().to_string());
    let program = within_bin().display().to_string();
    let command = ["env", "TERM=xterm", &format!("WITHIN_NATS_SERVER={server}"), &program, "run", "--home", &home];
    let ended = python_json(ON_A_TERMINAL, &command);
    let shown = text(&ended, "/shown");
    assert_eq!(ended["code"], 0, "{shown}");
    assert!(shown.contains('\u{1b}'), "a bar moves: {shown:?}");
    for part in ["/375 steps", "samples/s, ETA ", "epoch 15/15 loss ", "quickstart completed in "] {
        assert!(shown.contains(part), "no {part:?} in {shown:?}");
    }
}

/// The specification's reproducibility settings, as a base of a job of ours: nothing is silently ignored.
#[test]
fn the_reproducibility_example_runs_and_says_where_values_came_from() {
    let sandbox = Sandbox::new();
    sandbox.within(&["generate", "ads.csv", "--rows", "400"]).expect(0);
    let job = root().join("deploy/jobs/deterministic.yaml").display().to_string();
    sandbox.within(&["run", &job, "--id", "base", "--set", "training.epochs=2"]).expect(0);
    let shown = sandbox.within(&["jobs", "show", "base"]).expect(0).stdout;
    for part in
        ["base_config ", "deterministic_config.yaml:", "deterministic.yaml:", "--set", "default", "no effect because"]
    {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
}

#[test]
fn every_task_kind_learns_from_csv_and_parquet() {
    let sandbox = Sandbox::new();
    sandbox.write("table.csv", table(600));
    sandbox.write("job.yaml", spec("table.csv", 8, ""));
    let regression = sandbox.within(&["run", "job.yaml", "--json"]).expect(0).last();
    assert!(number(&regression, "/metrics/test/r2") > 0.5, "{regression:#}");

    let target = ["--set", "data.target.column=class", "--set", "data.exclude=[y]"];
    let binary = [&["run", "job.yaml", "--json", "--set", "task=binary_classification"][..], &target].concat();
    let binary = sandbox.within(&binary).expect(0).last();
    let accuracy = |last: &Value, part: &str| number(last, &format!("/metrics/{part}/accuracy"));
    assert!(accuracy(&binary, "test") > accuracy(&binary, "baseline") + 0.1, "{binary:#}");

    let kinds = ["--set", "data.target.column=kind", "--set", "data.exclude=[class]"];
    let multiclass =
        [&["run", "job.yaml", "--json", "--set", "task=multiclass", "--set", "training.epochs=20"][..], &kinds]
            .concat();
    let multiclass = sandbox.within(&multiclass).expect(0).last();
    assert!(accuracy(&multiclass, "test") > accuracy(&multiclass, "baseline"), "{multiclass:#}");
}
