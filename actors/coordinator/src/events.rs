//! Events leave in order: all events of one job pass through one lane, each acknowledged before the
//! next; different jobs go side by side.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use bus::role::RoleEnv;
use bus::{ErrorKind, Once, Trouble, now_ms};
use messages::event::Event;
use messages::job::Role;
use messages::trace::TraceParent;
use messages::{Fence, JobId, UnixMs};
use ractor::ActorRef;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::warn;

use crate::actor::Msg;
use crate::state::Input;

/// Lanes side by side.
const LANES: usize = 8;
/// Events waiting in one lane; beyond, the actor waits.
const LANE_CAPACITY: usize = 4_096;
/// A mere notice is given up after so many tries; an outbox entry never is.
const NOTICE_TRIES: u32 = 5;

/// An event on its way out.
pub(crate) struct Outgoing {
    pub(crate) job: JobId,
    pub(crate) id: String,
    pub(crate) at: UnixMs,
    pub(crate) event: Event,
    pub(crate) fence: Option<(Fence, u32)>,
    pub(crate) trace: Option<TraceParent>,
    pub(crate) outbox: bool,
}

/// The lanes.
pub(crate) struct Lanes {
    senders: Vec<mpsc::Sender<Outgoing>>,
    tasks: JoinSet<()>,
}

impl Lanes {
    pub(crate) fn start(env: &RoleEnv, actor: &ActorRef<Msg>) -> Self {
        let mut tasks = JoinSet::new();
        let senders = (0..LANES)
            .map(|_| {
                let (sender, mut receiver) = mpsc::channel::<Outgoing>(LANE_CAPACITY);
                let (env, actor) = (env.clone(), actor.clone());
                tasks.spawn(async move {
                    while let Some(outgoing) = receiver.recv().await {
                        publish(&env, &actor, outgoing).await;
                    }
                });
                sender
            })
            .collect();
        Self { senders, tasks }
    }

    pub(crate) async fn send(&self, outgoing: Outgoing) {
        let mut hasher = DefaultHasher::new();
        outgoing.job.hash(&mut hasher);
        let lane = (hasher.finish() % self.senders.len() as u64) as usize;
        // A closed lane means that the process ends; the outbox is published by the next leader.
        let _ = self.senders[lane].send(outgoing).await;
    }

    /// Lets what is on its way leave, for a bounded time.
    pub(crate) async fn drain(&mut self, grace: Duration) {
        self.senders.clear();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            warn!("events were still on their way; what is in the outbox leaves with the next leader");
        }
    }
}

async fn publish(env: &RoleEnv, actor: &ActorRef<Msg>, outgoing: Outgoing) {
    let Outgoing { job, id, at, event, fence, trace, outbox } = outgoing;
    let once = if event.is_terminal() || outbox { Once::OnSubject } else { Once::ById };
    let mut tries = 0;
    let mut trouble = Trouble::default();
    loop {
        match env.bus.publish_event(&job, &id, event.clone(), fence, trace.clone(), at, once).await {
            Ok(_) => break,
            Err(error) => {
                tries += 1;
                if trouble.is_new(&error) {
                    warn!(%job, event = event.name(), %error, "an event could not be stored; trying again");
                }
                if error.kind() == ErrorKind::Permission {
                    env.bus.cannot_run(Role::Coordinator, &error);
                }
                let give_up = if outbox { error.kind() == ErrorKind::Closed } else { tries >= NOTICE_TRIES };
                if give_up {
                    return;
                }
                trouble.pause().await;
            }
        }
    }
    if event.is_terminal() {
        metrics::counter!("within_jobs_ended_total", "event" => event.name()).increment(1);
    }
    if outbox {
        let _ = actor.cast(Msg::Input(Input::Published { job, id }));
    }
}

/// A rejected submission has no record: its outcome is this event alone, stored once.
pub(crate) fn rejection(
    job: &JobId,
    error: messages::WireError,
    errors: Vec<messages::spec::SpecError>,
    trace: Option<TraceParent>,
) -> Outgoing {
    let event = Event::Rejected { error, errors };
    Outgoing {
        job: job.clone(),
        id: messages::subject::event_msg_id(job, event.name(), 0),
        at: now_ms(),
        event,
        fence: None,
        trace,
        outbox: false,
    }
}
