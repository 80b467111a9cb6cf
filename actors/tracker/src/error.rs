//! The tracker's error: what the store refused and what the operator can do about it.

use messages::WireError;
use messages::error::Code;

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The configured database is of a kind that is not served, or its address is wrong.
    Config,
    /// Another process holds the database for longer than we wait.
    Locked,
    /// Written by a newer version than this one.
    TooNew,
    /// No room left on the disk.
    Full,
    /// Another writer has taken over, or the position has moved.
    Fenced,
    /// Everything else that the database says.
    Database,
}

/// Every failure of this crate.
#[derive(Debug, thiserror::Error)]
#[error("tracker: {message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<sqlx::Error>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// An error of the database while doing `what`.
    pub(crate) fn database(what: &str, source: sqlx::Error) -> Self {
        let code = match &source {
            sqlx::Error::Database(error) => error.code().and_then(|code| code.parse::<u32>().ok()),
            _ => None,
        };
        // Primary result codes of SQLite; the extended code carries more in its upper bits.
        let kind = match code.map(|code| code & 0xff) {
            Some(5 | 6) => ErrorKind::Locked,
            Some(13) => ErrorKind::Full,
            _ => ErrorKind::Database,
        };
        Self { kind, message: format!("{what}: {source}"), source: Some(source) }
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// As it travels in a task's report, where another try may succeed.
    pub fn to_wire(&self) -> WireError {
        match self.kind {
            ErrorKind::Config => WireError::new(Code::ConfigError, self.to_string()),
            ErrorKind::Full => WireError::new(Code::StorageFull, self.to_string())
                .with_hint("free some space on the disk of the tracker's database"),
            ErrorKind::Locked => WireError::new(Code::TrackerUnavailable, self.to_string()).with_hint(
                "another program holds the database file: end it, or give this process another `tracker_database`",
            ),
            ErrorKind::TooNew => WireError::new(Code::TrackerUnavailable, self.to_string())
                .with_hint("run the newer version of within, or give this process another `tracker_database`"),
            ErrorKind::Fenced | ErrorKind::Database => WireError::new(Code::TrackerUnavailable, self.to_string()),
        }
    }

    /// As it ends a process that cannot start: nothing changes by trying again.
    pub fn to_fatal(&self) -> WireError {
        WireError { retry: false, ..self.to_wire() }
    }
}

impl From<Error> for WireError {
    fn from(error: Error) -> Self {
        error.to_wire()
    }
}
