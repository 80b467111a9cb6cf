//! What type a column was given when its files were read, and why.

use serde::{Deserialize, Serialize};

/// The report on one column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inference {
    pub column: String,
    /// `number`, `category`, `text`, `datetime`, `id`, `image` or `empty`.
    pub r#type: String,
    /// Whether the plan says so; otherwise it follows from the values.
    pub declared: bool,
    pub reason: String,
    /// Values that are missing.
    pub missing: u64,
    /// Values that speak for another type, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counter_examples: Vec<String>,
}
