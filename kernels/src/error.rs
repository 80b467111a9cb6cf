//! The one error of this crate. Every variant says which operation refused, what it expected and what it
//! got; [`ErrorKind`] is what callers branch on.

/// What went wrong, for callers that branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Sizes do not fit together.
    Shape,
    /// An element type an operation does not take.
    Dtype,
    /// A value outside its range: a configuration key, a class index, a weight.
    Value,
    /// NaN or infinity appeared during a computation.
    Numeric,
    /// A weight or state file that is damaged, hostile or of another model.
    Weights,
    /// Memory could not be had.
    OutOfMemory,
    /// A library of the machine is missing, broken or too old.
    Library,
    /// A kernel's source that its compiler refuses.
    Compile,
    /// A device that failed, or is lost.
    Device,
    /// Devices that do not come together, or a call to the library that connects them.
    Collective,
}

/// Every failure of this crate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Sizes do not fit together.
    #[error("{op}: expected {expected}, got {got}")]
    Shape { op: &'static str, expected: String, got: String },
    /// An element type an operation does not take.
    #[error("{op}: expected element type {expected}, got {got}")]
    Dtype { op: &'static str, expected: &'static str, got: String },
    /// A value outside its range.
    #[error("{op}: expected {expected}, got {got}")]
    Value { op: &'static str, expected: String, got: String },
    /// NaN or infinity. `op` is the first operation whose result was not finite, `samples` the ids of the
    /// first rows concerned (at most [`MAX_NAMED_SAMPLES`]; empty where no single row is to blame).
    #[error("{op}: a value is not finite (step {step}, samples {samples:?})")]
    Numeric { op: String, step: u64, samples: Vec<u64> },
    /// A weight or state file that does not fit.
    #[error("weights: {what}: expected {expected}, got {got}")]
    Weights { what: String, expected: String, got: String },
    /// Memory could not be had.
    #[error("{op}: out of memory, {bytes} bytes asked for")]
    OutOfMemory { op: &'static str, bytes: usize },
    /// A device's memory could not be had. `rows`: how many samples would fit, where that is known.
    #[error("{device}: out of memory, {} needed, {} left{}", size(*.needed), size(*.had), fitting(*.rows))]
    DeviceMemory { device: String, needed: usize, had: usize, rows: Option<[usize; 2]> },
    /// A library that is opened at run time cannot be used. `sought`: where it was looked for.
    #[error("{library}: {error}{}", places(.sought))]
    Library { library: &'static str, error: String, sought: Vec<String> },
    /// A compiler's first objection to a kernel's source, and all that it said. Line 0: it named none.
    #[error("{file}({line}): {what} (compiled for {arch})")]
    Compile { file: String, line: u32, arch: String, what: String, log: String },
    /// A device refused or failed. `op` is what was asked of it then; what fails in the middle of a step is told by the
    /// next that waits for it.
    #[error("{device}: {op}: {what}")]
    Device { device: String, op: String, what: String },
    /// NCCL refused or failed, or the caller gave up waiting for it.
    #[error("NCCL: {call}: {what}")]
    Collective { call: &'static str, what: String },
}

/// Bytes for people.
fn size(bytes: usize) -> String {
    let [mib, gib] = [20, 30].map(|shift| bytes as f64 / f64::from(1 << shift));
    if gib >= 1.0 { format!("{gib:.2} GiB") } else { format!("{mib:.1} MiB") }
}

fn fitting(rows: Option<[usize; 2]>) -> String {
    match rows {
        Some([of, fit]) => format!(" for a part of {of} rows; one of about {fit} rows would fit"),
        None => String::new(),
    }
}

fn places(sought: &[String]) -> String {
    if sought.is_empty() { String::new() } else { format!("; sought in {}", sought.join(", ")) }
}

/// How many sample ids a numeric error names.
pub const MAX_NAMED_SAMPLES: usize = 8;

impl Error {
    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Shape { .. } => ErrorKind::Shape,
            Error::Dtype { .. } => ErrorKind::Dtype,
            Error::Value { .. } => ErrorKind::Value,
            Error::Numeric { .. } => ErrorKind::Numeric,
            Error::Weights { .. } => ErrorKind::Weights,
            Error::OutOfMemory { .. } | Error::DeviceMemory { .. } => ErrorKind::OutOfMemory,
            Error::Library { .. } => ErrorKind::Library,
            Error::Compile { .. } => ErrorKind::Compile,
            Error::Device { .. } => ErrorKind::Device,
            Error::Collective { .. } => ErrorKind::Collective,
        }
    }

    pub(crate) fn shape(op: &'static str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Shape { op, expected: expected.into(), got: got.into() }
    }

    pub(crate) fn value(op: &'static str, expected: impl Into<String>, got: impl ToString) -> Error {
        Error::Value { op, expected: expected.into(), got: got.to_string() }
    }

    pub(crate) fn weights(what: impl Into<String>, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Weights { what: what.into(), expected: expected.into(), got: got.into() }
    }
}

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
