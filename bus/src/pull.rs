//! Pull requests to JetStream, written here rather than taken from the client: a message is asked
//! for only when there is room for it (prefetched tasks would sit while their ack wait ticks), a
//! reconnect asks again at once, and a deleted consumer is an answer, not a silence.

use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::{HeaderMap, Message, Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use messages::UnixMs;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::Bus;
use crate::error::{Error, ErrorKind, Result};
use crate::link::{Action, Denials};
use crate::pubsub::{FIRST_PAUSE, LONGEST_PAUSE};

/// A pull request that finds nothing ends after this time at most.
const MAX_EXPIRES: Duration = Duration::from_secs(5);
/// Bytes asked for at once; larger than any one message.
const MAX_PULL_BYTES: usize = 16 * 1024 * 1024;
/// An ephemeral consumer that nobody pulls from ends after this time.
const EPHEMERAL_IDLE: Duration = Duration::from_secs(30);
/// Messages asked for at once by a replay.
const REPLAY_BATCH: usize = 256;

/// Acknowledges one delivery.
#[derive(Clone)]
pub(crate) struct Acker {
    bus: Bus,
    reply: Subject,
}

impl Acker {
    /// Sends it, bounded; the server does not answer. An ack is queue clean-up, never the truth.
    pub(crate) async fn send(&self, kind: AckKind) -> Result<()> {
        self.bus.send(&self.reply, HeaderMap::new(), Bytes::from(kind)).await
    }
}

/// A delivered message.
pub(crate) struct Delivery {
    pub(crate) subject: String,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
    /// Of the stream.
    pub(crate) sequence: u64,
    /// Of the consumer.
    pub(crate) consumer_sequence: u64,
    /// How often it was delivered, this time included.
    pub(crate) delivered: u64,
    /// How many follow.
    pub(crate) pending: u64,
    pub(crate) stored_at: UnixMs,
    pub(crate) acker: Acker,
}

impl Delivery {
    fn new(bus: &Bus, message: Message) -> Option<Self> {
        let reply = message.reply?;
        let place = Place::parse(&reply)?;
        Some(Self {
            subject: message.subject.into_string(),
            headers: message.headers,
            payload: message.payload,
            sequence: place.sequence,
            consumer_sequence: place.consumer_sequence,
            delivered: place.delivered,
            pending: place.pending,
            stored_at: place.stored_at_ns / 1_000_000,
            acker: Acker { bus: bus.clone(), reply },
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }
}

/// What the ack subject says of a delivery.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    delivered: u64,
    sequence: u64,
    consumer_sequence: u64,
    stored_at_ns: u64,
    pending: u64,
}

impl Place {
    /// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or with
    /// domain and account after `ACK` (ADR-15).
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let first = match tokens.len() {
            7 => 2,
            9.. => 4,
            _ => return None,
        };
        let number = |at: usize| tokens.get(first + at)?.parse::<u64>().ok();
        Some(Self {
            delivered: number(0)?,
            sequence: number(1)?,
            consumer_sequence: number(2)?,
            stored_at_ns: number(3)?,
            pending: number(4)?,
        })
    }
}

/// What a pull brought.
pub(crate) enum Pulled {
    Delivery(Box<Delivery>),
    /// Nothing within the time.
    Nothing,
    /// The consumer does not exist, or nobody answers for it.
    Gone(String),
}

/// Pulls from one consumer; at most one request is out.
pub(crate) struct Puller {
    bus: Bus,
    verb: String,
    batch: usize,
    /// The inbox, and what comes to it. Each request has a last token of its own there, because the
    /// server may end a request ("Batch Completed") after it was fulfilled and the next one sent.
    subscriber: Option<(String, Subscriber)>,
    serial: u64,
    /// Messages that the request in flight may still bring.
    outstanding: usize,
    /// When the request in flight has ended for sure.
    ends: Instant,
    epoch: watch::Receiver<u64>,
    denials: Denials,
}

impl Puller {
    pub(crate) fn new(bus: &Bus, stream: &str, consumer: &str, batch: usize) -> Self {
        Self {
            bus: bus.clone(),
            verb: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"),
            batch,
            subscriber: None,
            serial: 0,
            outstanding: 0,
            ends: Instant::now(),
            epoch: bus.inner.link.epoch(),
            denials: bus.inner.link.denials(),
        }
    }

    /// The next message, or nothing until `until`. May be dropped at any await without losing one.
    pub(crate) async fn next(&mut self, until: Instant) -> Result<Pulled> {
        loop {
            if self.epoch.has_changed().unwrap_or(false) {
                self.epoch.borrow_and_update();
                self.reset();
            }
            if self.outstanding == 0 {
                self.request().await?;
            }
            let Some((_, subscriber)) = self.subscriber.as_mut() else { continue };
            let (verb, wake) = (&self.verb, self.ends.min(until));
            let message = tokio::select! {
                biased;
                message = subscriber.next() => message,
                denied = self.denials.wait(Action::Publish, |subject| subject == verb) => {
                    return Err(self.bus.denied(&denied.subject));
                }
                _ = self.epoch.changed() => {
                    self.reset();
                    continue;
                }
                () = sleep_until(wake) => {
                    if Instant::now() >= self.ends {
                        // The request or its end was lost with a connection.
                        self.reset();
                    }
                    if Instant::now() >= until {
                        return Ok(Pulled::Nothing);
                    }
                    continue;
                }
            };
            match message {
                None => return Err(self.bus.closed_error(&self.verb)),
                Some(message) => {
                    if let Some(pulled) = self.on_message(message).await? {
                        return Ok(pulled);
                    }
                }
            }
        }
    }

    async fn on_message(&mut self, message: Message) -> Result<Option<Pulled>> {
        let status = message.status.map_or(200, |status| status.as_u16());
        let said = message.description.clone().unwrap_or_default();
        match status {
            200 => {
                self.outstanding = self.outstanding.saturating_sub(1);
                return Ok(Delivery::new(&self.bus, message).map(|delivery| Pulled::Delivery(Box::new(delivery))));
            }
            100 => return Ok(None),
            _ if message.subject.rsplit('.').next() != Some(self.serial.to_string().as_str()) => return Ok(None),
            _ => self.outstanding = 0,
        }
        match status {
            404 | 408 => Ok(None),
            503 => Ok(Some(Pulled::Gone("nobody answers for the consumer".into()))),
            409 if said.contains("Deleted") || said.contains("deleted") => Ok(Some(Pulled::Gone(said))),
            // The request was filled up by size, or its server gives the consumer to another.
            409 if !said.contains("Exceeded") => {
                if !said.contains("MaxBytes") && !said.contains("Batch Completed") {
                    sleep(FIRST_PAUSE).await;
                }
                Ok(None)
            }
            _ => Err(Error::new(ErrorKind::Other, format!("{}: {status} {said}", self.verb))),
        }
    }

    /// Forgets the request in flight; its inbox too, so that its late messages are not taken for ours.
    fn reset(&mut self) {
        self.outstanding = 0;
        self.subscriber = None;
    }

    async fn request(&mut self) -> Result<()> {
        let limit = self.bus.request_timeout();
        if self.subscriber.is_none() {
            let inbox = self.bus.inner.client.new_inbox();
            let subscribe = self.bus.inner.client.subscribe(format!("{inbox}.*"));
            let subscriber = match timeout(limit, subscribe).await {
                Ok(Ok(subscriber)) => subscriber,
                Ok(Err(_)) => return Err(self.bus.closed_error(&self.verb)),
                Err(_) => return Err(self.bus.stuck(&self.verb)),
            };
            self.subscriber = Some((inbox, subscriber));
        }
        let Some((inbox, _)) = &self.subscriber else { return Ok(()) };
        let expires = limit.min(MAX_EXPIRES);
        let body = json!({ "batch": self.batch, "expires": expires.as_nanos() as u64, "max_bytes": MAX_PULL_BYTES });
        self.serial += 1;
        let reply = format!("{inbox}.{}", self.serial);
        let publish = self.bus.inner.client.publish_with_reply(self.verb.clone(), reply, body.to_string().into());
        match timeout(limit, publish).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(self.bus.closed_error(&self.verb)),
            Err(_) => return Err(self.bus.stuck(&self.verb)),
        }
        self.outstanding = self.batch;
        self.ends = Instant::now() + expires + limit;
        Ok(())
    }

    /// Whether a request is in flight.
    pub(crate) fn is_waiting(&self) -> bool {
        self.outstanding > 0
    }

    /// Ends the request in flight; what it brought meanwhile, in order.
    pub(crate) async fn take_back(&mut self) -> Vec<Delivery> {
        let mut taken = Vec::new();
        self.outstanding = 0;
        let Some((_, mut subscriber)) = self.subscriber.take() else { return taken };
        let limit = self.bus.request_timeout();
        if !matches!(timeout(limit, subscriber.drain()).await, Ok(Ok(()))) {
            return taken;
        }
        while let Ok(Some(message)) = timeout(limit, subscriber.next()).await {
            taken.extend(Delivery::new(&self.bus, message));
        }
        taken
    }
}

