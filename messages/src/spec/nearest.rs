//! The nearest valid name to what was written.

/// The candidate that was most likely meant, if any is near enough.
pub(crate) fn nearest<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    best(written, candidates, 0.6)
}

/// As [`nearest`], for names that stand elsewhere and so must be nearer.
pub(crate) fn very_near<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    best(written, candidates, 0.8)
}

fn best<'a>(written: &str, candidates: impl IntoIterator<Item = &'a str>, least: f64) -> Option<&'a str> {
    let written = plain(written);
    if written.len() > 200 {
        return None;
    }
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let score = likeness(&written, &plain(candidate));
        if score >= least && best.is_none_or(|(known, _)| score > known) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace(['-', ' '], "_")
}

fn likeness(a: &str, b: &str) -> f64 {
    let edits = strsim::normalized_damerau_levenshtein(a, b);
    // A good beginning (`hidden` for `hidden_layers`) counts, below a near miss.
    let beginning = strsim::jaro_winkler(a, b);
    if beginning > 0.88 && a.len() >= 3 { edits.max(beginning - 0.25) } else { edits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let names = ["learning_rate", "weight_decay", "hidden_layers", "type"];
        for (written, meant) in [
            ("learning_rat", Some("learning_rate")),
            ("learningrate", Some("learning_rate")),
            ("Learning-Rate", Some("learning_rate")),
            ("hidden", Some("hidden_layers")),
            ("wieght_decay", Some("weight_decay")),
            ("tpye", Some("type")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, names), meant, "{written}");
        }
    }
}
