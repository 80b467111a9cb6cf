//! Which part each row belongs to. A function of the plan and the rows, never of chance or time: random orders
//! come from a counter-based generator keyed by `random_state`.

mod folds;
#[cfg(test)]
mod golden_tests;
mod group;
mod hashed;
mod random;
pub mod report;
mod stratified;
pub mod time;

use frame::manifest::{Fold, SplitInfo};
use kernels::philox::{self, Stream};
use messages::WireError;
use messages::feed::Split;
use messages::plan::{DataPlan, Gap, SplitBy, SplitPlan, SplitStrategy, Task};
use serde::{Deserialize, Serialize};

use crate::cache::raw;
use crate::check::names::split_column;
use crate::check::target::TargetValues;
use crate::check::{Violation, Violations};
use crate::derive::is_date;
use crate::load::{Loaded, MISSING_KEY, Values};

pub use stratified::warn_of_small_classes;

/// Rows of each part, in the order of the files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    #[serde(with = "raw")]
    pub train: Vec<u32>,
    #[serde(with = "raw")]
    pub val: Vec<u32>,
    #[serde(with = "raw")]
    pub test: Vec<u32>,
}

impl Parts {
    pub fn rows(&self, split: Split) -> &[u32] {
        match split {
            Split::Train => &self.train,
            Split::Val => &self.val,
            Split::Test => &self.test,
        }
    }
}

/// One cut: `held` rows of `rows` are taken out, keyed by `lane`.
#[derive(Debug, Clone, Copy)]
struct Cut {
    seed: u64,
    /// Test is cut out first, then val: two keys.
    lane: u64,
    held: usize,
    fraction: f64,
    fold: Option<(usize, usize)>,
}

/// What becomes of a row at one cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Stays,
    Held,
    /// In no part.
    Out,
}

impl Cut {
    /// A random order of `0..n`.
    fn order(self, n: usize) -> Vec<u32> {
        philox::permutation(self.seed, Stream::Split, self.lane, n)
    }
}

const LANE_TEST: u64 = 0;
const LANE_VAL: u64 = 1;
/// Another draw of the same split has other keys.
const REPEAT_SHIFT: u32 = 40;
/// Folds of the out-of-fold target encoding.
const LANE_TARGET: u64 = 2;

/// The fold of each row, for values that are fitted on other folds than their own: with the classes of the whole in
/// each, or, for numbers, by chance.
pub fn cross_fit_folds(seed: u64, task: Task, targets: &[f32], folds: usize) -> Vec<u32> {
    let cut = Cut { seed, lane: LANE_TARGET, held: 0, fraction: 0.0, fold: None };
    match task {
        Task::Regression => folds::random(cut, targets.len(), folds),
        _ => folds::stratified(cut, &targets.iter().map(|&class| class as u32).collect::<Vec<_>>(), folds),
    }
}

/// Rows that a fraction takes: rounded up, as usual in this field.
fn held_rows(rows: usize, fraction: f64) -> usize {
    let exact = rows as f64 * fraction;
    // A product such as 0.1 * 30 is a hair above 3.
    ((exact - 1e-9 * exact.max(1.0)).ceil().max(0.0) as usize).min(rows)
}

/// Splits the rows: test from all (unless it came with the data), val from the rest. `ids` name the rows.
pub fn split(
    plan: &DataPlan,
    loaded: &Loaded,
    target: &TargetValues,
    ids: &[u64],
    violations: &mut Violations,
    warnings: &mut Vec<String>,
) -> Result<(Parts, SplitInfo), WireError> {
    let official_test = loaded.first_test_row < loaded.rows;
    let labels = Labels::of(plan, loaded, target, ids, violations, warnings);
    violations.check()?;
    let all: Vec<u32> = (0..loaded.first_test_row as u32).collect();
    let fold = plan.split.folding.folds.map(|folds| (folds as usize, plan.split.folding.fold as usize));
    let (rest, test) = if official_test {
        (all, (loaded.first_test_row as u32..loaded.rows as u32).collect())
    } else {
        cut(&plan.split, &labels, all, plan.split.test_size, LANE_TEST, fold)
    };
    let fold_of_val = fold.filter(|_| official_test);
    let (train, val) = cut(&plan.split, &labels, rest, plan.split.val_size, LANE_VAL, fold_of_val);
    let parts = Parts { train, val, test };
    check_parts(plan, loaded, &parts, violations)?;
    if let (Labels::Groups(groups) | Labels::StratifiedGroups { groups, .. }, true) = (&labels, official_test) {
        warn_of_shared_groups(plan, groups, &parts, warnings);
    }
    let kept: usize = Split::ALL.iter().map(|split| parts.rows(*split).len()).sum();
    Ok((parts, info(plan, official_test, (loaded.rows - kept) as u64)))
}

fn check_parts(plan: &DataPlan, loaded: &Loaded, parts: &Parts, violations: &mut Violations) -> Result<(), WireError> {
    for split in Split::ALL {
        if parts.rows(split).is_empty() {
            let message = format!(
                "the {} part is empty after the split of {} rows (test_size {}, val_size {})",
                split.as_str(),
                loaded.rows,
                plan.split.test_size,
                plan.split.val_size
            );
            violations.add(Violation::new(message).hint("more rows, or other sizes under data.split, are needed"));
        }
    }
    violations.check()
}

