//! Counts and one-hot encoding of category columns.

use frame::manifest::{CategoryCount, Encoding, MAX_LISTED_CATEGORIES, Statistics};
use messages::plan::{CategoryEncoding, PreprocessingPlan};

use crate::load::MISSING_KEY;

/// Rows of each key among these rows.
pub fn counts(keys: &[u32], distinct: usize, train: &[u32]) -> Vec<u64> {
    let mut counts = vec![0; distinct];
    for &row in train {
        let key = keys[row as usize];
        if key != MISSING_KEY {
            counts[key as usize] += 1;
        }
    }
    counts
}

pub fn statistics(counts: &[u64], rows: usize) -> Statistics {
    let count = counts.iter().sum::<u64>();
    Statistics {
        count,
        missing: rows as u64 - count,
        distinct: counts.iter().filter(|&&count| count > 0).count() as u64,
        ..Statistics::default()
    }
}

/// Keys that occur in train, by falling count, then by text: an order that hashing has no part in.
fn by_count(counts: &[u64], texts: &[String]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..counts.len()).filter(|&key| counts[key] > 0).collect();
    order.sort_unstable_by(|&a, &b| counts[b].cmp(&counts[a]).then_with(|| texts[a].cmp(&texts[b])));
    order
}

pub fn listed(counts: &[u64], texts: &[String]) -> Vec<CategoryCount> {
    let order = by_count(counts, texts).into_iter().take(MAX_LISTED_CATEGORIES);
    order.map(|key| CategoryCount { value: texts[key].clone(), count: counts[key] }).collect()
}

/// Frequent categories get a feature or an index each, in text order; the rest, if there is any, share one.
pub fn fit(
    plan: &PreprocessingPlan,
    keys: &[u32],
    texts: &[String],
    train: &[u32],
    name: &str,
    warnings: &mut Vec<String>,
) -> Encoding {
    let counts = counts(keys, texts.len(), train);
    let order = by_count(&counts, texts);
    let mut kept = order.iter().take_while(|&&key| counts[key] >= u64::from(plan.min_frequency)).count();
    let most = plan.max_categories.max(1) as usize;
    if kept > most || (kept == most && kept < order.len()) {
        kept = most - 1;
        warnings.push(format!(
            "column {name:?} has {} categories in train: the {kept} most frequent are told apart, the others are one (data.preprocessing.max_categories)",
            order.len()
        ));
    }
    let mut categories: Vec<String> = order[..kept].iter().map(|&key| texts[key].clone()).collect();
    categories.sort_unstable();
    match plan.categories {
        CategoryEncoding::OneHot => Encoding::OneHot { categories, other: kept < order.len() },
        CategoryEncoding::Embedding => Encoding::Index { categories },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use messages::plan::{CategoryEncoding, Impute, Scale};

    fn plan(min_frequency: u32, max_categories: u32) -> PreprocessingPlan {
        PreprocessingPlan {
            impute: Impute::Mean,
            missing_indicator: false,
            scale: Scale::Standard,
            clip: 0.0,
            min_frequency,
            max_categories,
            categories: CategoryEncoding::OneHot,
        }
    }

    #[test]
    fn rare_categories_fall_together() {
        let texts: Vec<String> = ["d", "a", "c", "b", "unseen"].iter().map(|&t| t.to_owned()).collect();
        // a: 3, b: 2, c: 2, d: 1, one missing; "unseen" is in a row that is not of train.
        let keys = [1, 1, 1, 3, 3, 2, 2, 0, MISSING_KEY, 4];
        let train: Vec<u32> = (0..9).collect();
        for (min, max, expected, other) in [
            (0, 10, vec!["a", "b", "c", "d"], false),
            (2, 10, vec!["a", "b", "c"], true),
            (0, 4, vec!["a", "b", "c", "d"], false),
            (0, 3, vec!["a", "b"], true),
            (2, 3, vec!["a", "b"], true),
            (0, 1, vec![], true),
            (9, 10, vec![], true),
        ] {
            let found = fit(&plan(min, max), &keys, &texts, &train, "x", &mut vec![]);
            let categories = expected.iter().map(|c| (*c).to_owned()).collect();
            assert_eq!(found, Encoding::OneHot { categories, other }, "min {min} max {max}");
        }
        let counts = counts(&keys, texts.len(), &train);
        assert_eq!(statistics(&counts, 9), Statistics { count: 8, missing: 1, distinct: 4, ..Statistics::default() });
        let listed: Vec<_> = listed(&counts, &texts).into_iter().map(|c| format!("{}{}", c.value, c.count)).collect();
        assert_eq!(listed, ["a3", "b2", "c2", "d1"]);
    }
}
