//! The step cache and dataset versions from outside: what a second run takes from the first, what is told of it, and
//! what `within cache` and `within data` show.

use serde_json::Value;

use crate::harness::{Ended, Sandbox, Server, spec, table, text};

/// The steps of a run, as `step cache` lines; of computed ones with the reason.
fn steps(ended: &Ended) -> Vec<String> {
    let line = |event: Value| {
        let (step, cache) = (text(&event, "/step").to_owned(), text(&event, "/cache").to_owned());
        if cache.ends_with("hit") {
            format!("{step} {cache}")
        } else {
            format!("{step} {cache}: {}", text(&event, "/reason"))
        }
    };
    ended.events("step").into_iter().map(line).collect()
}

fn run(sandbox: &Sandbox, id: &str, more: &[&str]) -> Ended {
    sandbox.within(&[&["run", "job.yaml", "--json", "--id", id], more].concat()).expect(0)
}

fn weights(ended: &Ended) -> String {
    text(&ended.last(), "/model/blake3").to_owned()
}

#[test]
fn a_second_run_takes_what_the_first_has_kept() {
    let sandbox = Sandbox::new();
    sandbox.write("table.csv", table(600));
    sandbox.write("job.yaml", spec("table.csv", 2, ""));
    let first = run(&sandbox, "first", &[]);
    let computed = steps(&first);
    assert_eq!(computed.len(), 5, "{computed:?}");
    assert!(computed.iter().all(|step| step.ends_with("miss: nothing is kept of these files")), "{computed:?}");

    let again = run(&sandbox, "again", &[]);
    assert_eq!(steps(&again), ["prepare hit"]);
    assert_eq!(weights(&again), weights(&first), "the same weights, to the last bit");

    // What is learnt from the data, and how, is no matter of the data.
    let longer = run(&sandbox, "longer", &["--set", "training.epochs=3"]);
    assert_eq!(steps(&longer), ["prepare hit"]);
    assert_ne!(weights(&longer), weights(&first));

    let scaled = run(&sandbox, "scaled", &["--set", "data.preprocessing.scale=min_max"]);
    let reason = "data.preprocessing.scale: \"standard\", now \"min_max\"";
    assert_eq!(
        steps(&scaled),
        ["read hit", "split hit", &format!("fit miss: {reason}"), "shards hit", &format!("prepare miss: {reason}")]
    );

    let forced = run(&sandbox, "forced", &["--force"]);
    let computed = steps(&forced);
    assert!(computed.len() == 5 && computed.iter().all(|step| step.contains(" refresh: ")), "{computed:?}");
    assert_eq!(weights(&forced), weights(&first));
    let off = run(&sandbox, "off", &["--set", "data.cache=off"]);
    assert_eq!((steps(&off).len(), weights(&off)), (0, weights(&first)));
    let wrong = sandbox.within(&["run", "job.yaml", "--set", "data.cache=never"]).expect(2);
    assert!(wrong.stderr.contains("data.cache") && wrong.stderr.contains("refresh"), "{}", wrong.stderr);

    told_to_a_person(&sandbox);
    versions(&sandbox);
    listed_and_pruned(&sandbox, &weights(&first));
}

fn told_to_a_person(sandbox: &Sandbox) {
    let out = sandbox.within(&["run", "job.yaml", "--id", "plain"]).expect(0).stdout;
    assert!(out.contains("prepare: prepare from the cache in "), "{out}");
    let shown = sandbox.within(&["jobs", "show", "scaled"]).expect(0).stdout;
    for part in ["step       read from the cache in ", "step       fit computed in ", "scale: \"standard\", now"] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
}