impl Bus {
    /// The connection is down and its buffer full.
    pub(crate) fn stuck(&self, subject: &str) -> Error {
        Error::new(
            ErrorKind::Timeout,
            format!("{subject} at {}: the connection takes nothing{}", self.url(), self.link_note()),
        )
    }
}

/// Where a replay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReplayFrom {
    First,
    New,
    Sequence(u64),
    Time(UnixMs),
    /// The last message of each subject.
    LastPerSubject,
}

#[derive(Deserialize)]
struct Created {
    #[serde(default)]
    num_pending: u64,
    delivered: Delivered,
}

#[derive(Deserialize)]
struct Delivered {
    stream_seq: u64,
}

/// Reads a stream in order, without acknowledgements. Heals itself: after a reconnect, a lost message
/// or a lost consumer it goes on after the last message it gave out.
pub(crate) struct Replay {
    bus: Bus,
    stream: String,
    filter: String,
    from: ReplayFrom,
    puller: Option<Puller>,
    epoch: watch::Receiver<u64>,
    /// The last sequence that was given out, or passed over by where it begins.
    position: Option<u64>,
    consumer_sequence: u64,
    pending: Option<u64>,
    pause: Duration,
}

impl Replay {
    pub(crate) fn new(bus: Bus, stream: String, filter: String, from: ReplayFrom) -> Self {
        let epoch = bus.inner.link.epoch();
        Self {
            bus,
            stream,
            filter,
            from,
            puller: None,
            epoch,
            position: None,
            consumer_sequence: 0,
            pending: None,
            pause: FIRST_PAUSE,
        }
    }

