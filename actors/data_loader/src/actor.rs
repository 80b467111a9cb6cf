//! The actor: translates messages into calls of [`State`] and executes its effects.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use bus::heartbeat::{Beat, Pulse};
use bus::queue::{Finish, Leased, Queue};
use bus::role::RoleEnv;
use bus::{Incoming, RawMessage, heartbeat, now_ms, queue};
use futures::StreamExt;
use kernels::pool::{Pool, available_threads};
use messages::WireError;
use messages::error::Code;
use messages::feed::{FeedControl, OpenFeed};
use messages::job::Role;
use messages::rpc::Request;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SpawnErr};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::augment::translate::Apertium;
use crate::cache::StepCache;
use crate::feed::{Part, session};
use crate::state::{Effect, Key, PartInfo, State, Token};
use crate::{Config, feed, task};

/// The last token of the subject that credits come on.
const VERB_FEED_CONTROL: &str = "feed_control";
/// How often feeds are looked at for idleness.
const TICK: Duration = Duration::from_secs(1);

/// What reaches the actor.
pub(crate) enum Msg {
    Leased(Box<Leased>),
    Open(Incoming),
    Control(RawMessage),
    Loaded { key: Key, result: Result<Arc<Part>, WireError> },
    SentAll { feed: String },
    Tick,
    Drain,
    Stop,
}

pub(crate) struct DataLoader;

pub(crate) struct Running {
    env: RoleEnv,
    state: State,
    queue: Queue,
    beat: Beat,
    cache: Arc<StepCache>,
    /// Threads that encode and augment rows.
    pool: Arc<Pool>,
    parts: HashMap<Key, Arc<Part>>,
    feeds: HashMap<String, OpenSession>,
    waiters: HashMap<Token, Incoming>,
    next_token: Token,
    /// Subscriptions and timers; they end with the actor.
    _sources: JoinSet<()>,
    heartbeats: tokio::task::JoinHandle<()>,
}

struct OpenSession {
    granted: watch::Sender<u64>,
    closed: CancellationToken,
}

/// Starts the actor.
pub(crate) async fn spawn(env: RoleEnv, config: Config, supervisor: ActorCell) -> Result<ActorCell, WireError> {
    let (actor, _) =
        Actor::spawn_linked(None, DataLoader, (env, config), supervisor).await.map_err(|error| match &error {
            SpawnErr::StartupFailed(cause) => cause.downcast_ref::<bus::Error>().map_or_else(
                || WireError::new(Code::InternalError, format!("data_loader: {cause}")),
                bus::Error::to_wire,
            ),
            _ => WireError::new(Code::InternalError, format!("data_loader: {error}")),
        })?;
    Ok(actor.get_cell())
}

impl Actor for DataLoader {
    type Msg = Msg;
    type State = Running;
    type Arguments = (RoleEnv, Config);

    async fn pre_start(
        &self,
        me: ActorRef<Msg>,
        (env, config): Self::Arguments,
    ) -> Result<Running, ActorProcessingErr> {
        let worker = env.identity.worker.clone();
        let credit_subject = env.bus.subjects().svc_of(Role::DataLoader, &worker, VERB_FEED_CONTROL);
        let state = State::new(worker, credit_subject.clone(), env.bus.timings().feed_timeout_ms, config.cache_bytes);
        let cache = Arc::new(StepCache::of(&env.home, &env.artifacts, &config.step_cache));
        let (deliver, tasks) = mpsc::channel(config.slots.max(1) as usize);
        let queue = queue::start(&env, Role::DataLoader, config.slots, deliver).await?;
        let (held, slots) = (queue.clone(), config.slots);
        let pulse = move || Pulse { slots, slots_free: held.slots_free(), held: held.held() };
        let (heartbeats, beat) = heartbeat::spawn(&env, Role::DataLoader, pulse);
        let sources = sources(&env, &me, tasks, &credit_subject, config.program_path.as_deref()).await?;
        Ok(Running {
            env,
            state,
            queue,
            beat,
            cache,
            pool: Arc::new(Pool::new(available_threads())),
            parts: HashMap::new(),
            feeds: HashMap::new(),
            waiters: HashMap::new(),
            next_token: 1,
            _sources: sources,
            heartbeats,
        })
    }

