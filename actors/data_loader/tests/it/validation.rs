//! Schemas against small tables: what each rule finds, what becomes of it, and how a mistake in a schema is told.

use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use messages::error::Code;
use messages::feed::Split;
use messages::plan::{DataPlan, OnViolation, Task};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;
use within_data_loader::validate::{Checked, builtin, check, outcome, parse_schema};

use crate::plan::{Root, data_plan};

const DAY_MS: u64 = 86_400_000;

fn checked(schema: &str, files: &[(&str, &str)], change: impl Fn(&mut DataPlan)) -> Checked {
    let bytes: Vec<(&str, &[u8])> = files.iter().map(|(name, text)| (*name, text.as_bytes())).collect();
    let root = Root::new(&bytes);
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let mut plan = data_plan(&names, "y");
    change(&mut plan);
    let schema = builtin::schema(schema).unwrap_or_else(|| parse_schema("schema.json", schema).expect("a schema"));
    // 2021-02-01.
    check(&plan, Some(&schema), &root.roots(), 18_659 * DAY_MS, &CancellationToken::new()).expect("the files are read")
}

/// Every violation and what could not be checked, a line each.
fn told(checked: &Checked) -> String {
    let mut text = String::new();
    for found in &checked.report.schema_violations {
        text.push_str(&format!("{}: {}\n", found.severity.as_str(), outcome::line(found)));
    }
    for why in &checked.report.not_checked {
        text.push_str(&format!("not checked: {why}\n"));
    }
    text
}

fn finds(schema: &str, table: &str, expected: Expect) {
    expected.assert_eq(&told(&checked(schema, &[("a.csv", table)], |_| ())));
}

