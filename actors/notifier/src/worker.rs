//! Takes terminal events one by one and delivers several at once: finds each job's webhooks, executes what
//! [`crate::state`] decides, keeps the event alive meanwhile, and acknowledges it last.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bus::heartbeat::{self, Beat, Pulse};
use bus::role::RoleEnv;
use bus::{StoredEvent, now_ms};
use messages::WireError;
use messages::error::Code;
use messages::job::Role;
use messages::plan::JobPlan;
use messages::rpc::GetJob;
use messages::subject::CONSUMER_NOTIFIER;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::post::{Notice, Poster};
use crate::state::{Answer, Delivery, Effect, Policy};
use crate::target::{AllowedHosts, redacted};
use crate::{Config, notice};

/// The events that end a job.
const TYPES: [&str; 3] = ["completed", "failed", "cancelled"];
/// How long one look for the next event takes at most.
const LOOK: Duration = Duration::from_secs(1);
/// At the end: how long one look takes, and how many events are still taken.
const LAST_LOOK: Duration = Duration::from_millis(100);
const LAST_EVENTS: usize = 64;
/// Longest pause between two tries of a webhook.
const LONGEST_PAUSE_MS: u64 = 30_000;
/// Before an event comes again whose job could not be asked for.
const RETRY: Duration = Duration::from_secs(5);
/// Deliveries of an event before it goes to the dead letters.
const MAX_DELIVERIES: u64 = 20;

/// The role's task.
pub struct Notifier {
    pub env: RoleEnv,
    pub config: Config,
    pub allowed: AllowedHosts,
    pub poster: Poster,
    /// The process drains, or the actor is gone.
    pub stop: CancellationToken,
}

/// Why an event's delivery ended without its acknowledgement.
enum Undone {
    /// To be tried again after the pause.
    Later(Duration),
    /// It never can be delivered.
    Never(WireError),
}

