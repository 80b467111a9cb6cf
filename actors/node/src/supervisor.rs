//! Supervision: a role actor that panics or fails is started again, after a pause that doubles and up
//! to a cap; a role that can never run ends the process with a message.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use bus::role::RoleEnv;
use messages::WireError;
use messages::error::Code;
use messages::job::Role;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::roles::{self, Settings};

/// First pause before a restart; doubles with each one.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause before a restart.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// So many restarts within the window, and the role is given up.
const MAX_RESTARTS: u32 = 5;
const WINDOW: Duration = Duration::from_secs(300);

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
    env: RoleEnv,
    settings: Settings,
    roles: Vec<Role>,
    done: oneshot::Sender<Result<(), WireError>>,
    ready: watch::Sender<bool>,
}

struct Crewed {
    env: RoleEnv,
    settings: Settings,
    children: HashMap<ActorId, Role>,
    /// Roles that must be up for the process to be ready.
    wanted: Vec<Role>,
    restarts: BTreeMap<Role, (Instant, u32)>,
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
    let (done_sender, done) = oneshot::channel();
    let (ready_sender, ready) = watch::channel(false);
    let drain = env.drain.clone();
    let arguments = Arguments { env, settings, roles, done: done_sender, ready: ready_sender };
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
            env: arguments.env,
            settings: arguments.settings,
            children: HashMap::new(),
            wanted: arguments.roles,
            restarts: BTreeMap::new(),
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
        let env = RoleEnv { drain: self.drains[stage].clone(), ..self.env.clone() };
        match roles::start(role, &env, &self.settings, me.get_cell()).await {
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
        let entry = self.restarts.entry(role).or_insert((now, 0));
        if now.duration_since(entry.0) > WINDOW {
            *entry = (now, 0);
        }
        entry.1 += 1;
        let count = entry.1;
        metrics::counter!("within_role_restarts_total", "role" => role.as_str()).increment(1);
        if count > MAX_RESTARTS {
            let message = format!("{role} failed {count} times within {} s; the last time: {reason}", WINDOW.as_secs());
            self.give_up(me, role, WireError::new(Code::InternalError, message));
            return;
        }
        let pause = (FIRST_PAUSE * 2u32.pow(count - 1)).min(LONGEST_PAUSE);
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
        self.env.drain.cancel();
        self.drain(me, 0);
    }

    /// Roles see their token themselves, and may end before our own message about it comes.
    fn is_draining(&self) -> bool {
        self.env.drain.is_cancelled()
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
