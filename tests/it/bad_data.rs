//! Wrong data: each is told on the terminal and in the `failed` event, by file, line and column, with
//! what was expected; nothing is left half-written.

use std::os::unix::fs::symlink;

use serde_json::Value;

use crate::harness::{Sandbox, Server, artifacts, file_of, number, spec, table, text};

/// A wrong file or job, and what must be said.
struct Case {
    name: &'static str,
    /// Content of `<name>.csv`; none: the file is there by other means, or is not there.
    data: Option<Vec<u8>>,
    /// Values set on top of the usual job.
    set: &'static [&'static str],
    class: &'static str,
    code: &'static str,
    /// Parts of message and hint.
    says: &'static [&'static str],
}

fn wrong(name: &'static str, data: impl Into<Vec<u8>>, says: &'static [&'static str]) -> Case {
    Case { name, data: Some(data.into()), set: &[], class: "data", code: "dataset_validation_error", says }
}

impl Case {
    fn set(self, set: &'static [&'static str]) -> Self {
        Self { set, ..self }
    }

    fn code(self, class: &'static str, code: &'static str) -> Self {
        Self { class, code, ..self }
    }

    fn no_file(self) -> Self {
        Self { data: None, ..self }
    }
}

/// The usual table with one line changed. Lines count from 1, with the header.
fn with_line(line: usize, content: &[u8]) -> Vec<u8> {
    let usual = table(60);
    let lines =
        usual.lines().enumerate().map(|(index, text)| if index + 1 == line { content } else { text.as_bytes() });
    lines.flat_map(|line| [line, b"\n"].concat()).collect()
}

fn header() -> String {
    table(0)
}

/// The usual rows with another value in one column.
fn with_column(column: usize, value: impl Fn(usize) -> String) -> String {
    let usual = table(60);
    let changed = usual.lines().skip(1).enumerate().map(|(row, line)| {
        let mut fields: Vec<String> = line.split(',').map(str::to_owned).collect();
        fields[column] = value(row);
        fields.join(",") + "\n"
    });
    header() + &changed.collect::<String>()
}

const CLASSES: &[&str] = &["task=binary_classification", "data.target.column=class", "data.exclude=[y]"];
const MANY_CLASSES: &[&str] = &["task=multiclass", "data.target.column=class", "data.exclude=[y]"];

/// In the order in which they run.
fn cases() -> Vec<Case> {
    [files(), values(), targets(), outside(), vec![too_few_for_a_batch()]].into_iter().flatten().collect()
}

/// Files that are no table.
fn files() -> Vec<Case> {
    let usual = || table(60);
    vec![
        wrong("missing", "", &["missing.csv", "no such file", "mising.csv"])
            .no_file()
            .code("data", "dataset_not_found"),
        wrong("empty", "", &["empty.csv", "is empty"]),
        wrong("header_only", header(), &["header_only.csv", "no rows"]),
        wrong(
            "semicolons",
            usual().replace(',', ";"),
            &["semicolons.csv", "line 1", "one column", "data.csv.delimiter"],
        ),
        wrong("too_few_fields", with_line(5, b"r3,0.5,0.5"), &["too_few_fields.csv line 5", "3 fields, expected 6"]),
        wrong(
            "too_many_fields",
            with_line(7, b"r5,1,1,red,1,good,extra"),
            &["too_many_fields.csv line 7", "7 fields, expected 6"],
        ),
        wrong(
            "same_column_twice",
            usual().replacen("age", "size", 1),
            &["same_column_twice.csv", "\"size\"", "stands twice", "column 2 and column 3"],
        ),
        wrong("latin1", with_line(4, b"r2,0.5,0.5,gr\xfcn,1,good"), &["latin1.csv line 4", "0xfc", "not UTF-8"]),
        wrong("utf16", b"\xff\xfei\0d\0".as_slice(), &["utf16.csv", "UTF-16", "UTF-8"]),
        wrong("parquet_named_csv", b"PAR1....PAR1".as_slice(), &["parquet_named_csv.csv", "a Parquet file"]),
    ]
}

