//! The commands that run no job: doctor, schema, generate, help.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::harness::{Running, Sandbox, Server, number, root, text};

#[test]
fn help_names_every_command_and_setting() {
    let sandbox = Sandbox::new();
    let help = sandbox.within(&["--help"]).expect(0).stdout;
    for part in [
        "run",
        "worker",
        "submit",
        "jobs",
        "generate",
        "data",
        "weights",
        "schema",
        "doctor",
        "--home",
        "--nats",
        "--creds",
        "--tenant",
        "--http",
        "--config",
        "--json",
        "WITHIN_HOME",
    ] {
        assert!(help.contains(part), "no {part} in\n{help}");
    }
    assert!(!help.contains("die-with-parent"), "internal commands are hidden:\n{help}");
    for command in ["run", "worker", "submit", "jobs", "generate", "data", "weights", "schema", "doctor"] {
        assert!(sandbox.within(&[command, "--help"]).expect(0).stdout.contains("Usage:"));
    }
    assert!(sandbox.within(&["--version"]).expect(0).stdout.starts_with("within 0.1."));
    assert!(sandbox.within(&["wroker"]).expect(2).stderr.contains("'worker'"));
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file() {
    let sandbox = Sandbox::new();
    let home = |arguments: &[&str], variable: Option<&str>| {
        let mut command = sandbox.command(&[arguments, &["schema", "--json"]].concat());
        command.env_remove("WITHIN_HOME");
        if let Some(value) = variable {
            command.env("WITHIN_HOME", value);
        }
        Running::start(command).wait().expect(0);
        let used = |name: &&str| sandbox.path(name).exists();
        let made: Vec<&str> = [".within", "from_file", "from_variable", "from_flag"].into_iter().filter(used).collect();
        for name in &made {
            std::fs::remove_dir_all(sandbox.path(name)).expect("removes");
        }
        made
    };
    assert_eq!(home(&[], None), [".within"]);
    sandbox.write("within.yaml", "home: from_file\n");
    assert_eq!(home(&[], None), ["from_file"]);
    assert_eq!(home(&[], Some("from_variable")), ["from_variable"]);
    assert_eq!(home(&["--home", "from_flag"], Some("from_variable")), ["from_flag"]);
}

#[test]
fn doctor_says_what_is_here() {
    let sandbox = Sandbox::new();
    let lines = sandbox.within(&["doctor", "--json"]).expect(0).json();
    let checks: BTreeMap<&str, &Value> = lines.iter().map(|line| (text(line, "/check"), line)).collect();
    for name in ["within", "cpu", "disk", "clock", "ports", "cuda", "nats-server", "nats", "streams"] {
        let check = checks.get(name).unwrap_or_else(|| panic!("no {name} in {lines:#?}"));
        assert_eq!(check["ok"], true, "{check:#}");
    }
    assert!(number(checks["cpu"], "/detail/threads") >= 1.0);
    assert!(number(checks["disk"], "/detail/free_bytes") > 0.0);
    assert!(text(checks["nats"], "/detail/version").starts_with("2."));
    // Why a library was not found, not only that.
    assert!(text(checks["cuda"], "/text").len() > 20, "{:#}", checks["cuda"]);
    assert!(sandbox.within(&["doctor"]).expect(0).stdout.contains("ok   nats "));
}

#[test]
fn doctor_looks_at_a_server_and_its_streams() {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    let worker = sandbox.worker("alone", "coordinator", &[]);
    let lines = sandbox.within(&["doctor", "--json"]).expect(0).json();
    let streams = lines.iter().find(|line| line["check"] == "streams").expect("streams");
    for stream in ["WITHIN_WORK", "WITHIN_EVT", "WITHIN_LOG", "WITHIN_DLQ"] {
        assert!(streams.to_string().contains(stream), "{streams:#}");
    }
    drop(worker);
    // A server that is not there is a finding, and the exit code says so.
    let alone = Sandbox::new();
    let lost = alone.within(&["doctor", "--nats", "nats://127.0.0.1:1"]).expect(3);
    assert!(lost.stdout.contains("BAD  nats") && lost.stdout.contains("127.0.0.1:1"), "{}", lost.stdout);
}

/// By path below the folder.
fn files_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten();
    for entry in entries {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        if path.is_dir() {
            found.extend(files_below(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.insert(name, std::fs::read(&path).expect("reads"));
        }
    }
    found
}

#[test]
fn the_schemas_are_those_of_the_repository() {
    let sandbox = Sandbox::new();
    sandbox.within(&["schema", "--write", "schemas"]).expect(0);
    let (written, kept) = (files_below(&sandbox.path("schemas")), files_below(&root().join("deploy/schema")));
    assert_eq!(written.keys().collect::<Vec<_>>(), kept.keys().collect::<Vec<_>>());
    for (name, bytes) in &written {
        assert!(
            bytes == &kept[name],
            "deploy/schema/{name} is not what the program writes: run `within schema --write deploy/schema`"
        );
        serde_json::from_slice::<Value>(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let names: Vec<String> = sandbox.within(&["schema"]).expect(0).stdout.lines().map(str::to_owned).collect();
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>(), written.keys().collect());
    let codes = sandbox.within(&["schema", "--show", "error_codes.json"]).expect(0).stdout;
    for code in ["config_error", "dataset_not_found", "dataset_validation_error", "training_error"] {
        assert!(codes.contains(code), "{codes}");
    }
    let wrong = sandbox.within(&["schema", "--show", "nothing.json"]).expect(2);
    assert!(wrong.stderr.contains("error_codes.json"), "{}", wrong.stderr);
}

#[test]
fn generated_data_are_the_same_bytes_and_the_same_rows_in_both_formats() {
    let sandbox = Sandbox::new();
    for file in ["a.csv", "b.csv", "a.parquet", "b.parquet"] {
        let line = sandbox.within(&["generate", file, "--rows", "700", "--seed", "5", "--json"]).expect(0).last();
        assert_eq!((text(&line, "/event"), number(&line, "/rows")), ("generated", 700.0));
    }
    let read = |name: &str| std::fs::read(sandbox.path(name)).expect("reads");
    assert!(read("a.csv") == read("b.csv") && read("a.parquet") == read("b.parquet"));
    sandbox.within(&["generate", "other.csv", "--rows", "700", "--seed", "6"]).expect(0);
    assert!(read("a.csv") != read("other.csv"), "another seed gives other rows");

    let text = String::from_utf8(read("a.csv")).expect("UTF-8");
    assert_eq!(text.lines().count(), 701);
    // The same job on either file trains the same model.
    let job = |file: &str| {
        let spec = crate::harness::spec(file, 2, "")
            .replace("target: y", "target: ad_score")
            .replace("id_column: id", "id_column: ad_id");
        sandbox.write("job.yaml", spec.replace("  exclude: [class]\n", ""));
        sandbox.within(&["run", "job.yaml", "--json"]).expect(0).last()
    };
    let (csv, parquet) = (job("a.csv"), job("a.parquet"));
    assert_eq!(csv["model"]["blake3"], parquet["model"]["blake3"]);
    assert_eq!(csv["metrics"], parquet["metrics"]);

    let refused = sandbox.within(&["generate", "a.txt"]).expect(2);
    assert!(refused.stderr.contains(".csv or .parquet"), "{}", refused.stderr);
    assert!(!sandbox.path("a.txt").exists());
}
