//! Derived columns: the steps that a manifest and a model file carry, computed from raw rows before anything is
//! encoded. The data_loader calls the same code when it fits what follows, so a row has the same values wherever
//! it is encoded. What needs earlier rows (windows, lags) is not computed here: those values come with the rows.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    Array, ArrayRef, Date32Array, Date64Array, DictionaryArray, Float64Array, Int32Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray, TimestampSecondArray,
};
use messages::plan::{DatePart, TextCleaning, TimeUnit, terms};
use serde::{Deserialize, Serialize};

use crate::clean::clean;
use crate::datetime;
use crate::error::Error;
use crate::table::{self, Texts};

/// Key of a missing category.
pub const MISSING_KEY: u32 = u32::MAX;
/// Between the parts of a crossed category; within a part it is doubled.
const CROSS: char = '|';

/// One step, with what was fitted on train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Step {
    /// In place of the column.
    CleanText { column: String, clean: Vec<TextCleaning> },
    /// In place of the column: pixels of 0 to 1, less `mean`, by `std`, of each channel.
    NormalizeImage { column: String, mean: Vec<f64>, std: Vec<f64> },
    /// `numerator / denominator`, `zero` (or missing) where the denominator is 0.
    Ratio { name: String, numerator: String, denominator: String, zero: Option<f64>, flag: bool },
    /// The texts of all columns as one; missing where one is.
    Cross { name: String, columns: Vec<String> },
    /// `names`: of the products, in the order of `messages::plan::terms`.
    Polynomial { names: Vec<String>, columns: Vec<String>, degree: u32, interaction_only: bool },
    /// `to - from`.
    DateDifference { name: String, from: String, to: String, unit: TimeUnit },
    /// `reference`: seconds since 1970.
    DateParts { column: String, parts: Vec<DatePart>, reference: f64 },
    /// The value of the row's group, else `prior`. Groups are named as a cross of `by` is.
    Aggregate { name: String, by: Vec<String>, groups: BTreeMap<String, f64>, prior: f64 },
    /// Made of earlier rows, which one row does not have: its columns come with the rows.
    History { kind: String, names: Vec<String> },
}

/// A column's values.
#[derive(Debug, Clone, PartialEq)]
pub enum Column<'a> {
    /// NaN is missing.
    Number(Cow<'a, [f64]>),
    /// Keys into texts; [`MISSING_KEY`] is missing.
    Category { keys: Cow<'a, [u32]>, texts: Cow<'a, [String]> },
}

impl Step {
    /// Whether its columns are computed from the row itself.
    pub fn is_computed(&self) -> bool {
        !matches!(self, Self::History { .. })
    }

    /// Columns that it reads.
    pub fn inputs(&self) -> Vec<&str> {
        match self {
            Self::CleanText { column, .. } | Self::NormalizeImage { column, .. } | Self::DateParts { column, .. } => {
                vec![column]
            }
            Self::Ratio { numerator, denominator, .. } => vec![numerator, denominator],
            Self::Cross { columns, .. } | Self::Polynomial { columns, .. } => {
                columns.iter().map(String::as_str).collect()
            }
            Self::DateDifference { from, to, .. } => vec![from, to],
            Self::Aggregate { by, .. } => by.iter().map(String::as_str).collect(),
            Self::History { .. } => Vec::new(),
        }
    }

    /// Columns that it makes.
    pub fn outputs(&self) -> Vec<String> {
        match self {
            Self::CleanText { .. } | Self::NormalizeImage { .. } => Vec::new(),
            Self::Ratio { name, flag: true, .. } => vec![name.clone(), format!("{name}_zero")],
            Self::Ratio { name, .. }
            | Self::Cross { name, .. }
            | Self::DateDifference { name, .. }
            | Self::Aggregate { name, .. } => vec![name.clone()],
            Self::Polynomial { names, .. } | Self::History { names, .. } => names.clone(),
            Self::DateParts { column, parts, .. } => {
                let endings = parts.iter().flat_map(|part| part.endings());
                endings.map(|ending| format!("{column}_{ending}")).collect()
            }
        }
    }

