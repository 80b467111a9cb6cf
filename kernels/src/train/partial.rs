//! A rank's share of a step: some nodes of the gradient tree, and the loss of each held shard. A
//! collective completes the tree ([`crate::shard::complete`] shows the order) and hands the root to
//! [`super::Trainer::accumulate_root`].

use crate::ops::loss::LossSum;
use crate::shard::Node;

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
    match shards {
        [] => LossSum::default(),
        [one] => *one,
        _ => {
            let (left, right) = shards.split_at(shards.len().next_power_of_two() / 2);
            let mut sum = total(left);
            sum.merge(total(right));
            sum
        }
    }
}
