//! Ranks as threads of one process: bounded queues between each two, for tests and small gangs.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kernels::collective::{Accept, Frame, Round};

use super::{left, seconds};
use crate::error::{Error, ErrorKind, PeerName};

/// Frames between two ranks that may be on their way.
const CAPACITY: usize = 8;

struct Packet {
    frame: Frame,
    payload: Vec<u8>,
}

struct State {
    /// From rank `from` to `to`: queue `from * world + to`.
    queues: Vec<VecDeque<Packet>>,
    gone: Vec<bool>,
    aborted: bool,
    /// The first rank whose exchange failed, and whom it blames.
    failed: Option<(usize, PeerName)>,
    /// Grows with every change, so that no change is missed between a look and a wait.
    changes: u64,
}

struct Hub {
    state: Mutex<State>,
    changed: Condvar,
}

impl Hub {
    /// A section never panics while it holds the lock, so poison carries no meaning.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.changes += 1;
        let result = change(&mut state);
        drop(state);
        self.changed.notify_all();
        result
    }
}

/// Ends the group.
#[derive(Clone)]
pub struct Abort(Arc<Hub>);

impl Abort {
    pub(super) fn abort(&self) {
        self.0.change(|state| state.aborted = true);
    }
}

/// One rank's ends of the queues.
pub(super) struct Links {
    hub: Arc<Hub>,
    rank: usize,
    world: usize,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.hub.change(|state| state.gone[self.rank] = true);
    }
}

impl Links {
    pub(super) fn new(world: usize) -> Vec<Links> {
        let state = State {
            queues: (0..world * world).map(|_| VecDeque::new()).collect(),
            gone: vec![false; world],
            aborted: false,
            failed: None,
            changes: 0,
        };
        let hub = Arc::new(Hub { state: Mutex::new(state), changed: Condvar::new() });
        (0..world).map(|rank| Links { hub: hub.clone(), rank, world }).collect()
    }

    pub(super) fn abort_handle(&self) -> Abort {
        Abort(self.hub.clone())
    }

    fn name(rank: usize) -> PeerName {
        PeerName { rank: rank as u32, host: "this process".into() }
    }

    /// Moves what can be moved. Whether anything did.
    pub(super) fn progress(&mut self, round: &mut Round<'_, '_>) -> Result<bool, Error> {
        let mut moved = false;
        let rank = self.rank;
        for peer in (0..self.world).filter(|peer| *peer != rank) {
            moved |= self.send(peer, round);
            moved |= self.receive(peer, round)?;
        }
        Ok(moved)
    }

    fn send(&mut self, peer: usize, round: &mut Round<'_, '_>) -> bool {
        let queue = self.rank * self.world + peer;
        let mut moved = false;
        // Only this rank fills the queue, so there is room still when the packet is ready.
        while round.has_next(peer) && self.hub.lock().queues[queue].len() < CAPACITY {
            let Some(outgoing) = round.next(peer) else { break };
            let packet = Packet { frame: round.frame(&outgoing), payload: round.payload(&outgoing).to_vec() };
            self.hub.change(|state| state.queues[queue].push_back(packet));
            round.sent(outgoing);
            moved = true;
        }
        moved
    }

    fn receive(&mut self, peer: usize, round: &mut Round<'_, '_>) -> Result<bool, Error> {
        let queue = peer * self.world + self.rank;
        let mut moved = false;
        loop {
            let Some(frame) = self.hub.lock().queues[queue].front().map(|packet| packet.frame) else { break };
            let accepted = round.accept(peer, &frame);
            let accepted = accepted.map_err(|e| Error::peer(ErrorKind::Diverged, &Self::name(peer), e))?;
            let Accept::Take(ticket) = accepted else { break };
            let Some(packet) = self.hub.change(|state| state.queues[queue].pop_front()) else { break };
            round.buffer(&ticket).copy_from_slice(&packet.payload);
            round.arrived(ticket);
            moved = true;
        }
        Ok(moved)
    }

    /// Moves what can be moved; an error where a rank has left.
    pub(super) fn watch(&mut self, round: &mut Round<'_, '_>) -> Result<(), Error> {
        while self.progress(round)? {}
        let state = self.hub.lock();
        if state.aborted {
            return Err(Error::new(ErrorKind::Aborted, "the group was aborted"));
        }
        if let Some((by, culprit)) = state.failed.as_ref().filter(|(by, _)| *by != self.rank) {
            return Err(left(&Self::name(*by), culprit));
        }
        match (0..self.world).find(|peer| state.gone[*peer]) {
            Some(peer) => Err(Error::peer(ErrorKind::PeerClosed, &Self::name(peer), "has left the group")),
            None => Ok(()),
        }
    }

    pub(super) fn finish(&mut self, round: &mut Round<'_, '_>, timeout: Duration) -> Result<(), Error> {
        self.exchange(round, timeout).inspect_err(|error| {
            let culprit = error.culprit().cloned().unwrap_or_else(|| Self::name(self.rank));
            self.hub.change(|state| _ = state.failed.get_or_insert((self.rank, culprit)));
        })
    }

    fn exchange(&mut self, round: &mut Round<'_, '_>, timeout: Duration) -> Result<(), Error> {
        let mut since = Instant::now();
        loop {
            let seen = {
                let state = self.hub.lock();
                if state.aborted {
                    return Err(Error::new(ErrorKind::Aborted, "the group was aborted"));
                }
                state.changes
            };
            if self.progress(round)? {
                since = Instant::now();
                continue;
            }
            if round.done() {
                return Ok(());
            }
            let rest = timeout.saturating_sub(since.elapsed());
            let [own, made] = round.missing();
            let state = self.hub.lock();
            // What others had sent before may still end this rank's exchange.
            let failed = state.failed.as_ref().filter(|(by, _)| own.contains(by) || made.contains(by));
            if let Some((by, culprit)) = failed.filter(|_| state.changes == seen) {
                return Err(left(&Self::name(*by), culprit));
            }
            // Whose frames wait here has done its part.
            let idle = |peer: &&usize| state.queues[**peer * self.world + self.rank].is_empty();
            let awaited = own.iter().filter(idle).chain(made.iter().filter(idle)).copied();
            let awaited: Vec<usize> = awaited.collect();
            if let Some(&peer) = awaited.iter().find(|peer| state.gone[**peer] && state.changes == seen) {
                return Err(Error::peer(ErrorKind::PeerClosed, &Self::name(peer), "has left the group"));
            }
            let waiting = self.hub.changed.wait_timeout_while(state, rest, |state| state.changes == seen);
            let (_state, waited) = waiting.unwrap_or_else(PoisonError::into_inner);
            if waited.timed_out() {
                let peer = awaited.first().copied().unwrap_or(self.rank);
                let what = format!("did not do its part for {}", seconds(timeout));
                return Err(Error::peer(ErrorKind::PeerTimedOut, &Self::name(peer), what));
            }
        }
    }
}
