//! Collects every mistake of a spec, so that all are answered at once.

use super::SpecError;
use super::located::Place;

/// Most mistakes that are answered; a spec with more has a cause that the first ones show.
const MAX_MISTAKES: usize = 200;

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(crate) struct Mistakes {
    found: Vec<(Place, SpecError)>,
    files: Vec<Option<String>>,
}

impl Mistakes {
    /// `files`: the names of the sources that places refer to.
    pub fn new(files: Vec<Option<String>>) -> Self {
        Self { found: Vec::new(), files }
    }

    /// Announces a further source and returns its index.
    pub fn source(&mut self, file: Option<String>) -> u16 {
        self.files.push(file);
        self.files.len() as u16 - 1
    }

    pub fn file(&self, source: u16) -> Option<&str> {
        self.files.get(usize::from(source))?.as_deref()
    }

    pub fn add(&mut self, at: Place, key: &str, message: impl Into<String>) {
        self.add_with(at, key, message, None);
    }

    pub fn add_with(&mut self, at: Place, key: &str, message: impl Into<String>, suggestion: Option<String>) {
        if self.found.len() >= MAX_MISTAKES {
            return;
        }
        let error = SpecError {
            file: self.file(at.source).map(str::to_owned),
            line: at.line,
            column: at.column,
            key: key.to_owned(),
            message: message.into(),
            suggestion,
        };
        if !self.found.iter().any(|(_, known)| *known == error) {
            self.found.push((at, error));
        }
    }

    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// By source, line and column; what has no line last.
    pub fn into_errors(mut self) -> Vec<SpecError> {
        self.found.sort_by_key(|(at, _)| (at.source, at.line == 0, at.line, at.column));
        self.found.into_iter().map(|(_, error)| error).collect()
    }
}
