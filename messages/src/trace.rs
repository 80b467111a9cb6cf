//! W3C trace context (<https://www.w3.org/TR/trace-context/>): a job is one trace. The header is
//! carried from message to message; every hop names its own span.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A `traceparent`: version 00, 16-byte trace id, 8-byte span id, flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    pub trace_id: u128,
    pub span_id: u64,
    pub flags: u8,
}

/// The text form, as it stands in a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TraceParent(pub String);

impl TraceContext {
    /// The root span of a trace, derived from the job's name so that every redelivery of the same
    /// submission opens the same trace.
    pub fn of_job(job: &str) -> Self {
        let hash = blake3::hash(job.as_bytes());
        let bytes = hash.as_bytes();
        let (mut trace, mut span) = ([0u8; 16], [0u8; 8]);
        trace.copy_from_slice(&bytes[..16]);
        span.copy_from_slice(&bytes[16..24]);
        Self { trace_id: u128::from_be_bytes(trace).max(1), span_id: u64::from_be_bytes(span).max(1), flags: 1 }
    }

    /// A child span, named by what it does.
    pub fn child(&self, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.trace_id.to_be_bytes());
        hasher.update(&self.span_id.to_be_bytes());
        hasher.update(name.as_bytes());
        let mut span = [0u8; 8];
        span.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self { span_id: u64::from_be_bytes(span).max(1), ..*self }
    }

    /// Parses the header; anything malformed is no context, as the recommendation says.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let lower_hex = |s: &str| s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if version.len() != 2 || version == "ff" || trace.len() != 32 || span.len() != 16 || flags.len() != 2 {
            return None;
        }
        if ![version, trace, span, flags].into_iter().all(lower_hex) || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let context = Self {
            trace_id: u128::from_str_radix(trace, 16).ok()?,
            span_id: u64::from_str_radix(span, 16).ok()?,
            flags: u8::from_str_radix(flags, 16).ok()?,
        };
        (context.trace_id != 0 && context.span_id != 0).then_some(context)
    }

    pub fn to_parent(self) -> TraceParent {
        TraceParent(format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_the_recommendations_example() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(text).expect("parses");
        assert_eq!(context.to_parent().0, text);
        let child = context.child("train");
        assert_eq!(child.trace_id, context.trace_id);
        assert_ne!(child.span_id, context.span_id);
    }

    #[test]
    fn a_malformed_header_is_no_context() {
        for text in [
            "",
            "00",
            "00-0-0-0",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }
}
