//! How far raters agree on the items that they rated: Krippendorff's alpha (K. Krippendorff, "Computing Krippendorff's
//! Alpha-Reliability", 2011) and Fleiss' kappa (J. L. Fleiss, Psychological Bulletin 76, 1971). 1 is full agreement, 0 what
//! chance alone gives.

use std::collections::HashMap;

use serde::Serialize;

use super::columns::key_of;

/// Most items and most different ratings.
const MAX_ITEMS: usize = 4_000_000;
const MAX_RATINGS: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    KrippendorffAlpha,
    FleissKappa,
}

impl Measure {
    pub const ALL: [(&'static str, Self); 2] =
        [("krippendorff_alpha", Self::KrippendorffAlpha), ("fleiss_kappa", Self::FleissKappa)];

    pub fn as_str(self) -> &'static str {
        if self == Self::KrippendorffAlpha { "krippendorff_alpha" } else { "fleiss_kappa" }
    }
}

/// What the distance of two ratings is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Equal or not.
    Nominal,
    /// By the ratings that lie between, in the order of their numbers.
    Ordinal,
    /// The square of the difference.
    Interval,
}

impl Level {
    pub const ALL: [(&'static str, Self); 3] =
        [("nominal", Self::Nominal), ("ordinal", Self::Ordinal), ("interval", Self::Interval)];
}

/// Ratings by item, counted.
#[derive(Debug, Default)]
pub struct Ratings {
    /// By the hash of the item: index of the rating and how often.
    items: HashMap<[u32; 4], Vec<(u16, u32)>>,
    indices: HashMap<String, u16>,
    values: Vec<f64>,
    full: bool,
}

impl Ratings {
    pub fn add(&mut self, item: &str, rating: &str) {
        let index = match self.indices.get(rating) {
            Some(&index) => index,
            None if self.values.len() >= MAX_RATINGS => return self.full = true,
            None => {
                let index = self.values.len() as u16;
                self.indices.insert(rating.to_owned(), index);
                self.values.push(rating.parse().unwrap_or(f64::NAN));
                index
            }
        };
        let key = key_of([item]);
        if self.items.len() >= MAX_ITEMS && !self.items.contains_key(&key) {
            return self.full = true;
        }
        let counts = self.items.entry(key).or_default();
        match counts.iter_mut().find(|(known, _)| *known == index) {
            Some((_, count)) => *count += 1,
            None => counts.push((index, 1)),
        }
    }

    /// The agreement, or why there is none.
    pub fn measure(&self, measure: Measure, level: Level) -> Result<f64, String> {
        if self.full {
            return Err(format!("more than {MAX_ITEMS} items or {MAX_RATINGS} different ratings: not yet supported"));
        }
        // In an order that does not depend on hashes: sums of f64 keep their bits.
        let mut items: Vec<_> = self.items.iter().collect();
        items.sort_unstable_by_key(|(key, _)| **key);
        let items: Vec<&[(u16, u32)]> = items.into_iter().map(|(_, counts)| counts.as_slice()).collect();
        match measure {
            Measure::KrippendorffAlpha => self.alpha(&items, level),
            Measure::FleissKappa => kappa(&items, self.values.len()),
        }
    }

    fn alpha(&self, items: &[&[(u16, u32)]], level: Level) -> Result<f64, String> {
        if level != Level::Nominal && self.values.iter().any(|value| value.is_nan()) {
            return Err("some ratings are no numbers, and the level is not nominal".to_owned());
        }
        let paired: Vec<_> = items.iter().filter(|counts| total(counts) >= 2.0).collect();
        let mut marginals = vec![0.0; self.values.len()];
        for &(index, count) in paired.iter().flat_map(|counts| counts.iter()) {
            marginals[usize::from(index)] += f64::from(count);
        }
        let all: f64 = marginals.iter().sum();
        if all < 2.0 {
            return Err("no item has two ratings".to_owned());
        }
        let distance = self.distances(level, &marginals);
        let mut observed = 0.0;
        for counts in paired {
            let mut sum = 0.0;
            for &(a, count_a) in *counts {
                for &(b, count_b) in *counts {
                    sum += f64::from(count_a) * f64::from(count_b) * distance(usize::from(a), usize::from(b));
                }
            }
            observed += sum / (total(counts) - 1.0);
        }
        let mut by_chance = 0.0;
        for (a, count_a) in marginals.iter().enumerate() {
            for (b, count_b) in marginals.iter().enumerate() {
                by_chance += count_a * count_b * distance(a, b);
            }
        }
        if by_chance == 0.0 {
            return Err("all ratings are the same: agreement beyond chance is undefined".to_owned());
        }
        Ok(1.0 - observed / (by_chance / (all - 1.0)))
    }

    /// Squared distance of two ratings by their index.
    fn distances(&self, level: Level, marginals: &[f64]) -> impl Fn(usize, usize) -> f64 {
        let values = self.values.clone();
        let mut order: Vec<usize> = (0..values.len()).collect();
        order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
        // Middle of each rating among all ratings in order.
        let (mut middles, mut below) = (vec![0.0; values.len()], 0.0);
        for index in order {
            middles[index] = below + marginals[index] / 2.0;
            below += marginals[index];
        }
        move |a, b| match level {
            Level::Nominal => f64::from(u8::from(a != b)),
            Level::Ordinal => (middles[a] - middles[b]).powi(2),
            Level::Interval => (values[a] - values[b]).powi(2),
        }
    }
}

fn total(counts: &[(u16, u32)]) -> f64 {
    counts.iter().map(|(_, count)| f64::from(*count)).sum()
}

fn kappa(items: &[&[(u16, u32)]], ratings: usize) -> Result<f64, String> {
    let Some(raters) = items.first().map(|counts| total(counts)) else { return Err("there are no ratings".to_owned()) };
    if raters < 2.0 || items.iter().any(|counts| total(counts) != raters) {
        return Err("items do not all have the same number of ratings, two at least: use krippendorff_alpha".to_owned());
    }
    let mut marginals = vec![0.0; ratings];
    let mut agreed = 0.0;
    for counts in items {
        let squares: f64 = counts.iter().map(|(_, count)| f64::from(*count).powi(2)).sum();
        agreed += (squares - raters) / (raters * (raters - 1.0));
        for &(index, count) in *counts {
            marginals[usize::from(index)] += f64::from(count);
        }
    }
    let all = raters * items.len() as f64;
    let by_chance: f64 = marginals.iter().map(|count| (count / all).powi(2)).sum();
    if by_chance >= 1.0 {
        return Err("all ratings are the same: agreement beyond chance is undefined".to_owned());
    }
    Ok((agreed / items.len() as f64 - by_chance) / (1.0 - by_chance))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: Result<f64, String>, expected: f64) {
        let found = found.expect("a measure");
        assert!((found - expected).abs() < 0.0005, "{found}, expected {expected}");
    }

    #[test]
    fn alpha_is_that_of_the_publication() {
        // Krippendorff 2011, section C: 4 observers, 12 units.
        let observers = ["123321412...", "1233224125.3", ".33323422 51.", "1233244125 1."];
        let mut ratings = Ratings::default();
        for observer in observers {
            let cells = observer.chars().filter(|c| *c != ' ');
            for (unit, rating) in cells.enumerate().filter(|(_, rating)| *rating != '.') {
                ratings.add(&unit.to_string(), &rating.to_string());
            }
        }
        close(ratings.measure(Measure::KrippendorffAlpha, Level::Nominal), 0.743);
        close(ratings.measure(Measure::KrippendorffAlpha, Level::Ordinal), 0.815);
        close(ratings.measure(Measure::KrippendorffAlpha, Level::Interval), 0.849);
        assert!(ratings.measure(Measure::FleissKappa, Level::Nominal).is_err());
    }

    #[test]
    fn kappa_is_that_of_the_publication() {
        let table = [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ];
        let mut ratings = Ratings::default();
        for (item, counts) in table.iter().enumerate() {
            for (rating, count) in counts.iter().enumerate() {
                for _ in 0..*count {
                    ratings.add(&item.to_string(), &rating.to_string());
                }
            }
        }
        close(ratings.measure(Measure::FleissKappa, Level::Nominal), 0.210);
    }

    #[test]
    fn what_has_no_agreement_says_why() {
        let mut ratings = Ratings::default();
        let alpha = |ratings: &Ratings, level| ratings.measure(Measure::KrippendorffAlpha, level);
        assert!(alpha(&ratings, Level::Nominal).expect_err("none").contains("no item"));
        ratings.add("1", "good");
        ratings.add("1", "good");
        assert!(alpha(&ratings, Level::Nominal).expect_err("same").contains("all ratings are the same"));
        ratings.add("2", "bad");
        ratings.add("2", "good");
        assert!(alpha(&ratings, Level::Interval).expect_err("texts").contains("no numbers"));
        assert!(alpha(&ratings, Level::Nominal).is_ok());
    }
}
