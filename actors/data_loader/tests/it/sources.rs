//! The same table in every form that files have: packed, encoded, as JSON lines, as Arrow, in folders, in two tables.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, DictionaryArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMillisecondArray, UInt64Array,
};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use expect_test::{Expect, expect};
use frame::Manifest;
use messages::feed::Split;
use messages::plan::{ColumnType, DataPlan, JoinKind, JoinPlan, SplitStrategy, Task, TextEncoding};
use parquet::arrow::ArrowWriter;

use crate::plan::{Root, column, data_plan, encoded, manifest};

const ROWS: usize = 60;

fn row(i: usize) -> (f64, String, f64) {
    (i as f64 / 4.0, ["gr\u{fc}n", "rot", "\u{20ac}"][i % 3].to_owned(), (i * 7 % 11) as f64)
}

fn csv(delimiter: char) -> String {
    let line = |i| {
        let (x, color, y) = row(i);
        format!("{x}{delimiter}{color}{delimiter}{y}\n")
    };
    format!("x{delimiter}color{delimiter}y\n") + &(0..ROWS).map(line).collect::<String>()
}

fn json_lines() -> String {
    let line = |i| {
        let (x, color, y) = row(i);
        format!("{{\"x\": {x}, \"color\": {}, \"y\": {y}}}\n", serde_json::to_string(&color).expect("JSON"))
    };
    (0..ROWS).map(line).collect()
}

fn batch() -> RecordBatch {
    let rows: Vec<_> = (0..ROWS).map(row).collect();
    let colors: DictionaryArray<Int32Type> = rows.iter().map(|row| row.1.as_str()).collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("x", Arc::new(rows.iter().map(|row| row.0).collect::<Float64Array>())),
        ("color", Arc::new(colors)),
        ("y", Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>())),
    ];
    RecordBatch::try_from_iter(columns).expect("a batch")
}

fn parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("a writer");
    writer.write(batch).expect("writes");
    writer.close().expect("closes");
    bytes
}

fn arrow_stream(batch: &RecordBatch) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
    writer.write(batch).expect("writes");
    writer.into_inner().expect("ends")
}

fn arrow_file(batch: &RecordBatch, packed: bool) -> Vec<u8> {
    let packing = packed.then_some(arrow_ipc::CompressionType::ZSTD);
    let options = arrow_ipc::writer::IpcWriteOptions::default().try_with_compression(packing).expect("options");
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &batch.schema(), options).expect("a writer");
    writer.write(batch).expect("writes");
    writer.finish().expect("ends");
    writer.into_inner().expect("ends")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).expect("packs");
    out.finish().expect("packs")
}

/// All that a model sees of the train part, and the features' names.
fn seen(root: &Root, plan: &DataPlan, task: Task) -> (Vec<String>, Vec<f32>, Vec<f32>) {
    let prepared = root.prepare(plan, task).unwrap_or_else(|error| panic!("{:?}: {error}", plan.path));
    let part = encoded(&prepared, Split::Train);
    (manifest(&prepared).feature_names, part.features, part.targets)
}

