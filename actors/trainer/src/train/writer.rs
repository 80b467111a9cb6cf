//! The thread `checkpoint`: makes files of copied states and removes what is no longer kept, one after
//! the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::time::Duration;

use kernels::train::StateCopy;
use messages::WireError;
use messages::error::Code;
use messages::event::Checkpoint;

use super::saver::model_bytes;
use crate::checkpoint::{CheckpointStore, Share, Snapshot, TrainState, Writing};
use crate::error::{Error, ErrorKind};

/// Orders that wait at a time: a checkpoint, and the removal of what the one before replaces.
const ORDERS: usize = 2;
/// How long the leader waits for the other ranks' parts. They are cut at the same step.
const PARTS_PATIENCE: Duration = Duration::from_secs(2);
/// How long the end of training waits for a write that nobody wants any more.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// A state to be written.
pub struct Taken {
    /// Without the parameters' hash.
    pub state: TrainState,
    pub copy: Box<StateCopy>,
    pub best: Option<Arc<Vec<u8>>>,
    pub share: Share,
}

pub enum Order {
    Commit(Box<Taken>),
    /// The own part of a checkpoint that the leader commits.
    Part {
        name: String,
        copy: Box<StateCopy>,
        share: Share,
    },
    /// Remove all but these.
    Prune(BTreeSet<String>),
}

pub enum Done {
    Committed { copy: Box<StateCopy>, committed: Result<Checkpoint, Error> },
    Part { copy: Box<StateCopy>, written: Result<(), Error> },
    Pruned(Result<(), Error>),
}

/// The training's side of the thread.
pub struct Writer {
    orders: Option<SyncSender<(CheckpointStore, Order)>>,
    done: Receiver<Done>,
    open: usize,
    given_up: Arc<AtomicBool>,
}

impl Writer {
    pub fn start() -> Result<Self, WireError> {
        let (orders, taken) = sync_channel::<(CheckpointStore, Order)>(ORDERS);
        let (tell, done) = sync_channel(ORDERS);
        let given_up = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&given_up);
        let work = move || {
            while let Ok((store, order)) = taken.recv() {
                if tell.send(carry_out(&store, order, &seen)).is_err() {
                    return;
                }
            }
        };
        let failed = |e| WireError::new(Code::InternalError, format!("cannot start the checkpoint thread: {e}"));
        std::thread::Builder::new().name("checkpoint".into()).spawn(work).map_err(failed)?;
        Ok(Self { orders: Some(orders), done, open: 0, given_up })
    }

    /// Begins something in the store, under its fence. At most [`ORDERS`] at a time.
    pub fn order(&mut self, store: CheckpointStore, order: Order) -> Result<(), WireError> {
        let sent = self.orders.as_ref().is_some_and(|orders| orders.send((store, order)).is_ok());
        if !sent {
            return Err(died());
        }
        self.open += 1;
        Ok(())
    }

    pub fn is_busy(&self) -> bool {
        self.open > 0
    }

    /// What is done, if anything.
    pub fn done(&mut self) -> Option<Done> {
        match self.done.try_recv() {
            Ok(done) => {
                self.open -= 1;
                Some(done)
            }
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    /// Waits for what is done next.
    pub fn wait(&mut self, patience: Duration) -> Result<Done, WireError> {
        let done = self.done.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                let waited = format!("a checkpoint was not written within {} s", patience.as_secs());
                WireError::new(Code::ArtifactStoreUnavailable, waited)
            }
            RecvTimeoutError::Disconnected => died(),
        })?;
        self.open -= 1;
        Ok(done)
    }
}

impl Drop for Writer {
    /// What is on its way is not put in place any more, unless it already is. Bounded.
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::SeqCst);
        self.orders = None;
        while self.open > 0 {
            match self.done.recv_timeout(END_PATIENCE) {
                Ok(_) => self.open -= 1,
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("a checkpoint is still being written; training ends without it");
                    return;
                }
            }
        }
    }
}

fn died() -> WireError {
    WireError::new(Code::InternalError, "the checkpoint thread has died")
}

fn carry_out(store: &CheckpointStore, order: Order, given_up: &AtomicBool) -> Done {
    match order {
        Order::Commit(taken) => {
            let Taken { state, copy, best, share } = *taken;
            let writing = Writing { share, patience: PARTS_PATIENCE, given_up };
            let committed = snapshot(state, &copy, best).and_then(|snapshot| store.commit_as(&snapshot, writing));
            Done::Committed { copy, committed }
        }
        Order::Part { name, copy, share } => {
            let written = bytes_of(copy.to_bytes()).and_then(|state| store.write_part(&name, share, &state));
            Done::Part { copy, written }
        }
        Order::Prune(keep) => Done::Pruned(store.prune(&keep)),
    }
}

fn snapshot(mut state: TrainState, copy: &StateCopy, best: Option<Arc<Vec<u8>>>) -> Result<Snapshot, Error> {
    state.extra_info.params_blake3 = copy.params_blake3();
    Ok(Snapshot { state, model: bytes_of(model_bytes(copy))?, optimizer: bytes_of(copy.to_bytes())?, best })
}

fn bytes_of(bytes: kernels::Result<Vec<u8>>) -> Result<Vec<u8>, Error> {
    bytes.map_err(|e| Error::new(ErrorKind::Corrupt, e.to_string()))
}
