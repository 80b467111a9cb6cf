//! Supervision: a role actor that panics or fails is started again, after a pause that doubles and up
//! to a cap; a role that can never run ends the process with a message.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bus::role::RoleEnv;
use futures::future::BoxFuture;
use messages::WireError;
use messages::error::Code;
use messages::job::Role;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::roles::{self, Settings};

/// When a role that failed is started again, and when it is given up.
#[derive(Debug, Clone, Copy)]
struct Policy {
    /// Before the first restart; doubles with each one.
    first_pause: Duration,
    longest_pause: Duration,
    /// So many restarts within the window, and the role is given up.
    max_restarts: u32,
    window: Duration,
}

const POLICY: Policy = Policy {
    first_pause: Duration::from_millis(250),
    longest_pause: Duration::from_secs(15),
    max_restarts: 5,
    window: Duration::from_secs(300),
};

/// Failures of one role within a window.
#[derive(Debug, Clone, Copy)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Policy {
    /// Counts a failure. The pause before the next start; none: the role is given up.
    fn pause(&self, failures: &mut Failures, now: Instant) -> Option<Duration> {
        if now.duration_since(failures.since) > self.window {
            *failures = Failures { since: now, count: 0 };
        }
        failures.count += 1;
        let doubled = self.first_pause * 2u32.saturating_pow(failures.count - 1).min(1 << 16);
        (failures.count <= self.max_restarts).then_some(doubled.min(self.longest_pause))
    }
}

/// Starts a role, which drains when the token is cancelled, as a child of the supervisor.
type Starter =
    Box<dyn Fn(Role, CancellationToken, ActorCell) -> BoxFuture<'static, Result<ActorCell, WireError>> + Send + Sync>;

enum Msg {
    Start(Role),
    /// Lets the roles of this stage drain; the later ones stay up for them.
    Drain(usize),
}

/// Who drains after whom: workers report to the coordinator and announce to the notifier, so those two
/// stay until the others have ended.
const STAGES: [&[Role]; 3] =
    [&[Role::DataLoader, Role::Trainer, Role::Evaluator, Role::Tracker], &[Role::Notifier], &[Role::Coordinator]];

struct Supervisor;

struct Arguments {
    starter: Starter,
    /// Of the whole process.
    drain: CancellationToken,
    policy: Policy,
    roles: Vec<Role>,
    done: oneshot::Sender<Result<(), WireError>>,
    ready: watch::Sender<bool>,
}

struct Crewed {
    starter: Starter,
    drain: CancellationToken,
    policy: Policy,
    children: HashMap<ActorId, Role>,
    /// Roles that must be up for the process to be ready.
    wanted: Vec<Role>,
    failures: BTreeMap<Role, Failures>,
    done: Option<oneshot::Sender<Result<(), WireError>>>,
    ready: watch::Sender<bool>,
    /// The stage that drains now, and what tells each stage to.
    stage: Option<usize>,
    drains: [CancellationToken; STAGES.len()],
}

/// The roles of this process.
pub struct Crew {
    /// Ends when every role has ended after a drain, or when one can never run.
    pub done: oneshot::Receiver<Result<(), WireError>>,
    /// Whether every role is up.
    pub ready: watch::Receiver<bool>,
}

/// Starts the roles. They drain when `env.drain` is cancelled.
pub async fn start(env: RoleEnv, settings: Settings, roles: Vec<Role>) -> Result<Crew, WireError> {
    let drain = env.drain.clone();
    let starter: Starter = Box::new(move |role, drain, supervisor| {
        let (env, settings) = (RoleEnv { drain, ..env.clone() }, settings.clone());
        Box::pin(async move { roles::start(role, &env, &settings, supervisor).await })
    });
    supervise(starter, drain, POLICY, roles).await
}

async fn supervise(
    starter: Starter,
    drain: CancellationToken,
    policy: Policy,
    roles: Vec<Role>,
) -> Result<Crew, WireError> {
    let (done_sender, done) = oneshot::channel();
    let (ready_sender, ready) = watch::channel(false);
    let arguments = Arguments { starter, drain: drain.clone(), policy, roles, done: done_sender, ready: ready_sender };
    let (actor, _) = Actor::spawn(None, Supervisor, arguments)
        .await
        .map_err(|error| WireError::new(Code::InternalError, format!("supervisor: {error}")))?;
    tokio::spawn(async move {
        drain.cancelled().await;
        let _ = actor.cast(Msg::Drain(0));
    });
    Ok(Crew { done, ready })
}

