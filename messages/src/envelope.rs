//! The envelope: CloudEvents 1.0 in structured mode, as JSON or as MessagePack (maps with field
//! names), told apart by `Content-Type`. Extensions: `tenant`, `jobid`, `attempt`, `fence`,
//! `generation`, `traceparent`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::id::{Fence, JobId, Tenant};
use crate::trace::TraceParent;
use crate::{SCHEMA_VERSION, UnixMs};

/// `Content-Type` of structured CloudEvents in JSON.
pub const CONTENT_JSON: &str = "application/cloudevents+json";
/// `Content-Type` of structured CloudEvents in MessagePack.
pub const CONTENT_MSGPACK: &str = "application/cloudevents+msgpack";
/// Deepest nesting that a reader accepts.
pub const MAX_DEPTH: usize = 64;
/// Largest envelope that a reader accepts, in bytes; specs are bounded far below.
pub const MAX_ENVELOPE_BYTES: usize = 8 * 1024 * 1024;

/// How an envelope is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    MsgPack,
}

impl Encoding {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => CONTENT_JSON,
            Self::MsgPack => CONTENT_MSGPACK,
        }
    }

    /// The encoding of a message: by its header, else by its first byte (`{` opens JSON).
    pub fn of(content_type: Option<&str>, payload: &[u8]) -> Self {
        match content_type {
            Some(text) if text.contains("msgpack") => Self::MsgPack,
            Some(text) if text.contains("json") => Self::Json,
            _ => match payload.iter().find(|b| !b.is_ascii_whitespace()) {
                Some(b'{') => Self::Json,
                _ => Self::MsgPack,
            },
        }
    }
}

/// Why bytes are not an envelope that this version reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("message of {bytes} bytes: expected at most {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("message nested deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("not a {encoding} envelope: {reason}")]
    Malformed { encoding: &'static str, reason: String },
    #[error("specversion {0:?}: expected \"1.0\"")]
    SpecVersion(String),
    #[error("message type {found:?}: expected {expected:?}")]
    Type { expected: String, found: String },
    #[error("schema version {found}: this reader knows {min} to {max}")]
    Schema { found: u16, min: u16, max: u16 },
}

/// A payload that has a name on the wire.
pub trait Payload: Serialize + DeserializeOwned {
    /// CloudEvents `type`, such as `within.task.report`.
    fn type_name(&self) -> String;
    /// Whether a message of this `type` may be read as `Self`.
    fn accepts(type_name: &str) -> bool;
}

/// A CloudEvent with data of type `T`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Envelope<T> {
    pub specversion: String,
    pub id: String,
    /// Who speaks: a URI reference such as `/within/worker/w1` or `urn:shop:checkout`.
    pub source: String,
    #[serde(rename = "type")]
    pub type_name: String,
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacontenttype: Option<String>,
    /// Version of the data's schema; absent from messages of other parties means the current one.
    #[serde(default = "current_schema")]
    pub withinschema: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Tenant>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobid: Option<JobId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<TraceParent>,
    pub data: T,
}

fn current_schema() -> u16 {
    SCHEMA_VERSION
}

impl<T: Payload> Envelope<T> {
    pub fn new(id: impl Into<String>, source: impl Into<String>, now: UnixMs, data: T) -> Self {
        Self {
            specversion: "1.0".into(),
            id: id.into(),
            source: source.into(),
            type_name: data.type_name(),
            time: Some(rfc3339(now)),
            subject: None,
            datacontenttype: None,
            withinschema: SCHEMA_VERSION,
            tenant: None,
            jobid: None,
            attempt: None,
            fence: None,
            generation: None,
            traceparent: None,
            data,
        }
    }

    pub fn job(mut self, job: &JobId) -> Self {
        self.jobid = Some(job.clone());
        self
    }

    pub fn traced(mut self, parent: Option<TraceParent>) -> Self {
        self.traceparent = parent;
        self
    }

    pub fn fenced(mut self, fence: Fence, attempt: u32) -> Self {
        self.fence = Some(fence);
        self.attempt = Some(attempt);
        self
    }

    /// The bytes to publish. Serialization of our own types does not fail.
    pub fn encode(&self, encoding: Encoding) -> Vec<u8> {
        match encoding {
            Encoding::Json => serde_json::to_vec(self).expect("invariant: our types serialize"),
            Encoding::MsgPack => rmp_serde::to_vec_named(self).expect("invariant: our types serialize"),
        }
    }

