//! The actor: hands inputs to [`State`] and effects to [`Executor`]. No decisions here.

use std::collections::HashMap;
use std::io::Read;
use std::time::Duration;

use bus::role::RoleEnv;
use bus::{Incoming, now_ms};
use messages::error::Code;
use messages::job::JobRecord;
use messages::rpc::Cancel;
use messages::{JobId, WireError};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::Config;
use crate::events::Outgoing;
use crate::execute::Executor;
use crate::leadership::Tenure;
use crate::state::{Answer, Effect, Input, State, Token};

/// Before a submission comes again that found the event stream full.
const FULL_PAUSE: Duration = Duration::from_secs(2);

/// Who waits for an answer.
pub(crate) enum Waiter {
    Request(Incoming),
    /// A message of the submission stream: acknowledged once the outcome is stored.
    Stream(bus::Submission),
}

/// What reaches the actor.
pub(crate) enum Msg {
    Input(Input),
    /// What became of a read or a write of a record, in the tenure of this token.
    Stored {
        tenure: u64,
        input: Input,
    },
    /// A request whose input is waiting for an answer; `make` gets its token.
    Ask {
        waiter: Waiter,
        make: Box<dyn FnOnce(Token) -> Input + Send>,
    },
    Cancel {
        cancel: Cancel,
        waiter: Waiter,
    },
    /// Publishes an event that belongs to no record, then answers.
    Publish {
        outgoing: Box<Outgoing>,
        then: (Waiter, Answer),
    },
    /// Read-only questions.
    Get {
        job: JobId,
        incoming: Incoming,
    },
    List {
        limit: usize,
        incoming: Incoming,
    },
    /// The lease was acquired; these are the records that are not settled.
    Lead {
        tenure: Tenure,
        records: Vec<(JobRecord, u64)>,
    },
    StepDown {
        reason: String,
    },
    /// The process ends; the lease is on its way back.
    Stop {
        released: oneshot::Receiver<()>,
    },
}

pub(crate) struct Coordinator;

pub(crate) struct Running {
    env: RoleEnv,
    config: Config,
    state: State,
    executor: Executor,
    waiters: HashMap<Token, Waiter>,
    next_token: Token,
    tenure: Option<Tenure>,
    /// Of this process: what groups' tokens are made of.
    secret: [u8; 32],
    /// Subscriptions of a leader; dropped with the tenure.
    serving: Option<JoinSet<()>>,
}

/// Random bytes of the system.
fn secret() -> std::io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Starts the actor and the tasks that feed it.
pub(crate) async fn spawn(env: RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    let (actor, _) =
        Actor::spawn_linked(None, Coordinator, (env, config), supervisor).await.map_err(|error| match &error {
            SpawnErr::StartupFailed(cause) => cause.downcast_ref::<bus::Error>().map_or_else(
                || WireError::new(Code::InternalError, format!("coordinator: {cause}")),
                bus::Error::to_wire,
            ),
            _ => WireError::new(Code::InternalError, format!("coordinator: {error}")),
        })?;
    Ok(actor.get_cell())
}

impl Actor for Coordinator {
    type Msg = Msg;
    type State = Running;
    type Arguments = (RoleEnv, Config);

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        (env, config): Self::Arguments,
    ) -> Result<Running, ActorProcessingErr> {
        let store = env.bus.jobs().await?;
        let secret = secret()?;
        let executor = Executor::start(env.clone(), store, me.clone());
        crate::leadership::spawn(env.clone(), me.clone());
        crate::requests::spawn_background(&env, &me).await?;
        Ok(Running {
            state: State::new(*env.bus.timings(), secret),
            env,
            config,
            executor,
            waiters: HashMap::new(),
            next_token: 1,
            tenure: None,
            secret,
            serving: None,
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, running: &mut Running) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Input(input) => running.step(input).await,
            // What was begun in a tenure that is over says nothing about the records as they were read since.
            Msg::Stored { tenure, .. } if running.tenure.as_ref().is_none_or(|now| now.token != tenure) => {}
            Msg::Stored { input, .. } => running.step(input).await,
            Msg::Ask { waiter, make } => running.ask(waiter, make).await,
            Msg::Cancel { cancel, waiter } => {
                let make = Box::new(move |token| Input::Cancel { token: Some(token), cancel });
                running.ask(waiter, make).await;
            }
            Msg::Publish { outgoing, then: (waiter, reply) } => {
                running.executor.publish(*outgoing).await;
                tokio::spawn(answer(waiter, reply));
            }
            Msg::Get { job, incoming } => running.executor.get(running.state.record(&job).cloned(), job, incoming),
            Msg::List { limit, incoming } => {
                let limit = limit.min(running.config.list_limit);
                let live = running.state.records().cloned().collect();
                running.executor.list(live, limit, incoming);
            }
            Msg::Lead { tenure, records } => running.lead(&me, tenure, records).await?,
            Msg::StepDown { reason } => running.step_down(&reason).await,
            Msg::Stop { released } => {
                running.step_down("the process ends").await;
                running.executor.drain().await;
                let limit = Duration::from_millis(running.env.bus.timings().request_timeout_ms);
                // What is not released by then runs out by itself.
                let _ = tokio::time::timeout(limit, released).await;
                me.stop(None);
            }
        }
        Ok(())
    }
}

