//! The crate's error: bytes that are not what they claim, or rows that do not fit the manifest.

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Bytes that are no shard, frame or manifest.
    Malformed,
    /// A manifest of a schema version that this reader does not know.
    Version,
    /// Rows whose columns are not what the manifest names.
    Layout,
}

/// Why something could not be read or encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Malformed, message: message.into() }
    }

    pub(crate) fn version(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Version, message: message.into() }
    }

    pub(crate) fn layout(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Layout, message: message.into() }
    }
}
