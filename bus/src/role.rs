//! What every role of a process is given: the connection, who it is, where artifacts lie, and the
//! token that says "take nothing new, finish or give back, then stop".

use std::path::PathBuf;
use std::sync::Arc;

use messages::WorkerId;
use tokio_util::sync::CancellationToken;

use crate::Bus;
use crate::artifact::ArtifactStore;
use crate::remote::Remote;

/// Who this process is, as its heartbeats say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub worker: WorkerId,
    pub host: String,
    pub pid: u32,
    /// `version+commit`.
    pub build: String,
    /// Kernel fingerprint: bits of results can only be compared between equal ones.
    pub fingerprint: String,
}

/// Handed to every role at its start.
#[derive(Clone)]
pub struct RoleEnv {
    pub bus: Bus,
    pub identity: Arc<Identity>,
    pub artifacts: ArtifactStore,
    /// Cancelled when the process drains.
    pub drain: CancellationToken,
    /// Folders that a job spec may name files in.
    pub data_roots: Arc<Vec<PathBuf>>,
    /// Object stores and web servers that a job spec may name files of.
    pub remote: Remote,
    /// The process's home folder.
    pub home: Arc<PathBuf>,
}
