//! What becomes of good data: types, encodings, statistics, ids, weights, files of both formats.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Date32Array, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use expect_test::{Expect, expect};
use frame::manifest::{ColumnKind, Encoding, FittedTransform, SampleIdScheme};
use messages::feed::Split;
use messages::plan::{ColumnType, DataPlan, Scale, TargetTransform, Task};
use parquet::arrow::ArrowWriter;
use within_data_loader::prepare::Prepared;

use crate::plan::{Root, column, data_plan, encoded, manifest};

/// Ten rows: whatever is tested, and enough to split.
fn prepared(content: &str, task: Task, change: impl Fn(&mut DataPlan)) -> Prepared {
    let root = Root::new(&[("a.csv", content.as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    change(&mut plan);
    root.prepare(&plan, task).expect("the data are good")
}

fn shown(prepared: &Prepared) -> String {
    let manifest = manifest(prepared);
    let mut lines = Vec::new();
    for column in &manifest.columns {
        let kind = match column.r#type {
            ColumnKind::Number => "number",
            ColumnKind::Category => "category",
            ColumnKind::Text => "text",
            ColumnKind::Dropped => "dropped",
        };
        lines.push(format!("{} {kind} {:?}", column.name, column.role));
    }
    lines.push(format!("features: {}", manifest.feature_names.join(" ")));
    lines.extend(manifest.warnings.iter().map(|warning| format!("warning: {warning}")));
    lines.join("\n")
}

fn check(content: &str, task: Task, change: impl Fn(&mut DataPlan), expected: Expect) {
    expected.assert_eq(&shown(&prepared(content, task, change)));
}

/// `count` rows below a header.
fn table(header: &str, count: usize, row: impl Fn(usize) -> String) -> String {
    let lines: Vec<String> = std::iter::once(header.to_owned()).chain((0..count).map(row)).collect();
    lines.join("\n")
}

#[test]
fn types_are_inferred_and_declarations_win() {
    let content = table("n,c,code,empty,mixed,same,y", 30, |i| {
        format!(
            "{}.5,{},{},,{},1,{}",
            i * i,
            ["red", "blue"][i % 2],
            100 + i % 3,
            if i == 7 { "n/a".to_owned() } else { i.to_string() },
            i
        )
    });
    check(
        &content,
        Task::Regression,
        |plan| {
            plan.columns.insert("code".into(), column(ColumnType::Category));
            plan.preprocessing.max_categories = 3;
        },
        expect![[r#"
            n number Feature
            c category Feature
            code category Feature
            empty dropped Feature
            mixed category Feature
            same number Feature
            y number Target
            features: n c=blue c=red code=100 code=101 code=102 mixed=0 mixed=1 mixed=<other> same
            warning: column "empty" has no value in any row and is left out
            warning: column "mixed" is read as categories: 29 of its values are numbers, but 1 are not, the first "n/a" in a.csv line 9; if they mean missing, add them to data.csv.null_values, or declare the type
            warning: column "mixed" has 19 categories in train: the 2 most frequent are told apart, the others are one (data.preprocessing.max_categories)
            warning: column "same" has the same value in every row of train: it teaches nothing"#]],
    );
}

#[test]
fn roles_keep_columns_out_of_the_features() {
    let content = table("id,w,leak,a,b,y", 40, |i| format!("r{i},{},{},{},{},{}", i % 2 + 1, i, i * 3 % 7, i, i));
    check(
        &content,
        Task::Regression,
        |plan| {
            plan.id_column = Some("id".into());
            plan.weight_column = Some("w".into());
            plan.exclude = vec!["leak".into()];
        },
        expect![[r#"
        id category SampleId
        w number Weight
        leak dropped None
        a number Feature
        b number Feature
        y number Target
        features: a b
        warning: column "b" has another whole number in each row of train: if it identifies rows, exclude it or make it data.id_column"#]],
    );
    check(
        &content,
        Task::Regression,
        |plan| plan.include = vec!["a".into()],
        expect![[r"
        id dropped None
        w dropped None
        leak dropped None
        a number Feature
        b dropped None
        y number Target
        features: a"]],
    );
    let with_ids = prepared(&content, Task::Regression, |plan| {
        plan.id_column = Some("id".into());
        plan.weight_column = Some("w".into());
        plan.exclude = vec!["leak".into()];
    });
    let manifest = manifest(&with_ids);
    assert_eq!(manifest.sample_id, SampleIdScheme::Column { column: "id".into() });
    let all = encoded(&with_ids, Split::Train);
    let row = all.targets[0] as usize;
    let hash = blake3_first_8(&format!("r{row}"));
    assert_eq!(all.sample_ids[0], hash);
    assert_eq!(all.weights.expect("weights")[0], (row % 2 + 1) as f32);
}

fn blake3_first_8(text: &str) -> u64 {
    let hash = blake3::hash(text.as_bytes());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("8 bytes"))
}

#[test]
fn traps_of_text_files() {
    // A byte order mark, CRLF, blanks, comments, quoted delimiters and newlines, null values, comma decimals.
    let rows: Vec<String> = (0..10).map(|i| format!(" {i},5 ;\"a;{}\"; ? ;{}\r\n", i % 2, i * 2)).collect();
    let content = format!("\u{feff}# made by hand\r\nx ; text;gap;y\r\n{}# the end\r\n", rows.concat());
    let change = |plan: &mut DataPlan| {
        plan.csv.delimiter = ";".into();
        plan.csv.trim = true;
        plan.csv.comment = "#".into();
        plan.csv.decimal = ",".into();
        plan.csv.null_values = vec!["?".into()];
    };
    check(
        &content,
        Task::Regression,
        change,
        expect![[r#"
        x number Feature
        text category Feature
        gap dropped Feature
        y number Target
        features: x text=a;0 text=a;1
        warning: column "gap" has no value in any row and is left out"#]],
    );
    let bare = content.replace("# made by hand\r\n", "");
    assert!(shown(&prepared(&bare, Task::Regression, change)).starts_with("x number Feature"));
    let headless = table("0,0", 9, |i| format!("{i},{}", i * 2));
    check(
        &headless,
        Task::Regression,
        |plan| {
            plan.csv.header = false;
            plan.target.column = "column_2".into();
        },
        expect![[r"
        column_1 number Feature
        column_2 number Target
        features: column_1"]],
    );
}

#[test]
fn values_that_are_missing_are_imputed_and_marked() {
    let content = table("x,c,y", 20, |i| {
        format!("{},{},{i}", if i % 4 == 0 { String::new() } else { "3".into() }, if i % 5 == 0 { "NA" } else { "k" })
    });
    let prepared = prepared(&content, Task::Regression, |plan| plan.preprocessing.scale = Scale::None);
    let (manifest, rows) = (manifest(&prepared), encoded(&prepared, Split::Train));
    assert_eq!(manifest.feature_names, ["x", "x=<missing>", "c=k"]);
    for row in 0..rows.rows {
        let i = rows.targets[row] as usize;
        let expected = [3.0, f32::from(u8::from(i.is_multiple_of(4))), f32::from(u8::from(!i.is_multiple_of(5)))];
        assert_eq!(rows.features[row * 3..row * 3 + 3], expected, "row {i}");
    }
}

#[test]
fn fitted_numbers_are_those_of_train_by_hand() {
    let content = table("x,y", 10, |i| format!("{},{}", i * i, i));
    let prepared = prepared(&content, Task::Regression, |plan| plan.target.transform = TargetTransform::Standard);
    let manifest = manifest(&prepared);
    let train = prepared.table(Split::Train, 0..prepared.rows(Split::Train)).expect("a table");
    let ids = train.sample_ids().to_vec();
    let mean = |f: &dyn Fn(f64) -> f64| ids.iter().map(|&i| f(i as f64)).sum::<f64>() / ids.len() as f64;
    let (mean_x, mean_y) = (mean(&|i| i * i), mean(&|i| i));
    let std_y = mean(&|i| (i - mean_y) * (i - mean_y)).sqrt();
    assert_eq!(manifest.target.transform, FittedTransform::Standard { mean: mean_y, std: std_y });
    assert_eq!(manifest.target.train_mean, mean_y);
    let Encoding::Number { scale, .. } = &manifest.features[0].encoding else { panic!("a number") };
    let frame::manifest::FittedScale::Standard { mean: fitted, .. } = scale else { panic!("standard") };
    assert_eq!(*fitted, mean_x);
    assert_eq!(manifest.sources[0].blake3, blake3::hash(content.as_bytes()).to_hex().to_string());
    assert_eq!((manifest.sources[0].rows, manifest.sources[0].size_bytes), (10, content.len() as u64));
}

#[test]
fn classes_and_their_order() {
    let classes = |values: &[&str], task: Task, change: &dyn Fn(&mut DataPlan)| {
        let content = table("x,y", 24, |i| format!("{i},{}", values[i % values.len()]));
        manifest(&prepared(&content, task, change)).target.classes
    };
    let binary = Task::BinaryClassification;
    assert_eq!(classes(&["yes", "no"], binary, &|_| {}), ["no", "yes"]);
    assert_eq!(classes(&["True", "false"], binary, &|_| {}), ["false", "True"]);
    assert_eq!(classes(&["0", "1"], binary, &|_| {}), ["0", "1"]);
    assert_eq!(classes(&["a", "b"], binary, &|plan| plan.target.positive = "a".into()), ["b", "a"]);
    assert_eq!(classes(&["<=50K.", ">50K"], binary, &|plan| plan.target.strip_suffix = ".".into()), ["<=50K", ">50K"]);
    assert_eq!(classes(&["0", "2", "1", "5"], binary, &|plan| plan.target.threshold = Some(0.0)), ["<= 0", "> 0"]);
    assert_eq!(classes(&["10", "9", "2"], Task::Multiclass, &|_| {}), ["2", "9", "10"]);
    assert_eq!(classes(&["b", "c", "a"], Task::Multiclass, &|_| {}), ["a", "b", "c"]);
}

#[test]
fn parquet_and_csv_of_the_same_rows_encode_alike() {
    let ints: ArrayRef = Arc::new((0..20).map(|i| (i % 3 != 0).then_some(i)).collect::<Int32Array>());
    let floats: ArrayRef = Arc::new(Float32Array::from_iter_values((0..20).map(|i| i as f32 / 4.0)));
    let texts: ArrayRef = Arc::new((0..20).map(|i| (i % 4 != 0).then_some(["a", "b"][i % 2])).collect::<StringArray>());
    let flags: ArrayRef = Arc::new((0..20).map(|i| Some(i % 2 == 0)).collect::<BooleanArray>());
    let days: ArrayRef = Arc::new(Date32Array::from_iter_values((0..20).map(|i| 19_000 + i)));
    let codes: ArrayRef = Arc::new(Int64Array::from_iter_values((0..20).map(|i| 900 + i % 2)));
    let target: ArrayRef = Arc::new((0..20).map(|i| Some(i % 3 == 0)).collect::<BooleanArray>());
    let batch = RecordBatch::try_from_iter(vec![
        ("i", ints),
        ("f", floats),
        ("t", texts),
        ("b", flags),
        ("d", days),
        ("code", codes),
        ("y", target),
    ])
    .expect("a batch");
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("writes");
    let parquet = writer.into_inner().expect("ends");
    let csv = table("i,f,t,b,d,code,y", 20, |i| {
        format!(
            "{},{},{},{},{},{},{}",
            if i % 3 == 0 { String::new() } else { i.to_string() },
            i as f32 / 4.0,
            if i % 4 == 0 { "" } else { ["a", "b"][i % 2] },
            u8::from(i % 2 == 0),
            19_000 + i,
            900 + i % 2,
            i % 3 == 0
        )
    });
    let root = Root::new(&[("a.parquet", &parquet), ("a.csv", csv.as_bytes())]);
    let encode = |file: &str| {
        let mut plan = data_plan(&[file], "y");
        plan.columns.insert("code".into(), column(ColumnType::Category));
        let prepared = root.prepare(&plan, Task::BinaryClassification).expect("the data are good");
        (manifest(&prepared).feature_names, encoded(&prepared, Split::Test))
    };
    let (from_parquet, from_csv) = (encode("a.parquet"), encode("a.csv"));
    assert_eq!(from_parquet, from_csv);
    assert_eq!(from_csv.0, ["i", "i=<missing>", "f", "t=a", "t=b", "b", "d", "code=900", "code=901"]);
}

#[test]
fn files_are_joined_in_order_and_columns_found_by_name() {
    let root = Root::new(&[
        ("a.csv", b"x,y\n0,0\n1,1\n2,2\n"),
        ("b.csv", b"y,x\n3,3\n4,4\n5,5\n"),
        ("t.csv", b"x,y\n6,6\n7,7\n"),
    ]);
    let mut plan = data_plan(&["a.csv", "b.csv"], "y");
    plan.test_path = vec!["t.csv".into()];
    plan.preprocessing.scale = Scale::None;
    let prepared = root.prepare(&plan, Task::Regression).expect("the data are good");
    let manifest = manifest(&prepared);
    assert!(manifest.split.official_test);
    let parts = Split::ALL.map(|split| encoded(&prepared, split));
    assert_eq!(parts[2].sample_ids, [6, 7]);
    let mut ids: Vec<u64> = parts.iter().flat_map(|part| part.sample_ids.clone()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..8).collect::<Vec<u64>>());
    for part in &parts {
        assert_eq!(part.features, part.targets);
        assert!(part.sample_ids.iter().zip(&part.targets).all(|(id, y)| *id as f32 == *y));
    }
}

#[test]
fn a_cancelled_preparation_ends() {
    let root = Root::new(&[("a.csv", b"x,y\n0,0\n1,1\n2,2\n")]);
    let token = tokio_util::sync::CancellationToken::new();
    token.cancel();
    let result =
        within_data_loader::prepare::prepare(&data_plan(&["a.csv"], "y"), Task::Regression, &root.roots(), &token);
    assert_eq!(result.expect_err("cancelled").code, messages::error::Code::Cancelled);
}
