//! Tokenizers: what they make of texts, that they travel as text, and that hostile files are errors.

use kernels::ErrorKind;
use kernels::philox::{Key, Stream};
use kernels::text::{
    Casing, Hashing, Method, Packed, Pretrained, Tokenizer, Vocabulary, VocabularyBuilder, VocabularyLimits,
};
use proptest::prelude::*;

fn hashing(size: u32, max_length: usize) -> Tokenizer {
    Tokenizer::new(Method::Hashing(Hashing::new(size).expect("valid")), max_length).expect("valid")
}

fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let mut ids = Vec::new();
    tokenizer.encode(text, &mut ids).expect("encoded");
    ids
}

/// Reference: the tokenizer of the peers, `[1] + [2 + fnv1a64(w) % 29998 for w in text.lower().split()]`.
#[test]
fn hashed_words_are_those_of_the_peers() {
    let tokenizer = hashing(30_000, 32);
    assert_eq!(ids(&tokenizer, "Best  Shoes\tof 2024"), [1, 24177, 9509, 4734, 18901]);
    assert_eq!(ids(&tokenizer, "ÉTÉ İstanbul ΟΔΟΣ a\u{1c}b"), [1, 24001, 1354, 18362, 18162, 29781]);
    assert_eq!(ids(&tokenizer, ""), [1]);
    assert_eq!(ids(&tokenizer, &"w ".repeat(100)).len(), 32);
}

fn fitted(texts: &[&str], limits: VocabularyLimits) -> Vocabulary {
    let mut builder = VocabularyBuilder::default();
    texts.iter().for_each(|text| builder.add(text).expect("counted"));
    builder.finish(&limits).expect("valid")
}

#[test]
fn a_vocabulary_is_by_frequency_and_then_by_bytes() {
    let texts = ["Buy buy BUY now, now!", "zebra apple zebra apple", "once"];
    let limits = VocabularyLimits { min_frequency: 2, max_size: 100 };
    let vocabulary = fitted(&texts, limits);
    assert_eq!(vocabulary.words(), ["buy", "apple", "now", "zebra"]);
    assert_eq!(fitted(&texts, VocabularyLimits { max_size: 5, ..limits }).words(), ["buy", "apple"]);
    let all = fitted(&texts, VocabularyLimits { min_frequency: 1, ..limits });
    assert_eq!(all.words(), ["buy", "apple", "now", "zebra", "!", ",", "once"]);
    let tokenizer = Tokenizer::new(Method::Vocabulary(vocabulary), 5).expect("valid");
    assert_eq!((tokenizer.size(), tokenizer.pad()), (7, 0));
    assert_eq!(ids(&tokenizer, "Now buy a zebra and an apple"), [1, 5, 3, 2, 6]);
    let refused =
        VocabularyBuilder::default().finish(&VocabularyLimits { max_size: 3, ..limits }).expect_err("no room");
    assert!(refused.to_string().contains("max_size"), "{refused}");
}

#[test]
fn rows_are_packed_and_padded() {
    let tokenizer = hashing(50, 3);
    let packed = tokenizer.pack(["a b c d", "", "x"]).expect("encoded");
    assert_eq!((packed.rows(), packed.offsets.as_slice()), (3, [0u32, 3, 4, 6].as_slice()));
    assert_eq!(packed.row(1), [1]);
    let padded = packed.padded(4, 0);
    assert_eq!(padded.len(), 12);
    assert_eq!((&padded[4..8], padded[3], padded[11]), ([1u32, 0, 0, 0].as_slice(), 0, 0));
    assert_eq!(tokenizer.pack([]).expect("nothing"), Packed { ids: vec![], offsets: vec![0] });
}

const VOCAB: &str = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nbuy\nshoe\n##s\nnow\n!\nete\n";

fn wordpiece(max_length: usize) -> Tokenizer {
    let pretrained = Pretrained::from_vocab(VOCAB, Casing::Uncased).expect("valid");
    Tokenizer::new(Method::Pretrained(Box::new(pretrained)), max_length).expect("valid")
}

#[test]
fn word_pieces_follow_bert() {
    let tokenizer = wordpiece(16);
    assert_eq!((tokenizer.size(), tokenizer.pad()), (11, 0));
    assert_eq!(ids(&tokenizer, "Buy SHOES now! Été [MASK] xyz"), [2, 5, 6, 7, 8, 9, 10, 4, 1, 3]);
    assert_eq!(ids(&wordpiece(4), "buy buy buy buy"), [2, 5, 5, 3], "the special tokens stay");
    assert_eq!(ids(&tokenizer, ""), [2, 3]);
    let cased = Pretrained::from_vocab(VOCAB, Casing::Cased).expect("valid");
    let cased = Tokenizer::new(Method::Pretrained(Box::new(cased)), 16).expect("valid");
    assert_eq!(ids(&cased, "Buy buy"), [2, 1, 5, 3]);
}

