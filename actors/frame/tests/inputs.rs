//! Texts, images, category indices and sequences: encoded, picked, joined, sent and read back, and damaged.

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{DictionaryArray, FixedSizeBinaryArray, Float64Array, RecordBatch, StringArray};
use kernels::nn::{
    AdScoreConfig, Feed, Init, Model, ModelConfig, PixelValues, TableConfig, TextEncoderConfig, VisualEncoderConfig,
};
use kernels::pool::Pool;
use kernels::tape::Workspace;
use kernels::text::{Method, Tokenizer, VocabularyBuilder, VocabularyLimits};
use messages::event::Metrics;
use messages::plan::Task;
use proptest::prelude::*;
use within_frame::manifest::{Encoding, Feature, FittedScale, FittedTransform, Target};
use within_frame::model_file::{self, KEY_SERVING, SERVING_VERSION, Serving};
use within_frame::{
    ColumnValues, Encoded, Encoder, ErrorKind, Table, decode_frame, encode_frame, read_shard, write_shard,
};

fn tokenizer() -> String {
    let mut words = VocabularyBuilder::default();
    words.add("red shoes red hat").expect("few words");
    let limits = VocabularyLimits { min_frequency: 1, max_size: 100 };
    let method = Method::Vocabulary(words.finish(&limits).expect("a vocabulary"));
    Tokenizer::new(method, 4).expect("a tokenizer").to_text()
}

fn number() -> Encoding {
    let scale = FittedScale::Standard { mean: 1.0, std: 2.0 };
    Encoding::Number { impute: 1.0, missing_indicator: false, scale, clip: 0.0 }
}

fn features() -> Vec<Feature> {
    let feature = |column: &str, first, encoding| Feature { column: column.into(), first, encoding };
    vec![
        feature("headline", 0, Encoding::Text { tokenizer: tokenizer(), max_length: 4, vocab_size: 6 }),
        feature("price", 0, number()),
        feature("city", 1, Encoding::Index { categories: vec!["Oslo".into(), "Rome".into()] }),
        feature("picture", 1, Encoding::Image { channels: 1, height: 1, width: 2 }),
        feature("sex", 1, Encoding::Index { categories: vec!["f".into()] }),
    ]
}

fn table() -> Table {
    let category =
        |texts: [Option<&str>; 3]| ColumnValues::Category(texts.into_iter().collect::<DictionaryArray<Int32Type>>());
    let pixels = FixedSizeBinaryArray::try_new(2, vec![0u8, 9, 20, 30, 255, 7].into(), None).expect("three images");
    let columns = vec![
        (
            "headline".to_owned(),
            ColumnValues::Text(StringArray::from(vec![Some("Red hat, red shoes!"), None, Some("blue")])),
        ),
        ("price".to_owned(), ColumnValues::Number(Float64Array::from(vec![Some(3.0), None, Some(-1.0)]))),
        ("city".to_owned(), category([Some("Rome"), None, Some("Paris")])),
        ("picture".to_owned(), ColumnValues::Image(pixels)),
        ("sex".to_owned(), category([None, Some("f"), Some("f")])),
    ];
    Table::new(vec![7, 8, 9], columns, vec![1.0, 2.0, 3.0], None).expect("columns of one length")
}

fn encoded() -> Encoded {
    let encoder = Encoder::of(&features(), FittedTransform::None, false).expect("a tokenizer");
    encoder.encode(table().batch()).expect("encodes")
}

/// Steps of two samples: three and one.
fn sequence() -> Encoded {
    let numbers = ColumnValues::Number(Float64Array::from(vec![1.0, 3.0, 5.0, -1.0]));
    let columns = vec![("clicks".to_owned(), numbers)];
    let table = Table::new(vec![4, 4, 4, 5], columns, vec![2.0, 2.0, 2.0, 6.0], Some(vec![1.0, 1.0, 0.5, 3.0]));
    let features = [Feature { column: "clicks".into(), first: 0, encoding: number() }];
    let encoder = Encoder::of(&features, FittedTransform::Standard { mean: 2.0, std: 4.0 }, true).expect("fits");
    let table = table.expect("columns of one length");
    assert_eq!(encoder.own_targets(table.batch()), [2.0, 6.0]);
    encoder.encode(table.batch()).expect("encodes")
}

