//! Identifiers. Each is its own type, so that a job id cannot stand where a worker id belongs, and
//! each is safe inside a NATS subject: no dots, blanks, wildcards or control characters.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?}: expected 1 to 64 characters of A-Z a-z 0-9 _ -")]
pub struct IdError {
    pub kind: &'static str,
    pub text: String,
}

/// Whether `text` may stand as one token of a subject and as a key: `[A-Za-z0-9_-]{1,64}`.
pub fn is_token(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
        #[schemars(transparent)]
        pub struct $name(#[schemars(regex(pattern = r"^[A-Za-z0-9_-]{1,64}$"))] String);

        impl $name {
            /// Checks the text; see [`is_token`].
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if is_token(&text) {
                    Ok(Self(text))
                } else {
                    Err(IdError { kind: $kind, text })
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(de::Error::custom)
            }
        }
    };
}

id!(
    /// A job; also the run's id in the tracker.
    JobId,
    "job id"
);
id!(
    /// A task of a job's DAG, unique within the job: `prepare`, `train`, `evaluate`, `record`.
    TaskId,
    "task id"
);
id!(
    /// A worker process.
    WorkerId,
    "worker id"
);
id!(
    /// The tenant that a process serves.
    Tenant,
    "tenant"
);

impl Default for Tenant {
    fn default() -> Self {
        Self("default".into())
    }
}

impl JobId {
    /// The job of an event: the event's id where it is a legal token, else a base32 BLAKE3 of
    /// (source, id), so that the same event always names the same job.
    pub fn of_event(source: &str, event_id: &str) -> Self {
        if is_token(event_id) {
            return Self(event_id.to_owned());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(source.len() as u64).to_le_bytes());
        hasher.update(source.as_bytes());
        hasher.update(event_id.as_bytes());
        Self(base32(&hasher.finalize().as_bytes()[..20]))
    }
}

/// RFC 4648 base32, lower case, no padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let (mut out, mut buffer, mut bits) = (String::new(), 0u32, 0u32);
    for &byte in bytes {
        buffer = (buffer << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            out.push(char::from(ALPHABET[((buffer >> bits) & 31) as usize]));
        }
    }
    if bits > 0 {
        out.push(char::from(ALPHABET[((buffer << (5 - bits)) & 31) as usize]));
    }
    out
}

/// The fencing token of a task lease: the revision of `WITHIN_JOB` at which the task was leased.
/// The owner of a side effect refuses a fence lower than the highest it has seen. On the wire a
/// decimal string, because it may pass 2^53.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, JsonSchema)]
#[schemars(with = "String")]
pub struct Fence(pub u64);

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Fence {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Fence {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map(Self).map_err(|_| de::Error::custom(format!("fence {text:?}: expected a decimal string")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_subject_safe_tokens_are_ids() {
        for good in ["a", "job-1", "A_b-9", &"x".repeat(64)] {
            assert_eq!(JobId::new(good).map(|id| id.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a.b", "a b", "*", ">", "é", &"x".repeat(65), "a\n"] {
            assert!(JobId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_event_names_one_job_for_ever() {
        assert_eq!(JobId::of_event("s", "ev-1").as_str(), "ev-1");
        let odd = JobId::of_event("shop/eu", "order 7/é");
        assert_eq!(odd, JobId::of_event("shop/eu", "order 7/é"));
        assert_ne!(odd, JobId::of_event("shop/us", "order 7/é"));
        assert_eq!(odd.as_str().len(), 32);
        assert!(is_token(odd.as_str()));
    }

    #[test]
    fn base32_matches_the_rfc_4648_vectors() {
        for (text, expected) in [("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foobar", "mzxw6ytboi")] {
            assert_eq!(base32(text.as_bytes()), expected);
        }
    }

    #[test]
    fn a_fence_travels_as_a_string() {
        let json = serde_json::to_string(&Fence(u64::MAX)).expect("serializes");
        assert_eq!(json, "\"18446744073709551615\"");
        assert_eq!(serde_json::from_str::<Fence>(&json).expect("parses"), Fence(u64::MAX));
        assert!(serde_json::from_str::<Fence>("\"-1\"").is_err());
    }
}