#[test]
fn tokenizers_travel_as_text() {
    let vocabulary = fitted(&["a b c a \"quoted\" é"], VocabularyLimits { min_frequency: 1, max_size: 50 });
    let all = [hashing(99, 7), Tokenizer::new(Method::Vocabulary(vocabulary), 9).expect("valid"), wordpiece(6)];
    for tokenizer in all {
        let text = tokenizer.to_text();
        let again = Tokenizer::from_text(&text).expect("its own text");
        assert_eq!(again.to_text(), text);
        for sample in ["a \"quoted\" é buy shoes", "", "one two three four five six seven eight nine ten"] {
            assert_eq!(ids(&again, sample), ids(&tokenizer, sample));
        }
        assert_eq!(
            (again.size(), again.pad(), again.max_length()),
            (tokenizer.size(), tokenizer.pad(), tokenizer.max_length())
        );
    }
}

#[test]
fn settings_and_files_that_make_no_sense_are_refused_by_name() {
    let vocab =
        |text: &str| Pretrained::from_vocab(text, Casing::Uncased).map(|_| ()).expect_err("refused").to_string();
    assert!(vocab("[PAD]\n[UNK]\n[CLS]\n").contains("[SEP]"));
    assert!(vocab("[UNK]\n[CLS]\n[SEP]\na\na\n").contains("line 5"));
    assert!(vocab("[UNK]\n\n[CLS]\n[SEP]\n").contains("line 2"));
    assert!(vocab("").contains("[UNK]"));
    let text = |text: &str| Tokenizer::from_text(text).map(|_| ()).expect_err("refused");
    for (saved, word) in [
        (r#"{"max_length":8,"type":"hashing","size":2}"#, "size"),
        (r#"{"max_length":1,"type":"hashing","size":9}"#, "max_length"),
        (r#"{"max_length":999999,"type":"hashing","size":9}"#, "max_length"),
        (r#"{"max_length":8,"type":"vocabulary","words":["a","a"]}"#, "twice"),
        (r#"{"max_length":8,"type":"vocabulary","words":[""]}"#, "1 to 128"),
        (r#"{"max_length":8,"type":"sentencepiece"}"#, "sentencepiece"),
        (r#"{"max_length":8,"type":"pretrained","json":"{}"}"#, "tokenizer.json"),
        ("[", "JSON"),
    ] {
        let error = text(saved);
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains(word), "{error}");
    }
    let two = Pretrained::from_vocab(VOCAB, Casing::Uncased).expect("valid");
    assert!(Tokenizer::new(Method::Pretrained(Box::new(two)), 2).is_err(), "no room beside two special tokens");
    assert!(Pretrained::from_json(&"[".repeat(100_000)).is_err());
}

/// The base file with one part replaced by another JSON.
fn with_part(part: &str, value: serde_json::Value) -> String {
    let base = Pretrained::from_vocab(VOCAB, Casing::Uncased).expect("valid");
    let mut json: serde_json::Value = serde_json::from_str(base.json()).expect("JSON");
    json[part] = value;
    json.to_string()
}

#[test]
fn hostile_tokenizer_files_are_refused_or_stay_within_bounds() {
    use serde_json::json;
    let added = |id: u64, content: &str| {
        json!([{ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true }])
    };
    let template = json!({ "type": "TemplateProcessing", "single": [{ "SpecialToken": { "id": "[NO]", "type_id": 0 } }],
        "pair": [], "special_tokens": {} });
    let many: Vec<_> = (0..50).map(|_| json!({ "SpecialToken": { "id": "[CLS]", "type_id": 0 } })).collect();
    let long = json!({ "type": "TemplateProcessing", "single": many, "pair": [],
        "special_tokens": { "[CLS]": { "id": "[CLS]", "ids": [2], "tokens": ["[CLS]"] } } });
    let files = [
        with_part("added_tokens", added(u64::from(u32::MAX), "[NEW]")),
        with_part("added_tokens", added(1 << 40, "[NEW]")),
        with_part("added_tokens", added(7, "")),
        with_part("model", json!({ "type": "BPE", "vocab": { "a": 0 }, "merges": [["a", "b"]] })),
        with_part("model", json!({ "type": "BPE", "vocab": {}, "merges": [] })),
        with_part("model", json!({ "type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 5 })),
        with_part("model", json!({ "type": "Unigram", "vocab": [], "unk_id": 0 })),
        with_part("model", json!({ "type": "WordLevel", "vocab": { "a": 3 }, "unk_token": "[NONE]" })),
        with_part(
            "model",
            json!({ "type": "WordPiece", "vocab": {}, "unk_token": "", "continuing_subword_prefix": "",
            "max_input_chars_per_word": 0 }),
        ),
        with_part("normalizer", json!({ "type": "Precompiled", "precompiled_charsmap": "AAAA" })),
        with_part("normalizer", json!({ "type": "Replace", "pattern": { "Regex": "(" }, "content": "" })),
        with_part("normalizer", json!({ "type": "Replace", "pattern": { "String": "" }, "content": "xx" })),
        with_part(
            "pre_tokenizer",
            json!({ "type": "Split", "pattern": { "Regex": "(?<a>(x+)+)\\k<a>$" },
            "behavior": "Isolated", "invert": false }),
        ),
        with_part("post_processor", template),
        with_part("post_processor", long),
        with_part(
            "padding",
            json!({ "strategy": { "Fixed": 4_000_000_000u64 }, "direction": "Right",
            "pad_to_multiple_of": 0, "pad_id": 9, "pad_type_id": 0, "pad_token": "p" }),
        ),
        with_part(
            "truncation",
            json!({ "direction": "Left", "max_length": 0, "strategy": "LongestFirst", "stride": 9 }),
        ),
    ];
    for file in files {
        let made = Pretrained::from_json(&file).and_then(|p| Tokenizer::new(Method::Pretrained(Box::new(p)), 6));
        match made {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Value, "{error}"),
            Ok(tokenizer) => {
                let mut ids = Vec::new();
                if tokenizer.encode("Buy xxxxxxxxxxxxxxxxxxxxxxxxxxxx shoes now!", &mut ids).is_ok() {
                    assert!((1..=6).contains(&ids.len()), "{file}: {ids:?}");
                    assert!(ids.iter().all(|id| (*id as usize) < tokenizer.size()), "{file}: {ids:?}");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: proptest::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]

    /// Whatever the text, rows are within their length and ids within the size.
    #[test]
    fn any_text_is_encoded_within_bounds(texts in prop::collection::vec(any::<String>(), 0..6), max_length in 3usize..12) {
        let vocabulary = fitted(&["the quick brown fox"], VocabularyLimits { min_frequency: 1, max_size: 6 });
        let all = [
            hashing(17, max_length),
            Tokenizer::new(Method::Vocabulary(vocabulary), max_length).expect("valid"),
            wordpiece(max_length),
        ];
        for tokenizer in all {
            let packed = tokenizer.pack(texts.iter().map(String::as_str)).expect("any text");
            prop_assert_eq!(packed.rows(), texts.len());
            prop_assert!(packed.ids.iter().all(|id| (*id as usize) < tokenizer.size()));
            for row in 0..packed.rows() {
                prop_assert!((1..=max_length).contains(&packed.row(row).len()));
            }
            let padded = packed.padded(max_length, tokenizer.pad());
            prop_assert_eq!(padded.len(), texts.len() * max_length);
        }
    }

    /// Readers may count in any order and any split.
    #[test]
    fn counting_commutes(texts in prop::collection::vec("[a-e]{1,2}( [a-e]{1,2}){0,5}", 1..12), cut in 0usize..12) {
        let limits = VocabularyLimits { min_frequency: 2, max_size: 8 };
        let whole = fitted(&texts.iter().map(String::as_str).collect::<Vec<_>>(), limits);
        let cut = cut.min(texts.len());
        let mut parts = [VocabularyBuilder::default(), VocabularyBuilder::default()];
        for (i, text) in texts.iter().enumerate().rev() {
            parts[usize::from(i < cut)].add(text).expect("counted");
        }
        let [mut first, second] = parts;
        first.merge(&second).expect("merged");
        prop_assert_eq!(first.finish(&limits).expect("valid"), whole);
    }

    /// A damaged tokenizer.json is refused or still keeps its bounds.
    #[test]
    fn damaged_tokenizer_files_never_panic(seed in 0u64..1_000_000, count in 1usize..8) {
        let json = Pretrained::from_vocab(VOCAB, Casing::Uncased).expect("valid").json().to_owned();
        let mut bytes = json.into_bytes();
        let mut rng = Key::new(seed, Stream::Sample).rng(0, 0);
        for _ in 0..count {
            let at = rng.below(bytes.len() as u32) as usize;
            match rng.below(3) {
                0 => bytes[at] = rng.next_u32() as u8 & 0x7f,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, b"{}[]\",:019ae"[rng.below(12) as usize]),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(pretrained) = Pretrained::from_json(&text) {
            let size = pretrained.size();
            if let Ok(tokenizer) = Tokenizer::new(Method::Pretrained(Box::new(pretrained)), 6) {
                let mut ids = Vec::new();
                if tokenizer.encode("Buy shoes now! [MASK] xyz", &mut ids).is_ok() {
                    prop_assert!((1..=6).contains(&ids.len()) && ids.iter().all(|id| (*id as usize) < size));
                }
            }
        }
    }
}
