//! A random forest: trees on bootstrap samples, each node looking at the square root of the columns (regression: at all
//! of them); the forest answers the mean of its trees.

use super::bins::Binned;
use super::grow::{Drawn, Grower, Limits};
use super::tree::Tree;
use crate::error::{Error, Result};
use crate::philox::{Key, Stream};
use crate::pool::Pool;

/// The lane of the stream that forests draw from.
const LANE: u32 = 1;
/// Rows that are answered at once.
const BLOCK: usize = 512;

/// Settings of a forest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ForestConfig {
    pub trees: usize,
    /// Fewest rows of a leaf.
    pub leaf_rows: usize,
    /// Deepest tree.
    pub depth: usize,
    pub seed: u64,
}

impl Default for ForestConfig {
    fn default() -> Self {
        Self { trees: 100, leaf_rows: 1, depth: usize::MAX, seed: 0 }
    }
}

/// What a forest learns, a row of the table each.
#[derive(Clone, Copy, Debug)]
pub enum Labels<'a> {
    /// Classes from 0 to below `count`.
    Class {
        classes: &'a [u32],
        count: usize,
    },
    Real(&'a [f64]),
}

impl Labels<'_> {
    fn len(&self) -> usize {
        match self {
            Labels::Class { classes, .. } => classes.len(),
            Labels::Real(values) => values.len(),
        }
    }

    pub(super) fn width(&self) -> usize {
        match self {
            Labels::Class { count, .. } => *count,
            Labels::Real(_) => 2,
        }
    }

    pub(super) fn outputs(&self) -> usize {
        match self {
            Labels::Class { count, .. } => *count,
            Labels::Real(_) => 1,
        }
    }
}

/// A grown forest.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomForest {
    trees: Vec<Tree>,
    outputs: usize,
}

impl RandomForest {
    /// Grows a forest on these rows of the table. `Value` errors: no tree, row or column; labels of another length, or
    /// a class out of range.
    pub fn fit(
        table: &Binned,
        labels: Labels<'_>,
        rows: &[u32],
        config: &ForestConfig,
        pool: &Pool,
    ) -> Result<RandomForest> {
        check(table, labels, rows, config)?;
        let columns = match labels {
            Labels::Class { .. } => (table.width() as f64).sqrt().max(1.0) as usize,
            Labels::Real(_) => table.width(),
        };
        let limits = Limits { columns, leaf_rows: config.leaf_rows, depth: config.depth };
        let key = Key::new(config.seed, Stream::Sample).lane(LANE);
        let slots: Vec<std::sync::OnceLock<Tree>> = (0..config.trees).map(|_| std::sync::OnceLock::new()).collect();
        pool.parallel_for(config.trees, 1, |_, range| {
            for tree in range {
                let mut rng = key.epoch(tree as u64).rng(0, 0);
                let mut times = vec![0_u32; rows.len()];
                for _ in 0..rows.len() {
                    times[rng.below(rows.len() as u32) as usize] += 1;
                }
                let drawn = rows.iter().zip(&times).filter(|(_, times)| **times > 0);
                let (rows, times) = drawn.map(|(row, times)| (*row, *times)).unzip();
                let grown = Grower::new(table, labels, limits, Drawn { rows, times }, rng).grow();
                slots[tree].set(grown).expect("invariant: each tree is grown once");
            }
        });
        let trees = slots.into_iter().map(|slot| slot.into_inner().expect("invariant: every tree is grown"));
        Ok(RandomForest { trees: trees.collect(), outputs: labels.outputs() })
    }

    /// Values of each answer: classes, or one.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    pub fn trees(&self) -> &[Tree] {
        &self.trees
    }

    /// The mean answer of the trees for these rows, [rows, outputs]: probabilities of classes, or a number.
    pub fn predict(&self, table: &Binned, rows: &[u32], pool: &Pool) -> Vec<f64> {
        let blocks: Vec<std::sync::OnceLock<Vec<f64>>> =
            (0..rows.len().div_ceil(BLOCK)).map(|_| std::sync::OnceLock::new()).collect();
        pool.parallel_for(rows.len(), BLOCK, |_, range| {
            let mut sums = vec![0.0; range.len() * self.outputs];
            for tree in &self.trees {
                for (sum, &row) in sums.chunks_mut(self.outputs).zip(&rows[range.clone()]) {
                    for (sum, value) in sum.iter_mut().zip(tree.answer(table, row as usize)) {
                        *sum += f64::from(*value);
                    }
                }
            }
            sums.iter_mut().for_each(|sum| *sum /= self.trees.len() as f64);
            blocks[range.start / BLOCK].set(sums).expect("invariant: each block is answered once");
        });
        blocks.into_iter().flat_map(|block| block.into_inner().expect("invariant: every block is answered")).collect()
    }
}

