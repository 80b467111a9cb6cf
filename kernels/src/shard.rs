//! Logical shards and the one tree in whose order their sums meet.
//!
//! A global batch of B rows is cut into V shards: shard s holds the rows `s * B / V .. (s + 1) * B / V`.
//! The tree over V leaves is left-complete: a node of n > 1 leaves splits after the largest power of two
//! below n. A node's shape depends on its number of leaves only, and summing leaves from left to right
//! with a stack (a binary counter) gives exactly its order. A rank holds a run of shards, that is a few
//! whole nodes ([`nodes_of`]); completing the rest of the tree ([`parent_of`]) gives the same bits for
//! every number of ranks.

use std::ops::Range;

/// A node of the tree: the leaves `first..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Node {
    pub first: usize,
    pub end: usize,
}

impl Node {
    /// The root over `shards` leaves.
    pub fn root(shards: usize) -> Node {
        Node { first: 0, end: shards }
    }

    /// Number of leaves below (a leaf has one).
    pub fn span(self) -> usize {
        self.end - self.first
    }

    /// Both children, none for a leaf.
    pub fn children(self) -> Option<(Node, Node)> {
        if self.span() < 2 {
            return None;
        }
        let middle = self.first + self.span().next_power_of_two() / 2;
        Some((Node { end: middle, ..self }, Node { first: middle, ..self }))
    }
}

/// The rows of shard `s` of `shards` in a global batch of `rows`.
pub fn rows_of(shard: usize, shards: usize, rows: usize) -> Range<usize> {
    let at = |s: usize| (s as u128 * rows as u128 / shards as u128) as usize;
    at(shard)..at(shard + 1)
}

/// The shards of rank `rank` of `world` (at most `shards`): a run; all ranks' runs cover every shard.
pub fn shards_of(rank: usize, world: usize, shards: usize) -> Range<usize> {
    rank * shards / world..(rank + 1) * shards / world
}

/// The fewest whole nodes of the tree over `shards` leaves that make up `held`, from left to right.
pub fn nodes_of(held: Range<usize>, shards: usize) -> Vec<Node> {
    let mut found = Vec::new();
    collect(Node::root(shards), &held, &mut found);
    found
}

fn collect(node: Node, held: &Range<usize>, found: &mut Vec<Node>) {
    if node.end <= held.start || held.end <= node.first || node.span() == 0 {
        return;
    }
    if held.start <= node.first && node.end <= held.end {
        return found.push(node);
    }
    let (left, right) = node.children().expect("invariant: a leaf is inside or outside");
    collect(left, held, found);
    collect(right, held, found);
}

/// The parent of `node` in the tree over `shards` leaves, and its sibling; none for the root.
pub fn parent_of(node: Node, shards: usize) -> Option<(Node, Node)> {
    let mut at = Node::root(shards);
    loop {
        let (left, right) = at.children()?;
        if left == node {
            return Some((at, right));
        }
        if right == node {
            return Some((at, left));
        }
        at = if node.end <= left.end { left } else { right };
    }
}

/// Completes the tree from nodes that together cover all leaves, in any order: the root's value. This is
/// what a collective does over the wire. `None` where the nodes do not cover the tree.
pub fn complete(mut parts: Vec<(Node, Vec<f32>)>, shards: usize) -> Option<Vec<f32>> {
    while parts.len() > 1 {
        parts.sort_unstable_by_key(|(node, _)| node.first);
        let joinable = |i: &usize| {
            let (left, right) = (parts[*i].0, parts[*i + 1].0);
            parent_of(left, shards).is_some_and(|(parent, sibling)| sibling == right && parent.first == left.first)
        };
        let at = (0..parts.len() - 1).find(joinable)?;
        let (right, addend) = parts.remove(at + 1);
        let (left, sum) = &mut parts[at];
        left.end = right.end;
        sum.iter_mut().zip(&addend).for_each(|(l, r)| *l += r);
    }
    parts.pop().filter(|(node, _)| *node == Node::root(shards)).map(|(_, value)| value)
}

/// The deepest tree: 2^15 shards.
pub(crate) const MAX_LEVELS: usize = 16;
/// The most shards of a job.
pub const MAX_SHARDS: usize = 1 << (MAX_LEVELS - 1);

/// Sums leaves from left to right in the tree's order, each leaf up to `N` numbers.
///
/// Per leaf: `push` gives the slot to fill, `settle` joins what the binary counter says. `finish` joins
/// the rest from the right.
pub(crate) struct TreeStack<const N: usize> {
    slots: Box<[[f32; N]; MAX_LEVELS + 1]>,
    leaves: usize,
    depth: usize,
}

impl<const N: usize> Default for TreeStack<N> {
    fn default() -> Self {
        TreeStack { slots: Box::new([[0.0; N]; MAX_LEVELS + 1]), leaves: 0, depth: 0 }
    }
}

