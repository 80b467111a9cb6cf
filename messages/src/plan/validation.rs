//! How a job's data are held against a data schema before they are split.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ValidationPlan {
    /// Name of a schema that comes with the program, path of a JSON file below a data root, or the JSON text of a
    /// schema itself, which begins with `{`. None: nothing is validated.
    pub schema: Option<String>,
    pub on_violation: OnViolation,
}

/// What becomes of data that break a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnViolation {
    /// What the rule says.
    #[default]
    ByRule,
    /// The job fails.
    Fail,
    /// Rows that break a rule are left out and kept beside; what is no row's fault stays by its rule.
    Quarantine,
    /// It is told, and nothing else.
    Warn,
}
