//! Every type of model as a job: words, images, sequences and categories from files to an evaluated model that
//! serves alone. The data are made here, with a signal that guessing does not have.

use std::fmt::Write;

use serde_json::Value;

use crate::harness::{Sandbox, file_of, number, text};

/// Trains and evaluates; the test part's metric is at least this.
fn learns(sandbox: &Sandbox, spec: &str, metric: &str, least: f64) -> Value {
    let path = sandbox.write("job.yaml", spec).display().to_string();
    let last = sandbox.within(&["run", &path, "--json", "--id", "m"]).expect(0).last();
    let reached = number(&last, &format!("/metrics/test/{metric}"));
    assert!(reached >= least, "{metric} {reached}, expected at least {least}\n{last:#}");
    assert_eq!(text(&last, "/model/blake3").len(), 64);
    last
}

/// A pseudo-random number below `n`.
fn below(state: &mut u64, n: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % n
}

/// Ads whose score is a sum over a word, an image's brightness, a city and a price.
pub fn ads(sandbox: &Sandbox) {
    let words = ["free", "new", "big", "sale", "now", "shoes", "hats", "you"];
    let cities = ["Oslo", "Rome", "Lima"];
    let (mut csv, mut seed) = ("headline,image,city,price,score,good\n".to_owned(), 7);
    let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 16, 0, 0, 0, 8, 0, 0, 0, 8];
    idx.extend((0..16u8).flat_map(|image| [image * 15; 64]));
    for _ in 0..1200 {
        let picked: Vec<&str> = (0..4).map(|_| words[below(&mut seed, 8) as usize]).collect();
        let (image, city, price) = (below(&mut seed, 16), below(&mut seed, 3), below(&mut seed, 100));
        let free = f64::from(u8::from(picked.contains(&"free")));
        let score = 4.0 * free + image as f64 / 4.0 + 2.0 * city as f64 + price as f64 / 25.0;
        let good = u8::from(free > 0.5);
        writeln!(csv, "{},{image},{},{price},{score},{good}", picked.join(" "), cities[city as usize]).expect("writes");
    }
    sandbox.write("ads.csv", csv);
    sandbox.write("ads.idx", idx);
}

pub const AD_SCORE: &str = "\
task: regression
data:
  path: ads.csv
  target: {column: score, transform: standard}
  columns: {headline: text, image: {type: image, images: ads.idx}}
  exclude: [good]
  batch_size: 32
model:
  type: ad_score
  text_encoder: {hidden_size: 16, num_layers: 1, num_heads: 2, dropout: 0.0, output_dim: 8}
  visual_encoder: {filters: [8], output_dim: 8}
  tabular_encoder: {hidden_layers: [16], output_dim: 8}
  fusion: {hidden_dim: 32}
  head: {hidden_layers: [16], dropout: 0.0}
training:
  epochs: 12
  optimizer: {learning_rate: 0.01}
";

#[test]
fn ad_score_learns_from_all_its_branches() {
    let sandbox = Sandbox::new();
    ads(&sandbox);
    let last = learns(&sandbox, AD_SCORE, "r2", 0.9);
    // The file alone says how raw rows become inputs.
    let file = std::fs::read(file_of(&last["model"]["uri"])).expect("the model is there");
    let header = String::from_utf8_lossy(&file[..file.len().min(100_000)]).into_owned();
    for said in ["within.serving", "tokenizer", "ad_score", "Lima"] {
        assert!(header.contains(said), "{said} is not in the model's metadata");
    }
    let names =
        ["text.embeddings.token.weight", "visual.layers.0.weight", "table.categories.0.weight", "fusion.weight"];
    for name in names {
        assert!(header.contains(name), "{name} is no parameter");
    }
}

#[test]
fn a_branch_that_is_left_out_is_missed() {
    for branch in ["text_encoder", "visual_encoder", "tabular_encoder"] {
        let sandbox = Sandbox::new();
        ads(&sandbox);
        let without = AD_SCORE.replace(&format!("{branch}: {{"), &format!("{branch}: {{type: none, "));
        let last = learns(&sandbox, &without, "r2", 0.1);
        assert!(number(&last, "/metrics/test/r2") < 0.87, "{branch}: {last:#}");
    }
}

#[test]
fn the_same_job_gives_the_same_model_for_any_threads() {
    let hash = |threads: u32| {
        let sandbox = Sandbox::new();
        ads(&sandbox);
        let spec = format!("{}resources: {{threads: {threads}}}\n", AD_SCORE.replace("epochs: 12", "epochs: 2"));
        text(&learns(&sandbox, &spec, "r2", -10.0), "/model/blake3").to_owned()
    };
    assert_eq!(hash(1), hash(2));
}

