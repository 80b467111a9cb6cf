//! Weights of pretrained encoders of the BERT family (Devlin et al. 2019) and of DistilBERT (Sanh et al. 2019),
//! by their usual names: `config.json` says the sizes, `model.safetensors` holds the weights. The three
//! products of attention become one. Both files are hostile input.

use super::file::{File, read};
use crate::error::{Error, Result};
use crate::nn::Model;
use crate::ops::Activation;
use crate::params::ParamStore;
use std::collections::{BTreeMap, BTreeSet};

/// Which names and which parts: BERT has token types and a pooler, DistilBERT has neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    Bert,
    DistilBert,
}

/// The sizes of a pretrained encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct PretrainedConfig {
    pub family: Family,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub layers: usize,
    pub heads: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// The longest row.
    pub max_positions: usize,
    /// Token types; 0 where the family has none.
    pub type_vocab_size: usize,
    pub layer_norm_epsilon: f64,
    pub activation: Activation,
    pub dropout: f64,
}

/// The largest `config.json` that is read.
const MAX_CONFIG_BYTES: usize = 1 << 20;

impl PretrainedConfig {
    /// From the contents of a `config.json`. `Weights` errors name the key.
    pub fn from_json(text: &str) -> Result<PretrainedConfig> {
        let refuse = |expected: String, got: String| Error::weights("config.json", expected, got);
        if text.len() > MAX_CONFIG_BYTES {
            return Err(refuse(format!("at most {MAX_CONFIG_BYTES} bytes"), text.len().to_string()));
        }
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|e| refuse("a JSON object".into(), e.to_string()))?;
        let family = match json.get("model_type").and_then(|v| v.as_str()) {
            Some("bert") => Family::Bert,
            Some("distilbert") => Family::DistilBert,
            other => {
                let got = other.map_or_else(|| "none".to_owned(), |name| format!("{name:?}"));
                return Err(refuse("model_type bert or distilbert".into(), got));
            }
        };
        let size = |key: &str, most: u64| match json.get(key).and_then(serde_json::Value::as_u64) {
            Some(n) if (1..=most).contains(&n) => Ok(n as usize),
            _ => Err(refuse(format!("{key} in 1..={most}"), shown(json.get(key)))),
        };
        let number = |key: &str, usual: f64, most: f64| match json.get(key) {
            None => Ok(usual),
            Some(v) => match v.as_f64() {
                Some(n) if (0.0..most).contains(&n) => Ok(n),
                _ => Err(refuse(format!("{key} in [0, {most})"), shown(json.get(key)))),
            },
        };
        let act = |key: &str| match json.get(key).map(|v| v.as_str()) {
            None | Some(Some("gelu")) => Ok(Activation::Gelu),
            Some(Some("gelu_new" | "gelu_pytorch_tanh")) => Ok(Activation::GeluTanh),
            Some(Some("relu")) => Ok(Activation::Relu),
            Some(Some("silu" | "swish")) => Ok(Activation::Silu),
            _ => Err(refuse(format!("{key} gelu, gelu_new, relu or silu"), shown(json.get(key)))),
        };
        if json.get("position_embedding_type").is_some_and(|v| v != "absolute") {
            let got = shown(json.get("position_embedding_type"));
            return Err(refuse("position_embedding_type \"absolute\"".into(), got));
        }
        let bert = family == Family::Bert;
        let either = |a: &'static str, b: &'static str| if bert { a } else { b };
        let config = PretrainedConfig {
            family,
            vocab_size: size("vocab_size", 1 << 24)?,
            hidden_size: size(either("hidden_size", "dim"), 1 << 16)?,
            layers: size(either("num_hidden_layers", "n_layers"), 1 << 10)?,
            heads: size(either("num_attention_heads", "n_heads"), 1 << 10)?,
            intermediate_size: size(either("intermediate_size", "hidden_dim"), 1 << 18)?,
            max_positions: size("max_position_embeddings", 1 << 16)?,
            type_vocab_size: if bert { size("type_vocab_size", 1 << 10)? } else { 0 },
            layer_norm_epsilon: number("layer_norm_eps", 1e-12, 1.0)?,
            activation: act(either("hidden_act", "activation"))?,
            dropout: number(either("hidden_dropout_prob", "dropout"), 0.1, 1.0)?,
        };
        if !config.hidden_size.is_multiple_of(config.heads) {
            let expected = format!("a hidden size that {} heads divide", config.heads);
            return Err(refuse(expected, config.hidden_size.to_string()));
        }
        Ok(config)
    }
}

