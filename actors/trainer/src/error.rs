//! The crate's error: what goes wrong with checkpoints on a disk and between the ranks of a group.
//! Everything else that fails in a rank is a `WireError` from the start, because it goes to the
//! coordinator unchanged.

use messages::WireError;
use messages::error::{Class, Code};

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
    /// A peer of the group closed its connection, or its host reset it.
    PeerClosed,
    /// A peer did not do its part, or could not be reached, within the time-out.
    PeerTimedOut,
    /// A peer does not know the group's token, or does not take ours.
    PeerRefused,
    /// A peer is in another generation of the group.
    OtherGeneration,
    /// A peer speaks another version of the protocol.
    OtherVersion,
    /// A frame's checksum does not hold.
    FrameCorrupt,
    /// A peer does not run the same operations.
    Diverged,
    /// The group was aborted, here or by a peer.
    Aborted,
    /// This rank's own network failed.
    Network,
    /// What connects the devices failed, and no rank is known to be to blame.
    Collective,
}

/// A rank as errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    pub rank: u32,
    pub host: String,
}

impl std::fmt::Display for PeerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} ({})", self.rank, self.host)
    }
}

/// A checkpoint that could not be written or read, or an exchange between ranks that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    culprit: Option<PeerName>,
    #[source]
    source: Option<std::io::Error>,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The rank to blame, as far as this rank can tell.
    pub fn culprit(&self) -> Option<&PeerName> {
        self.culprit.as_ref()
    }

    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), culprit: None, source: None }
    }

    /// What happened with `peer`, whose name opens the message.
    pub(crate) fn peer(kind: ErrorKind, peer: &PeerName, what: impl std::fmt::Display) -> Self {
        Self { kind, message: format!("{peer}: {what}"), culprit: Some(peer.clone()), source: None }
    }

    /// The same, with another rank to blame than the one that told.
    pub(crate) fn blaming(self, culprit: &PeerName) -> Self {
        Self { culprit: Some(culprit.clone()), ..self }
    }

    pub(crate) fn because(self, source: std::io::Error) -> Self {
        Self { source: Some(source), ..self }
    }

    pub(crate) fn io(what: &str, path: &std::path::Path, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::Missing,
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded | std::io::ErrorKind::FileTooLarge => {
                ErrorKind::StorageFull
            }
            _ => ErrorKind::Storage,
        };
        Self::new(kind, format!("cannot {what} {}: {source}", path.display())).because(source)
    }

    pub fn to_wire(&self) -> WireError {
        match self.kind {
            ErrorKind::Corrupt | ErrorKind::Missing => WireError::new(Code::ArtifactCorrupt, &self.message),
            ErrorKind::Mismatch => WireError::new(Code::ModelInvalid, &self.message),
            ErrorKind::Fenced | ErrorKind::OtherGeneration => WireError::new(Code::Fenced, &self.message),
            ErrorKind::StorageFull => WireError::new(Code::StorageFull, &self.message)
                .with_hint("free room where artifacts are kept, or lower training.checkpoint.keep_best"),
            ErrorKind::Storage => WireError::new(Code::ArtifactStoreUnavailable, &self.message),
            ErrorKind::PeerClosed => WireError::new(Code::WorkerDied, &self.message),
            ErrorKind::PeerTimedOut => WireError::new(Code::WorkerHung, &self.message),
            ErrorKind::PeerRefused => WireError::new(Code::PermissionDenied, &self.message),
            ErrorKind::FrameCorrupt => {
                WireError::new(Code::NetworkPartition, &self.message).with_class(Class::Infrastructure)
            }
            ErrorKind::Aborted | ErrorKind::Network | ErrorKind::Collective => {
                WireError::new(Code::NetworkPartition, &self.message)
            }
            ErrorKind::OtherVersion => WireError::new(Code::TrainingError, &self.message)
                .with_hint("all workers of a gang run the same build of within"),
            ErrorKind::Diverged => WireError::new(Code::InternalError, &self.message),
        }
    }
}
