//! The group of a training job's ranks, and how their sums meet.
//!
//! A [`Group`] is one generation: when a member is lost or joins, it is aborted ([`Abort`]) and the ranks
//! meet again in a new one. A [`Cancel`] ends a group before and after it has met. [`kernels::collective`] says what to send and does the arithmetic; a
//! [`Transport`] moves it. Gradients that NCCL sums on devices ([`Devices`]) never come here; the group then carries what is
//! said beside them.
//!
//! Operations run on the caller's thread: a compute thread that waits for a sum has nothing better to do,
//! and a thread in between would cost two wake-ups a message. [`Exchange::submit`] sends and receives what
//! is possible without waiting, so buckets travel while later ones are computed.
//!
//! A group that failed is over, and so are the contents of the buffers that were lent to it: the caller
//! applies nothing, and meets the others in the next generation.

mod cancel;
mod devices;
mod handshake;
mod local;
mod secure;
mod tcp;
mod wire;

use std::time::Duration;

use kernels::collective::{Arena, Op, Plans, Round, Topology, Tuning, Values};
use kernels::shard::Node;

pub use crate::error::{Error, ErrorKind, PeerName};
pub use cancel::Cancel;
pub use devices::{Connected, Devices, Failed, NotConnected, Wish, refusal};
pub use handshake::{Listener, Member, Seat, Token};
pub use tcp::Traffic;

/// How the frames of a group travel.
enum Transport {
    /// Between threads of this process.
    Local(local::Links),
    /// Between processes and hosts.
    Tcp(tcp::Links),
}

impl Transport {
    fn progress(&mut self, round: &mut Round<'_, '_>) -> Result<bool, Error> {
        match self {
            Transport::Local(links) => links.progress(round),
            Transport::Tcp(links) => links.progress(round),
        }
    }

    fn finish(&mut self, round: &mut Round<'_, '_>, timeout: Duration) -> Result<(), Error> {
        match self {
            Transport::Local(links) => links.finish(round, timeout),
            Transport::Tcp(links) => links.finish(round, timeout),
        }
    }

    fn watch(&mut self, round: &mut Round<'_, '_>) -> Result<(), Error> {
        match self {
            Transport::Local(links) => links.watch(round),
            Transport::Tcp(links) => links.watch(round),
        }
    }

    fn late(&mut self, round: &Round<'_, '_>, timeout: Duration) -> Option<Error> {
        match self {
            Transport::Local(_) => None,
            Transport::Tcp(links) => links.late(round, timeout),
        }
    }
}

/// Ends a group from another thread: what waits in it returns at once, and so does everything later.
#[derive(Clone)]
pub enum Abort {
    Local(local::Abort),
    Tcp(tcp::Abort),
}

impl Abort {
    pub fn abort(&self) {
        match self {
            Abort::Local(abort) => abort.abort(),
            Abort::Tcp(abort) => abort.abort(),
        }
    }
}

/// One rank's place in a group of ranks.
pub struct Group {
    plans: Plans,
    arena: Arena,
    transport: Transport,
    /// Operations so far: their numbers go with the frames.
    sequence: u64,
    timeout: Duration,
    /// An exchange was begun and did not end well.
    broken: bool,
}

impl Group {
    /// Groups of one process, one a rank. `timeout`: the longest wait without progress.
    pub fn local(world: usize, shards: usize, tuning: Tuning, timeout: Duration) -> kernels::Result<Vec<Group>> {
        let topologies: Vec<Topology> =
            (0..world).map(|rank| Topology::new(rank, world, shards)).collect::<kernels::Result<_>>()?;
        let links = local::Links::new(world).into_iter().map(Transport::Local);
        Ok(topologies.into_iter().zip(links).map(|(t, links)| Group::new(t, tuning, links, timeout)).collect())
    }

    /// Meets the other ranks over TCP, within `timeout`; later it is the longest wait without progress. `cancel`
    /// ends the waiting here, and the group for as long as it lives.
    pub fn connect(
        listener: &Listener,
        seat: &Seat,
        tuning: Tuning,
        timeout: Duration,
        cancel: &Cancel,
    ) -> Result<Group, Error> {
        let topology = Topology::new(seat.rank as usize, seat.members.len(), seat.shards)
            .map_err(|error| Error::new(ErrorKind::Diverged, error.to_string()))?;
        let streams = handshake::meet(listener, seat, timeout, cancel)?;
        let links = tcp::Links::new(seat, streams)?;
        let group = Group::new(topology, tuning, Transport::Tcp(links), timeout);
        group.obey(cancel);
        Ok(group)
    }

    /// From now on `cancel` ends this group; [`Group::connect`] does this by itself.
    pub fn obey(&self, cancel: &Cancel) {
        cancel.ends(self.abort_handle());
    }

