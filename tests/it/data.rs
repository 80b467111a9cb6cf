//! `within data`, and jobs whose data are validated.

use serde_json::Value;

use crate::harness::{Sandbox, number, spec, table, text};

const SCHEMA: &str = r#"{"name": "sizes", "severity": "quarantine", "column_types": {"size": "number", "y": "number"},
    "value_ranges": {"size": {"min": 0}}, "unique": [{"columns": ["id"], "severity": "fail"}]}"#;

/// A table in which two rows break a rule of [`SCHEMA`].
fn spoilt() -> String {
    let mut lines: Vec<String> = table(200).lines().map(str::to_owned).collect();
    for line in [5, 50] {
        let mut fields: Vec<&str> = lines[line].split(',').collect();
        fields[1] = "-3";
        lines[line] = fields.join(",");
    }
    lines.join("\n") + "\n"
}

#[test]
fn files_are_held_against_a_schema() {
    let sandbox = Sandbox::new();
    sandbox.write("ads.csv", spoilt());
    sandbox.write("schema.json", SCHEMA);
    let run = |arguments: &[&str]| sandbox.within(&[&["data", "validate"], arguments].concat());
    let passed = run(&["ads.csv", "--schema", "schema.json", "--report", "out", "--json"]).expect(0);
    let end = passed.last();
    assert_eq!((text(&end, "/event"), &end["passed"]), ("validated", &Value::Bool(true)));
    assert_eq!(number(&end, "/quarantined_rows"), 2.0);
    let violation = passed.json().into_iter().find(|line| line["event"] == "violation").expect("a violation");
    assert_eq!((text(&violation, "/type"), number(&violation, "/count")), ("out_of_range", 2.0));
    assert_eq!(number(&violation, "/examples/0/line"), 6.0);
    for file in ["report.json", "report.html", "quarantined_rows.parquet"] {
        assert!(sandbox.path("out").join(file).exists(), "{file}");
    }

    sandbox.write("schema.json", SCHEMA.replace("quarantine", "fail"));
    let failed = run(&["ads.csv", "--schema", "schema.json"]).expect(1);
    assert!(failed.stdout.contains("ads.csv line 6, column \"size\": \"-3\", expected >= 0"), "{}", failed.stdout);

    assert!(run(&["ads.csv"]).expect(2).stderr.contains("ad_performance"));
    assert!(run(&["none.csv", "--schema", "schema.json"]).expect(2).stderr.contains("no such file"));
    sandbox.write("schema.json", "{\"colum_types\": {}}");
    let wrong = run(&["ads.csv", "--schema", "schema.json"]).expect(2);
    assert!(
        wrong.stderr.contains("schema.json: line 1: colum_types") && wrong.stderr.contains("column_types"),
        "{}",
        wrong.stderr
    );
}

#[test]
fn a_profile_needs_nothing_but_the_file() {
    let sandbox = Sandbox::new();
    sandbox.write("odd.txt", "id;label;pay\r\n1;Yes;999\r\n2;yes ;3\r\n3;no;999\r\n3;no;999\r\n4;?;5\r\n");
    let lines = sandbox.within(&["data", "profile", "odd.txt", "--json"]).expect(0).json();
    let kinds: Vec<&str> =
        lines.iter().filter(|line| line["event"] == "finding").map(|line| text(line, "/kind")).collect();
    for kind in ["crlf_line_endings", "delimiter", "duplicate_rows", "surrounding_blanks"] {
        assert!(kinds.contains(&kind), "no {kind} among {kinds:?}");
    }
    assert_eq!(number(lines.last().expect("an end"), "/rows"), 5.0);
}

#[test]
fn a_job_leaves_out_quarantined_rows_and_names_its_reports() {
    let sandbox = Sandbox::new();
    sandbox.write("ads.csv", spoilt());
    sandbox.write("schema.json", SCHEMA);
    let job = |more: &str| spec("ads.csv", 2, "").replace("  id_column: id\n", &format!("  id_column: id\n{more}"));
    sandbox.write("job.yaml", job("  validation: schema.json\n"));
    let events = sandbox.within(&["run", "job.yaml", "--json"]).expect(0).json();
    let completed = events.iter().find(|event| event["event"] == "completed").expect("completed");
    for report in ["validation_report", "validation_page", "quarantined_rows"] {
        let uri = text(completed, &format!("/data_reports/{report}"));
        assert!(std::path::Path::new(uri.trim_start_matches("file://")).exists(), "{uri}");
    }

    sandbox.write("job.yaml", job("  validation: {schema: schema.json, on_violation: fail}\n"));
    let failed = sandbox.within(&["run", "job.yaml", "--json"]).expect(1).last();
    assert_eq!(text(&failed, "/code"), "dataset_validation_error");
    let message = text(&failed, "/message");
    assert!(message.contains("ads.csv line 6, column \"size\"") && message.contains("2 in all"), "{message}");
    assert!(text(&failed, "/hint").contains("validation_report.html"), "{failed:#}");
}

#[test]
fn a_table_beyond_the_memory_limit_is_prepared_all_the_same() {
    let sandbox = Sandbox::new();
    sandbox.write("ads.csv", table(200_000));
    sandbox.write("job.yaml", spec("ads.csv", 1, ""));
    let parts = |name: &str| {
        sandbox.within(&["data", "split", "job.yaml", "--write", name]).expect(0);
        std::fs::read_to_string(sandbox.path(name)).expect("parts")
    };
    let with_all_memory = parts("all.csv");
    assert_eq!(with_all_memory.lines().count(), 200_001);
    // Half of it is for large vectors, of which there are four of 1.6 MB, and room to grow.
    sandbox.write("within.yaml", "memory_limit_bytes: 8388608\n");
    assert!(parts("little.csv") == with_all_memory, "other parts");

    std::fs::remove_dir_all(sandbox.home().join("scratch")).expect("was made");
    std::fs::write(sandbox.home().join("scratch"), "no folder").expect("written");
    let told = sandbox.within(&["data", "split", "job.yaml"]).expect(0);
    assert!(told.stderr.contains("so that memory did: Not a directory"), "{}", told.stderr);
    sandbox.write("within.yaml", "memory_limit_bytes: 6291456\n");
    let failed = sandbox.within(&["data", "split", "job.yaml"]).expect(2);
    for part in ["ads.csv: the columns that are read take more than the 6291456 bytes", "cannot take the rest"] {
        assert!(failed.stderr.contains(part), "{}", failed.stderr);
    }
}
