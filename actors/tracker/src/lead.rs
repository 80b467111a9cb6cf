//! Standing by and leading. One tracker of a tenant holds the lease; it alone projects, records and answers.
//! The lease's token stands in the database, so a leader that slept through its lease can write nothing.

use std::time::Duration;

use bus::heartbeat::{self, Beat, Pulse};
use bus::lease::LeaseKeeper;
use bus::queue::{self, Leased, Queue};
use bus::role::RoleEnv;
use messages::WireError;
use messages::error::Code;
use messages::job::Role;
use messages::subject::{LEASE_TRACKER, STREAM_EVT};
use messages::work::TaskOutput;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::ErrorKind;
use crate::projection::{self, AHEAD, Projected};
use crate::recorder::{Prepared, prepare};
use crate::service;
use crate::state::{Resume, resume};
use crate::store::{Reader, Writer};
use crate::{Config, row::RowSet};

/// Events of one transaction.
const BATCH: usize = 1_024;
/// Between two looks for events that are old enough to be discarded.
const CLEAN_UP_EVERY: Duration = Duration::from_mins(10);
/// Tries to write a batch to a database that is full or held, a pause apart, before the role gives up.
const WRITE_TRIES: u32 = 30;
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// Why leading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Told to stop; all is given back or finished.
    Stopped,
    /// The lease is another's, or may be.
    Lost,
}

/// The role's task.
pub struct Tracker {
    pub env: RoleEnv,
    pub config: Config,
    pub reader: Reader,
    /// The process drains, or the actor is gone.
    pub stop: CancellationToken,
}

impl Tracker {
    /// Stands by and leads, in turns, until told to stop.
    pub async fn run(self, mut writer: Writer) -> Result<(), WireError> {
        let timings = *self.env.bus.timings();
        if !self.bound().await {
            return Ok(());
        }
        let mut keeper =
            self.env.bus.lease(LEASE_TRACKER, self.env.identity.worker.as_str()).await.map_err(|e| e.to_wire())?;
        let (announce, announced) = watch::channel(None::<Queue>);
        let slots = self.config.slots.max(1);
        let pulse = move || {
            let queue = announced.borrow();
            queue.as_ref().map_or_else(Pulse::default, |queue| Pulse {
                slots,
                slots_free: queue.slots_free(),
                held: queue.held(),
            })
        };
        let (heart, beat) = heartbeat::spawn(&self.env, Role::Tracker, pulse);
        let _heart = AbortOnDropHandle::new(heart);
        while !self.stop.is_cancelled() {
            match keeper.acquire().await {
                Ok(Some(token)) => {
                    tracing::info!(token = token.0, "this tracker leads");
                    let term = Term { tracker: &self, beat: &beat, announce: &announce };
                    let ended = term.lead(&mut keeper, &mut writer, token.0).await;
                    announce.send_replace(None);
                    if let Err(error) = keeper.release().await {
                        tracing::debug!(%error, "the tracker's lease could not be given back: it runs out by itself");
                    }
                    if ended? == Ended::Lost {
                        tracing::warn!("this tracker leads no more: it stands by");
                    }
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "the tracker's lease cannot be asked for"),
            }
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = sleep(Duration::from_millis(timings.lease_ttl_ms / 3)) => {}
            }
        }
        self.reader.close().await;
        writer.close().await?;
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
                    Err(error) => tracing::warn!(%error, "the tracker waits for the streams"),
                },
            }
        }
    }
}

/// One term of leading.
struct Term<'a> {
    tracker: &'a Tracker,
    beat: &'a Beat,
    announce: &'a watch::Sender<Option<Queue>>,
}

/// The writing side of a term: the position it has reached.
struct Projection<'a> {
    writer: &'a mut Writer,
    stream: String,
    position: u64,
}

