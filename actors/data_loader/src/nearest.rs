//! The nearest valid name, for messages to a user who mistyped one.

/// The candidate most like `name`, if any is alike enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const ALIKE: f64 = 0.72;
    let lower = name.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for candidate in candidates {
        let score = strsim::jaro_winkler(&lower, &candidate.trim().to_lowercase());
        if score >= ALIKE && best.is_none_or(|(top, _)| score > top) {
            best = Some((score, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// `(did you mean "x"?)` with a leading blank, or nothing.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or_else(String::new, |found| format!(" (did you mean {found:?}?)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_is_alike_or_none() {
        let names = ["age", "education", " workclass", "capital-gain"];
        assert_eq!(nearest("Age", names), Some("age"));
        assert_eq!(nearest("eduction", names), Some("education"));
        assert_eq!(nearest("workclass", names), Some(" workclass"));
        assert_eq!(nearest("zzz", names), None);
        assert_eq!(did_you_mean("capital_gain", names), " (did you mean \"capital-gain\"?)");
    }
}
