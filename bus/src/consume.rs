//! Reading streams: events and logs in order without acknowledgements, events by a durable consumer
//! with them, and submissions.

use std::collections::VecDeque;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use bytes::Bytes;
use messages::envelope::{Envelope, EnvelopeError, Payload};
use messages::event::{Event, LogLine};
use messages::job::Role;
use messages::subject::{CONSUMER_NOTIFIER, CONSUMER_SUBMIT, HEADER_CONTENT_TYPE, STREAM_EVT, STREAM_LOG, STREAM_WORK};
use messages::{JobId, UnixMs};
use tokio::time::Instant;

use crate::Bus;
use crate::error::{ErrorKind, Result};
use crate::message::Headers;
use crate::pull::{Acker, Delivery, Pulled, Puller, Replay, ReplayFrom};

/// Events that a durable reader asks for at once.
const DURABLE_BATCH: usize = 64;
/// Pause before an event that could not be dead-lettered comes again.
const RETRY_POISON: Duration = Duration::from_secs(5);

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// The oldest message kept.
    First,
    /// What is stored from now on.
    New,
    /// This sequence of the stream, inclusive.
    Sequence(u64),
    /// The first message stored at or after this time.
    Time(UnixMs),
}

impl From {
    fn replay(self) -> ReplayFrom {
        match self {
            Self::First => ReplayFrom::First,
            Self::New => ReplayFrom::New,
            Self::Sequence(sequence) => ReplayFrom::Sequence(sequence),
            Self::Time(at) => ReplayFrom::Time(at),
        }
    }
}

/// An event as the stream holds it.
pub struct StoredEvent {
    /// Of the stream: grows by the order of storing, over all jobs.
    pub sequence: u64,
    pub stored_at: UnixMs,
    pub subject: String,
    pub envelope: Envelope<Event>,
    /// How often a durable consumer delivered it, this time included; 1 for an ordered reader.
    pub delivered: u64,
    acker: Option<Acker>,
}

impl StoredEvent {
    /// Done with it. Nothing to do for an ordered reader.
    pub async fn ack(&self) -> Result<()> {
        self.send(AckKind::Ack).await
    }

    /// To be delivered again after `delay`; later events may come before it.
    pub async fn nak(&self, delay: Duration) -> Result<()> {
        self.send(AckKind::Nak(Some(delay))).await
    }

    /// Never to be delivered again to this consumer.
    pub async fn term(&self) -> Result<()> {
        self.send(AckKind::Term).await
    }

    /// Still being worked on: the ack wait begins again.
    pub async fn in_progress(&self) -> Result<()> {
        self.send(AckKind::Progress).await
    }

    async fn send(&self, kind: AckKind) -> Result<()> {
        match &self.acker {
            Some(acker) => acker.send(kind).await,
            None => Ok(()),
        }
    }
}

impl std::fmt::Debug for StoredEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredEvent")
            .field("sequence", &self.sequence)
            .field("envelope", &self.envelope)
            .finish_non_exhaustive()
    }
}

fn decode<T: Payload>(delivery: &Delivery) -> Result<Envelope<T>, EnvelopeError> {
    Envelope::decode(delivery.header(HEADER_CONTENT_TYPE), &delivery.payload)
}

fn stored_event(delivery: Delivery, envelope: Envelope<Event>, acker: Option<Acker>) -> StoredEvent {
    StoredEvent {
        sequence: delivery.sequence,
        stored_at: delivery.stored_at,
        subject: delivery.subject,
        envelope,
        delivered: delivery.delivered,
        acker,
    }
}

/// Events in the order in which they were stored. Heals itself over reconnects and server restarts,
/// without loss or repetition.
pub struct Events {
    replay: Replay,
}

impl Events {
    /// The next event; None when nothing came within `wait`. What is no event is passed over.
    pub async fn next(&mut self, wait: Duration) -> Result<Option<StoredEvent>> {
        let until = Instant::now() + wait;
        loop {
            let Some(delivery) = self.replay.next(until.saturating_duration_since(Instant::now())).await? else {
                return Ok(None);
            };
            match decode::<Event>(&delivery) {
                Ok(envelope) => return Ok(Some(stored_event(delivery, envelope, None))),
                Err(error) => {
                    tracing::warn!(subject = delivery.subject, sequence = delivery.sequence, %error, "not an event: passed over");
                }
            }
        }
    }

    /// Whether nothing followed the last event when the server sent it.
    pub fn caught_up(&self) -> bool {
        self.replay.caught_up()
    }
}

/// A stored log line.
#[derive(Debug)]
pub struct StoredLog {
    pub sequence: u64,
    pub stored_at: UnixMs,
    /// Who wrote it: `rank0`, `prepare` …: the subject's last token.
    pub source: String,
    pub envelope: Envelope<LogLine>,
}

/// Log lines of a job, in the order in which they were stored.
pub struct Logs {
    replay: Replay,
}

