//! Weight files: what is written reads back, equal models are equal bytes, and hostile bytes are an error.

use crate::support::model;
use kernels::ErrorKind;
use kernels::dtype::Precision;
use kernels::nn::{MlpConfig, Model, ModelConfig};
use kernels::philox::{Key, Stream};
use kernels::pool::Pool;
use kernels::text::{Hashing, Method, Tokenizer};
use kernels::train::{TrainConfig, Trainer};
use kernels::weights::{TOKENIZER_KEY, load, load_file, load_into, params_blake3, save, save_with};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("within.preprocessing".to_string(), r#"{"mean":[1,2]}"#.to_string())])
}

#[test]
fn a_model_file_is_self_contained_and_reproducible() {
    let model = model(5, 2, 1);
    let bytes = save(&model, &metadata()).expect("saved");
    assert_eq!(bytes, save(&model.clone(), &metadata()).expect("saved"));
    let (again, found) = load(&bytes).expect("its own file");
    assert_eq!((again.config(), found), (model.config(), metadata()));
    assert_eq!(params_blake3(&again), params_blake3(&model));
    let x = vec![0.25; 15];
    let outputs = |m: &Model| m.predict(&x, 3, &Pool::new(1)).expect("valid");
    assert_eq!(outputs(&again), outputs(&model));
    assert!(save(&model, &BTreeMap::from([("within.model".into(), String::new())])).is_err());
}

#[test]
fn a_model_that_reads_text_loads_with_its_tokenizer_in_one_call() {
    let model = model(5, 2, 1);
    let hashing = Method::Hashing(Hashing::new(500).expect("valid"));
    let tokenizer = Tokenizer::new(hashing, 12).expect("valid");
    let bytes = save_with(&model, Some(&tokenizer), &metadata(), Precision::F32).expect("saved");
    let file = load_file(&bytes).expect("its own file");
    assert_eq!((params_blake3(&file.model), &file.metadata), (params_blake3(&model), &metadata()));
    assert_eq!(file.tokenizer.expect("it reads text").to_text(), tokenizer.to_text());
    let without = load_file(&save(&model, &metadata()).expect("saved")).expect("its own file");
    assert!(without.tokenizer.is_none());
    let taken = BTreeMap::from([(TOKENIZER_KEY.to_owned(), "{}".to_owned())]);
    assert!(save_with(&model, Some(&tokenizer), &taken, Precision::F32).is_err());
    assert_eq!(load_file(&save(&model, &taken).expect("saved")).expect_err("no tokenizer").kind(), ErrorKind::Value);
}

/// The digest is part of what other systems see: it must never change.
#[test]
fn the_digest_is_of_the_parameters_and_nothing_else() {
    let of = |seed: u64, dropout: f32| {
        let config = MlpConfig { input_dim: 2, hidden_layers: vec![3], dropout, ..MlpConfig::default() };
        params_blake3(&Model::new(&ModelConfig::Mlp(config), &Default::default(), seed).expect("valid"))
    };
    assert_eq!(of(1, 0.0), of(1, 0.5), "settings without parameters do not enter");
    assert_ne!(of(1, 0.0), of(2, 0.0));
    assert_eq!(of(42, 0.0), "c022b654243f8dc36dc9f18e3eba5671fcc59ca29a88775e1fadd621b7738bcd");
}

#[test]
fn weights_of_another_model_are_refused() {
    let bytes = save(&model(5, 2, 1), &metadata()).expect("saved");
    let mut other = model(6, 2, 1);
    let before = params_blake3(&other);
    let error = load_into(&mut other, &bytes).expect_err("other shapes");
    assert_eq!(error.kind(), ErrorKind::Weights);
    assert!(error.to_string().contains("layers.0.weight") && error.to_string().contains("[37, 6]"), "{error}");
    assert_eq!(params_blake3(&other), before);
    let mut same = model(5, 2, 9);
    load_into(&mut same, &bytes).expect("same shapes");
    assert_eq!(params_blake3(&same), params_blake3(&model(5, 2, 1)));
    let fresh = || Trainer::new(model(5, 1, 1), TrainConfig::default(), Arc::new(Pool::new(1))).expect("valid");
    assert_eq!(fresh().load_state(&bytes).expect_err("no training state").kind(), ErrorKind::Weights);
    let state = fresh().save_state().expect("saved");
    let mut wider = Trainer::new(model(6, 1, 1), TrainConfig::default(), Arc::new(Pool::new(1))).expect("valid");
    assert_eq!(wider.load_state(&state).expect_err("other shapes").kind(), ErrorKind::Weights);
}

/// A header with this JSON and no data.
fn with_header(json: &str) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes
}

#[test]
fn hostile_files_are_errors() {
    let model_of = |config: &str| {
        let quoted = serde_json::to_string(config).expect("a string");
        with_header(&format!(r#"{{"__metadata__":{{"within.model":{quoted}}}}}"#))
    };
    let cases = [
        Vec::new(),
        vec![0xff; 8],
        vec![0xff; 64],
        with_header("{}"),
        with_header("[]"),
        with_header(&"[".repeat(10_000)),
        model_of("{}"),
        model_of(r#"{"type":"mlp","input_dim":16777216,"hidden_layers":[16777216,16777216],"output_dim":16777216}"#),
        model_of(r#"{"type":"mlp","input_dim":0}"#),
        with_header(r#"{"w":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}"#),
        with_header(r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#),
    ];
    for bytes in &cases {
        let kind = load(bytes).map(|_| ()).expect_err("hostile").kind();
        assert!(matches!(kind, ErrorKind::Weights | ErrorKind::Value), "{kind:?}");
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = save(&model(3, 1, 1), &metadata()).expect("saved");
    for end in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
        assert!(load(&bytes[..end]).is_err(), "cut at {end}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(load(&longer).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]

    /// Flipped bytes never panic; a file that still loads has the model's shapes.
    #[test]
    fn damaged_files_never_panic(seed in 0u64..1_000_000, count in 1usize..6) {
        let mut bytes = save(&model(3, 1, 1), &metadata()).expect("saved");
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes")) as usize;
        let mut rng = Key::new(seed, Stream::Sample).rng(0, 0);
        for _ in 0..count {
            let at = rng.below(header as u32) as usize;
            bytes[at] = rng.next_u32() as u8;
        }
        if let Ok((loaded, _)) = load(&bytes) {
            prop_assert!(loaded.parameter_count() > 0);
        }
    }
}
