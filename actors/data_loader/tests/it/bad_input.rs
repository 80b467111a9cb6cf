//! Every way in which data can be wrong, and what the user is told.

use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, StringArray, types::Int32Type};
use expect_test::{Expect, expect};
use messages::error::Code;
use messages::plan::{ColumnType, DataFormat, DataPlan, Impute, SplitStrategy, TargetTransform, Task};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;

use crate::plan::{Root, column, data_plan};

/// The error of a job over `files`, the first of which is its table.
fn check_with(files: &[(&str, &[u8])], task: Task, change: impl Fn(&mut DataPlan), code: Code, expected: Expect) {
    let root = Root::new(files);
    let mut plan = data_plan(&[files[0].0], "y");
    change(&mut plan);
    let error = root.prepare(&plan, task).expect_err("the data are wrong");
    assert_eq!(error.code, code, "{error}");
    let hint = error.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    expected.assert_eq(&format!("{}{hint}", error.message));
}

fn check(content: &str, task: Task, change: impl Fn(&mut DataPlan), expected: Expect) {
    check_with(&[("a.csv", content.as_bytes())], task, change, Code::DatasetValidationError, expected);
}

fn as_is(_: &mut DataPlan) {}

const REGRESSION: Task = Task::Regression;
const BINARY: Task = Task::BinaryClassification;

/// A table whose rows are `x,y` with y = x.
fn rows(header: &str, count: usize, row: impl Fn(usize) -> String) -> String {
    let lines: Vec<String> = std::iter::once(header.to_owned()).chain((0..count).map(row)).collect();
    lines.join("\n") + "\n"
}