impl<const N: usize> TreeStack<N> {
    pub(crate) fn clear(&mut self) {
        (self.leaves, self.depth) = (0, 0);
    }

    /// The slot of the next leaf; its old contents are unspecified.
    pub(crate) fn push(&mut self, used: usize) -> &mut [f32] {
        self.depth += 1;
        self.leaves += 1;
        &mut self.slots[self.depth - 1][..used]
    }

    /// Joins the finished leaf with its finished left siblings.
    pub(crate) fn settle(&mut self, used: usize) {
        for _ in 0..self.leaves.trailing_zeros() {
            self.join(used);
        }
    }

    fn join(&mut self, used: usize) {
        let (left, right) = self.slots.split_at_mut(self.depth - 1);
        let (left, right) = (&mut left[self.depth - 2][..used], &right[0][..used]);
        left.iter_mut().zip(right).for_each(|(l, r)| *l += r);
        self.depth -= 1;
    }

    /// The node's sum (zeros where there was no leaf).
    pub(crate) fn finish(&mut self, used: usize) -> &[f32] {
        if self.leaves == 0 {
            self.push(used).fill(0.0);
        }
        while self.depth > 1 {
            self.join(used);
        }
        &self.slots[0][..used]
    }
}

/// The same for leaves of any length, on the heap.
#[derive(Default)]
pub(crate) struct WideStack {
    slots: Vec<Vec<f32>>,
    leaves: usize,
    depth: usize,
}

impl WideStack {
    pub(crate) fn clear(&mut self) {
        (self.leaves, self.depth) = (0, 0);
    }

    /// The slot of the next leaf, zero.
    pub(crate) fn push(&mut self, len: usize) -> &mut [f32] {
        if self.depth == self.slots.len() {
            self.slots.push(Vec::new());
        }
        self.depth += 1;
        self.leaves += 1;
        let slot = &mut self.slots[self.depth - 1];
        slot.clear();
        slot.resize(len, 0.0);
        slot
    }

    /// Joins the finished leaf with its finished left siblings.
    pub(crate) fn settle(&mut self) {
        for _ in 0..self.leaves.trailing_zeros() {
            self.join();
        }
    }

    fn join(&mut self) {
        let (left, right) = self.slots.split_at_mut(self.depth - 1);
        crate::cpu::reduce::add_assign(&mut left[self.depth - 2], &right[0]);
        self.depth -= 1;
    }

    /// The node's sum of `len` numbers (zeros where there was no leaf).
    pub(crate) fn finish(&mut self, len: usize) -> &[f32] {
        if self.leaves == 0 {
            self.push(len);
        }
        while self.depth > 1 {
            self.join();
        }
        &self.slots[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{Key, Stream};

    #[test]
    fn shards_cover_the_rows() {
        for (shards, rows) in [(8, 256), (8, 3), (3, 100), (1, 5), (7, 0)] {
            let mut next = 0;
            for s in 0..shards {
                let range = rows_of(s, shards, rows);
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, rows);
        }
    }

    #[test]
    fn the_tree_of_eight_is_balanced_and_of_seven_left_complete() {
        assert_eq!(Node::root(8).children(), Some((Node { first: 0, end: 4 }, Node { first: 4, end: 8 })));
        assert_eq!(Node::root(7).children(), Some((Node { first: 0, end: 4 }, Node { first: 4, end: 7 })));
        assert_eq!(nodes_of(2..5, 8), vec![Node { first: 2, end: 4 }, Node { first: 4, end: 5 }]);
        assert_eq!(
            parent_of(Node { first: 4, end: 5 }, 8),
            Some((Node { first: 4, end: 6 }, Node { first: 5, end: 6 }))
        );
        assert_eq!(parent_of(Node::root(8), 8), None);
    }

    #[test]
    fn the_sum_is_the_same_for_every_world_and_the_stack_agrees() {
        for shards in 1..=19 {
            let leaves: Vec<Vec<f32>> = (0..shards)
                .map(|s| {
                    let mut rng = Key::new(s as u64, Stream::Generate).rng(0, 0);
                    (0..5).map(|_| (rng.normal() * 10f64.powf(rng.uniform() * 6.0)) as f32).collect()
                })
                .collect();
            let stacked = |range: Range<usize>| {
                let mut stack = TreeStack::<8>::default();
                for leaf in &leaves[range] {
                    stack.push(5).copy_from_slice(leaf);
                    stack.settle(5);
                }
                stack.finish(5).to_vec()
            };
            let root = stacked(0..shards);
            for world in 1..=shards {
                let parts = (0..world)
                    .rev()
                    .flat_map(|rank| nodes_of(shards_of(rank, world, shards), shards))
                    .map(|node| (node, stacked(node.first..node.end)))
                    .collect();
                assert_eq!(complete(parts, shards).as_ref(), Some(&root), "{shards} shards, world {world}");
            }
        }
        assert_eq!(complete(vec![(Node { first: 0, end: 1 }, vec![1.0])], 2), None);
    }
}
