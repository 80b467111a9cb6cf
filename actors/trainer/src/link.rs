//! The line between a worker and the rank process it starts: one JSON line in on stdin for each task (the
//! [`RankConfig`]; the end of stdin is the worker's death), one JSON line out on stdout per sign of life
//! ([`RankLine`]), and log lines in JSON on stderr, those of a task ended by [`LOG_ENDS`].

use std::fmt::Write;
use std::path::PathBuf;

use messages::event::LogLine;
use messages::timings::Timings;
use messages::trace::TraceParent;
use messages::work::Work;
use messages::{Fence, Tenant, WireError, WorkerId};
use serde::{Deserialize, Serialize};

/// The last line on stderr of a task whose process waits for another.
pub const LOG_ENDS: &str = r#"{"log":"ends"}"#;

/// How to reach the bus. Travels over a pipe, never in arguments or the environment.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    pub url: String,
    pub login: Login,
    #[serde(default)]
    pub tls: bus::Tls,
    pub tenant: Tenant,
    pub timings: Timings,
}

/// Credentials of the bus, as they travel to a rank.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "login", rename_all = "snake_case")]
pub enum Login {
    None,
    UserPassword {
        user: String,
        password: String,
    },
    /// A `.creds` file.
    File {
        path: PathBuf,
    },
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL and the login may carry secrets.
        f.debug_struct("Connection").field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// What a rank needs to know to begin.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RankConfig {
    pub connection: Connection,
    /// Location of the artifact store, as `bus::artifact::ArtifactStore::open` takes it.
    pub artifacts: String,
    pub work: Work,
    pub fence: Fence,
    pub generation: u32,
    pub rank: u32,
    pub world_size: u32,
    /// It is to join a gang under way: until it has, its end is nobody else's.
    #[serde(default)]
    pub joining: bool,
    /// Compute threads.
    pub threads: u32,
    /// The CUDA device that this rank has, all of its worker's, and where compiled kernels are kept.
    #[serde(default)]
    pub device: Option<u32>,
    #[serde(default)]
    pub devices: Vec<u32>,
    #[serde(default)]
    pub cubins: PathBuf,
    /// Ranks exchange sums through TLS.
    #[serde(default)]
    pub collective_tls: bool,
    /// The network interface of the ranks' own connections; none: the one that leads to the server.
    #[serde(default)]
    pub collective_interface: Option<String>,
    pub worker: WorkerId,
    pub host: String,
    #[serde(default)]
    pub trace: Option<TraceParent>,
}

/// What a rank is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Starting,
    Joining,
    /// Reading plan, manifest and checkpoint.
    Loading,
    Training,
    Validating,
    Checkpointing,
    /// Writing the model, waiting for acknowledgements.
    Saving,
    /// Telling the coordinator how it ended.
    Reporting,
    Ended,
}

impl Phase {
    pub const ALL: [Self; 9] = [
        Self::Starting,
        Self::Joining,
        Self::Loading,
        Self::Training,
        Self::Validating,
        Self::Checkpointing,
        Self::Saving,
        Self::Reporting,
        Self::Ended,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Joining => "joining",
            Self::Loading => "loading",
            Self::Training => "training",
            Self::Validating => "validating",
            Self::Checkpointing => "checkpointing",
            Self::Saving => "saving",
            Self::Reporting => "reporting",
            Self::Ended => "ended",
        }
    }
}

/// What the compute thread does within its phase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    #[default]
    Other,
    WaitingForBatch,
    ComputingGradients,
    SummingGradients,
    TakingStep,
    SharingValidation,
}

impl Doing {
    pub const ALL: [Self; 6] = [
        Self::Other,
        Self::WaitingForBatch,
        Self::ComputingGradients,
        Self::SummingGradients,
        Self::TakingStep,
        Self::SharingValidation,
    ];

    /// Whether it cannot go on without other ranks.
    pub fn waits_for_ranks(self) -> bool {
        matches!(self, Self::SummingGradients | Self::SharingValidation)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::WaitingForBatch => "waits for a batch",
            Self::ComputingGradients => "computes gradients",
            Self::SummingGradients => "sums gradients with the other ranks",
            Self::TakingStep => "takes the optimizer's step",
            Self::SharingValidation => "shares the validation with the other ranks",
        }
    }
}

/// A sign of life, one JSON line on stdout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RankLine {
    pub rank: u32,
    /// Completed optimizer steps.
    pub step: u64,
    /// Of the generation that it trains in, once it has met the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// Grows with everything that is done: a batch, a file, a request.
    pub progress: u64,
    #[serde(rename = "state")]
    pub phase: Phase,
    #[serde(default)]
    pub doing: Doing,
    /// Why it ends, where it could not tell the coordinator by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WireError>,
    /// The coordinator knows how the task ended, nothing of it is left here, and the process waits for
    /// another configuration.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
    /// Its CUDA device could not be taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub device_lost: bool,
}

/// One line of a rank's stderr as a log line. A line that is no JSON (a panic, the C library) is an error.
pub fn log_line(text: &str, now_rfc3339: &str) -> LogLine {
    #[derive(Deserialize)]
    struct Json {
        timestamp: Option<String>,
        level: Option<String>,
        target: Option<String>,
        #[serde(default)]
        fields: serde_json::Map<String, serde_json::Value>,
        message: Option<String>,
    }
    let Ok(mut json) = serde_json::from_str::<Json>(text) else {
        return LogLine {
            timestamp: now_rfc3339.to_owned(),
            level: "ERROR".into(),
            module: "stderr".into(),
            message: text.to_owned(),
        };
    };
    let own = json.fields.remove("message").and_then(|m| m.as_str().map(str::to_owned));
    let mut message = own.or(json.message).unwrap_or_default();
    for (key, value) in &json.fields {
        write!(message, " {key}={value}").expect("invariant: a text takes text");
    }
    LogLine {
        timestamp: json.timestamp.unwrap_or_else(|| now_rfc3339.to_owned()),
        level: json.level.unwrap_or_else(|| "INFO".into()),
        module: json.target.unwrap_or_else(|| "rank".into()),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_one_short_line() {
        let line = RankLine {
            rank: 0,
            step: 12,
            fence: None,
            progress: 40,
            phase: Phase::Training,
            doing: Doing::Other,
            error: None,
            ready: false,
            device_lost: false,
        };
        let text = serde_json::to_string(&line).expect("serializes");
        assert_eq!(text, r#"{"rank":0,"step":12,"progress":40,"state":"training","doing":"other"}"#);
        assert_eq!(serde_json::from_str::<RankLine>(&text).expect("parses"), line);
    }

    #[test]
    fn log_lines_are_read_as_json_and_anything_else_is_an_error() {
        let json =
            r#"{"timestamp":"t","level":"WARN","target":"trainer::feed","fields":{"message":"reopened","batch":3}}"#;
        let line = log_line(json, "now");
        assert_eq!((line.level.as_str(), line.module.as_str()), ("WARN", "trainer::feed"));
        assert_eq!(line.message, "reopened batch=3");
        let panic = log_line("thread 'main' panicked at x.rs:1", "now");
        assert_eq!((panic.level.as_str(), panic.timestamp.as_str()), ("ERROR", "now"));
    }

    #[test]
    fn secrets_do_not_show() {
        let connection = Connection {
            url: "nats://u:hunter2@h".into(),
            login: Login::UserPassword { user: "u".into(), password: "hunter2".into() },
            tls: bus::Tls::default(),
            tenant: Tenant::default(),
            timings: Timings::default(),
        };
        assert!(!format!("{connection:?}").contains("hunter2"));
    }
}