fn info(plan: &DataPlan, official_test: bool, left_out: u64) -> SplitInfo {
    let column = match (plan.split.strategy, split_column(plan)) {
        (SplitStrategy::Stratified, None) => Some(plan.target.column.clone()),
        (_, column) => column.map(str::to_owned),
    };
    let folding = &plan.split.folding;
    SplitInfo {
        strategy: plan.split.strategy,
        test_size: plan.split.test_size,
        val_size: plan.split.val_size,
        random_state: plan.split.random_state,
        column,
        official_test,
        by: folding.by,
        fold: folding.folds.map(|count| Fold { count, index: folding.fold }),
        repeat: folding.repeat,
        gap: folding.gap.clone(),
        left_out,
    }
}

/// What the strategy goes by, a row each.
enum Labels {
    None,
    /// Stratum of each row.
    Strata(Vec<u32>),
    Groups(Vec<u32>),
    StratifiedGroups {
        strata: Vec<u32>,
        groups: Vec<u32>,
    },
    Times(time::Times, Option<Gap>),
    /// What is hashed.
    Ids(Vec<u64>),
}

impl Labels {
    fn of(
        plan: &DataPlan,
        loaded: &Loaded,
        target: &TargetValues,
        ids: &[u64],
        violations: &mut Violations,
        warnings: &mut Vec<String>,
    ) -> Self {
        let by_hash = plan.split.folding.by == SplitBy::Hash;
        let missing_key = |key: &str, violations: &mut Violations| {
            let message = format!("data.split.{key} is not set, and the strategy is {:?}", plan.split.strategy);
            violations.add(Violation::new(message.to_lowercase()));
            Self::None
        };
        match plan.split.strategy {
            SplitStrategy::Random if by_hash => Self::Ids(ids.to_vec()),
            SplitStrategy::Random => Self::None,
            SplitStrategy::Stratified => Self::Strata(stratified::strata(plan, loaded, target, warnings)),
            SplitStrategy::Group | SplitStrategy::StratifiedGroup => {
                match plan.split.group_column.as_deref().and_then(|column| loaded.column(column)) {
                    Some((usage, values)) => {
                        if usage.is_feature() {
                            warnings.push(format!(
                                "column {:?} names the groups of the split and is a feature too: exclude it, a new group has a value that was never seen",
                                usage.name
                            ));
                        }
                        if by_hash {
                            return Self::Ids(hashed::group_ids(values));
                        }
                        let groups = ranks(values);
                        if plan.split.strategy == SplitStrategy::Group {
                            return Self::Groups(groups);
                        }
                        Self::StratifiedGroups { strata: stratified::strata(plan, loaded, target, warnings), groups }
                    }
                    None => missing_key("group_column", violations),
                }
            }
            SplitStrategy::Time => match plan.split.time_column.as_deref().and_then(|column| loaded.column(column)) {
                Some((usage, values)) => {
                    let is_date = is_date(plan, loaded, &usage.name);
                    Self::times(plan, &usage.name, values, is_date, violations)
                }
                None => missing_key("time_column", violations),
            },
        }
    }

    fn times(plan: &DataPlan, column: &str, values: &Values, is_date: bool, violations: &mut Violations) -> Self {
        time::check(column, values, violations);
        let gap = plan.split.folding.gap.as_deref().and_then(Gap::parse);
        let mut times = time::Times { ranks: ranks(values), seconds: Vec::new() };
        if matches!(gap, Some(Gap::Seconds(_))) {
            match time::seconds(is_date, column, values) {
                Ok(seconds) => times.seconds = seconds,
                Err(violation) => violations.add(violation),
            }
        }
        Self::Times(times, gap)
    }
}

/// Cuts `rows` into what stays and what is held out, both in the order of the files.
fn cut(
    plan: &SplitPlan,
    labels: &Labels,
    rows: Vec<u32>,
    fraction: f64,
    lane: u64,
    fold: Option<(usize, usize)>,
) -> (Vec<u32>, Vec<u32>) {
    let lane = lane | u64::from(plan.folding.repeat) << REPEAT_SHIFT;
    let cut = Cut { seed: plan.random_state, lane, held: held_rows(rows.len(), fraction), fraction, fold };
    let sides = sides(cut, labels, &rows);
    let (mut stays, mut out) = (Vec::with_capacity(rows.len()), Vec::with_capacity(cut.held));
    for (row, side) in rows.into_iter().zip(sides) {
        match side {
            Side::Stays => stays.push(row),
            Side::Held => out.push(row),
            Side::Out => {}
        }
    }
    (stays, out)
}

