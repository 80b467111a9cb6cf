//! Publishing into streams: acknowledged, repeated with the same id until it is known to be stored.
//! A time-out of a publish does not mean "not stored".

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use messages::envelope::{Encoding, Envelope, Payload};
use messages::event::{Event, LogLine};
use messages::id::is_token;
use messages::job::Role;
use messages::rpc::{Cancel, Submit};
use messages::subject::{
    HEADER_DLQ_BYTES, HEADER_DLQ_REASON, HEADER_DLQ_SUBJECT, HEADER_MSG_ID, STREAM_DLQ, STREAM_EVT, STREAM_WORK,
    work_msg_id,
};
use messages::trace::TraceParent;
use messages::work::Work;
use messages::{Fence, JobId, UnixMs};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::Bus;
use crate::api::ApiError;
use crate::error::{Error, ErrorKind, Result};
use crate::pubsub::{FIRST_PAUSE, LONGEST_PAUSE, envelope_headers, header_text};

/// A publish is repeated for this many request time-outs.
const PUBLISH_TIMEOUTS: u32 = 4;
/// Longest reason kept with a dead letter, in bytes.
const MAX_REASON_BYTES: usize = 1024;
/// The header that makes a publish a compare-and-set on its subject.
const HEADER_EXPECT: &str = "Nats-Expected-Last-Subject-Sequence";

/// How a repeated publish is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Once {
    /// By its id, within the stream's deduplication window.
    ById,
    /// For ever: the subject holds this one message.
    OnSubject,
}

/// A message that a stream holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Unknown when it was stored before the deduplication window.
    pub sequence: Option<u64>,
    /// It had been stored before.
    pub duplicate: bool,
}

/// A publish into a stream.
#[derive(Debug, Clone)]
pub(crate) struct StreamPublish {
    /// Name of the stream or bucket without the tenant, for the metric.
    pub(crate) stream: &'static str,
    pub(crate) subject: String,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

impl StreamPublish {
    fn of<T: Payload>(stream: &'static str, subject: String, envelope: &Envelope<T>) -> Self {
        Self {
            stream,
            subject,
            headers: envelope_headers(envelope, Encoding::MsgPack),
            payload: envelope.encode(Encoding::MsgPack).into(),
        }
    }

