//! Folds: each row's fold, of which one is held out. Sizes and balance are those of scikit-learn's KFold,
//! StratifiedKFold, GroupKFold and StratifiedGroupKFold; which rows they are, the keyed order says.

use super::Cut;
use super::group::dense;

/// The fold of each of `rows` rows: sizes differ by one at most, the larger ones first.
pub fn random(cut: Cut, rows: usize, folds: usize) -> Vec<u32> {
    let (size, more) = (rows / folds, rows % folds);
    let mut out = vec![0; rows];
    for (place, row) in cut.order(rows).into_iter().enumerate() {
        let large = more * (size + 1);
        let fold = if place < large { place / (size + 1) } else { more + (place - large) / size.max(1) };
        out[row as usize] = fold as u32;
    }
    out
}

/// Each stratum is dealt out over the folds, so that also the folds' sizes differ by one at most.
pub fn stratified(cut: Cut, strata: &[u32], folds: usize) -> Vec<u32> {
    let (own, counts) = by_first_row(strata);
    // Rows in the order of their strata, every k-th to the same fold: how many of each stratum a fold gets.
    let mut take = vec![vec![0usize; counts.len()]; folds];
    let mut place = 0;
    for (stratum, &count) in counts.iter().enumerate() {
        for _ in 0..count {
            take[place % folds][stratum] += 1;
            place += 1;
        }
    }
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); counts.len()];
    for (row, &stratum) in own.iter().enumerate() {
        rows[stratum as usize].push(row as u32);
    }
    let mut out = vec![0; strata.len()];
    for (stratum, rows) in rows.iter().enumerate() {
        let order = Cut { lane: cut.lane | (stratum as u64 + 1) << 8, ..cut }.order(rows.len());
        let mut places = order.into_iter();
        for (fold, take) in take.iter().enumerate() {
            for place in places.by_ref().take(take[stratum]) {
                out[rows[place as usize] as usize] = fold as u32;
            }
        }
    }
    out
}

/// Strata numbered in the order of their first rows, and their rows.
fn by_first_row(strata: &[u32]) -> (Vec<u32>, Vec<usize>) {
    let top = strata.iter().max().map_or(0, |&top| top as usize + 1);
    let (mut number, mut counts) = (vec![u32::MAX; top], Vec::new());
    let own = strata.iter().map(|&stratum| {
        let number = &mut number[stratum as usize];
        if *number == u32::MAX {
            *number = counts.len() as u32;
            counts.push(0);
        }
        counts[*number as usize] += 1;
        *number
    });
    (own.collect(), counts)
}

/// The largest groups first, each to the fold with the fewest rows.
pub fn grouped(cut: Cut, groups: &[u32], folds: usize) -> Vec<u32> {
    let (own, sizes) = dense(groups);
    let mut order = cut.order(sizes.len());
    order.sort_by_key(|&group| std::cmp::Reverse(sizes[group as usize]));
    let (mut filled, mut fold_of) = (vec![0usize; folds], vec![0u32; sizes.len()]);
    for group in order {
        let lightest = (0..folds).min_by_key(|&fold| filled[fold]).unwrap_or(0);
        filled[lightest] += sizes[group as usize];
        fold_of[group as usize] = lightest as u32;
    }
    own.into_iter().map(|group| fold_of[group]).collect()
}

/// Whole groups to folds of these shares, so that each fold's classes come near to its share of the whole.
pub fn stratified_grouped(cut: Cut, strata: &[u32], groups: &[u32], shares: &[f64]) -> Vec<u32> {
    let (own, sizes) = dense(groups);
    let (strata, totals) = by_first_row(strata);
    let mut counts = vec![vec![0u64; totals.len()]; sizes.len()];
    for (&group, &stratum) in own.iter().zip(&strata) {
        counts[group][stratum as usize] += 1;
    }
    let order: Vec<usize> = cut.order(sizes.len()).into_iter().map(|group| group as usize).collect();
    let fold_of = assign(&counts, &order, shares);
    own.into_iter().map(|group| fold_of[group]).collect()
}

/// The fold of each group, given its rows of each class. Groups whose classes are the least even come first; each
/// goes where the spread of the folds' class shares is the least then, of several to the one with fewest rows.
pub(super) fn assign(counts: &[Vec<u64>], order: &[usize], shares: &[f64]) -> Vec<u32> {
    let classes = counts.first().map_or(0, Vec::len);
    let folds = shares.len();
    let totals: Vec<f64> = (0..classes).map(|class| counts.iter().map(|own| own[class]).sum::<u64>() as f64).collect();
    // A fold of a larger share may have more: equal shares weigh 1.
    let weight: Vec<f64> = shares.iter().map(|share| share * folds as f64).collect();
    let mut order = order.to_vec();
    let spread = |own: &[u64]| std(&own.iter().map(|&count| count as f64).collect::<Vec<_>>());
    order.sort_by(|&a, &b| spread(&counts[b]).total_cmp(&spread(&counts[a])));
    let mut filled = vec![vec![0u64; classes]; folds];
    let mut fold_of = vec![0u32; counts.len()];
    for group in order {
        let mut best: Option<(usize, f64, f64)> = None;
        for fold in 0..folds {
            let with = |other: usize, class: usize| {
                let more = if other == fold { counts[group][class] } else { 0 };
                (filled[other][class] + more) as f64 / totals[class] / weight[other]
            };
            let spreads =
                (0..classes).map(|class| std(&(0..folds).map(|other| with(other, class)).collect::<Vec<_>>()));
            let value = spreads.sum::<f64>() / classes as f64;
            let rows = filled[fold].iter().sum::<u64>() as f64 / weight[fold];
            let better = best.is_none_or(|(_, least, least_rows)| {
                let near = (value - least).abs() <= 1e-8 + 1e-5 * least.abs();
                value < least || (near && rows < least_rows)
            });
            if better {
                best = Some((fold, value, rows));
            }
        }
        let fold = best.map_or(0, |(fold, ..)| fold);
        fold_of[group] = fold as u32;
        for (filled, count) in filled[fold].iter_mut().zip(&counts[group]) {
            *filled += count;
        }
    }
    fill_empty(&mut fold_of, counts, folds);
    fold_of
}

/// No fold is empty while another has two groups: it gets the smallest group of the one that has most.
fn fill_empty(fold_of: &mut [u32], counts: &[Vec<u64>], folds: usize) {
    for empty in 0..folds as u32 {
        if fold_of.contains(&empty) {
            continue;
        }
        let groups = |fold: u32| fold_of.iter().filter(|own| **own == fold).count();
        let Some(fullest) = (0..folds as u32).max_by_key(|&fold| (groups(fold), std::cmp::Reverse(fold))) else {
            return;
        };
        if groups(fullest) < 2 {
            return;
        }
        let rows = |group: &usize| counts[*group].iter().sum::<u64>();
        let smallest = (0..fold_of.len()).filter(|&group| fold_of[group] == fullest).min_by_key(rows);
        if let Some(group) = smallest {
            fold_of[group] = empty;
        }
    }
}

/// ddof 0.
fn std(values: &[f64]) -> f64 {
    let count = values.len().max(1) as f64;
    let mean = values.iter().sum::<f64>() / count;
    (values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count).sqrt()
}
