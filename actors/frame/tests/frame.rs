//! The whole of the crate from outside: goldens computed by hand, round trips, and bytes that are damaged.

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{DictionaryArray, Float64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use expect_test::expect;
use messages::ArtifactRef;
use messages::feed::Split;
use messages::plan::{SplitStrategy, Task};
use proptest::prelude::*;
use within_frame::manifest::{
    CategoryCount, Column, ColumnKind, ColumnRole, Encoding, Feature, FittedScale, FittedTransform, Lineage,
    MANIFEST_VERSION, Part, SampleIdScheme, Shard, Source, SplitInfo, Statistics, Target,
};
use within_frame::{
    ColumnValues, Encoded, Encoder, ErrorKind, Manifest, Table, decode_frame, encode_frame, read_shard, row_bytes,
    write_shard,
};

fn feature(column: &str, first: usize, encoding: Encoding) -> Feature {
    Feature { column: column.into(), first, encoding }
}

fn number(impute: f64, missing_indicator: bool, scale: FittedScale, clip: f64) -> Encoding {
    Encoding::Number { impute, missing_indicator, scale, clip }
}

fn one_hot(categories: &[&str], other: bool) -> Encoding {
    Encoding::OneHot { categories: categories.iter().map(|&c| c.to_owned()).collect(), other }
}

fn manifest() -> Manifest {
    let artifact = ArtifactRef { uri: "file:///shard".into(), blake3: "0".repeat(64), size_bytes: 9 };
    let features = vec![
        feature("age", 0, number(40.0, true, FittedScale::Standard { mean: 40.0, std: 10.0 }, 1.5)),
        feature("city", 2, one_hot(&["Oslo", "Rome"], true)),
        feature("spent", 5, number(0.0, false, FittedScale::MinMax { min: 0.0, max: 4.0 }, 0.0)),
        feature("sex", 6, one_hot(&["f", "m"], false)),
    ];
    Manifest {
        schema: MANIFEST_VERSION,
        dataset_version: "v1".into(),
        lineage: Lineage::default(),
        sources: vec![Source { path: "a.csv".into(), blake3: "1".repeat(64), size_bytes: 3, rows: 4, test: false }],
        columns: vec![Column {
            name: "age".into(),
            r#type: ColumnKind::Number,
            role: ColumnRole::Feature,
            statistics: Some(Statistics {
                count: 3,
                missing: 1,
                distinct: 3,
                mean: Some(0.1 + 0.2),
                ..Statistics::default()
            }),
            categories: vec![CategoryCount { value: "x".into(), count: 1 }],
        }],
        target: Target {
            task: Task::Regression,
            column: "y".into(),
            classes: vec![],
            transform: FittedTransform::Standard { mean: 10.0, std: 4.0 },
            train_mean: 10.0,
            train_priors: vec![],
        },
        feature_names: features.iter().flat_map(|f| f.encoding.names(&f.column)).collect(),
        features,
        sequence: None,
        pretrained: None,
        augmentation: None,
        synthetic: None,
        sample_id: SampleIdScheme::RowNumber,
        weighted: false,
        derived: vec![],
        storage: None,
        inference: vec![],
        split: SplitInfo {
            strategy: SplitStrategy::Random,
            test_size: 0.25,
            val_size: 0.25,
            random_state: 42,
            column: None,
            official_test: false,
            by: messages::plan::SplitBy::Exact,
            fold: None,
            repeat: 0,
            gap: None,
            left_out: 0,
        },
        parts: Split::ALL
            .map(|split| Part {
                split,
                rows: 4,
                class_counts: vec![],
                shards: vec![Shard { artifact: artifact.clone(), rows: 4 }],
            })
            .into(),
        quality: None,
        warnings: vec![],
    }
}

fn categories(values: &[Option<&str>]) -> ColumnValues {
    ColumnValues::Category(values.iter().copied().collect::<DictionaryArray<Int32Type>>())
}

fn table() -> Table {
    let columns = vec![
        ("age".to_owned(), ColumnValues::Number(Float64Array::from(vec![Some(50.0), None, Some(35.0), Some(90.0)]))),
        ("city".to_owned(), categories(&[Some("Rome"), Some("Oslo"), None, Some("Lima")])),
        ("spent".to_owned(), ColumnValues::Number(Float64Array::from(vec![Some(1.0), Some(4.0), None, Some(8.0)]))),
        ("sex".to_owned(), categories(&[Some("m"), Some("f"), Some("x"), None])),
    ];
    Table::new(vec![7, u64::MAX, 0, 3], columns, vec![10.0, 14.0, 6.0, 12.0], Some(vec![1.0, 0.5, 0.0, 2.0]))
        .expect("a table")
}

#[test]
fn features_are_as_computed_by_hand() {
    let manifest = manifest();
    assert_eq!(
        manifest.feature_names,
        ["age", "age=<missing>", "city=Oslo", "city=Rome", "city=<other>", "spent", "sex=f", "sex=m"]
    );
    let encoded = Encoder::new(&manifest).expect("a tokenizer").encode(table().batch()).expect("encodes");
    #[rustfmt::skip]
    let expected = [
        // age, missing, Oslo, Rome, other, spent, f, m
        1.0,  0.0, 0.0, 1.0, 0.0, 0.25, 0.0, 1.0,
        0.0,  1.0, 1.0, 0.0, 0.0, 1.0,  1.0, 0.0,
        -0.5, 0.0, 0.0, 0.0, 0.0, 0.0,  0.0, 0.0, // no city, sex unseen and nothing folded
        1.5,  0.0, 0.0, 0.0, 1.0, 2.0,  0.0, 0.0, // clipped, city folded, beyond train's maximum
    ];
    assert_eq!((encoded.rows, encoded.width), (4, 8));
    assert_eq!(encoded.features, expected);
    assert_eq!(encoded.targets, [0.0, 1.0, -1.0, 0.5]);
    assert_eq!(encoded.sample_ids, [7, u64::MAX, 0, 3]);
    let mut outputs = encoded.targets.clone();
    manifest.invert_target(&mut outputs);
    assert_eq!(outputs, table().targets());

    let picked = encoded.select(&[3, 0]);
    assert_eq!((picked.features[..8].to_vec(), picked.sample_ids), (expected[24..].to_vec(), vec![3, 7]));
    assert_eq!((picked.targets, picked.weights), (vec![0.5, 0.0], Some(vec![2.0, 1.0])));
}

#[test]
fn a_row_has_the_same_features_alone_and_from_plain_texts() {
    let manifest = manifest();
    let encoder = Encoder::new(&manifest).expect("a tokenizer");
    let all = encoder.encode(table().batch()).expect("encodes");
    for row in 0..4 {
        let alone = encoder.encode(&table().batch().slice(row, 1)).expect("encodes");
        assert_eq!(alone, all.select(&[row as u32]));
    }
    let schema = Schema::new(vec![
        Field::new("sex", DataType::Utf8, true),
        Field::new("city", DataType::Utf8, true),
        Field::new("age", DataType::Float64, true),
        Field::new("spent", DataType::Float64, true),
    ]);
    let batch = RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(StringArray::from(vec!["m"])),
            Arc::new(StringArray::from(vec!["Rome"])),
            Arc::new(Float64Array::from(vec![50.0])),
            Arc::new(Float64Array::from(vec![1.0])),
        ],
    )
    .expect("a batch");
    let served = encoder.encode(&batch).expect("encodes");
    assert_eq!(served.features, all.features[..8]);
    assert!(served.targets.is_empty() && served.weights.is_none());
}

