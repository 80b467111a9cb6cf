//! How the files of a table are read beside what `CsvPlan` says, and the tables that are joined to it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the bytes of a text file become characters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TextEncoding {
    /// With or without a byte order mark.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// Also what is called Latin-1, of which it is the superset that files have.
    #[serde(rename = "windows-1252")]
    Windows1252,
    /// By the byte order mark; little-endian without one.
    #[serde(rename = "utf-16")]
    Utf16,
    #[serde(rename = "utf-16le")]
    Utf16Le,
    #[serde(rename = "utf-16be")]
    Utf16Be,
}

/// How the values of one column are read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ColumnSourcePlan {
    /// Of an image column without `images`: height and width that each image is resized to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Vec<u32>>,
    /// Of such a column: 3 for color, 1 for gray.
    #[serde(skip_serializing_if = "is_color")]
    pub channels: u32,
    /// Of a datetime column: how its texts stand (strftime); without it ISO 8601.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date_format: Option<String>,
    /// Of a datetime column: the IANA zone of texts that name none; without it UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_color(channels: &u32) -> bool {
    *channels == 3
}

impl Default for ColumnSourcePlan {
    fn default() -> Self {
        Self { size: None, channels: 3, date_format: None, time_zone: None }
    }
}

/// Another table, whose columns stand beside those of the rows with the same key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JoinPlan {
    /// One file, relative to the data roots or a URL; by its suffix as `data.format: auto` reads it.
    pub path: String,
    /// Columns that both tables have; each combination of their values stands once in this one.
    pub on: Vec<String>,
    pub how: JoinKind,
    /// In front of the names of its columns.
    pub prefix: String,
}

/// What becomes of a row whose key the other table does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum JoinKind {
    /// It stays, and the other table's columns are missing.
    Left,
    /// It is left out.
    Inner,
}
