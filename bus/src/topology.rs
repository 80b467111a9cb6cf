//! Streams, consumers and buckets. The coordinator creates them; everybody else waits until they
//! exist. What the server echoes is compared with what was asked, field by field, because an older
//! server drops what it does not know without an error.

use std::time::Duration;

use messages::UnixMs;
use messages::job::Role;
use messages::subject::{
    BUCKET_JOB, BUCKET_LEASE, BUCKET_RDZV, CONSUMER_NOTIFIER, CONSUMER_SUBMIT, STREAM_DLQ, STREAM_EVT, STREAM_LOG,
    STREAM_WORK, consumer_work,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use crate::Bus;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{bucket_stream, bucket_subjects};
use crate::pubsub::{FIRST_PAUSE, LONGEST_PAUSE};
use crate::room::Fill;

/// Messages of a queue that may be out, unacknowledged, over all workers.
const MAX_ACK_PENDING: u64 = 1_024;
/// Of a projection: what one reader may buffer.
const PROJECTION_ACK_PENDING: u64 = 2_048;
/// Events that end a job.
const TERMINAL: [&str; 4] = ["rejected", "completed", "failed", "cancelled"];
/// Created by earlier versions and pulled by none: the tracker reads by position.
const RETIRED_CONSUMER: &str = "tracker_projection";
/// How long the marker of an expired lease stays.
const LEASE_MARKER: Duration = Duration::from_mins(1);

/// Sizes of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Replicas of streams and buckets that do not exist yet; existing ones keep theirs.
    pub replicas: u32,
    /// A repeated publish of the same id within this window is stored once.
    pub duplicate_window: Duration,
    pub work_messages: u64,
    pub work_bytes: u64,
    pub event_messages: u64,
    pub event_bytes: u64,
    pub log_bytes: u64,
    pub dead_letter_bytes: u64,
    pub dead_letter_max_age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        const DAY: Duration = Duration::from_hours(24);
        Self {
            replicas: 1,
            duplicate_window: Duration::from_mins(10),
            work_messages: 200_000,
            work_bytes: 512 * MIB,
            event_messages: 50_000_000,
            event_bytes: 4 * 1024 * MIB,
            log_bytes: 1024 * MIB,
            dead_letter_bytes: 256 * MIB,
            dead_letter_max_age: 7 * DAY,
        }
    }
}

/// A stream as it is, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSummary {
    pub name: String,
    pub messages: u64,
    pub bytes: u64,
    pub first_sequence: u64,
    pub last_sequence: u64,
    /// None: unlimited.
    pub max_messages: Option<u64>,
    /// None: unlimited.
    pub max_bytes: Option<u64>,
    /// None: for ever.
    pub max_age: Option<Duration>,
    pub replicas: u64,
    /// `file` or `memory`.
    pub storage: String,
    pub consumers: Vec<ConsumerSummary>,
}

/// A durable consumer as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerSummary {
    pub name: String,
    /// Not yet delivered.
    pub pending: u64,
    /// Delivered, not yet acknowledged.
    pub ack_pending: u64,
    pub redelivered: u64,
}

#[derive(Deserialize)]
struct Info {
    config: Map<String, Value>,
    state: State,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    messages: u64,
    bytes: u64,
    first_seq: u64,
    last_seq: u64,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    name: String,
    config: Map<String, Value>,
    #[serde(default)]
    num_pending: u64,
    #[serde(default)]
    num_ack_pending: u64,
    #[serde(default)]
    num_redelivered: u64,
}

#[derive(Deserialize)]
struct ConsumerList {
    #[serde(default)]
    consumers: Option<Vec<ConsumerInfo>>,
}

#[derive(Deserialize)]
struct Purged {
    #[serde(default)]
    purged: u64,
}

fn is_bucket(name: &str) -> bool {
    [BUCKET_JOB, BUCKET_LEASE, BUCKET_RDZV].contains(&name)
}

fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Fields of `asked` that the server did not take, as `name: asked …, got …`. What the server leaves
/// out is its default.
fn differences(asked: &Map<String, Value>, echoed: &Map<String, Value>) -> Vec<String> {
    let is_default = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    asked
        .iter()
        .filter_map(|(name, asked)| match echoed.get(name) {
            Some(got) if got == asked => None,
            None if is_default(asked) => None,
            got => Some(format!("{name}: asked {asked}, got {}", got.unwrap_or(&Value::Null))),
        })
        .collect()
}

impl Bus {
    /// Creates or updates streams, consumers and buckets with the usual limits. For the coordinator.
    pub async fn ensure_topology(&self) -> Result<()> {
        self.ensure_topology_with(&Limits::default()).await
    }