    async fn handle(&self, me: ActorRef<Msg>, msg: Msg, running: &mut Running) -> Result<(), ActorProcessingErr> {
        let effects = match msg {
            Msg::Leased(leased) => {
                running.beat.now();
                let (env, cache) = (running.env.clone(), Arc::clone(&running.cache));
                tokio::spawn(work(env, cache, *leased, running.beat.clone()));
                Vec::new()
            }
            Msg::Open(incoming) => running.open(incoming).await,
            Msg::Control(message) => match message.decode::<FeedControl>() {
                Ok(envelope) => running.state.on_control(&envelope.data, now_ms()),
                Err(error) => {
                    tracing::warn!(%error, "a feed control message could not be read");
                    Vec::new()
                }
            },
            Msg::Loaded { key, result } => running.loaded(&key, result),
            Msg::SentAll { feed } => {
                running.feeds.remove(&feed);
                running.state.on_sent_all(&feed)
            }
            Msg::Tick => running.state.on_tick(now_ms()),
            Msg::Drain => {
                running.state.on_drain();
                let (queue, me) = (running.queue.clone(), me.clone());
                tokio::spawn(async move {
                    queue.drain().await;
                    me.cast(Msg::Stop).ok();
                });
                Vec::new()
            }
            Msg::Stop => {
                me.stop(None);
                Vec::new()
            }
        };
        for effect in effects {
            running.perform(&me, effect);
        }
        metrics::gauge!("within_feeds_open").set(running.state.open_feeds() as f64);
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<Msg>, running: &mut Running) -> Result<(), ActorProcessingErr> {
        for session in running.feeds.values() {
            session.closed.cancel();
        }
        running.heartbeats.abort();
        Ok(())
    }
}

