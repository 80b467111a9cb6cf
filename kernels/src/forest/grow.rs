//! Growing one tree: at each node some columns are drawn, and the best split among their bins is taken, by Gini
//! impurity or by variance. Both are sums over one row after the other, so no bit depends on anything but the data,
//! the settings and the draws.

use super::bins::Binned;
use super::random::Labels;
use super::tree::{Node, Tree};
use crate::philox::Rng;

/// What bounds a tree.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Columns that are looked at in each node.
    pub columns: usize,
    /// Fewest rows of a leaf.
    pub leaf_rows: usize,
    pub depth: usize,
}

/// Rows of one tree and how often each was drawn.
pub(super) struct Drawn {
    pub rows: Vec<u32>,
    pub times: Vec<u32>,
}

/// A node that is still to be split: its rows, as a range of the grower's.
struct Open {
    node: usize,
    from: usize,
    to: usize,
    depth: usize,
}

#[derive(Clone, Copy)]
struct Split {
    column: u32,
    bin: u8,
    score: f64,
}

/// The state of one tree's growth.
pub(super) struct Grower<'a> {
    table: &'a Binned,
    labels: Labels<'a>,
    limits: Limits,
    drawn: Drawn,
    rng: Rng,
    /// Numbers that describe a set of rows: counts of classes, or weight and weighted sum.
    width: usize,
    histogram: Vec<f64>,
    /// Rows in each bin.
    occupied: Vec<u32>,
    sorted: Vec<(u8, u32)>,
    order: Vec<u32>,
    tree: Tree,
}

impl<'a> Grower<'a> {
    pub fn new(table: &'a Binned, labels: Labels<'a>, limits: Limits, drawn: Drawn, rng: Rng) -> Self {
        let width = labels.width();
        Self {
            table,
            labels,
            limits,
            drawn,
            rng,
            width,
            histogram: vec![0.0; 256 * width],
            occupied: vec![0; 256],
            sorted: Vec::new(),
            order: (0..table.width() as u32).collect(),
            tree: Tree { nodes: Vec::new(), values: Vec::new(), width: labels.outputs() },
        }
    }

    /// The whole tree.
    pub fn grow(mut self) -> Tree {
        self.tree.nodes.push(Node::Leaf { values: 0 });
        let mut open = vec![Open { node: 0, from: 0, to: self.drawn.rows.len(), depth: 0 }];
        while let Some(here) = open.pop() {
            let whole = self.sum(here.from, here.to);
            let split = if self.is_done(&here, &whole) { None } else { self.best_split(&here, &whole) };
            let Some(split) = split else {
                self.close(here.node, &whole);
                continue;
            };
            let middle = self.partition(&here, split);
            let left = self.tree.nodes.len();
            self.tree.nodes[here.node] = Node::Split { column: split.column, bin: split.bin, left: left as u32 };
            self.tree.nodes.extend([Node::Leaf { values: 0 }; 2]);
            open.push(Open { node: left + 1, from: middle, to: here.to, depth: here.depth + 1 });
            open.push(Open { node: left, from: here.from, to: middle, depth: here.depth + 1 });
        }
        self.tree
    }

    fn add(&self, into: &mut [f64], place: usize) {
        let (row, times) = (self.drawn.rows[place] as usize, f64::from(self.drawn.times[place]));
        match self.labels {
            Labels::Class { classes: labels, .. } => into[labels[row] as usize] += times,
            Labels::Real(values) => {
                into[0] += times;
                into[1] += times * values[row];
            }
        }
    }

    fn sum(&self, from: usize, to: usize) -> Vec<f64> {
        let mut whole = vec![0.0; self.width];
        for place in from..to {
            self.add(&mut whole, place);
        }
        whole
    }

    fn is_done(&self, here: &Open, whole: &[f64]) -> bool {
        let pure = match self.labels {
            Labels::Class { .. } => whole.iter().filter(|count| **count > 0.0).count() <= 1,
            Labels::Real(values) => {
                let mut of = self.drawn.rows[here.from..here.to].iter().map(|&row| values[row as usize]);
                let first = of.next();
                of.all(|value| Some(value) == first)
            }
        };
        pure || here.to - here.from < 2 * self.limits.leaf_rows.max(1) || here.depth >= self.limits.depth
    }

    /// What a split is judged by: the higher, the purer its sides.
    fn purity(&self, of: &[f64]) -> f64 {
        match self.labels {
            Labels::Class { .. } => of.iter().map(|count| count * count).sum::<f64>() / of.iter().sum::<f64>(),
            Labels::Real(_) => of[1] * of[1] / of[0],
        }
    }

    /// Columns are drawn one after the other. Those that are constant here count as drawn, but at least one that is
    /// not is looked at, if there is one.
    fn best_split(&mut self, here: &Open, whole: &[f64]) -> Option<Split> {
        let mut best: Option<Split> = None;
        let (mut looked, width) = (0, self.order.len());
        for drawn in 0..width {
            if drawn >= self.limits.columns && looked > 0 {
                break;
            }
            let other = drawn + self.rng.below((width - drawn) as u32) as usize;
            self.order.swap(drawn, other);
            let column = self.order[drawn];
            let varies = if here.to - here.from < 128 {
                self.scan_sorted(here, column, whole, &mut best)
            } else {
                self.scan_bins(here, column, whole, &mut best)
            };
            looked += usize::from(varies);
        }
        best
    }