/// What becomes of each of `rows`.
fn sides(cut: Cut, labels: &Labels, rows: &[u32]) -> Vec<Side> {
    let held = |held: Vec<bool>| held.into_iter().map(|held| if held { Side::Held } else { Side::Stays }).collect();
    let of_folds = |folds: Vec<u32>, fold: usize| held(folds.into_iter().map(|own| own as usize == fold).collect());
    match (labels, cut.fold) {
        (Labels::None, None) => held(random::held(cut, rows.len())),
        (Labels::None, Some((folds, fold))) => of_folds(folds::random(cut, rows.len(), folds), fold),
        (Labels::Strata(strata), None) => held(stratified::held(cut, &pick(strata, rows))),
        (Labels::Strata(strata), Some((folds, fold))) => {
            of_folds(folds::stratified(cut, &pick(strata, rows), folds), fold)
        }
        (Labels::Groups(groups), None) => held(group::held(cut, &pick(groups, rows))),
        (Labels::Groups(groups), Some((folds, fold))) => {
            of_folds(folds::grouped(cut, &pick(groups, rows), folds), fold)
        }
        (Labels::StratifiedGroups { strata, groups }, fold) => {
            let (shares, fold) = match fold {
                Some((folds, fold)) => (vec![1.0 / folds as f64; folds], fold),
                None => (vec![1.0 - cut.fraction, cut.fraction], 1),
            };
            of_folds(folds::stratified_grouped(cut, &pick(strata, rows), &pick(groups, rows), &shares), fold)
        }
        (Labels::Times(times, gap), fold) => {
            let seconds = if times.seconds.is_empty() {
                Vec::new()
            } else {
                rows.iter().map(|&row| times.seconds[row as usize]).collect()
            };
            time::sides(cut, &time::Times { ranks: pick(&times.ranks, rows), seconds }, fold, *gap)
        }
        (Labels::Ids(ids), fold) => {
            let is_held = |place: f64| match fold {
                Some((folds, fold)) => (place * folds as f64) as usize == fold,
                None => place < cut.fraction,
            };
            held(rows.iter().map(|&row| is_held(hashed::place(cut, ids[row as usize]))).collect())
        }
    }
}

fn pick(labels: &[u32], rows: &[u32]) -> Vec<u32> {
    rows.iter().map(|&row| labels[row as usize]).collect()
}

/// The rank of each value among the distinct ones, in rising order; missing values come last.
pub fn ranks(values: &Values) -> Vec<u32> {
    match values {
        Values::Number(numbers) => {
            let mut distinct = numbers.clone();
            distinct.sort_unstable_by(f64::total_cmp);
            distinct.dedup_by(|a, b| a.total_cmp(b).is_eq());
            let rank = |number: &f64| distinct.partition_point(|other| other.total_cmp(number).is_lt()) as u32;
            numbers.iter().map(rank).collect()
        }
        Values::Category { keys, texts } => {
            let mut order: Vec<u32> = (0..texts.len() as u32).collect();
            order.sort_unstable_by_key(|&key| &texts[key as usize]);
            let mut rank = vec![0; texts.len()];
            for (place, &key) in order.iter().enumerate() {
                rank[key as usize] = place as u32;
            }
            let last = texts.len() as u32;
            keys.iter().map(|&key| if key == MISSING_KEY { last } else { rank[key as usize] }).collect()
        }
        Values::Id(ids) => ranks_of(ids),
        Values::Text(texts) => ranks_of(&(0..texts.len()).map(|row| texts.get(row)).collect::<Vec<_>>()),
        Values::Empty => Vec::new(),
    }
}

fn ranks_of<T: Ord + Copy>(values: &[T]) -> Vec<u32> {
    let mut distinct = values.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    values.iter().map(|value| distinct.partition_point(|other| other < value) as u32).collect()
}

fn warn_of_shared_groups(plan: &DataPlan, groups: &[u32], parts: &Parts, warnings: &mut Vec<String>) {
    let mut in_test: Vec<u32> = pick(groups, &parts.test);
    in_test.sort_unstable();
    in_test.dedup();
    let mut shared: Vec<u32> = parts.train.iter().chain(&parts.val).map(|&row| groups[row as usize]).collect();
    shared.sort_unstable();
    shared.dedup();
    let shared = shared.iter().filter(|group| in_test.binary_search(group).is_ok()).count();
    if shared > 0 {
        let column = plan.split.group_column.as_deref().unwrap_or_default();
        warnings
            .push(format!("{shared} groups of {column:?} stand both in the test files and in those of train and val"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_up_and_are_exact() {
        for (rows, fraction, expected) in [
            (1143, 0.2, 229),
            (20640, 0.2, 4128),
            (30, 0.1, 3),
            (10, 0.25, 3),
            (3, 0.2, 1),
            (1, 0.2, 1),
            (0, 0.2, 0),
            (5, 1.0, 5),
            (5, 0.0, 0),
        ] {
            assert_eq!(held_rows(rows, fraction), expected, "{fraction} of {rows}");
        }
    }

    #[test]
    fn ranks_follow_the_values() {
        assert_eq!(ranks(&Values::Number(vec![3.0, -1.0, 3.0, f64::NAN, 0.0])), [2, 0, 2, 3, 1]);
        let texts = vec!["b".to_owned(), "a".to_owned()];
        assert_eq!(ranks(&Values::Category { keys: vec![0, 1, MISSING_KEY, 0], texts }), [1, 0, 2, 1]);
    }
}