#[test]
fn a_table_is_the_same_in_every_form() {
    let text = csv(',');
    let utf_16 = |mark: bool| {
        let units = mark.then_some(0xfeff).into_iter().chain(text.encode_utf16());
        units.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()
    };
    let windows: Vec<u8> = text
        .chars()
        .map(|c| match c {
            '\u{20ac}' => 0x80,
            c => u8::try_from(u32::from(c)).expect("Latin-1"),
        })
        .collect();
    let marked = [b"\xef\xbb\xbf".as_slice(), text.as_bytes()].concat();
    let batch = batch();
    let files: Vec<(&str, Vec<u8>, TextEncoding)> = vec![
        ("a.csv", text.clone().into_bytes(), TextEncoding::Utf8),
        ("b.csv", marked, TextEncoding::Utf8),
        ("c.csv.gz", gzip(text.as_bytes()), TextEncoding::Utf8),
        ("d.csv.zst", zstd::encode_all(text.as_bytes(), 3).expect("packs"), TextEncoding::Utf8),
        ("e.csv", utf_16(true), TextEncoding::Utf16),
        ("f.csv.gz", gzip(&utf_16(false)), TextEncoding::Utf16Le),
        ("g.csv", windows, TextEncoding::Windows1252),
        ("h.jsonl", json_lines().into_bytes(), TextEncoding::Utf8),
        ("i.ndjson.gz", gzip(json_lines().as_bytes()), TextEncoding::Utf8),
        ("j.parquet", parquet(&batch), TextEncoding::Utf8),
        ("k.arrow", arrow_file(&batch, false), TextEncoding::Utf8),
        ("l.feather", arrow_file(&batch, true), TextEncoding::Utf8),
        ("m.arrows", arrow_stream(&batch), TextEncoding::Utf8),
        ("n.arrow.zst", zstd::encode_all(arrow_stream(&batch).as_slice(), 3).expect("packs"), TextEncoding::Utf8),
    ];
    let named: Vec<(&str, &[u8])> = files.iter().map(|(name, bytes, _)| (*name, bytes.as_slice())).collect();
    let root = Root::new(&named);
    let mut first = None;
    for (name, bytes, encoding) in &files {
        let mut plan = data_plan(&[name], "y");
        plan.csv.encoding = *encoding;
        let prepared = root.prepare(&plan, Task::Regression).unwrap_or_else(|error| panic!("{name}: {error}"));
        let source = &manifest(&prepared).sources[0];
        assert_eq!(source.blake3, blake3::hash(bytes).to_hex().to_string(), "{name}");
        assert_eq!((source.rows, source.size_bytes), (ROWS as u64, bytes.len() as u64), "{name}");
        let seen = seen(&root, &plan, Task::Regression);
        assert_eq!(&seen, first.get_or_insert_with(|| seen.clone()), "{name}");
    }
    let tabs = Root::new(&[("a.tsv", csv('\t').as_bytes())]);
    let mut plan = data_plan(&["a.tsv"], "y");
    plan.csv.delimiter = "\t".into();
    assert_eq!(Some(seen(&tabs, &plan, Task::Regression)), first);
}

/// A root with files in folders.
fn folders(files: &[(&str, Vec<u8>)]) -> Root {
    let root = Root::new(&[]);
    for (name, bytes) in files {
        let path = root.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("creates");
        fs::write(path, bytes).expect("writes");
    }
    root
}

fn refused(root: &Root, plan: &DataPlan, expected: Expect) {
    let error = root.prepare(plan, Task::Regression).expect_err("is refused");
    let hint = error.hint.map(|hint| format!("\nhint: {hint}")).unwrap_or_default();
    expected.assert_eq(&format!("{}{hint}", error.message));
}

#[test]
fn folders_are_columns_and_patterns_find_files_in_order() {
    let part = |year: usize| {
        let line = |i: usize| format!("{},{}\n", i * year % 17, year + i);
        (String::from("x,y\n") + &(0..20).map(line).collect::<String>()).into_bytes()
    };
    let root = folders(&[
        ("ads/year=2024/site=a%20b/p.csv", part(2024)),
        ("ads/year=2023/site=c/p.csv", part(2023)),
        ("ads/year=2025/site=__HIVE_DEFAULT_PARTITION__/p.csv", part(2025)),
        ("ads/_tmp/p.csv", b"broken".to_vec()),
    ]);
    let plan = data_plan(&["ads/year=*/*/*.csv"], "y");
    let prepared = root.prepare(&plan, Task::Regression).expect("good files");
    let manifest = manifest(&prepared);
    let paths: Vec<&str> = manifest.sources.iter().map(|source| source.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "ads/year=2023/site=c/p.csv",
            "ads/year=2024/site=a%20b/p.csv",
            "ads/year=2025/site=__HIVE_DEFAULT_PARTITION__/p.csv"
        ]
    );
    assert_eq!(manifest.feature_names, ["x", "year", "site=a b", "site=c"]);
    let year = manifest.columns.iter().find(|c| c.name == "year").and_then(|c| c.statistics.clone()).expect("numbers");
    assert_eq!((year.min, year.max, year.distinct), (Some(2023.0), Some(2025.0), 3));
}

