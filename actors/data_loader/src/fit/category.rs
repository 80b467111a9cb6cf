//! Counts and encodings of category columns.

use std::collections::HashMap;

use frame::manifest::{CategoryCount, Encoding, MAX_LISTED_CATEGORIES, Statistics};
use messages::WireError;
use messages::plan::{CategoryEncoding, DataPlan, PreprocessingPlan};

use super::number::scale_of;
use crate::check::{Violation, shown};
use crate::load::MISSING_KEY;
use crate::nearest::did_you_mean;

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

/// What a category column is fitted from.
pub struct Categories<'a> {
    pub keys: &'a [u32],
    pub texts: &'a [String],
    pub train: &'a [u32],
    pub name: &'a str,
}

/// The encoding that the plan asks for, but the target's.
pub fn fit(
    plan: &DataPlan,
    encoding: CategoryEncoding,
    column: &Categories<'_>,
    warnings: &mut Vec<String>,
) -> Result<Encoding, WireError> {
    let counts = counts(column.keys, column.texts.len(), column.train);
    let clip = plan.preprocessing.clip;
    Ok(match encoding {
        CategoryEncoding::Hashing => Encoding::Hashing { buckets: plan.preprocessing.fitting.hash_buckets },
        CategoryEncoding::Frequency => {
            let rows = column.train.len().max(1) as f64;
            let (categories, keys) = in_text_order(&counts, column.texts);
            let shares: Vec<f64> = keys.iter().map(|&key| counts[key] as f64 / rows).collect();
            let of_row = |key: u32| if key == MISSING_KEY { 0.0 } else { counts[key as usize] as f64 / rows };
            let scale = scale_of(plan, column.name, &train_values(column, of_row));
            Encoding::Frequency { categories, shares, scale, clip }
        }
        CategoryEncoding::Ordinal => {
            let own = plan.columns.get(column.name).and_then(|own| own.fitting.order.as_ref());
            let categories = match own {
                Some(order) => ordered(order, &counts, column)?,
                None => kept(&plan.preprocessing, &counts, column, warnings).0,
            };
            let place: HashMap<&str, usize> =
                categories.iter().enumerate().map(|(i, text)| (text.as_str(), i)).collect();
            let places: Vec<f64> =
                column.texts.iter().map(|text| place.get(text.as_str()).map_or(-1.0, |&place| place as f64)).collect();
            let of_row = |key: u32| if key == MISSING_KEY { -1.0 } else { places[key as usize] };
            let scale = scale_of(plan, column.name, &train_values(column, of_row));
            Encoding::Ordinal { categories, scale, clip }
        }
        CategoryEncoding::Embedding => {
            Encoding::Index { categories: kept(&plan.preprocessing, &counts, column, warnings).0 }
        }
        CategoryEncoding::OneHot | CategoryEncoding::Target => {
            let (categories, other) = kept(&plan.preprocessing, &counts, column, warnings);
            Encoding::OneHot { categories, other }
        }
    })
}

fn train_values(column: &Categories<'_>, of_key: impl Fn(u32) -> f64) -> Vec<f64> {
    column.train.iter().map(|&row| of_key(column.keys[row as usize])).collect()
}

/// Categories of train, and their keys.
pub fn in_text_order(counts: &[u64], texts: &[String]) -> (Vec<String>, Vec<usize>) {
    let mut keys: Vec<usize> = (0..counts.len()).filter(|&key| counts[key] > 0).collect();
    keys.sort_unstable_by(|&a, &b| texts[a].cmp(&texts[b]));
    (keys.iter().map(|&key| texts[key].clone()).collect(), keys)
}

/// A declared order must name every category of train.
fn ordered(order: &[String], counts: &[u64], column: &Categories<'_>) -> Result<Vec<String>, WireError> {
    let (known, _) = in_text_order(counts, column.texts);
    if let Some(lacking) = known.iter().find(|text| !order.contains(text)) {
        let nearest = did_you_mean(lacking, order.iter().map(String::as_str));
        let message =
            format!("category {} of train is not in data.columns.{}.order{nearest}", shown(lacking), column.name);
        return Err(Violation::new(message).column(column.name).into());
    }
    Ok(order.to_vec())
}

/// Frequent categories are told apart, in text order; the rest, if there is any, falls together.
fn kept(
    plan: &PreprocessingPlan,
    counts: &[u64],
    column: &Categories<'_>,
    warnings: &mut Vec<String>,
) -> (Vec<String>, bool) {
    let order = by_count(counts, column.texts);
    let mut kept = order.iter().take_while(|&&key| counts[key] >= u64::from(plan.min_frequency)).count();
    let most = plan.max_categories.max(1) as usize;
    if kept > most || (kept == most && kept < order.len()) {
        kept = most - 1;
        warnings.push(format!(
            "column {:?} has {} categories in train: the {kept} most frequent are told apart, the others are one (data.preprocessing.max_categories)",
            column.name,
            order.len()
        ));
    }
    let mut categories: Vec<String> = order[..kept].iter().map(|&key| column.texts[key].clone()).collect();
    categories.sort_unstable();
    (categories, kept < order.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use messages::plan::{CategoryEncoding, FittingPlan, Impute, Scale};

    fn plan(min_frequency: u32, max_categories: u32) -> PreprocessingPlan {
        PreprocessingPlan {
            impute: Impute::Mean,
            missing_indicator: false,
            scale: Scale::Standard,
            clip: 0.0,
            min_frequency,
            max_categories,
            categories: CategoryEncoding::OneHot,
            fitting: FittingPlan::default(),
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
            let column = Categories { keys: &keys, texts: &texts, train: &train, name: "x" };
            let found = kept(&plan(min, max), &counts(&keys, texts.len(), &train), &column, &mut vec![]);
            let categories: Vec<String> = expected.iter().map(|c| (*c).to_owned()).collect();
            assert_eq!(found, (categories, other), "min {min} max {max}");
        }
        let counts = counts(&keys, texts.len(), &train);
        assert_eq!(statistics(&counts, 9), Statistics { count: 8, missing: 1, distinct: 4, ..Statistics::default() });
        let listed: Vec<_> = listed(&counts, &texts).into_iter().map(|c| format!("{}{}", c.value, c.count)).collect();
        assert_eq!(listed, ["a3", "b2", "c2", "d1"]);
    }
}
