//! Supervision: a role actor that panics or fails is started again, after a pause that doubles and up
//! to a cap; a role that can never run ends the process with a message.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bus::Bus;
use bus::role::RoleEnv;
use messages::WireError;
use messages::error::Code;
use messages::job::Role;
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::roles::{self, Settings};

/// When a role that failed is started again.
#[derive(Debug, Clone, Copy)]
struct Policy {
    /// Pause before the first restart; doubles with each one.
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

impl Policy {
    /// Before the restart of this number, counted from 1; none: no more.
    fn pause(&self, restart: u32) -> Option<Duration> {
        let pause = self.first_pause.saturating_mul(2u32.saturating_pow(restart.saturating_sub(1)));
        (restart <= self.max_restarts).then_some(pause.min(self.longest_pause))
    }
}

/// How long roles that drain wait for a server that is out of reach.
const UNREACHABLE_GRACE: Duration = Duration::from_secs(3);
/// Between two looks at the connection.
const LOOK: Duration = Duration::from_millis(100);

enum Msg {
    Start(Role),
    /// Lets the roles of this stage drain; the later ones stay up for them.
    Drain(usize),
    /// The role cannot run, as it turned out while it did.
    GiveUp(Role, WireError),
}

/// Who drains after whom: workers report to the coordinator and announce to the notifier, so those two
/// stay until the others have ended.
const STAGES: [&[Role]; 3] =
    [&[Role::DataLoader, Role::Trainer, Role::Evaluator, Role::Tracker], &[Role::Notifier], &[Role::Coordinator]];

struct Supervisor;

/// Starts a role under a supervisor, with the token that tells it to drain.
type Start = Box<dyn Fn(Role, CancellationToken, ActorCell) -> Starting + Send + Sync>;
type Starting = Pin<Box<dyn Future<Output = Result<ActorCell, WireError>> + Send>>;

struct Arguments {
    start: Start,
    policy: Policy,
    roles: Vec<Role>,
    /// Of the whole process.
    drain: CancellationToken,
    done: oneshot::Sender<()>,
    ready: watch::Sender<bool>,
    failed: watch::Sender<Option<WireError>>,
}

struct Crewed {
    start: Start,
    policy: Policy,
    drain: CancellationToken,
    children: HashMap<ActorId, Role>,
    /// Roles that must be up for the process to be ready.
    wanted: Vec<Role>,
    restarts: BTreeMap<Role, (Instant, u32)>,
    done: Option<oneshot::Sender<()>>,
    ready: watch::Sender<bool>,
    failed: watch::Sender<Option<WireError>>,
    /// The stage that drains now, and what tells each stage to.
    stage: Option<usize>,
    drains: [CancellationToken; STAGES.len()],
}

/// The roles of this process.
pub struct Crew {
    /// Ends when every role has ended after a drain.
    done: oneshot::Receiver<()>,
    /// Whether every role is up.
    pub ready: watch::Receiver<bool>,
    failed: watch::Receiver<Option<WireError>>,
}

impl Crew {
    /// Ends when a role can never run, or could not be kept running; everything drains then.
    pub async fn failure(&mut self) -> WireError {
        match self.failed.wait_for(Option::is_some).await.map(|failed| failed.clone()) {
            Ok(Some(error)) => error,
            _ => std::future::pending().await,
        }
    }

