//! Does what the state decided: compare-and-set, publications, offers, controls.

use std::sync::Arc;
use std::time::Duration;

use bus::jobs::JobStore;
use bus::role::RoleEnv;
use bus::{Bus, ErrorKind, Incoming, Trouble};
use messages::error::Code;
use messages::gang::{Offer, OfferAnswer};
use messages::job::{JobRecord, Role};
use messages::rpc::{JobList, JobSummary};
use messages::trace::TraceParent;
use messages::{Envelope, JobId, WireError};
use ractor::ActorRef;
use tokio::sync::Semaphore;
use tracing::{debug, warn};

use crate::actor::Msg;
use crate::events::{Lanes, Outgoing};
use crate::leadership::Tenure;
use crate::state::{Effect, Input};

/// Commits and publications that are under way at once.
const PARALLEL: usize = 128;
/// How long the events that are on their way may take at the end.
const DRAIN_GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Executor {
    env: RoleEnv,
    store: JobStore,
    actor: ActorRef<Msg>,
    lanes: Lanes,
    permits: Arc<Semaphore>,
    tenure: Option<Tenure>,
}

impl Executor {
    pub(crate) fn start(env: RoleEnv, store: JobStore, actor: ActorRef<Msg>) -> Self {
        let lanes = Lanes::start(&env, &actor);
        Self { env, store, actor, lanes, permits: Arc::new(Semaphore::new(PARALLEL)), tenure: None }
    }

    pub(crate) fn lead(&mut self, tenure: &Tenure) {
        self.tenure = Some(tenure.clone());
    }

    pub(crate) async fn drain(&mut self) {
        self.lanes.drain(DRAIN_GRACE).await;
    }

    pub(crate) async fn run(&mut self, effect: Effect) {
        match effect {
            Effect::Commit { record, revision } => self.commit(*record, revision),
            Effect::Load { job } => self.load(job),
            Effect::PublishWork { role, work, trace } => {
                let (bus, permits, tenure) = (self.env.bus.clone(), Arc::clone(&self.permits), self.tenure.clone());
                tokio::spawn(async move {
                    let _permit = permits.acquire().await;
                    let mut trouble = Trouble::default();
                    while tenure.as_ref().is_some_and(Tenure::holds) {
                        let Err(error) = bus.publish_work(role, &work, trace.clone()).await else { return };
                        if trouble.is_new(&error) {
                            warn!(job = %work.job, task = %work.task, %error, "work could not be queued; trying again");
                        }
                        end_if_denied(&bus, &error);
                        trouble.pause().await;
                    }
                });
            }
            Effect::PublishOutbox { job, entry, trace } => {
                let event =
                    Outgoing { job, id: entry.id, at: entry.at, event: entry.event, fence: None, trace, outbox: true };
                self.lanes.send(event).await;
            }
            Effect::Emit { job, id, event, fence, trace } => {
                let id = format!("evt.{job}.{id}");
                let event = Outgoing { job, id, at: bus::now_ms(), event: *event, fence, trace, outbox: false };
                self.lanes.send(event).await;
            }
            Effect::Offer { worker, job, task, attempt, offer, trace } => {
                let (env, actor) = (self.env.clone(), self.actor.clone());
                tokio::spawn(async move {
                    let answer = ask(&env, &worker, *offer, trace).await;
                    let _ = actor.cast(Msg::Input(Input::Offered { worker, job, task, attempt, answer }));
                });
            }
            Effect::Control { worker, control } => {
                let env = self.env.clone();
                tokio::spawn(async move {
                    let subject = env.bus.subjects().ctl(&worker, control.verb());
                    let envelope = envelope(&env, control);
                    if let Err(error) = env.bus.publish(&subject, &envelope).await {
                        debug!(%worker, %error, "a control message was not sent; the next heartbeat repeats it");
                    }
                });
            }
            Effect::Answer { .. } => unreachable!("invariant: the actor answers"),
        }
    }

    fn commit(&self, record: JobRecord, revision: u64) {
        let (store, actor, permits) = (self.store.clone(), self.actor.clone(), Arc::clone(&self.permits));
        let bus = self.env.bus.clone();
        let Some(tenure) = self.tenure.clone() else { return };
        tokio::spawn(async move {
            let _permit = permits.acquire().await;
            let job = record.job.clone();
            let mut trouble = Trouble::default();
            let tell = |input| actor.cast(Msg::Stored { tenure: tenure.token, input }).ok();
            // Not leading any more: nothing is written, and the actor is about to forget everything.
            while tenure.holds() {
                let outcome = match revision {
                    0 => store.create(&record).await,
                    _ => store.update(&record, revision).await,
                };
                match outcome {
                    Ok(revision) => {
                        tell(Input::Committed { job, revision });
                        return;
                    }
                    Err(error) if error.kind() == ErrorKind::Conflict => {
                        debug!(%job, revision, "the record was written by somebody else");
                        tell(Input::Conflicted { job });
                        return;
                    }
                    Err(error) => {
                        if trouble.is_new(&error) {
                            warn!(%job, %error, "the record could not be written; trying again");
                        }
                        end_if_denied(&bus, &error);
                        trouble.pause().await;
                    }
                }
            }
        });
    }