impl Term<'_> {
    async fn lead(&self, keeper: &mut LeaseKeeper, writer: &mut Writer, token: u64) -> Result<Ended, WireError> {
        let env = &self.tracker.env;
        let mut projection = self.take_over(writer, token).await?;
        let (rows_in, mut rows) = mpsc::channel(AHEAD);
        let reading = projection::read(env.clone(), projection.position + 1, rows_in);
        let mut reading = AbortOnDropHandle::new(tokio::spawn(reading));
        let requests = service::listen(env).await.map_err(|e| e.to_wire())?;
        let _service = AbortOnDropHandle::new(tokio::spawn(service::answer_all(requests, self.tracker.reader.clone())));
        let slots = self.tracker.config.slots.max(1);
        let (deliver, mut leased) = mpsc::channel::<Leased>(slots as usize);
        let queue = queue::start(env, Role::Tracker, slots, deliver).await.map_err(|e| e.to_wire())?;
        self.announce.send_replace(Some(queue.clone()));
        self.beat.now();

        let (ready_in, mut ready) = mpsc::channel::<Prepared>(slots as usize);
        let mut renewal = interval(Duration::from_millis(env.bus.timings().lease_ttl_ms / 3));
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clean_up = interval(CLEAN_UP_EVERY);
        clean_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tasks = JoinSet::new();
        let mut draining: Option<AbortOnDropHandle<()>> = None;
        let mut batch: Vec<Projected> = Vec::new();
        let ended = loop {
            tokio::select! {
                biased;
                _ = renewal.tick() => {
                    if !still_held(keeper).await {
                        break Ok(Ended::Lost);
                    }
                }
                Some(prepared) = ready.recv() => {
                    if !projection.record(keeper, prepared, &mut tasks).await {
                        break Ok(Ended::Lost);
                    }
                }
                _ = clean_up.tick() => {
                    tasks.spawn(discard_old(env.clone(), self.tracker.config.event_max_age_s, projection.position));
                }
                Some(task) = leased.recv() => self.begin(task, &ready_in, &mut tasks),
                Some(_) = tasks.join_next() => self.beat.now(),
                () = self.tracker.stop.cancelled(), if draining.is_none() => {
                    let queue = queue.clone();
                    draining = Some(AbortOnDropHandle::new(tokio::spawn(async move { queue.drain().await })));
                }
                () = done(draining.as_mut()) => break Ok(Ended::Stopped),
                count = rows.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        break Err(reading_ended(&mut reading).await);
                    }
                    match projection.write(keeper, &batch).await {
                        Ok(true) => batch.clear(),
                        Ok(false) => break Ok(Ended::Lost),
                        Err(error) => break Err(error),
                    }
                }
            }
        };
        give_back(&queue, leased, ready, tasks).await;
        ended
    }

    /// Becomes the writer and finds where the projection goes on.
    async fn take_over<'w>(&self, writer: &'w mut Writer, token: u64) -> Result<Projection<'w>, WireError> {
        let bus = &self.tracker.env.bus;
        let stream = bus.subjects().scoped(STREAM_EVT);
        let mut position = writer.take_over(&stream, token).await?;
        let topology = bus.topology().await.map_err(|e| e.to_wire())?;
        let found = topology.into_iter().find(|found| found.name == stream);
        let (first, last) = found.map_or((0, 0), |found| (found.first_sequence, found.last_sequence));
        match resume(position, last) {
            Resume::Recreated => {
                tracing::warn!(
                    stream,
                    position,
                    last,
                    "the event stream is another one than was projected (it ends before the position): projecting it from its beginning"
                );
                writer.restart(&stream).await?;
                position = 0;
            }
            Resume::From(next) if next < first && position > 0 => {
                tracing::error!(
                    stream,
                    position,
                    first,
                    lost = first - next,
                    "events were discarded before they were projected"
                );
            }
            Resume::From(_) => {}
        }
        tracing::info!(stream, position, last, "the projection goes on");
        Ok(Projection { writer, stream, position })
    }

    /// Fetches what a record task needs, beside the writer.
    fn begin(&self, task: Leased, ready: &mpsc::Sender<Prepared>, tasks: &mut JoinSet<()>) {
        let (env, ready) = (self.tracker.env.clone(), ready.clone());
        tasks.spawn(async move {
            let prepared = prepare(&env, task).await;
            if let Err(unsent) = ready.send(prepared).await {
                unsent.0.leased.release("the tracker leads no more").await;
            }
        });
        self.beat.now();
    }
}

