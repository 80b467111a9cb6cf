//! What happens to a text: synonym replacement, random insertion, deletion and swap (Wei and Zou, "EDA: Easy
//! data augmentation techniques", EMNLP 2019), and back-translation from a table. A word is what white space
//! separates; marks around it stay where they are. Texts stay valid UTF-8, as whole words and characters move.

use std::collections::BTreeMap;

use kernels::philox::Rng;
use messages::plan::{TextAugmentation, TextMethod};

use super::lane::{Draws, Lane};

/// Synonyms by lower-case word, and translations there and back by text.
#[derive(Debug, Clone, Copy)]
pub struct Words<'a> {
    pub synonyms: &'a BTreeMap<String, Vec<String>>,
    pub translations: &'a BTreeMap<String, String>,
}

/// The changed text of a sample; none where it stays as it is.
pub fn augment(text: &str, plan: &TextAugmentation, words: Words<'_>, draws: Draws) -> Option<String> {
    let mut choice = draws.of(Lane::Text);
    if plan.methods.is_empty() || choice.uniform() >= plan.prob {
        return None;
    }
    let method = plan.methods[choice.below(plan.methods.len() as u32) as usize];
    apply(method, text, plan, words, draws)
}

/// One method, certainly; none where it changes nothing.
pub fn apply(
    method: TextMethod,
    text: &str,
    plan: &TextAugmentation,
    words: Words<'_>,
    draws: Draws,
) -> Option<String> {
    let list: Vec<&str> = text.split_whitespace().collect();
    match method {
        TextMethod::SynonymReplacement => {
            let mut rng = draws.of(Lane::SynonymReplacement);
            replace(&list, plan.synonym_replacement.range, words, &mut rng)
        }
        TextMethod::RandomInsertion => {
            let mut rng = draws.of(Lane::RandomInsertion);
            insert(&list, plan.random_insertion.range, words, &mut rng)
        }
        TextMethod::RandomDeletion => delete(&list, plan.random_deletion.range, &mut draws.of(Lane::RandomDeletion)),
        TextMethod::WordSwap => swap(&list, plan.word_swap.range, &mut draws.of(Lane::WordSwap)),
        TextMethod::BackTranslation => words.translations.get(text).filter(|there| *there != text).cloned(),
    }
}

/// How many words a range means: a share, at least one.
fn count(range: f64, words: usize) -> usize {
    ((range * words as f64) as usize).max(1)
}

/// The word without the marks around it, and where it stands in the token.
fn core(token: &str) -> &str {
    token.trim_matches(|c: char| !c.is_alphanumeric())
}

/// The key that a token's synonyms are found by; none for a token without letters.
pub fn lookup_key(token: &str) -> Option<String> {
    let core = core(token);
    core.chars().any(char::is_alphabetic).then(|| core.to_lowercase())
}

/// Synonyms of a token.
fn synonyms<'a>(token: &str, words: Words<'a>) -> Option<&'a [String]> {
    words.synonyms.get(&lookup_key(token)?).map(Vec::as_slice).filter(|found| !found.is_empty())
}

/// The synonym in place of the token's word, in the same case and between the same marks.
fn in_place_of(token: &str, synonym: &str) -> String {
    let core = core(token);
    let start = core.as_ptr() as usize - token.as_ptr() as usize;
    let (before, after) = (&token[..start], &token[start + core.len()..]);
    let mut letters = core.chars().filter(|c| c.is_alphabetic());
    let (first, second) = (letters.next(), letters.next());
    let upper = |c: Option<char>| c.is_some_and(char::is_uppercase);
    let cased = if upper(first) && upper(second) && !core.chars().any(char::is_lowercase) {
        synonym.to_uppercase()
    } else if upper(first) {
        let mut rest = synonym.chars();
        rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
    } else {
        synonym.to_owned()
    };
    format!("{before}{cased}{after}")
}

