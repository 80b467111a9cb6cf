//! The crate's error: what goes wrong with checkpoints on a disk. Everything else that fails in a
//! rank is a `WireError` from the start, because it goes to the coordinator unchanged.

use messages::WireError;
use messages::error::Code;

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Content is not what its manifest says, or cannot be read as what it is.
    Corrupt,
    Missing,
    /// A checkpoint of another plan, dataset or model.
    Mismatch,
    /// A later lease has written here.
    Fenced,
    StorageFull,
    Storage,
}

/// A checkpoint that could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<std::io::Error>,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn io(what: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::Missing,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
                ErrorKind::StorageFull
            }
            _ => ErrorKind::Storage,
        };
        Self { kind, message: format!("cannot {what} {}: {source}", path.display()), source: Some(source) }
    }

    pub fn to_wire(&self) -> WireError {
        match self.kind {
            ErrorKind::Corrupt | ErrorKind::Missing => WireError::new(Code::ArtifactCorrupt, &self.message),
            ErrorKind::Mismatch => WireError::new(Code::ModelInvalid, &self.message),
            ErrorKind::Fenced => WireError::new(Code::Fenced, &self.message),
            ErrorKind::StorageFull => WireError::new(Code::StorageFull, &self.message)
                .with_hint("free room where artifacts are kept, or lower training.checkpoint.keep_best"),
            ErrorKind::Storage => WireError::new(Code::ArtifactStoreUnavailable, &self.message),
        }
    }
}