    /// The values of [`Self::outputs`] of so many rows.
    ///
    /// # Errors
    /// `layout` where a column is missing or of another type.
    pub fn apply<'a>(
        &self,
        rows: usize,
        column: &dyn Fn(&str) -> Option<Column<'a>>,
    ) -> Result<Vec<Column<'static>>, Error> {
        let read = |name: &str| column(name).ok_or_else(|| Error::layout(format!("no column {name:?}")));
        let number = |name: &str| match read(name)? {
            Column::Number(numbers) => Ok(numbers),
            Column::Category { .. } => Err(Error::layout(format!("column {name:?} holds texts, expected numbers"))),
        };
        let time = |name: &str| times(read(name)?, name);
        let made = |numbers: Vec<f64>| Column::Number(Cow::Owned(numbers));
        Ok(match self {
            Self::CleanText { .. } | Self::NormalizeImage { .. } | Self::History { .. } => Vec::new(),
            Self::Ratio { numerator, denominator, zero, flag, .. } => {
                let (above, below) = (number(numerator)?, number(denominator)?);
                let pairs = || above.iter().zip(below.iter());
                let mut out = vec![made(pairs().map(|(a, b)| ratio(*a, *b, *zero)).collect())];
                if *flag {
                    out.push(made(below.iter().map(|b| f64::from(u8::from(*b == 0.0))).collect()));
                }
                out
            }
            Self::Cross { columns, .. } => {
                let columns = columns.iter().map(|name| read(name)).collect::<Result<Vec<_>, _>>()?;
                vec![cross(rows, &columns)]
            }
            Self::Polynomial { columns, degree, interaction_only, .. } => {
                let columns = columns.iter().map(|name| number(name)).collect::<Result<Vec<_>, _>>()?;
                let terms = terms(columns.len(), *degree as usize, *interaction_only);
                let product = |term: &[usize], row: usize| usable(term.iter().map(|&c| columns[c][row]).product());
                terms.iter().map(|term| made((0..rows).map(|row| product(term, row)).collect())).collect()
            }
            Self::DateDifference { from, to, unit, .. } => {
                let (from, to) = (time(from)?, time(to)?);
                vec![made(from.iter().zip(to.iter()).map(|(from, to)| (to - from) / unit.seconds()).collect())]
            }
            Self::DateParts { column, parts, reference } => {
                let times = time(column)?;
                parts.iter().flat_map(|part| date_part(&times, *part, *reference)).map(made).collect()
            }
            Self::Aggregate { by, groups, prior, .. } => {
                let by = by.iter().map(|name| read(name)).collect::<Result<Vec<_>, _>>()?;
                let Column::Category { keys, texts } = cross(rows, &by) else { return Ok(Vec::new()) };
                let values: Vec<f64> = texts.iter().map(|text| groups.get(text).copied().unwrap_or(*prior)).collect();
                let value = |key: &u32| if *key == MISSING_KEY { *prior } else { values[*key as usize] };
                vec![made(keys.iter().map(value).collect())]
            }
        })
    }
}

/// NaN where one is missing or the result is none that a feature can hold.
fn ratio(numerator: f64, denominator: f64, zero: Option<f64>) -> f64 {
    if denominator == 0.0 && !numerator.is_nan() {
        return zero.unwrap_or(f64::NAN);
    }
    usable(numerator / denominator)
}

fn usable(value: f64) -> f64 {
    if value.abs() <= f64::from(f32::MAX) { value } else { f64::NAN }
}

fn date_part(times: &[f64], part: DatePart, reference: f64) -> Vec<Vec<f64>> {
    let pairs: Vec<(f64, f64)> = times.iter().map(|&at| datetime::part(at, part, reference)).collect();
    let mut out = vec![pairs.iter().map(|pair| pair.0).collect()];
    if part.endings().len() > 1 {
        out.push(pairs.iter().map(|pair| pair.1).collect());
    }
    out
}

