//! Folds against scikit-learn: sizes and balance of the drawn ones, and what is decided without a draw to the row.

use super::time::{Times, sides};
use super::{Cut, Side, folds};
use crate::golden::{section, wholes};
use proptest::prelude::*;

fn cut(seed: u64) -> Cut {
    Cut { seed, lane: 0, held: 0, fraction: 0.0, fold: None }
}

fn sizes(folds: &[u32], count: usize) -> Vec<u32> {
    (0..count as u32).map(|fold| folds.iter().filter(|own| **own == fold).count() as u32).collect()
}

#[test]
fn sizes_and_balance_are_those_of_scikit_learn() {
    let golden = section("splits");
    let (classes, groups) = (wholes(&golden["classes"]), wholes(&golden["groups"]));
    for seed in 0..5 {
        assert_eq!(sizes(&folds::random(cut(seed), 53, 6), 6), wholes(&golden["random_sizes"]));
        let found = folds::stratified(cut(seed), &classes, 5);
        for (fold, expected) in golden["stratified_counts"].as_array().expect("folds").iter().enumerate() {
            let count = |class: u32| {
                found.iter().zip(&classes).filter(|(f, c)| **f == fold as u32 && **c == class).count() as u32
            };
            assert_eq!([count(0), count(1), count(2)].to_vec(), wholes(expected), "seed {seed}, fold {fold}");
        }
        let mut found = sizes(&folds::grouped(cut(seed), &groups, 4), 4);
        found.sort_unstable();
        assert_eq!(found, wholes(&golden["group_sizes"]));
    }
}

#[test]
fn stratified_groups_go_where_scikit_learn_puts_them() {
    let golden = section("splits");
    let (classes, groups) = (wholes(&golden["classes"]), wholes(&golden["groups"]));
    let (own, sizes) = super::group::dense(&groups);
    let mut counts = vec![vec![0u64; 3]; sizes.len()];
    own.iter().zip(&classes).for_each(|(&group, &class)| counts[group][class as usize] += 1);
    let order: Vec<usize> = (0..sizes.len()).collect();
    let fold_of = folds::assign(&counts, &order, &[0.25; 4]);
    let found: Vec<u32> = own.iter().map(|&group| fold_of[group]).collect();
    assert_eq!(found, wholes(&golden["stratified_group_folds"]));
}

#[test]
fn folds_in_time_are_those_of_scikit_learn() {
    let golden = section("splits");
    let times = Times { ranks: (0..53).collect(), seconds: vec![] };
    for (fold, expected) in golden["time"].as_array().expect("folds").iter().enumerate() {
        let found = sides(cut(0), &times, Some((4, fold)), Some(messages::plan::Gap::Rows(2)));
        let of = |side: Side| (0..53u32).filter(|&row| found[row as usize] == side).collect::<Vec<_>>();
        assert_eq!(of(Side::Stays), wholes(&expected["train"]), "fold {fold}");
        assert_eq!(of(Side::Held), wholes(&expected["test"]), "fold {fold}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn strata_are_dealt_out_within_a_row(strata in prop::collection::vec(0u32..4, 1..120), k in 2usize..7, seed in any::<u64>()) {
        let found = folds::stratified(cut(seed), &strata, k);
        let sizes = sizes(&found, k);
        prop_assert!(sizes.iter().max().unwrap_or(&0) - sizes.iter().min().unwrap_or(&0) <= 1, "{sizes:?}");
        for stratum in 0..4 {
            let of_fold = |fold: u32| found.iter().zip(&strata).filter(|(f, s)| **f == fold && **s == stratum).count();
            let counts: Vec<usize> = (0..k as u32).map(of_fold).collect();
            prop_assert!(counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0) <= 1, "{counts:?}");
        }
    }

    #[test]
    fn groups_never_cross_and_no_fold_is_empty(
        rows in prop::collection::vec((0u32..20, 0u32..3), 30..150), k in 2usize..6, seed in any::<u64>(),
    ) {
        let (groups, strata): (Vec<u32>, Vec<u32>) = rows.into_iter().unzip();
        let distinct = super::group::dense(&groups).1.len();
        prop_assume!(distinct >= k);
        let shares = vec![1.0 / k as f64; k];
        for found in [folds::grouped(cut(seed), &groups, k), folds::stratified_grouped(cut(seed), &strata, &groups, &shares)] {
            let mut of_group = std::collections::BTreeMap::new();
            for (group, fold) in groups.iter().zip(&found) {
                prop_assert_eq!(of_group.entry(group).or_insert(fold), &fold);
            }
            prop_assert!(sizes(&found, k).iter().all(|size| *size > 0));
        }
    }
}