#[test]
fn words_are_classified_by_a_transformer() {
    let sandbox = Sandbox::new();
    ads(&sandbox);
    let spec = "\
task: binary_classification
data:
  path: ads.csv
  target: good
  columns: {headline: text}
  text: {tokenizer: hashing, vocab_size: 500, max_length: 8}
model:
  name: transformer_classifier
  architecture: {hidden_size: 16, num_layers: 1, num_heads: 2, dropout: 0.0, pooling: mean, num_classes: 2}
training:
  epochs: 10
  batch_size: 32
  precision: bf16
  optimizer: {learning_rate: 0.01, groups: [{pattern: 'text.*', learning_rate_multiplier: 0.5}]}
  ema: {decay: 0.9}
";
    learns(&sandbox, spec, "accuracy", 0.95);
}

#[test]
fn images_are_classified_by_convolutions() {
    let sandbox = Sandbox::new();
    let (mut csv, mut idx, mut seed) =
        ("image,kind\n".to_owned(), vec![0, 0, 8, 3, 0, 0, 2, 88, 0, 0, 0, 6, 0, 0, 0, 6], 3);
    for image in 0..600u32 {
        // Stripes lie, stand, or there are none.
        let kind = below(&mut seed, 3);
        writeln!(csv, "{image},{}", ["lying", "standing", "plain"][kind as usize]).expect("writes");
        for pixel in 0..36u64 {
            let stripe = [pixel / 6 % 2, pixel % 2, 1][kind as usize];
            idx.push((stripe * 100 + below(&mut seed, 100)) as u8);
        }
    }
    sandbox.write("kinds.csv", csv);
    sandbox.write("kinds.idx", idx);
    let spec = "\
task: multiclass
data:
  path: kinds.csv
  target: kind
  columns: {image: {type: image, images: kinds.idx}}
model: {type: image_classifier, filters: [8], stride: 1, normalization: batch_norm, hidden_layers: [8]}
training:
  epochs: 10
  batch_size: 32
  class_weights: balanced
  optimizer: {learning_rate: 0.01}
";
    learns(&sandbox, spec, "accuracy", 0.9);
}

/// Daily series of accounts whose health is how far their clicks rise.
pub fn accounts(sandbox: &Sandbox) {
    let (mut csv, mut seed) = ("account,day,clicks,cost,health\n".to_owned(), 5);
    for account in 0..400 {
        let (level, slope) = (below(&mut seed, 50) as f64, below(&mut seed, 21) as f64 - 10.0);
        for day in 0..10 + account % 6 {
            let clicks = level + slope * f64::from(day) / 10.0;
            writeln!(csv, "a{account},{day},{clicks},{},{slope}", below(&mut seed, 9)).expect("writes");
        }
    }
    sandbox.write("accounts.csv", csv);
}

#[test]
fn series_are_read_by_an_lstm() {
    let sandbox = Sandbox::new();
    accounts(&sandbox);
    let spec = "\
task: regression
data:
  path: accounts.csv
  target: {column: health, transform: standard}
  sequence: {group_column: account, order_column: day}
model: {type: lstm_sequence, lstm: {hidden_size: 16, num_layers: 1, bidirectional: true}}
training:
  epochs: 40
  batch_size: 32
  clip_grad_norm: 1.0
  optimizer: {learning_rate: 0.02}
";
    let last = learns(&sandbox, spec, "r2", 0.8);
    // Accounts are split, not days.
    let report: Value = serde_json::from_slice(&std::fs::read(file_of(&last["report"])).expect("the report"))
        .expect("the report is JSON");
    let rows = ["rows_train", "rows_val", "rows_test"].map(|part| number(&report, &format!("/dataset/{part}")));
    assert_eq!(rows.iter().sum::<f64>(), 400.0);
}

#[test]
fn categories_are_embedded() {
    let sandbox = Sandbox::new();
    let (mut csv, mut seed) = ("shop,hour,sold\n".to_owned(), 9);
    for _ in 0..1500 {
        let (shop, hour) = (below(&mut seed, 30), below(&mut seed, 24));
        writeln!(csv, "s{shop},{hour},{}", (shop * 7 % 11) as f64 + hour as f64 / 4.0).expect("writes");
    }
    sandbox.write("shops.csv", csv);
    let spec = "\
task: regression
data: {path: shops.csv, target: {column: sold, transform: standard}}
model: {type: tabular, hidden_layers: [32], embedding_dim: 6}
training:
  epochs: 15
  batch_size: 32
  loss: huber
  huber_delta: 0.5
  optimizer: {type: sgd, learning_rate: 0.05, momentum: 0.9, nesterov: true}
";
    learns(&sandbox, spec, "r2", 0.9);
}