/// Seconds; texts are read as dates.
fn times<'a>(column: Column<'a>, name: &str) -> Result<Cow<'a, [f64]>, Error> {
    match column {
        Column::Number(numbers) => Ok(numbers),
        Column::Category { keys, texts } => {
            let read = |text: &String| {
                let expected = "expected a date such as 2024-05-31 or 2024-05-31T18:00:00Z";
                datetime::parse(text).ok_or_else(|| Error::layout(format!("column {name:?}: {text:?}: {expected}")))
            };
            let seconds = texts.iter().map(read).collect::<Result<Vec<f64>, _>>()?;
            let at = |key: &u32| if *key == MISSING_KEY { f64::NAN } else { seconds[*key as usize] };
            Ok(Cow::Owned(keys.iter().map(at).collect()))
        }
    }
}

/// The combinations of the columns' texts, in the order of their first rows.
pub fn cross(rows: usize, columns: &[Column<'_>]) -> Column<'static> {
    let mut keys = vec![0u32; rows];
    let mut texts = vec![String::new()];
    for (index, column) in columns.iter().enumerate() {
        let (own_keys, own_texts) = categories(column);
        let mut places: HashMap<(u32, u32), u32> = HashMap::new();
        let mut longer: Vec<String> = Vec::new();
        for (key, own) in keys.iter_mut().zip(own_keys.iter()) {
            if *key == MISSING_KEY || *own == MISSING_KEY {
                *key = MISSING_KEY;
                continue;
            }
            *key = *places.entry((*key, *own)).or_insert_with(|| {
                let mut text = texts[*key as usize].clone();
                if index > 0 {
                    text.push(CROSS);
                }
                // With the sign doubled, two combinations never have the same text.
                text.push_str(&own_texts[*own as usize].replace(CROSS, "||"));
                longer.push(text);
                longer.len() as u32 - 1
            });
        }
        texts = longer;
    }
    Column::Category { keys: Cow::Owned(keys), texts: Cow::Owned(texts) }
}

/// Numbers as their shortest texts.
fn categories<'a>(column: &'a Column<'a>) -> (Cow<'a, [u32]>, Cow<'a, [String]>) {
    match column {
        Column::Category { keys, texts } => (Cow::Borrowed(keys), Cow::Borrowed(texts)),
        Column::Number(numbers) => {
            let (mut places, mut texts): (HashMap<u64, u32>, Vec<String>) = (HashMap::new(), Vec::new());
            let mut key = |number: &f64| {
                if number.is_nan() {
                    return MISSING_KEY;
                }
                // -0 and 0 are one number.
                let number = number + 0.0;
                *places.entry(number.to_bits()).or_insert_with(|| {
                    texts.push(number.to_string());
                    texts.len() as u32 - 1
                })
            };
            let keys: Vec<u32> = numbers.iter().map(&mut key).collect();
            (Cow::Owned(keys), Cow::Owned(texts))
        }
    }
}

/// The columns that the steps make of these rows, by name; later steps read those of earlier ones.
pub(crate) fn run(steps: &[Step], batch: &RecordBatch) -> Result<HashMap<String, ArrayRef>, Error> {
    let mut made: HashMap<String, ArrayRef> = HashMap::new();
    for step in steps {
        match step {
            Step::CleanText { column, clean } => {
                let array = find(&made, batch, column)?;
                made.insert(column.clone(), cleaned(&array, column, clean)?);
            }
            Step::NormalizeImage { .. } => {}
            Step::History { kind, names } => {
                if let Some(name) = names.iter().find(|name| batch.column_by_name(name).is_none()) {
                    return Err(Error::layout(format!(
                        "no column {name:?}: it is made by a step {kind} of earlier rows, which these rows do not tell: give its value with them"
                    )));
                }
            }
            _ => {
                let read = |name: &str| of_array(made.get(name).or_else(|| batch.column_by_name(name))?);
                let columns = step.apply(batch.num_rows(), &read)?;
                for (name, column) in step.outputs().into_iter().zip(columns) {
                    made.insert(name, into_array(column)?);
                }
            }
        }
    }
    Ok(made)
}

fn find(made: &HashMap<String, ArrayRef>, batch: &RecordBatch, name: &str) -> Result<ArrayRef, Error> {
    let array = made.get(name).or_else(|| batch.column_by_name(name));
    array.cloned().ok_or_else(|| Error::layout(format!("no column {name:?}")))
}

fn cleaned(array: &ArrayRef, name: &str, how: &[TextCleaning]) -> Result<ArrayRef, Error> {
    let texts = array
        .as_any()
        .downcast_ref::<StringArray>()
        .ok_or_else(|| Error::layout(format!("column {name:?} is {}, expected Utf8", array.data_type())))?;
    Ok(Arc::new(texts.iter().map(|text| text.map(|text| clean(text, how))).collect::<StringArray>()))
}

/// The values of an array of numbers, texts, dates or times.
fn of_array(array: &ArrayRef) -> Option<Column<'static>> {
    let seconds = |values: &dyn Fn(usize) -> f64| {
        let at = |row: usize| if array.is_null(row) { f64::NAN } else { values(row) };
        Column::Number(Cow::Owned((0..array.len()).map(at).collect()))
    };
    let any = array.as_any();
    if let Some(numbers) = any.downcast_ref::<Float64Array>() {
        return Some(seconds(&|row| numbers.value(row)));
    }
    if let Some(days) = any.downcast_ref::<Date32Array>() {
        return Some(seconds(&|row| f64::from(days.value(row)) * 86_400.0));
    }
    if let Some(at) = any.downcast_ref::<Date64Array>() {
        return Some(seconds(&|row| at.value(row) as f64 / 1e3));
    }
    if let Some(at) = any.downcast_ref::<TimestampSecondArray>() {
        return Some(seconds(&|row| at.value(row) as f64));
    }
    if let Some(at) = any.downcast_ref::<TimestampMillisecondArray>() {
        return Some(seconds(&|row| at.value(row) as f64 / 1e3));
    }
    if let Some(at) = any.downcast_ref::<TimestampMicrosecondArray>() {
        return Some(seconds(&|row| at.value(row) as f64 / 1e6));
    }
    if let Some(at) = any.downcast_ref::<TimestampNanosecondArray>() {
        return Some(seconds(&|row| at.value(row) as f64 / 1e9));
    }
    let key = |key: Option<usize>| key.map_or(MISSING_KEY, |key| key as u32);
    let (keys, texts): (Vec<u32>, Vec<String>) = match table::texts(array)? {
        Texts::Dictionary(keys, values) => (
            (0..keys.len()).map(|row| key(keys.key(row).filter(|key| values.is_valid(*key)))).collect(),
            values.iter().map(|text| text.unwrap_or_default().to_owned()).collect(),
        ),
        Texts::Plain(values) => {
            let (mut places, mut texts) = (HashMap::new(), Vec::new());
            let mut place = |text: &str| {
                *places.entry(text.to_owned()).or_insert_with(|| {
                    texts.push(text.to_owned());
                    texts.len() - 1
                })
            };
            (values.iter().map(|text| key(text.map(&mut place))).collect(), texts)
        }
    };
    Some(Column::Category { keys: Cow::Owned(keys), texts: Cow::Owned(texts) })
}

