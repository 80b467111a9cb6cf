//! How a command ends: the exit code is part of the interface.

use messages::WireError;
use messages::spec::SpecError;

/// Done.
pub const DONE: u8 = 0;
/// The job failed or was cancelled.
pub const JOB_FAILED: u8 = 1;
/// Wrong usage or spec.
pub const USAGE: u8 = 2;
/// NATS, the store, a port: not the job's fault.
pub const INFRASTRUCTURE: u8 = 3;
/// SIGINT.
pub const INTERRUPTED: u8 = 130;
/// SIGTERM.
pub const TERMINATED: u8 = 143;

/// Why a command could not do its work. A job that failed is no such error: it is a result.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The user's mistake.
    #[error("{0}")]
    Usage(String),
    /// All mistakes of a job spec.
    #[error("{}", list(.0))]
    Spec(Vec<SpecError>),
    /// Something that the command needs is not there.
    #[error("{0}")]
    Infrastructure(#[from] WireError),
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Spec(_) => USAGE,
            Self::Infrastructure(_) => INFRASTRUCTURE,
        }
    }

    /// The failure as it travels and as `--json` prints it.
    pub fn to_wire(&self) -> WireError {
        use messages::error::Code;
        match self {
            Self::Usage(text) => WireError::new(Code::ConfigError, text.clone()),
            Self::Spec(errors) => WireError { message: list(errors), ..messages::spec::to_wire(errors) },
            Self::Infrastructure(error) => error.clone(),
        }
    }
}

impl From<bus::Error> for Failure {
    fn from(error: bus::Error) -> Self {
        Self::Infrastructure(error.to_wire())
    }
}

fn list(errors: &[SpecError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}