fn shown(value: Option<&serde_json::Value>) -> String {
    let text = value.map_or_else(|| "none".to_owned(), ToString::to_string);
    if text.len() > 100 { "a long value".into() } else { text }
}

/// Which rows of a parameter a tensor fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Whole,
    /// The query, key or value (0, 1, 2) of a product that computes all three.
    Third(usize),
}

/// Names outside the layers: (BERT, DistilBERT, ours); an empty name is one that the family does not have.
const OUTSIDE: [(&str, &str, &str); 4] = [
    ("embeddings.word_embeddings", "embeddings.word_embeddings", "embeddings.token"),
    ("embeddings.position_embeddings", "embeddings.position_embeddings", "embeddings.position"),
    ("embeddings.token_type_embeddings", "", "embeddings.type"),
    ("embeddings.LayerNorm", "embeddings.LayerNorm", "embeddings.norm"),
];
/// The pooler, likewise.
const POOLER: (&str, &str) = ("pooler.dense", "pooler");
/// Names within a layer: (BERT, DistilBERT, ours, part).
const WITHIN: [(&str, &str, &str, Part); 8] = [
    ("attention.self.query", "attention.q_lin", "attention.qkv", Part::Third(0)),
    ("attention.self.key", "attention.k_lin", "attention.qkv", Part::Third(1)),
    ("attention.self.value", "attention.v_lin", "attention.qkv", Part::Third(2)),
    ("attention.output.dense", "attention.out_lin", "attention.output", Part::Whole),
    ("attention.output.LayerNorm", "sa_layer_norm", "attention.norm", Part::Whole),
    ("intermediate.dense", "ffn.lin1", "feed_forward.up", Part::Whole),
    ("output.dense", "ffn.lin2", "feed_forward.down", Part::Whole),
    ("output.LayerNorm", "output_layer_norm", "feed_forward.norm", Part::Whole),
];

/// Our name (below the encoder's prefix) of a tensor of a pretrained file; none for one that no encoder
/// has, such as a head's. `bert.`, `distilbert.` or `model.` before it do not matter.
pub fn canonical(family: Family, name: &str) -> Option<(String, Part)> {
    let bare = ["bert.", "distilbert.", "model."].iter().find_map(|p| name.strip_prefix(p)).unwrap_or(name);
    let (stem, kind) = bare.rsplit_once('.')?;
    // Files written by TensorFlow have other names for the two parts of a norm.
    let kind = match kind {
        "weight" | "gamma" => "weight",
        "bias" | "beta" => "bias",
        _ => return None,
    };
    let of = |bert: &'static str, distil: &'static str| if family == Family::Bert { bert } else { distil };
    let fits = |theirs: &str, stem: &str| !theirs.is_empty() && theirs == stem;
    if let Some((_, _, ours)) = OUTSIDE.iter().find(|(bert, distil, _)| fits(of(bert, distil), stem)) {
        return Some((format!("{ours}.{kind}"), Part::Whole));
    }
    if family == Family::Bert && stem == POOLER.0 {
        return Some((format!("{}.{kind}", POOLER.1), Part::Whole));
    }
    let (layer, rest) = stem.strip_prefix(of("encoder.layer.", "transformer.layer."))?.split_once('.')?;
    let plain = !layer.is_empty() && layer.len() <= 4 && layer.bytes().all(|b| b.is_ascii_digit());
    let (_, _, ours, part) = WITHIN.iter().find(|(bert, distil, ..)| plain && fits(of(bert, distil), rest))?;
    Some((format!("layers.{layer}.{ours}.{kind}"), *part))
}

