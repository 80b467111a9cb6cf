//! An isolation forest (Liu, Ting and Zhou 2008): rows that few random cuts set apart are anomalies. Scores are
//! 2^(-mean path / c(rows of a tree)), near 1 for anomalies; the offset is the score that the wanted share of the fitted
//! rows reaches.

use crate::cpu::math::{exp_f64, ln_f64};
use crate::error::{Error, Result};
use crate::philox::{Key, Rng, Stream};
use crate::pool::Pool;

/// The lane of the stream that isolation forests draw from.
const LANE: u32 = 2;
/// Euler's constant.
const EULER: f64 = 0.577_215_664_901_532_9;
/// Rows that are scored at once.
const BLOCK: usize = 512;

/// Settings of an isolation forest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct IsolationConfig {
    pub trees: usize,
    /// Most rows of a tree, drawn without putting back.
    pub tree_rows: usize,
    /// Share of the fitted rows that are anomalies, in (0, 0.5].
    pub contamination: f64,
    pub seed: u64,
}

impl Default for IsolationConfig {
    fn default() -> Self {
        Self { trees: 100, tree_rows: 256, contamination: 0.05, seed: 0 }
    }
}

/// Mean path to a leaf in a binary search tree of `rows` that was searched in vain: c(n) of the paper, equation 1.
pub fn average_path_length(rows: usize) -> f64 {
    match rows {
        0 | 1 => 0.0,
        2 => 1.0,
        _ => {
            let n = rows as f64;
            2.0 * (ln_f64(n - 1.0) + EULER) - 2.0 * (n - 1.0) / n
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    /// Values at or below go to node `left`, the others to `left + 1`.
    Cut { column: u32, at: f64, left: u32 },
    /// The path that ends here, with what a fuller tree would add.
    End { path: f64 },
}

/// A fitted forest.
#[derive(Clone, Debug, PartialEq)]
pub struct IsolationForest {
    trees: Vec<Vec<Node>>,
    tree_rows: usize,
    offset: f64,
}

impl IsolationForest {
    /// Fits on these rows of the columns, which hold finite numbers there. `Value` errors name what is amiss.
    pub fn fit(columns: &[Vec<f64>], rows: &[u32], config: &IsolationConfig, pool: &Pool) -> Result<IsolationForest> {
        const OP: &str = "isolation forest";
        if config.trees == 0 || rows.is_empty() || columns.is_empty() || config.tree_rows == 0 {
            let got = format!("{} trees, {} rows, {} columns", config.trees, rows.len(), columns.len());
            return Err(Error::value(OP, "at least one tree, row and column", got));
        }
        if !(config.contamination > 0.0 && config.contamination <= 0.5) {
            return Err(Error::value(OP, "a contamination above 0 and up to 0.5", config.contamination));
        }
        let not_finite = |column: &&Vec<f64>| rows.iter().any(|row| !column[*row as usize].is_finite());
        if let Some(column) = columns.iter().position(|column| not_finite(&column)) {
            return Err(Error::value(OP, "finite numbers", format!("others in column {column}")));
        }
        let tree_rows = config.tree_rows.min(rows.len());
        let key = Key::new(config.seed, Stream::Sample).lane(LANE);
        let slots: Vec<std::sync::OnceLock<Vec<Node>>> =
            (0..config.trees).map(|_| std::sync::OnceLock::new()).collect();
        pool.parallel_for(config.trees, 1, |_, range| {
            for tree in range {
                let mut rng = key.epoch(tree as u64).rng(0, 0);
                let drawn = sample(rows, tree_rows, &mut rng);
                slots[tree].set(grow(columns, drawn, &mut rng)).expect("invariant: each tree is grown once");
            }
        });
        let trees = slots.into_iter().map(|slot| slot.into_inner().expect("invariant: every tree is grown")).collect();
        let mut forest = IsolationForest { trees, tree_rows, offset: 0.0 };
        let mut scores = forest.scores(columns, rows, pool);
        scores.sort_unstable_by(f64::total_cmp);
        forest.offset = quantile(&scores, 1.0 - config.contamination);
        Ok(forest)
    }

    /// The score of each of these rows: in (0, 1), near 1 for anomalies.
    pub fn scores(&self, columns: &[Vec<f64>], rows: &[u32], pool: &Pool) -> Vec<f64> {
        let blocks: Vec<std::sync::OnceLock<Vec<f64>>> =
            (0..rows.len().div_ceil(BLOCK)).map(|_| std::sync::OnceLock::new()).collect();
        let usual = average_path_length(self.tree_rows) * self.trees.len() as f64;
        pool.parallel_for(rows.len(), BLOCK, |_, range| {
            let score = |&row: &u32| {
                let path: f64 = self.trees.iter().map(|tree| path(tree, columns, row as usize)).sum();
                // One row a tree: nothing can be told apart.
                if usual > 0.0 { half_to(path / usual) } else { 0.5 }
            };
            let scores = rows[range.clone()].iter().map(score).collect();
            blocks[range.start / BLOCK].set(scores).expect("invariant: each block is scored once");
        });
        blocks.into_iter().flat_map(|block| block.into_inner().expect("invariant: every block is scored")).collect()
    }

    /// Scores above this are anomalies.
    pub fn offset(&self) -> f64 {
        self.offset
    }
}

/// 2^-x.
fn half_to(x: f64) -> f64 {
    exp_f64(-x * std::f64::consts::LN_2)
}

/// Some of the rows, each at most once.
fn sample(rows: &[u32], count: usize, rng: &mut Rng) -> Vec<u32> {
    let mut pool: Vec<u32> = rows.to_vec();
    for place in 0..count {
        let other = place + rng.below((pool.len() - place) as u32) as usize;
        pool.swap(place, other);
    }
    pool.truncate(count);
    pool
}

fn grow(columns: &[Vec<f64>], rows: Vec<u32>, rng: &mut Rng) -> Vec<Node> {
    let deepest = usize::BITS as usize - rows.len().saturating_sub(1).leading_zeros() as usize;
    let mut nodes = vec![Node::End { path: 0.0 }];
    let mut open = vec![(0, rows, 0)];
    let mut order: Vec<u32> = (0..columns.len() as u32).collect();
    while let Some((node, rows, depth)) = open.pop() {
        let cut = if rows.len() < 2 || depth >= deepest { None } else { draw_cut(columns, &rows, &mut order, rng) };
        let Some((column, at)) = cut else {
            nodes[node] = Node::End { path: depth as f64 + average_path_length(rows.len()) };
            continue;
        };
        let (low, high) = rows.into_iter().partition(|&row| columns[column as usize][row as usize] <= at);
        let left = nodes.len();
        nodes[node] = Node::Cut { column, at, left: left as u32 };
        nodes.extend([Node::End { path: 0.0 }; 2]);
        open.push((left + 1, high, depth + 1));
        open.push((left, low, depth + 1));
    }
    nodes
}

/// A random column among those that vary here, and a random place between its least and greatest value.
fn draw_cut(columns: &[Vec<f64>], rows: &[u32], order: &mut [u32], rng: &mut Rng) -> Option<(u32, f64)> {
    for drawn in 0..order.len() {
        let other = drawn + rng.below((order.len() - drawn) as u32) as usize;
        order.swap(drawn, other);
        let column = &columns[order[drawn] as usize];
        let values = || rows.iter().map(|&row| column[row as usize]);
        let (least, greatest) = (values().fold(f64::INFINITY, f64::min), values().fold(f64::NEG_INFINITY, f64::max));
        if least < greatest {
            let at = least + rng.uniform() * (greatest - least);
            return Some((order[drawn], if at < greatest { at } else { least }));
        }
    }
    None
}

fn path(tree: &[Node], columns: &[Vec<f64>], row: usize) -> f64 {
    let mut at = 0;
    loop {
        match tree[at] {
            Node::Cut { column, at: cut, left } => {
                at = left as usize + usize::from(columns[column as usize][row] > cut);
            }
            Node::End { path } => return path,
        }
    }
}

/// Interpolated linearly, as usual.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (at.floor() as usize, at.ceil() as usize);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scikit-learn 1.9, `sklearn.ensemble._iforest._average_path_length`.
    #[test]
    fn path_lengths_are_those_of_the_paper() {
        for (rows, expected) in [
            (0, 0.0),
            (1, 0.0),
            (2, 1.0),
            (3, 1.207_392_357_589_623),
            (5, 2.327_020_052_042_847),
            (256, 10.244_770_920_119_917),
            (10_000, 17.575_112_063_754_766),
        ] {
            let found = average_path_length(rows);
            assert!((found - expected).abs() < 1e-12, "{rows}: {found:.17}, expected {expected}");
        }
    }

    #[test]
    fn a_given_tree_gives_its_scores() {
        let nodes = vec![
            Node::Cut { column: 0, at: 1.5, left: 1 },
            Node::End { path: 1.0 },
            Node::End { path: 1.0 + average_path_length(3) },
        ];
        let forest = IsolationForest { trees: vec![nodes.clone(), nodes], tree_rows: 4, offset: 0.0 };
        let scores = forest.scores(&[vec![1.0, 2.0]], &[0, 1], &Pool::new(1));
        let c = average_path_length(4);
        let expected = [(-1.0 / c).exp2(), (-(1.0 + average_path_length(3)) / c).exp2()];
        assert!(scores.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-14), "{scores:?}");
    }

    #[test]
    fn planted_anomalies_come_first() {
        let mut rng = Key::new(1, Stream::Generate).rng(0, 0);
        let columns: Vec<Vec<f64>> =
            (0..4).map(|_| (0..1000).map(|row| rng.normal() + if row >= 980 { 6.0 } else { 0.0 }).collect()).collect();
        let rows: Vec<u32> = (0..1000).collect();
        let config = IsolationConfig { contamination: 0.02, seed: 9, ..IsolationConfig::default() };
        let fit = |threads| IsolationForest::fit(&columns, &rows, &config, &Pool::new(threads)).expect("fits");
        let forest = fit(1);
        assert_eq!(fit(3), forest);
        let scores = forest.scores(&columns, &rows, &Pool::new(2));
        let flagged: Vec<usize> = (0..1000).filter(|&row| scores[row] > forest.offset()).collect();
        assert_eq!(flagged.len(), 20);
        assert!(flagged.iter().filter(|&&row| row >= 980).count() >= 19, "{flagged:?}");
    }

    #[test]
    fn bad_input_is_named_and_constants_say_nothing() {
        let pool = Pool::new(1);
        let rows = [0, 1, 2];
        let config = IsolationConfig::default();
        let holed = vec![vec![1.0, 2.0, 3.0], vec![1.0, f64::NAN, 2.0]];
        let error = IsolationForest::fit(&holed, &rows, &config, &pool).expect_err("refused").to_string();
        assert_eq!(error, "isolation forest: expected finite numbers, got others in column 1");
        let all = IsolationConfig { contamination: 0.6, ..config };
        assert!(IsolationForest::fit(&[vec![1.0; 3]], &rows, &all, &pool).is_err());
        let same = IsolationForest::fit(&[vec![1.0; 3]], &rows, &config, &pool).expect("fits");
        let scores = same.scores(&[vec![1.0; 3]], &rows, &pool);
        assert!(scores.iter().all(|score| *score == scores[0] && *score <= same.offset()));
    }
}
