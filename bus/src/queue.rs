//! The way of a queue task, once for all roles: pull one when a slot is free, claim its lease at the
//! coordinator, keep the message alive while the role works, report until the report counted or was
//! refused, and only then acknowledge.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use futures::StreamExt;
use messages::envelope::Envelope;
use messages::error::Code;
use messages::job::Role;
use messages::rpc::{Claim, ClaimAnswer, Report, ReportAnswer, ReportBody};
use messages::subject::{HEADER_CONTENT_TYPE, STREAM_WORK, consumer_work};
use messages::trace::TraceParent;
use messages::work::{TaskOutput, Work};
use messages::worker::{Control, HeldLease};
use messages::{Fence, JobId, TaskId, WireError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::error::{Error, ErrorKind, Result};
use crate::message::Subscription;
use crate::now_ms;
use crate::pubsub::FIRST_PAUSE;
use crate::pull::{Acker, Delivery, Pulled, Puller};
use crate::role::RoleEnv;
use crate::trouble::Trouble;

/// A finished task is reported for this long at most.
const MAX_REPORT: Duration = Duration::from_mins(10);
/// Pause before a message comes again that could not be claimed or dead-lettered.
const RETRY: Duration = Duration::from_secs(1);
/// How many orders to stop are remembered, for claims that are granted at the same moment.
const MAX_STOPS: usize = 1_024;

/// Whether the result counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The coordinator has it.
    Accepted,
    /// The lease has passed on, the job has ended, or no coordinator could be reached before the
    /// job's deadline: leave no trace.
    Fenced,
}

/// The queue of one role in one process.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
}

struct Shared {
    env: RoleEnv,
    role: Role,
    slots: u32,
    free: Arc<Semaphore>,
    /// Stop pulling: this queue, or the process, drains.
    stop: CancellationToken,
    /// Messages in hand.
    in_flight: watch::Sender<u32>,
    /// The pull loop runs.
    pulling: watch::Sender<bool>,
    leases: Mutex<Leases>,
    runtime: tokio::runtime::Handle,
    /// Ends the listening to orders with the last task in hand.
    _ended: DropGuard,
}

#[derive(Default)]
struct Leases {
    held: HashMap<LeaseKey, (HeldLease, CancellationToken)>,
    stops: VecDeque<(JobId, TaskId, Fence)>,
}

type LeaseKey = (JobId, TaskId, u32);

/// Starts pulling tasks of `role`; at most `slots` are in flight. Stops pulling when `env.drain` is
/// cancelled.
pub async fn start(env: &RoleEnv, role: Role, slots: u32, deliver: mpsc::Sender<Leased>) -> Result<Queue> {
    let ended = CancellationToken::new();
    let shared = Arc::new(Shared {
        env: env.clone(),
        role,
        slots,
        free: Arc::new(Semaphore::new(slots as usize)),
        stop: env.drain.child_token(),
        in_flight: watch::Sender::new(0),
        pulling: watch::Sender::new(true),
        leases: Mutex::default(),
        runtime: tokio::runtime::Handle::current(),
        _ended: ended.clone().drop_guard(),
    });
    let bus = &env.bus;
    for subject in bus.subjects().ctl_of(&env.identity.worker) {
        let orders = bus.subscribe(&subject).await?;
        let (ended, shared) = (ended.clone(), Arc::downgrade(&shared));
        tokio::spawn(async move { ended.run_until_cancelled(follow_orders(shared, orders)).await });
    }
    // Held by the pull loop and every task in hand; ends with the last of them.
    tokio::spawn(Arc::clone(&shared).pull(deliver));
    Ok(Queue { shared })
}

impl Queue {
    /// The leases that this process believes to hold, for its heartbeat.
    pub fn held(&self) -> Vec<HeldLease> {
        self.shared.leases().held.values().map(|(lease, _)| lease.clone()).collect()
    }

    pub fn slots_free(&self) -> u32 {
        self.shared.slots.saturating_sub(*self.shared.in_flight.borrow())
    }

    /// Stops pulling and waits until nothing is in flight. Tasks in hand are finished or released by
    /// the role; what was pulled and not begun is given back.
    pub async fn drain(&self) {
        self.shared.stop.cancel();
        // The senders live as long as `self`.
        self.shared.pulling.subscribe().wait_for(|pulling| !pulling).await.ok();
        self.shared.in_flight.subscribe().wait_for(|count| *count == 0).await.ok();
    }
}

