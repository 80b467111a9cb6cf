//! Who computes what: for a piece, the values that a rank meets, where they come from and where they go.
//! A script depends on the topology, the route and the piece's class (which rank owns it) only, so a group
//! makes all of them once.

use crate::error::{Error, Result};
use crate::shard::{Node, nodes_of, shards_of};
use std::ops::Range;

/// Numbers in a cache line: parts and pieces begin at multiples.
const LINE: usize = 16;

/// Where the nodes of a piece's tree are computed; the module above explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Exchange,
    Direct,
    Halving,
}

/// A rank, the world it is in, and the leaves of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    pub rank: usize,
    pub world: usize,
    pub shards: usize,
}

impl Topology {
    /// `Value` where the world is not in 1..=shards or the rank not in the world.
    pub fn new(rank: usize, world: usize, shards: usize) -> Result<Topology> {
        if world == 0 || world > shards || shards > crate::shard::MAX_SHARDS {
            return Err(Error::value("group", format!("a world of 1 to {shards} (logical shards)"), world));
        }
        if rank >= world {
            return Err(Error::value("group", format!("a rank below {world}"), rank));
        }
        Ok(Topology { rank, world, shards })
    }

    /// The shards of a rank.
    pub fn held(&self, rank: usize) -> Range<usize> {
        shards_of(rank, self.world, self.shards)
    }

    /// The nodes that this rank contributes, from left to right.
    pub fn nodes(&self) -> Vec<Node> {
        nodes_of(self.held(self.rank), self.shards)
    }

    /// The rank that holds a shard.
    fn holder(&self, shard: usize) -> usize {
        let near = shard * self.world / self.shards;
        (near..self.world).find(|&r| self.held(r).contains(&shard)).expect("invariant: every shard is held")
    }

    /// The ranks that hold a part of the node.
    fn holders(&self, node: Node) -> Range<usize> {
        self.holder(node.first)..self.holder(node.end - 1) + 1
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let Topology { rank, world, .. } = *self;
        (1..world).map(move |step| (rank + step) % world)
    }
}

/// Sizes, found by measurement (`actors/trainer/benches/collective.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// The longest piece, in bytes.
    pub piece_bytes: usize,
    /// The longest sum that takes one trip, in bytes a rank sends to another.
    pub exchange_bytes: usize,
    /// Values of a peer that may wait for their siblings, beside those of one piece.
    pub window: usize,
    /// The way of all sums; none: by their size.
    pub route: Option<Route>,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning { piece_bytes: 512 << 10, exchange_bytes: 16 << 10, window: 8, route: None }
    }
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The caller's node of this index.
    Own(usize),
    From(usize),
    /// The sum of two values, left and right.
    Join(usize, usize),
}

/// A node of the tree that this rank has at some time.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub node: Node,
    pub source: Source,
    /// Who needs it.
    pub to: Vec<usize>,
    /// The value of this rank that it is an addend of.
    pub parent: Option<usize>,
}

/// A rank's part in a piece of one class.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    /// Children stand before their parents.
    pub values: Vec<Value>,
    /// The value that is the finished piece, where this rank makes it.
    pub root: Option<usize>,
    /// This rank has the finished piece from the start.
    pub ready: bool,
    /// Who sends the finished piece, and whom it is passed on to.
    pub from: Option<usize>,
    pub to: Vec<usize>,
    /// Values come straight from who holds them, so a peer that is ahead can be made to wait.
    pub bounded: bool,
}

/// Every script of a rank.
#[derive(Clone, Debug)]
pub struct Plans {
    pub topology: Topology,
    pub tuning: Tuning,
    pub(super) nodes: Vec<Node>,
    pub(super) exchange: Vec<Script>,
    pub(super) direct: Vec<Script>,
    pub(super) halving: Vec<Script>,
    /// The sums of `direct`, left where they are made.
    pub(super) scatter: Vec<Script>,
    pub(super) gather: Vec<Script>,
}

impl Plans {
    pub fn new(topology: Topology, tuning: Tuning) -> Plans {
        let classes = 0..topology.world;
        let sums = |route| classes.clone().map(|class| Compiler { topology, route, class }.script()).collect();
        let direct: Vec<Script> = sums(Route::Direct);
        let without_result = |script: &Script| Script { from: None, to: Vec::new(), ..script.clone() };
        Plans {
            topology,
            tuning,
            nodes: topology.nodes(),
            exchange: vec![Compiler { topology, route: Route::Exchange, class: topology.rank }.script()],
            scatter: direct.iter().map(without_result).collect(),
            direct,
            halving: sums(Route::Halving),
            gather: classes.map(|owner| gathered(topology, owner)).collect(),
        }
    }

    /// The way of a sum of so many bytes: the same on every rank.
    pub(super) fn route(&self, bytes: usize) -> Route {
        self.tuning.route.unwrap_or(match bytes {
            _ if bytes <= self.tuning.exchange_bytes => Route::Exchange,
            _ => Route::Direct,
        })
    }

