//! The sum of gradients over ranks that have a device each, without bringing it to the host.
//!
//! [`SumMode::Deterministic`] sums in the order of the tree over logical shards, as [`crate::collective`] does, and so to
//! the same bits for every number of ranks: each rank gets its part of all nodes of all ranks (all-to-all), sums it in the
//! order of the tree, and hands it to all (all_gather). [`SumMode::Fast`] leaves the order to the library
//! (`ncclAllReduce`): the ranks agree on the bits, which depend on their number.
//!
//! A bucket is summed on the communicator's stream as soon as the device has computed it, while it computes the next.

use super::{Communicator, GoOn, OP};
use crate::collective::Topology;
use crate::cuda::machine::{Memory, bytes_of};
use crate::cuda::{Argument, ELEMENTWISE, Kernel, Launch, Machine, SHARDS};
use crate::error::Result;
use crate::shard::Node;
use crate::tape::DeviceBucket;
use std::ops::Range;
use std::sync::Arc;

const THREADS: u32 = 256;
const BYTES: u64 = size_of::<f32>() as u64;

/// In which order gradients are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumMode {
    /// That of the tree over logical shards.
    Deterministic,
    /// The library's.
    Fast,
}

/// See the module.
pub struct DeviceSum {
    /// First, so that it is over before its memory is freed.
    communicator: Communicator,
    topology: Topology,
    mode: SumMode,
    machine: Arc<dyn Machine>,
    /// By node of the tree, from left to right, the rank that has it.
    owners: Vec<usize>,
    /// By node, how many sums are complete with it.
    joins: Memory,
    /// This rank's part of every node of a bucket.
    gathered: Memory,
    /// Memory that was too small, until what uses it is done.
    retired: Vec<Memory>,
}

/// The nodes of all ranks, from left to right, with their ranks.
fn nodes_of_all(topology: Topology) -> Vec<(usize, Node)> {
    let of = |rank: usize| Topology { rank, ..topology }.nodes().into_iter().map(move |node| (rank, node));
    (0..topology.world).flat_map(of).collect()
}

/// How many sums are complete when each node comes to those on its left: its sibling's, and so on upwards. What is open
/// after the last is joined from the right.
fn joins(nodes: impl Iterator<Item = Node>, shards: usize) -> Vec<u32> {
    let of = |node: Node| if node.end == shards { 0 } else { (node.end / node.span()).trailing_zeros() };
    nodes.map(of).collect()
}

/// The numbers of each rank's part of a bucket: whole 16 bytes.
fn equal_part(world: usize, len: usize) -> usize {
    len / world / 4 * 4
}

/// The part of a bucket that a rank sums; what is left over is the last one's.
fn part(rank: usize, world: usize, len: usize) -> Range<usize> {
    let equal = equal_part(world, len);
    let end = if rank + 1 == world { len } else { (rank + 1) * equal };
    rank * equal..end
}

impl DeviceSum {
    /// For the nodes of this rank among `shards` logical shards.
    ///
    /// # Errors
    /// [`crate::Error::Value`] where there are fewer shards than ranks; those of the device.
    pub fn new(communicator: Communicator, shards: usize, mode: SumMode) -> Result<DeviceSum> {
        let topology = Topology::new(communicator.rank(), communicator.world(), shards)?;
        let machine: Arc<dyn Machine> = communicator.side().gpu().clone();
        let nodes = nodes_of_all(topology);
        let mut of_nodes = Memory::new(&machine);
        of_nodes.set(bytes_of(&joins(nodes.iter().map(|(_, node)| *node), shards)))?;
        Ok(DeviceSum {
            communicator,
            topology,
            mode,
            owners: nodes.into_iter().map(|(rank, _)| rank).collect(),
            joins: of_nodes,
            gathered: Memory::new(&machine),
            retired: Vec::new(),
            machine,
        })
    }

    pub fn mode(&self) -> SumMode {
        self.mode
    }

    /// Begins the sum of a bucket: the root to where the first node's gradient stands. The ranks begin the same buckets
    /// in the same order.
    ///
    /// # Errors
    /// Those of [`Communicator::group`].
    pub fn begin(&mut self, bucket: &DeviceBucket<'_>, go_on: GoOn<'_>) -> Result<()> {
        if bucket.range.is_empty() {
            return Ok(());
        }
        match self.mode {
            SumMode::Deterministic => self.by_tree(bucket, go_on)?,
            SumMode::Fast => self.by_library(bucket, go_on)?,
        }
        self.communicator.side().mark(OP)
    }

    /// Whether all that was begun is done: the sums stand, on this rank. Waits for nothing.
    ///
    /// # Errors
    /// Those of [`Communicator::is_done`].
    pub fn is_done(&mut self) -> Result<bool> {
        let done = self.communicator.is_done()?;
        if done {
            self.retired.clear();
        }
        Ok(done)
    }

    /// Ends it together with the other ranks.
    ///
    /// # Errors
    /// Those of [`Communicator::close`].
    pub fn close(self, go_on: GoOn<'_>) -> Result<()> {
        self.communicator.close(go_on)
    }