/// A place for one message in hand.
struct Slot {
    shared: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn new(shared: &Arc<Shared>, permit: OwnedSemaphorePermit) -> Self {
        shared.count(|count| *count += 1);
        Self { shared: Arc::clone(shared), _permit: permit }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.count(|count| *count -= 1);
    }
}

/// Sends in-progress acks until dropped.
struct KeepAlive(AbortHandle);

impl KeepAlive {
    fn spawn(acker: Acker, every: Duration) -> Self {
        let task: JoinHandle<()> = tokio::spawn(async move {
            loop {
                sleep(every).await;
                // A failure is healed by the next one; at worst the message is delivered again.
                acker.send(AckKind::Progress).await.ok();
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What belongs to a granted lease until it is reported.
struct Hold {
    slot: Slot,
    acker: Acker,
    key: LeaseKey,
    lease: HeldLease,
    trace: Option<TraceParent>,
    _keep_alive: KeepAlive,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.slot.shared.leases().held.remove(&self.key);
    }
}

/// A task that this process may work on. Dropped without [`Leased::finish`] (a panic), it is given
/// back.
pub struct Leased {
    pub work: Work,
    pub fence: Fence,
    /// The coordinator wants it stopped: it was cancelled, or its lease has passed on.
    pub cancelled: CancellationToken,
    pub trace: Option<TraceParent>,
    hold: Option<Hold>,
}

impl Leased {
    /// Reports the result until the coordinator has taken or refused it (bounded by the job's
    /// deadline, and by 10 minutes), then acknowledges the message.
    pub async fn finish(mut self, result: Result<TaskOutput, WireError>) -> Finish {
        let Some(hold) = self.hold.take() else { return Finish::Fenced };
        let body = match result {
            Ok(output) => ReportBody::Done { output },
            Err(error) => ReportBody::Failed { error },
        };
        hold.finish(body, self.work.deadline_at).await
    }

    /// Gives the task back unfinished.
    pub async fn release(mut self, reason: &str) {
        if let Some(hold) = self.hold.take() {
            hold.release(reason).await;
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            let runtime = hold.slot.shared.runtime.clone();
            runtime.spawn(async move { hold.release("its worker dropped it unfinished").await });
        }
    }
}

impl Hold {
    async fn report(&self, body: ReportBody, within: Duration) -> Result<ReportAnswer, WireError> {
        let env = &self.slot.shared.env;
        let lease = &self.lease;
        let report = Report {
            job: lease.job.clone(),
            task: lease.task.clone(),
            attempt: lease.attempt,
            fence: lease.fence,
            worker: env.identity.worker.clone(),
            body,
        };
        env.bus.request_in_trace(report, Some(&lease.job), self.trace.clone(), within).await
    }

    async fn finish(self, body: ReportBody, deadline_at: messages::UnixMs) -> Finish {
        let shared = &self.slot.shared;
        let left = Duration::from_millis(deadline_at.saturating_sub(now_ms()));
        let within = left.min(MAX_REPORT).max(shared.env.bus.request_timeout() * 2);
        let mut answer = self.report(body, within).await;
        if let Err(error) = &answer
            && error.code == Code::TooLarge
        {
            let error =
                WireError::new(Code::TooLarge, format!("the task's result is too large to report: {}", error.message));
            answer = self.report(ReportBody::Failed { error }, within).await;
        }
        let HeldLease { job, task, attempt, fence, .. } = &self.lease;
        let (ack, finish) = match answer {
            Ok(ReportAnswer::Accepted) => (AckKind::Ack, Finish::Accepted),
            Ok(ReportAnswer::Fenced { reason }) => {
                tracing::warn!(role = %shared.role, %job, %task, attempt, %fence, reason, "the result came too late");
                (AckKind::Ack, Finish::Fenced)
            }
            Err(error) => {
                tracing::error!(role = %shared.role, %job, %task, attempt, %fence, %error, "the result could not be reported");
                (AckKind::Nak(Some(RETRY)), Finish::Fenced)
            }
        };
        self.settle(ack).await;
        finish
    }

    async fn release(self, reason: &str) {
        let shared = &self.slot.shared;
        let within = shared.env.bus.request_timeout() * 3;
        let released = self.report(ReportBody::Released { reason: reason.to_owned() }, within).await;
        if let Err(error) = released {
            // The coordinator sees by the heartbeats that nobody holds it.
            let HeldLease { job, task, attempt, .. } = &self.lease;
            tracing::warn!(role = %shared.role, %job, %task, attempt, %error, "a task is given back without the coordinator");
        }
        self.settle(AckKind::Nak(None)).await;
    }

    async fn settle(&self, ack: AckKind) {
        if let Err(error) = self.acker.send(ack).await {
            // It is delivered again, and the coordinator answers that it is gone.
            tracing::debug!(%error, "an acknowledgement could not be sent");
        }
    }
}

impl Shared {
    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut u32)) {
        self.in_flight.send_modify(change);
        metrics::gauge!("within_queue_in_flight", "role" => self.role.as_str())
            .set(f64::from(*self.in_flight.borrow()));
    }

    async fn pull(self: Arc<Self>, deliver: mpsc::Sender<Leased>) {
        let bus = &self.env.bus;
        let stream = bus.subjects().scoped(STREAM_WORK);
        let mut puller = Puller::new(bus, &stream, &consumer_work(self.role), 1);
        let mut trouble = Trouble::default();
        loop {
            let pulled = tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                // The role has stopped without draining, as by a panic: its successor has its own queue.
                () = deliver.closed() => None,
                pulled = self.pull_one(&mut puller, &mut trouble) => pulled,
            };
            let Some((delivery, permit)) = pulled else { break };
            trouble.over();
            let slot = Slot::new(&self, permit);
            tokio::spawn(handle(slot, delivery, deliver.clone()));
        }
        for delivery in puller.take_back().await {
            delivery.acker.send(AckKind::Nak(None)).await.ok();
        }
        self.pulling.send_replace(false);
    }

    /// The next message, once a slot is free for it; None: the connection is closed. May be dropped at
    /// any await: what was on its way is taken back from the puller.
    async fn pull_one(&self, puller: &mut Puller, trouble: &mut Trouble) -> Option<(Delivery, OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
        loop {
            let until = Instant::now() + self.env.bus.request_timeout();
            match puller.next(until).await {
                Ok(Pulled::Delivery(delivery)) => return Some((*delivery, permit)),
                Ok(Pulled::Nothing) => {}
                Ok(Pulled::Gone(reason)) => {
                    if trouble.is_new_kind(ErrorKind::NotFound) {
                        tracing::warn!(role = %self.role, reason, "no tasks can be pulled");
                    }
                    if let Err(error) = self.env.bus.ensure_work_consumer(self.role).await {
                        self.tell(trouble, &error);
                    }
                    trouble.pause().await;
                }
                Err(error) if error.kind() == ErrorKind::Closed => return None,
                Err(error) => {
                    self.tell(trouble, &error);
                    trouble.pause().await;
                }
            }
        }
    }

    /// Without the permission to pull, the role cannot run.
    fn tell(&self, trouble: &mut Trouble, error: &Error) {
        if error.kind() == ErrorKind::Permission {
            self.env.bus.cannot_run(self.role, error);
        }
        if trouble.is_new(error) {
            tracing::warn!(role = %self.role, %error, "no tasks can be pulled");
        }
    }

    /// Takes the lease into the books. It is cancelled already if the order to stop was faster.
    fn book(&self, lease: &HeldLease) -> (LeaseKey, CancellationToken) {
        let key = (lease.job.clone(), lease.task.clone(), lease.attempt);
        let token = CancellationToken::new();
        let mut leases = self.leases();
        if leases
            .stops
            .iter()
            .any(|(job, task, fence)| *job == lease.job && *task == lease.task && *fence >= lease.fence)
        {
            token.cancel();
        }
        leases.held.insert(key.clone(), (lease.clone(), token.clone()));
        (key, token)
    }

    fn stop_task(&self, job: JobId, task: TaskId, fence: Fence, reason: &str) {
        let mut leases = self.leases();
        for (lease, token) in leases.held.values() {
            if lease.job == job && lease.task == task && lease.fence <= fence {
                tracing::info!(role = %self.role, %job, %task, fence = %lease.fence, reason, "told to stop a task");
                token.cancel();
            }
        }
        if leases.stops.len() >= MAX_STOPS {
            leases.stops.pop_front();
        }
        leases.stops.push_back((job, task, fence));
    }
}

async fn follow_orders(shared: std::sync::Weak<Shared>, mut orders: Subscription) {
    while let Some(message) = orders.next().await {
        let Some(shared) = shared.upgrade() else { return };
        match message.decode::<Control>() {
            Ok(Envelope { data: Control::StopTask { job, task, fence, reason }, .. }) => {
                shared.stop_task(job, task, fence, &reason);
            }
            // The process listens to the others.
            Ok(_) => {}
            Err(error) => tracing::warn!(subject = message.subject, %error, "an order that cannot be read"),
        }
    }
}

/// One message, from its delivery to its lease.
async fn handle(slot: Slot, delivery: Delivery, deliver: mpsc::Sender<Leased>) {
    let shared = Arc::clone(&slot.shared);
    if delivery.delivered > 1 {
        metrics::counter!("within_bus_redelivered_total").increment(1);
    }
    let ack_wait = Duration::from_millis(shared.env.bus.timings().ack_wait_ms);
    let keep_alive = KeepAlive::spawn(delivery.acker.clone(), (ack_wait / 3).max(Duration::from_millis(50)));
    let envelope = match Envelope::<Work>::decode(delivery.header(HEADER_CONTENT_TYPE), &delivery.payload) {
        Ok(envelope) => envelope,
        Err(error) => return bury(&shared, &delivery, &error.to_string()).await,
    };
    let settle = match claim(&shared, &envelope).await {
        Ok(ClaimAnswer::Granted { fence }) => {
            return lend(slot, delivery.acker, keep_alive, envelope, fence, deliver).await;
        }
        Ok(ClaimAnswer::Gone { reason }) => {
            tracing::debug!(role = %shared.role, subject = delivery.subject, reason, "a task is gone");
            AckKind::Ack
        }
        Ok(ClaimAnswer::Busy { retry_after_ms }) => {
            AckKind::Nak(Some(Duration::from_millis(retry_after_ms).max(FIRST_PAUSE)))
        }
        Err(error) if error.retry || error.code == Code::PermissionDenied => {
            tracing::warn!(role = %shared.role, subject = delivery.subject, %error, "a task could not be claimed");
            AckKind::Nak(Some(RETRY))
        }
        Err(error) => return bury(&shared, &delivery, &error.to_string()).await,
    };
    delivery.acker.send(settle).await.ok();
}

/// Dead letters first, then terminated: never lost in between.
async fn bury(shared: &Shared, delivery: &Delivery, reason: &str) {
    let job = delivery.subject.rsplit('.').nth(1).unwrap_or_default();
    let bus = &shared.env.bus;
    let settle = match bus.dead_letter(shared.role, job, reason, &delivery.subject, &delivery.payload).await {
        Ok(()) => AckKind::Term,
        Err(error) => {
            tracing::error!(role = %shared.role, subject = delivery.subject, %error, "no dead letter could be written");
            AckKind::Nak(Some(RETRY))
        }
    };
    delivery.acker.send(settle).await.ok();
}

/// Asks for the lease. A process that drains waits for one more answer at most.
async fn claim(shared: &Shared, envelope: &Envelope<Work>) -> Result<ClaimAnswer, WireError> {
    let (bus, work) = (&shared.env.bus, &envelope.data);
    let claim = Claim {
        job: work.job.clone(),
        task: work.task.clone(),
        attempt: work.attempt,
        worker: shared.env.identity.worker.clone(),
    };
    let within = Duration::from_millis(bus.timings().claim_timeout_ms);
    let asked = bus.request_in_trace(claim, Some(&work.job), envelope.traceparent.clone(), within);
    tokio::pin!(asked);
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        () = shared.stop.cancelled() => timeout(bus.request_timeout(), asked)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "the process drains").to_wire())),
    }
}

/// Hands the task to the role, or back if the role takes none any more.
async fn lend(
    slot: Slot,
    acker: Acker,
    keep_alive: KeepAlive,
    envelope: Envelope<Work>,
    fence: Fence,
    deliver: mpsc::Sender<Leased>,
) {
    let Envelope { data: work, traceparent, .. } = envelope;
    let shared = Arc::clone(&slot.shared);
    let lease =
        HeldLease { job: work.job.clone(), task: work.task.clone(), attempt: work.attempt, fence, ranks: Vec::new() };
    let (key, cancelled) = shared.book(&lease);
    let hold = Hold { slot, acker, key, lease, trace: traceparent.clone(), _keep_alive: keep_alive };
    let leased = Leased { work, fence, cancelled, trace: traceparent, hold: Some(hold) };
    if shared.stop.is_cancelled() {
        return leased.release("the worker drains").await;
    }
    if let Err(mpsc::error::SendError(leased)) = deliver.send(leased).await {
        leased.release("the role has stopped").await;
    }
}
