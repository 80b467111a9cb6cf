//! How rows are shared out: `data.split`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SplitStrategy {
    Random,
    Stratified,
    Group,
    /// Groups stay together, and each part has about the classes of the whole.
    StratifiedGroup,
    Time,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SplitPlan {
    pub strategy: SplitStrategy,
    /// Fraction of all rows; without effect when `data.test_path` is given.
    pub test_size: f64,
    /// Fraction of the remaining rows.
    pub val_size: f64,
    pub random_state: u64,
    /// Stratified: this column, else the target (a number is binned).
    pub stratify_column: Option<String>,
    pub group_column: Option<String>,
    pub time_column: Option<String>,
    #[serde(flatten)]
    pub folding: FoldPlan,
}

/// How sizes of parts are met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SplitBy {
    /// To the row, by an order of all rows: more rows move others.
    #[default]
    Exact,
    /// By a hash of the sample's id (or group): about the size, and a new row never moves an old one.
    Hash,
}

/// Which cut of the rows it is. Part of `data.split`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FoldPlan {
    #[serde(default, skip_serializing_if = "is_default")]
    pub by: SplitBy,
    /// Number of folds: fold `fold` is held out in place of `test_size` (beside `data.test_path`: of `val_size`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<u32>,
    /// From 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fold: u32,
    /// Another draw of the same split, from 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub repeat: u32,
    /// Time: what is left out between two parts, as [`Gap`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
}

/// What is left out between the parts of a time split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gap {
    Rows(u64),
    Seconds(f64),
}

impl Gap {
    /// `12`, `12 rows`, or a duration: `90s`, `30m`, `36h`, `7d`, `2w`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let count: u64 = text[..digits].parse().ok().filter(|count| *count <= 1 << 32)?;
        let seconds = match text[digits..].trim() {
            "" | "row" | "rows" => return Some(Self::Rows(count)),
            "s" | "second" | "seconds" => 1.0,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hour" | "hours" => 3_600.0,
            "d" | "day" | "days" => 86_400.0,
            "w" | "week" | "weeks" => 604_800.0,
            _ => return None,
        };
        Some(Self::Seconds(count as f64 * seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps() {
        for (text, expected) in [
            ("12", Some(Gap::Rows(12))),
            ("1 row", Some(Gap::Rows(1))),
            ("36h", Some(Gap::Seconds(129_600.0))),
            ("2 weeks", Some(Gap::Seconds(1_209_600.0))),
            ("7 d", Some(Gap::Seconds(604_800.0))),
            ("d", None),
            ("-3", None),
            ("1.5d", None),
            ("7 years", None),
        ] {
            assert_eq!(Gap::parse(text), expected, "{text}");
        }
    }
}