#[test]
fn files_that_are_not_there() {
    let files: &[(&str, &[u8])] = &[("train.csv", b"x,y\n1,2\n")];
    check_with(
        files,
        REGRESSION,
        |plan| plan.path = vec!["trian.csv".into()],
        Code::DatasetNotFound,
        expect![[r#"trian.csv: no such file in the data roots (did you mean "train.csv"?)"#]],
    );
    check_with(
        files,
        REGRESSION,
        |plan| plan.path = vec!["../x.csv".into()],
        Code::Forbidden,
        expect![[r"
        ../x.csv: lies outside the data roots
        hint: name files inside the data roots, relative to them; links out of them are not followed"]],
    );
    check_with(
        files,
        REGRESSION,
        |plan| plan.path.clear(),
        Code::DatasetNotFound,
        expect!["data.path names no file: expected at least one"],
    );
    check_with(
        files,
        REGRESSION,
        |plan| plan.csv.delimiter = "ab".into(),
        Code::ConfigError,
        expect![[r#"data.csv.delimiter: "ab", expected one ASCII character"#]],
    );
}

#[test]
fn files_without_rows() {
    check("", REGRESSION, as_is, expect!["a.csv: is empty"]);
    check("x,y\n", REGRESSION, as_is, expect!["a.csv: has a header but no rows"]);
    check("x,y", REGRESSION, as_is, expect!["a.csv: has a header but no rows"]);
    check("\n\n", REGRESSION, as_is, expect!["a.csv: is empty"]);
}

#[test]
fn wrong_delimiters() {
    check(
        "x;y\n1;2\n",
        REGRESSION,
        as_is,
        expect![[r#"
        a.csv line 1: has one column, "x;y", when cut at ","
        hint: the file has one column: is the delimiter ';'? Set data.csv.delimiter"#]],
    );
    check(
        "\"age\";\"job\";\"y\"\n56;\"x, z\";1\n",
        REGRESSION,
        as_is,
        expect![[r#"
        a.csv line 1: has one column, "age;\"job\";\"y\"", when cut at ","
        hint: the file has one column: is the delimiter ';'? Set data.csv.delimiter"#]],
    );
    check(
        "x\ty\n1\t2\n",
        REGRESSION,
        |plan| plan.csv.delimiter = ";".into(),
        expect![[r#"
        a.csv line 1: has one column, "x\ty", when cut at ";"
        hint: the file has one column: is the delimiter '\t'? Set data.csv.delimiter"#]],
    );
    check(
        "y\n1\n2\n",
        REGRESSION,
        as_is,
        expect![[r"
        a.csv: no feature column is left
        hint: features are all columns but target, id, weight and excluded ones"]],
    );
}

#[test]
fn ragged_rows_are_all_named_and_more_than_twenty_are_counted() {
    check(
        "x,y\n1,2\n3\n\"a\nb\",5,6\n7,8\n9\n",
        REGRESSION,
        as_is,
        expect![[r"
        3 problems with the data:
          a.csv line 3: 1 fields, expected 2
          a.csv line 4: 3 fields, expected 2
          a.csv line 7: 1 fields, expected 2
        hint: a field that contains the delimiter must be quoted"]],
    );
    let many = rows("x,y", 50, |i| i.to_string());
    check(
        &many,
        REGRESSION,
        as_is,
        expect![[r"
        50 problems with the data:
          a.csv line 2: 1 fields, expected 2
          a.csv line 3: 1 fields, expected 2
          a.csv line 4: 1 fields, expected 2
          a.csv line 5: 1 fields, expected 2
          a.csv line 6: 1 fields, expected 2
          a.csv line 7: 1 fields, expected 2
          a.csv line 8: 1 fields, expected 2
          a.csv line 9: 1 fields, expected 2
          a.csv line 10: 1 fields, expected 2
          a.csv line 11: 1 fields, expected 2
          a.csv line 12: 1 fields, expected 2
          a.csv line 13: 1 fields, expected 2
          a.csv line 14: 1 fields, expected 2
          a.csv line 15: 1 fields, expected 2
          a.csv line 16: 1 fields, expected 2
          a.csv line 17: 1 fields, expected 2
          a.csv line 18: 1 fields, expected 2
          a.csv line 19: 1 fields, expected 2
          a.csv line 20: 1 fields, expected 2
          a.csv line 21: 1 fields, expected 2
          … and 30 more"]],
    );
}

#[test]
fn names_that_do_not_fit() {
    check(
        "x,z,x,y\n1,2,3,4\n",
        REGRESSION,
        as_is,
        expect![[r#"a.csv, column "x": stands twice in the header, as column 1 and column 3"#]],
    );
    check(
        "x,Target\n1,2\n",
        REGRESSION,
        |plan| {
            plan.target.column = "target".into();
            plan.exclude = vec!["xx".into()];
            plan.id_column = Some("zzz".into());
        },
        expect![[r#"
        3 problems with the data:
          a.csv, column "target": no such column, named by data.target.column (did you mean "Target"?)
          a.csv, column "zzz": no such column, named by data.id_column
          a.csv, column "xx": no such column, named by data.exclude (did you mean "x"?)"#]],
    );
    check(
        "x, y\n1, 2\n",
        REGRESSION,
        as_is,
        expect![[r#"
        a.csv, column "y": no such column, named by data.target.column (did you mean " y"?)
        hint: column names have blanks around them: set data.csv.trim: true"#]],
    );
    check(
        "1,2\n3,4\n",
        REGRESSION,
        as_is,
        expect![[r#"
        a.csv, column "y": no such column, named by data.target.column
        hint: the first line holds numbers, not names: set data.csv.header: false and name columns column_1, column_2, …"#]],
    );
    check(
        "x,within.target,y\n1,2,3\n",
        REGRESSION,
        as_is,
        expect![[r#"a.csv, column "within.target": begins with "within.", which is kept for the platform: rename it"#]],
    );
    check(
        "x,y\n1,2\n",
        REGRESSION,
        |plan| plan.weight_column = Some("y".into()),
        expect![[r#"column "y": is the target and data.weight_column at once"#]],
    );
}

#[test]
fn bytes_that_are_no_text() {
    check_with(
        &[("a.csv", b"x,y\n1,2\nM\xfcnchen,3\n")],
        REGRESSION,
        as_is,
        Code::DatasetValidationError,
        expect![[r"
        a.csv line 3: byte 0xfc at offset 9 is not UTF-8, expected UTF-8 text
        hint: set data.csv.encoding, such as windows-1252, or save the file as UTF-8"]],
    );
    check_with(
        &[("a.csv", b"\xff\xfex\0,\0")],
        REGRESSION,
        as_is,
        Code::DatasetValidationError,
        expect![[r"
        a.csv: is UTF-16 text, expected UTF-8 text
        hint: set data.csv.encoding: utf-16, or save it as UTF-8"]],
    );
    check_with(
        &[("a.csv", b"\x1f\x8b\x08\0\0")],
        REGRESSION,
        as_is,
        Code::DatasetValidationError,
        expect![[r"
        a.csv: is compressed with gzip, expected UTF-8 text
        hint: let its name end in .gz, or unpack it first"]],
    );
    check_with(
        &[("a.csv", b"PAR1xxxx")],
        REGRESSION,
        as_is,
        Code::DatasetValidationError,
        expect![[r"
        a.csv: is a Parquet file, expected UTF-8 text
        hint: set data.format: parquet"]],
    );
    let open_quote = [b"x,y\n1,\"".to_vec(), vec![b'a'; 40 << 20]].concat();
    check_with(
        &[("a.csv", &open_quote)],
        REGRESSION,
        as_is,
        Code::DatasetValidationError,
        expect![[r"
        a.csv line 2: a record that begins here is longer than 16777216 bytes
        hint: a quote may be open: check data.csv.quote"]],
    );
}

#[test]
fn numbers_that_are_none() {
    check(
        "x,y\n1,2\nNaN,3\n1e999,inf\n2,3\n",
        REGRESSION,
        as_is,
        expect![[r#"
        3 problems with the data:
          a.csv line 3, column "x": "NaN" is not finite, expected a finite number
          a.csv line 4, column "x": "1e999" is beyond the range of a 32-bit float, expected at most 3.4e38
          a.csv line 4, column "y": "inf" is not finite, expected a finite number
        hint: if "NaN" means a missing value, add it to data.csv.null_values; if "inf" means a missing value, add it to data.csv.null_values"#]],
    );
    check(
        "x,y\n1,2\nabc,3\n",
        REGRESSION,
        |plan| {
            plan.columns.insert("x".into(), column(ColumnType::Number));
        },
        expect![[r#"a.csv line 3, column "x": "abc" is not a number, expected a number: its type is declared number"#]],
    );
    check(
        "x,y\n1,cheap\n2,dear\n",
        REGRESSION,
        as_is,
        expect![[r#"
        2 problems with the data:
          a.csv line 2, column "y": "cheap" is not a number, expected a number: the task is regression
          a.csv line 3, column "y": "dear" is not a number, expected a number: the task is regression"#]],
    );
    check(
        "x;y\n1;2,5\n2;3,5\n",
        REGRESSION,
        |plan| plan.csv.delimiter = ";".into(),
        expect![[r#"
        2 problems with the data:
          a.csv line 2, column "y": "2,5" is not a number, expected a number: the task is regression
          a.csv line 3, column "y": "3,5" is not a number, expected a number: the task is regression
        hint: is the decimal separator a comma? Set data.csv.decimal: ",""#]],
    );
}

#[test]
fn values_that_must_not_be_missing() {
    check(
        "x,y\n1,2\n3,\n4,NA\n",
        REGRESSION,
        as_is,
        expect![[r#"
        a.csv line 3, column "y": 2 values are missing, the first one here, expected none missing: it is the target
        hint: remove these rows or fill the values in"#]],
    );
    check(
        "x,y\n1,2\nNA,3\n",
        REGRESSION,
        |plan| plan.preprocessing.impute = Impute::Refuse,
        expect![[r#"
        a.csv line 3, column "x": a value is missing ("NA"), expected none missing: impute is refuse
        hint: set data.preprocessing.impute to mean, median or zero, or exclude the column"#]],
    );
}

#[test]
fn targets_that_cannot_be_learned() {
    let table = |y: &dyn Fn(usize) -> String, count| rows("x,y", count, |i| format!("{i},{}", y(i)));
    check(
        &table(&|_| "7".into(), 10),
        REGRESSION,
        as_is,
        expect![[r#"column "y": is 7 in all 6 rows of the train part, expected at least two values"#]],
    );
    check(
        &table(&|_| "no".into(), 10),
        BINARY,
        as_is,
        expect![[r#"column "y": has one class, "no", in all 10 rows, expected at least two"#]],
    );
    check(
        &table(&|i| format!("c{}", i % 3), 12),
        BINARY,
        as_is,
        expect![[r#"
        column "y": has 3 classes, expected two: "c0" (4), "c1" (4), "c2" (4)
        hint: set task: multiclass, or data.target.threshold for a number, or data.target.strip_suffix for spelling variants"#]],
    );
    check(
        &table(&|i| i.to_string(), 12),
        Task::Multiclass,
        as_is,
        expect![[r#"
        column "y": has 12 classes in 12 rows, expected at least two rows a class: "0" (1), "1" (1), "10" (1), "11" (1), "2" (1), "3" (1), "4" (1), "5" (1), "6" (1), "7" (1), …
        hint: is the target a number to predict? Then set task: regression"#]],
    );
    check(
        &table(&|i| if i % 2 == 0 { "yes" } else { "no" }.into(), 12),
        BINARY,
        |plan| plan.target.positive = "Yes".into(),
        expect![[
            r#"column "y": no class "Yes", named by data.target.positive, expected one of "no", "yes" (did you mean "yes"?)"#
        ]],
    );
    check(
        &table(&|i| if i == 3 { "yes" } else { "no" }.into(), 12),
        BINARY,
        |plan| plan.split.random_state = 3,
        expect![[r#"
        column "y": has one class, "no", in all 7 rows of the train part
        hint: set data.split.strategy: stratified"#]],
    );
    check(
        &table(&|i| (i as i64 - 2).to_string(), 12),
        REGRESSION,
        |plan| plan.target.transform = TargetTransform::Log1p,
        expect![[r#"
        2 problems with the data:
          a.csv row 1, column "y": -2 has no logarithm of 1 + value, expected values above -1: the transform is log1p
          a.csv row 2, column "y": -1 has no logarithm of 1 + value, expected values above -1: the transform is log1p"#]],
    );
    check(
        &table(&|i| i.to_string(), 12),
        Task::Multiclass,
        |plan| plan.target.threshold = Some(3.0),
        expect![[r#"column "y": data.target.threshold makes two classes, but the task is multiclass"#]],
    );
}

#[test]
fn splits_that_leave_a_part_empty() {
    check(
        "x,y\n1,2\n2,3\n",
        REGRESSION,
        as_is,
        expect![[r"
        the train part is empty after the split of 2 rows (test_size 0.2, val_size 0.2)
        hint: more rows, or other sizes under data.split, are needed"]],
    );
    let table = rows("x,y", 10, |i| format!("{i},{i}"));
    check(
        &table,
        REGRESSION,
        |plan| plan.split.test_size = 1.0,
        expect![[r"
        2 problems with the data:
          the train part is empty after the split of 10 rows (test_size 1, val_size 0.2)
          the val part is empty after the split of 10 rows (test_size 1, val_size 0.2)
        hint: more rows, or other sizes under data.split, are needed"]],
    );
    check(
        &rows("g,x,y", 10, |i| format!("{},{i},{i}", i % 2)),
        REGRESSION,
        |plan| {
            plan.split.strategy = SplitStrategy::Group;
            plan.split.group_column = Some("g".into());
        },
        expect![[r"
        the val part is empty after the split of 10 rows (test_size 0.2, val_size 0.2)
        hint: more rows, or other sizes under data.split, are needed"]],
    );
    check(
        &table,
        REGRESSION,
        |plan| plan.split.strategy = SplitStrategy::Group,
        expect!["data.split.group_column is not set, and the strategy is group"],
    );
    check(
        &rows("t,x,y", 10, |i| format!("May {i},{i},{i}")),
        REGRESSION,
        |plan| {
            plan.split.strategy = SplitStrategy::Time;
            plan.split.time_column = Some("t".into());
        },
        expect![[
            r#"column "t": "May 0" is no time to order by, expected numbers or ISO 8601 dates such as 2024-05-31"#
        ]],
    );
}

#[test]
fn ids_and_weights() {
    check(
        "id,x,y\na,1,2\nb,2,3\na,3,4\n",
        REGRESSION,
        |plan| plan.id_column = Some("id".into()),
        expect![[
            r#"a.csv row 1, column "id": the same sample id stands in row 3 too, expected a different one in each row"#
        ]],
    );
    check(
        "w,x,y\n1,1,2\n-0.5,2,3\n1,3,4\n",
        REGRESSION,
        |plan| plan.weight_column = Some("w".into()),
        expect![[r#"a.csv row 2, column "w": -0.5 is negative, expected a sample weight of 0 or more"#]],
    );
    check(
        &rows("w,x,y", 10, |i| format!("0,{i},{i}")),
        REGRESSION,
        |plan| plan.weight_column = Some("w".into()),
        expect!["the sample weights of all rows of train are 0"],
    );
}

#[test]
fn files_that_disagree() {
    let two = |plan: &mut DataPlan| plan.path = vec!["a.csv".into(), "b.csv".into()];
    let error = |a: &str, b: &str, expected: Expect| {
        check_with(
            &[("a.csv", a.as_bytes()), ("b.csv", b.as_bytes())],
            REGRESSION,
            two,
            Code::DatasetValidationError,
            expected,
        );
    };
    error("x,y\n1,2\n", "x,z,y\n1,2,3\n", expect![[r#"b.csv, column "z": is not in a.csv"#]]);
    error(
        "x,z,y\n1,2,3\n",
        "x,zz,y\n1,2,3\n",
        expect![[r#"
        2 problems with the data:
          b.csv, column "z": is missing, but a.csv has it (did you mean "zz"?)
          b.csv, column "zz": is not in a.csv"#]],
    );
    error(
        "x,y\n1,2\n",
        "x,y\nred,2\n",
        expect![[r#"
        b.csv, column "x": holds texts here, but numbers in a.csv
        hint: declare data.columns.x.type"#]],
    );
    error(
        "x,y\n1,2\n",
        "x,y\n1\n",
        expect![[r"
        b.csv line 2: 1 fields, expected 2"]],
    );
    error("x,y\n1,2\n", "", expect!["b.csv: is empty"]);
    let adult = |file: &str, dot: &str| {
        (file.to_owned(), rows("x,y", 10, |i| format!("{i},{}{dot}", if i % 2 == 0 { "<=50K" } else { ">50K" })))
    };
    let (train, test) = (adult("a.csv", ""), adult("b.csv", "."));
    check_with(
        &[("a.csv", train.1.as_bytes()), ("b.csv", test.1.as_bytes())],
        BINARY,
        |plan| plan.test_path = vec!["b.csv".into()],
        Code::DatasetValidationError,
        expect![[r#"
            column "y": class "<=50K." stands in 5 rows of the test files only (did you mean "<=50K"?)
            hint: set data.target.strip_suffix: ".""#]],
    );
}

/// A Parquet file of these columns.
fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).expect("a batch");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("writes");
    writer.into_inner().expect("ends")
}

#[test]
fn parquet_files_that_are_wrong() {
    let check = |bytes: &[u8], expected| {
        check_with(&[("a.parquet", bytes)], REGRESSION, as_is, Code::DatasetValidationError, expected);
    };
    check(b"", expect!["a.parquet: is empty"]);
    check(
        b"PAR1....",
        expect![
            "a.parquet: is not a Parquet file that can be read: Parquet error: Invalid Parquet file. Corrupt footer"
        ],
    );
    check(
        b"x,y\n1,2\n",
        expect![
            "a.parquet: is not a Parquet file that can be read: Parquet error: Invalid Parquet file. Corrupt footer"
        ],
    );
    let y: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)]), None]);
    check(
        &parquet(vec![("x", Arc::new(lists)), ("y", y.clone())]),
        expect![[r#"
        a.parquet, column "x": is of type List(Int32), expected a number, a text, a boolean, a date or a time
        hint: leave the column out with data.exclude"#]],
    );
    let x: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NAN]));
    check(
        &parquet(vec![("x", x), ("y", y.clone())]),
        expect![[r#"
        a.parquet row 2, column "x": "NaN" is not finite, expected a finite number
        hint: if "NaN" means a missing value, add it to data.csv.null_values"#]],
    );
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("1"), None]));
    check(
        &parquet(vec![("x", y), ("y", texts)]),
        expect![[r#"
        a.parquet row 2, column "y": a value is missing, expected none missing: it is the target
        hint: remove these rows or fill the values in"#]],
    );
    check_with(
        &[("a.csv", b"x,y\n1,2\n")],
        REGRESSION,
        |plan| plan.format = DataFormat::Parquet,
        Code::DatasetValidationError,
        expect!["a.csv: is not a Parquet file that can be read: Parquet error: Invalid Parquet file. Corrupt footer"],
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_bytes_are_an_answer_and_not_a_panic(
        head in prop::sample::select(vec!["", "x,y\n", "x,y\n1,2\n2,3\n3,4\n4,5\n5,6\n", "\u{feff}x,y\r\n"]),
        body in prop::collection::vec(prop_oneof![
            3 => prop::sample::select(b",;\"\n\r\t #.0123456789eEnNaAiIfF+-xy".to_vec()),
            1 => any::<u8>(),
        ], 0..200),
        binary in any::<bool>(),
    ) {
        let content = [head.as_bytes(), &body].concat();
        let root = Root::new(&[("a.csv", &content)]);
        let task = if binary { BINARY } else { REGRESSION };
        if let Ok(prepared) = root.prepare(&data_plan(&["a.csv"], "y"), task) {
            let encoded = crate::plan::encoded(&prepared, messages::feed::Split::Train);
            prop_assert!(encoded.features.iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn damaged_parquet_is_an_answer(at in any::<usize>(), value in any::<u8>(), cut in any::<usize>()) {
        let numbers: ArrayRef = Arc::new(Float64Array::from_iter_values((0..40).map(f64::from)));
        let mut bytes = parquet(vec![("x", numbers.clone()), ("y", numbers)]);
        let length = bytes.len();
        bytes[at % length] = value;
        if cut % 3 == 0 {
            bytes.truncate(cut % length);
        }
        let root = Root::new(&[("a.parquet", &bytes)]);
        let _ = root.prepare(&data_plan(&["a.parquet"], "y"), REGRESSION);
    }
}
