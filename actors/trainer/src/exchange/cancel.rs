//! Ends a group from another thread, from before it has met.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Abort, Error, ErrorKind};

/// One handle for one group: made before [`super::Group::connect`], it ends what waits there or in the group at
/// once (a connect within about 100 ms), and everything later, with [`ErrorKind::Aborted`]. It cannot be taken back:
/// the next generation takes a new one.
#[derive(Clone, Default)]
pub struct Cancel(Arc<State>);

#[derive(Default)]
struct State {
    cancelled: AtomicBool,
    /// The group, once it has met.
    group: Mutex<Option<Abort>>,
}

impl Cancel {
    pub fn new() -> Cancel {
        Cancel::default()
    }

    pub fn cancel(&self) {
        // Under the lock, so that a group that meets at this moment is ended here or where it comes in.
        let group = self.0.group.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.cancelled.store(true, Ordering::SeqCst);
        if let Some(abort) = &*group {
            abort.abort();
        }
    }

    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Aborted, "the group was cancelled before it had met"));
        }
        Ok(())
    }

    /// The group that it ends from now on.
    pub(super) fn ends(&self, abort: Abort) {
        let mut group = self.0.group.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_cancelled() {
            abort.abort();
        }
        *group = Some(abort);
    }
}