/// What became of a file's tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Tensors that were taken.
    pub taken: usize,
    /// Tensors of the file that the model has no place for, by their names there.
    pub unknown: Vec<String>,
    /// Parameters of the encoder that the file holds nothing for, by our names; they keep their values.
    pub missing: Vec<String>,
}

/// Takes the weights of a `model.safetensors` into the encoder of a model: the parameters whose names begin
/// with `prefix`. Positions beyond the model's are left out. `Weights` error, and the model unchanged, for a
/// tensor of another shape or element type, and where nothing fits at all.
pub fn import(model: &mut Model, prefix: &str, family: Family, bytes: &[u8]) -> Result<Imported> {
    import_into(model.params_mut(), prefix, family, bytes)
}

fn import_into(params: &mut ParamStore, prefix: &str, family: Family, bytes: &[u8]) -> Result<Imported> {
    let file = read(bytes)?;
    let places: BTreeMap<String, Vec<usize>> = params
        .iter()
        .filter_map(|(param, _)| Some((param.name.strip_prefix(prefix)?.to_owned(), param.shape.clone())))
        .collect();
    let mut filled: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    let mut parts: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
    let mut imported = Imported::default();
    // Some files carry the numbers 0, 1, 2, … under this name: no weight.
    for (name, shape) in file.shapes().into_iter().filter(|(name, _)| !name.ends_with("embeddings.position_ids")) {
        let place = canonical(family, &name).and_then(|(ours, part)| {
            let wanted = places.get(&ours)?;
            Some((ours, part, wanted))
        });
        let Some((ours, part, wanted)) = place else {
            imported.unknown.push(name);
            continue;
        };
        let values = tensor(&file, &name, &shape, wanted, part)?;
        let third = if let Part::Third(n) = part { n } else { 0 };
        if !parts.entry(ours.clone()).or_default().insert(third) {
            let expected = format!("one tensor for `{prefix}{ours}`");
            return Err(Error::weights("tensors", expected, format!("`{name}` too")));
        }
        let total = wanted.iter().product();
        filled.entry(ours).or_insert_with(|| vec![0.0; total])[third * values.len()..][..values.len()]
            .copy_from_slice(&values);
        imported.taken += 1;
    }
    let fused = |ours: &str| ours.contains("attention.qkv.");
    let whole = |ours: &String| parts.get(ours).is_some_and(|p| p.len() == if fused(ours) { 3 } else { 1 });
    imported.missing = places.keys().filter(|ours| !whole(ours)).map(|ours| format!("{prefix}{ours}")).collect();
    if imported.taken == 0 {
        let expected = format!("tensors of the {family:?} family for `{prefix}…`");
        let first: Vec<_> = imported.unknown.iter().take(3).map(|name| name.chars().take(80).collect()).collect();
        return Err(Error::weights("tensors", expected, format!("none: {}", <[String]>::join(&first, ", "))));
    }
    for (ours, values) in filled.iter().filter(|(ours, _)| whole(ours)) {
        let id = params.find(&format!("{prefix}{ours}")).expect("invariant: it is one of the places");
        params.set(id, values)?;
    }
    Ok(imported)
}

/// The values of a tensor that fills a place or a third of it.
fn tensor(file: &File<'_>, name: &str, shape: &[usize], wanted: &[usize], part: Part) -> Result<Vec<f32>> {
    let mut expected = wanted.to_vec();
    if let (Part::Third(_), Some(rows)) = (part, expected.first_mut()) {
        *rows /= 3;
    }
    let positions = name.contains("position_embeddings") && shape.len() == 2 && expected.len() == 2;
    if positions && shape[1] == expected[1] && shape[0] > expected[0] {
        let mut values = file.tensor(name, shape)?;
        values.truncate(expected.iter().product());
        return Ok(values);
    }
    file.tensor(name, &expected)
}

#[cfg(test)]
mod tests {
    use super::super::file::{Entry, write};
    use super::*;
    use crate::dtype::Precision;
    use crate::params::{Decay, Layout, ParamBuilder, ParamId};
    use crate::philox::{Key, Stream};