impl Notifier {
    /// Delivers until told to stop; what is in the post then is waited for.
    pub async fn run(self) -> Result<(), WireError> {
        if !self.bound().await {
            return Ok(());
        }
        let slots = self.config.slots.max(1);
        let busy = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&busy);
        let pulse =
            move || Pulse { slots, slots_free: slots.saturating_sub(counted.load(Ordering::Relaxed)), held: vec![] };
        let (heart, beat) = heartbeat::spawn(&self.env, Role::Notifier, pulse);
        let _heart = AbortOnDropHandle::new(heart);
        let notifier = Arc::new(self);
        notifier.deliver_all(slots as usize, &busy, &beat).await
    }

    async fn deliver_all(self: &Arc<Self>, slots: usize, busy: &AtomicU32, beat: &Beat) -> Result<(), WireError> {
        let mut events = self.env.bus.durable_events(CONSUMER_NOTIFIER, &TYPES).await.map_err(|e| e.to_wire())?;
        let mut deliveries = JoinSet::new();
        while !self.stop.is_cancelled() {
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some(ended) = deliveries.join_next() => {
                    if let Err(error) = ended {
                        // Not acknowledged, so it is delivered again.
                        tracing::error!(%error, "the delivery of a notice ended by a bug");
                    }
                }
                event = events.next(LOOK), if deliveries.len() < slots => {
                    if let Some(event) = event.map_err(|e| e.to_wire())? {
                        let notifier = Arc::clone(self);
                        deliveries.spawn(async move { notifier.deliver(event).await });
                    }
                }
            }
            busy.store(u32::try_from(deliveries.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
        }
        // Events that were stored just before the drain still get their first try.
        for _ in 0..LAST_EVENTS {
            let Ok(Some(event)) = events.next(LAST_LOOK).await else { break };
            let notifier = Arc::clone(self);
            deliveries.spawn(async move { notifier.deliver(event).await });
        }
        while deliveries.join_next().await.is_some() {}
        busy.store(0, Ordering::Relaxed);
        beat.now();
        Ok(())
    }

    /// Waits until a coordinator has made the streams; false when told to stop before.
    async fn bound(&self) -> bool {
        let limit = Duration::from_millis(self.env.bus.timings().request_timeout_ms);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return false,
                bound = self.env.bus.bind(limit) => match bound {
                    Ok(()) => return true,
                    Err(error) => tracing::warn!(%error, "the notifier waits for the streams"),
                },
            }
        }
    }

    /// Delivers one event and acknowledges it, or gives it back.
    async fn deliver(&self, event: StoredEvent) {
        let third = Duration::from_millis((self.env.bus.timings().ack_wait_ms / 3).max(1));
        let mut alive = interval_at(Instant::now() + third, third);
        let outcome = {
            let work = self.notify(&event);
            tokio::pin!(work);
            loop {
                tokio::select! {
                    outcome = &mut work => break outcome,
                    _ = alive.tick() => {
                        if let Err(error) = event.in_progress().await {
                            tracing::debug!(%error, "an event in delivery could not be kept alive");
                        }
                    }
                }
            }
        };
        let job = event.envelope.jobid.as_ref().map(ToString::to_string).unwrap_or_default();
        let settled = match outcome {
            Ok(()) => event.ack().await,
            Err(Undone::Later(pause)) => event.nak(pause).await,
            Err(Undone::Never(error)) => {
                let original = serde_json::to_vec(&event.envelope).expect("invariant: an envelope serializes");
                let kept =
                    self.env.bus.dead_letter(Role::Notifier, &job, &error.to_string(), &event.subject, &original).await;
                match kept {
                    Ok(()) => event.ack().await,
                    Err(_) => event.nak(RETRY).await,
                }
            }
        };
        if let Err(error) = settled {
            tracing::warn!(job, %error, "an event could not be acknowledged: it will be delivered again");
        }
    }

    async fn notify(&self, event: &StoredEvent) -> Result<(), Undone> {
        let plan = self.plan(event).await.map_err(|error| {
            if error.retry && event.delivered < MAX_DELIVERIES {
                tracing::warn!(job = ?event.envelope.jobid, %error, "the plan of a job that ended cannot be read now");
                Undone::Later(RETRY)
            } else {
                Undone::Never(error)
            }
        })?;
        let name = event.envelope.data.name();
        let wanted =
            plan.notifications.webhooks.iter().filter(|webhook| webhook.events.iter().any(|wanted| wanted == name));
        let urls: Vec<String> = wanted.map(|webhook| webhook.url.clone()).collect();
        if urls.is_empty() {
            return Ok(());
        }
        let body = notice(&event.envelope, &plan.tracking.experiment, event.stored_at, &self.config);
        let notice = Notice {
            id: event.envelope.id.clone(),
            traceparent: event.envelope.traceparent.as_ref().map(|trace| trace.0.clone()),
            body: body.to_string().into_bytes(),
        };
        self.post_all(event, &urls, notice).await
    }

    /// The plan of the event's job, by the job's record.
    async fn plan(&self, event: &StoredEvent) -> Result<JobPlan, WireError> {
        let Some(job) = event.envelope.jobid.clone() else {
            return Err(WireError::new(Code::BadMessage, "a terminal event without the extension jobid"));
        };
        let limit = Duration::from_millis(self.env.bus.timings().request_timeout_ms);
        let record = self.env.bus.request(GetJob { job: job.clone() }, Some(&job), limit * 2).await?;
        tokio::time::timeout(limit, self.env.artifacts.get_json(&record.plan))
            .await
            .map_err(|_| {
                WireError::new(
                    Code::ArtifactStoreUnavailable,
                    format!("reading {} took longer than {limit:?}", record.plan.uri),
                )
            })?
            .map_err(|error| error.to_wire())
    }

    /// Executes the delivery's effects until it is done.
    async fn post_all(&self, event: &StoredEvent, urls: &[String], notice: Notice) -> Result<(), Undone> {
        let policy = Policy {
            attempts: self.config.attempts.max(1),
            first_pause_ms: self.config.first_pause_ms,
            longest_pause_ms: LONGEST_PAUSE_MS,
        };
        let notice = Arc::new(notice);
        let (mut delivery, effects) = Delivery::begin(policy, urls.len());
        let mut effects = VecDeque::from(effects);
        let mut posts: JoinSet<(usize, Answer)> = JoinSet::new();
        let mut wakes: BTreeSet<u64> = BTreeSet::new();
        loop {
            while let Some(effect) = effects.pop_front() {
                match effect {
                    Effect::Post { attempt, .. } if attempt > 1 && self.stop.is_cancelled() => {
                        while posts.join_next().await.is_some() {}
                        return Err(Undone::Later(Duration::ZERO));
                    }
                    Effect::Post { webhook, attempt } => {
                        self.post(&mut posts, webhook, attempt, &urls[webhook], &notice);
                    }
                    Effect::WakeAt { at } => {
                        wakes.insert(at);
                    }
                    Effect::DeadLetter { webhook, reason } => {
                        self.dead_letter(event, webhook, &urls[webhook], &reason, &notice).await?;
                    }
                    Effect::Acknowledge => return Ok(()),
                }
            }
            let pause = wakes.first().map(|at| Duration::from_millis(at.saturating_sub(now_ms())));
            tokio::select! {
                Some(posted) = posts.join_next() => {
                    let Ok((webhook, answer)) = posted else { return Err(Undone::Later(RETRY)) };
                    count(&urls[webhook], &answer);
                    effects.extend(delivery.on_answer(webhook, answer, now_ms()));
                }
                () = sleep(pause.unwrap_or_default()), if pause.is_some() => {
                    wakes.pop_first();
                    effects.extend(delivery.on_time(now_ms()));
                }
                () = self.stop.cancelled(), if posts.is_empty() => return Err(Undone::Later(Duration::ZERO)),
            }
        }
    }

    fn post(
        &self,
        posts: &mut JoinSet<(usize, Answer)>,
        webhook: usize,
        attempt: u32,
        url: &str,
        notice: &Arc<Notice>,
    ) {
        let (poster, notice) = (self.poster.clone(), Arc::clone(notice));
        let target = self.allowed.check(url);
        tracing::debug!(webhook = redacted(url), attempt, event = notice.id, "posting a notice");
        posts.spawn(async move {
            let answer = match target {
                Ok(url) => poster.post(&url, &notice).await,
                Err(error) => Answer::Refused { reason: error.message },
            };
            (webhook, answer)
        });
    }

    /// Keeps what a webhook did not get; each webhook's is its own message.
    async fn dead_letter(
        &self,
        event: &StoredEvent,
        webhook: usize,
        url: &str,
        reason: &str,
        notice: &Notice,
    ) -> Result<(), Undone> {
        let job = event.envelope.jobid.as_ref().map(ToString::to_string).unwrap_or_default();
        let body = String::from_utf8_lossy(&notice.body);
        let original = json!({ "webhook": webhook, "url": redacted(url), "notice": body }).to_string();
        let reason = format!("webhook {}: {reason}", redacted(url));
        let kept = self.env.bus.dead_letter(Role::Notifier, &job, &reason, &event.subject, original.as_bytes()).await;
        kept.map_err(|error| {
            tracing::warn!(%error, "an undelivered notice could not be put to the dead letters");
            Undone::Later(RETRY)
        })
    }
}

fn count(url: &str, answer: &Answer) {
    let result = match answer {
        Answer::Status { code: 200..=299, .. } => "delivered",
        _ => "failed",
    };
    metrics::counter!("within_notifier_posts_total", "result" => result).increment(1);
    match answer {
        Answer::Status { code: 200..=299, .. } => tracing::info!(webhook = redacted(url), "a notice was delivered"),
        answer => tracing::warn!(webhook = redacted(url), ?answer, "a notice was not delivered"),
    }
}