    /// Whether nothing followed when the server last said so.
    pub(crate) fn caught_up(&self) -> bool {
        self.pending == Some(0)
    }

    /// The last sequence before what comes next; known once it is open.
    pub(crate) fn position(&self) -> u64 {
        self.position.unwrap_or_default()
    }

    /// Creates the consumer, so that [`ReplayFrom::New`] begins now.
    pub(crate) async fn open(&mut self) -> Result<()> {
        if self.puller.is_some() {
            return Ok(());
        }
        self.epoch.borrow_and_update();
        let name = self.bus.fresh_id();
        let mut config = json!({
            "name": name,
            "ack_policy": "none",
            "replay_policy": "instant",
            "max_deliver": 1,
            "filter_subject": self.filter,
            "inactive_threshold": EPHEMERAL_IDLE.as_nanos() as u64,
            "num_replicas": 1,
            "mem_storage": true,
        });
        let policy = match (self.from, self.position) {
            (ReplayFrom::LastPerSubject, _) => json!({ "deliver_policy": "last_per_subject" }),
            (_, Some(position)) => json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": position + 1 }),
            (ReplayFrom::First, None) => json!({ "deliver_policy": "all" }),
            (ReplayFrom::New, None) => json!({ "deliver_policy": "new" }),
            (ReplayFrom::Sequence(sequence), None) => {
                json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": sequence.max(1) })
            }
            (ReplayFrom::Time(at), None) => {
                json!({ "deliver_policy": "by_start_time", "opt_start_time": messages::envelope::rfc3339(at) })
            }
        };
        if let (Some(config), Some(policy)) = (config.as_object_mut(), policy.as_object()) {
            config.extend(policy.clone());
        }
        let verb = format!("CONSUMER.CREATE.{}.{name}.{}", self.stream, self.filter);
        let created: Created = self.bus.api(&verb, &json!({ "stream_name": self.stream, "config": config })).await?;
        self.position.get_or_insert(created.delivered.stream_seq);
        self.pending = Some(created.num_pending);
        self.consumer_sequence = 0;
        self.puller = Some(Puller::new(&self.bus, &self.stream, &name, REPLAY_BATCH));
        Ok(())
    }