    const PREFIX: &str = "text.";

    /// An encoder's parameters as ours are named: width 4, feed-forward 6, 5 positions.
    fn encoder(layers: usize) -> ParamStore {
        let mut builder = ParamBuilder::default();
        let mut add = |name: String, shape: &[usize]| {
            builder.add(format!("{PREFIX}{name}"), shape, Decay::Decayed, Layout::Plain).expect("small");
        };
        for (name, rows) in [("token", 7), ("position", 5)] {
            add(format!("embeddings.{name}.weight"), &[rows, 4]);
        }
        for kind in ["weight", "bias"] {
            add(format!("embeddings.norm.{kind}"), &[4]);
        }
        for layer in 0..layers {
            for (name, out, width) in [
                ("attention.qkv", 12, 4),
                ("attention.output", 4, 4),
                ("feed_forward.up", 6, 4),
                ("feed_forward.down", 4, 6),
            ] {
                add(format!("layers.{layer}.{name}.weight"), &[out, width]);
                add(format!("layers.{layer}.{name}.bias"), &[out]);
            }
            for name in ["attention.norm", "feed_forward.norm"] {
                add(format!("layers.{layer}.{name}.weight"), &[4]);
                add(format!("layers.{layer}.{name}.bias"), &[4]);
            }
        }
        builder.build().expect("small")
    }

