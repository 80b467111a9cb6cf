//! A data schema: which columns a table has, what their values are, and what becomes of what breaks a rule. Read from
//! JSON; every mistake in it is told with its line, its key, and the nearest valid name.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;
use serde::Serialize;

use super::agreement::{Level, Measure};
use super::expression::{Expression, Type};

/// What is wrong with a schema file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    pub line: u32,
    /// Path of the key; empty: the file itself.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() { String::new() } else { format!("{}: ", self.key) };
        write!(f, "line {}: {key}{}", self.line, self.message)
    }
}

/// What becomes of data that break a rule. The later one is the graver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It is told.
    Warn,
    /// The row is left out and kept beside.
    Quarantine,
    /// The data are refused.
    Fail,
}

impl Severity {
    pub const ALL: [(&'static str, Self); 3] =
        [("warn", Self::Warn), ("quarantine", Self::Quarantine), ("fail", Self::Fail)];

    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, severity)| *severity == self).map_or("", |(name, _)| name)
    }
}

/// What a violation is, in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Broken {
    MissingColumn,
    UnexpectedColumn,
    WrongType,
    MissingValue,
    OutOfRange,
    NotAllowed,
    PatternMismatch,
    NotUnique,
    ConditionFalse,
    TooManyMissing,
    RowCount,
    Stale,
    LowAgreement,
    /// The reader could make no row of it: a line with too many fields, bytes that are no text.
    Unreadable,
}

impl Broken {
    pub const ALL: [(&'static str, Self); 14] = [
        ("missing_column", Self::MissingColumn),
        ("unexpected_column", Self::UnexpectedColumn),
        ("wrong_type", Self::WrongType),
        ("missing_value", Self::MissingValue),
        ("out_of_range", Self::OutOfRange),
        ("not_allowed", Self::NotAllowed),
        ("pattern_mismatch", Self::PatternMismatch),
        ("not_unique", Self::NotUnique),
        ("condition_false", Self::ConditionFalse),
        ("too_many_missing", Self::TooManyMissing),
        ("row_count", Self::RowCount),
        ("stale", Self::Stale),
        ("low_agreement", Self::LowAgreement),
        ("unreadable", Self::Unreadable),
    ];

    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, broken)| *broken == self).map_or("", |(name, _)| name)
    }

    /// Whether a row can be blamed, and so be left out.
    pub fn is_of_a_row(self) -> bool {
        matches!(
            self,
            Self::WrongType
                | Self::MissingValue
                | Self::OutOfRange
                | Self::NotAllowed
                | Self::PatternMismatch
                | Self::NotUnique
                | Self::ConditionFalse
        )
    }
}

/// The declared type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Integer,
    Number,
    Text,
    Bool,
    Date,
}

impl Kind {
    /// Names, and other names that mean the same.
    pub const ALL: [(&'static str, Self); 13] = [
        ("integer", Self::Integer),
        ("int", Self::Integer),
        ("number", Self::Number),
        ("numeric", Self::Number),
        ("float", Self::Number),
        ("text", Self::Text),
        ("string", Self::Text),
        ("category", Self::Text),
        ("boolean", Self::Bool),
        ("bool", Self::Bool),
        ("date", Self::Date),
        ("datetime", Self::Date),
        ("timestamp", Self::Date),
    ];

    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }

    pub fn expected(self) -> &'static str {
        match self {
            Self::Integer => "a whole number",
            Self::Number => "a number",
            Self::Text => "a text",
            Self::Bool => "true or false",
            Self::Date => "a date such as 2021-01-25, or with a time",
        }
    }

    /// In expressions.
    pub fn value_type(self) -> Type {
        match self {
            Self::Integer | Self::Number => Type::Number,
            Self::Text => Type::Text,
            Self::Bool => Type::Bool,
            Self::Date => Type::Date,
        }
    }
}

/// The bounds of a column's numbers, or of its dates in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    pub min: f64,
    pub max: f64,
    /// Whether a bound itself is out.
    pub min_open: bool,
    pub max_open: bool,
}

impl Bounds {
    pub fn hold(&self, value: f64) -> bool {
        let low = if self.min_open { value > self.min } else { value >= self.min };
        let high = if self.max_open { value < self.max } else { value <= self.max };
        low && high
    }
}