    fn new(topology: Topology, tuning: Tuning, transport: Transport, timeout: Duration) -> Group {
        let plans = Plans::new(topology, tuning);
        Group { plans, arena: Arena::default(), transport, sequence: 0, timeout, broken: false }
    }

    /// The longest wait without progress from now on.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    pub fn topology(&self) -> Topology {
        self.plans.topology
    }

    /// The handle that ends this group.
    pub fn abort_handle(&self) -> Abort {
        match &self.transport {
            Transport::Local(links) => Abort::Local(links.abort_handle()),
            Transport::Tcp(links) => Abort::Tcp(links.abort_handle()),
        }
    }

    /// What went over the wire so far; nothing is counted between threads.
    pub fn traffic(&self) -> Traffic {
        match &self.transport {
            Transport::Local(_) => Traffic::default(),
            Transport::Tcp(links) => links.traffic(),
        }
    }

    /// Begins an exchange: buckets are submitted in the same order on every rank, then waited for.
    pub fn begin<'a>(&mut self) -> Result<Exchange<'_, 'a>, Error> {
        if self.broken {
            return Err(Error::new(ErrorKind::Aborted, "the group is over: an exchange in it has failed"));
        }
        self.broken = true;
        let round = Round::new(&self.plans, &mut self.arena, self.sequence);
        Ok(Exchange {
            round,
            transport: &mut self.transport,
            timeout: self.timeout,
            sequence: &mut self.sequence,
            broken: &mut self.broken,
        })
    }

    fn single(&mut self, op: Op<'_>) -> Result<(), Error> {
        let mut exchange = self.begin()?;
        exchange.submit(0, op)?;
        exchange.finish()
    }

    /// The root of the tree to the first node's buffer of every rank. `nodes`: those of this rank.
    pub fn all_reduce(&mut self, nodes: Vec<(Node, &mut [f32])>) -> Result<(), Error> {
        self.single(Op::AllReduce { nodes })
    }

    /// The same, to each rank its part ([`kernels::collective::part_of`]) only.
    pub fn reduce_scatter(&mut self, nodes: Vec<(Node, &mut [f32])>) -> Result<(), Error> {
        self.single(Op::ReduceScatter { nodes })
    }

    /// Rank r has `bounds[r]..bounds[r + 1]` of the buffer (in its elements) and gets the rest.
    pub fn all_gather(&mut self, values: Values<'_>, bounds: Vec<usize>) -> Result<(), Error> {
        self.single(Op::AllGather { values, bounds })
    }

    /// The buffer of rank `root` to all.
    pub fn broadcast(&mut self, values: Values<'_>, root: usize) -> Result<(), Error> {
        self.single(Op::Broadcast { values, root })
    }

    /// Returns when every rank has come here.
    pub fn barrier(&mut self) -> Result<(), Error> {
        self.single(Op::Barrier)
    }
}

/// Operations on their way. Dropped before it is finished, it ends the group.
pub struct Exchange<'g, 'a> {
    round: Round<'g, 'a>,
    transport: &'g mut Transport,
    timeout: Duration,
    sequence: &'g mut u64,
    broken: &'g mut bool,
}

impl<'a> Exchange<'_, 'a> {
    /// Begins an operation, and moves what can be moved without waiting. `bucket` is the caller's number.
    pub fn submit(&mut self, bucket: u32, op: Op<'a>) -> Result<(), Error> {
        let submitted = self.round.submit(bucket, op);
        submitted.map_err(|error| Error::new(ErrorKind::Diverged, error.to_string()))?;
        while self.transport.progress(&mut self.round)? {}
        Ok(())
    }

    /// Moves what can be moved, and fails where a rank has left the group: for whoever waits for the ranks by another way,
    /// before any of them may leave.
    pub fn watch(&mut self) -> Result<(), Error> {
        self.transport.watch(&mut self.round)
    }

    /// That a rank owes what it has had `timeout` for, where one does.
    pub(crate) fn late(&mut self, timeout: Duration) -> Option<Error> {
        self.transport.late(&self.round, timeout)
    }

    /// The longest wait without progress.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits until all of them are over here and everything is sent.
    pub fn finish(mut self) -> Result<(), Error> {
        self.transport.finish(&mut self.round, self.timeout)?;
        (*self.sequence, *self.broken) = (self.round.next_sequence(), false);
        Ok(())
    }
}

/// A peer ended the exchange and says who is to blame.
fn left(peer: &PeerName, blamed: &PeerName) -> Error {
    let what = if blamed == peer {
        "has left the exchange".to_owned()
    } else {
        format!("has left the exchange and blames {blamed}")
    };
    Error::peer(ErrorKind::Aborted, peer, what).blaming(blamed)
}

/// A time-out as errors show it.
fn seconds(timeout: Duration) -> String {
    format!("{:.1} s", timeout.as_secs_f64())
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod secure_tests;
#[cfg(test)]
mod step_tests;
