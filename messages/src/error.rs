//! The errors that travel: a class (whose problem it is), a code (documented, stable, what software
//! branches on), a message for a person, a hint, and whether trying again can help.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whose problem it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    Spec,
    Data,
    Code,
    Numeric,
    OutOfMemory,
    Device,
    WorkerDied,
    WorkerHung,
    NetworkPartition,
    Infrastructure,
    Timeout,
    Cancelled,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Spec => "spec",
            Self::Data => "data",
            Self::Code => "code",
            Self::Numeric => "numeric",
            Self::OutOfMemory => "out_of_memory",
            Self::Device => "device",
            Self::WorkerDied => "worker_died",
            Self::WorkerHung => "worker_hung",
            Self::NetworkPartition => "network_partition",
            Self::Infrastructure => "infrastructure",
            Self::Timeout => "timeout",
            Self::Cancelled => "cancelled",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $class:ident, $retry:literal;)+) => {
        /// A stable code. The table is published in `deploy/schema/error_codes.json`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, JsonSchema)]
        #[schemars(with = "String")]
        pub enum Code {
            $($(#[doc = $doc])+ $variant,)+
            /// A code of a newer version than this reader's.
            Unknown,
        }

        impl Code {
            /// Every code with its usual class, whether a retry can help, and its meaning.
            pub const TABLE: &[(Code, Class, bool, &str)] =
                &[$((Code::$variant, Class::$class, $retry, concat!($($doc),+)),)+];

            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ Self::Unknown => "unknown" }
            }
        }
    };
}

codes! {
    /// The job spec is wrong: each mistake is listed with file, line, key and expectation.
    ConfigError = "config_error", Spec, false;
    /// The spec asks for something that this version does not do yet.
    NotSupported = "not_supported", Spec, false;
    /// The message is larger than the bus or the reader accepts.
    TooLarge = "too_large", Spec, false;
    /// A path outside the data roots, or a host or scheme that is not allowed.
    Forbidden = "forbidden", Spec, false;
    /// No such job.
    JobNotFound = "job_not_found", Spec, false;
    /// The tracker has no such run.
    RunNotFound = "run_not_found", Spec, false;
    /// The same event id was submitted before with another content.
    DuplicateConflict = "duplicate_conflict", Spec, false;
    /// The message could not be read: garbage, an unknown type or a schema version out of reach.
    BadMessage = "bad_message", Spec, false;
    /// A data file does not exist or cannot be opened.
    DatasetNotFound = "dataset_not_found", Data, false;
    /// A data file was read and is not what the spec says.
    DatasetValidationError = "dataset_validation_error", Data, false;
    /// Training failed: what happened is in the message.
    TrainingError = "training_error", Code, false;
    /// The loss or a gradient became NaN or infinite.
    NumericError = "numeric_error", Numeric, false;
    /// Evaluation failed.
    EvaluationError = "evaluation_error", Code, false;
    /// A model or checkpoint file is damaged or of another architecture.
    ModelInvalid = "model_invalid", Data, false;
    /// Content does not have the hash that its reference names.
    ArtifactCorrupt = "artifact_corrupt", Infrastructure, true;
    /// The artifact store cannot be read or written.
    ArtifactStoreUnavailable = "artifact_store_unavailable", Infrastructure, true;
    /// There is no room left where artifacts are kept.
    StorageFull = "storage_full", Infrastructure, true;
    /// The tracker's store cannot be read or written.
    TrackerUnavailable = "tracker_unavailable", Infrastructure, true;
    /// NATS could not be reached, or the connection was lost.
    BusUnavailable = "bus_unavailable", Infrastructure, true;
    /// An address to listen on is taken, not one of this host, or no address.
    AddressUnavailable = "address_unavailable", Infrastructure, false;
    /// NATS refused the credentials or a subject.
    PermissionDenied = "permission_denied", Infrastructure, false;
    /// The streams are full: try later.
    Overloaded = "overloaded", Infrastructure, true;
    /// No worker of the needed role, or not enough slots, before the deadline.
    NoCapacity = "no_capacity", Infrastructure, true;
    /// The lease of the task has passed to another worker.
    Fenced = "fenced", Infrastructure, false;
    /// This coordinator does not lead; ask again.
    NotLeader = "not_leader", Infrastructure, true;
    /// A worker or rank process died: signal or exit code in the message.
    WorkerDied = "worker_died", WorkerDied, true;
    /// A worker or rank process stopped making progress.
    WorkerHung = "worker_hung", WorkerHung, true;
    /// A worker can no longer be reached.
    NetworkPartition = "network_partition", NetworkPartition, true;
    /// Memory ran out.
    OutOfMemory = "out_of_memory", OutOfMemory, false;
    /// A compute device failed.
    DeviceError = "device_error", Device, true;
    /// Something took longer than its declared time-out.
    DeadlineExceeded = "deadline_exceeded", Timeout, false;
    /// The job was cancelled.
    Cancelled = "cancelled", Cancelled, false;
    /// A bug in this program: please report it.
    InternalError = "internal_error", Code, true;
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Ok(Self::TABLE.iter().find(|row| row.0.as_str() == name).map_or(Self::Unknown, |row| row.0))
    }
}

/// An error as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct WireError {
    pub class: Class,
    pub code: Code,
    pub message: String,
    /// What the reader can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Whether the same thing, tried again unchanged, may succeed.
    pub retry: bool,
}

impl WireError {
    /// An error of this code, with the code's usual class and retry.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (class, retry) =
            Code::TABLE.iter().find(|row| row.0 == code).map_or((Class::Code, false), |row| (row.1, row.2));
        Self { class, code, message: message.into(), hint: None, retry }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn with_class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_in_the_table_once_and_keeps_its_name() {
        let mut names: Vec<_> = Code::TABLE.iter().map(|row| row.0.as_str()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for row in Code::TABLE {
            let json = serde_json::to_string(&row.0).expect("serializes");
            assert_eq!(json, format!("\"{}\"", row.0.as_str()));
            assert!(!row.3.trim().is_empty());
        }
    }

    #[test]
    fn a_code_of_a_newer_version_is_read_as_unknown() {
        let error: WireError =
            serde_json::from_str(r#"{"class":"data","code":"invented_later","message":"m","retry":false,"extra":1}"#)
                .expect("parses");
        assert_eq!(error.code, Code::Unknown);
    }
}
