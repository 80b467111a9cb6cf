//! Heartbeats of a role: "I live", what it can take, and which leases it believes to hold. A lease
//! that the worker lost without noticing is seen by its absence.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use messages::job::Role;
use messages::worker::{Heartbeat, HeldLease};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::link::Action;
use crate::role::RoleEnv;

/// Heartbeats out of turn are at least this far apart; what changed meanwhile is in the next.
const APART: Duration = Duration::from_millis(10);

/// What changes from heartbeat to heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulse {
    pub slots: u32,
    pub slots_free: u32,
    pub held: Vec<HeldLease>,
}

/// Sends a heartbeat out of turn.
#[derive(Debug, Clone)]
pub struct Beat {
    notify: Arc<Notify>,
}

impl Beat {
    /// As soon as slots or leases changed. Several calls in a row may be one heartbeat.
    pub fn now(&self) {
        self.notify.notify_one();
    }
}

/// Counts the heartbeats of the process.
static SEQUENCE: AtomicU64 = AtomicU64::new(0);

/// Sends a heartbeat at once, every `timings.heartbeat_ms`, and when told to; `pulse` gives the state
/// at that moment and must not block. Once `env.drain` is cancelled the heartbeats say so. Abort the
/// task after the role has stopped; a last heartbeat goes out when the role has nothing left.
pub fn spawn(env: &RoleEnv, role: Role, pulse: impl Fn() -> Pulse + Send + Sync + 'static) -> (JoinHandle<()>, Beat) {
    let beat = Beat { notify: Arc::new(Notify::new()) };
    let notify = Arc::clone(&beat.notify);
    let env = env.clone();
    let task = tokio::spawn(async move {
        let mut ticks = interval(Duration::from_millis(env.bus.timings().heartbeat_ms.max(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut drain_seen = false;
        let mut due = Instant::now();
        let mut denials = env.bus.inner.link.denials();
        let own = env.bus.subjects().hb(role, &env.identity.worker);
        loop {
            tokio::select! {
                denied = denials.wait(Action::Publish, |subject| subject == own) => {
                    // Who is not heard of is taken for lost.
                    env.bus.cannot_run(role, &env.bus.denied(&denied.subject));
                    return;
                }
                _ = ticks.tick() => {}
                () = notify.notified() => sleep_until(due).await,
                () = env.drain.cancelled(), if !drain_seen => {}
            }
            drain_seen = env.drain.is_cancelled();
            due = Instant::now() + APART;
            let now = pulse();
            let last = drain_seen && now.held.is_empty() && now.slots_free == now.slots;
            send(&env, role, now, drain_seen).await;
            if last {
                return;
            }
        }
    });
    (task, beat)
}

async fn send(env: &RoleEnv, role: Role, pulse: Pulse, draining: bool) {
    let identity = &env.identity;
    let heartbeat = Heartbeat {
        worker: identity.worker.clone(),
        role,
        host: identity.host.clone(),
        pid: identity.pid,
        build: identity.build.clone(),
        fingerprint: identity.fingerprint.clone(),
        slots: pulse.slots,
        slots_free: pulse.slots_free,
        held: pulse.held,
        draining,
        sequence: SEQUENCE.fetch_add(1, Ordering::Relaxed) + 1,
    };
    let subject = env.bus.subjects().hb(role, &identity.worker);
    let envelope = env.bus.envelope(heartbeat);
    if let Err(error) = env.bus.publish(&subject, &envelope).await {
        tracing::debug!(%role, %error, "a heartbeat could not be sent");
    }
}