fn into_array(column: Column<'static>) -> Result<ArrayRef, Error> {
    Ok(match column {
        Column::Number(numbers) => {
            Arc::new(numbers.iter().map(|&number| Some(number).filter(|n| !n.is_nan())).collect::<Float64Array>())
        }
        Column::Category { keys, texts } => {
            let keys: Int32Array = keys.iter().map(|&key| (key != MISSING_KEY).then_some(key as i32)).collect();
            let texts = Arc::new(StringArray::from_iter_values(texts.iter()));
            let array = DictionaryArray::<Int32Type>::try_new(keys, texts);
            Arc::new(array.map_err(|e| Error::layout(format!("a derived category: {e}")))?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(values: &[f64]) -> Column<'static> {
        Column::Number(Cow::Owned(values.to_vec()))
    }

    fn category(values: &[Option<&str>]) -> Column<'static> {
        let array: ArrayRef = Arc::new(values.iter().copied().collect::<StringArray>());
        of_array(&array).expect("texts")
    }

    fn texts(column: &Column<'_>) -> Vec<String> {
        let Column::Category { keys, texts } = column else { panic!("texts") };
        keys.iter().map(|&key| if key == MISSING_KEY { "-".into() } else { texts[key as usize].clone() }).collect()
    }

    fn numbers(column: &Column<'_>) -> Vec<f64> {
        let Column::Number(numbers) = column else { panic!("numbers") };
        numbers.to_vec()
    }

    const NONE: f64 = f64::NAN;

    #[test]
    fn a_ratio_guards_against_zero() {
        let read = |name: &str| {
            Some(number(if name == "clicks" { &[1.0, 0.0, 3.0, NONE, 5.0] } else { &[4.0, 0.0, 0.0, 0.0, NONE] }))
        };
        let step = |zero, flag| Step::Ratio {
            name: "ctr".into(),
            numerator: "clicks".into(),
            denominator: "impressions".into(),
            zero,
            flag,
        };
        let found = step(None, true).apply(5, &read).expect("applies");
        assert_eq!(format!("{:?}", numbers(&found[0])), "[0.25, NaN, NaN, NaN, NaN]");
        assert_eq!(numbers(&found[1]), [0.0, 1.0, 1.0, 1.0, 0.0]);
        let found = step(Some(0.0), false).apply(5, &read).expect("applies");
        assert_eq!(format!("{:?}", numbers(&found[0])), "[0.25, 0.0, 0.0, NaN, NaN]");
        let huge =
            Step::Ratio { name: "r".into(), numerator: "a".into(), denominator: "b".into(), zero: None, flag: false };
        let read = |name: &str| Some(number(if name == "a" { &[1e30] } else { &[1e-30] }));
        assert!(numbers(&huge.apply(1, &read).expect("applies")[0])[0].is_nan());
    }

    #[test]
    fn crosses_are_told_apart() {
        let columns = [
            category(&[Some("a|b"), Some("a"), None, Some("a")]),
            category(&[Some("c"), Some("b|c"), Some("d"), Some("b|c")]),
        ];
        assert_eq!(texts(&cross(4, &columns)), ["a||b|c", "a|b||c", "-", "a|b||c"]);
        let mixed = [number(&[1.0, 1.5, -0.0, NONE]), category(&[Some("x"); 4])];
        assert_eq!(texts(&cross(4, &mixed)), ["1|x", "1.5|x", "0|x", "-"]);
    }

    #[test]
    fn unknown_groups_get_the_prior() {
        let step = Step::Aggregate {
            name: "spend_mean".into(),
            by: vec!["city".into()],
            groups: BTreeMap::from([("Oslo".to_owned(), 2.0)]),
            prior: 5.0,
        };
        let read = |_: &str| Some(category(&[Some("Oslo"), Some("Rome"), None]));
        assert_eq!(numbers(&step.apply(3, &read).expect("applies")[0]), [2.0, 5.0, 5.0]);
    }

    #[test]
    fn dates_are_read_from_texts_and_seconds() {
        let step = Step::DateDifference { name: "d".into(), from: "a".into(), to: "b".into(), unit: TimeUnit::Hours };
        let read = |name: &str| {
            Some(if name == "a" { category(&[Some("2024-05-31"), None]) } else { number(&[1_717_200_000.0, 0.0]) })
        };
        assert_eq!(format!("{:?}", numbers(&step.apply(2, &read).expect("applies")[0])), "[24.0, NaN]");
        let wrong = |_: &str| Some(category(&[Some("soon"), None]));
        assert!(step.apply(2, &wrong).expect_err("no date").to_string().contains("\"soon\""));
    }
}