impl Logs {
    /// The next line; None when nothing came within `wait`.
    pub async fn next(&mut self, wait: Duration) -> Result<Option<StoredLog>> {
        let until = Instant::now() + wait;
        loop {
            let Some(delivery) = self.replay.next(until.saturating_duration_since(Instant::now())).await? else {
                return Ok(None);
            };
            match decode::<LogLine>(&delivery) {
                Ok(envelope) => {
                    let source = delivery.subject.rsplit('.').next().unwrap_or_default().to_owned();
                    return Ok(Some(StoredLog {
                        sequence: delivery.sequence,
                        stored_at: delivery.stored_at,
                        source,
                        envelope,
                    }));
                }
                Err(error) => {
                    tracing::warn!(subject = delivery.subject, sequence = delivery.sequence, %error, "not a log line: passed over");
                }
            }
        }
    }

    /// Whether nothing followed the last line when the server sent it.
    pub fn caught_up(&self) -> bool {
        self.replay.caught_up()
    }
}

/// A consumer that is made again where somebody deleted it.
enum Durable {
    Submissions,
    Events { consumer: String, types: Vec<String> },
}

impl Durable {
    async fn ensure(&self, bus: &Bus) -> Result<()> {
        match self {
            Self::Submissions => bus.ensure_submit_consumer().await,
            Self::Events { consumer, types } => bus.ensure_event_consumer(consumer, types).await,
        }
    }
}

/// Pulls from a durable consumer. When the reader was busy for longer than a third of the ack wait,
/// what was fetched for it meanwhile is given back and asked for again, in order, so that nothing is
/// worked on after it was delivered to another.
struct DurablePull {
    bus: Bus,
    durable: Durable,
    puller: Puller,
    batch: usize,
    buffer: VecDeque<Delivery>,
    /// When the reader last asked.
    asked_at: Instant,
}

impl DurablePull {
    async fn open(bus: &Bus, stream: &str, consumer: &str, durable: Durable, batch: usize) -> Result<Self> {
        durable.ensure(bus).await?;
        let puller = Puller::new(bus, &bus.subjects().scoped(stream), consumer, batch);
        Ok(Self { bus: bus.clone(), durable, puller, batch, buffer: VecDeque::new(), asked_at: Instant::now() })
    }

    async fn next(&mut self, until: Instant) -> Result<Option<Delivery>> {
        let stale = Duration::from_millis(self.bus.timings().ack_wait_ms / 3);
        if self.asked_at.elapsed() > stale {
            self.give_back().await?;
        }
        let next = self.next_fresh(until).await;
        self.asked_at = Instant::now();
        next
    }

    /// Gives back what lies here and what is on its way, in order.
    async fn give_back(&mut self) -> Result<()> {
        if self.puller.is_waiting() {
            self.buffer.extend(self.puller.take_back().await);
        }
        while let Some(delivery) = self.buffer.pop_front() {
            delivery.acker.send(AckKind::Nak(None)).await?;
        }
        Ok(())
    }

    async fn next_fresh(&mut self, until: Instant) -> Result<Option<Delivery>> {
        loop {
            if let Some(delivery) = self.buffer.pop_front() {
                if delivery.delivered > 1 {
                    metrics::counter!("within_bus_redelivered_total").increment(1);
                }
                return Ok(Some(delivery));
            }
            match self.puller.next(until).await? {
                Pulled::Delivery(delivery) => {
                    self.buffer.push_back(*delivery);
                    self.fill().await?;
                }
                Pulled::Nothing => return Ok(None),
                Pulled::Gone(reason) => {
                    if Instant::now() >= until {
                        return Ok(None);
                    }
                    tracing::warn!(reason, "a durable consumer is gone: making it again");
                    match self.durable.ensure(&self.bus).await {
                        Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unreachable) => {}
                        ensured => ensured?,
                    }
                    tokio::time::sleep(crate::pubsub::FIRST_PAUSE).await;
                }
            }
        }
    }

    /// Takes what has arrived already.
    async fn fill(&mut self) -> Result<()> {
        while self.buffer.len() < self.batch {
            match self.puller.next(Instant::now()).await? {
                Pulled::Delivery(delivery) => self.buffer.push_back(*delivery),
                Pulled::Nothing | Pulled::Gone(_) => break,
            }
        }
        Ok(())
    }
}

/// Events of a durable consumer: each until it is acknowledged, also after an absence.
pub struct DurableEvents {
    pull: DurablePull,
    role: Role,
}

impl DurableEvents {
    /// The next event, to be acknowledged within the ack wait; None when nothing came within `wait`.
    /// What is no event goes to the dead letters.
    pub async fn next(&mut self, wait: Duration) -> Result<Option<StoredEvent>> {
        let until = Instant::now() + wait;
        loop {
            let Some(delivery) = self.pull.next(until).await? else { return Ok(None) };
            match decode::<Event>(&delivery) {
                Ok(envelope) => {
                    let acker = delivery.acker.clone();
                    return Ok(Some(stored_event(delivery, envelope, Some(acker))));
                }
                Err(error) => self.poison(&delivery, &error).await?,
            }
        }
    }

