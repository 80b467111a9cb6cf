//! One tree over bins: a row goes left where its bin is at or below the node's.

use super::bins::Binned;

/// A node: a question, or a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// Rows whose bin of the column is at or below `bin` go to node `left`, the others to `left + 1`.
    Split { column: u32, bin: u8, left: u32 },
    /// Answers the values of this number.
    Leaf { values: u32 },
}

/// A tree; node 0 is its root.
#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    pub(super) nodes: Vec<Node>,
    /// `width` values of each leaf.
    pub(super) values: Vec<f32>,
    pub(super) width: usize,
}

impl Tree {
    /// A tree from its nodes: `width` values for each leaf, whose numbers count from 0.
    pub fn from_parts(nodes: Vec<Node>, values: Vec<f32>, width: usize) -> Tree {
        Tree { nodes, values, width }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// What the tree answers for a row: shares of classes, or a mean.
    pub fn answer(&self, table: &Binned, row: usize) -> &[f32] {
        let mut at = 0;
        loop {
            match self.nodes[at] {
                Node::Split { column, bin, left } => {
                    at = left as usize + usize::from(table.column(column as usize)[row] > bin);
                }
                Node::Leaf { values } => return &self.values[values as usize * self.width..][..self.width],
            }
        }
    }
}

/// Gini impurity of these counts of classes: the chance that two draws differ. 0 for no count.
pub fn gini(counts: &[f64]) -> f64 {
    let total: f64 = counts.iter().sum();
    if total == 0.0 {
        return 0.0;
    }
    1.0 - counts.iter().map(|count| (count / total) * (count / total)).sum::<f64>()
}

/// By how much a split lowers the impurity: that of the whole, less those of the sides by their weights.
pub fn gini_gain(left: &[f64], right: &[f64]) -> f64 {
    let whole: Vec<f64> = left.iter().zip(right).map(|(l, r)| l + r).collect();
    let (l, r) = (left.iter().sum::<f64>(), right.iter().sum::<f64>());
    gini(&whole) - (l * gini(left) + r * gini(right)) / (l + r)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forest::Bins;

    #[test]
    fn impurities_by_hand() {
        assert_eq!(gini(&[5.0, 5.0]), 0.5);
        assert_eq!(gini(&[7.0, 0.0]), 0.0);
        assert_eq!(gini(&[]), 0.0);
        assert!((gini(&[1.0, 1.0, 1.0]) - 2.0 / 3.0).abs() < 1e-15);
        // (4, 4) into (4, 1) and (0, 3): 0.5 - (5 * 0.32 + 3 * 0) / 8.
        assert!((gini_gain(&[4.0, 1.0], &[0.0, 3.0]) - 0.3).abs() < 1e-15);
    }

    #[test]
    fn a_given_tree_answers_by_its_bins() {
        let columns = vec![vec![1.0, 2.0, 3.0, f64::NAN], vec![0.0, 1.0, 0.0, 1.0]];
        let table = Bins::fit(&columns, &[0, 1, 2, 3]).apply(&columns);
        let nodes = vec![
            Node::Split { column: 0, bin: 1, left: 1 },
            Node::Split { column: 1, bin: 0, left: 3 },
            Node::Leaf { values: 0 },
            Node::Leaf { values: 1 },
            Node::Leaf { values: 2 },
        ];
        let tree = Tree::from_parts(nodes, vec![0.5, 0.5, 1.0, 0.0, 0.25, 0.75], 2);
        let answers: Vec<&[f32]> = (0..4).map(|row| tree.answer(&table, row)).collect();
        assert_eq!(answers, [&[1.0, 0.0][..], &[0.25, 0.75], &[0.5, 0.5], &[0.5, 0.5]]);
    }
}