#[test]
fn each_column_becomes_what_its_branch_reads() {
    let rows = encoded();
    assert_eq!((rows.rows, rows.width, &rows.features[..]), (3, 1, &[1.0, 0.0, -1.0][..]));
    let tokens = rows.inputs.tokens.as_ref().expect("tokens");
    // 1 begins a row, 2 is unknown; red, then hat and shoes by their letters. Rows have at most four tokens.
    assert_eq!((tokens.row(0), tokens.row(1), tokens.row(2)), (&[1, 3, 4, 2][..], &[1][..], &[1, 2][..]));
    assert_eq!(rows.inputs.categories, [2, 0, 0, 1, 0, 1]);
    let images = rows.inputs.images.as_ref().expect("images");
    assert_eq!((images.channels, images.height, images.width), (1, 1, 2));
    assert_eq!(images.pixels, PixelValues::Bytes(vec![0, 9, 20, 30, 255, 7]));
}

#[test]
fn steps_behind_each_other_are_one_sample() {
    let rows = sequence();
    let steps = rows.inputs.steps.as_ref().expect("steps");
    assert_eq!((rows.rows, rows.width, rows.features.len()), (2, 1, 0));
    assert_eq!((&steps.values[..], &steps.offsets[..]), (&[0.0, 1.0, 2.0, -1.0][..], &[0, 3, 4][..]));
    assert_eq!((&rows.targets[..], &rows.sample_ids[..]), (&[0.0, 1.0][..], &[4, 5][..]));
    assert_eq!(rows.weights.as_deref(), Some(&[0.5, 3.0][..]));
    // Without ids, rows to predict are one sequence.
    let features = [Feature { column: "clicks".into(), first: 0, encoding: number() }];
    let encoder = Encoder::of(&features, FittedTransform::None, true).expect("fits");
    let bare =
        RecordBatch::try_from_iter([("clicks", Arc::new(Float64Array::from(vec![1.0, 2.0])) as arrow_array::ArrayRef)]);
    let one = encoder.encode(&bare.expect("a batch")).expect("encodes");
    assert_eq!((one.rows, one.targets.len()), (1, 0));
}

#[test]
fn rows_are_picked_and_joined_with_all_that_they_have() {
    for rows in [encoded(), sequence()] {
        let last = rows.rows as u32 - 1;
        let picked = rows.select(&[last, 0, last]);
        let mut joined = rows.select(&[last]);
        joined.append(rows.select(&[])).expect("nothing");
        joined.append(rows.select(&[0, last])).expect("the same layout");
        assert_eq!(joined, picked);
        assert_eq!(picked.select(&[1]), rows.select(&[0]));
        assert!(picked.size_bytes() > 0);
    }
    let mut rows = encoded();
    assert_eq!(rows.append(sequence()).expect_err("another layout").kind(), ErrorKind::Layout);
}

#[test]
fn frames_carry_everything_and_others_read_them() {
    for rows in [encoded(), sequence(), encoded().select(&[]), sequence().select(&[])] {
        let bytes = encode_frame(rows.clone()).expect("writes");
        assert_eq!(decode_frame(&bytes).expect("reads"), rows);
        let mut reader = arrow_ipc::reader::StreamReader::try_new(&bytes[..], None).expect("an arrow stream");
        let batch = reader.next().expect("a batch").expect("reads");
        assert_eq!(batch.num_rows(), rows.rows);
    }
}

#[test]
fn shards_of_texts_and_images_read_back() {
    let bytes = write_shard(&table()).expect("writes");
    assert_eq!(read_shard(&bytes).expect("reads"), table());
}