impl Projection<'_> {
    /// Writes a batch and moves the position. False: another writes.
    async fn write(&mut self, keeper: &mut LeaseKeeper, batch: &[Projected]) -> Result<bool, WireError> {
        let Some(last) = batch.last().map(|projected| projected.sequence) else { return Ok(true) };
        let sets: Vec<RowSet> = batch.iter().filter_map(|projected| projected.rows.clone()).collect();
        for left in (0..WRITE_TRIES).rev() {
            if !keeper.is_held() {
                return Ok(false);
            }
            match self.writer.apply(&self.stream, self.position, last, &sets).await {
                Ok(applied) => {
                    self.position = last;
                    metrics::counter!("within_tracker_events_total").increment(batch.len() as u64);
                    metrics::counter!("within_tracker_refused_total").increment(applied.refused as u64);
                    metrics::gauge!("within_tracker_position").set(last as f64);
                    if applied.refused > 0 {
                        tracing::warn!(refused = applied.refused, "rows of an older lease were refused");
                    }
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Fenced => {
                    tracing::warn!(%error, "fenced");
                    return Ok(false);
                }
                Err(error) if left == 0 => return Err(error.to_wire()),
                Err(error) => {
                    tracing::warn!(%error, left, "events cannot be written now: trying again");
                    sleep(WRITE_PAUSE).await;
                    if !still_held(keeper).await {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(false)
    }

    /// Writes the rows of a record task and reports it, the latter beside the writer. False: another writes.
    async fn record(&mut self, keeper: &LeaseKeeper, prepared: Prepared, tasks: &mut JoinSet<()>) -> bool {
        let Prepared { leased, rows } = prepared;
        if !keeper.is_held() {
            leased.release("the tracker leads no more").await;
            return false;
        }
        let run = leased.work.job.to_string();
        let result = match rows {
            _ if leased.cancelled.is_cancelled() => {
                Err(WireError::new(Code::Cancelled, format!("recording run {run} was stopped")))
            }
            Err(error) => Err(error),
            Ok(set) => match self.writer.record(&self.stream, &set).await {
                Ok(true) => Ok(TaskOutput::Recorded { run }),
                Ok(false) => {
                    Err(WireError::new(Code::Fenced, format!("run {run} is being recorded under a newer lease")))
                }
                Err(error) if error.kind() == ErrorKind::Fenced => {
                    leased.release("another tracker writes").await;
                    return false;
                }
                Err(error) => Err(error.to_wire()),
            },
        };
        metrics::counter!("within_tracker_records_total", "result" => if result.is_ok() { "done" } else { "failed" })
            .increment(1);
        tasks.spawn(async move {
            leased.finish(result).await;
        });
        true
    }
}

/// Discards what is older than `age_s` and projected.
async fn discard_old(env: RoleEnv, age_s: u64, position: u64) {
    let before = bus::now_ms().saturating_sub(age_s.saturating_mul(1_000));
    match env.bus.discard_events(before, position).await {
        Ok(0) => {}
        Ok(count) => tracing::info!(count, position, "old events were discarded"),
        // The next look comes by itself.
        Err(error) => tracing::warn!(%error, "old events could not be discarded"),
    }
}

async fn reading_ended(reading: &mut AbortOnDropHandle<Result<(), bus::Error>>) -> WireError {
    match reading.await {
        Ok(Err(error)) => error.to_wire(),
        Ok(Ok(())) => WireError::new(Code::InternalError, "the reader of the event stream ended by itself"),
        Err(error) => WireError::new(Code::InternalError, format!("the reader of the event stream ended: {error}")),
    }
}

/// Renews the lease; false when it is, or may be, another's.
async fn still_held(keeper: &mut LeaseKeeper) -> bool {
    match keeper.renew().await {
        Ok(held) => held,
        Err(error) => {
            tracing::debug!(%error, "the tracker's lease could not be renewed");
            keeper.is_held()
        }
    }
}

/// Ends when the queue is drained; never while it is not draining.
async fn done(draining: Option<&mut AbortOnDropHandle<()>>) {
    match draining {
        Some(draining) => {
            // A panic while draining ends it too.
            let _ = draining.await;
        }
        None => std::future::pending().await,
    }
}

/// Stops pulling and gives back what was not recorded; what is being reported is reported.
async fn give_back(
    queue: &Queue,
    mut leased: mpsc::Receiver<Leased>,
    mut ready: mpsc::Receiver<Prepared>,
    mut tasks: JoinSet<()>,
) {
    let queue = queue.clone();
    let mut draining = AbortOnDropHandle::new(tokio::spawn(async move { queue.drain().await }));
    let reason = "the tracker leads no more";
    loop {
        tokio::select! {
            biased;
            Some(task) = leased.recv() => task.release(reason).await,
            Some(prepared) = ready.recv() => prepared.leased.release(reason).await,
            _ = &mut draining => break,
        }
    }
    ready.close();
    while let Some(prepared) = ready.recv().await {
        prepared.leased.release(reason).await;
    }
    while tasks.join_next().await.is_some() {}
}
