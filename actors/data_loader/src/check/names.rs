//! What the columns of the files are used for, by the plan, and names that do not fit.

use std::collections::{BTreeMap, BTreeSet};

use frame::manifest::{ColumnRole, RESERVED_PREFIX};
use messages::plan::{ColumnPlan, ColumnType, DataPlan, Impute, SplitStrategy, Task};

use super::datetime::DateReader;
use super::value::ValueReader;
use super::{Violation, Violations};
use crate::nearest::did_you_mean;
use crate::source::{Want, picture};

/// What a column's values must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Infer,
    Number,
    Category,
    /// Hashed to sample ids.
    Id,
    /// Kept as it stands.
    Text,
    /// Dates and times, by the reader of the use.
    Time,
    /// Names of picture files, or their bytes.
    Picture(picture::Shape),
}

/// One column that is read.
#[derive(Debug, Clone)]
pub struct Use {
    pub name: String,
    pub role: ColumnRole,
    pub need: Need,
    /// Why it must be so, for messages.
    pub why: &'static str,
    /// Whether each row must have a value, and why.
    pub required: Option<&'static str>,
    pub values: ValueReader,
    pub dates: DateReader,
}

impl Use {
    pub fn is_feature(&self) -> bool {
        self.role == ColumnRole::Feature
    }

    pub fn want(&self) -> Want {
        match self.need {
            Need::Category | Need::Id | Need::Text => Want::Text,
            Need::Time if self.dates.has_format() => Want::Text,
            Need::Picture(_) => Want::Bytes,
            Need::Infer | Need::Number | Need::Time => Want::Native,
        }
    }
}

/// The columns of the files, and those that are read.
#[derive(Debug, Clone)]
pub struct Layout {
    /// All names, in the order of the first file.
    pub names: Vec<String>,
    /// In that order too.
    pub uses: Vec<Use>,
}

impl Layout {
    /// The plan's columns among those of the first file. Every name that does not fit is a violation.
    pub fn new(plan: &DataPlan, task: Task, file: &str, names: &[String], violations: &mut Violations) -> Self {
        check_header(file, names, violations);
        check_plan_names(plan, file, names, violations);
        check_zones(plan, violations);
        let uses = names.iter().filter_map(|name| usage(plan, task, name)).collect::<Vec<_>>();
        if violations.is_empty() && !uses.iter().any(Use::is_feature) && plan.derive.is_empty() {
            let hint = "features are all columns but target, id, weight and excluded ones";
            violations.add(Violation::new("no feature column is left").file(file).hint(hint));
        }
        Self { names: names.to_vec(), uses }
    }

    /// Index in another file of each used column; names must be the same ones, in any order.
    pub fn places(&self, first: &str, file: &str, names: &[String], violations: &mut Violations) -> Vec<(usize, Want)> {
        let index: BTreeMap<&str, usize> = names.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
        for name in &self.names {
            if !index.contains_key(name.as_str()) {
                let message =
                    format!("is missing, but {first} has it{}", did_you_mean(name, names.iter().map(String::as_str)));
                violations.add(Violation::new(message).file(file).column(name));
            }
        }
        for name in names.iter().filter(|name| !self.names.contains(name)) {
            violations.add(Violation::new(format!("is not in {first}")).file(file).column(name));
        }
        self.uses.iter().filter_map(|usage| Some((*index.get(usage.name.as_str())?, usage.want()))).collect()
    }
}

/// Names that no table may have: twice the same one, or one of our own.
fn check_header(file: &str, names: &[String], violations: &mut Violations) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(first) = seen.insert(name, index) {
            let message = format!("stands twice in the header, as column {} and column {}", first + 1, index + 1);
            violations.add(Violation::new(message).file(file).column(name));
        }
        if name.starts_with(RESERVED_PREFIX) {
            let message = format!("begins with {RESERVED_PREFIX:?}, which is kept for the platform: rename it");
            violations.add(Violation::new(message).file(file).column(name));
        }
    }
}

/// Every name in the plan must be a column.
fn check_plan_names(plan: &DataPlan, file: &str, names: &[String], violations: &mut Violations) {
    let mut named: Vec<(&str, &str)> = vec![("data.target.column", &plan.target.column)];
    let optional = [
        ("data.id_column", &plan.id_column),
        ("data.weight_column", &plan.weight_column),
        ("data.split.stratify_column", &plan.split.stratify_column),
        ("data.split.group_column", &plan.split.group_column),
        ("data.split.time_column", &plan.split.time_column),
        ("data.sequence.group_column", &plan.sequence.group_column),
        ("data.sequence.order_column", &plan.sequence.order_column),
    ];
    named.extend(optional.iter().filter_map(|(key, column)| Some((*key, column.as_deref()?))));
    named.extend(plan.include.iter().map(|column| ("data.include", column.as_str())));
    named.extend(plan.exclude.iter().map(|column| ("data.exclude", column.as_str())));
    named.extend(plan.columns.keys().map(|column| ("data.columns", column.as_str())));
    let made: BTreeSet<String> = crate::derive::outputs(plan);
    named.retain(|(key, column)| !(made.contains(*column) && matches!(*key, "data.exclude" | "data.columns")));
    named.extend(crate::derive::raw_inputs(plan).into_iter().map(|column| ("data.derive", column)));
    for name in names.iter().filter(|name| made.contains(*name)) {
        let message = "is made by a step of data.derive too (or as a part of a date), expected another name";
        violations.add(Violation::new(message).file(file).column(name));
    }
    let numeric_header = names.iter().all(|name| name.trim().parse::<f64>().is_ok());
    for (key, column) in named {
        if names.iter().any(|name| name == column) {
            continue;
        }
        let nearest = did_you_mean(column, names.iter().map(String::as_str));
        let mut violation =
            Violation::new(format!("no such column, named by {key}{nearest}")).file(file).column(column);
        if names.iter().any(|name| name.trim() == column) {
            violation = violation.hint("column names have blanks around them: set data.csv.trim: true");
        } else if numeric_header {
            violation = violation.hint("the first line holds numbers, not names: set data.csv.header: false and name columns column_1, column_2, …");
        }
        violations.add(violation);
    }
    let target = &plan.target.column;
    for (key, other) in [("data.id_column", &plan.id_column), ("data.weight_column", &plan.weight_column)] {
        if other.as_ref() == Some(target) {
            violations.add(Violation::new(format!("is the target and {key} at once")).column(target));
        }
    }
    if plan.include.contains(target) {
        violations.add(Violation::new("is the target, and data.include makes it a feature").column(target));
    }
}

