//! The worker's actor: translates offers, control messages and what rank processes do into calls of
//! [`State`], and executes its effects.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bus::heartbeat::{Beat, Pulse};
use bus::role::RoleEnv;
use bus::{Incoming, RawMessage, heartbeat, now_ms};
use futures::StreamExt;
use messages::error::Code;
use messages::gang::{Offer, OfferAnswer};
use messages::job::Role;
use messages::rpc::ReportBody;
use messages::trace::TraceParent;
use messages::worker::Control;
use messages::{Fence, UnixMs, WireError};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::Config;
use crate::child::{self, Heard, Spares};
use crate::device::Seats;
use crate::link::RankConfig;
use crate::rank::telling::Teller;
use crate::state::{Effect, GangKey, Signal, State};
use crate::vitals::Vitals;

/// How often time is looked at: a tenth of the shortest deadline, the second until SIGKILL.
const TICK: Duration = Duration::from_millis(100);
/// Signals that may wait for one process.
const SIGNAL_CAPACITY: usize = 16;

/// What reaches the actor.
pub(crate) enum Msg {
    Offer {
        offer: Box<Offer>,
        trace: Option<TraceParent>,
        answer: oneshot::Sender<OfferAnswer>,
    },
    Control(Box<Control>),
    Heard {
        key: GangKey,
        heard: Heard,
    },
    Reported {
        key: GangKey,
    },
    /// The kernels for the worker's devices are compiled: ranks may be placed here.
    Compiled,
    Tick,
    Drain,
}

pub(crate) struct Trainer;

pub(crate) struct Running {
    env: RoleEnv,
    config: Config,
    state: State,
    clock: Clock,
    pulse: watch::Sender<Pulse>,
    beat: Beat,
    signals: HashMap<(GangKey, u32), mpsc::Sender<Signal>>,
    draining: bool,
    /// Processes between two tasks.
    spares: Spares,
    /// Which CUDA device each rank has.
    seats: Arc<Mutex<Seats>>,
    devices: HashMap<(GangKey, u32), u32>,
    /// Subscriptions and timers; they end with the actor.
    _sources: JoinSet<()>,
    /// One task a rank process; dropped with the actor, and the processes with it.
    ranks: JoinSet<()>,
    reports: JoinSet<()>,
    heartbeats: tokio::task::JoinHandle<()>,
}

/// Milliseconds since the epoch as of the start, from then on by the monotonic clock: a jump of the
/// wall clock is no hang.
struct Clock {
    wall: UnixMs,
    begun: Instant,
}

impl Clock {
    fn now(&self) -> UnixMs {
        self.wall + self.begun.elapsed().as_millis() as u64
    }
}

/// Starts the actor.
pub(crate) async fn spawn(env: RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    if config.rank_command.is_empty() {
        return Err(WireError::new(Code::ConfigError, "trainer: no command to start a rank with"));
    }
    let (actor, _) =
        Actor::spawn_linked(None, Trainer, (env, config), supervisor).await.map_err(|error| match &error {
            SpawnErr::StartupFailed(cause) => cause
                .downcast_ref::<bus::Error>()
                .map_or_else(|| WireError::new(Code::InternalError, format!("trainer: {cause}")), bus::Error::to_wire),
            _ => WireError::new(Code::InternalError, format!("trainer: {error}")),
        })?;
    Ok(actor.get_cell())
}