/// The tasks that feed the actor: leased work, requests, credits, time, the order to drain.
async fn sources(
    env: &RoleEnv,
    me: &ActorRef<Msg>,
    mut tasks: mpsc::Receiver<Leased>,
    credit_subject: &str,
    program_path: Option<&OsStr>,
) -> Result<JoinSet<()>, ActorProcessingErr> {
    let mut sources = JoinSet::new();
    let open_subject = env.bus.subjects().svc(OpenFeed::ROLE, OpenFeed::VERB);
    let mut requests = env.bus.serve(&open_subject, Some(OpenFeed::ROLE.as_str())).await?;
    let mut controls = env.bus.subscribe(credit_subject).await?;
    let to = me.clone();
    sources.spawn(async move {
        while let Some(leased) = tasks.recv().await {
            if to.cast(Msg::Leased(Box::new(leased))).is_err() {
                return;
            }
        }
    });
    let to = me.clone();
    sources.spawn(async move {
        while let Some(request) = requests.next().await {
            if to.cast(Msg::Open(request)).is_err() {
                return;
            }
        }
    });
    let to = me.clone();
    sources.spawn(async move {
        while let Some(control) = controls.next().await {
            if to.cast(Msg::Control(control)).is_err() {
                return;
            }
        }
    });
    if let Some(path) = program_path
        && let Some(translator) = translator(env, path).await
    {
        sources.spawn(translator);
    }
    let (to, drain) = (me.clone(), env.drain.clone());
    sources.spawn(async move {
        let mut ticks = tokio::time::interval(TICK);
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

/// Serves translations, where this host has a translator.
async fn translator(env: &RoleEnv, program_path: &OsStr) -> Option<impl Future<Output = ()> + Send + 'static + use<>> {
    let patience = Duration::from_millis(env.bus.timings().translate_timeout_ms);
    let apertium = Apertium::find(program_path, &env.home, patience)?;
    match apertium.serve(&env.bus).await {
        Ok(serving) => Some(serving),
        // An operator's permissions may leave this out; nothing else needs it.
        Err(error) => {
            tracing::info!(%error, "this data_loader translates nothing");
            None
        }
    }
}

/// One prepare task, from its lease to its report.
async fn work(env: RoleEnv, cache: Arc<StepCache>, leased: Leased, beat: Beat) {
    let job = leased.work.job.clone();
    tracing::info!(%job, attempt = leased.work.attempt, "preparing the data");
    let result = tokio::select! {
        biased;
        result = task::run(&env, &cache, &leased) => result,
        () = env.drain.cancelled() => {
            leased.release("its worker drains").await;
            return beat.now();
        }
    };
    match &result {
        Ok(_) => tracing::info!(%job, "the data are prepared"),
        Err(error) => tracing::warn!(%job, %error, "the data could not be prepared"),
    }
    if leased.finish(result).await == Finish::Fenced {
        tracing::info!(%job, "the task had passed on");
    }
    beat.now();
}

impl Running {
    async fn open(&mut self, incoming: Incoming) -> Vec<Effect> {
        match incoming.decode::<OpenFeed>() {
            Ok(envelope) => {
                let token = self.next_token;
                self.next_token += 1;
                self.waiters.insert(token, incoming);
                let open = envelope.data;
                let expected = self.env.bus.subjects().feed(&open.job, open.subject_rank.unwrap_or(open.rank));
                self.state.on_open(token, open, &expected, now_ms())
            }
            Err(error) => {
                incoming.reply::<<OpenFeed as Request>::Answer>(Err(error)).await;
                Vec::new()
            }
        }
    }

    fn loaded(&mut self, key: &Key, result: Result<Arc<Part>, WireError>) -> Vec<Effect> {
        let info = result.map(|part| {
            let info = PartInfo {
                shards: part.shards.iter().map(|shard| shard.rows).collect(),
                row_bytes: part.row_bytes,
                bytes: part.size_bytes(),
                feature_names: part.feature_names.clone(),
            };
            self.parts.insert(key.clone(), part);
            info
        });
        self.state.on_loaded(key, info, now_ms())
    }

    fn perform(&mut self, me: &ActorRef<Msg>, effect: Effect) {
        match effect {
            Effect::Load { key, dataset, wanted } => {
                let (artifacts, pool, me) = (self.env.artifacts.clone(), Arc::clone(&self.pool), me.clone());
                tokio::spawn(async move {
                    let result = feed::load(&artifacts, &dataset, *wanted, &pool).await.map(Arc::new);
                    me.cast(Msg::Loaded { key, result }).ok();
                });
            }
            Effect::Answer { token, answer } => {
                if let Some(incoming) = self.waiters.remove(&token) {
                    tokio::spawn(incoming.reply(answer));
                }
            }
            Effect::Start { feed, subject, key, order, position, granted } => {
                let Some(part) = self.parts.get(&key).cloned() else { return };
                let (granted, credits) = watch::channel(granted);
                let closed = CancellationToken::new();
                let session = session::Session {
                    feed: feed.clone(),
                    subject,
                    maker: Arc::new(feed::frames::Maker {
                        part,
                        order,
                        artifacts: self.env.artifacts.clone(),
                        pool: Arc::clone(&self.pool),
                    }),
                    position,
                    granted: credits,
                    sequence: 0,
                    closed: closed.clone(),
                    drain: self.env.drain.clone(),
                };
                let (bus, me, name) = (self.env.bus.clone(), me.clone(), feed.clone());
                tokio::spawn(async move {
                    session::run(bus, session).await;
                    me.cast(Msg::SentAll { feed: name }).ok();
                });
                self.feeds.insert(feed, OpenSession { granted, closed });
            }
            Effect::Grant { feed, granted } => {
                if let Some(session) = self.feeds.get(&feed) {
                    session.granted.send_replace(granted);
                }
            }
            Effect::End { feed, reason } => {
                tracing::debug!(feed, reason, "a feed ended");
                if let Some(session) = self.feeds.remove(&feed) {
                    session.closed.cancel();
                }
            }
            Effect::Evict { key } => {
                self.parts.remove(&key);
            }
        }
    }
}