/// Tables with values that cannot be used.
fn values() -> Vec<Case> {
    vec![
        wrong("infinite", with_line(9, b"r7,inf,0.5,red,1,good"), &["infinite.csv line 9", "\"size\"", "not finite"]),
        wrong("overflow", with_line(10, b"r8,1e999,0.5,red,1,good"), &["overflow.csv line 10", "\"size\"", "3.4e38"]),
        wrong("one_row", table(1), &["train part is empty after the split", "1 rows"]),
        wrong("same_id_twice", with_line(9, b"r3,0.5,0.5,red,1,good"), &["\"id\"", "row 4", "row 8"]),
    ]
}

/// Targets from which nothing can be learned.
fn targets() -> Vec<Case> {
    let usual = || table(60);
    vec![
        wrong(
            "nan_target",
            with_line(6, b"r4,0.5,0.5,red,NaN,good"),
            &["nan_target.csv line 6", "\"y\"", "missing", "target"],
        ),
        wrong(
            "empty_target",
            with_line(6, b"r4,0.5,0.5,red,,good"),
            &["empty_target.csv line 6", "\"y\"", "missing", "target"],
        ),
        wrong(
            "text_target",
            with_line(8, b"r6,0.5,0.5,red,much,good"),
            &["text_target.csv line 8", "\"y\"", "\"much\" is not a number"],
        ),
        wrong("no_target", usual(), &["no_target.csv", "\"why\"", "no such column", "data.target.column"])
            .set(&["data.target.column=why"]),
        wrong("near_target", usual(), &["\"clas\"", "did you mean \"class\"?"]).set(&["data.target.column=clas"]),
        wrong("constant_target", with_column(4, |_| "3.5".into()), &["\"y\"", "is 3.5 in all", "at least two values"]),
        wrong("one_class", with_column(5, |_| "good".into()), &["\"class\"", "one class, \"good\"", "at least two"])
            .set(CLASSES),
        wrong(
            "more_classes_than_rows",
            with_column(5, |row| format!("c{row}")),
            &["\"class\"", "60 classes in 60 rows"],
        )
        .set(MANY_CLASSES),
        wrong(
            "three_classes",
            with_column(5, |row| format!("c{}", row % 3)),
            &["\"class\"", "3 classes, expected two"],
        )
        .set(CLASSES),
    ]
}

/// What is no file, or lies where jobs may not read.
fn outside() -> Vec<Case> {
    vec![
        wrong("folder", "", &["folder.csv", "is a folder"]).no_file().code("data", "dataset_not_found"),
        wrong("link_out", "", &["link_out.csv", "outside the data roots"]).no_file().code("spec", "forbidden"),
        wrong("absolute", "", &["outside the data roots"]).no_file().code("spec", "forbidden"),
        wrong("link_of_folder", "", &["door/secret.csv", "outside the data roots"])
            .no_file()
            .code("spec", "forbidden")
            .set(&["data.path=door/secret.csv"]),
    ]
}

/// The data are right, and no batch can be made of them: the last case, because a dataset is made.
fn too_few_for_a_batch() -> Case {
    wrong("huge_batch", table(60), &["rows", "no batch of 5000"])
        .set(&["training.batch_size=5000", "data.drop_last=true"])
}

/// What is there for the cases without content.
fn prepare(sandbox: &Sandbox) {
    sandbox.write("mising.csv", "the nearest name");
    std::fs::create_dir(sandbox.path("folder.csv")).expect("creates");
    let secret = sandbox.outside("secret.csv");
    std::fs::write(&secret, table(60)).expect("writes");
    symlink(&secret, sandbox.path("link_out.csv")).expect("links");
    symlink(sandbox.outside(""), sandbox.path("door")).expect("links");
}

fn check(case: &Case, told: &Value) {
    let said = format!("{} {}", text(told, "/message"), told["hint"].as_str().unwrap_or_default());
    assert_eq!((text(told, "/class"), text(told, "/code")), (case.class, case.code), "{}: {said}", case.name);
    for part in case.says {
        assert!(said.contains(part), "{}: no {part:?} in {said:?}", case.name);
    }
    for leak in ["panicked", "backtrace", "RUST_", "thread '"] {
        assert!(!said.contains(leak), "{}: {said}", case.name);
    }
}