/// Time zones are names that are known.
fn check_zones(plan: &DataPlan, violations: &mut Violations) {
    for (name, column) in &plan.columns {
        let zone = column.source.time_zone.as_deref();
        if let Err(problem) = DateReader::new(None, zone) {
            violations.add(Violation::new(format!("data.columns.{name}.time_zone: {problem}")));
        }
    }
}

/// What the plan declares of a column's values, and why they must be so.
fn declared_need(declared: Option<&ColumnPlan>) -> (Need, &'static str) {
    let Some(declared) = declared else { return (Need::Infer, "") };
    match declared.r#type {
        ColumnType::Auto => (Need::Infer, ""),
        ColumnType::Number => (Need::Number, "its type is declared number"),
        ColumnType::Category => (Need::Category, "its type is declared category"),
        ColumnType::Text => (Need::Text, "its type is declared text"),
        ColumnType::Datetime => (Need::Time, "its type is declared datetime"),
        ColumnType::Image if declared.images.is_some() => {
            (Need::Number, "its type is declared image: the number of one, from 0")
        }
        ColumnType::Image => match declared.source.size.as_deref() {
            Some(&[height, width]) => {
                let shape = picture::Shape { channels: declared.source.channels, height, width };
                (Need::Picture(shape), "its type is declared image")
            }
            // Refused where images are opened: neither images nor size.
            _ => (Need::Number, "its type is declared image: the number of one, from 0"),
        },
    }
}

/// What one column is for; none for those that are read past.
fn usage(plan: &DataPlan, task: Task, name: &str) -> Option<Use> {
    let declared = plan.columns.get(name);
    let is = |column: &Option<String>| column.as_deref() == Some(name);
    let named_by_split = split_columns(plan).contains(&name);
    let mut null_values = plan.csv.null_values.clone();
    null_values.extend(declared.iter().flat_map(|column| column.null_values.iter().cloned()));
    let values = ValueReader::new(null_values, plan.csv.decimal == ",");
    let dates = declared
        .and_then(|column| DateReader::new(column.source.date_format.clone(), column.source.time_zone.as_deref()).ok());
    let declared_need = declared_need(declared);
    let lists = |columns: &[String]| columns.iter().any(|column| column == name);
    let is_feature = (plan.include.is_empty() || lists(&plan.include)) && !lists(&plan.exclude);
    let (role, (need, why), required) = if name == plan.target.column {
        let need = match task {
            Task::Regression => (Need::Number, "the task is regression"),
            _ if plan.target.threshold.is_some() => (Need::Number, "data.target.threshold compares it"),
            _ => (Need::Category, ""),
        };
        (ColumnRole::Target, need, Some("it is the target"))
    } else if is(&plan.id_column) {
        (ColumnRole::SampleId, (Need::Id, ""), Some("it identifies samples"))
    } else if is(&plan.weight_column) {
        (ColumnRole::Weight, (Need::Number, "it is the sample weight"), Some("it is the sample weight"))
    } else if is(&plan.sequence.group_column) {
        (ColumnRole::Sequence, (Need::Category, ""), Some("it says which sample a row belongs to"))
    } else if is(&plan.sequence.order_column) {
        (ColumnRole::Sequence, declared_need, Some("steps are ordered by it"))
    } else if is_feature {
        let impute = declared.and_then(|column| column.impute).unwrap_or(plan.preprocessing.impute);
        let required = if named_by_split {
            Some("the split goes by it")
        } else if declared.is_some_and(|column| column.r#type == ColumnType::Image) {
            Some("it names an image")
        } else {
            (impute == Impute::Refuse).then_some("impute is refuse")
        };
        (ColumnRole::Feature, declared_need, required)
    } else if named_by_split {
        (ColumnRole::Split, declared_need, Some("the split goes by it"))
    } else if crate::derive::raw_inputs(plan).contains(&name) {
        (ColumnRole::Input, declared_need, None)
    } else {
        return None;
    };
    let dates = dates.unwrap_or_default();
    Some(Use { name: name.to_owned(), role, need, why, required, values, dates })
}

/// The column that the split goes by, if it is not the target.
pub fn split_column(plan: &DataPlan) -> Option<&str> {
    match plan.split.strategy {
        SplitStrategy::Random => None,
        SplitStrategy::Stratified => plan.split.stratify_column.as_deref(),
        SplitStrategy::Group | SplitStrategy::StratifiedGroup => plan.split.group_column.as_deref(),
        SplitStrategy::Time => plan.split.time_column.as_deref(),
    }
}

/// All of them: groups may be stratified by a column too.
pub fn split_columns(plan: &DataPlan) -> Vec<&str> {
    let strata = plan.split.stratify_column.as_deref();
    let strata = strata.filter(|_| plan.split.strategy == SplitStrategy::StratifiedGroup);
    split_column(plan).into_iter().chain(strata).collect()
}
