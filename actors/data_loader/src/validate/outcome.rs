//! The report of a validation: what was read, which rules were broken and where, what the columns hold.

use std::collections::BTreeMap;
use std::fmt::Write;

use messages::WireError;
use messages::error::Code;
use serde::Serialize;
use serde_json::Value;

use super::engine::Found;
use super::profile::{Column, Finding, Profile};
use super::schema::{DataSchema, Severity};
use crate::check::MAX_SHOWN;

/// Version of the document.
pub const REPORT_VERSION: u16 = 1;
/// Most frequent values that the report shows of a column.
const TOP: usize = 10;
/// Lines of an error that are of violations.
const SHOWN_RULES: usize = MAX_SHOWN;

/// One file that was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileRead {
    pub path: String,
    pub rows: u64,
    pub blake3: String,
    pub size_bytes: u64,
}

/// The schema that was held against the data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SchemaUsed {
    pub name: String,
    pub version: String,
    pub blake3: String,
    pub rules: usize,
}

impl From<&DataSchema> for SchemaUsed {
    fn from(schema: &DataSchema) -> Self {
        Self {
            name: schema.name.clone(),
            version: schema.version.clone(),
            blake3: schema.blake3.clone(),
            rules: schema.rules.len(),
        }
    }
}

/// One column as the report shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ColumnShown {
    pub name: String,
    pub r#type: &'static str,
    pub missing: u64,
    pub missing_share: f64,
    /// Different values, or at least so many.
    pub distinct: u64,
    pub distinct_is_exact: bool,
    /// Numbers only; ddof 0.
    pub mean: Option<f64>,
    pub std: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    /// 5, 25, 50, 75 and 95 %; of a sample where `quantiles_are_exact` is false.
    pub quantiles: Option<[f64; 5]>,
    pub quantiles_are_exact: bool,
    /// The most frequent values, of columns that have few.
    pub top: Vec<(String, u64)>,
}

/// The document. Other steps add keys of their own in `more`: detected_outliers, potential_mislabels,
/// corrections_applied.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub schema: u16,
    pub files: Vec<FileRead>,
    pub rows: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_schema: Option<SchemaUsed>,
    /// Whether no rule of severity fail is broken.
    pub passed: bool,
    pub quarantined_rows: u64,
    /// By rule, the gravest first.
    pub schema_violations: Vec<Found>,
    /// Rules that could not be checked, and why.
    pub not_checked: Vec<String>,
    pub findings: Vec<Finding>,
    pub columns: Vec<ColumnShown>,
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

impl Report {
    /// Violations of this severity, of all rules.
    pub fn count(&self, severity: Severity) -> u64 {
        self.schema_violations.iter().filter(|found| found.severity == severity).map(|found| found.count).sum()
    }

    /// The bytes to store.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("invariant: a report serializes")
    }

    /// An error that lists what is broken, if any rule of severity fail is.
    pub fn verdict(&self) -> Result<(), WireError> {
        if self.passed {
            return Ok(());
        }
        let broken: Vec<&Found> =
            self.schema_violations.iter().filter(|found| found.severity == Severity::Fail).collect();
        let schema = self.data_schema.as_ref().map_or("", |schema| schema.name.as_str());
        let mut message = format!(
            "the data do not fit schema {schema:?}: {} violations of {} rules",
            self.count(Severity::Fail),
            broken.len()
        );
        for found in broken.iter().take(SHOWN_RULES) {
            message.push_str("\n  ");
            message.push_str(&line(found));
        }
        if broken.len() > SHOWN_RULES {
            write!(message, "\n  … and {} more rules", broken.len() - SHOWN_RULES)
                .expect("invariant: a string takes all");
        }
        let hint = "mend the data, or set data.validation.on_violation to quarantine or warn";
        Err(WireError::new(Code::DatasetValidationError, message).with_hint(hint))
    }

    /// What a reader should know, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.quarantined_rows > 0 {
            let share = self.quarantined_rows as f64 / self.rows.max(1) as f64;
            warnings.push(format!(
                "{} of {} rows ({}) break a rule and are left out; they are kept beside",
                self.quarantined_rows,
                self.rows,
                report::percent(share)
            ));
        }
        let told = self.schema_violations.iter().filter(|found| found.severity == Severity::Warn);
        warnings.extend(told.map(line));
        warnings
    }
}

/// A rule's violations in a line.
pub fn line(found: &Found) -> String {
    let first = found.examples.first();
    let place = first.map(super::engine::Example::place).unwrap_or_default();
    let mut parts = Vec::new();
    if !place.is_empty() {
        parts.push(place);
    }
    parts.extend(found.column.as_ref().map(|column| format!("column {column:?}")));
    let value = first.map(|example| example.value.as_str()).unwrap_or_default();
    let all = if found.count > 1 { format!("; {} in all", found.count) } else { String::new() };
    let place = parts.join(", ");
    let colon = if place.is_empty() { "" } else { ": " };
    format!("{place}{colon}{value}, expected {} ({}{all})", found.expected, found.r#type.as_str())
}

/// The columns of a profile as the report shows them.
pub fn columns(profile: &Profile) -> Vec<ColumnShown> {
    profile.columns.iter().enumerate().map(|(index, column)| shown(profile, index, column)).collect()
}

fn shown(profile: &Profile, index: usize, column: &Column) -> ColumnShown {
    let numeric = column.is_numeric() && column.numbers > 0;
    let number = |value: f64| numeric.then_some(value);
    let sorted = if numeric { profile.sample.sorted(index) } else { Vec::new() };
    let quantile = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
    let mut top: Vec<(String, u64)> = Vec::new();
    if !column.more_values && (!numeric || column.values.len() <= 50) {
        top = column.values.iter().map(|value| (value.text.clone(), value.count)).collect();
        top.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        top.truncate(TOP);
    }
    ColumnShown {
        name: column.name.clone(),
        r#type: column.r#type().as_str(),
        missing: column.missing.count,
        missing_share: column.missing.count as f64 / profile.rows.max(1) as f64,
        distinct: column.values.len() as u64,
        distinct_is_exact: !column.more_values,
        mean: number(column.mean),
        std: number(column.std()),
        min: number(column.least[0]),
        max: number(column.greatest[0]),
        quantiles: (!sorted.is_empty()).then(|| [0.05, 0.25, 0.5, 0.75, 0.95].map(quantile)),
        quantiles_are_exact: profile.sample.is_whole(),
        top,
    }
}