    fn by_tree(&mut self, bucket: &DeviceBucket<'_>, go_on: GoOn<'_>) -> Result<()> {
        let Topology { rank, world, .. } = self.topology;
        let len = bucket.range.len();
        let own = part(rank, world, len);
        let bytes = self.owners.len() * own.len() * BYTES as usize;
        if bytes > self.gathered.capacity() {
            let larger = Memory::new(&self.machine);
            self.retired.push(std::mem::replace(&mut self.gathered, larger));
            self.gathered.renew(bytes)?;
        }
        self.communicator.side().follow(OP)?;
        let at = |node: u64, element: usize| node + (bucket.range.start + element) as u64 * BYTES;
        let (owners, gathered) = (&self.owners, self.gathered.address());
        let exchange = |calls: &super::Calls<'_>| {
            // From this rank on, so that not all turn to the same first.
            for peer in (0..world).map(|step| (rank + step) % world) {
                let theirs = part(peer, world, len);
                for &node in bucket.nodes.iter().filter(|_| !theirs.is_empty()) {
                    calls.send(at(node, theirs.start), theirs.len(), peer)?;
                }
                let slots = owners.iter().enumerate().filter(|(_, owner)| **owner == peer && !own.is_empty());
                for (slot, _) in slots {
                    calls.recv(gathered + (slot * own.len()) as u64 * BYTES, own.len(), peer)?;
                }
            }
            Ok(())
        };
        self.communicator.group(exchange, go_on)?;
        let root = bucket.nodes[0];
        if let Some(launch) = Launch::over(OP, own.len() as u64, THREADS)? {
            let arguments = [
                Argument::Address(gathered),
                Argument::Address(at(root, own.start)),
                Argument::Word64(own.len() as u64),
                Argument::Word(owners.len() as u32),
                Argument::Address(self.joins.address()),
            ];
            let kernel = Kernel { source: SHARDS, name: "join_nodes" };
            self.communicator.side().start(OP, kernel, launch, &arguments)?;
        }
        let equal = equal_part(world, len);
        let left_over = equal * world..len;
        let hand_on = |calls: &super::Calls<'_>| {
            if equal > 0 {
                calls.all_gather(at(root, 0), equal)?;
            }
            if left_over.is_empty() {
                return Ok(());
            }
            calls.broadcast(at(root, left_over.start), left_over.len(), world - 1)
        };
        self.communicator.group(hand_on, go_on)
    }

    fn by_library(&mut self, bucket: &DeviceBucket<'_>, go_on: GoOn<'_>) -> Result<()> {
        let side = self.communicator.side();
        side.follow(OP)?;
        let (offset, count) = (bucket.range.start as u64 * BYTES, bucket.range.len());
        let root = bucket.nodes[0] + offset;
        let kernel = Kernel { source: ELEMENTWISE, name: "scale" };
        for &node in &bucket.nodes[1..] {
            let Some(launch) = Launch::over(OP, count as u64, THREADS)? else { continue };
            let places = [Argument::Address(node + offset), Argument::Address(root)];
            let numbers = [Argument::Word64(count as u64), Argument::Float(1.0), Argument::Word(1)];
            side.start(OP, kernel, launch, &[places.as_slice(), &numbers].concat())?;
        }
        self.communicator.group(|calls| calls.all_reduce(root, count), go_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::philox::{Key, Stream};
    use crate::shard::complete;

    /// What `join_nodes` does for one number.
    fn joined(values: &[f32], joins: &[u32]) -> f32 {
        let mut open: Vec<f32> = Vec::new();
        let merge = |open: &mut Vec<f32>| {
            let right = open.pop().expect("a sum");
            *open.last_mut().expect("its sibling") += right;
        };
        for (value, joins) in values.iter().zip(joins) {
            open.push(*value);
            (0..*joins).for_each(|_| merge(&mut open));
        }
        while open.len() > 1 {
            merge(&mut open);
        }
        open[0]
    }

    #[test]
    fn nodes_of_every_world_are_joined_in_the_order_of_the_tree() {
        for shards in 1..=19usize {
            for world in 1..=shards {
                let nodes = nodes_of_all(Topology::new(0, world, shards).expect("valid"));
                let mut rng = Key::new(shards as u64, Stream::Generate).rng(world as u64, 0);
                let values: Vec<f32> =
                    nodes.iter().map(|_| (rng.normal() * 10f64.powf(rng.uniform() * 6.0)) as f32).collect();
                let parts = nodes.iter().zip(&values).map(|((_, node), value)| (*node, vec![*value])).collect();
                let expected = complete(parts, shards).expect("a tree")[0];
                let got = joined(&values, &joins(nodes.iter().map(|(_, node)| *node), shards));
                assert_eq!(got.to_bits(), expected.to_bits(), "{shards} shards, world {world}");
            }
        }
    }

    #[test]
    fn parts_cover_a_bucket_and_all_but_the_last_are_equal() {
        for world in 1..=9 {
            for len in [0, 1, 3, 17, 64, 1000, 1 << 18] {
                let parts: Vec<_> = (0..world).map(|rank| part(rank, world, len)).collect();
                assert_eq!((parts[0].start, parts[world - 1].end), (0, len));
                assert!(parts.windows(2).all(|two| two[0].end == two[1].start && two[0].len() == parts[0].len()));
                assert!(parts.iter().all(|part| part.start % 4 == 0));
            }
        }
    }
}