    /// A file of the family, each tensor filled with numbers of its own.
    fn theirs(family: Family, prefix: &str, layers: usize) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let bert = family == Family::Bert;
        let mut shapes = vec![
            ("embeddings.word_embeddings.weight".to_owned(), vec![7, 4]),
            ("embeddings.position_embeddings.weight".to_owned(), vec![8, 4]),
            ("embeddings.LayerNorm.weight".to_owned(), vec![4]),
            ("embeddings.LayerNorm.bias".to_owned(), vec![4]),
        ];
        for layer in 0..layers {
            for (of_bert, of_distil, ours, _) in WITHIN {
                let stem = if bert {
                    format!("encoder.layer.{layer}.{of_bert}")
                } else {
                    format!("transformer.layer.{layer}.{of_distil}")
                };
                let (out, width) = match ours {
                    "feed_forward.up" => (6, 4),
                    "feed_forward.down" => (4, 6),
                    _ => (4, 4),
                };
                let weight = if ours.ends_with("norm") { vec![4] } else { vec![out, width] };
                shapes.push((format!("{stem}.weight"), weight));
                shapes.push((format!("{stem}.bias"), vec![out]));
            }
        }
        let numbers = |(index, (name, shape)): (usize, (String, Vec<usize>))| {
            let values = (0..shape.iter().product::<usize>()).map(|i| (index * 100 + i) as f32).collect();
            (format!("{prefix}{name}"), shape, values)
        };
        shapes.into_iter().enumerate().map(numbers).collect()
    }

    fn file(tensors: &[(String, Vec<usize>, Vec<f32>)], precision: Precision) -> Vec<u8> {
        let entry =
            |(name, shape, values): &'_ (String, Vec<usize>, Vec<f32>)| (name.clone(), shape.clone(), values.clone());
        let owned: Vec<_> = tensors.iter().map(entry).collect();
        let entries: Vec<Entry<'_>> = owned
            .iter()
            .map(|(name, shape, values)| Entry { name: name.clone(), shape: shape.clone(), values, precision })
            .collect();
        write(&entries, &BTreeMap::new()).expect("written")
    }

    fn values(params: &ParamStore, name: &str) -> Vec<f32> {
        params.values(params.find(&format!("{PREFIX}{name}")).expect("there")).to_vec()
    }

    #[test]
    fn both_families_with_and_without_prefixes_fill_every_parameter() {
        for (family, prefix) in
            [(Family::Bert, ""), (Family::Bert, "bert."), (Family::DistilBert, "distilbert."), (Family::DistilBert, "")]
        {
            let tensors = theirs(family, prefix, 2);
            let mut params = encoder(2);
            let imported =
                import_into(&mut params, PREFIX, family, &file(&tensors, Precision::F32)).expect("its own family");
            assert_eq!((imported.taken, imported.unknown.len(), imported.missing.len()), (tensors.len(), 0, 0));
            let of = |stem: &str| {
                let found = tensors.iter().find(|(name, ..)| name.ends_with(stem)).expect("there");
                found.2.clone()
            };
            let (q, k, v) = match family {
                Family::Bert => ("self.query", "self.key", "self.value"),
                Family::DistilBert => ("q_lin", "k_lin", "v_lin"),
            };
            for kind in ["weight", "bias"] {
                let fused: Vec<f32> =
                    [q, k, v].iter().flat_map(|part| of(&format!("layer.1.attention.{part}.{kind}"))).collect();
                assert_eq!(values(&params, &format!("layers.1.attention.qkv.{kind}")), fused);
            }
            assert_eq!(values(&params, "embeddings.position.weight"), of("position_embeddings.weight")[..20]);
        }
    }

    #[test]
    fn what_is_unknown_and_what_is_missing_is_listed() {
        let mut tensors = theirs(Family::Bert, "bert.", 1);
        tensors.retain(|(name, ..)| !name.contains("self.key") && !name.contains("embeddings.LayerNorm.bias"));
        tensors.push(("cls.predictions.bias".into(), vec![7], vec![0.0; 7]));
        tensors.push(("bert.embeddings.position_ids".into(), vec![1, 8], vec![0.0; 8]));
        tensors.push(("bert.encoder.layer.9.output.dense.bias".into(), vec![4], vec![0.0; 4]));
        let mut params = encoder(1);
        let imported = import_into(&mut params, PREFIX, Family::Bert, &file(&tensors, Precision::F32)).expect("valid");
        assert_eq!(imported.unknown, ["bert.encoder.layer.9.output.dense.bias", "cls.predictions.bias"]);
        assert_eq!(
            imported.missing,
            ["text.embeddings.norm.bias", "text.layers.0.attention.qkv.bias", "text.layers.0.attention.qkv.weight"]
        );
        assert!(values(&params, "layers.0.attention.qkv.weight").iter().all(|v| *v == 0.0), "it keeps its values");
    }

    #[test]
    fn sixteen_bits_are_converted_and_old_norms_are_known() {
        let mut tensors = theirs(Family::Bert, "", 1);
        for (name, ..) in &mut tensors {
            *name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        }
        for precision in [Precision::Bf16, Precision::F16] {
            let mut params = encoder(1);
            let imported = import_into(&mut params, PREFIX, Family::Bert, &file(&tensors, precision)).expect("valid");
            assert!(imported.missing.is_empty(), "{imported:?}");
            let up = tensors.iter().find(|(name, ..)| name.ends_with("intermediate.dense.weight")).expect("there");
            let want: Vec<f32> = up.2.iter().map(|v| precision.round(*v)).collect();
            assert_eq!(values(&params, "layers.0.feed_forward.up.weight"), want);
        }
    }

    #[test]
    fn other_shapes_other_families_and_doubles_are_refused_and_change_nothing() {
        let refused = |tensors: &[(String, Vec<usize>, Vec<f32>)], family: Family, words: &[&str]| {
            let mut params = encoder(1);
            let error = import_into(&mut params, PREFIX, family, &file(tensors, Precision::F32))
                .expect_err("refused")
                .to_string();
            assert!(words.iter().all(|w| error.contains(w)), "{error}");
            assert!(params.flat().iter().all(|v| *v == 0.0));
        };
        let mut narrow = theirs(Family::Bert, "", 1);
        let query = narrow.iter_mut().find(|(name, ..)| name.ends_with("query.weight")).expect("there");
        (query.1, query.2) = (vec![2, 4], vec![0.0; 8]);
        refused(&narrow, Family::Bert, &["query.weight", "[4, 4]", "[2, 4]"]);
        let mut double = theirs(Family::Bert, "", 1);
        double.push(("bert.embeddings.LayerNorm.bias".into(), vec![4], vec![1.0; 4]));
        refused(&double, Family::Bert, &["one tensor", "LayerNorm.bias"]);
        let head = [("classifier.weight".to_owned(), vec![2, 4], vec![1.0; 8])];
        refused(&head, Family::DistilBert, &["none", "classifier.weight"]);
    }

    #[test]
    fn an_element_type_that_holds_no_weights_is_refused_by_name() {
        let mut bytes = file(&theirs(Family::Bert, "", 1), Precision::F32);
        let at = bytes.windows(5).position(|w| w == b"\"F32\"").expect("the first tensor's");
        bytes[at + 1] = b'I';
        let error = import_into(&mut encoder(1), PREFIX, Family::Bert, &bytes).expect_err("whole numbers").to_string();
        assert!(error.contains("expected element type F32, BF16 or F16, got I32"), "{error}");
        assert!(error.contains("embeddings.LayerNorm.bias"), "{error}");
    }

    #[test]
    fn damaged_files_never_panic() {
        let bytes = file(&theirs(Family::Bert, "bert.", 1), Precision::F32);
        for end in (0..bytes.len()).step_by(11) {
            assert!(import_into(&mut encoder(1), PREFIX, Family::Bert, &bytes[..end]).is_err(), "cut at {end}");
        }
        let header = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("8 bytes")) as usize;
        let mut accepted = 0;
        for seed in 0..3000u64 {
            let mut rng = Key::new(seed, Stream::Sample).rng(0, 0);
            let mut hostile = bytes.clone();
            for _ in 0..=rng.below(4) {
                hostile[rng.below(header as u32) as usize] = rng.next_u32() as u8;
            }
            let mut params = encoder(1);
            if let Ok(imported) = import_into(&mut params, PREFIX, Family::Bert, &hostile) {
                accepted += 1;
                assert!(imported.taken <= 20);
            }
            assert_eq!(params.values(ParamId(0)).len(), 28);
        }
        assert!(accepted > 0, "some damage only renames a tensor");
    }

    #[test]
    fn configurations_are_read_and_hostile_ones_refused() {
        let bert = r#"{"model_type":"bert","vocab_size":30522,"hidden_size":384,"num_hidden_layers":6,"num_attention_heads":12,
            "intermediate_size":1536,"max_position_embeddings":512,"type_vocab_size":2,"layer_norm_eps":1e-12,
            "hidden_act":"gelu","hidden_dropout_prob":0.1,"position_embedding_type":"absolute"}"#;
        let config = PretrainedConfig::from_json(bert).expect("valid");
        assert_eq!((config.layers, config.heads, config.type_vocab_size), (6, 12, 2));
        assert_eq!((config.layer_norm_epsilon, config.activation), (1e-12, Activation::Gelu));
        let distil = r#"{"model_type":"distilbert","vocab_size":30522,"dim":768,"n_layers":6,"n_heads":12,
            "hidden_dim":3072,"max_position_embeddings":512,"activation":"gelu","dropout":0.1}"#;
        let config = PretrainedConfig::from_json(distil).expect("valid");
        assert_eq!((config.family, config.intermediate_size, config.type_vocab_size), (Family::DistilBert, 3072, 0));
        for (from, to, word) in [
            ("\"bert\"", "\"gpt2\"", "model_type"),
            ("30522", "0", "vocab_size"),
            ("384", "385", "heads"),
            ("384", "\"384\"", "hidden_size"),
            ("1e-12", "-1", "layer_norm_eps"),
            ("\"gelu\"", "\"mish\"", "hidden_act"),
            ("\"absolute\"", "\"relative_key\"", "position_embedding_type"),
            ("512", "99999999999999999999", "max_position_embeddings"),
        ] {
            let error = PretrainedConfig::from_json(&bert.replace(from, to)).expect_err(to).to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(PretrainedConfig::from_json("[").is_err() && PretrainedConfig::from_json(&"[".repeat(9999)).is_err());
    }
}
