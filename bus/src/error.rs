//! The error of this crate: a kind to branch on, and a text that says which server and subject, what
//! happened and what to do. Credentials never stand in it.

use messages::WireError;
use messages::error::Code;

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No connection: refused, name not found, or nobody serves the subject.
    Unreachable,
    /// The server refused the credentials.
    Unauthorized,
    /// The server, or the server's binary, is older than 2.12.
    ServerTooOld,
    /// No answer in time. It does not mean that nothing happened.
    Timeout,
    /// The credentials do not allow the subject, or a path or name is not allowed.
    Permission,
    /// A stream or the server's storage is full: try later.
    Full,
    /// A compare-and-set came too late.
    Conflict,
    NotFound,
    /// A message could not be read, or is too large to be sent.
    BadMessage,
    /// The artifact store or a folder cannot be read or written.
    Storage,
    /// Content does not have the hash or the size that its reference names.
    Integrity,
    /// The connection was closed by this process.
    Closed,
    Other,
}

/// Error of the bus.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    code: Option<Code>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), code: None, source: None }
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The wire code, where the kind alone does not say it.
    pub(crate) fn coded(mut self, code: Code) -> Self {
        self.code = Some(code);
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The error as it travels and as an actor reports it.
    pub fn to_wire(&self) -> WireError {
        let code = self.code.unwrap_or(match self.kind {
            ErrorKind::Unreachable | ErrorKind::Closed | ErrorKind::ServerTooOld => Code::BusUnavailable,
            ErrorKind::Unauthorized | ErrorKind::Permission => Code::PermissionDenied,
            ErrorKind::Timeout => Code::DeadlineExceeded,
            ErrorKind::Full => Code::Overloaded,
            ErrorKind::Conflict => Code::Fenced,
            ErrorKind::NotFound | ErrorKind::Storage => Code::ArtifactStoreUnavailable,
            ErrorKind::BadMessage => Code::BadMessage,
            ErrorKind::Integrity => Code::ArtifactCorrupt,
            ErrorKind::Other => Code::InternalError,
        });
        let mut wire = WireError::new(code, self.message.clone());
        wire.retry = match self.kind {
            ErrorKind::Timeout => true,
            ErrorKind::ServerTooOld | ErrorKind::Closed => false,
            _ => wire.retry,
        };
        let hint = match self.kind {
            ErrorKind::Full => Some("try again later; `streams:` in within.yaml sets the limits"),
            ErrorKind::Permission if self.code.is_none() => {
                Some("deploy/nats/tenant-default.conf has the subjects that each role needs")
            }
            ErrorKind::Storage if self.code.is_none() => {
                Some("see that it can be written and that nothing else uses it, or give another --home")
            }
            ErrorKind::Unauthorized => Some("give the right --creds and `nats.tls`, or ask whoever runs the server"),
            _ => None,
        };
        wire.hint = hint.map(str::to_owned);
        wire
    }
}

/// Result of this crate.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_may_be_tried_again_and_an_old_server_may_not() {
        assert!(Error::new(ErrorKind::Timeout, "t").to_wire().retry);
        assert!(!Error::new(ErrorKind::ServerTooOld, "t").to_wire().retry);
        let full = Error::new(ErrorKind::Storage, "disk").coded(Code::StorageFull).to_wire();
        assert_eq!((full.code, full.message.as_str()), (Code::StorageFull, "disk"));
    }
}