    /// Lets the roles end, within the grace, and while the server is out of reach within a few seconds: what
    /// they hold cannot be given back then, and is taken over when this process is missed. An error if it
    /// was a role that ended the process.
    pub async fn drain(mut self, env: &RoleEnv, grace: Duration) -> Result<(), WireError> {
        env.drain.cancel();
        tokio::select! {
            _ = &mut self.done => {}
            () = tokio::time::sleep(grace) => {
                warn!(grace_ms = grace.as_millis() as u64, "roles did not end in time");
            }
            () = out_of_reach(&env.bus) => warn!("NATS is out of reach: the process does not wait for its roles"),
        }
        self.failed.borrow().clone().map_or(Ok(()), Err)
    }
}

/// Ends when the server has been out of reach for as long as it is waited for.
async fn out_of_reach(bus: &Bus) {
    let begun = Instant::now();
    while begun.elapsed() < UNREACHABLE_GRACE || bus.disconnected_for().is_none_or(|down| down < UNREACHABLE_GRACE) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Starts the roles. They drain when `env.drain` is cancelled.
pub async fn start(env: RoleEnv, settings: Settings, roles: Vec<Role>) -> Result<Crew, WireError> {
    let (bus, drain) = (env.bus.clone(), env.drain.clone());
    let start: Start = Box::new(move |role, drain, supervisor| {
        let (env, settings) = (RoleEnv { drain, ..env.clone() }, settings.clone());
        Box::pin(async move { roles::start(role, &env, &settings, supervisor).await })
    });
    let (crew, actor) = supervise(start, POLICY, roles, drain.clone()).await?;
    tokio::spawn(async move {
        let given_up = drain.run_until_cancelled(bus.given_up()).await;
        if let Some((role, error)) = given_up {
            let _ = actor.cast(Msg::GiveUp(role, error));
        }
    });
    Ok(crew)
}

async fn supervise(
    start: Start,
    policy: Policy,
    roles: Vec<Role>,
    drain: CancellationToken,
) -> Result<(Crew, ActorRef<Msg>), WireError> {
    let (done_sender, done) = oneshot::channel();
    let (ready_sender, ready) = watch::channel(false);
    let (failed_sender, failed) = watch::channel(None);
    let arguments = Arguments {
        start,
        policy,
        roles,
        drain: drain.clone(),
        done: done_sender,
        ready: ready_sender,
        failed: failed_sender,
    };
    let (actor, _) = Actor::spawn(None, Supervisor, arguments)
        .await
        .map_err(|error| WireError::new(Code::InternalError, format!("supervisor: {error}")))?;
    let to = actor.clone();
    tokio::spawn(async move {
        drain.cancelled().await;
        let _ = to.cast(Msg::Drain(0));
    });
    Ok((Crew { done, ready, failed }, actor))
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
            start: arguments.start,
            policy: arguments.policy,
            drain: arguments.drain,
            children: HashMap::new(),
            wanted: arguments.roles,
            restarts: BTreeMap::new(),
            done: Some(arguments.done),
            ready: arguments.ready,
            failed: arguments.failed,
            stage: None,
            drains: std::array::from_fn(|_| CancellationToken::new()),
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, crew: &mut Crewed) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Start(role) if !crew.is_draining() => crew.start(&me, role).await,
            Msg::Start(_) => {}
            Msg::Drain(stage) => crew.drain(&me, stage),
            Msg::GiveUp(role, error) => crew.give_up(&me, role, error),
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
                crew.ended(&me, &cell, passing(reason.unwrap_or_else(|| "it stopped".into())));
            }
            SupervisionEvent::ActorFailed(cell, error) => crew.ended(&me, &cell, cause(&error)),
            _ => {}
        }
        Ok(())
    }
}

/// What a panic or an unknown error says: it may go better the next time.
fn passing(message: String) -> WireError {
    WireError::new(Code::InternalError, message)
}

/// The error that an actor ended with, where it says whether trying again can help.
fn cause(error: &ActorProcessingErr) -> WireError {
    if let Some(error) = error.downcast_ref::<WireError>() {
        return error.clone();
    }
    error.downcast_ref::<bus::Error>().map_or_else(|| passing(error.to_string()), bus::Error::to_wire)
}

impl Crewed {
    async fn start(&mut self, me: &ActorRef<Msg>, role: Role) {
        let stage = STAGES.iter().position(|roles| roles.contains(&role)).unwrap_or_default();
        match (self.start)(role, self.drains[stage].clone(), me.get_cell()).await {
            Ok(cell) => {
                info!(%role, "role is up");
                self.children.insert(cell.get_id(), role);
                let up = self.wanted.iter().all(|role| self.children.values().any(|r| r == role));
                let _ = self.ready.send(up);
            }
            Err(error) => self.restart(me, role, error),
        }
    }

    fn ended(&mut self, me: &ActorRef<Msg>, cell: &ActorCell, error: WireError) {
        let Some(role) = self.children.remove(&cell.get_id()) else { return };
        if self.is_draining() {
            info!(%role, "role has ended");
            let stage = self.stage.unwrap_or_default();
            self.drain(me, stage);
            return;
        }
        let _ = self.ready.send(false);
        self.restart(me, role, error);
    }

