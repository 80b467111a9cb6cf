//! Collectives as a protocol without sockets: what to send to whom, what to wait for, and the arithmetic.
//!
//! A transport owns the connections of a group and drives a [`Round`]: it asks what to send to a peer
//! ([`Round::next`]), offers what has arrived ([`Round::accept`], [`Round::arrived`]) and is done when the
//! round is ([`Round::done`]). Nothing here blocks, allocates per frame in steady state, or knows a clock.
//!
//! # The order of a sum
//! A sum is that of the tree over logical shards ([`crate::shard`]), never that of ranks or of arrival: a
//! piece's values wait until their sibling is there. So the result has the same bits for every world size,
//! whatever the [`Route`]; only *where* a node is computed differs (NaN apart, whose payload bits the
//! processor chooses).
//!
//! # How pieces travel
//! A buffer is cut into one part a rank ([`part_of`]), a part into pieces. Each piece goes its own way, so
//! sums of early pieces run while later ones are on the wire.
//! - [`Route::Exchange`]: everybody sends everything to everybody: one trip, for short messages.
//! - [`Route::Direct`]: the owner of a piece collects its values, completes the tree and hands the root to
//!   all: a reduce_scatter followed by an all_gather, piece by piece; two trips whatever the world, and as
//!   few bytes as a ring sends.
//! - [`Route::Halving`]: values meet along the tree, the root goes back the same way (recursive halving and
//!   doubling where the world is a power of two): 2 log2(world) trips, few messages a rank.
//!
//! A rank whose shards make up several nodes of the tree (3 ranks, 8 shards) sends each of them.
//!
//! # Buckets
//! A step is one [`Round`]: the caller submits buckets in an order that is the same on every rank, as the
//! backward pass finishes them, and then waits for all. A bucket lends slices of the gradient buffers, so
//! nothing is copied to be sent. Slices are in host memory; a transport that reduces on devices takes the
//! whole operation instead of driving a round.

mod arena;
mod round;
mod script;

pub use arena::Arena;
pub use round::{Accept, Frame, Kind, Op, Outgoing, Round, Ticket, Values};
pub use script::{Plans, Route, Topology, Tuning, part_of};

#[cfg(test)]
mod tests;