fn replace(list: &[&str], range: f64, words: Words<'_>, rng: &mut Rng) -> Option<String> {
    let mut places: Vec<usize> = (0..list.len()).filter(|&place| synonyms(list[place], words).is_some()).collect();
    if places.is_empty() {
        return None;
    }
    rng.shuffle(&mut places);
    let mut out: Vec<String> = list.iter().map(|&word| word.to_owned()).collect();
    for &place in places.iter().take(count(range, list.len())) {
        if let Some(found) = synonyms(list[place], words) {
            out[place] = in_place_of(list[place], &found[rng.below(found.len() as u32) as usize]);
        }
    }
    Some(out.join(" "))
}

fn insert(list: &[&str], range: f64, words: Words<'_>, rng: &mut Rng) -> Option<String> {
    let known: Vec<&[String]> = list.iter().filter_map(|word| synonyms(word, words)).collect();
    if known.is_empty() {
        return None;
    }
    let mut out: Vec<&str> = list.to_vec();
    for _ in 0..count(range, list.len()) {
        let found = known[rng.below(known.len() as u32) as usize];
        let synonym = &found[rng.below(found.len() as u32) as usize];
        out.insert(rng.below(out.len() as u32 + 1) as usize, synonym);
    }
    Some(out.join(" "))
}

/// Each word falls out with probability `range`; one stays.
fn delete(list: &[&str], range: f64, rng: &mut Rng) -> Option<String> {
    if list.len() < 2 {
        return None;
    }
    let kept: Vec<&str> = list.iter().copied().filter(|_| rng.uniform() >= range).collect();
    match kept.len() {
        0 => Some(list[rng.below(list.len() as u32) as usize].to_owned()),
        n if n == list.len() => None,
        _ => Some(kept.join(" ")),
    }
}