#[test]
fn wrong_data_are_told_by_file_line_and_column() {
    let server = Server::start();
    let sandbox = Sandbox::at(&server, "default");
    sandbox.share_store("");
    prepare(&sandbox);
    let _worker = sandbox.worker("alone", "all", &[]);
    let bus = server.connect("default");
    for case in cases() {
        let file = match (case.name, &case.data) {
            ("absolute", _) => sandbox.outside("secret.csv").display().to_string(),
            (name, None) => format!("{name}.csv"),
            (name, Some(content)) => {
                sandbox.write(&format!("{name}.csv"), content);
                format!("{name}.csv")
            }
        };
        sandbox.write("job.yaml", spec(&file, 2, ""));
        let mut arguments = vec!["submit", "job.yaml", "--watch", "--json", "--id", case.name];
        for set in case.set {
            arguments.extend(["--set", *set]);
        }
        let last = sandbox.within(&arguments).expect(1).last();
        assert_eq!((text(&last, "/event"), text(&last, "/job")), ("failed", case.name));
        check(&case, &last);
        let events = server.events(&bus, case.name);
        let event = events.last().expect("events");
        assert_eq!(text(event, "/type"), "within.job.failed");
        check(&case, &event["data"]["error"]);
        assert_eq!(event["data"]["error"]["retry"], false, "{}: what is wrong stays wrong", case.name);
        assert!(!events.iter().any(|event| event["data"]["event"] == "task_retried"), "{}", case.name);
        let left = artifacts(&sandbox.outside("store"));
        // Steps that succeeded before the mistake was found are kept.
        let made = |file: &String| {
            file.starts_with("cache/steps/") || case.name == "huge_batch" && file.starts_with("dataset/")
        };
        assert!(left.iter().all(made), "{}: half-written: {left:?}", case.name);
    }
}

#[test]
fn a_person_is_told_without_a_backtrace() {
    let sandbox = Sandbox::new();
    sandbox.write("bad.csv", with_line(5, b"r3,0.5,0.5"));
    sandbox.write("job.yaml", spec("bad.csv", 2, ""));
    let ended = sandbox.within(&["run", "job.yaml", "--id", "bad"]).expect(1);
    let said = ended.all_text();
    for part in ["failed: ", "bad.csv line 5", "3 fields, expected 6", "[data/dataset_validation_error]"] {
        assert!(said.contains(part), "no {part:?} in\n{said}");
    }
    assert!(!said.contains("panicked") && !said.contains("stack"), "{said}");
    assert_eq!(artifacts(&sandbox.home().join("store")), Vec::<String>::new());
    let shown = sandbox.within(&["jobs", "show", "bad"]).expect(0).stdout;
    assert!(shown.contains("state      failed") && shown.contains("bad.csv line 5"), "{shown}");
}

/// What looks wrong and is not: values that only val and test have, missing values, a byte order mark.
#[test]
fn a_category_that_train_has_not_seen_fails_nothing() {
    let sandbox = Sandbox::new();
    // By time: the last rows, and only they, are of a new kind, and some values are missing.
    let rows = table(200);
    let changed = rows.lines().enumerate().map(|(index, line)| match index {
        0 => format!("\u{feff}{line},day\n"),
        150.. => {
            format!("{},{index}\n", line.replace("red", "violet").replace("green", "violet").replace("blue", "violet"))
        }
        _ if index % 10 == 0 => {
            let fields: Vec<&str> = line.split(',').collect();
            format!("{},NaN,{},{index}\n", fields[0], fields[2..].join(","))
        }
        _ => format!("{line},{index}\n"),
    });
    sandbox.write("drift.csv", changed.collect::<String>());
    sandbox.write("job.yaml", spec("drift.csv", 3, ""));
    let by_time = ["--set", "data.split.strategy=time", "--set", "data.split.time_column=day"];
    let last = sandbox.within(&[&["run", "job.yaml", "--json"][..], &by_time].concat()).expect(0).last();
    assert!(number(&last, "/metrics/test/rmse").is_finite(), "{last:#}");
    assert!(file_of(&last["model"]["uri"]).exists());
}