#[test]
fn rows_that_do_not_fit_are_refused_by_column() {
    let encoder = Encoder::new(&manifest()).expect("a tokenizer");
    let without = table().batch().project(&[0, 1, 5]).expect("projects");
    let error = encoder.encode(&without).expect_err("a column is missing");
    assert_eq!(error.kind(), ErrorKind::Layout);
    expect![[r#"no column "city""#]].assert_eq(&error.to_string());
    let mut wrong = manifest();
    wrong.features[0].column = "city".into();
    let error = Encoder::new(&wrong).expect("a tokenizer").encode(table().batch()).expect_err("a type is wrong");
    expect![[r#"column "city" is Dictionary(Int32, Utf8), expected Float64"#]].assert_eq(&error.to_string());
    let columns = vec![("age".to_owned(), ColumnValues::Number(Float64Array::from(vec![1.0])))];
    assert!(Table::new(vec![1, 2], columns, vec![0.0, 0.0], None).is_err());
}

#[test]
fn a_manifest_reads_back_to_the_bit_and_refuses_what_disagrees() {
    let manifest = manifest();
    let bytes = manifest.to_json();
    assert_eq!(Manifest::from_json(&bytes).expect("reads"), manifest);
    assert_eq!(bytes, manifest.to_json());
    assert_eq!((manifest.width(), manifest.outputs(), manifest.rows(Split::Val)), (8, 1, 4));

    type Spoil = fn(&mut Manifest);
    let spoilt: [(Spoil, &str); 5] = [
        (|m| m.schema = 9, "manifest of schema version 9: this reader knows up to 2"),
        (|m| m.features[1].first = 7, "manifest: feature column \"city\" begins at 7, expected 2"),
        (|m| m.feature_names[0] = "b".into(), "manifest: feature_names are not those of its features"),
        (|m| m.parts[1].rows = 5, "manifest: the val part has 5 rows but its shards 4"),
        (|m| m.parts.truncate(2), "manifest: no test part"),
    ];
    for (spoil, message) in spoilt {
        let mut other = manifest.clone();
        spoil(&mut other);
        let error = Manifest::from_json(&other.to_json()).expect_err(message);
        assert_eq!(error.to_string(), message);
    }
    assert_eq!(Manifest::from_json(b"{}").expect_err("no manifest").kind(), ErrorKind::Malformed);
}

#[test]
fn a_shard_reads_back_and_has_the_same_bytes_each_time() {
    let bytes = write_shard(&table()).expect("writes");
    assert_eq!(bytes, write_shard(&table()).expect("writes"));
    let back = read_shard(&bytes).expect("reads");
    assert_eq!(back, table());
    assert_eq!((back.rows(), back.targets()[1], back.weights().map(|w| w[1])), (4, 14.0, Some(0.5)));
    for (bytes, message) in [
        (&b"ARROW1"[..], "not an Arrow IPC file"),
        (&[], "not an Arrow IPC file"),
        (&bytes[..bytes.len() - 1], "not an Arrow IPC file"),
    ] {
        assert_eq!(read_shard(bytes).expect_err("refused").to_string(), message);
    }
}

#[test]
fn a_frame_is_an_arrow_stream_that_others_read() {
    let encoded = Encoder::new(&manifest()).expect("a tokenizer").encode(table().batch()).expect("encodes");
    let bytes = encode_frame(encoded.clone()).expect("writes");
    assert!(bytes.len() <= within_frame::frame_bytes_bound(4, row_bytes(8, true)));
    assert_eq!(decode_frame(&bytes).expect("reads"), encoded);
    // At any address: a frame lies anywhere in a network buffer.
    for shift in 1..8 {
        let moved = [vec![0; shift], bytes.to_vec()].concat();
        assert_eq!(decode_frame(&moved[shift..]).expect("reads"), encoded);
    }
    let mut reader = arrow_ipc::reader::StreamReader::try_new(&bytes[..], None).expect("an arrow stream");
    let batch = reader.next().expect("a batch").expect("reads");
    let names: Vec<_> =
        batch.schema_ref().fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect();
    expect![[r"
        sample_id: UInt64
        features: FixedSizeList(8 x non-null Float32)
        target: Float32
        weight: Float32"]]
    .assert_eq(&names.join("\n"));
}

#[test]
fn an_empty_frame_is_a_frame() {
    let encoded = Encoded { width: 3, ..Encoded::default() };
    let bytes = encode_frame(encoded.clone()).expect("writes");
    assert_eq!(decode_frame(&bytes).expect("reads"), encoded);
}

/// Flips, cuts and overwrites that a proptest case applies to good bytes.
fn damage(bytes: &[u8], edits: &[(usize, u8)], cut: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for &(at, value) in edits {
        let at = at % bytes.len();
        bytes[at] = value;
    }
    let keep = bytes.len() - cut % bytes.len();
    // Half of the cases keep their length, so that damage inside is seen as well.
    if cut.is_multiple_of(2) { bytes } else { bytes[..keep].to_vec() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_shards_never_panic(edits in prop::collection::vec((any::<usize>(), any::<u8>()), 1..12), cut in any::<usize>()) {
        let bytes = write_shard(&table()).expect("writes");
        if let Ok(table) = read_shard(&damage(&bytes, &edits, cut)) {
            let _ = Encoder::new(&manifest()).expect("a tokenizer").encode(table.batch());
        }
    }

    #[test]
    fn damaged_frames_never_panic(edits in prop::collection::vec((any::<usize>(), any::<u8>()), 1..12), cut in any::<usize>()) {
        let encoded = Encoder::new(&manifest()).expect("a tokenizer").encode(table().batch()).expect("encodes");
        let bytes = encode_frame(encoded).expect("writes");
        let _ = decode_frame(&damage(&bytes, &edits, cut));
    }

    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(read_shard(&bytes).is_err());
        prop_assert!(decode_frame(&bytes).is_err());
        prop_assert!(Manifest::from_json(&bytes).is_err());
    }

    #[test]
    fn frames_round_trip(rows in 0usize..40, width in 0usize..9, weighted in any::<bool>(), seed in any::<u32>()) {
        let value = |i: usize| f32::from_bits(seed.wrapping_mul(i as u32 + 1) & 0x7f7f_ffff);
        let encoded = Encoded {
            rows,
            width,
            features: (0..rows * width).map(value).collect(),
            targets: (0..rows).map(value).collect(),
            sample_ids: (0..rows as u64).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect(),
            weights: weighted.then(|| (0..rows).map(value).collect()),
            ..Encoded::default()
        };
        let bytes = encode_frame(encoded.clone()).expect("writes");
        prop_assert!(bytes.len() <= within_frame::frame_bytes_bound(rows, row_bytes(width, weighted)));
        prop_assert_eq!(decode_frame(&bytes).expect("reads"), encoded);
    }
}