impl Running {
    /// A leader that slept through its lease must not act on what it knew: what waits for it here was
    /// meant for its successor. So the clock is asked before each input, and not only before each write.
    async fn leads(&mut self) -> bool {
        if self.tenure.as_ref().is_some_and(|tenure| !tenure.holds()) {
            self.step_down("the lease has run out by this process's own clock").await;
        }
        self.tenure.is_some()
    }

    async fn step(&mut self, input: Input) {
        if !self.leads().await {
            // Before it leads, a coordinator learns of workers, and does nothing about them.
            if let Input::Heartbeat(mut beat) = input {
                beat.held.clear();
                self.state.step(Input::Heartbeat(beat), now_ms());
            }
            return;
        }
        let effects = self.state.step(input, now_ms());
        self.perform(effects).await;
    }

    async fn ask(&mut self, waiter: Waiter, make: Box<dyn FnOnce(Token) -> Input + Send>) {
        if !self.leads().await {
            answer(waiter, Answer::Error(WireError::new(Code::NotLeader, "this coordinator does not lead"))).await;
            return;
        }
        let token = self.next_token;
        self.next_token += 1;
        self.waiters.insert(token, waiter);
        self.step(make(token)).await;
    }

    async fn lead(
        &mut self,
        me: &ActorRef<Msg>,
        tenure: Tenure,
        records: Vec<(JobRecord, u64)>,
    ) -> Result<(), ActorProcessingErr> {
        info!(token = tenure.token, jobs = records.len(), "this coordinator leads");
        self.executor.lead(&tenure);
        self.tenure = Some(tenure);
        for (record, revision) in records {
            let job = record.job.clone();
            self.step(Input::Loaded { job, record: Some(Box::new(record)), revision }).await;
        }
        self.serving = Some(crate::requests::serve_while_leading(&self.env, me).await?);
        Ok(())
    }

    async fn step_down(&mut self, reason: &str) {
        if let Some(tenure) = self.tenure.take() {
            tenure.end();
            if self.env.drain.is_cancelled() {
                info!(reason, "this coordinator gives the lead back");
            } else {
                warn!(reason, "this coordinator steps down");
            }
        }
        self.serving = None;
        let effects = self.state.step_down();
        self.perform(effects).await;
        self.state = State::new(*self.env.bus.timings(), self.secret);
    }

    async fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Answer { token, answer: reply } => {
                    if let Some(waiter) = self.waiters.remove(&token) {
                        tokio::spawn(answer(waiter, *reply));
                    }
                }
                other => self.executor.run(other).await,
            }
        }
        metrics::gauge!("within_coordinator_jobs").set(self.state.records().count() as f64);
    }
}

/// Pause before a submission that could not be decided comes again: half a second, then doubled, up to 16 s.
fn again_after(delivered: u64) -> Duration {
    Duration::from_millis(500 << delivered.saturating_sub(1).min(5))
}

/// Tells whoever waits. An answer that cannot be delivered is asked for again.
pub(crate) async fn answer(waiter: Waiter, answer: Answer) {
    match waiter {
        Waiter::Request(incoming) => match answer {
            Answer::Submitted(value) => incoming.reply(Ok(value)).await,
            Answer::Cancel(value) => incoming.reply(Ok(value)).await,
            Answer::Claim(value) => incoming.reply(Ok(value)).await,
            Answer::Report(value) => incoming.reply(Ok(value)).await,
            Answer::Joined(value) => incoming.reply(Ok(value)).await,
            Answer::Error(error) => incoming.reply::<()>(Err(error)).await,
        },
        Waiter::Stream(message) => {
            let done = match answer {
                Answer::Error(error) if error.code == Code::Overloaded => message.nak(FULL_PAUSE).await,
                Answer::Error(error) if error.retry => message.nak(again_after(message.delivered)).await,
                _ => message.ack().await,
            };
            if let Err(error) = done {
                // It is delivered again, and found to be a repetition.
                warn!(%error, "a submission could not be acknowledged");
            }
        }
    }
}