    fn load(&self, job: JobId) {
        let (store, actor) = (self.store.clone(), self.actor.clone());
        let Some(tenure) = self.tenure.clone() else { return };
        tokio::spawn(async move {
            let mut trouble = Trouble::default();
            while tenure.holds() {
                match store.get(&job).await {
                    Ok(found) => {
                        let (record, revision) = found.map_or((None, 0), |(r, revision)| (Some(Box::new(r)), revision));
                        let input = Input::Loaded { job, record, revision };
                        let _ = actor.cast(Msg::Stored { tenure: tenure.token, input });
                        return;
                    }
                    Err(error) => {
                        if trouble.is_new(&error) {
                            warn!(%job, %error, "the record could not be read; trying again");
                        }
                        trouble.pause().await;
                    }
                }
            }
        });
    }

    /// The record as it is known, or as it is stored.
    pub(crate) fn get(&self, live: Option<JobRecord>, job: JobId, incoming: Incoming) {
        let store = self.store.clone();
        tokio::spawn(async move {
            let found = match live {
                Some(record) => Ok(record),
                None => stored(&store, &job).await,
            };
            incoming.reply(found).await;
        });
    }

    pub(crate) fn list(&self, live: Vec<JobRecord>, limit: usize, incoming: Incoming) {
        let store = self.store.clone();
        tokio::spawn(async move {
            let answer = store.all().await.map_err(|error| error.to_wire()).map(|stored| {
                let live: std::collections::BTreeMap<_, _> = live.into_iter().map(|r| (r.job.clone(), r)).collect();
                let mut jobs: Vec<JobSummary> =
                    stored.into_iter().map(|(record, _)| summary(live.get(&record.job).unwrap_or(&record))).collect();
                jobs.sort_by(|a, b| b.submitted_at.cmp(&a.submitted_at).then_with(|| a.job.cmp(&b.job)));
                jobs.truncate(limit);
                JobList { jobs }
            });
            incoming.reply(answer).await;
        });
    }

    pub(crate) async fn publish(&self, outgoing: Outgoing) {
        self.lanes.send(outgoing).await;
    }
}

/// A coordinator that may not write cannot run.
fn end_if_denied(bus: &Bus, error: &bus::Error) {
    if error.kind() == ErrorKind::Permission {
        bus.cannot_run(Role::Coordinator, error);
    }
}

async fn stored(store: &JobStore, job: &JobId) -> Result<JobRecord, WireError> {
    match store.get(job).await {
        Ok(Some((record, _))) => Ok(record),
        Ok(None) => Err(WireError::new(Code::JobNotFound, format!("no job {job}"))),
        Err(error) => Err(error.to_wire()),
    }
}

fn summary(record: &JobRecord) -> JobSummary {
    JobSummary {
        job: record.job.clone(),
        name: record.name.clone(),
        state: record.state,
        submitted_at: record.submitted_at,
        since: record.since,
        detail: crate::state::detail(record),
    }
}

async fn ask(
    env: &RoleEnv,
    worker: &messages::WorkerId,
    offer: Offer,
    trace: Option<TraceParent>,
) -> Option<OfferAnswer> {
    let subject = env.bus.subjects().offer(worker);
    let timings = env.bus.timings();
    let timeout = Duration::from_millis(timings.request_timeout_ms.min(timings.reserve_timeout_ms));
    match env.bus.request_traced::<Offer, OfferAnswer>(&subject, offer, trace, timeout).await {
        Ok(answer) => Some(answer),
        Err(error) => {
            debug!(%worker, %error, "an offer was not answered");
            None
        }
    }
}

/// An envelope of this coordinator.
pub(crate) fn envelope<T: messages::envelope::Payload>(env: &RoleEnv, data: T) -> Envelope<T> {
    let now = bus::now_ms();
    let source = format!("/within/coordinator/{}", env.identity.worker);
    Envelope::new(format!("{}.{now}", env.identity.worker), source, now, data)
}