    /// Scripts of a broadcast: the root hands each piece to its owner, who passes it to the others.
    pub(super) fn broadcast(&self, root: usize) -> Vec<Script> {
        let Topology { rank, world, .. } = self.topology;
        let others = |except: usize| self.topology.others().filter(|&r| r != except).collect();
        (0..world)
            .map(|owner| match rank {
                _ if rank == root && owner == root => Script { ready: true, to: others(rank), ..Script::default() },
                _ if rank == root => Script { ready: true, to: vec![owner], ..Script::default() },
                _ if rank == owner => Script { from: Some(root), to: others(root), ..Script::default() },
                _ => Script { from: Some(owner), ..Script::default() },
            })
            .collect()
    }
}

/// The script of a piece that `owner` has from the start and everybody wants.
fn gathered(topology: Topology, owner: usize) -> Script {
    if owner == topology.rank {
        return Script { ready: true, to: topology.others().collect(), ..Script::default() };
    }
    Script { from: Some(owner), ..Script::default() }
}

/// The part of a buffer of `len` numbers that is rank `rank`'s after a reduce_scatter.
pub fn part_of(rank: usize, world: usize, len: usize) -> Range<usize> {
    let lines = len.div_ceil(LINE);
    let at = |r: usize| ((r as u128 * lines as u128 / world as u128) as usize * LINE).min(len);
    at(rank)..at(rank + 1)
}

/// Bytes of a piece in a part of so many: equal pieces of whole lines, none longer than `most`.
pub(super) fn piece_bytes(part: usize, most: usize) -> usize {
    let pieces = part.div_ceil(most.max(4 * LINE)).max(1);
    part.div_ceil(pieces).next_multiple_of(4 * LINE)
}

/// Makes one script.
struct Compiler {
    topology: Topology,
    route: Route,
    class: usize,
}

impl Compiler {
    fn script(&self) -> Script {
        let (me, root) = (self.topology.rank, Node::root(self.topology.shards));
        let mut script = Script::default();
        let made_by = self.place(root);
        script.root = self.visit(root, made_by, &mut script.values);
        if let Some(made) = script.root {
            script.values[made].to.clear();
        }
        if self.route == Route::Exchange {
            let others: Vec<usize> = self.topology.others().collect();
            let own = |value: &&mut Value| matches!(value.source, Source::Own(_));
            script.values.iter_mut().filter(own).for_each(|value| value.to.clone_from(&others));
        } else {
            let above = self.above(root, made_by);
            script.from = (me != made_by).then(|| above[me]);
            script.to = self.topology.others().filter(|&r| r != made_by && above[r] == me).collect();
        }
        let whole = |value: &Value| match value.source {
            Source::From(peer) => self.whole(value.node) == Some(peer),
            _ => true,
        };
        script.bounded = script.values.iter().all(whole);
        script
    }

    /// The rank that holds all of the node.
    fn whole(&self, node: Node) -> Option<usize> {
        let holders = self.topology.holders(node);
        (holders.len() == 1).then_some(holders.start)
    }

    /// The rank that computes a node: its holder, if it is one.
    fn place(&self, node: Node) -> usize {
        let holders = self.topology.holders(node);
        if holders.len() == 1 {
            return holders.start;
        }
        match self.route {
            Route::Exchange => self.topology.rank,
            Route::Direct => self.class,
            Route::Halving => {
                let (left, right) = node.children().expect("invariant: one leaf has one holder");
                let ranks_of_left = self.topology.holder(left.end - 1) + 1 - holders.start;
                let goes_left = self.class % holders.len() < ranks_of_left;
                self.place(if goes_left { left } else { right })
            }
        }
    }

    /// Adds what this rank has to do with a node and those below. The index of its value, where this rank
    /// is the one that needs it.
    fn visit(&self, node: Node, needed_by: usize, values: &mut Vec<Value>) -> Option<usize> {
        let (me, place) = (self.topology.rank, self.place(node));
        let source = if self.whole(node).is_some() {
            let own = || self.topology.nodes().iter().position(|held| *held == node);
            (place == me).then(|| Source::Own(own().expect("invariant: siblings of one holder are one node")))
        } else {
            let (left, right) = node.children().expect("invariant: one leaf has one holder");
            let left = self.visit(left, place, values);
            let right = self.visit(right, place, values);
            left.zip(right).map(|(left, right)| Source::Join(left, right))
        };
        let source = source.or((needed_by == me).then_some(Source::From(place)))?;
        let to = if needed_by == me { Vec::new() } else { vec![needed_by] };
        let index = values.len();
        if let Source::Join(left, right) = source {
            values[left].parent = Some(index);
            values[right].parent = Some(index);
        }
        values.push(Value { node, source, to, parent: None });
        (needed_by == me).then_some(index)
    }

    /// Per rank who hands it the root: the rank that took the highest node it had. That node lies strictly
    /// higher, so the ways from all ranks end at the root's maker; and the root contains all that a rank
    /// sent, so it comes after that was received.
    fn above(&self, root: Node, made_by: usize) -> Vec<usize> {
        let mut above = vec![made_by; self.topology.world];
        let mut seen = vec![false; self.topology.world];
        let mut level = vec![(root, made_by)];
        while !level.is_empty() {
            let mut next = Vec::new();
            for (node, needed_by) in level {
                let place = self.place(node);
                if !std::mem::replace(&mut seen[place], true) {
                    above[place] = needed_by;
                }
                if self.whole(node).is_none() {
                    let (left, right) = node.children().expect("invariant: one leaf has one holder");
                    next.extend([(left, place), (right, place)]);
                }
            }
            level = next;
        }
        above
    }
}