#[test]
fn a_table_that_does_not_fit_says_so() {
    let encoder = Encoder::of(&features(), FittedTransform::None, false).expect("a tokenizer");
    let batch = table();
    let batch = batch.batch();
    let without = batch.project(&[0, 2, 3, 4, 5, 6]).expect("columns");
    let error = encoder.encode(&without).expect_err("no headline");
    assert!(error.to_string().contains("no column \"headline\""), "{error}");
    let mut other = features();
    other[3].encoding = Encoding::Image { channels: 3, height: 1, width: 2 };
    let error = Encoder::of(&other, FittedTransform::None, false).expect("fits").encode(batch).expect_err("two bytes");
    assert!(error.to_string().contains("expected 6 bytes a row"), "{error}");
    other[0].encoding = Encoding::Text { tokenizer: "{}".into(), max_length: 4, vocab_size: 6 };
    assert!(Encoder::of(&other, FittedTransform::None, false).is_err());
    other[0].encoding = Encoding::Text { tokenizer: tokenizer(), max_length: 5, vocab_size: 6 };
    assert!(Encoder::of(&other, FittedTransform::None, false).is_err());
}

fn damage(bytes: &[u8], edits: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for &(at, value) in edits {
        let at = at % bytes.len();
        bytes[at] = value;
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn damaged_bytes_never_panic(edits in prop::collection::vec((any::<usize>(), any::<u8>()), 1..12), steps in any::<bool>()) {
        let rows = if steps { sequence() } else { encoded() };
        let frame = encode_frame(rows).expect("writes");
        if let Ok(rows) = decode_frame(&damage(&frame, &edits)) {
            let all: Vec<u32> = (0..rows.rows.min(100) as u32).collect();
            let _ = rows.select(&all);
        }
        let shard = write_shard(&table()).expect("writes");
        if let Ok(table) = read_shard(&damage(&shard, &edits)) {
            let encoder = Encoder::of(&features(), FittedTransform::None, false).expect("a tokenizer");
            let _ = encoder.encode(table.batch());
        }
    }
}

/// A model over the inputs above, and its file.
fn model_and_file() -> (Model, Vec<u8>) {
    let config = ModelConfig::AdScore(AdScoreConfig {
        text_encoder: Some(TextEncoderConfig {
            vocab_size: 6,
            max_length: 4,
            hidden_size: 4,
            layers: 1,
            heads: 2,
            intermediate_size: 8,
            ..TextEncoderConfig::default()
        }),
        visual_encoder: Some(VisualEncoderConfig {
            channels: 1,
            height: 1,
            width: 2,
            filters: vec![3],
            ..VisualEncoderConfig::default()
        }),
        table: Some(TableConfig { input_dim: 1, categories: vec![3, 2], ..TableConfig::default() }),
        ..AdScoreConfig::default()
    });
    let model = Model::new(&config, &Init::Default, 5).expect("valid");
    let serving = Serving {
        schema: SERVING_VERSION,
        name: "m".into(),
        plan_blake3: String::new(),
        dataset_blake3: String::new(),
        dataset_version: "v".into(),
        features: features(),
        derived: vec![],
        feature_names: vec!["price".into()],
        sequence: false,
        target: Target {
            task: Task::Regression,
            column: "y".into(),
            classes: vec![],
            transform: FittedTransform::None,
            train_mean: 0.0,
            train_priors: vec![],
        },
        loss: "mse".into(),
        threshold: 0.5,
        epoch: 1,
        metrics: Metrics::default(),
    };
    let text = serde_json::to_string(&serving).expect("serializes");
    let file = kernels::weights::save(&model, &[(KEY_SERVING.to_owned(), text)].into()).expect("saves");
    (model, file)
}

#[test]
fn a_model_file_alone_answers_raw_rows() {
    let (model, file) = model_and_file();
    let (pool, rows) = (Pool::new(1), encoded());
    let answer = |model: &Model, rows: &Encoded| {
        let feed = Feed::new(rows.rows, &rows.features, &rows.inputs);
        model.predict_feed(&feed, &pool, &mut Workspace::default()).expect("fits")
    };
    let served = model_file::open(&file).expect("opens");
    let again = served.encoder.encode(table().batch()).expect("encodes");
    assert_eq!(answer(&served.model, &again), answer(&model, &rows));
    let bare = kernels::weights::save(&model, &std::collections::BTreeMap::new()).expect("saves");
    let error = model_file::open(&bare).expect_err("no preprocessing");
    assert!(error.to_string().contains(KEY_SERVING), "{error}");
}
