//! From the text of a job spec to a [`JobPlan`](crate::plan::JobPlan), or all mistakes at once.
//!
//! A spec (`SpecTree`) is what the user wrote: the file, its `base_config`s, its `overrides`, each value
//! with its line. A plan is what runs: every default filled in, everything checked, each value's origin
//! kept. Precedence: `--set` > `overrides` > the file > `base_config`. What a key may hold stands in one
//! table (`keys`), which the checks, the nearest-name search and the published schema share.

mod checks;
mod convert;
mod draft;
mod flatten;
mod json;
mod keys;
mod kinds;
mod located;
pub mod metric_names;
mod mistakes;
mod nearest;
mod parse;
mod plan;
mod schema;
mod tree;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Code, WireError};
use crate::rpc::SpecFormat;

pub use parse::{MAX_SPEC_BYTES, MAX_SPEC_DEPTH};
pub use plan::plan;
pub use schema::job_spec_schema;
pub use tree::{Loader, SpecTree, parse_document, resolve_base};

/// The text of a spec.
#[derive(Debug, Clone, Copy)]
pub struct SpecInput<'a> {
    /// As the user named it; none for standard input.
    pub file: Option<&'a str>,
    pub text: &'a str,
    pub format: SpecFormat,
}

/// What a plan takes from outside its spec.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlanDefaults<'a> {
    /// The job's name where neither the spec nor the name of its file gives one; else `job`.
    pub name: Option<&'a str>,
}

/// One mistake in a spec, for a person and for an editor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpecError {
    /// As the user named it; none for a spec that came as an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// 1-based; 0 where unknown.
    pub line: u32,
    /// 1-based; 0 where unknown.
    pub column: u32,
    /// Path of the key, such as `training.optimizer.learning_rate`.
    pub key: String,
    /// What was found and what was expected.
    pub message: String,
    /// The nearest valid name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl std::fmt::Display for SpecError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.file, self.line) {
            (Some(file), 0) => write!(f, "{file}: ")?,
            (Some(file), line) => write!(f, "{file}:{line}: ")?,
            (None, 0) => {}
            (None, line) => write!(f, "line {line}: ")?,
        }
        // "not yet supported: <key>: …" names the key already.
        let named =
            self.message.strip_prefix(NOT_YET).is_some_and(|rest| rest.starts_with(&format!(": {}: ", self.key)));
        if !self.key.is_empty() && !named {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}", self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, " (did you mean {suggestion}?)")?;
        }
        Ok(())
    }
}

/// How a message of a [`SpecError`] begins that names something this version does not do yet.
pub const NOT_YET: &str = "not yet supported";
/// How one begins that names a path, scheme or host that is not allowed.
pub const FORBIDDEN: &str = "forbidden";
/// How one begins that names a spec past its size.
pub const TOO_LARGE: &str = "too large";

/// All mistakes as one error for the wire: the code says what they have in common, the message shows
/// the first and counts the rest.
pub fn to_wire(errors: &[SpecError]) -> WireError {
    let all = |start: &str| !errors.is_empty() && errors.iter().all(|error| error.message.starts_with(start));
    let code = if all(NOT_YET) {
        Code::NotSupported
    } else if all(FORBIDDEN) {
        Code::Forbidden
    } else if all(TOO_LARGE) {
        Code::TooLarge
    } else {
        Code::ConfigError
    };
    let message = match errors {
        [] => "the spec is wrong".to_owned(),
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    };
    WireError::new(code, message)
}