impl Actor for Supervisor {
    type Msg = Msg;
    type State = Crewed;
    type Arguments = Arguments;

    async fn pre_start(&self, me: ActorRef<Msg>, arguments: Arguments) -> Result<Crewed, ActorProcessingErr> {
        for role in &arguments.roles {
            me.cast(Msg::Start(*role))?;
        }
        Ok(Crewed {
            starter: arguments.starter,
            drain: arguments.drain,
            policy: arguments.policy,
            children: HashMap::new(),
            wanted: arguments.roles,
            failures: BTreeMap::new(),
            done: Some(arguments.done),
            ready: arguments.ready,
            stage: None,
            drains: std::array::from_fn(|_| CancellationToken::new()),
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, crew: &mut Crewed) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Start(role) if !crew.is_draining() => crew.start(&me, role).await,
            Msg::Start(_) => {}
            Msg::Drain(stage) => crew.drain(&me, stage),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        me: ActorRef<Msg>,
        event: SupervisionEvent,
        crew: &mut Crewed,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                crew.ended(&me, &cell, reason.unwrap_or_else(|| "it stopped".into()));
            }
            SupervisionEvent::ActorFailed(cell, error) => crew.ended(&me, &cell, error.to_string()),
            _ => {}
        }
        Ok(())
    }
}

impl Crewed {
    async fn start(&mut self, me: &ActorRef<Msg>, role: Role) {
        let stage = STAGES.iter().position(|roles| roles.contains(&role)).unwrap_or_default();
        match (self.starter)(role, self.drains[stage].clone(), me.get_cell()).await {
            Ok(cell) => {
                info!(%role, "role is up");
                self.children.insert(cell.get_id(), role);
                let up = self.wanted.iter().all(|role| self.children.values().any(|r| r == role));
                let _ = self.ready.send(up);
            }
            Err(error) if error.retry => self.restart(me, role, &error.message),
            Err(error) => self.give_up(me, role, error),
        }
    }

    fn ended(&mut self, me: &ActorRef<Msg>, cell: &ActorCell, reason: String) {
        let Some(role) = self.children.remove(&cell.get_id()) else { return };
        if self.is_draining() {
            info!(%role, "role has ended");
            let stage = self.stage.unwrap_or_default();
            self.drain(me, stage);
            return;
        }
        let _ = self.ready.send(false);
        self.restart(me, role, &reason);
    }

    fn restart(&mut self, me: &ActorRef<Msg>, role: Role, reason: &str) {
        let now = Instant::now();
        let failures = self.failures.entry(role).or_insert(Failures { since: now, count: 0 });
        let pause = self.policy.pause(failures, now);
        metrics::counter!("within_role_restarts_total", "role" => role.as_str()).increment(1);
        let Some(pause) = pause else {
            let (count, window_s) = (failures.count, self.policy.window.as_secs());
            let message = format!("{role} failed {count} times within {window_s} s; the last time: {reason}");
            self.give_up(me, role, WireError::new(Code::InternalError, message));
            return;
        };
        warn!(%role, reason, pause_ms = pause.as_millis() as u64, "role failed; it is started again");
        let me = me.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = me.cast(Msg::Start(role));
        });
    }

    fn give_up(&mut self, me: &ActorRef<Msg>, role: Role, error: WireError) {
        error!(%role, %error, "role cannot run; the process ends");
        if let Some(done) = self.done.take() {
            let _ = done.send(Err(error));
        }
        self.drain.cancel();
        self.drain(me, 0);
    }

    /// Roles see their token themselves, and may end before our own message about it comes.
    fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Tells a stage to drain; the next one follows when nobody of it is left.
    fn drain(&mut self, me: &ActorRef<Msg>, stage: usize) {
        let stage = self.stage.unwrap_or_default().max(stage);
        self.stage = Some(stage);
        let _ = self.ready.send(false);
        let Some(roles) = STAGES.get(stage) else {
            if let Some(done) = self.done.take() {
                let _ = done.send(Ok(()));
            }
            me.stop(None);
            return;
        };
        self.drains[stage].cancel();
        if !self.children.values().any(|role| roles.contains(role)) {
            let _ = me.cast(Msg::Drain(stage + 1));
        }
    }
}

#[cfg(test)]
#[path = "supervisor_tests.rs"]
mod tests;