    /// The same with other limits.
    pub async fn ensure_topology_with(&self, limits: &Limits) -> Result<()> {
        for stream in self.streams(limits) {
            self.ensure_stream(stream).await?;
        }
        let scoped = |name: &str| self.subjects().scoped(name);
        let work = scoped(STREAM_WORK);
        let submissions = vec![self.subjects().job_all()];
        self.ensure_consumer(&work, self.durable(CONSUMER_SUBMIT, &submissions, MAX_ACK_PENDING)).await?;
        for role in Role::QUEUE {
            self.ensure_work_consumer(role).await?;
        }
        let events = scoped(STREAM_EVT);
        self.drop_consumer(&events, RETIRED_CONSUMER).await?;
        let terminal = self.event_filters(&TERMINAL);
        match self.consumer_info(&events, CONSUMER_NOTIFIER).await {
            // The notifier narrows or widens it as it is configured.
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.ensure_consumer(&events, self.durable(CONSUMER_NOTIFIER, &terminal, PROJECTION_ACK_PENDING)).await
            }
            Err(error) => Err(error),
        }
    }

    /// Waits until a coordinator has created everything.
    pub async fn bind(&self, timeout: Duration) -> Result<()> {
        let until = Instant::now() + timeout;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.is_bound().await {
                Ok(()) => return Ok(()),
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Timeout | ErrorKind::Unreachable) =>
                {
                    error
                }
                Err(error) => return Err(error),
            };
            if Instant::now() + pause >= until {
                return Err(match error.kind() {
                    ErrorKind::NotFound => Error::new(
                        ErrorKind::NotFound,
                        format!(
                            "NATS at {} has no streams of tenant {}: start a coordinator, which creates them ({error})",
                            self.url(),
                            self.tenant()
                        ),
                    )
                    .coded(messages::error::Code::BusUnavailable),
                    _ => error,
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn is_bound(&self) -> Result<()> {
        for name in self.stream_names() {
            self.stream_info(&name).await?;
        }
        // Created last.
        self.consumer_info(&self.subjects().scoped(STREAM_EVT), CONSUMER_NOTIFIER).await.map(|_| ())
    }

    /// The streams as they are; those that do not exist are left out.
    pub async fn topology(&self) -> Result<Vec<StreamSummary>> {
        let mut summaries = Vec::new();
        for name in self.stream_names() {
            let info = match self.stream_info(&name).await {
                Ok(info) => info,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let list: ConsumerList = self.api(&format!("CONSUMER.LIST.{name}"), &json!({ "offset": 0 })).await?;
            summaries.push(summary(name, &info, list.consumers.unwrap_or_default()));
        }
        Ok(summaries)
    }

    fn stream_names(&self) -> Vec<String> {
        let scoped = |name: &str| self.subjects().scoped(name);
        let buckets = [BUCKET_JOB, BUCKET_LEASE, BUCKET_RDZV].map(|bucket| bucket_stream(&scoped(bucket)));
        [STREAM_WORK, STREAM_EVT, STREAM_LOG, STREAM_DLQ].map(scoped).into_iter().chain(buckets).collect()
    }

    fn streams(&self, limits: &Limits) -> Vec<Map<String, Value>> {
        let s = self.subjects();
        let base = |name: String, subjects: Vec<String>, more: Value| {
            let mut config = object(json!({
                "name": name,
                "subjects": subjects,
                "storage": "file",
                "num_replicas": limits.replicas,
                "allow_direct": true,
                "max_consumers": -1,
                "duplicate_window": nanos(limits.duplicate_window),
            }));
            config.extend(object(more));
            config
        };
        let stream = |name: &str, subjects: Vec<String>, more: Value| base(s.scoped(name), subjects, more);
        let bucket = |name: &str, more: Value| {
            let name = s.scoped(name);
            let mut config = base(
                bucket_stream(&name),
                vec![bucket_subjects(&name)],
                json!({
                    "retention": "limits", "discard": "new", "max_msgs_per_subject": 1, "max_msgs": -1, "max_bytes": -1,
                    "allow_rollup_hdrs": true, "deny_delete": true,
                    "duplicate_window": nanos(limits.duplicate_window.min(Duration::from_mins(2))),
                }),
            );
            config.extend(object(more));
            config
        };
        vec![
            stream(
                STREAM_WORK,
                vec![s.job_all(), s.work_all()],
                json!({
                    "retention": "workqueue", "discard": "new",
                    "max_msgs": limits.work_messages, "max_bytes": limits.work_bytes,
                }),
            ),
            stream(
                STREAM_EVT,
                vec![s.evt_all()],
                json!({
                    "retention": "limits", "discard": "new",
                    "max_msgs": limits.event_messages, "max_bytes": limits.event_bytes,
                    // Age alone discards nothing: the tracker does, below its position.
                    "max_age": 0,
                }),
            ),
            stream(
                STREAM_LOG,
                vec![s.log_all()],
                json!({
                    "retention": "limits", "discard": "old", "max_bytes": limits.log_bytes,
                }),
            ),
            stream(
                STREAM_DLQ,
                vec![s.dlq_all()],
                json!({
                    "retention": "limits", "discard": "old",
                    "max_bytes": limits.dead_letter_bytes, "max_age": nanos(limits.dead_letter_max_age),
                }),
            ),
            bucket(BUCKET_JOB, json!({})),
            bucket(
                BUCKET_LEASE,
                json!({
                    "allow_msg_ttl": true, "subject_delete_marker_ttl": nanos(LEASE_MARKER),
                }),
            ),
            bucket(BUCKET_RDZV, json!({})),
        ]
    }

    async fn ensure_stream(&self, mut asked: Map<String, Value>) -> Result<()> {
        let name = asked["name"].as_str().unwrap_or_default().to_owned();
        let echoed = match self.stream_info(&name).await {
            Ok(found) => {
                // How often it is kept, and where, is the operator's.
                if let Some(replicas) = found.config.get("num_replicas") {
                    asked.insert("num_replicas".into(), replicas.clone());
                }
                let wanted = differences(&asked, &found.config);
                if wanted.is_empty() {
                    return Ok(());
                }
                let mut merged = found.config;
                merged.extend(asked.clone());
                let updated = self.api::<Info>(&format!("STREAM.UPDATE.{name}"), &merged).await;
                updated.map_err(|error| not_updated(&name, &wanted, error))?.config
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.api::<Info>(&format!("STREAM.CREATE.{name}"), &asked).await?.config
            }
            Err(error) => return Err(error),
        };
        self.check_echo(&format!("stream {name}"), &asked, &echoed)
    }

    fn check_echo(&self, what: &str, asked: &Map<String, Value>, echoed: &Map<String, Value>) -> Result<()> {
        let differences = differences(asked, echoed);
        if differences.is_empty() {
            return Ok(());
        }
        let server = self.server_info();
        Err(Error::new(
            ErrorKind::ServerTooOld,
            format!(
                "{what}: NATS {} at {} did not take the configuration: {}; {}",
                server.version,
                server.url,
                differences.join("; "),
                crate::connection::UPGRADE
            ),
        ))
    }

    /// Whether the server says that a stream (or a bucket's) does not exist. Not when it cannot be asked.
    pub(crate) async fn lacks_stream(&self, name: &str) -> bool {
        let scoped = self.subjects().scoped(name);
        let name = if is_bucket(name) { bucket_stream(&scoped) } else { scoped };
        matches!(self.stream_info(&name).await, Err(error) if error.kind() == ErrorKind::NotFound)
    }

    /// How full the event stream is.
    pub(crate) async fn event_fill(&self) -> Result<Fill> {
        let stream = self.subjects().scoped(STREAM_EVT);
        let info = self.stream_info(&stream).await?;
        let limit = |key: &str| info.config.get(key).and_then(Value::as_i64).and_then(|n| u64::try_from(n).ok());
        let (max_messages, max_bytes) = (limit("max_msgs"), limit("max_bytes"));
        Ok(Fill { stream, messages: info.state.messages, bytes: info.state.bytes, max_messages, max_bytes })
    }

    /// Discards the events that were stored before `before`, those after the sequence `projected` excepted.
    /// Returns how many.
    pub async fn discard_events(&self, before: UnixMs, projected: u64) -> Result<u64> {
        let stream = self.subjects().scoped(STREAM_EVT);
        let first = self.stream_info(&stream).await?.state.first_seq;
        let kept = self.first_since(STREAM_EVT, self.subjects().evt_all(), before).await?.min(projected + 1);
        if kept <= first {
            return Ok(0);
        }
        let purged: Purged = self.api(&format!("STREAM.PURGE.{stream}"), &json!({ "seq": kept })).await?;
        Ok(purged.purged)
    }

    async fn stream_info(&self, name: &str) -> Result<Info> {
        self.api(&format!("STREAM.INFO.{name}"), &()).await
    }

    async fn consumer_info(&self, stream: &str, consumer: &str) -> Result<ConsumerInfo> {
        self.api(&format!("CONSUMER.INFO.{stream}.{consumer}"), &()).await
    }

    /// Filters of events by type; no types: all.
    pub(crate) fn event_filters(&self, types: &[&str]) -> Vec<String> {
        if types.is_empty() {
            return vec![self.subjects().evt_all()];
        }
        types.iter().map(|name| self.subjects().evt_type(name)).collect()
    }

    /// The consumer of a queue role; created again where somebody deleted it.
    pub(crate) async fn ensure_work_consumer(&self, role: Role) -> Result<()> {
        let filter = vec![self.subjects().work_of(role)];
        let config = self.durable(&consumer_work(role), &filter, MAX_ACK_PENDING);
        self.ensure_consumer(&self.subjects().scoped(STREAM_WORK), config).await
    }

    pub(crate) async fn ensure_submit_consumer(&self) -> Result<()> {
        let config = self.durable(CONSUMER_SUBMIT, &[self.subjects().job_all()], MAX_ACK_PENDING);
        self.ensure_consumer(&self.subjects().scoped(STREAM_WORK), config).await
    }

    pub(crate) async fn ensure_event_consumer(&self, consumer: &str, types: &[String]) -> Result<()> {
        let types: Vec<&str> = types.iter().map(String::as_str).collect();
        let config = self.durable(consumer, &self.event_filters(&types), PROJECTION_ACK_PENDING);
        self.ensure_consumer(&self.subjects().scoped(STREAM_EVT), config).await
    }

    /// Explicit acks, delivered until acknowledged (retrying is the coordinator's), and no `backoff`:
    /// it would overwrite the ack wait.
    fn durable(&self, name: &str, filters: &[String], max_ack_pending: u64) -> Map<String, Value> {
        let mut config = object(json!({
            "durable_name": name,
            "name": name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "replay_policy": "instant",
            "ack_wait": nanos(Duration::from_millis(self.timings().ack_wait_ms)),
            "max_ack_pending": max_ack_pending,
            "max_deliver": -1,
        }));
        match filters {
            [one] => config.insert("filter_subject".into(), json!(one)),
            many => config.insert("filter_subjects".into(), json!(many)),
        };
        config
    }

    async fn drop_consumer(&self, stream: &str, name: &str) -> Result<()> {
        match self.consumer_info(stream, name).await {
            Ok(_) => {
                self.api::<serde::de::IgnoredAny>(&format!("CONSUMER.DELETE.{stream}.{name}"), &()).await.map(|_| ())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn ensure_consumer(&self, stream: &str, asked: Map<String, Value>) -> Result<()> {
        let name = asked["name"].as_str().unwrap_or_default().to_owned();
        match self.consumer_info(stream, &name).await {
            Ok(found) if differences(&asked, &found.config).is_empty() => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let body = json!({ "stream_name": stream, "config": asked });
        let verb = match asked.get("filter_subject").and_then(Value::as_str) {
            Some(filter) => format!("CONSUMER.CREATE.{stream}.{name}.{filter}"),
            None => format!("CONSUMER.CREATE.{stream}.{name}"),
        };
        let echoed: ConsumerInfo = self.api(&verb, &body).await?;
        self.check_echo(&format!("consumer {name} of {stream}"), &asked, &echoed.config)
    }
}

/// An operator must decide: the stream may hold what others need.
fn not_updated(name: &str, wanted: &[String], error: Error) -> Error {
    match error.kind() {
        ErrorKind::Other => Error::new(
            ErrorKind::Other,
            format!("stream {name} exists with another configuration ({}) and cannot be changed: {error}; back it up and delete it, or use another account", wanted.join("; ")),
        )
        .because(error),
        _ => error,
    }
}

fn summary(name: String, info: &Info, consumers: Vec<ConsumerInfo>) -> StreamSummary {
    // The server writes "unlimited" as -1 (or 0 for an age).
    let limit = |key: &str| info.config.get(key).and_then(Value::as_i64).and_then(|n| u64::try_from(n).ok());
    StreamSummary {
        name,
        messages: info.state.messages,
        bytes: info.state.bytes,
        first_sequence: info.state.first_seq,
        last_sequence: info.state.last_seq,
        max_messages: limit("max_msgs"),
        max_bytes: limit("max_bytes"),
        max_age: limit("max_age").filter(|age| *age > 0).map(Duration::from_nanos),
        replicas: limit("num_replicas").unwrap_or(1),
        storage: info.config.get("storage").and_then(Value::as_str).unwrap_or_default().to_owned(),
        consumers: consumers
            .into_iter()
            .filter(|consumer| consumer.config.contains_key("durable_name"))
            .map(|consumer| ConsumerSummary {
                name: consumer.name,
                pending: consumer.num_pending,
                ack_pending: consumer.num_ack_pending,
                redelivered: consumer.num_redelivered,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_did_not_take_is_named() {
        let asked = object(json!({"discard": "new", "allow_msg_ttl": true, "deny_purge": false, "max_age": 5}));
        let echoed = object(json!({"discard": "new", "max_age": 6, "sealed": false}));
        assert_eq!(differences(&asked, &echoed), ["allow_msg_ttl: asked true, got null", "max_age: asked 5, got 6"]);
        assert!(differences(&echoed, &echoed).is_empty());
    }
}