#[test]
fn types_are_held() {
    finds(
        r#"{"column_types": {"i": "integer", "n": "number", "b": "boolean", "d": "date", "t": "text"}}"#,
        "i,n,b,d,t\n1,1.5,true,2021-01-25,x\n1.0,-2e3,0,2021-01-25 10:00,\n,,NA,,\n1.5,x,maybe,25.1.2021,1\ny,nan,2,2021-02-30,2\n",
        expect![[r#"
            fail: a.csv line 5, column "i": "1.5", expected a whole number (wrong_type; 2 in all)
            fail: a.csv line 5, column "n": "x", expected a number (wrong_type; 2 in all)
            fail: a.csv line 5, column "b": "maybe", expected true or false (wrong_type; 2 in all)
            fail: a.csv line 5, column "d": "25.1.2021", expected a date such as 2021-01-25, or with a time (wrong_type; 2 in all)
        "#]],
    );
}

#[test]
fn ranges_and_allowed_values_are_held() {
    finds(
        r#"{"column_types": {"d": "date"}, "value_ranges": {"n": {"min": 0, "exclusive_max": 10}, "d": {"min": "2021-01-01"},
           "c": {"allowed": ["red", "green"]}, "k": {"allowed": [1, 2]}}}"#,
        "n,d,c,k\n0,2021-01-01,red,1\n10,2020-12-31,Red,2.0\n-0.5,2021-01-02,blue,3\n,,,\n9.9,2022-01-01, green ,x\n",
        expect![[r#"
            fail: a.csv line 3, column "n": "10", expected >= 0 and < 10 (out_of_range; 2 in all)
            fail: a.csv line 3, column "d": "2020-12-31", expected >= 2021-01-01 (out_of_range)
            fail: a.csv line 3, column "c": "Red", expected one of "red", "green" (not_allowed; 2 in all)
            fail: a.csv line 4, column "k": "3", expected one of "1", "2" (not_allowed; 2 in all)
        "#]],
    );
}

#[test]
fn presence_patterns_and_uniqueness_are_held() {
    finds(
        r#"{"required_columns": ["a", "qqq"], "not_null": ["a"], "patterns": {"a": "^[a-z]+$"},
           "unique": ["a", ["a", "b"]], "null_share": {"b": 0.3}, "row_count": {"min": 10, "severity": "warn"}}"#,
        "a,b\nx,1\nx,1\nX,2\n,3\nx,\ny,\n",
        expect![[r#"
            fail: column "qqq": no column "qqq", expected this column (missing_column)
            fail: a.csv line 5, column "a": "", expected a value in each row (missing_value)
            fail: a.csv line 4, column "a": "X", expected a text that matches ^[a-z]+$ (pattern_mismatch)
            fail: a.csv line 3, column "a": "x", as in row 1 of the table, expected a value of its own in each row (not_unique; 2 in all)
            fail: a.csv line 3, column "a": a = "x", b = "1", as in row 1 of the table, expected a value of its own in each row (not_unique)
            fail: column "b": 2 of 6 values are missing (33.3 %), expected at most 30 % missing (too_many_missing)
            warn: 6 rows, expected at least 10 rows (row_count)
        "#]],
    );
}

#[test]
fn conditions_are_held_and_missing_values_break_none() {
    finds(
        r#"{"column_types": {"start": "date", "end": "date", "clicks": "integer", "views": "integer"},
           "expressions": ["end >= start", {"expression": "clicks / views <= 0.5 or views = 0", "name": "rate", "severity": "warn"}]}"#,
        "start,end,clicks,views\n2021-01-02,2021-01-01,1,2\n2021-01-02,2021-01-02,1,1\n,2021-01-01,5,0\n2021-01-02,,,1\n",
        expect![[r#"
            fail: a.csv line 2, column "end": end = "2021-01-01", start = "2021-01-02", expected end >= start (condition_false)
            warn: a.csv line 3, column "clicks": clicks = "1", views = "1", expected clicks / views <= 0.5 or views = 0 (condition_false)
        "#]],
    );
}

#[test]
fn freshness_counts_from_now_or_from_a_date() {
    let table = "d\n2021-01-01\n2021-01-20\n";
    let schema = |more: &str| format!(r#"{{"column_types": {{"d": "date"}}, "freshness": {{"column": "d", {more}}}}}"#);
    finds(
        &schema(r#""max_age_days": 10"#),
        table,
        expect![[r#"
            fail: column "d": the newest date is 2021-01-20, 12.0 days old, expected a newest date at most 10 days old (stale)
        "#]],
    );
    finds(&schema(r#""max_age_days": 12"#), table, expect![[""]]);
    finds(&schema(r#""max_age_days": 1, "as_of": "2021-01-21""#), table, expect![[""]]);
}

#[test]
fn columns_that_no_schema_names() {
    finds(
        r#"{"allow_extra_columns": false, "severities": {"unexpected_column": "warn"}, "column_types": {"a": "text", "b": "number"},
           "value_ranges": {"bb": {"min": 0}}}"#,
        "a,bbb,c\n1,2,3\n",
        expect![[r#"
            warn: column "bbb", expected no column that the schema does not name (unexpected_column; 2 in all)
            not checked: b is number: "b" is no such column (did you mean "bbb"?)
            not checked: bb >= 0: "bb" is no such column (did you mean "bbb"?)
        "#]],
    );
}

#[test]
fn raters_must_agree() {
    let agreeing = "ad_id,rater_id,rating\n1,a,10\n1,b,12\n2,a,80\n2,b,85\n3,a,50\n3,b,45\n";
    assert!(checked("annotated_ads", &[("a.csv", agreeing)], |_| ()).report.passed);
    let not = agreeing.replace("1,b,12", "1,b,90").replace("2,b,85", "2,b,5");
    finds(
        "annotated_ads",
        &not,
        expect![[r#"
            fail: column "ad_id": krippendorff_alpha is -0.6507, expected krippendorff_alpha of at least 0.667 (low_agreement)
            not checked: rated_at is date: "rated_at" is an optional column that is not there
            not checked: explanation is text: "explanation" is an optional column that is not there
        "#]],
    );
}

#[test]
fn the_rules_of_the_specification() {
    finds(
        "ad_performance",
        "ad_id,platform,impressions,clicks,conversions,spend,start_date,end_date\n\
         1,fb,100,5,1,2.5,2021-01-01,2021-01-02\n\
         2,fb,-1,5,,2.5,2021-01-01,2021-01-02\n\
         3,fb,100,-5,1,-0.01,2021-01-03,2021-01-02\n\
         4,,100,5,9,2.5,2021-01-01,2021-01-01\n\
         5,fb,10,50,1,x,,2021-01-02\n",
        expect![[r#"
            fail: a.csv line 6, column "spend": "x", expected a number (wrong_type)
            fail: a.csv line 5, column "platform": "", expected a value in each row (missing_value)
            fail: a.csv line 6, column "start_date": "", expected a value in each row (missing_value)
            fail: a.csv line 3, column "impressions": "-1", expected >= 0 (out_of_range)
            fail: a.csv line 4, column "clicks": "-5", expected >= 0 (out_of_range)
            fail: a.csv line 4, column "spend": "-0.01", expected >= 0 (out_of_range)
            fail: a.csv line 4, column "end_date": end_date = "2021-01-02", start_date = "2021-01-03", expected end_date >= start_date (condition_false)
            warn: a.csv line 3, column "clicks": clicks = "5", impressions = "-1", expected clicks <= impressions (condition_false; 2 in all)
            warn: a.csv line 4, column "conversions": conversions = "1", clicks = "-5", expected conversions <= clicks (condition_false; 2 in all)
            warn: a.csv line 3, column "spend": spend = "2.5", impressions = "-1", expected spend = 0 or impressions > 0 (condition_false)
        "#]],
    );
}

#[test]
fn all_violations_are_counted_and_the_first_are_kept() {
    let mut table = String::from("n\n");
    for row in 0..50_000 {
        table.push_str(if row % 2 == 0 { "1\n" } else { "-1\n" });
    }
    let schema = r#"{"value_ranges": {"n": {"min": 0}}}"#;
    let found = checked(schema, &[("a.csv", &table)], |_| ());
    let range = &found.report.schema_violations[0];
    assert_eq!((range.count, range.examples.len()), (25_000, 20));
    assert_eq!(range.examples[0].line, Some(3));
    let error = found.report.verdict().expect_err("it fails");
    assert_eq!(error.code, Code::DatasetValidationError);
    assert!(
        error.message.contains("a.csv line 3, column \"n\": \"-1\", expected >= 0 (out_of_range; 25000 in all)"),
        "{error}"
    );
    // Machine-readable, with the keys that the specification names.
    let report: serde_json::Value = serde_json::from_slice(&found.report.to_json()).expect("JSON");
    assert_eq!(report["schema_violations"][0]["type"], "out_of_range");
    assert_eq!(report["schema_violations"][0]["count"], 25_000);
    assert_eq!(report["schema_violations"][0]["examples"][0]["line"], 3);
}

#[test]
fn broken_files_are_violations_too() {
    let schema = r#"{"column_types": {"a": "number"}}"#;
    let files = [("a.csv", "a,b\n1,2\n1\n3,4\n"), ("b.csv", "a,c\n1,2\n")];
    let found = checked(schema, &files, |_| ());
    assert!(!found.report.passed);
    expect![[r"
            fail: a.csv line 3: 1 fields, expected 2, expected rows that can be read, of the same columns in each file (unreadable; 3 in all)
        "]].assert_eq(&told(&found));
}

const QUARANTINE: &str = r#"{"severity": "quarantine", "column_types": {"x": "number", "y": "number"},
    "value_ranges": {"x": {"min": 0}}, "not_null": ["y"]}"#;

fn table() -> String {
    let mut table = String::from("x,y,c\n");
    for row in 0..60 {
        let x = if row % 10 == 3 { "-1".to_owned() } else { row.to_string() };
        let y = if row % 20 == 7 { String::new() } else { (row * 2).to_string() };
        table.push_str(&format!("{x},{y},{}\n", ["a", "b"][row % 2]));
    }
    table
}

#[test]
fn quarantined_rows_are_kept_and_the_rest_becomes_the_dataset() {
    let found = checked(QUARANTINE, &[("a.csv", &table())], |_| ());
    assert!(found.report.passed);
    assert_eq!(found.report.quarantined_rows, 9);
    let file = std::fs::File::open(found.quarantine.as_ref().expect("rows").path()).expect("opens");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("reads");
    let batches: Vec<_> = reader.map(|batch| batch.expect("a batch")).collect();
    let rows: usize = batches.iter().map(arrow_array::RecordBatch::num_rows).sum();
    assert_eq!(rows, 9);
    let names: Vec<_> = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["within.file", "within.line", "within.reasons", "x", "y", "c"]);

    let root = Root::new(&[("a.csv", table().as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    plan.validation.schema = Some(QUARANTINE.to_owned());
    let prepared = root.prepare(&plan, Task::Regression).expect("the others are good");
    assert_eq!(Split::ALL.map(|split| prepared.rows(split)).iter().sum::<usize>(), 51);
    assert!(prepared.warnings()[0].contains("9 of 60 rows (15 %)"), "{:?}", prepared.warnings());
    // Without the schema the same table is refused: a target is missing.
    plan.validation.schema = None;
    assert!(root.prepare(&plan, Task::Regression).is_err());
}

#[test]
fn a_dataset_without_its_bad_rows_is_that_of_a_file_without_them() {
    let good: String = {
        let table = table();
        let keep = |(row, line): &(usize, &str)| *row == 0 || !(line.starts_with("-1,") || line.contains(",,"));
        table.lines().enumerate().filter(keep).map(|(_, line)| format!("{line}\n")).collect()
    };
    let prepared = |text: &str, schema: Option<&str>| {
        let root = Root::new(&[("a.csv", text.as_bytes())]);
        let mut plan = data_plan(&["a.csv"], "y");
        plan.validation.schema = schema.map(str::to_owned);
        let prepared = root.prepare(&plan, Task::Regression).expect("good");
        let manifest = crate::plan::manifest(&prepared);
        (manifest.features, Split::ALL.map(|split| crate::plan::encoded(&prepared, split).features))
    };
    assert_eq!(prepared(&table(), Some(QUARANTINE)), prepared(&good, None));
}

#[test]
fn what_happens_is_by_the_rule_or_by_the_job() {
    let bad = "x,y\n1,2\n-1,3\n5,4\n";
    for (on_violation, passed, left_out) in [
        (OnViolation::ByRule, true, 1),
        (OnViolation::Fail, false, 0),
        (OnViolation::Quarantine, true, 1),
        (OnViolation::Warn, true, 0),
    ] {
        let found = checked(QUARANTINE, &[("a.csv", bad)], |plan| plan.validation.on_violation = on_violation);
        assert_eq!((found.report.passed, found.report.quarantined_rows), (passed, left_out), "{on_violation:?}");
    }
    let root = Root::new(&[("a.csv", bad.as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    plan.validation.schema = Some(QUARANTINE.to_owned());
    plan.validation.on_violation = OnViolation::Fail;
    let error = root.prepare(&plan, Task::Regression).expect_err("it fails");
    assert_eq!(error.code, Code::DatasetValidationError);
    assert!(error.message.contains("line 3, column \"x\": \"-1\", expected >= 0"), "{error}");
}

#[test]
fn a_schema_is_named_built_in_below_a_root_or_inline() {
    let root = Root::new(&[
        ("a.csv", b"x,y\n1,2\n"),
        ("s.json", QUARANTINE.as_bytes()),
        ("bad.json", b"{\"colum_types\": {}}"),
    ]);
    let mut plan = data_plan(&["a.csv"], "y");
    let mut error = |schema: &str| {
        plan.validation.schema = Some(schema.to_owned());
        root.prepare(&plan, Task::Regression).expect_err(schema)
    };
    let unknown = error("ad_perfomance");
    assert!(
        unknown.hint.as_deref().is_some_and(|hint| hint.contains("did you mean \"ad_performance\"?")),
        "{unknown:?}"
    );
    let bad = error("bad.json");
    assert_eq!(bad.code, Code::ConfigError);
    assert!(bad.message.starts_with("bad.json: line 1: colum_types: unknown key"), "{bad}");
    assert!(bad.message.contains("did you mean \"column_types\"?"), "{bad}");
    assert_eq!(error("../outside.json").code, Code::Forbidden);
}

#[test]
fn mistakes_in_a_schema_are_told_all_at_once() {
    let schema = r#"{
  "column_types": {"a": "intger", "d": "date", "t": "text"},
  "required_columns": "a",
  "value_ranges": {"a": {"min": "x"}, "b": {"minimum": 1}, "c": {"min": 2, "max": 1}, "t": {"min": 1}, "d": {"min": 3}},
  "expressions": ["d >= e", "d > 1", 7],
  "null_share": {"a": 2},
  "severities": {"row_count": "quarantine", "zzz": "fail"},
  "row_count": {"min": -1},
  "freshness": {"column": "a", "max_age_days": 1},
  "agreement": {"item": "a", "rater": "b", "rating": "c", "measure": "alpha"},
  "severity": "eror"
}"#;
    let error = parse_schema("schema.json", schema).expect_err("wrong");
    expect![[r#"
        schema.json: line 11: severity: expected one of warn, quarantine, fail, found "eror"
        schema.json: line 7: severities.row_count: expected fail or warn: row_count is no row's fault, so none can be left out
        schema.json: line 7: severities.zzz: expected one of missing_column, unexpected_column, wrong_type, missing_value, out_of_range, not_allowed, pattern_mismatch, not_unique, condition_false, too_many_missing, row_count, stale, low_agreement, unreadable
        schema.json: line 2: column_types.a: expected one of integer, int, number, numeric, float, text, string, category, boolean, bool, date, datetime, timestamp, found "intger" (did you mean "integer"?)
        schema.json: line 3: required_columns: expected a list of texts, found "a"
        schema.json: line 4: value_ranges.a.min: expected a number, found "x"
        schema.json: line 4: value_ranges.b.minimum: unknown key: expected one of min, max, exclusive_min, exclusive_max, allowed, severity (did you mean "min"?)
        schema.json: line 4: value_ranges.b: expected at least one of min, max, exclusive_min, exclusive_max, allowed
        schema.json: line 4: value_ranges.c: the least value is above the greatest
        schema.json: line 4: value_ranges.t.min: expected no bound: the column is declared to hold no numbers or dates, found 1
        schema.json: line 4: value_ranges.d.min: expected a date such as "2021-01-25", found 3
        schema.json: line 5: expressions[0]: character 6 of "d >= e": "e" is no column with a type in column_types
        schema.json: line 5: expressions[1]: character 5 of "d > 1": is a number, but is compared with a date
        schema.json: line 5: expressions[2]: expected a text, found 7
        schema.json: line 6: null_share.a: expected a share from 0 to 1, found 2
        schema.json: line 8: row_count.min: expected a whole number from 0, found -1
        schema.json: line 8: row_count: expected min, max or both, min not above max
        schema.json: line 9: freshness.column: "a" is not declared date in column_types
        schema.json: line 10: agreement.measure: expected one of krippendorff_alpha, fleiss_kappa, found "alpha"
        schema.json: line 10: agreement.min: missing: the least agreement, such as 0.667"#]].assert_eq(&error.message);
}

#[test]
fn a_pattern_that_is_none_is_told() {
    let error = parse_schema("schema.json", "{\n\"patterns\": {\"a\": \"(\"}}").expect_err("wrong");
    assert!(error.message.starts_with("schema.json: line 2: patterns.a: not a pattern:"), "{error}");
    assert!(error.message.contains("unclosed group"), "{error}");
    let empty = parse_schema("schema.json", "{\"unique\": [[]]}").expect_err("wrong");
    assert_eq!(empty.message, "schema.json: line 1: unique: expected at least one column");
}

/// A schema with every key, to be mutated.
const WHOLE: &str = r#"{"name": "n", "version": 1, "severity": "warn", "severities": {"wrong_type": "fail"}, "null_values": ["?"],
    "required_columns": ["a"], "allow_extra_columns": false, "column_types": {"a": "integer", "b": {"type": "date"}},
    "not_null": ["a"], "value_ranges": {"a": {"min": 0, "max": 9, "allowed": [1, 2]}}, "patterns": {"a": "^x+$"},
    "unique": ["a", ["a", "b"]], "expressions": ["a > 1 and b is not null"], "null_share": {"a": 0.5},
    "row_count": {"min": 1}, "freshness": {"column": "b", "max_age_days": 1},
    "agreement": {"item": "a", "rater": "a", "rating": "a", "min": 0.1}}"#;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_damaged_schema_is_read_or_refused(cuts in prop::collection::vec((0usize..2000, any::<u8>(), 0u8..4), 1..6)) {
        let mut bytes = WHOLE.as_bytes().to_vec();
        for (at, byte, what) in cuts {
            let at = at % bytes.len().max(1);
            match what {
                0 => bytes[at] = byte,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
            if bytes.is_empty() {
                bytes.push(b'{');
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Ok(schema) = parse_schema("schema.json", &text) {
            let root = Root::new(&[("a.csv", b"a,b\n1,2021-01-01\nx,\n")]);
            let plan = data_plan(&["a.csv"], "y");
            check(&plan, Some(&schema), &root.roots(), 0, &CancellationToken::new()).expect("a report");
        }
    }

    /// Counts of violations by a plain reading of the same rows.
    #[test]
    fn counts_are_those_of_a_plain_reading(rows in prop::collection::vec((-5i32..5, prop::option::of(0u8..4)), 1..200)) {
        let mut table = String::from("n,k\n");
        for (n, k) in &rows {
            table.push_str(&format!("{n},{}\n", k.map(|k| k.to_string()).unwrap_or_default()));
        }
        let schema = r#"{"column_types": {"n": "integer", "k": "integer"}, "value_ranges": {"n": {"min": 0}}, "not_null": ["k"],
            "unique": ["k"], "expressions": ["n <= k"]}"#;
        let found = checked(schema, &[("a.csv", &table)], |_| ());
        let counts: BTreeMap<&str, u64> =
            found.report.schema_violations.iter().map(|found| (found.r#type.as_str(), found.count)).collect();
        let plain = |what: fn(&(i32, Option<u8>)) -> bool| rows.iter().filter(|row| what(row)).count() as u64;
        let mut seen = std::collections::HashSet::new();
        let repeated = rows.iter().filter_map(|(_, k)| *k).filter(|k| !seen.insert(*k)).count() as u64;
        for (kind, expected) in [
            ("out_of_range", plain(|(n, _)| *n < 0)),
            ("missing_value", plain(|(_, k)| k.is_none())),
            ("condition_false", plain(|(n, k)| k.is_some_and(|k| *n > i32::from(k)))),
            ("not_unique", repeated),
        ] {
            prop_assert_eq!(counts.get(kind).copied().unwrap_or(0), expected, "{}", kind);
        }
    }
}