    /// The next message; None: nothing within `wait`, or no connection. Errors are those that waiting
    /// does not heal.
    pub(crate) async fn next(&mut self, wait: Duration) -> Result<Option<Delivery>> {
        let until = Instant::now() + wait;
        loop {
            if self.epoch.has_changed().unwrap_or(false) {
                // What was on its way when the connection broke is lost to the old consumer.
                self.puller = None;
            }
            if let Err(error) = self.open().await {
                match error.kind() {
                    ErrorKind::Timeout | ErrorKind::Unreachable if Instant::now() < until => self.breathe(until).await,
                    ErrorKind::Timeout | ErrorKind::Unreachable => return Ok(None),
                    _ => return Err(error),
                }
                continue;
            }
            let Some(puller) = self.puller.as_mut() else { continue };
            let pulled = tokio::select! {
                biased;
                pulled = puller.next(until) => pulled,
                _ = self.epoch.changed() => {
                    self.puller = None;
                    continue;
                }
            };
            match pulled {
                Ok(Pulled::Nothing) => return Ok(None),
                Ok(Pulled::Delivery(delivery)) => {
                    if delivery.consumer_sequence == self.consumer_sequence + 1 {
                        self.consumer_sequence += 1;
                        self.pending = Some(delivery.pending);
                        self.pause = FIRST_PAUSE;
                        self.position = Some(delivery.sequence);
                        return Ok(Some(*delivery));
                    }
                    tracing::debug!(stream = %self.stream, "a gap in the messages: reading again from the last one");
                    self.puller = None;
                }
                Ok(Pulled::Gone(reason)) => {
                    tracing::debug!(stream = %self.stream, reason, "the consumer is gone: making another");
                    self.puller = None;
                    self.breathe(until).await;
                }
                Err(error) if matches!(error.kind(), ErrorKind::Permission | ErrorKind::Closed) => return Err(error),
                Err(error) => {
                    tracing::warn!(stream = %self.stream, %error, "reading is interrupted");
                    self.puller = None;
                    self.breathe(until).await;
                }
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    /// A growing pause, no longer than until `until`.
    async fn breathe(&mut self, until: Instant) {
        sleep_until((Instant::now() + self.pause).min(until)).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_ack_subject_are_read() {
        let expected = Some(Place {
            delivered: 2,
            sequence: 70,
            consumer_sequence: 7,
            stored_at_ns: 1_700_000_000_123_000_000,
            pending: 3,
        });
        assert_eq!(Place::parse("$JS.ACK.WITHIN_WORK.work_tracker.2.70.7.1700000000123000000.3"), expected);
        assert_eq!(Place::parse("$JS.ACK._.hash.WITHIN_WORK.work_tracker.2.70.7.1700000000123000000.3"), expected);
        assert_eq!(Place::parse("$JS.ACK._.hash.WITHIN_WORK.work_tracker.2.70.7.1700000000123000000.3.tok"), expected);
        for bad in ["", "$JS.ACK.a.b", "_INBOX.x", "$JS.ACK.s.c.x.1.1.1.1"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
