//! Derived columns: `data.derive`, parts of dates, and how shards are stored.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::is_default;

/// A part of a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatePart {
    Year,
    /// From 1.
    Month,
    /// Of the month, from 1.
    Day,
    /// From 0, Monday.
    Weekday,
    /// With the minutes as its fraction left out.
    Hour,
    IsWeekend,
    /// Sine and cosine of the place in the year by month.
    MonthCyclic,
    WeekdayCyclic,
    HourCyclic,
    /// Days since the reference.
    DaysSince,
}

impl DatePart {
    /// Endings of the columns that it makes.
    pub fn endings(self) -> &'static [&'static str] {
        match self {
            Self::Year => &["year"],
            Self::Month => &["month"],
            Self::Day => &["day"],
            Self::Weekday => &["weekday"],
            Self::Hour => &["hour"],
            Self::IsWeekend => &["is_weekend"],
            Self::MonthCyclic => &["month_sin", "month_cos"],
            Self::WeekdayCyclic => &["weekday_sin", "weekday_cos"],
            Self::HourCyclic => &["hour_sin", "hour_cos"],
            Self::DaysSince => &["days_since"],
        }
    }
}

/// How several values become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregate {
    Mean,
    Sum,
    Min,
    Max,
    /// ddof 0.
    Std,
    /// Of the values that are there.
    Count,
}

impl Aggregate {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Sum => "sum",
            Self::Min => "min",
            Self::Max => "max",
            Self::Std => "std",
            Self::Count => "count",
        }
    }
}

/// What a window counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WindowUnit {
    #[default]
    Rows,
    Days,
}

/// What a difference of dates counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    Seconds,
    Minutes,
    Hours,
    #[default]
    Days,
}

impl TimeUnit {
    pub fn seconds(self) -> f64 {
        match self {
            Self::Seconds => 1.0,
            Self::Minutes => 60.0,
            Self::Hours => 3_600.0,
            Self::Days => 86_400.0,
        }
    }
}

fn window() -> u32 {
    7
}

fn one() -> u32 {
    1
}

fn two() -> u32 {
    2
}

fn mean() -> Vec<Aggregate> {
    vec![Aggregate::Mean]
}

fn lags() -> Vec<u32> {
    vec![1]
}

/// One step of `data.derive`: columns made of others, in order, before anything is encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum DeriveStep {
    /// `numerator / denominator`; where the denominator is 0: `zero`, and with `flag` a further 0/1 column says so.
    Ratio {
        name: String,
        numerator: String,
        denominator: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zero: Option<f64>,
        #[serde(default)]
        flag: bool,
    },
    /// Over the rows of a group that come before a row in time.
    Rolling {
        columns: Vec<String>,
        #[serde(default)]
        by: Vec<String>,
        time_column: String,
        #[serde(default = "window")]
        window: u32,
        #[serde(default)]
        unit: WindowUnit,
        #[serde(default = "mean")]
        aggregates: Vec<Aggregate>,
        /// Whether the row itself counts.
        #[serde(default)]
        include_current: bool,
        /// With fewer values the result is missing.
        #[serde(default = "one")]
        min_rows: u32,
    },
    /// The value of the same group so many rows before.
    Lag {
        columns: Vec<String>,
        #[serde(default)]
        by: Vec<String>,
        time_column: String,
        #[serde(default = "lags")]
        lags: Vec<u32>,
    },
    /// Of a group in train; a group that train does not know gets the aggregate of all of train.
    Aggregate {
        columns: Vec<String>,
        by: Vec<String>,
        #[serde(default = "mean")]
        aggregates: Vec<Aggregate>,
    },
    /// The combinations of several columns as one category.
    Cross {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        columns: Vec<String>,
    },
    /// Products of the columns up to this degree.
    Polynomial {
        columns: Vec<String>,
        #[serde(default = "two")]
        degree: u32,
        /// Whether no column is taken twice.
        #[serde(default)]
        interaction_only: bool,
    },
    /// `to - from`.
    DateDifference {
        name: String,
        from: String,
        to: String,
        #[serde(default)]
        unit: TimeUnit,
    },
    DateParts {
        columns: Vec<String>,
        parts: Vec<DatePart>,
        /// The day that `days_since` counts from; else the earliest of train.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reference: Option<String>,
    },
}

