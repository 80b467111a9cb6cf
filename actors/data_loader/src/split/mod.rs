//! Which part each row belongs to. A function of the plan and the rows, never of chance or time: random orders
//! come from a counter-based generator keyed by `random_state`.

mod group;
mod random;
mod stratified;
mod time;

use frame::manifest::SplitInfo;
use kernels::philox::{self, Stream};
use messages::WireError;
use messages::feed::Split;
use messages::plan::{DataPlan, SplitPlan, SplitStrategy};
use serde::{Deserialize, Serialize};

use crate::cache::raw;
use crate::check::names::split_column;
use crate::check::target::TargetValues;
use crate::check::{Violation, Violations};
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
}

impl Cut {
    /// A random order of `0..n`.
    fn order(self, n: usize) -> Vec<u32> {
        philox::permutation(self.seed, Stream::Split, self.lane, n)
    }
}

const LANE_TEST: u64 = 0;
const LANE_VAL: u64 = 1;

/// Rows that a fraction takes: rounded up, as usual in this field.
fn held_rows(rows: usize, fraction: f64) -> usize {
    let exact = rows as f64 * fraction;
    // A product such as 0.1 * 30 is a hair above 3.
    ((exact - 1e-9 * exact.max(1.0)).ceil().max(0.0) as usize).min(rows)
}

/// Splits the rows: test from all (unless it came with the data), val from the rest.
pub fn split(
    plan: &DataPlan,
    loaded: &Loaded,
    target: &TargetValues,
    violations: &mut Violations,
    warnings: &mut Vec<String>,
) -> Result<(Parts, SplitInfo), WireError> {
    let official_test = loaded.first_test_row < loaded.rows;
    let labels = Labels::of(plan, loaded, target, violations, warnings);
    violations.check()?;
    let all: Vec<u32> = (0..loaded.first_test_row as u32).collect();
    let (rest, test) = if official_test {
        (all, (loaded.first_test_row as u32..loaded.rows as u32).collect())
    } else {
        cut(&plan.split, &labels, all, plan.split.test_size, LANE_TEST)
    };
    let (train, val) = cut(&plan.split, &labels, rest, plan.split.val_size, LANE_VAL);
    let parts = Parts { train, val, test };
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
    violations.check()?;
    if let (Labels::Groups(groups), true) = (&labels, official_test) {
        warn_of_shared_groups(plan, groups, &parts, warnings);
    }
    let column = match (plan.split.strategy, split_column(plan)) {
        (SplitStrategy::Stratified, None) => Some(plan.target.column.clone()),
        (_, column) => column.map(str::to_owned),
    };
    let info = SplitInfo {
        strategy: plan.split.strategy,
        test_size: plan.split.test_size,
        val_size: plan.split.val_size,
        random_state: plan.split.random_state,
        column,
        official_test,
    };
    Ok((parts, info))
}

/// What the strategy goes by, a row each.
enum Labels {
    None,
    /// Stratum of each row.
    Strata(Vec<u32>),
    Groups(Vec<u32>),
    /// Rank of each row's time; equal times have the same rank.
    Times(Vec<u32>),
}

impl Labels {
    fn of(
        plan: &DataPlan,
        loaded: &Loaded,
        target: &TargetValues,
        violations: &mut Violations,
        warnings: &mut Vec<String>,
    ) -> Self {
        let missing_key = |key: &str, violations: &mut Violations| {
            let message = format!("data.split.{key} is not set, and the strategy is {:?}", plan.split.strategy);
            violations.add(Violation::new(message.to_lowercase()));
            Self::None
        };
        match plan.split.strategy {
            SplitStrategy::Random => Self::None,
            SplitStrategy::Stratified => Self::Strata(stratified::strata(plan, loaded, target, warnings)),
            SplitStrategy::Group => match plan.split.group_column.as_deref().and_then(|column| loaded.column(column)) {
                Some((usage, values)) => {
                    if usage.is_feature() {
                        warnings.push(format!(
                            "column {:?} names the groups of the split and is a feature too: exclude it, a new group has a value that was never seen",
                            usage.name
                        ));
                    }
                    Self::Groups(ranks(values))
                }
                None => missing_key("group_column", violations),
            },
            SplitStrategy::Time => match plan.split.time_column.as_deref().and_then(|column| loaded.column(column)) {
                Some((usage, values)) => {
                    time::check(&usage.name, values, violations);
                    Self::Times(ranks(values))
                }
                None => missing_key("time_column", violations),
            },
        }
    }
}

/// Cuts `rows` into what stays and what is held out, both in the order of the files.
fn cut(plan: &SplitPlan, labels: &Labels, rows: Vec<u32>, fraction: f64, lane: u64) -> (Vec<u32>, Vec<u32>) {
    let cut = Cut { seed: plan.random_state, lane, held: held_rows(rows.len(), fraction) };
    let held = match labels {
        Labels::None => random::held(cut, rows.len()),
        Labels::Strata(strata) => stratified::held(cut, &pick(strata, &rows)),
        Labels::Groups(groups) => group::held(cut, &pick(groups, &rows)),
        Labels::Times(times) => time::held(cut, &pick(times, &rows)),
    };
    let (mut stays, mut out) = (Vec::with_capacity(rows.len()), Vec::with_capacity(cut.held));
    for (row, held) in rows.into_iter().zip(held) {
        if held { out.push(row) } else { stays.push(row) }
    }
    (stays, out)
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