fn check(table: &Binned, labels: Labels<'_>, rows: &[u32], config: &ForestConfig) -> Result<()> {
    const OP: &str = "random forest";
    if config.trees == 0 || rows.is_empty() || table.width() == 0 {
        let got = format!("{} trees, {} rows, {} columns", config.trees, rows.len(), table.width());
        return Err(Error::value(OP, "at least one tree, row and column", got));
    }
    if labels.len() != table.rows() {
        return Err(Error::shape(OP, format!("{} labels", table.rows()), labels.len().to_string()));
    }
    if let Some(row) = rows.iter().find(|row| **row as usize >= table.rows()) {
        return Err(Error::value(OP, format!("rows below {}", table.rows()), row));
    }
    match labels {
        Labels::Class { classes, count } => match rows.iter().find(|row| classes[**row as usize] as usize >= count) {
            Some(row) => Err(Error::value(OP, format!("classes below {count}"), classes[*row as usize])),
            None => Ok(()),
        },
        Labels::Real(values) => match rows.iter().find(|row| !values[**row as usize].is_finite()) {
            Some(row) => Err(Error::value(OP, "finite values to learn", values[*row as usize])),
            None => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::bins::Bins;
    use super::super::tree::Node;
    use super::*;

    /// Two columns of numbers and one of noise; the class is whether the first is above the second.
    fn table(rows: u32) -> (Vec<Vec<f64>>, Vec<u32>, Vec<f64>) {
        let mut rng = Key::new(3, Stream::Generate).rng(0, 0);
        let mut draw = |scale: f64| (0..rows).map(|_| (rng.uniform() * scale).floor()).collect::<Vec<f64>>();
        let columns = vec![draw(40.0), draw(40.0), draw(1000.0)];
        let classes = columns[0].iter().zip(&columns[1]).map(|(a, b)| u32::from(a > b)).collect();
        let reals = columns[0].iter().zip(&columns[1]).map(|(a, b)| a * 2.0 - b).collect();
        (columns, classes, reals)
    }

    #[test]
    fn a_forest_learns_and_its_bits_do_not_depend_on_threads() {
        let (columns, classes, reals) = table(2000);
        let (train, rest): (Vec<u32>, Vec<u32>) = (0..2000).partition(|row| row % 4 != 0);
        let binned = Bins::fit(&columns, &train).apply(&columns);
        let config = ForestConfig { trees: 30, seed: 5, ..ForestConfig::default() };
        for labels in [Labels::Class { classes: &classes, count: 2 }, Labels::Real(&reals)] {
            let fit = |threads| {
                let pool = Pool::new(threads);
                let forest = RandomForest::fit(&binned, labels, &train, &config, &pool).expect("fits");
                (forest.predict(&binned, &rest, &pool), forest)
            };
            let (one, forest) = fit(1);
            assert_eq!(fit(3), (one.clone(), forest));
            let good = match labels {
                Labels::Class { .. } => {
                    let right =
                        |(place, row): &(usize, &u32)| (one[place * 2 + 1] > 0.5) == (classes[**row as usize] == 1);
                    rest.iter().enumerate().filter(right).count() as f64 / rest.len() as f64
                }
                Labels::Real(_) => {
                    let error: f64 = rest.iter().zip(&one).map(|(row, got)| (got - reals[*row as usize]).powi(2)).sum();
                    let mean = reals.iter().sum::<f64>() / 2000.0;
                    let spread: f64 = rest.iter().map(|row| (reals[*row as usize] - mean).powi(2)).sum();
                    1.0 - error / spread
                }
            };
            assert!(good > 0.93, "{good}");
        }
    }

    /// Rows that are not named have no part in a tree; a tree without a bound tells its rows apart.
    #[test]
    fn only_the_named_rows_are_learned() {
        let (columns, mut classes, _) = table(400);
        let rows: Vec<u32> = (0..300).collect();
        let binned = Bins::fit(&columns, &rows).apply(&columns);
        let config = ForestConfig { trees: 3, ..ForestConfig::default() };
        let pool = Pool::new(1);
        let fit = |classes: &[u32]| {
            RandomForest::fit(&binned, Labels::Class { classes, count: 2 }, &rows, &config, &pool).expect("fits")
        };
        let before = fit(&classes);
        classes[300..].fill(1);
        assert_eq!(fit(&classes), before);
        let leaves = |tree: &Tree| tree.nodes().iter().filter(|node| matches!(node, Node::Leaf { .. })).count();
        assert!(before.trees().iter().all(|tree| tree.values.len() == 2 * leaves(tree)));
        let whole = |tree: &Tree| tree.values.iter().all(|share| *share == 0.0 || *share == 1.0);
        assert!(before.trees().iter().all(whole), "leaves are pure");
        let bounded = ForestConfig { depth: 2, leaf_rows: 30, ..config };
        let small = RandomForest::fit(&binned, Labels::Class { classes: &classes, count: 2 }, &rows, &bounded, &pool);
        assert!(small.expect("fits").trees().iter().all(|tree| leaves(tree) <= 4));
    }

    #[test]
    fn what_cannot_be_learned_is_refused() {
        let (columns, classes, mut reals) = table(20);
        let rows: Vec<u32> = (0..20).collect();
        let binned = Bins::fit(&columns, &rows).apply(&columns);
        let pool = Pool::new(1);
        let fit = |labels: Labels<'_>, rows: &[u32], trees| {
            let config = ForestConfig { trees, ..ForestConfig::default() };
            RandomForest::fit(&binned, labels, rows, &config, &pool).expect_err("refused").to_string()
        };
        reals[4] = f64::NAN;
        assert_eq!(fit(Labels::Real(&reals), &rows, 1), "random forest: expected finite values to learn, got NaN");
        let one = Labels::Class { classes: &classes, count: 1 };
        assert_eq!(fit(one, &rows, 1), "random forest: expected classes below 1, got 1");
        let both = Labels::Class { classes: &classes, count: 2 };
        assert_eq!(fit(both, &[20], 1), "random forest: expected rows below 20, got 20");
        let none = "random forest: expected at least one tree, row and column, got 0 trees, 20 rows, 3 columns";
        assert_eq!(fit(both, &rows, 0), none);
        let short = Labels::Class { classes: &classes[1..], count: 2 };
        assert_eq!(fit(short, &rows, 1), "random forest: expected 20 labels, got 19");
    }
}