    /// Reads an envelope, bounded in size and depth, and checks version and type.
    pub fn decode(content_type: Option<&str>, payload: &[u8]) -> Result<Self, EnvelopeError> {
        let envelope: Self = decode_any(content_type, payload)?;
        if envelope.specversion != "1.0" {
            return Err(EnvelopeError::SpecVersion(envelope.specversion));
        }
        let min = SCHEMA_VERSION.saturating_sub(1);
        // One version ahead is read too: fields are only ever added within a version step, so that
        // workers can be replaced one by one.
        if !(min..=SCHEMA_VERSION + 1).contains(&envelope.withinschema) {
            return Err(EnvelopeError::Schema { found: envelope.withinschema, min, max: SCHEMA_VERSION + 1 });
        }
        if !T::accepts(&envelope.type_name) {
            return Err(EnvelopeError::Type {
                expected: std::any::type_name::<T>().rsplit("::").next().unwrap_or_default().to_owned(),
                found: envelope.type_name,
            });
        }
        Ok(envelope)
    }
}

/// Reads any value in either encoding, bounded in size and depth.
pub fn decode_any<T: DeserializeOwned>(content_type: Option<&str>, payload: &[u8]) -> Result<T, EnvelopeError> {
    if payload.len() > MAX_ENVELOPE_BYTES {
        return Err(EnvelopeError::TooLarge { bytes: payload.len(), max: MAX_ENVELOPE_BYTES });
    }
    match Encoding::of(content_type, payload) {
        Encoding::Json => {
            if json_depth(payload) > MAX_DEPTH {
                return Err(EnvelopeError::TooDeep);
            }
            serde_json::from_slice(payload)
                .map_err(|e| EnvelopeError::Malformed { encoding: "JSON", reason: e.to_string() })
        }
        Encoding::MsgPack => {
            let mut reader = rmp_serde::Deserializer::new(payload);
            reader.set_max_depth(MAX_DEPTH);
            T::deserialize(&mut reader).map_err(|e| match e {
                rmp_serde::decode::Error::DepthLimitExceeded => EnvelopeError::TooDeep,
                e => EnvelopeError::Malformed { encoding: "MessagePack", reason: e.to_string() },
            })
        }
    }
}

/// Deepest nesting of brackets outside strings; linear, allocates nothing.
fn json_depth(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0usize, 0usize, false, false);
    for &b in bytes {
        if in_string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match b {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// RFC 3339 in UTC with milliseconds.
pub fn rfc3339(at: UnixMs) -> String {
    let at = i64::try_from(at).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Milliseconds since the Unix epoch of an RFC 3339 time, such as [`Envelope::time`]; none for
/// anything else and for times before the epoch.
pub fn parse_rfc3339(text: &str) -> Option<UnixMs> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn sample() -> Envelope<Event> {
        Envelope::new("e1", "/within/test", 1_700_000_000_123, Event::Cancelled { reason: "asked".into() })
            .job(&JobId::new("j1").expect("id"))
            .fenced(Fence(7), 1)
    }

    #[test]
    fn a_time_reads_back() {
        assert_eq!(parse_rfc3339(&rfc3339(1_700_000_000_123)), Some(1_700_000_000_123));
        assert_eq!(parse_rfc3339("2024-01-01T01:00:00+01:00"), Some(1_704_067_200_000));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn both_encodings_read_back_with_and_without_a_header() {
        for encoding in [Encoding::Json, Encoding::MsgPack] {
            let bytes = sample().encode(encoding);
            for header in [Some(encoding.content_type()), None] {
                assert_eq!(Envelope::<Event>::decode(header, &bytes), Ok(sample()));
            }
        }
    }

    #[test]
    fn poison_is_refused_with_a_reason() {
        let deep = [b"{\"a\":".repeat(4_000_000 / 5), vec![]].concat();
        assert_eq!(Envelope::<Event>::decode(None, &deep), Err(EnvelopeError::TooDeep));
        let nested_msgpack = vec![0x91u8; 1_000_000];
        assert!(Envelope::<Event>::decode(None, &nested_msgpack).is_err());
        assert!(matches!(
            Envelope::<Event>::decode(Some(CONTENT_JSON), b"\xff\xfe"),
            Err(EnvelopeError::Malformed { .. })
        ));
        let mut future = sample();
        future.withinschema = 9;
        assert_eq!(
            Envelope::<Event>::decode(None, &future.encode(Encoding::Json)),
            Err(EnvelopeError::Schema { found: 9, min: 0, max: 2 })
        );
        let huge = vec![b'{'; MAX_ENVELOPE_BYTES + 1];
        assert!(matches!(Envelope::<Event>::decode(None, &huge), Err(EnvelopeError::TooLarge { .. })));
    }

    #[test]
    fn unknown_fields_between_our_processes_are_ignored() {
        let mut value = serde_json::to_value(sample()).expect("serializes");
        value["invented_later"] = 1.into();
        value["data"]["also"] = 2.into();
        let bytes = serde_json::to_vec(&value).expect("serializes");
        assert_eq!(Envelope::<Event>::decode(None, &bytes), Ok(sample()));
    }

    #[test]
    fn time_is_rfc_3339() {
        assert_eq!(sample().time.as_deref(), Some("2023-11-14T22:13:20.123Z"));
    }
}