#[test]
fn files_of_a_pattern_that_differ_are_named() {
    let good = b"x,cost,y\n1,2,3\n2,3,4\n".to_vec();
    let root = folders(&[("p/1.csv", good.clone()), ("p/2.csv", b"x,costs,y\n1,2,3\n".to_vec()), ("p/3.csv", good)]);
    refused(
        &root,
        &data_plan(&["p/*.csv"], "y"),
        expect![[r#"
            2 problems with the data:
              p/2.csv, column "cost": is missing, but p/1.csv has it (did you mean "costs"?)
              p/2.csv, column "costs": is not in p/1.csv"#]],
    );
    let numbers = parquet(
        &RecordBatch::try_from_iter(vec![
            ("x", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
            ("y", Arc::new(Int64Array::from(vec![1, 2]))),
        ])
        .expect("a batch"),
    );
    let texts = parquet(
        &RecordBatch::try_from_iter(vec![
            ("x", Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef),
            ("y", Arc::new(Int64Array::from(vec![1, 2]))),
        ])
        .expect("a batch"),
    );
    let root = folders(&[("p/1.parquet", numbers), ("p/2.parquet", texts)]);
    refused(
        &root,
        &data_plan(&["p/*.parquet"], "y"),
        expect![[r#"
            p/2.parquet, column "x": holds texts here, but numbers in p/1.parquet
            hint: declare data.columns.x.type"#]],
    );
    refused(
        &root,
        &data_plan(&["p/*.csv"], "y"),
        expect![[r"
            p/*.csv: no file in the data roots has a name of this pattern
            hint: `*` stands for a part of one name, `**` for any folders between; names that begin with . or _ are passed over"]],
    );
}

fn joined(how: JoinKind, prefix: &str) -> DataPlan {
    let mut plan = data_plan(&["ads.csv"], "y");
    let on = vec!["account".into()];
    plan.joins = vec![JoinPlan { path: "accounts.csv".into(), on, how, prefix: prefix.into() }];
    plan
}

fn two_tables(accounts: &str) -> Root {
    let line = |i: usize| format!("a{},{},{}\n", i % 5, i, i % 7);
    let ads = String::from("account,x,y\n") + &(0..50).map(line).collect::<String>();
    Root::new(&[("ads.csv", ads.as_bytes()), ("accounts.csv", accounts.as_bytes())])
}

#[test]
fn tables_are_joined_by_key() {
    let root = two_tables("size,account,region\n10,a0,n\n20,a1,s\n30,a2,n\n40,a3,s\n");
    let prepared = root.prepare(&joined(JoinKind::Left, "account_"), Task::Regression).expect("good files");
    let left = manifest(&prepared);
    assert_eq!(left.rows(Split::Train) + left.rows(Split::Val) + left.rows(Split::Test), 50);
    assert!(left.feature_names.contains(&"account_size=<missing>".to_owned()), "{:?}", left.feature_names);
    assert!(left.feature_names.contains(&"account_region=n".to_owned()), "{:?}", left.feature_names);
    let told = "10 of 50 rows have a key (account) that accounts.csv does not have and get missing values";
    assert!(left.warnings.iter().any(|warning| warning == told), "{:?}", left.warnings);
    assert_eq!(left.sources.len(), 2);

    let prepared = root.prepare(&joined(JoinKind::Inner, ""), Task::Regression).expect("good files");
    let inner = manifest(&prepared);
    assert_eq!(inner.rows(Split::Train) + inner.rows(Split::Val) + inner.rows(Split::Test), 40);
    assert!(!inner.feature_names.iter().any(|name| name.ends_with("<missing>")));
    // Each row has the size of its account.
    for split in Split::ALL {
        let table = prepared.table(split, 0..prepared.rows(split)).expect("a table");
        let column = |name: &str| table.batch().column_by_name(name).expect(name).clone();
        let (x, size) = (column("x"), column("size"));
        let numbers =
            |array: &ArrayRef| array.as_any().downcast_ref::<Float64Array>().expect("numbers").values().to_vec();
        for (x, size) in numbers(&x).into_iter().zip(numbers(&size)) {
            assert_eq!(size, 10.0 * (x % 5.0 + 1.0));
        }
    }
}

#[test]
fn joins_that_cannot_be_meant_are_refused() {
    let plan = joined(JoinKind::Left, "");
    refused(
        &two_tables("account,size\na0,1\na1,2\na0,3\n"),
        &plan,
        expect![[
            r#"accounts.csv line 4, column "account": the key "a0" stands in line 2 too: each row of a joined table needs its own"#
        ]],
    );
    refused(
        &two_tables("acount,size\na0,1\n"),
        &plan,
        expect![[r#"accounts.csv, column "account": no such column, named by data.joins.on (did you mean "acount"?)"#]],
    );
    refused(
        &two_tables("account,x\na0,1\n"),
        &plan,
        expect![[r#"accounts.csv, column "x": is in ads.csv too: set data.joins.prefix"#]],
    );
    refused(
        &two_tables("account,size\nb0,1\n"),
        &plan,
        expect![[r"
            accounts.csv: has none of the 50 keys (account) of the rows that it is joined to
            hint: data.joins: check on"]],
    );
}

fn inferred(content: &str) -> (Manifest, BTreeMap<String, String>) {
    let root = Root::new(&[("a.csv", content.as_bytes())]);
    let prepared = root.prepare(&data_plan(&["a.csv"], "y"), Task::Regression).expect("good files");
    let manifest = manifest(&prepared);
    let report = manifest.inference.iter().map(|found| {
        let examples = found.counter_examples.join("; ");
        (found.column.clone(), format!("{}: {} [{examples}]", found.r#type, found.reason))
    });
    let report = report.collect();
    (manifest, report)
}

#[test]
fn types_are_inferred_with_their_reasons() {
    let line = |i: usize| {
        let zip = format!("0{:04}", 1000 + i);
        let id = 10_000_000_000_000_000_000 + i as u64;
        let hash = ["1234e567", "12345678", "0e123456"][i % 3];
        let mixed = if i == 30 { "many".to_owned() } else { format!("{i}.50") };
        format!("{zip},{id},{hash},{mixed},2024-01-{:02},{i},,{}\n", i % 28 + 1, i % 5)
    };
    let content = String::from("zip,id,hash,mixed,day,n,none,y\n") + &(0..60).map(line).collect::<String>();
    let (manifest, report) = inferred(&content);
    let text: String = report.iter().map(|(name, why)| format!("{name}: {why}\n")).collect();
    expect![[r#"
        day: category: all of its 60 values are dates in ISO 8601, which are categories unless they are declared []
        hash: category: 40 of its 60 values are no numbers, 20 are ["12345678" is a number; "1234e567" in a.csv line 2 is no number; "0e123456" in a.csv line 4 is no number; "1234e567" in a.csv line 5 is no number]
        id: category: none of its 60 values is a number ["10000000000000000000" in a.csv line 2 is no number; "10000000000000000001" in a.csv line 3 is no number; "10000000000000000002" in a.csv line 4 is no number]
        mixed: category: 1 of its 60 values are no numbers, 59 are ["31.50" is a number; "many" in a.csv line 32 is no number]
        n: number: all of its 60 values are numbers []
        none: empty: it has no value []
        y: number: the task is regression []
        zip: category: none of its 60 values is a number ["01000" in a.csv line 2 is no number; "01001" in a.csv line 3 is no number; "01002" in a.csv line 4 is no number]
    "#]]
    .assert_eq(&text);
    // Read again as texts: no digit is lost.
    let mixed = manifest.columns.iter().find(|column| column.name == "mixed").expect("is read");
    assert!(
        mixed.categories.iter().all(|category| category.value.ends_with(".50") || category.value == "many"),
        "{:?}",
        mixed.categories
    );
}

#[test]
fn wide_integers_of_typed_files_keep_their_digits() {
    let ids: Vec<u64> = (0..40).map(|i| u64::MAX - i).collect();
    let batch = RecordBatch::try_from_iter(vec![
        ("id", Arc::new(UInt64Array::from(ids)) as ArrayRef),
        ("x", Arc::new((0..40).map(|i| Some(f64::from(i))).collect::<Float64Array>())),
        ("y", Arc::new((0..40).map(|i| Some(f64::from(i % 3))).collect::<Float64Array>())),
    ]);
    let root = Root::new(&[("a.parquet", &parquet(&batch.expect("a batch")))]);
    let prepared = root.prepare(&data_plan(&["a.parquet"], "y"), Task::Regression).expect("good files");
    let id = manifest(&prepared).columns.into_iter().find(|column| column.name == "id").expect("is read");
    assert!(
        id.categories.iter().all(|category| category.value.starts_with("184467440737095515")
            || category.value.starts_with("184467440737095516")),
        "{:?}",
        id.categories
    );
    let mut plan = data_plan(&["a.parquet"], "y");
    plan.id_column = Some("id".into());
    let table = root.prepare(&plan, Task::Regression).expect("good files");
    let ids = encoded(&table, Split::Train).sample_ids;
    let known: Vec<u64> = (0..40).map(|i| within_data_loader::load::id_of(&(u64::MAX - i).to_string())).collect();
    assert!(ids.iter().all(|id| known.contains(id)));
}

#[test]
fn dates_are_seconds_and_their_zones_are_told() {
    let line = |i: usize| format!("2024-03-{:02}T12:00:00+0{}:00,{i}.{i}.2024 01:30,{}\n", i + 1, i % 2, i % 3);
    let content = String::from("t,local,y\n") + &(1..12).map(line).collect::<String>();
    let root = Root::new(&[("a.csv", content.as_bytes())]);
    let mut plan = data_plan(&["a.csv"], "y");
    let mut local = column(ColumnType::Datetime);
    local.source.date_format = Some("%d.%m.%Y %H:%M".into());
    local.source.time_zone = Some("Europe/Berlin".into());
    plan.columns.insert("local".into(), local.clone());
    plan.columns.insert("t".into(), column(ColumnType::Datetime));
    plan.split.strategy = SplitStrategy::Time;
    plan.split.time_column = Some("t".into());
    let prepared = root.prepare(&plan, Task::Regression).expect("good files");
    let manifest = manifest(&prepared);
    let zones: Vec<_> = manifest.warnings.iter().filter(|warning| warning.contains("time zones")).collect();
    assert_eq!(zones.len(), 1, "{:?}", manifest.warnings);
    assert!(zones[0].contains("+00:00 (5 values"), "{zones:?}");
    let statistics = |name: &str| {
        manifest.columns.iter().find(|c| c.name == name).and_then(|c| c.statistics.clone()).expect("numbers")
    };
    // 2024-03-02T12:00:00+01:00 and 2024-01-01 00:30 UTC.
    assert_eq!(statistics("t").min, Some(1_709_377_200.0));
    assert_eq!(statistics("local").min, Some(1_704_069_000.0));

    local.source.date_format = None;
    plan.columns.insert("local".into(), local);
    refused(
        &Root::new(&[(
            "a.csv",
            b"t,local,y\n2024-01-01,1.2.2024,1\n2024-01-02,2024-02-01,2\n2024-01-03,2024-02-01,2\n",
        )]),
        &plan,
        expect![[r#"
            a.csv line 2, column "local": "1.2.2024" is no date, expected a date or time in ISO 8601, such as 2024-05-31 or 2024-05-31T23:59:00+02:00
            hint: say how they stand in data.columns.local.date_format"#]],
    );
    plan.columns.clear();
    plan.columns.insert("t".into(), column(ColumnType::Datetime));
    refused(
        &Root::new(&[("a.csv", b"t,x,y\n2024-01-01T01:00Z,1,1\n2024-01-02,1,2\n2024-01-03,2,2\n")]),
        &plan,
        expect![[r#"
            a.csv line 3, column "t": "2024-01-02" names no time zone, but "2024-01-01T01:00Z" in a.csv line 2 does
            hint: say where those without one are in data.columns.t.time_zone"#]],
    );
}

#[test]
fn timestamps_of_typed_files_are_dates() {
    let times: Vec<i64> = (0..40).map(|day| day * 86_400_000).collect();
    let batch = RecordBatch::try_from_iter(vec![
        ("t", Arc::new(TimestampMillisecondArray::from(times)) as ArrayRef),
        ("y", Arc::new((0..40).map(|i| Some(f64::from(i % 3))).collect::<Float64Array>())),
    ]);
    let root = Root::new(&[("a.parquet", &parquet(&batch.expect("a batch")))]);
    let mut plan = data_plan(&["a.parquet"], "y");
    plan.split.strategy = SplitStrategy::Time;
    plan.split.time_column = Some("t".into());
    let manifest = manifest(&root.prepare(&plan, Task::Regression).expect("good files"));
    let found = manifest.inference.iter().find(|found| found.column == "t").expect("is read");
    assert_eq!(found.r#type, "datetime");
    let statistics = manifest.columns[0].statistics.clone().expect("numbers");
    assert_eq!((statistics.min, statistics.max.map(|max| max % 86_400.0)), (Some(0.0), Some(0.0)));
}

pub fn png(width: u32, height: u32, pixel: impl Fn(u32, u32) -> [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().expect("writes");
    let pixels: Vec<u8> =
        (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).flat_map(|(x, y)| pixel(x, y)).collect();
    writer.write_image_data(&pixels).expect("writes");
    writer.finish().expect("writes");
    bytes
}

fn pictured(root: &Root, path: &str) -> Result<(Manifest, Vec<f32>), messages::WireError> {
    let mut plan = data_plan(&[path], "y");
    let mut image = column(ColumnType::Image);
    (image.source.size, image.source.channels) = (Some(vec![2, 2]), 3);
    plan.columns.insert("image".into(), image);
    let prepared = root.prepare(&plan, Task::Regression)?;
    let part = encoded(&prepared, Split::Train);
    let images = part.inputs.images.expect("images");
    let kernels::nn::PixelValues::Bytes(pixels) = images.pixels else { panic!("bytes") };
    Ok((manifest(&prepared), pixels.into_iter().map(f32::from).collect()))
}

#[test]
fn pictures_are_read_from_files_and_from_bytes() {
    let pictures: Vec<Vec<u8>> = (0..4u8).map(|i| png(8, 6, |_, _| [i * 10, 100, 200 + i])).collect();
    let line = |i: usize| format!("pics/{}.png,{i},{}\n", i % 4, i % 3);
    let table = String::from("image,x,y\n") + &(0..24).map(line).collect::<String>();
    let mut files: Vec<(String, Vec<u8>)> =
        pictures.iter().enumerate().map(|(i, bytes)| (format!("set/pics/{i}.png"), bytes.clone())).collect();
    files.push(("set/table.csv".into(), table.into_bytes()));
    let batch = RecordBatch::try_from_iter(vec![
        ("image", Arc::new((0..24).map(|i| Some(pictures[i % 4].as_slice())).collect::<BinaryArray>()) as ArrayRef),
        ("x", Arc::new((0..24).map(|i| Some(f64::from(i))).collect::<Float64Array>())),
        ("y", Arc::new((0..24).map(|i| Some(f64::from(i % 3))).collect::<Float64Array>())),
    ]);
    files.push(("set/table.parquet".into(), parquet(&batch.expect("a batch"))));
    let named: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let root = folders(&named);
    let (manifest, from_files) = pictured(&root, "set/table.csv").expect("good files");
    let (_, from_bytes) = pictured(&root, "set/table.parquet").expect("good files");
    assert_eq!(from_files, from_bytes);
    let source = manifest.sources.last().expect("sources");
    assert_eq!(source.path, "4 pictures of column \"image\"");
    // Three channels of four pixels each.
    for picture in from_files.chunks(12) {
        let i = picture[0] / 10.0;
        assert_eq!(picture, [[i * 10.0; 4], [100.0; 4], [200.0 + i; 4]].concat());
    }
}

#[test]
fn pictures_that_lie_or_are_none_are_named() {
    // A header that promises ten thousand million pixels.
    let mut lying = png(1, 1, |_, _| [0; 3]);
    lying[16..24].copy_from_slice(&[0, 0, 0x40, 0, 0, 0, 0x40, 0]);
    let crc = crc(&lying[12..29]);
    lying[29..33].copy_from_slice(&crc.to_be_bytes());
    let cut = png(64, 64, |x, y| [x as u8, y as u8, (x * y) as u8]);
    let root = folders(&[
        ("lying.png", lying),
        ("cut.png", cut[..cut.len() / 2].to_vec()),
        ("text.png", b"hello".to_vec()),
        ("a.gif", b"GIF89a".to_vec()),
        (
            "table.csv",
            b"image,x,y\nlying.png,1,1\ncut.png,2,2\ntext.png,3,3\na.gif,4,4\nnone.png,5,5\n../x.png,6,6\n".to_vec(),
        ),
    ]);
    let error = pictured(&root, "table.csv").expect_err("bad pictures");
    expect![[r#"
        6 problems with the data:
          table.csv line 2, column "image": lying.png: says it has 16384 x 16384 pixels, expected sides of 1 to 16384 and at most 100000000 pixels
          table.csv line 3, column "image": cut.png: is a PNG picture that is damaged or cut short: unexpected end of file
          table.csv line 4, column "image": text.png: is something else, expected a PNG or JPEG picture
          table.csv line 5, column "image": a.gif: is a GIF picture, expected a PNG or JPEG picture
          table.csv line 6, column "image": none.png: no such file in the data roots (did you mean "text.png"?)
          table.csv line 7, column "image": ../x.png: lies outside the data roots"#]]
    .assert_eq(&error.message);
}

/// CRC-32 of PNG chunks.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { 0xedb8_8320 ^ (crc >> 1) } else { crc >> 1 })
    })
}

#[test]
fn what_cannot_be_read_is_told_at_its_place() {
    let cases: Vec<(&str, Vec<u8>, Expect)> = vec![
        (
            "a.jsonl",
            b"{\"x\": 1, \"y\": 2}\n{\"x\": 1, \"y\": \n{\"x\": [1], \"y\": 2}\n".to_vec(),
            expect![[
                r#"a.jsonl line 2: is no JSON object (EOF while parsing a value at column 13): "{\"x\": 1, \"y\":""#
            ]],
        ),
        (
            "b.jsonl",
            b"{\"x\": [1], \"y\": 2}\n{\"x\": {\"a\": 1}, \"y\": 2}\n{\"x\": 1, \"x\": 2, \"y\": 2}\n".to_vec(),
            expect![[r#"
                3 problems with the data:
                  b.jsonl line 1, column "x": is a list, expected a number, a text, true, false or null
                  b.jsonl line 2, column "x": is an object, expected a number, a text, true, false or null
                  b.jsonl line 3, column "x": stands twice in the record"#]],
        ),
        (
            "c.csv.gz",
            gzip(b"x,y\n1,2\n2,3\n3,4\n")[..20].to_vec(),
            expect!["c.csv.gz line 3: cannot be unpacked, it is cut short or damaged: incomplete deflate stream"],
        ),
        (
            "d.arrow",
            arrow_file(&batch(), false)[..700].to_vec(),
            expect!["d.arrow: is not an Arrow file or stream that can be read: it is cut short"],
        ),
        (
            "e.arrow",
            b"ARROW1\0\0\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(),
            expect![
                "e.arrow: is not an Arrow file or stream that can be read: a message says that its description takes 2147483647 bytes, expected at most 67108864"
            ],
        ),
        ("f.csv", b"ARROW1\0\0".to_vec(), expect!["f.csv: is an Arrow file, expected UTF-8 text"]),
        (
            "g.csv.bz2",
            b"BZh9".to_vec(),
            expect!["g.csv.bz2: files packed as .bz2 are not yet supported, expected none, .gz or .zst"],
        ),
        ("h.csv", b"BZh9".to_vec(), expect!["h.csv: is compressed with bzip2, expected UTF-8 text"]),
        (
            "i.parquet",
            parquet(&batch())[..600].to_vec(),
            expect![
                "i.parquet: is not a Parquet file that can be read: Parquet error: Invalid Parquet file. Corrupt footer"
            ],
        ),
    ];
    for (name, bytes, expected) in cases {
        let root = Root::new(&[(name, &bytes)]);
        let error = root.prepare(&data_plan(&[name], "y"), Task::Regression).expect_err(name);
        expected.assert_eq(&error.message);
    }
}

#[test]
fn texts_of_every_script_pass_unchanged() {
    let words =
        ["\u{1f600}\u{1f468}\u{200d}\u{1f469}", "\u{5e9}\u{5dc}\u{5d5}\u{5dd}", "\u{202e}abc", "\u{65e5}\u{672c}"];
    let line = |i: usize| format!("{},{i},{}\n", words[i % 4], i % 3);
    let content = String::from("w,x,y\n") + &(0..40).map(line).collect::<String>();
    let (manifest, _) = inferred(&content);
    let found = &manifest.columns[0].categories;
    assert!(words.iter().all(|word| found.iter().any(|category| category.value == *word)), "{found:?}");
}

#[test]
fn a_folder_s_name_may_hold_what_patterns_are_made_of() {
    let root = folders(&[("a[1]/b*.csv", csv(',').into_bytes())]);
    assert!(Path::new(&root.0.path().join("a[1]/b*.csv")).exists());
    root.prepare(&data_plan(&["a[1]/b*.csv"], "y"), Task::Regression).expect("the file itself");
}

#[test]
fn more_than_the_memory_limit_is_refused() {
    let root = Root::new(&[("a.csv", csv(',').as_bytes())]);
    let plan = data_plan(&["a.csv"], "y");
    let files = within_data_loader::source::files(&plan, &root.roots()).expect("is there");
    let read = |limit| {
        let token = tokio_util::sync::CancellationToken::new();
        within_data_loader::load::load(&plan, Task::Regression, &files, &root.roots(), limit, &token)
    };
    // Two columns of numbers at 8 bytes, one of categories at 4 and a little.
    let error = read(1_000).expect_err("is too much");
    assert_eq!(error.code, messages::error::Code::OutOfMemory);
    assert!(error.message.starts_with("a.csv: the columns that are read take more than the 1000 bytes"), "{error}");
    assert_eq!(read(2_000).expect("is enough").rows, ROWS);
}
