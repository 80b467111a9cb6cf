//! Derived columns: what `data.derive` asks for, and the parts of dates, fitted on train and put beside the columns
//! of the files. Rows are split already, and a row sees nothing of a later part: train sees itself alone, val and
//! test also what comes before.

mod aggregate;
#[cfg(test)]
mod golden_tests;
mod history;

use std::borrow::Cow;
use std::collections::BTreeSet;

use frame::datetime;
use frame::derive::{Column, Step};
use frame::manifest::ColumnRole;
use messages::WireError;
use messages::error::Code;
use messages::plan::{ColumnType, DataPlan, DatePart, DeriveStep, TextCleaning};
use tokio_util::sync::CancellationToken;

use crate::check::Violation;
use crate::check::datetime::DateReader;
use crate::check::names::{Need, Use};
use crate::check::value::ValueReader;
use crate::load::{Loaded, Values, alive};
use crate::nearest::did_you_mean;

/// Rows of train, val and test.
pub type PartRows<'a> = [&'a [u32]; 3];

/// Parts of the plan's columns of dates that are features.
fn parts_of_dates(plan: &DataPlan) -> Vec<DeriveStep> {
    let dates = plan.columns.iter().filter(|(name, column)| {
        let is_feature = (plan.include.is_empty() || plan.include.contains(name)) && !plan.exclude.contains(name);
        let own = [Some(&plan.target.column), plan.id_column.as_ref(), plan.weight_column.as_ref()];
        let sequence = [plan.sequence.group_column.as_ref(), plan.sequence.order_column.as_ref()];
        let has_role = own.into_iter().chain(sequence).any(|column| column == Some(*name));
        column.r#type == ColumnType::Datetime && is_feature && !has_role
    });
    let parts = dates.map(|(name, column)| DeriveStep::DateParts {
        columns: vec![name.clone()],
        parts: column.fitting.date_parts.clone().unwrap_or_else(|| plan.preprocessing.fitting.date_parts.clone()),
        reference: column.fitting.date_reference.clone(),
    });
    parts.collect()
}

/// The steps of a plan: parts of its columns of dates come first, so that the others can be made of them.
fn steps(plan: &DataPlan) -> Vec<DeriveStep> {
    [parts_of_dates(plan), plan.derive.clone()].concat()
}

/// Whether a column is a part of a date that nobody asked for by name: one that never varies is left out.
pub fn is_part_of_date(plan: &DataPlan, name: &str) -> bool {
    parts_of_dates(plan).iter().any(|step| step.outputs().iter().any(|output| output == name))
}