    /// The server stores it only if this is the last sequence on the subject.
    pub(crate) fn expecting(mut self, sequence: u64) -> Self {
        self.headers.insert(HEADER_EXPECT, sequence.to_string().as_str());
        self
    }
}

/// JetStream's answer to a publish.
#[derive(Deserialize)]
struct Answer {
    seq: Option<u64>,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

impl Bus {
    /// Publishes and waits for the acknowledgement. Passing trouble is waited out for a bounded time,
    /// always with the same bytes and the same id.
    pub(crate) async fn publish_stored(&self, publish: &StreamPublish) -> Result<Stored> {
        let until = Instant::now() + self.request_timeout() * PUBLISH_TIMEOUTS;
        let mut pause = FIRST_PAUSE;
        loop {
            let limit = self.request_timeout().min(until.saturating_duration_since(Instant::now()));
            let error = match self.publish_once(publish, limit).await {
                Ok(stored) => {
                    metrics::counter!("within_bus_published_total", "stream" => publish.stream).increment(1);
                    return Ok(stored);
                }
                Err(error) if matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unreachable) => {
                    // JetStream starts, or the network is slow; or there is no such stream, which waiting
                    // does not heal.
                    if self.disconnected_for().is_none() && self.lacks_stream(publish.stream).await {
                        return Err(self.no_stream(publish));
                    }
                    error
                }
                Err(error) => return Err(error),
            };
            if Instant::now() + pause >= until {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn publish_once(&self, publish: &StreamPublish, limit: Duration) -> Result<Stored> {
        let subject = &publish.subject;
        let answer =
            self.ask(subject, publish.headers.clone(), publish.payload.clone(), limit).await.map_err(|error| {
                if error.kind() == ErrorKind::Unreachable { self.no_stream(publish) } else { error }
            })?;
        let answer: Answer = serde_json::from_slice(&answer.payload).map_err(|error| {
            Error::new(
                ErrorKind::Other,
                format!("{subject}: {} answered something that is no acknowledgement", self.url()),
            )
            .because(error)
        })?;
        match answer.error {
            None => Ok(Stored { sequence: answer.seq, duplicate: answer.duplicate }),
            Some(error) => Err(self.api_error(&format!("{} at {}, {subject}", publish.stream, self.url()), &error)),
        }
    }

    fn no_stream(&self, publish: &StreamPublish) -> Error {
        let (url, subject, stream) = (self.url(), &publish.subject, publish.stream);
        Error::new(
            ErrorKind::Unreachable,
            format!(
                "no stream at {url} takes {subject}; is a coordinator running (it creates {stream}), and JetStream on?"
            ),
        )
    }

    /// Stores an event of a job. `id` is the event's id and the deduplication id. With
    /// [`Once::OnSubject`] it is stored once even when it is published again after the window.
    pub async fn publish_event(
        &self,
        job: &JobId,
        id: &str,
        event: Event,
        fence: Option<(Fence, u32)>,
        trace: Option<TraceParent>,
        at: UnixMs,
        once: Once,
    ) -> Result<Stored> {
        let subject = self.subjects().evt(job, event.name());
        let mut envelope = self.envelope_with(id.to_owned(), at, event).job(job).traced(trace);
        if let Some((fence, attempt)) = fence {
            envelope = envelope.fenced(fence, attempt);
        }
        let publish = StreamPublish::of(STREAM_EVT, subject, &envelope);
        match once {
            Once::ById => self.publish_stored(&publish).await,
            Once::OnSubject => match self.publish_stored(&publish.expecting(0)).await {
                Err(error) if error.kind() == ErrorKind::Conflict => Ok(Stored { sequence: None, duplicate: true }),
                stored => stored,
            },
        }
    }

    /// Queues one attempt at a task; the same attempt twice is stored once.
    pub async fn publish_work(&self, role: Role, work: &Work, trace: Option<TraceParent>) -> Result<Stored> {
        let id = work_msg_id(&work.job, &work.task, work.attempt);
        let mut envelope = self.envelope_with(id, crate::now_ms(), work.clone()).job(&work.job).traced(trace);
        envelope.attempt = Some(work.attempt);
        let subject = self.subjects().work(role, &work.job, &work.task);
        self.publish_stored(&StreamPublish::of(STREAM_WORK, subject, &envelope)).await
    }

    /// Hands a submission to the stream on `job.submit`. Stored means that it will be decided; the
    /// outcome is an event. [`ErrorKind::Full`] means: try later.
    pub async fn submit(&self, envelope: &Envelope<Submit>) -> Result<Stored> {
        self.has_room().await?;
        let subject = self.subjects().job_submit();
        self.publish_stored(&StreamPublish::of(STREAM_WORK, subject, envelope)).await
    }

    /// Hands a cancellation to the stream on `job.cancel`, for the next coordinator that leads.
    pub async fn cancel(&self, envelope: &Envelope<Cancel>) -> Result<Stored> {
        let subject = self.subjects().job_cancel();
        self.publish_stored(&StreamPublish::of(STREAM_WORK, subject, envelope)).await
    }

    /// Sends a log line; no acknowledgement is awaited.
    pub async fn publish_log(&self, job: &JobId, source: &str, line: LogLine) -> Result<()> {
        let envelope = self.envelope(line).job(job);
        self.publish(&self.subjects().log(job, source), &envelope).await
    }

    /// Keeps what could not be processed: the reason and the subject as headers, the original bytes
    /// as they came (cut, and said so, where they leave no room for the headers). Terminate the
    /// original only after this succeeded.
    pub async fn dead_letter(&self, role: Role, job: &str, reason: &str, subject: &str, original: &[u8]) -> Result<()> {
        let job = if is_token(job) { job } else { "unknown" };
        let mut hasher = blake3::Hasher::new();
        hasher.update(subject.as_bytes()).update(b"\n").update(original);
        let id = format!("dlq.{role}.{}", &hasher.finalize().to_hex()[..32]);
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_MSG_ID, id.as_str());
        headers.insert(HEADER_DLQ_REASON, header_text(cut(reason, MAX_REASON_BYTES)).as_str());
        headers.insert(HEADER_DLQ_SUBJECT, header_text(cut(subject, MAX_REASON_BYTES)).as_str());
        headers.insert(HEADER_DLQ_BYTES, original.len().to_string().as_str());
        let kept = &original[..original.len().min(self.max_frame_bytes())];
        let publish = StreamPublish {
            stream: STREAM_DLQ,
            subject: self.subjects().dlq(role, job),
            headers,
            payload: Bytes::copy_from_slice(kept),
        };
        self.publish_stored(&publish).await?;
        metrics::counter!("within_bus_dead_letters_total", "role" => role.as_str()).increment(1);
        tracing::warn!(%role, job, subject, reason, bytes = original.len(), "a message went to the dead letters");
        Ok(())
    }
}

/// At most `max` bytes of a text, on a character's border.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }
}
