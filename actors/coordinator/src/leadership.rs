//! Leading by lease. The tenure ends on this process's own monotonic clock before the lease does on
//! the server, so that a leader that was paused fences itself before it writes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bus::role::RoleEnv;
use bus::{ErrorKind, Trouble};
use messages::job::Role;
use messages::subject::LEASE_COORDINATOR;
use ractor::ActorRef;
use tokio::sync::oneshot;
use tracing::warn;

use crate::actor::Msg;

/// One period of leading; cheap to clone, checked before every write.
#[derive(Debug, Clone)]
pub(crate) struct Tenure {
    /// Revision of the lease's acquisition.
    pub(crate) token: u64,
    origin: Instant,
    held_until_ms: Arc<AtomicU64>,
}

impl Tenure {
    fn new(token: u64, until: Duration) -> Self {
        Self { token, origin: Instant::now(), held_until_ms: Arc::new(AtomicU64::new(until.as_millis() as u64)) }
    }

    /// False: it has ended before, and stays so.
    fn extend(&self, until: Duration) -> bool {
        let at = (self.origin.elapsed() + until).as_millis() as u64;
        let prolong = |held_until| (held_until > 0).then_some(at);
        self.held_until_ms.fetch_update(Ordering::AcqRel, Ordering::Acquire, prolong).is_ok()
    }

    /// For good: nothing is written in this tenure any more.
    pub(crate) fn end(&self) {
        self.held_until_ms.store(0, Ordering::Release);
    }

    /// Whether writes are still allowed.
    pub(crate) fn holds(&self) -> bool {
        (self.origin.elapsed().as_millis() as u64) < self.held_until_ms.load(Ordering::Acquire)
    }
}

/// Acquires, renews and loses the lease for as long as the process lives, and tells the actor.
pub(crate) fn spawn(env: RoleEnv, actor: ActorRef<Msg>) {
    tokio::spawn(async move {
        let ttl = Duration::from_millis(env.bus.timings().lease_ttl_ms);
        let mut keeper = match env.bus.lease(LEASE_COORDINATOR, env.identity.worker.as_str()).await {
            Ok(keeper) => keeper,
            Err(error) => {
                warn!(%error, "the lease bucket cannot be opened");
                actor.stop(Some("no lease bucket".into()));
                return;
            }
        };
        let mut tenure: Option<Tenure> = None;
        let mut trouble = Trouble::default();
        while !env.drain.is_cancelled() {
            let pause = match &tenure {
                None => match stand_for(&env, &mut keeper, &actor, ttl, &mut trouble).await {
                    Some(new) => {
                        tenure = Some(new);
                        ttl / 3
                    }
                    None => (ttl / 6).min(Duration::from_secs(1)),
                },
                Some(current) => {
                    let asked_at = Instant::now();
                    match keeper.renew().await {
                        // Counted from the asking, not from the answer.
                        Ok(true) if current.extend((ttl * 2 / 3).saturating_sub(asked_at.elapsed())) => ttl / 3,
                        Ok(true) => {
                            // The actor has stepped down meanwhile: it may stand again, as anybody else.
                            tenure = None;
                            if let Err(error) = keeper.release().await {
                                warn!(%error, "the lease was not released; it runs out by itself");
                            }
                            ttl / 12
                        }
                        outcome => {
                            let lost = matches!(outcome, Ok(false)) || !current.holds();
                            if lost {
                                current.end();
                                tenure = None;
                                let reason = "the lease has passed to another coordinator, or could not be renewed";
                                let _ = actor.cast(Msg::StepDown { reason: reason.into() });
                            }
                            ttl / 12
                        }
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = env.drain.cancelled() => {}
            }
        }
        if let Some(tenure) = tenure {
            tenure.end();
        }
        // The actor ends last: with it the connection may close, and the lease would block the next leader.
        let (done, released) = oneshot::channel();
        let _ = actor.cast(Msg::Stop { released });
        if let Err(error) = keeper.release().await {
            warn!(%error, "the lease was not released; it runs out by itself");
        }
        let _ = done.send(());
    });
}

/// Tries to acquire the lease; having it, reads every record that is not settled.
async fn stand_for(
    env: &RoleEnv,
    keeper: &mut bus::lease::LeaseKeeper,
    actor: &ActorRef<Msg>,
    ttl: Duration,
    trouble: &mut Trouble,
) -> Option<Tenure> {
    let asked_at = Instant::now();
    let asked = keeper.acquire().await;
    let token = match asked {
        Ok(token) => {
            trouble.over();
            token?
        }
        Err(error) => {
            if error.kind() == ErrorKind::Permission {
                env.bus.cannot_run(Role::Coordinator, &error);
            }
            if trouble.is_new(&error) {
                warn!(%error, "the coordinator's lease cannot be asked for; trying on");
            }
            return None;
        }
    };
    let tenure = Tenure::new(token.0, (ttl * 2 / 3).saturating_sub(asked_at.elapsed()));
    let records = async { env.bus.jobs().await?.all().await };
    match records.await {
        Ok(mut records) => {
            records.retain(|(record, _)| !record.is_settled());
            if actor.cast(Msg::Lead { tenure: tenure.clone(), records }).is_err() {
                return None;
            }
            Some(tenure)
        }
        Err(error) => {
            warn!(%error, "the job records cannot be read; the lease is given back");
            let _ = keeper.release().await;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenure_ends_by_itself() {
        let tenure = Tenure::new(1, Duration::from_secs(60));
        assert!(tenure.extend(Duration::from_secs(60)) && tenure.holds());
        tenure.end();
        assert!(!tenure.extend(Duration::from_secs(60)) && !tenure.holds());
        assert!(!Tenure::new(1, Duration::ZERO).holds());
    }
}
