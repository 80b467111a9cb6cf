//! Why training is to end early. Set once; the compute thread looks at it before each step and
//! while it waits for a batch.

use std::future::Future;
use std::pin::pin;
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

/// A stop that was or may be asked for.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    /// Asks for the end; the first reason stands.
    pub fn ask(&self, reason: StopReason) {
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    pub fn reason(&self) -> Option<&StopReason> {
        self.reason.get()
    }

    /// Ends once a stop was asked for.
    pub async fn asked(&self) {
        self.token.cancelled().await;
    }

    /// Blocks this thread until the future is ready; none if a stop is asked for before.
    pub fn or_wait<F: Future>(&self, future: F) -> Option<F::Output> {
        futures::executor::block_on(async {
            let (future, asked) = (pin!(future), pin!(self.asked()));
            match select(asked, future).await {
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
}