    async fn poison(&self, delivery: &Delivery, error: &EnvelopeError) -> Result<()> {
        let job = delivery.subject.rsplit('.').nth(1).unwrap_or_default();
        let reason = error.to_string();
        let kept = self.pull.bus.dead_letter(self.role, job, &reason, &delivery.subject, &delivery.payload).await;
        match kept {
            Ok(()) => delivery.acker.send(AckKind::Term).await,
            Err(error) => {
                tracing::error!(%error, "a message that is no event could not be put to the dead letters");
                delivery.acker.send(AckKind::Nak(Some(RETRY_POISON))).await
            }
        }
    }
}

/// What came on `job.submit` or `job.cancel`, as it came. To be acknowledged when its outcome is
/// stored.
pub struct Submission {
    pub subject: String,
    pub headers: Headers,
    pub payload: Bytes,
    pub sequence: u64,
    pub stored_at: UnixMs,
    /// How often it was delivered, this time included.
    pub delivered: u64,
    acker: Acker,
}

impl Submission {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// `submit` or `cancel`: the subject's last token.
    pub fn verb(&self) -> &str {
        self.subject.rsplit('.').next().unwrap_or_default()
    }

    pub fn decode<T: Payload>(&self) -> Result<Envelope<T>, EnvelopeError> {
        Envelope::decode(self.header(HEADER_CONTENT_TYPE), &self.payload)
    }

    pub async fn ack(&self) -> Result<()> {
        self.acker.send(AckKind::Ack).await
    }

    /// To be delivered again after `delay`.
    pub async fn nak(&self, delay: Duration) -> Result<()> {
        self.acker.send(AckKind::Nak(Some(delay))).await
    }

    /// Never to be delivered again; put it to the dead letters first.
    pub async fn term(&self) -> Result<()> {
        self.acker.send(AckKind::Term).await
    }

    /// Still being worked on: the ack wait begins again.
    pub async fn in_progress(&self) -> Result<()> {
        self.acker.send(AckKind::Progress).await
    }
}

/// Submissions and cancellations of the durable stream, one at a time.
pub struct Submissions {
    pull: DurablePull,
}

impl Submissions {
    /// The next one; None when nothing came within `wait`.
    pub async fn next(&mut self, wait: Duration) -> Result<Option<Submission>> {
        let delivery = self.pull.next(Instant::now() + wait).await?;
        Ok(delivery.map(|delivery| Submission {
            subject: delivery.subject,
            headers: Headers::new(delivery.headers),
            payload: delivery.payload,
            sequence: delivery.sequence,
            stored_at: delivery.stored_at,
            delivered: delivery.delivered,
            acker: delivery.acker,
        }))
    }
}

impl Bus {
    /// Events in order, of one job or of all.
    pub async fn events(&self, job: Option<&JobId>, from: From) -> Result<Events> {
        let filter = job.map_or_else(|| self.subjects().evt_all(), |job| self.subjects().evt_of(job));
        Ok(Events { replay: self.replay(STREAM_EVT, filter, from).await? })
    }

    /// Log lines of a job, in order.
    pub async fn logs(&self, job: &JobId, from: From) -> Result<Logs> {
        Ok(Logs { replay: self.replay(STREAM_LOG, self.subjects().log_of(job), from).await? })
    }

    /// Sequence of the first message stored at or after a time; the next one if there is none yet.
    pub(crate) async fn first_since(&self, stream: &str, filter: String, at: UnixMs) -> Result<u64> {
        let mut replay = Replay::new(self.clone(), self.subjects().scoped(stream), filter, ReplayFrom::Time(at));
        replay.open().await?;
        Ok(replay.position() + 1)
    }

    async fn replay(&self, stream: &str, filter: String, from: From) -> Result<Replay> {
        let mut replay = Replay::new(self.clone(), self.subjects().scoped(stream), filter, from.replay());
        replay.open().await?;
        Ok(replay)
    }

    /// Events of the given types (none: all) for a durable consumer, which is created, or given these
    /// types, as needed.
    pub async fn durable_events(&self, consumer: &str, types: &[&str]) -> Result<DurableEvents> {
        let types = types.iter().map(|name| (*name).to_owned()).collect();
        let durable = Durable::Events { consumer: consumer.to_owned(), types };
        let pull = DurablePull::open(self, STREAM_EVT, consumer, durable, DURABLE_BATCH).await?;
        let role = if consumer == CONSUMER_NOTIFIER { Role::Notifier } else { Role::Tracker };
        Ok(DurableEvents { pull, role })
    }

    /// Submissions and cancellations. For the leading coordinator.
    pub async fn submissions(&self) -> Result<Submissions> {
        let pull = DurablePull::open(self, STREAM_WORK, CONSUMER_SUBMIT, Durable::Submissions, 1).await?;
        Ok(Submissions { pull })
    }
}
