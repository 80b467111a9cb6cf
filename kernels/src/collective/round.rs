//! One round of a group: operations submitted in order, driven by what a transport sends and receives.

use super::arena::{Arena, bytes_of, bytes_of_mut, numbers};
use super::script::{Plans, Route, Script, Source, part_of, piece_bytes};
use crate::error::{Error, Result};
use crate::shard::Node;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

/// A buffer that is moved, whatever it holds.
#[derive(Debug)]
pub enum Values<'a> {
    F32(&'a mut [f32]),
    Bytes(&'a mut [u8]),
}

impl Values<'_> {
    fn unit(&self) -> usize {
        if matches!(self, Values::F32(_)) { 4 } else { 1 }
    }

    fn len(&self) -> usize {
        match self {
            Values::F32(values) => values.len(),
            Values::Bytes(values) => values.len(),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Values::F32(values) => bytes_of(values),
            Values::Bytes(values) => values,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Values::F32(values) => bytes_of_mut(values),
            Values::Bytes(values) => values,
        }
    }

    /// For sums, whose buffers were checked to be numbers.
    fn f32(&mut self, bytes: &Range<usize>) -> &mut [f32] {
        match self {
            Values::F32(values) => &mut values[numbers(bytes)],
            Values::Bytes(_) => unreachable!("sums are of numbers"),
        }
    }
}