/// Two versions beside each other, and the line of one.
fn versions(sandbox: &Sandbox) {
    let same = sandbox.within(&["data", "diff", "first", "again", "--json"]).expect(0).last();
    assert_eq!(same["same"], Value::Bool(true), "{same:#}");
    let page = sandbox.path("diff.html");
    let diff = ["data", "diff", "first", "scaled", "--json", "--html", "diff.html"];
    let diff = sandbox.within(&diff).expect(0).last();
    assert_eq!(diff["same"], Value::Bool(false));
    assert_eq!((&diff["rows"]["unchanged"], &diff["rows"]["changed"]), (&Value::from(600), &Value::from(0)));
    assert!(diff["preprocessing"].as_array().is_some_and(|all| !all.is_empty()), "{diff:#}");
    assert!(std::fs::read_to_string(page).expect("a page").contains("Two dataset versions"));

    // By the digits of an id, after rows have gone and one has changed.
    let mut lines: Vec<String> = table(600).lines().map(str::to_owned).collect();
    lines.truncate(500);
    sandbox.write("table.csv", lines.join("\n"));
    let shorter = run(sandbox, "shorter", &[]);
    assert!(steps(&shorter)[0].contains("table.csv has another content"), "{:?}", steps(&shorter));
    let id = text(&diff, "/a/id")[..16].to_owned();
    let diff = sandbox.within(&["data", "diff", &id, "shorter"]).expect(0).stdout;
    for part in ["changed  table.csv  600 -> 499 rows", "0 added, 101 removed", "by sample id", "PSI"] {
        assert!(diff.contains(part), "no {part:?} in\n{diff}");
    }
    let unknown = sandbox.within(&["data", "diff", "nobody", "first"]).expect(2);
    assert!(unknown.stderr.contains("nobody"), "{}", unknown.stderr);

    let lineage = ["data", "lineage", "first", "--json", "--dot", "line.dot", "--svg", "line.svg"];
    let graph = sandbox.within(&lineage).expect(0).last();
    let kinds: Vec<&str> = graph["nodes"].as_array().expect("nodes").iter().map(|node| text(node, "/kind")).collect();
    assert_eq!(kinds, ["source", "dataset", "model", "report"]);
    assert_eq!(graph["edges"].as_array().map(Vec::len), Some(4), "{graph:#}");
    for (file, part) in [("line.dot", "digraph lineage {"), ("line.svg", "table.csv")] {
        let content = std::fs::read_to_string(sandbox.path(file)).expect("is written");
        assert!(content.contains(part), "{content}");
    }
    let show = sandbox.within(&["jobs", "show", "first", "--json"]).expect(0).last();
    let model = text(&show, "/record/completed/model/uri").trim_start_matches("file://").to_owned();
    let of_model = sandbox.within(&["data", "lineage", &model]).expect(0).stdout;
    assert!(of_model.contains("source") && of_model.contains("table.csv") && of_model.contains("train"), "{of_model}");
}

fn listed_and_pruned(sandbox: &Sandbox, first: &str) {
    sandbox.write("table.csv", table(600));
    let listed = sandbox.within(&["cache", "ls", "--json"]).expect(0);
    let listed = listed.json();
    assert!(listed.len() > 5 && listed.iter().all(|entry| entry["tier"] == "local"), "{listed:?}");
    let kept = sandbox.within(&["cache", "prune", "--older-than", "1h", "--json"]).expect(0).last();
    assert_eq!((&kept["removed"], &kept["kept"]), (&Value::from(0), &Value::from(listed.len())));
    let emptied = sandbox.within(&["cache", "prune", "--older-than", "0s", "--json"]).expect(0).last();
    assert_eq!((&emptied["removed"], &emptied["kept"]), (&Value::from(listed.len()), &Value::from(0)));
    assert!(sandbox.within(&["cache", "ls", "--json"]).expect(0).stdout.is_empty());
    let after = run(sandbox, "after", &[]);
    let all = steps(&after);
    assert!(all.iter().all(|step| step.contains(" miss: ")), "{all:?}");
    assert_eq!(weights(&after), first);
}

/// Two hosts that share nothing but the artifact store: the second finds what the first has prepared.
#[test]
fn another_host_finds_what_was_prepared_here() {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("cache: {size_limit_bytes: 100000000}\n");
    sandbox.write("table.csv", table(600));
    sandbox.write("job.yaml", spec("table.csv", 2, ""));
    let others = sandbox.worker("others", "coordinator,trainer,evaluator,tracker,notifier", &[]);
    let submit = |id: &str, more: &[&str]| {
        sandbox.within(&[&["submit", "job.yaml", "--watch", "--json", "--id", id], more].concat()).expect(0)
    };
    let one = sandbox.worker("one", "data_loader", &[]);
    let first = submit("first", &[]);
    assert_eq!(steps(&first).len(), 5);
    drop(one);
    let two = sandbox.worker("two", "data_loader", &[]);
    let second = submit("second", &[]);
    assert_eq!(steps(&second), ["prepare shared_hit"]);
    assert_eq!(weights(&second), weights(&first));
    let scaled = steps(&submit("scaled", &["--set", "data.preprocessing.clip=3.0"]));
    assert_eq!((scaled[0].as_str(), scaled[1].as_str()), ("read shared_hit", "split shared_hit"), "{scaled:?}");
    let home = sandbox.outside("two").display().to_string();
    let listed = sandbox.within(&["cache", "ls", "--json", "--home", &home]).expect(0).json();
    assert!(listed.iter().any(|entry| entry["tier"] == "shared"), "{listed:?}");
    drop((two, others));
}
