//! Buckets below the level of a key-value client: reads from the stream's leader, and writes as raw
//! compare-and-set publishes. (The client's `create_with_ttl` over a tombstone, and its `update`,
//! lose the time to live.)

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::RawMessage;
use bytes::Bytes;
use messages::subject::HEADER_MSG_ID;
use serde::Deserialize;

use crate::Bus;
use crate::durable::StreamPublish;
use crate::error::{Error, ErrorKind, Result};
use crate::pull::{Replay, ReplayFrom};

/// Marks a tombstone: DEL or PURGE.
const HEADER_OPERATION: &str = "KV-Operation";
/// Marks what the server put in place of an expired entry.
const HEADER_MARKER: &str = "Nats-Marker-Reason";
const HEADER_TTL: &str = "Nats-TTL";

/// The last message of a key.
#[derive(Debug, Clone)]
pub(crate) struct KvEntry {
    pub(crate) key: String,
    pub(crate) revision: u64,
    /// None: a tombstone.
    pub(crate) value: Option<Bytes>,
    /// Id of the write.
    id: Option<String>,
}

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

/// A bucket, by its scoped name.
#[derive(Clone)]
pub(crate) struct Bucket {
    bus: Bus,
    metric: &'static str,
    stream: String,
    prefix: String,
}

/// The stream behind a bucket.
pub(crate) fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// Every key of a bucket.
pub(crate) fn bucket_subjects(bucket: &str) -> String {
    format!("$KV.{bucket}.>")
}

impl Bucket {
    /// `NotFound` if nobody has created it.
    pub(crate) async fn open(bus: &Bus, name: &'static str) -> Result<Self> {
        let scoped = bus.subjects().scoped(name);
        let bucket =
            Self { bus: bus.clone(), metric: name, stream: bucket_stream(&scoped), prefix: format!("$KV.{scoped}.") };
        bucket.exists().await.map(|()| bucket)
    }

    async fn exists(&self) -> Result<()> {
        let verb = format!("STREAM.INFO.{}", self.stream);
        self.bus.api::<serde::de::IgnoredAny>(&verb, &()).await.map(|_| ())
    }

    fn subject(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The last message of a key, tombstones included, as the leader has it.
    pub(crate) async fn last(&self, key: &str) -> Result<Option<KvEntry>> {
        let verb = format!("STREAM.MSG.GET.{}", self.stream);
        let read = serde_json::json!({ "last_by_subj": self.subject(key) });
        let found = match self.bus.api::<Found>(&verb, &read).await {
            // No message, or no bucket?
            Err(error) if error.kind() == ErrorKind::NotFound => return self.exists().await.map(|()| None),
            found => found?.message,
        };
        let message = StreamMessage::try_from(found).map_err(|error| {
            Error::new(ErrorKind::Other, format!("{}: the stored message cannot be read: {error}", self.subject(key)))
        })?;
        Ok(Some(self.entry(message.subject.as_str(), message.sequence, &message.headers, message.payload)))
    }

    fn entry(&self, subject: &str, revision: u64, headers: &HeaderMap, payload: Bytes) -> KvEntry {
        let tombstone = headers.get(HEADER_OPERATION).is_some() || headers.get(HEADER_MARKER).is_some();
        KvEntry {
            key: subject.strip_prefix(&self.prefix).unwrap_or(subject).to_owned(),
            revision,
            value: (!tombstone).then_some(payload),
            id: headers.get(HEADER_MSG_ID).map(|id| id.as_str().to_owned()),
        }
    }

    /// Writes a value if the key's last revision, tombstones included, is `expected` (0: none).
    /// Returns the new revision, or [`ErrorKind::Conflict`]. `ttl` is in whole seconds on the server.
    pub(crate) async fn write(&self, key: &str, value: Bytes, expected: u64, ttl: Option<Duration>) -> Result<u64> {
        let mut headers = HeaderMap::new();
        if let Some(ttl) = ttl {
            headers.insert(HEADER_TTL, format!("{}s", whole_seconds(ttl)).as_str());
        }
        self.compare_and_set(key, headers, value, expected).await
    }

    /// Puts a tombstone in place of the revision.
    pub(crate) async fn delete(&self, key: &str, expected: u64) -> Result<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_OPERATION, "DEL");
        self.compare_and_set(key, headers, Bytes::new(), expected).await
    }

    async fn compare_and_set(&self, key: &str, mut headers: HeaderMap, value: Bytes, expected: u64) -> Result<u64> {
        let id = self.bus.fresh_id();
        headers.insert(HEADER_MSG_ID, id.as_str());
        let publish = StreamPublish { stream: self.metric, subject: self.subject(key), headers, payload: value };
        match self.bus.publish_stored(&publish.expecting(expected)).await {
            Ok(stored) => stored.sequence.ok_or_else(|| {
                Error::new(ErrorKind::Other, format!("{}: acknowledged without a revision", self.subject(key)))
            }),
            // A first try may have been stored although its acknowledgement was lost.
            Err(error) if error.kind() == ErrorKind::Conflict => match self.last(key).await? {
                Some(entry) if entry.id.as_deref() == Some(id.as_str()) => Ok(entry.revision),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// The live entries of a bucket, by one consumer of the last message of each key.
    pub(crate) async fn all(&self) -> Result<Vec<KvEntry>> {
        let filter = format!("{}>", self.prefix);
        let mut replay = Replay::new(self.bus.clone(), self.stream.clone(), filter, ReplayFrom::LastPerSubject);
        let mut entries = std::collections::BTreeMap::new();
        let until = tokio::time::Instant::now() + self.bus.request_timeout() * 6;
        replay.open().await?;
        while !replay.caught_up() {
            if tokio::time::Instant::now() >= until {
                return Err(Error::new(
                    ErrorKind::Timeout,
                    format!("listing {} at {} takes too long", self.stream, self.bus.url()),
                ));
            }
            if let Some(message) = replay.next(self.bus.request_timeout()).await? {
                let headers = message.headers.unwrap_or_default();
                let entry = self.entry(&message.subject, message.sequence, &headers, message.payload);
                entries.insert(entry.key.clone(), entry);
            }
        }
        Ok(entries.into_values().filter(|entry| entry.value.is_some()).collect())
    }
}

/// At least one second; the server counts in whole ones.
pub(crate) fn whole_seconds(ttl: Duration) -> u64 {
    (ttl.as_millis() as u64).div_ceil(1000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_live_is_rounded_up_to_seconds() {
        for (ms, expected) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (6000, 6)] {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), expected);
        }
    }
}