impl Actor for Trainer {
    type Msg = Msg;
    type State = Running;
    type Arguments = (RoleEnv, Config);

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        (env, config): Self::Arguments,
    ) -> Result<Running, ActorProcessingErr> {
        let identity = env.identity.clone();
        let spares = Spares::new(config.slots);
        let seats = Arc::new(Mutex::new(Seats::new(config.devices.ordinals.clone())));
        let slots = if config.devices.ordinals.is_empty() { config.slots } else { 0 };
        let state = State::new(&identity.host, &identity.fingerprint, slots, *env.bus.timings());
        if slots < config.slots {
            compile(&me, &config)?;
        }
        let (pulse, pulses) = watch::channel(pulse_of(&state));
        let sources = sources(&env, &me).await?;
        let (heartbeats, beat) = heartbeat::spawn(&env, Role::Trainer, move || pulses.borrow().clone());
        Ok(Running {
            env,
            config,
            state,
            clock: Clock { wall: now_ms(), begun: Instant::now() },
            pulse,
            beat,
            signals: HashMap::new(),
            draining: false,
            spares,
            seats,
            devices: HashMap::new(),
            _sources: sources,
            ranks: JoinSet::new(),
            reports: JoinSet::new(),
            heartbeats,
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, running: &mut Running) -> Result<(), ActorProcessingErr> {
        let now = running.clock.now();
        let state = &mut running.state;
        let effects = match msg {
            Msg::Offer { offer, trace, answer } => {
                let (said, effects) = state.on_offer(*offer, trace, now);
                // Nobody may wait any more; the coordinator then asks again.
                let _ = answer.send(said);
                effects
            }
            Msg::Control(control) => match *control {
                Control::StopTask { job, task, fence, reason } => {
                    tracing::info!(%job, %task, %fence, reason, "told to stop");
                    state.on_stop_task(&job, &task, fence, now)
                }
                // The process as a whole hears these.
                Control::Drain | Control::LogLevel { .. } => Vec::new(),
            },
            Msg::Heard { key, heard: Heard::Line(line) } => {
                state.on_line(&key, &line, now);
                if line.device_lost { running.lose_device(&key, line.rank, now) } else { Vec::new() }
            }
            Msg::Heard { key, heard: Heard::Exited { rank, exit } } => {
                let (code, signal) = (exit.code, exit.signal);
                tracing::info!(job = %key.job, attempt = key.attempt, rank, code, signal, "a rank has ended");
                let effects = state.on_exit(&key, rank, &exit, now);
                running.devices.remove(&(key.clone(), rank));
                running.signals.remove(&(key, rank));
                effects
            }
            Msg::Reported { key } => {
                state.on_reported(&key);
                Vec::new()
            }
            Msg::Compiled => {
                state.set_slots(running.config.slots);
                Vec::new()
            }
            Msg::Tick => {
                running.spares.prune();
                state.on_tick(now)
            }
            Msg::Drain => {
                running.draining = true;
                running.spares.close();
                state.on_drain(now)
            }
        };
        for effect in effects {
            running.perform(&me, effect);
        }
        running.settle(&me);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, running: &mut Running) -> Result<(), ActorProcessingErr> {
        running.heartbeats.abort();
        Ok(())
    }
}

/// Compiles the kernels on a thread of its own, whose end the process does not wait for.
fn compile(me: &ActorRef<Msg>, config: &Config) -> std::io::Result<()> {
    let (me, devices, cubins) = (me.clone(), config.devices.clone(), config.cubins.clone());
    let work = move || {
        crate::device::compile(&devices, &cubins);
        // The role may have ended meanwhile.
        me.cast(Msg::Compiled).ok();
    };
    std::thread::Builder::new().name("kernels".into()).spawn(work).map(drop)
}

fn pulse_of(state: &State) -> Pulse {
    Pulse { slots: state.slots(), slots_free: state.slots_free(), held: state.held() }
}

impl Running {
    /// Tells the heartbeat what changed; ends the actor when it has drained.
    fn settle(&mut self, me: &ActorRef<Msg>) {
        let now = pulse_of(&self.state);
        let changed = self.pulse.send_if_modified(|last| {
            let changed = *last != now;
            *last = now;
            changed
        });
        if changed {
            self.beat.now();
            metrics::gauge!("within_gang_slots_free").set(f64::from(self.state.slots_free()));
        }
        while self.ranks.try_join_next().is_some() {}
        while self.reports.try_join_next().is_some() {}
        if self.draining && self.state.is_idle() {
            me.stop(None);
        }
    }

    /// A rank could not take its device: no other gets it. Without devices the worker takes nothing more, as what it
    /// says of itself is no longer so.
    fn lose_device(&mut self, key: &GangKey, rank: u32, now: UnixMs) -> Vec<Effect> {
        let Some(ordinal) = self.devices.remove(&(key.clone(), rank)) else { return Vec::new() };
        let left = lock(&self.seats).lose(ordinal);
        tracing::error!(ordinal, left, "a CUDA device could not be taken and is not used any more");
        if left == 0 { self.state.on_retire(now) } else { Vec::new() }
    }

    fn perform(&mut self, me: &ActorRef<Msg>, effect: Effect) {
        match effect {
            Effect::Spawn { key, fence, generation, rank, world_size, joining, work, trace } => {
                let seat = lock(&self.seats).take();
                let config = RankConfig {
                    connection: self.config.connection.clone(),
                    artifacts: self.env.artifacts.root().display().to_string(),
                    work: *work,
                    fence,
                    generation,
                    rank,
                    world_size,
                    joining,
                    threads: self.config.threads_per_rank(),
                    device: seat.map(|(_, ordinal)| ordinal),
                    devices: self.config.devices.ordinals.clone(),
                    cubins: self.config.cubins.clone(),
                    collective_tls: self.config.collective_tls,
                    collective_interface: self.config.routes.interface.clone(),
                    worker: self.env.identity.worker.clone(),
                    host: self.env.identity.host.clone(),
                    trace,
                };
                if let Some((_, ordinal)) = seat {
                    self.devices.insert((key.clone(), rank), ordinal);
                }
                let (signals, receiver) = mpsc::channel(SIGNAL_CAPACITY);
                self.signals.insert((key.clone(), rank), signals);
                let me = me.clone();
                let heard = move |heard| {
                    me.cast(Msg::Heard { key: key.clone(), heard }).ok();
                };
                metrics::counter!("within_ranks_started_total").increment(1);
                let rank = child::run(
                    child::Program {
                        command: self.config.rank_command.clone(),
                        environment: self.config.routes.environment(),
                    },
                    config,
                    self.env.bus.clone(),
                    receiver,
                    self.spares.clone(),
                    heard,
                );
                let seats = self.seats.clone();
                self.ranks.spawn(async move {
                    rank.await;
                    if let Some((seat, _)) = seat {
                        lock(&seats).give_back(seat);
                    }
                });
            }
            Effect::Signal { key, rank, signal } => {
                if let Some(signals) = self.signals.get(&(key, rank))
                    && signals.try_send(signal).is_err()
                {
                    tracing::debug!(rank, "a rank ended before its signal");
                }
            }
            Effect::Report { key, fence, body } => self.report(me.clone(), key, fence, body),
        }
    }

    fn report(&mut self, me: ActorRef<Msg>, key: GangKey, fence: Fence, body: ReportBody) {
        if let ReportBody::Failed { error } = &body {
            tracing::warn!(job = %key.job, attempt = key.attempt, %error, "a gang has failed");
        }
        let teller = Teller {
            bus: self.env.bus.clone(),
            job: key.job.clone(),
            task: key.task.clone(),
            attempt: key.attempt,
            fence,
            worker: self.env.identity.worker.clone(),
            trace: None,
            vitals: Arc::new(Vitals::default()),
        };
        self.reports.spawn(async move {
            if let Err(error) = teller.report(body).await {
                // The coordinator finds out by the lease that this worker's heartbeats no longer list.
                tracing::warn!(job = %key.job, %error, "a gang's end could not be reported");
            }
            me.cast(Msg::Reported { key }).ok();
        });
    }
}

fn lock(seats: &Mutex<Seats>) -> MutexGuard<'_, Seats> {
    seats.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tasks that feed the actor: offers, control messages, time, the order to drain.
async fn sources(env: &RoleEnv, me: &ActorRef<Msg>) -> Result<JoinSet<()>, ActorProcessingErr> {
    let mut sources = JoinSet::new();
    let worker = &env.identity.worker;
    let mut offers = env.bus.serve(&env.bus.subjects().offer(worker), None).await?;
    let to = me.clone();
    sources.spawn(async move {
        // One at a time, so that the mailbox cannot grow with them.
        while let Some(incoming) = offers.next().await {
            answer(&to, incoming).await;
        }
    });
    for subject in env.bus.subjects().ctl_of(worker) {
        let mut controls = env.bus.subscribe(&subject).await?;
        let to = me.clone();
        sources.spawn(async move {
            while let Some(message) = controls.next().await {
                if let Some(control) = control(&message)
                    && to.cast(Msg::Control(Box::new(control))).is_err()
                {
                    return;
                }
            }
        });
    }
    let (to, drain) = (me.clone(), env.drain.clone());
    sources.spawn(async move {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut draining = false;
        loop {
            let message = tokio::select! {
                _ = ticks.tick() => Msg::Tick,
                () = drain.cancelled(), if !draining => {
                    draining = true;
                    Msg::Drain
                }
            };
            if to.cast(message).is_err() {
                return;
            }
        }
    });
    Ok(sources)
}

async fn answer(to: &ActorRef<Msg>, incoming: Incoming) {
    let envelope = match incoming.decode::<Offer>() {
        Ok(envelope) => envelope,
        Err(error) => return incoming.reply::<OfferAnswer>(Err(error)).await,
    };
    let (answer, answered) = oneshot::channel();
    let message = Msg::Offer { offer: Box::new(envelope.data), trace: envelope.traceparent, answer };
    let said = match to.cast(message) {
        Ok(()) => answered.await.map_err(|_| stopping()),
        Err(_) => Err(stopping()),
    };
    incoming.reply(said).await;
}

fn stopping() -> WireError {
    WireError::new(Code::NoCapacity, "the trainer of this worker stops")
}

fn control(message: &RawMessage) -> Option<Control> {
    match message.decode::<Control>() {
        Ok(envelope) => Some(envelope.data),
        Err(error) => {
            tracing::warn!(%error, "a control message could not be read");
            None
        }
    }
}