impl DeriveStep {
    /// As in a spec.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ratio { .. } => "ratio",
            Self::Rolling { .. } => "rolling",
            Self::Lag { .. } => "lag",
            Self::Aggregate { .. } => "aggregate",
            Self::Cross { .. } => "cross",
            Self::Polynomial { .. } => "polynomial",
            Self::DateDifference { .. } => "date_difference",
            Self::DateParts { .. } => "date_parts",
        }
    }

    /// Columns that it reads.
    pub fn inputs(&self) -> Vec<&str> {
        let lists: Vec<&String> = match self {
            Self::Ratio { numerator, denominator, .. } => vec![numerator, denominator],
            Self::Rolling { columns, by, time_column, .. } | Self::Lag { columns, by, time_column, .. } => {
                columns.iter().chain(by).chain([time_column]).collect()
            }
            Self::Aggregate { columns, by, .. } => columns.iter().chain(by).collect(),
            Self::Cross { columns, .. } | Self::Polynomial { columns, .. } | Self::DateParts { columns, .. } => {
                columns.iter().collect()
            }
            Self::DateDifference { from, to, .. } => vec![from, to],
        };
        lists.into_iter().map(String::as_str).collect()
    }

    /// Of [`Self::inputs`], those that are dates or times.
    pub fn times(&self) -> Vec<&str> {
        match self {
            Self::Rolling { time_column, .. } | Self::Lag { time_column, .. } => vec![time_column],
            Self::DateDifference { from, to, .. } => vec![from, to],
            Self::DateParts { columns, .. } => columns.iter().map(String::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// Columns that it makes.
    pub fn outputs(&self) -> Vec<String> {
        match self {
            Self::Ratio { name, flag: true, .. } => vec![name.clone(), format!("{name}_zero")],
            Self::Ratio { name, .. } | Self::DateDifference { name, .. } => vec![name.clone()],
            Self::Rolling { columns, aggregates, window, unit, .. } => {
                let days = if *unit == WindowUnit::Days { "d" } else { "" };
                each(columns, aggregates, |column, how| format!("{column}_{}_{window}{days}", how.as_str()))
            }
            Self::Lag { columns, lags, .. } => each(columns, lags, |column, lag| format!("{column}_lag_{lag}")),
            Self::Aggregate { columns, aggregates, .. } => {
                each(columns, aggregates, |column, how| format!("{column}_{}", how.as_str()))
            }
            Self::Cross { name, columns } => vec![name.clone().unwrap_or_else(|| columns.join("_x_"))],
            Self::Polynomial { columns, degree, interaction_only } => {
                let terms = terms(columns.len(), *degree as usize, *interaction_only);
                terms.iter().map(|term| term_name(columns, term)).collect()
            }
            Self::DateParts { columns, parts, .. } => {
                let endings: Vec<&str> = parts.iter().flat_map(|part| part.endings()).copied().collect();
                each(columns, &endings, |column, ending| format!("{column}_{ending}"))
            }
        }
    }
}

fn each<T>(columns: &[String], others: &[T], name: impl Fn(&str, &T) -> String) -> Vec<String> {
    columns.iter().flat_map(|column| others.iter().map(|other| name(column, other)).collect::<Vec<_>>()).collect()
}

/// The columns of each product of degree 2 up to `degree`: by degree, then in the order of the columns.
pub fn terms(columns: usize, degree: usize, interaction_only: bool) -> Vec<Vec<usize>> {
    let mut found: Vec<Vec<usize>> = Vec::new();
    let mut last: Vec<Vec<usize>> = (0..columns).map(|column| vec![column]).collect();
    for _ in 2..=degree {
        let longer = last.iter().flat_map(|term| {
            let top = term.last().copied().unwrap_or(0);
            let first = if interaction_only { top + 1 } else { top };
            (first..columns).map(|next| [term.as_slice(), &[next]].concat()).collect::<Vec<_>>()
        });
        last = longer.collect();
        found.extend(last.iter().cloned());
    }
    found
}

/// As `a^2 b`.
fn term_name(columns: &[String], term: &[usize]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut at = 0;
    while at < term.len() {
        let power = term[at..].iter().take_while(|column| **column == term[at]).count();
        let name = &columns[term[at]];
        parts.push(if power > 1 { format!("{name}^{power}") } else { name.clone() });
        at += power;
    }
    parts.join(" ")
}

/// How numbers lie in shards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Downcast {
    /// As f64.
    #[default]
    None,
    /// In the smallest type that holds every value of the column as it is.
    Lossless,
    /// The same, and at most f32: the values are rounded, as are the features made of them.
    F32,
}

/// How shards are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoragePlan {
    #[serde(default, skip_serializing_if = "is_default")]
    pub downcast: Downcast,
    /// Whether a text column with fewer than half as many distinct texts as rows is stored as a dictionary.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dictionary: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `PolynomialFeatures(degree).get_feature_names_out()` of scikit-learn, without bias and first degree.
    #[test]
    fn terms_have_the_usual_order_and_names() {
        let step = |degree, interaction_only| DeriveStep::Polynomial {
            columns: vec!["a".into(), "b".into(), "c".into()],
            degree,
            interaction_only,
        };
        assert_eq!(step(2, false).outputs(), ["a^2", "a b", "a c", "b^2", "b c", "c^2"]);
        assert_eq!(step(3, true).outputs(), ["a b", "a c", "b c", "a b c"]);
        assert_eq!(
            step(3, false).outputs()[6..],
            ["a^3", "a^2 b", "a^2 c", "a b^2", "a b c", "a c^2", "b^3", "b^2 c", "b c^2", "c^3"]
        );
    }
}