    fn restart(&mut self, me: &ActorRef<Msg>, role: Role, error: WireError) {
        if !error.retry {
            return self.give_up(me, role, error);
        }
        let now = Instant::now();
        let entry = self.restarts.entry(role).or_insert((now, 0));
        if now.duration_since(entry.0) > self.policy.window {
            *entry = (now, 0);
        }
        entry.1 += 1;
        let count = entry.1;
        metrics::counter!("within_role_restarts_total", "role" => role.as_str()).increment(1);
        let Some(pause) = self.policy.pause(count) else {
            let window_s = self.policy.window.as_secs();
            let message = format!("{role} failed {count} times within {window_s} s; the last time: {}", error.message);
            return self.give_up(me, role, WireError { message, ..error });
        };
        warn!(%role, %error, pause_ms = pause.as_millis() as u64, "role failed; it is started again");
        let me = me.clone();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            let _ = me.cast(Msg::Start(role));
        });
    }

    /// The process ends because of this role; the first one counts.
    fn give_up(&mut self, me: &ActorRef<Msg>, role: Role, error: WireError) {
        if self.failed.borrow().is_some() {
            return;
        }
        error!(%role, %error, "role cannot run; the process ends");
        let message = if error.message.starts_with(role.as_str()) {
            error.message
        } else {
            format!("{role} cannot run: {}", error.message)
        };
        self.failed.send_replace(Some(WireError { message, ..error }));
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
                let _ = done.send(());
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
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// The real policy, quicker.
    const QUICK: Policy = Policy {
        first_pause: Duration::from_millis(2),
        longest_pause: Duration::from_millis(8),
        max_restarts: 5,
        window: Duration::from_secs(300),
    };
    const LONG: Duration = Duration::from_secs(30);

    /// A role that does, as it is told, what roles do.
    struct Child(CancellationToken);

    enum Order {
        Panic,
        Fail(WireError),
        Stop,
    }

    impl Actor for Child {
        type Msg = Order;
        type State = ();
        type Arguments = ();

        async fn pre_start(&self, me: ActorRef<Order>, (): ()) -> Result<(), ActorProcessingErr> {
            let drain = self.0.clone();
            tokio::spawn(async move {
                drain.cancelled().await;
                let _ = me.cast(Order::Stop);
            });
            Ok(())
        }

        async fn handle(&self, me: ActorRef<Order>, order: Order, (): &mut ()) -> Result<(), ActorProcessingErr> {
            match order {
                Order::Panic => panic!("a bug"),
                Order::Fail(error) => Err(error.into()),
                Order::Stop => {
                    me.stop(None);
                    Ok(())
                }
            }
        }
    }

    type Behavior = fn(u32) -> Result<Option<Order>, WireError>;

    /// A crew of one role; `behavior` says what each of its starts does. And how often it was started.
    async fn crew(behavior: Behavior) -> (Crew, CancellationToken, Arc<AtomicU32>) {
        let (starts, drain) = (Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let counted = Arc::clone(&starts);
        let start: Start = Box::new(move |_, drain, supervisor| {
            let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
            Box::pin(async move {
                let order = behavior(number)?;
                let (actor, _) = Actor::spawn_linked(None, Child(drain), (), supervisor)
                    .await
                    .map_err(|error| passing(error.to_string()))?;
                if let Some(order) = order {
                    actor.cast(order).expect("the child is up");
                }
                Ok(actor.get_cell())
            })
        });
        let (crew, _) = supervise(start, QUICK, vec![Role::Trainer], drain.clone()).await.expect("supervises");
        (crew, drain, starts)
    }

    async fn failure(crew: &mut Crew) -> WireError {
        tokio::time::timeout(LONG, crew.failure()).await.expect("in time")
    }

    #[test]
    fn pauses_double_up_to_a_cap_and_restarts_end() {
        let pauses: Vec<_> = (1..=6).map(|restart| POLICY.pause(restart).map(|p| p.as_millis())).collect();
        assert_eq!(pauses, [Some(250), Some(500), Some(1_000), Some(2_000), Some(4_000), None]);
        let patient = Policy { max_restarts: u32::MAX, ..POLICY };
        assert_eq!(patient.pause(u32::MAX), Some(POLICY.longest_pause));
    }

    #[tokio::test]
    async fn a_panic_is_followed_by_a_restart() {
        let (mut crew, drain, starts) = crew(|start| Ok((start <= 2).then_some(Order::Panic))).await;
        let up = async {
            while starts.load(Ordering::SeqCst) < 3 || !*crew.ready.borrow_and_update() {
                crew.ready.changed().await.expect("supervised");
            }
        };
        tokio::time::timeout(LONG, up).await.expect("up again in time");
        drain.cancel();
        tokio::time::timeout(LONG, &mut crew.done).await.expect("drains").expect("is told");
        assert_eq!((starts.load(Ordering::SeqCst), crew.failed.borrow().clone()), (3, None));
    }

    #[tokio::test]
    async fn a_role_that_goes_on_failing_is_given_up_and_the_process_drains() {
        let (mut crew, drain, starts) = crew(|_| Ok(Some(Order::Panic))).await;
        let error = failure(&mut crew).await;
        assert!(error.message.contains("trainer failed 6 times") && error.message.contains("a bug"), "{error:?}");
        assert_eq!(starts.load(Ordering::SeqCst), 6);
        tokio::time::timeout(LONG, drain.cancelled()).await.expect("drains");
        tokio::time::timeout(LONG, &mut crew.done).await.expect("drains").expect("is told");
    }

    #[tokio::test]
    async fn what_trying_again_cannot_heal_is_not_tried_again() {
        let denied = || WireError::new(Code::PermissionDenied, "subject x");
        let behaviors: [Behavior; 2] = [
            |_| Err(WireError::new(Code::PermissionDenied, "subject x")),
            |_| Ok(Some(Order::Fail(WireError::new(Code::PermissionDenied, "subject x")))),
        ];
        for behavior in behaviors {
            let (mut crew, _drain, starts) = crew(behavior).await;
            let error = failure(&mut crew).await;
            assert_eq!((error.code, error.message.as_str()), (denied().code, "trainer cannot run: subject x"));
            assert_eq!(starts.load(Ordering::SeqCst), 1, "no restart loop");
            tokio::time::timeout(LONG, &mut crew.done).await.expect("drains").expect("is told");
        }
    }
}