/// What is asked of the data.
#[derive(Debug, Clone)]
pub enum Check {
    Required {
        column: String,
    },
    NoOtherColumns {
        known: Vec<String>,
    },
    Type {
        column: String,
        kind: Kind,
    },
    NotNull {
        column: String,
    },
    Range {
        column: String,
        bounds: Bounds,
    },
    /// Texts as they stand; numbers where all of them are.
    AllowedTexts {
        column: String,
        allowed: Vec<String>,
    },
    AllowedNumbers {
        column: String,
        allowed: Vec<f64>,
    },
    Pattern {
        column: String,
        regex: Regex,
    },
    Unique {
        columns: Vec<String>,
    },
    Condition {
        expression: Expression,
    },
    NullShare {
        column: String,
        max: f64,
    },
    RowCount {
        min: u64,
        max: u64,
    },
    /// Milliseconds; `as_of` none: now.
    Freshness {
        column: String,
        max_age_ms: f64,
        as_of: Option<f64>,
    },
    Agreement {
        item: String,
        rater: String,
        rating: String,
        measure: Measure,
        level: Level,
        min: f64,
    },
}

impl Check {
    /// The columns that it reads.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Self::NoOtherColumns { .. } | Self::RowCount { .. } => Vec::new(),
            Self::Required { column }
            | Self::Type { column, .. }
            | Self::NotNull { column }
            | Self::Range { column, .. }
            | Self::AllowedTexts { column, .. }
            | Self::AllowedNumbers { column, .. }
            | Self::Pattern { column, .. }
            | Self::NullShare { column, .. }
            | Self::Freshness { column, .. } => vec![column],
            Self::Unique { columns } => columns.iter().map(String::as_str).collect(),
            Self::Condition { expression } => expression.columns().iter().map(String::as_str).collect(),
            Self::Agreement { item, rater, rating, .. } => vec![item, rater, rating],
        }
    }

    pub fn broken(&self) -> Broken {
        match self {
            Self::Required { .. } => Broken::MissingColumn,
            Self::NoOtherColumns { .. } => Broken::UnexpectedColumn,
            Self::Type { .. } => Broken::WrongType,
            Self::NotNull { .. } => Broken::MissingValue,
            Self::Range { .. } => Broken::OutOfRange,
            Self::AllowedTexts { .. } | Self::AllowedNumbers { .. } => Broken::NotAllowed,
            Self::Pattern { .. } => Broken::PatternMismatch,
            Self::Unique { .. } => Broken::NotUnique,
            Self::Condition { .. } => Broken::ConditionFalse,
            Self::NullShare { .. } => Broken::TooManyMissing,
            Self::RowCount { .. } => Broken::RowCount,
            Self::Freshness { .. } => Broken::Stale,
            Self::Agreement { .. } => Broken::LowAgreement,
        }
    }
}

/// One rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// As a person names it: `clicks >= 0`.
    pub name: String,
    /// What was expected, for messages.
    pub expected: String,
    pub check: Check,
    pub severity: Severity,
}

/// A whole schema.
#[derive(Debug, Clone)]
pub struct DataSchema {
    pub name: String,
    pub version: String,
    pub description: String,
    /// BLAKE3 of its text.
    pub blake3: String,
    /// Texts that mean missing, beside those of the reader.
    pub null_values: Vec<String>,
    pub types: BTreeMap<String, Kind>,
    pub rules: Vec<Rule>,
}

impl DataSchema {
    /// A schema that asks for nothing.
    pub fn empty() -> Self {
        Self {
            name: String::new(),
            version: String::new(),
            description: String::new(),
            blake3: String::new(),
            null_values: Vec::new(),
            types: BTreeMap::new(),
            rules: Vec::new(),
        }
    }

    /// Whether the verdict depends on the time at which it is given.
    pub fn asks_for_now(&self) -> bool {
        self.rules.iter().any(|rule| matches!(rule.check, Check::Freshness { as_of: None, .. }))
    }

    /// The type of a column in expressions and ranges.
    pub fn kind(&self, column: &str) -> Option<Kind> {
        self.types.get(column).copied()
    }

    /// Every column that some rule reads.
    pub fn columns(&self) -> Vec<&str> {
        let mut columns: Vec<&str> = self.types.keys().map(String::as_str).collect();
        columns.extend(self.rules.iter().flat_map(|rule| rule.check.columns()));
        columns.sort_unstable();
        columns.dedup();
        columns
    }
}