/// An operation. Every rank of the group submits the same ones in the same order.
#[derive(Debug)]
pub enum Op<'a> {
    /// The root of the tree, to the first node's buffer of every rank; the others' contents are lost. `nodes`
    /// are those of [`super::Topology::nodes`], all of one length.
    AllReduce { nodes: Vec<(Node, &'a mut [f32])> },
    /// The same, but each rank gets its part ([`part_of`]) only; the rest of the buffer is unspecified.
    ReduceScatter { nodes: Vec<(Node, &'a mut [f32])> },
    /// Rank r has `bounds[r]..bounds[r + 1]` of the buffer, and gets the rest.
    AllGather { values: Values<'a>, bounds: Vec<usize> },
    /// The buffer of one rank to all.
    Broadcast { values: Values<'a>, root: usize },
    /// Ends when every rank has begun it.
    Barrier,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A node's value.
    Value,
    /// A finished piece.
    Result,
}

/// What a frame says about its payload, beside what the transport adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    /// The operation, counted since the group was made.
    pub sequence: u64,
    /// The caller's number for what is summed.
    pub bucket: u32,
    pub node: Node,
    /// Where in the buffer, in bytes.
    pub offset: u64,
    /// In bytes.
    pub len: u32,
}

/// What to do with a frame that has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Receive its payload into [`Round::buffer`].
    Take(Ticket),
    /// This rank is not so far yet: leave it where it is and ask again after something else has arrived
    /// or was submitted.
    Later,
}

/// The place of a frame that is being received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    op: usize,
    piece: usize,
    /// The value's index; none for a result.
    value: Option<usize>,
    block: usize,
}

/// A frame to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    op: usize,
    piece: usize,
    kind: Kind,
    node: Node,
    slot: Slot,
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Missing,
    /// Its payload is being received.
    Coming,
    /// The piece of the caller's buffer of this index.
    Own(usize),
    Block(usize),
    /// It was added to another, or sent away.
    Gone,
}

#[derive(Debug)]
struct Piece {
    bytes: Range<usize>,
    class: usize,
    /// Its values' slots begin here.
    slots: usize,
    /// Own values still to be sent.
    unsent: usize,
    result: Slot,
}

/// An operation on its way.
struct Running<'g, 'a> {
    bucket: u32,
    scripts: Cow<'g, [Script]>,
    /// The first is where the result goes.
    buffers: Vec<Values<'a>>,
    pieces: Vec<Piece>,
    slots: Vec<Slot>,
}

/// Frames for one peer.
#[derive(Default)]
struct Queue {
    /// Sent first: others wait for it.
    urgent: VecDeque<Outgoing>,
    values: VecDeque<Outgoing>,
}

/// The operations of a step.
pub struct Round<'g, 'a> {
    plans: &'g Plans,
    arena: &'g mut Arena,
    /// The sequence number of the first operation.
    first: u64,
    ops: Vec<Running<'g, 'a>>,
    queues: Vec<Queue>,
    /// Results not there yet, and frames not sent yet.
    outstanding: usize,
}

impl<'g, 'a> Round<'g, 'a> {
    /// A round whose first operation has number `first` in this group.
    pub fn new(plans: &'g Plans, arena: &'g mut Arena, first: u64) -> Self {
        let world = plans.topology.world;
        arena.reset(world);
        let queues = (0..world).map(|_| Queue::default()).collect();
        Round { plans, arena, first, ops: Vec::new(), queues, outstanding: 0 }
    }

    /// The number of the next operation to be submitted.
    pub fn next_sequence(&self) -> u64 {
        self.first + self.ops.len() as u64
    }

    /// Begins an operation. `Shape` or `Value` where its buffers do not fit the group.
    pub fn submit(&mut self, bucket: u32, op: Op<'a>) -> Result<()> {
        let running = self.begin(bucket, op)?;
        let op = self.ops.len();
        self.ops.push(running);
        for piece in 0..self.ops[op].pieces.len() {
            self.start(op, piece);
        }
        Ok(())
    }

    fn begin(&self, bucket: u32, op: Op<'a>) -> Result<Running<'g, 'a>> {
        let (plans, world) = (self.plans, self.plans.topology.world);
        let parts = |len: usize| (0..world).map(|r| part_of(r, world, len).start).chain([len]).collect::<Vec<_>>();
        let (scripts, buffers, bounds): (Cow<'g, [Script]>, Vec<Values<'a>>, Vec<usize>) = match op {
            Op::AllReduce { nodes } => {
                let len = self.check_nodes(&nodes)?;
                let buffers = nodes.into_iter().map(|(_, values)| Values::F32(values)).collect();
                match plans.route(4 * len) {
                    Route::Exchange => (Cow::Borrowed(&plans.exchange), buffers, vec![0, len]),
                    Route::Direct => (Cow::Borrowed(&plans.direct), buffers, parts(len)),
                    Route::Halving => (Cow::Borrowed(&plans.halving), buffers, parts(len)),
                }
            }
            Op::ReduceScatter { nodes } => {
                let len = self.check_nodes(&nodes)?;
                let buffers = nodes.into_iter().map(|(_, values)| Values::F32(values)).collect();
                (Cow::Borrowed(&plans.scatter), buffers, parts(len))
            }
            Op::AllGather { values, bounds } => {
                let rising = bounds.is_sorted() && bounds.first() == Some(&0) && bounds.last() == Some(&values.len());
                if bounds.len() != world + 1 || !rising {
                    let expected = format!("{} rising bounds from 0 to {}", world + 1, values.len());
                    return Err(Error::shape("all_gather", expected, format!("{bounds:?}")));
                }
                (Cow::Borrowed(&plans.gather), vec![values], bounds)
            }
            Op::Broadcast { values, root } => {
                if root >= world {
                    return Err(Error::value("broadcast", format!("a root below {world}"), root));
                }
                let bounds = parts(values.len());
                (Cow::Owned(plans.broadcast(root)), vec![values], bounds)
            }
            Op::Barrier => {
                let nothing = || Values::F32(&mut []);
                (Cow::Borrowed(&plans.exchange), plans.nodes.iter().map(|_| nothing()).collect(), Vec::new())
            }
        };
        let mut running = Running { bucket, scripts, buffers, pieces: Vec::new(), slots: Vec::new() };
        running.cut(&bounds, plans.tuning.piece_bytes);
        Ok(running)
    }

    fn check_nodes(&self, nodes: &[(Node, &'a mut [f32])]) -> Result<usize> {
        let given: Vec<Node> = nodes.iter().map(|(node, _)| *node).collect();
        if given != self.plans.nodes {
            let expected = format!("the nodes of this rank, {:?}", self.plans.nodes);
            return Err(Error::shape("all_reduce", expected, format!("{given:?}")));
        }
        let len = nodes[0].1.len();
        match nodes.iter().find(|(_, values)| values.len() != len) {
            Some((node, values)) => Err(Error::shape(
                "all_reduce",
                format!("{len} numbers a node"),
                format!("{} at {node:?}", values.len()),
            )),
            None => Ok(len),
        }
    }

    /// Puts own values in their slots and queues what can go.
    fn start(&mut self, op: usize, piece: usize) {
        let running = &mut self.ops[op];
        let at = &mut running.pieces[piece];
        let script = &running.scripts[at.class];
        let shares = |value: &super::script::Value| value.parent.is_some() && !value.to.is_empty();
        self.outstanding += usize::from(script.root.is_some() || script.from.is_some());
        for (index, value) in script.values.iter().enumerate() {
            let Source::Own(own) = value.source else { continue };
            running.slots[at.slots + index] = Slot::Own(own);
            if value.to.is_empty() {
                continue;
            }
            let mut slot = Slot::Own(own);
            if shares(value) {
                // The buffer takes the sum while the value is still on its way out.
                let block = self.arena.take(at.bytes.len() / 4, None);
                self.arena.values_mut(block).copy_from_slice(running.buffers[own].f32(&at.bytes));
                self.arena.lend(block, value.to.len());
                slot = Slot::Block(block);
            }
            for &peer in &value.to {
                at.unsent += usize::from(!shares(value));
                self.outstanding += 1;
                let outgoing = Outgoing { op, piece, kind: Kind::Value, node: value.node, slot };
                self.queues[peer].values.push_back(outgoing);
            }
        }
        if script.ready {
            return self.pass_on(op, piece);
        }
        if script.values.len() == 1 && script.root == Some(0) {
            self.finish(op, piece, 0);
        }
    }

    /// The next frame for `peer`, taken from its queue.
    pub fn next(&mut self, peer: usize) -> Option<Outgoing> {
        let queue = &mut self.queues[peer];
        queue.urgent.pop_front().or_else(|| queue.values.pop_front())
    }

    /// Whether something waits to be sent to `peer`.
    pub fn has_next(&self, peer: usize) -> bool {
        !self.queues[peer].urgent.is_empty() || !self.queues[peer].values.is_empty()
    }

    /// What to say of it.
    pub fn frame(&self, outgoing: &Outgoing) -> Frame {
        let running = &self.ops[outgoing.op];
        let bytes = &running.pieces[outgoing.piece].bytes;
        Frame {
            kind: outgoing.kind,
            sequence: self.first + outgoing.op as u64,
            bucket: running.bucket,
            node: outgoing.node,
            offset: bytes.start as u64,
            len: bytes.len() as u32,
        }
    }

    /// Its bytes.
    pub fn payload(&self, outgoing: &Outgoing) -> &[u8] {
        let running = &self.ops[outgoing.op];
        match outgoing.slot {
            Slot::Block(block) => bytes_of(self.arena.values(block)),
            Slot::Own(own) => &running.buffers[own].bytes()[running.pieces[outgoing.piece].bytes.clone()],
            Slot::Missing | Slot::Coming | Slot::Gone => unreachable!("only what is there is queued"),
        }
    }

    /// It has left: its memory is free to change.
    pub fn sent(&mut self, outgoing: Outgoing) {
        self.outstanding -= 1;
        match outgoing.slot {
            Slot::Block(block) => self.arena.returned(block),
            _ if outgoing.kind == Kind::Value => self.ops[outgoing.op].pieces[outgoing.piece].unsent -= 1,
            _ => {}
        }
    }

    /// Where a frame from `peer` goes. An error where this rank does not expect such a frame: the peers do
    /// not run the same operations, or the peer is not what it says.
    pub fn accept(&mut self, peer: usize, frame: &Frame) -> Result<Accept> {
        let unexpected = |expected: &str| Error::value("collective", expected, format!("{frame:?}"));
        let op = frame.sequence.checked_sub(self.first).ok_or_else(|| unexpected("an operation that is not over"))?;
        let op = op as usize;
        let Some(running) = self.ops.get_mut(op) else { return Ok(Accept::Later) };
        if running.bucket != frame.bucket {
            return Err(unexpected(&format!("bucket {}", running.bucket)));
        }
        let after = running.pieces.partition_point(|p| p.bytes.start as u64 <= frame.offset);
        let found = after.checked_sub(1).map(|piece| (piece, &mut running.pieces[piece]));
        let fits = |p: &Piece| p.bytes.start as u64 == frame.offset && p.bytes.len() == frame.len as usize;
        let Some((piece, at)) = found.filter(|(_, p)| fits(p)) else {
            return Err(unexpected("a piece of this operation: do all ranks submit the same length?"));
        };
        let script = &running.scripts[at.class];
        if frame.kind == Kind::Result {
            if script.from != Some(peer) || at.result != Slot::Missing || at.unsent > 0 {
                return Err(unexpected("no result of this piece, or not yet"));
            }
            at.result = Slot::Coming;
            return Ok(Accept::Take(Ticket { op, piece, value: None, block: usize::MAX }));
        }
        let matches = |v: &super::script::Value| v.node == frame.node && v.source == Source::From(peer);
        let value = script.values.iter().position(matches).ok_or_else(|| unexpected("no such node from this rank"))?;
        let slot = &mut running.slots[at.slots + value];
        if *slot != Slot::Missing {
            return Err(unexpected("each value once"));
        }
        let from_peer = |v: &&super::script::Value| v.source == Source::From(peer);
        let most = self.plans.tuning.window + script.values.iter().filter(from_peer).count();
        if script.bounded && self.arena.waiting(peer) >= most {
            return Ok(Accept::Later);
        }
        *slot = Slot::Coming;
        let block = self.arena.take(frame.len as usize / 4, Some(peer));
        Ok(Accept::Take(Ticket { op, piece, value: Some(value), block }))
    }

    /// Where the payload is to be written.
    pub fn buffer(&mut self, ticket: &Ticket) -> &mut [u8] {
        if ticket.value.is_some() {
            return bytes_of_mut(self.arena.values_mut(ticket.block));
        }
        let running = &mut self.ops[ticket.op];
        &mut running.buffers[0].bytes_mut()[running.pieces[ticket.piece].bytes.clone()]
    }

    /// The payload is whole: does the arithmetic that it allows and queues what follows from it.
    pub fn arrived(&mut self, ticket: Ticket) {
        let Ticket { op, piece, value, block } = ticket;
        let Some(value) = value else {
            self.outstanding -= 1;
            return self.pass_on(op, piece);
        };
        let at = self.ops[op].pieces[piece].slots;
        self.ops[op].slots[at + value] = Slot::Block(block);
        self.climb(op, piece, value);
    }

    /// Joins a value that is there with its sibling, the sum with its own, as far as it goes.
    fn climb(&mut self, op: usize, piece: usize, mut index: usize) {
        loop {
            let running = &mut self.ops[op];
            let at = &running.pieces[piece];
            let script = &running.scripts[at.class];
            let Some(parent) = script.values[index].parent else { break };
            let Source::Join(left, right) = script.values[parent].source else { break };
            let slots = &mut running.slots[at.slots..];
            let sum = match (slots[left], slots[right]) {
                (Slot::Own(l), Slot::Own(r)) => {
                    let (sum, addend) = (l.min(r), l.max(r));
                    let (before, behind) = running.buffers.split_at_mut(addend);
                    crate::cpu::reduce::add_assign(before[sum].f32(&at.bytes), behind[0].f32(&at.bytes));
                    Slot::Own(sum)
                }
                (Slot::Own(own), Slot::Block(block)) | (Slot::Block(block), Slot::Own(own)) => {
                    let sum = running.buffers[own].f32(&at.bytes);
                    crate::cpu::reduce::add_assign(sum, self.arena.values(block));
                    self.arena.free(block);
                    Slot::Own(own)
                }
                (Slot::Block(l), Slot::Block(r)) => {
                    self.arena.join(l, r);
                    Slot::Block(l)
                }
                _ => return,
            };
            (slots[left], slots[right], slots[parent]) = (Slot::Gone, Slot::Gone, sum);
            index = parent;
        }
        self.finish(op, piece, index);
    }

    /// A value that is added to nothing here: the finished piece, or one that others need.
    fn finish(&mut self, op: usize, piece: usize, index: usize) {
        let running = &mut self.ops[op];
        let at = &mut running.pieces[piece];
        let script = &running.scripts[at.class];
        let slot = std::mem::replace(&mut running.slots[at.slots + index], Slot::Gone);
        if script.root != Some(index) {
            let value = &script.values[index];
            if let Slot::Block(block) = slot {
                self.arena.lend(block, value.to.len());
            }
            for &peer in &value.to {
                self.outstanding += 1;
                at.unsent += usize::from(matches!(slot, Slot::Own(_)));
                let outgoing = Outgoing { op, piece, kind: Kind::Value, node: value.node, slot };
                self.queues[peer].urgent.push_back(outgoing);
            }
            return;
        }
        match slot {
            Slot::Block(block) => {
                running.buffers[0].f32(&at.bytes).copy_from_slice(self.arena.values(block));
                self.arena.free(block);
            }
            Slot::Own(own) if own > 0 => {
                let (first, rest) = running.buffers.split_at_mut(own);
                first[0].f32(&at.bytes).copy_from_slice(rest[0].f32(&at.bytes));
            }
            _ => {}
        }
        self.outstanding -= 1;
        self.pass_on(op, piece);
    }

    /// The finished piece stands in the first buffer: hands it to whom this rank serves.
    fn pass_on(&mut self, op: usize, piece: usize) {
        let running = &mut self.ops[op];
        let at = &mut running.pieces[piece];
        at.result = Slot::Own(0);
        let node = Node::root(self.plans.topology.shards);
        for &peer in &running.scripts[at.class].to {
            self.outstanding += 1;
            let outgoing = Outgoing { op, piece, kind: Kind::Result, node, slot: Slot::Own(0) };
            self.queues[peer].urgent.push_back(outgoing);
        }
    }

    /// Whether every submitted operation is over on this rank, and all it has to send is sent.
    pub fn done(&self) -> bool {
        self.outstanding == 0
    }

    /// Who holds this rank up: the ranks whose own values are missing, which depend on nobody else, and those
    /// whose sums are.
    pub fn missing(&self) -> [Vec<usize>; 2] {
        let world = self.plans.topology.world;
        let (mut own, mut made) = (vec![false; world], vec![false; world]);
        for running in &self.ops {
            for at in &running.pieces {
                let script = &running.scripts[at.class];
                let missing = |slot: Slot| matches!(slot, Slot::Missing | Slot::Coming);
                for (value, slot) in script.values.iter().zip(&running.slots[at.slots..]) {
                    if let Source::From(peer) = value.source
                        && missing(*slot)
                    {
                        let held = self.plans.topology.held(peer);
                        let whole = held.start <= value.node.first && value.node.end <= held.end;
                        (if whole { &mut own } else { &mut made })[peer] = true;
                    }
                }
                if let Some(peer) = script.from.filter(|_| missing(at.result)) {
                    // A piece that its sender has had from the start waits for nobody else.
                    let early = script.values.is_empty() && script.to.is_empty();
                    (if early { &mut own } else { &mut made })[peer] = true;
                }
            }
        }
        let named = |set: Vec<bool>| (0..world).filter(|&r| set[r]).collect::<Vec<_>>();
        [named(own), named(made)]
    }
}

impl Running<'_, '_> {
    /// Cuts the parts between `bounds` (in elements) into pieces; no bounds: one empty piece.
    fn cut(&mut self, bounds: &[usize], most: usize) {
        let unit = self.buffers[0].unit();
        let add = |running: &mut Self, class: usize, bytes: Range<usize>| {
            let values = running.scripts[class].values.len();
            let slots = running.slots.len();
            running.slots.resize(slots + values, Slot::Missing);
            running.pieces.push(Piece { bytes, class, slots, unsent: 0, result: Slot::Missing });
        };
        if bounds.is_empty() {
            add(self, 0, 0..0);
        }
        for (class, part) in bounds.windows(2).enumerate() {
            let (start, end) = (part[0] * unit, part[1] * unit);
            let step = piece_bytes(end - start, most);
            for from in (start..end).step_by(step.max(1)) {
                add(self, class, from..(from + step).min(end));
            }
        }
    }
}