    /// By a histogram: for nodes of many rows. Answers whether the column varies here.
    fn scan_bins(&mut self, here: &Open, column: u32, whole: &[f64], best: &mut Option<Split>) -> bool {
        let (bins, count) = (self.table.column(column as usize), self.table.count(column as usize));
        let mut histogram = std::mem::take(&mut self.histogram);
        let mut occupied = std::mem::take(&mut self.occupied);
        histogram[..count * self.width].fill(0.0);
        occupied[..count].fill(0);
        for place in here.from..here.to {
            let bin = bins[self.drawn.rows[place] as usize] as usize;
            occupied[bin] += 1;
            self.add(&mut histogram[bin * self.width..][..self.width], place);
        }
        let varies = occupied[..count].iter().filter(|rows| **rows > 0).count() > 1;
        if varies {
            let mut sides = Sides::new(whole, here.to - here.from);
            for bin in 0..count - 1 {
                if occupied[bin] == 0 {
                    continue;
                }
                sides.take(&histogram[bin * self.width..][..self.width], occupied[bin] as usize);
                self.judge(&sides, column, bin as u8, best);
            }
        }
        (self.histogram, self.occupied) = (histogram, occupied);
        varies
    }

    /// By sorting: for nodes of few rows, where clearing a histogram would cost more than filling it.
    fn scan_sorted(&mut self, here: &Open, column: u32, whole: &[f64], best: &mut Option<Split>) -> bool {
        let bins = self.table.column(column as usize);
        let mut sorted = std::mem::take(&mut self.sorted);
        sorted.clear();
        sorted.extend(
            (here.from..here.to).map(|place| (bins[self.drawn.rows[place] as usize], (place - here.from) as u32)),
        );
        sorted.sort_unstable();
        let varies = sorted[0].0 != sorted[sorted.len() - 1].0;
        if varies {
            let mut sides = Sides::new(whole, sorted.len());
            let mut one = vec![0.0; self.width];
            for pair in sorted.windows(2) {
                one.fill(0.0);
                self.add(&mut one, here.from + pair[0].1 as usize);
                sides.take(&one, 1);
                if pair[0].0 < pair[1].0 {
                    self.judge(&sides, column, pair[0].0, best);
                }
            }
        }
        self.sorted = sorted;
        varies
    }

    /// Keeps the split where it is better than the best so far.
    fn judge(&self, sides: &Sides, column: u32, bin: u8, best: &mut Option<Split>) {
        let least = self.limits.leaf_rows.max(1);
        if sides.left_rows < least || sides.right_rows < least {
            return;
        }
        let score = self.purity(&sides.left) + self.purity(&sides.right);
        if best.is_none_or(|known| score > known.score) {
            *best = Some(Split { column, bin, score });
        }
    }

    /// Moves the rows that go left to the front, both sides in their order; answers where the right ones begin.
    fn partition(&mut self, here: &Open, split: Split) -> usize {
        let bins = self.table.column(split.column as usize);
        let mut right = Vec::new();
        let mut to = here.from;
        for place in here.from..here.to {
            let (row, times) = (self.drawn.rows[place], self.drawn.times[place]);
            if bins[row as usize] <= split.bin {
                (self.drawn.rows[to], self.drawn.times[to]) = (row, times);
                to += 1;
            } else {
                right.push((row, times));
            }
        }
        for (offset, (row, times)) in right.into_iter().enumerate() {
            (self.drawn.rows[to + offset], self.drawn.times[to + offset]) = (row, times);
        }
        to
    }

    fn close(&mut self, node: usize, whole: &[f64]) {
        let leaf = self.tree.values.len() / self.tree.width;
        self.tree.nodes[node] = Node::Leaf { values: leaf as u32 };
        match self.labels {
            Labels::Class { .. } => {
                let total: f64 = whole.iter().sum();
                self.tree.values.extend(whole.iter().map(|count| (count / total) as f32));
            }
            Labels::Real(_) => self.tree.values.push((whole[1] / whole[0]) as f32),
        }
    }
}

/// The two sides of a split that moves through the bins.
struct Sides {
    left: Vec<f64>,
    right: Vec<f64>,
    left_rows: usize,
    right_rows: usize,
}

impl Sides {
    fn new(whole: &[f64], rows: usize) -> Self {
        Self { left: vec![0.0; whole.len()], right: whole.to_vec(), left_rows: 0, right_rows: rows }
    }

    fn take(&mut self, moved: &[f64], rows: usize) {
        for ((left, right), moved) in self.left.iter_mut().zip(&mut self.right).zip(moved) {
            *left += moved;
            *right -= moved;
        }
        self.left_rows += rows;
        self.right_rows -= rows;
    }
}
