//! A rank's share of a step: some nodes of the gradient tree, and the loss of each held shard. A
//! collective completes the tree ([`crate::shard::complete`] shows the order) and hands the root to
//! [`super::Trainer::accumulate_root`].

use crate::ops::loss::LossSum;
use crate::shard::{Node, tree_sum};

/// What a rank computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Partial {
    /// Nodes of the tree with their gradients, flat, in the layout of the parameter store.
    pub nodes: Vec<(Node, Vec<f32>)>,
    /// Loss of each held shard.
    pub losses: Vec<(usize, LossSum)>,
}

/// The loss of a global batch from those of its shards, in shard order, by the tree.
pub(super) fn total(shards: &[LossSum]) -> LossSum {
    let by = |get: fn(&LossSum) -> f64| tree_sum(&shards.iter().map(get).collect::<Vec<_>>());
    LossSum { sum: by(|s| s.sum), weight: by(|s| s.weight), rows: shards.iter().map(|s| s.rows).sum() }
}
