//! Why training is to end early. Set once; the compute thread looks at it before each step and
//! while it waits for a batch.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures::future::{Either, select};
use messages::WireError;
use tokio_util::sync::CancellationToken;

/// What ended training before its time.
#[derive(Debug, Clone, PartialEq)]
pub enum StopReason {
    /// Checkpoint and give the task back.
    Drain { reason: String },
    /// The lease has passed on or the task was cancelled: leave no trace.
    Fenced { reason: String },
    /// What happened can no longer be told.
    Failed(WireError),
}

/// A stop that was or may be asked for. Among several ranks a drain is no end at once: it is said at the next
/// step, and all see it there.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// A stop of any kind.
    any: CancellationToken,
    /// One that waits for nobody.
    hard: CancellationToken,
    drain: OnceLock<StopReason>,
    end: OnceLock<StopReason>,
    together: AtomicBool,
}

impl Stop {
    /// Asks for the end; the first reason stands, but a drain does not stand against another.
    pub fn ask(&self, reason: StopReason) {
        if matches!(reason, StopReason::Drain { .. }) {
            let _ = self.0.drain.set(reason);
        } else {
            let _ = self.0.end.set(reason);
            self.0.hard.cancel();
        }
        self.0.any.cancel();
    }

    /// What was asked for, whether or not it ends training at once.
    pub fn reason(&self) -> Option<&StopReason> {
        self.0.end.get().or_else(|| self.0.drain.get())
    }

    /// Whether training ends here and now.
    pub fn ends_now(&self) -> bool {
        self.0.end.get().is_some() || (self.0.drain.get().is_some() && !self.0.together.load(Ordering::SeqCst))
    }

    /// This rank trains with others, or alone.
    pub fn set_together(&self, together: bool) {
        self.0.together.store(together, Ordering::SeqCst);
    }

    /// Ends once a stop was asked for.
    pub async fn asked(&self) {
        self.0.any.cancelled().await;
    }

    /// Ends once a stop was asked for that waits for nobody.
    pub async fn ended(&self) {
        self.0.hard.cancelled().await;
    }

    /// Blocks this thread until the future is ready; none if a stop ends training before.
    pub fn or_wait<F: Future>(&self, future: F) -> Option<F::Output> {
        let together = self.0.together.load(Ordering::SeqCst);
        let token = if together { &self.0.hard } else { &self.0.any };
        futures::executor::block_on(async {
            let (future, ended) = (pin!(future), pin!(token.cancelled()));
            match select(ended, future).await {
                Either::Left(_) => None,
                Either::Right((output, _)) => Some(output),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stands_and_waiting_ends() {
        let stop = Stop::default();
        assert_eq!(stop.or_wait(async { 7 }), Some(7));
        assert_eq!(stop.reason(), None);
        let first = StopReason::Fenced { reason: "taken".into() };
        stop.ask(first.clone());
        stop.ask(StopReason::Drain { reason: "later".into() });
        assert_eq!(stop.or_wait(std::future::pending::<()>()), None);
        assert_eq!(stop.reason(), Some(&first));
    }

    #[test]
    fn among_others_a_drain_does_not_end_the_waiting() {
        let stop = Stop::default();
        stop.set_together(true);
        stop.ask(StopReason::Drain { reason: "d".into() });
        assert!(!stop.ends_now() && stop.reason().is_some());
        assert_eq!(stop.or_wait(async { 7 }), Some(7));
        let end = StopReason::Fenced { reason: "taken".into() };
        stop.ask(end.clone());
        assert!(stop.ends_now());
        assert_eq!(stop.reason(), Some(&end));
        assert_eq!(stop.or_wait(std::future::pending::<()>()), None);
    }
}