/// A BERT of two tokens' width and one layer, with weights of our own, in a folder as it is published.
fn tiny_bert(sandbox: &Sandbox) {
    let folder = sandbox.path("tiny");
    std::fs::create_dir(&folder).expect("creates");
    let words =
        ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "free", "new", "big", "sale", "now", "shoes", "hats", "you"];
    std::fs::write(folder.join("vocab.txt"), words.join("\n")).expect("writes");
    let config = serde_json::json!({
        "model_type": "bert", "vocab_size": words.len(), "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 32, "type_vocab_size": 2,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("writes");
    let mut tensors: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![words.len(), 8]),
        ("embeddings.position_embeddings.weight".into(), vec![32, 8]),
        ("embeddings.token_type_embeddings.weight".into(), vec![2, 8]),
        ("cls.predictions.bias".into(), vec![words.len()]),
    ];
    let dense = [
        ("encoder.layer.0.attention.self.query", [8, 8]),
        ("encoder.layer.0.attention.self.key", [8, 8]),
        ("encoder.layer.0.attention.self.value", [8, 8]),
        ("encoder.layer.0.attention.output.dense", [8, 8]),
        ("encoder.layer.0.intermediate.dense", [16, 8]),
        ("encoder.layer.0.output.dense", [8, 16]),
    ];
    for (name, shape) in dense {
        tensors.push((format!("{name}.weight"), shape.to_vec()));
        tensors.push((format!("{name}.bias"), vec![shape[0]]));
    }
    for name in ["embeddings", "encoder.layer.0.attention.output", "encoder.layer.0.output"] {
        tensors.push((format!("{name}.LayerNorm.weight"), vec![8]));
        tensors.push((format!("{name}.LayerNorm.bias"), vec![8]));
    }
    let (mut header, mut data, mut seed) = (serde_json::Map::new(), Vec::new(), 11);
    for (name, shape) in tensors {
        let from = data.len();
        for _ in 0..shape.iter().product() {
            data.extend((below(&mut seed, 1000) as f32 / 1000.0 - 0.5).to_le_bytes());
        }
        let entry = serde_json::json!({ "dtype": "F32", "shape": shape, "data_offsets": [from, data.len()] });
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.extend(data);
    std::fs::write(folder.join("model.safetensors"), file).expect("writes");
}

const PRETRAINED: &str = "\
task: binary_classification
data:
  path: ads.csv
  target: good
  columns: {headline: text}
  text: {max_length: 16}
model: {type: transformer_classifier, backbone: tiny, dropout: 0.0}
training:
  epochs: 12
  batch_size: 32
  optimizer: {learning_rate: 0.01}
";

#[test]
fn a_pretrained_encoder_is_fine_tuned_from_its_folder() {
    let sandbox = Sandbox::new();
    ads(&sandbox);
    tiny_bert(&sandbox);
    learns(&sandbox, PRETRAINED, "accuracy", 0.9);
    let logs = sandbox.within(&["jobs", "logs", "m"]).expect(0).all_text();
    assert!(logs.contains("pretrained encoder: 21 tensors taken"), "{logs}");
    assert!(logs.contains("without a place in the model: cls.predictions.bias"), "{logs}");
    assert!(logs.contains("not in the file: text.pooler.bias, text.pooler.weight"), "{logs}");
}

#[test]
fn sizes_and_classes_that_do_not_fit_are_refused_by_key() {
    let cases = [
        (
            "backbone: tiny,",
            "backbone: tiny, hidden_size: 768,",
            "model.hidden_size: 768, but the pretrained encoder tiny has 8",
        ),
        ("dropout: 0.0}", "dropout: 0.0, num_classes: 3}", "model.num_classes: 3, but column \"good\" has 2 classes"),
        ("max_length: 16", "max_length: 64", "has 32 positions, but data.text.max_length is 64"),
        ("backbone: tiny", "backbone: bert-base-uncased", "bert-base-uncased: no such file in the data roots"),
        ("type: transformer_classifier", "type: account_health", "not yet supported: model.type: account_health"),
    ];
    for (from, to, says) in cases {
        let sandbox = Sandbox::new();
        ads(&sandbox);
        tiny_bert(&sandbox);
        let path = sandbox.write("job.yaml", PRETRAINED.replace(from, to)).display().to_string();
        let told = sandbox.within(&["run", &path]).all_text();
        assert!(told.contains(says), "{to}: {told}");
    }
}