/// Whether a column's numbers are seconds since 1970.
pub fn is_date(plan: &DataPlan, loaded: &Loaded, name: &str) -> bool {
    plan.columns.get(name).is_some_and(|column| column.r#type == ColumnType::Datetime)
        || loaded.inference.iter().any(|found| found.column == name && found.r#type == "datetime")
}

/// Names of all columns that a plan makes.
pub fn outputs(plan: &DataPlan) -> BTreeSet<String> {
    steps(plan).iter().flat_map(DeriveStep::outputs).collect()
}

/// Columns of the files that its steps read.
pub fn raw_inputs(plan: &DataPlan) -> Vec<&str> {
    let made: BTreeSet<String> = outputs(plan);
    let mut found: Vec<&str> = Vec::new();
    for name in plan.derive.iter().flat_map(DeriveStep::inputs) {
        if !made.contains(name) && !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// Makes the columns, puts them beside the others, and answers the steps as they were fitted.
pub fn derive(
    plan: &DataPlan,
    loaded: &mut Loaded,
    parts: PartRows<'_>,
    cancelled: &CancellationToken,
) -> Result<Vec<Step>, WireError> {
    let mut fitted: Vec<Step> = Vec::new();
    for step in steps(plan) {
        alive(cancelled)?;
        check(plan, &step, loaded)?;
        match &step {
            DeriveStep::Rolling { .. } | DeriveStep::Lag { .. } => {
                if plan.sequence.group_column.is_some() {
                    let message = format!("not yet supported: data.derive: {} beside data.sequence", step.kind());
                    return Err(WireError::new(Code::ConfigError, message));
                }
                let columns = history::columns(plan, &step, loaded, parts, cancelled)?;
                let names = step.outputs();
                for (name, values) in names.iter().zip(columns) {
                    add(plan, loaded, name, Values::Number(values));
                }
                fitted.push(Step::History { kind: step.kind().to_owned(), names });
            }
            _ => {
                for step in fit(&step, loaded, parts[0])? {
                    let columns = {
                        let read = |name: &str| loaded.column(name).and_then(|(_, values)| column(values));
                        step.apply(loaded.rows, &read).map_err(|e| Violation::new(format!("data.derive: {e}")))?
                    };
                    for (name, column) in step.outputs().into_iter().zip(columns) {
                        add(plan, loaded, &name, values_of(column));
                    }
                    fitted.push(step);
                }
            }
        }
    }
    Ok(fitted)
}

/// Every column must be there, and none of it may tell the target.
fn check(plan: &DataPlan, step: &DeriveStep, loaded: &Loaded) -> Result<(), Violation> {
    let said = format!("data.derive: {}", step.kind());
    for name in step.inputs() {
        let Some((usage, values)) = loaded.column(name) else {
            let names = loaded.layout.uses.iter().map(|usage| usage.name.as_str());
            return Err(Violation::new(format!("{said}: no such column{}", did_you_mean(name, names))).column(name));
        };
        let past = match step {
            DeriveStep::Rolling { include_current, .. } => !include_current,
            DeriveStep::Lag { .. } => true,
            _ => false,
        };
        match usage.role {
            ColumnRole::Target if !past => {
                let message = format!("{said}: is the target: a feature made of it would tell it");
                let hint = "data.columns.NAME.encoding: target encodes a category by the target without telling it; windows and lags may look at earlier targets";
                return Err(Violation::new(message).column(name).hint(hint));
            }
            ColumnRole::SampleId | ColumnRole::Weight => {
                return Err(
                    Violation::new(format!("{said}: identifies or weighs rows, expected another column")).column(name)
                );
            }
            _ => {}
        }
        if matches!(values, Values::Empty | Values::Text(_)) {
            return Err(Violation::new(format!("{said}: expected numbers or categories")).column(name));
        }
        let is_image = plan.columns.get(name).is_some_and(|column| column.r#type == ColumnType::Image);
        if is_image {
            return Err(Violation::new(format!("{said}: holds images, expected numbers or categories")).column(name));
        }
    }
    Ok(())
}

/// A plan's step with what train says.
fn fit(step: &DeriveStep, loaded: &Loaded, train: &[u32]) -> Result<Vec<Step>, Violation> {
    Ok(match step.clone() {
        DeriveStep::Ratio { name, numerator, denominator, zero, flag } => {
            vec![Step::Ratio { name, numerator, denominator, zero, flag }]
        }
        DeriveStep::Cross { columns, .. } => {
            vec![Step::Cross { name: step.outputs().remove(0), columns }]
        }
        DeriveStep::Polynomial { columns, degree, interaction_only } => {
            vec![Step::Polynomial { names: step.outputs(), columns, degree, interaction_only }]
        }
        DeriveStep::DateDifference { name, from, to, unit } => vec![Step::DateDifference { name, from, to, unit }],
        DeriveStep::DateParts { columns, parts, reference } => {
            let reference = reference.as_deref().and_then(datetime::parse);
            let first = |column: &str| {
                let Some(Values::Number(seconds)) = loaded.column(column).map(|(_, values)| values) else { return 0.0 };
                let of_train = train.iter().map(|&row| seconds[row as usize]).filter(|at| !at.is_nan());
                let first = of_train.min_by(f64::total_cmp).unwrap_or(0.0);
                (first / 86_400.0).floor() * 86_400.0
            };
            let needs = parts.contains(&DatePart::DaysSince);
            let at = |column: &String| if needs { reference.unwrap_or_else(|| first(column)) } else { 0.0 };
            let one = |column: String| Step::DateParts { reference: at(&column), column, parts: parts.clone() };
            columns.into_iter().map(one).collect()
        }
        DeriveStep::Aggregate { columns, by, aggregates } => aggregate::fit(&columns, &by, &aggregates, loaded, train)?,
        DeriveStep::Rolling { .. } | DeriveStep::Lag { .. } => Vec::new(),
    })
}

/// Values as a step reads them.
pub(crate) fn column(values: &Values) -> Option<Column<'_>> {
    match values {
        Values::Number(numbers) => Some(Column::Number(Cow::Borrowed(numbers))),
        Values::Category { keys, texts } => {
            Some(Column::Category { keys: Cow::Borrowed(keys), texts: Cow::Borrowed(texts) })
        }
        Values::Id(_) | Values::Text(_) | Values::Empty => None,
    }
}

fn values_of(column: Column<'static>) -> Values {
    match column {
        Column::Number(numbers) => Values::Number(numbers.into_owned()),
        Column::Category { keys, texts } => Values::Category { keys: keys.into_owned(), texts: texts.into_owned() },
    }
}

/// A further column; a feature unless it is excluded.
fn add(plan: &DataPlan, loaded: &mut Loaded, name: &str, values: Values) {
    let role = if plan.exclude.iter().any(|column| column == name) { ColumnRole::Input } else { ColumnRole::Feature };
    let need = if matches!(values, Values::Number(_)) { Need::Number } else { Need::Category };
    loaded.layout.names.push(name.to_owned());
    loaded.layout.uses.push(Use {
        name: name.to_owned(),
        role,
        need,
        why: "",
        required: None,
        values: ValueReader::new(Vec::new(), false),
        dates: DateReader::default(),
    });
    loaded.columns.push(values);
}

/// Cleaning steps of the text columns that are features, as the plan asks for.
pub fn cleaning(clean: &[TextCleaning], loaded: &Loaded) -> Vec<Step> {
    if clean.is_empty() {
        return Vec::new();
    }
    let columns = loaded.layout.uses.iter().zip(&loaded.columns);
    let texts = columns.filter(|(usage, values)| usage.is_feature() && matches!(values, Values::Text(_)));
    texts.map(|(usage, _)| Step::CleanText { column: usage.name.clone(), clean: clean.to_vec() }).collect()
}
