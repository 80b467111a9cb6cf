//! What can be wrong with data, gathered so that a user sees all of it at once.

pub mod datetime;
pub mod inference;
pub mod names;
pub mod scan;
pub mod target;
pub mod value;

use std::fmt::{self, Write};

use messages::WireError;
use messages::error::Code;

/// Most violations that an error shows; the rest is counted.
pub const MAX_SHOWN: usize = 20;
/// Most columns of a file.
pub const MAX_COLUMNS: usize = 100_000;
/// Largest field of a text file, in bytes; also of a whole record where quotes are never closed.
pub const MAX_FIELD_BYTES: usize = 16 * 1024 * 1024;
/// Most rows of a dataset version.
pub const MAX_ROWS: u64 = u32::MAX as u64 - 1;
/// Most classes of a target.
pub const MAX_CLASSES: usize = 10_000;

/// Where in the data something was found. Lines count from 1 with the header; rows (of files without
/// lines) count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Line(u64),
    Row(u64),
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// File as the plan names it; none when it is about all of them.
    pub file: Option<String>,
    pub at: Option<At>,
    pub column: Option<String>,
    /// What was found and what was expected.
    pub message: String,
    pub hint: Option<String>,
}

impl Violation {
    pub fn new(message: impl Into<String>) -> Self {
        Self { file: None, at: None, column: None, message: message.into(), hint: None }
    }

    pub fn file(mut self, file: &str) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    pub fn at(mut self, at: At) -> Self {
        self.at = Some(at);
        self
    }

    pub fn column(mut self, column: &str) -> Self {
        self.column = Some(column.to_owned());
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut place = Vec::new();
        match (&self.file, self.at) {
            (Some(file), Some(at)) => place.push(format!("{file} {at}")),
            (Some(file), None) => place.push(file.clone()),
            (None, Some(at)) => place.push(at.to_string()),
            (None, None) => {}
        }
        if let Some(column) = &self.column {
            place.push(format!("column {column:?}"));
        }
        if !place.is_empty() {
            write!(f, "{}: ", place.join(", "))?;
        }
        f.write_str(&self.message)
    }
}

/// All violations so far: the first [`MAX_SHOWN`], and how many there are.
#[derive(Debug, Default)]
pub struct Violations {
    shown: Vec<Violation>,
    total: u64,
}

impl Violations {
    pub fn add(&mut self, violation: Violation) {
        self.total += 1;
        if self.shown.len() < MAX_SHOWN {
            self.shown.push(violation);
        }
    }

    /// Counts violations that were seen but of which nothing is kept.
    pub fn count_more(&mut self, more: u64) {
        self.total += more;
    }

    pub fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The first of them.
    pub fn shown(&self) -> &[Violation] {
        &self.shown
    }

    /// The error, if anything is wrong.
    pub fn check(&mut self) -> Result<(), WireError> {
        if self.is_empty() { Ok(()) } else { Err(self.to_error()) }
    }

    fn to_error(&self) -> WireError {
        let mut message = String::new();
        if self.total > 1 {
            message = format!("{} problems with the data:\n  ", self.total);
        }
        let lines: Vec<_> = self.shown.iter().map(ToString::to_string).collect();
        message.push_str(&lines.join("\n  "));
        if self.total > self.shown.len() as u64 {
            write!(message, "\n  … and {} more", self.total - self.shown.len() as u64)
                .expect("invariant: a string takes all");
        }
        let mut hints: Vec<&str> = Vec::new();
        for hint in self.shown.iter().filter_map(|violation| violation.hint.as_deref()) {
            if !hints.contains(&hint) && hints.len() < 3 {
                hints.push(hint);
            }
        }
        let error = WireError::new(Code::DatasetValidationError, message);
        if hints.is_empty() { error } else { error.with_hint(hints.join("; ")) }
    }
}

/// One violation as an error.
impl From<Violation> for WireError {
    fn from(violation: Violation) -> Self {
        Violations { shown: vec![violation], total: 1 }.to_error()
    }
}

/// A value as it stands in a message: quoted, and cut where it is long.
pub fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}