fn swap(list: &[&str], range: f64, rng: &mut Rng) -> Option<String> {
    if list.len() < 2 {
        return None;
    }
    let mut out = list.to_vec();
    for _ in 0..count(range, list.len()) {
        let first = rng.below(out.len() as u32) as usize;
        let other = rng.below(out.len() as u32 - 1) as usize;
        out.swap(first, other + usize::from(other >= first));
    }
    (out != list).then(|| out.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use messages::plan::WordRange;
    use proptest::prelude::*;

    fn plan(range: f64) -> TextAugmentation {
        let range = WordRange { range };
        TextAugmentation {
            methods: TextMethod::ALL.to_vec(),
            prob: 1.0,
            synonym_replacement: range,
            random_insertion: range,
            random_deletion: range,
            word_swap: range,
            synonyms: None,
            languages: "eng-spa".into(),
        }
    }

    fn draws(sample: u64) -> Draws {
        Draws { seed: 7, epoch: 1, sample }
    }

    struct Tables(BTreeMap<String, Vec<String>>, BTreeMap<String, String>);

    impl Tables {
        fn new() -> Self {
            let of = |word: &str, list: &[&str]| (word.to_owned(), list.iter().map(|&s| s.to_owned()).collect());
            Self(
                BTreeMap::from([of("big", &["large", "great"]), of("café", &["bar"]), of("buy", &["purchase"])]),
                BTreeMap::from([("Big dog".to_owned(), "Large dog".to_owned())]),
            )
        }

        fn words(&self) -> Words<'_> {
            Words { synonyms: &self.0, translations: &self.1 }
        }
    }

    /// What one method makes of a text for the samples 0 to 199, without repetition and in order.
    fn outcomes(method: TextMethod, text: &str, range: f64) -> Vec<String> {
        let tables = Tables::new();
        let all = (0..200).filter_map(|sample| apply(method, text, &plan(range), tables.words(), draws(sample)));
        all.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    #[test]
    fn synonyms_keep_case_and_marks() {
        use TextMethod::SynonymReplacement as M;
        assert_eq!(outcomes(M, "A big, dog", 0.1), ["A great, dog", "A large, dog"]);
        assert_eq!(outcomes(M, "BIG! «Café» x", 1.0), ["GREAT! «Bar» x", "LARGE! «Bar» x"]);
        assert_eq!(outcomes(M, "(Big)", 0.1), ["(Great)", "(Large)"]);
        assert!(outcomes(M, "no such word", 1.0).is_empty());
    }

    #[test]
    fn each_method_does_what_it_says() {
        assert_eq!(
            outcomes(TextMethod::RandomInsertion, "buy it", 0.1),
            ["buy it purchase", "buy purchase it", "purchase buy it"]
        );
        assert_eq!(outcomes(TextMethod::WordSwap, "a b c", 0.1), ["a c b", "b a c", "c b a"]);
        assert_eq!(outcomes(TextMethod::RandomDeletion, "a b c", 0.5), ["a", "a b", "a c", "b", "b c", "c"]);
        assert_eq!(outcomes(TextMethod::RandomDeletion, "a b", 1.0), ["a", "b"]);
        assert_eq!(outcomes(TextMethod::BackTranslation, "Big dog", 0.1), ["Large dog"]);
        assert!(outcomes(TextMethod::BackTranslation, "other", 0.1).is_empty());
    }

    #[test]
    fn a_share_of_the_words_is_changed_at_least_one() {
        assert_eq!((count(0.1, 5), count(0.5, 5), count(0.0, 3), count(1.0, 4)), (1, 2, 1, 4));
        let long = "x ".repeat(200);
        let tables = Tables::new();
        let lengths = (0..400).map(|sample| {
            let text = apply(TextMethod::RandomDeletion, &long, &plan(0.1), tables.words(), draws(sample));
            text.expect("200 words lose some").split(' ').count() as f64
        });
        let mean = lengths.sum::<f64>() / 400.0;
        assert!((mean - 180.0).abs() < 1.0, "{mean} of 200 words stay at 0.1");
    }

    #[test]
    fn the_probability_and_the_methods_are_evenly_drawn() {
        let tables = Tables::new();
        let plan = TextAugmentation {
            prob: 0.3,
            methods: vec![TextMethod::WordSwap, TextMethod::RandomInsertion],
            ..plan(0.1)
        };
        let (mut swapped, mut grown) = (0, 0);
        for sample in 0..20_000 {
            if let Some(text) = augment("buy b", &plan, tables.words(), draws(sample)) {
                if text.split(' ').count() > 2 { grown += 1 } else { swapped += 1 }
            }
        }
        assert!((2_800..3_200).contains(&swapped) && (2_800..3_200).contains(&grown), "{swapped} {grown}");
    }

    #[test]
    fn short_texts_emoji_and_other_scripts() {
        for text in ["", " ", "one", "🙂", "🙂 👩‍👩‍👧 buy", "שלום עולם buy", "مرحبا بالعالم", "a\u{301}b big\u{200f} x"]
        {
            for method in TextMethod::ALL {
                for changed in outcomes(method, text, 0.5) {
                    let strip = |text: &str| {
                        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
                        words.sort();
                        words
                    };
                    if method == TextMethod::WordSwap {
                        assert_eq!(strip(&changed), strip(text));
                    }
                    assert!(!changed.contains('\u{fffd}'));
                }
            }
        }
        assert!(outcomes(TextMethod::RandomDeletion, "one", 1.0).is_empty());
        assert!(outcomes(TextMethod::WordSwap, "🙂", 1.0).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_stays_a_text(text in "\\PC{0,40}", sample in any::<u64>(), range in 0.0f64..1.0) {
            let tables = Tables::new();
            for method in TextMethod::ALL {
                let of = |_| apply(method, &text, &plan(range), tables.words(), draws(sample));
                let (first, again) = (of(0), of(1));
                prop_assert_eq!(&first, &again);
                if let Some(changed) = first {
                    prop_assert!(changed.split_whitespace().count() <= 2 * text.split_whitespace().count() + 1);
                }
            }
        }
    }
}
