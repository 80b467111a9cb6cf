//! The rules of a schema over the chunks of a table: one pass, every violation counted, the first of each rule kept.

use std::collections::{BTreeMap, HashMap};

use arrow_array::{Array, StringArray};
use messages::plan::OnViolation;
use serde::Serialize;

use super::agreement::Ratings;
use super::columns::{Typed, key_of, typed};
use super::date;
use super::expression::{Cells, Truth};
use super::schema::{Broken, Check, DataSchema, Kind, Rule, Severity};
use crate::check::value::ValueReader;
use crate::check::{At, shown};
use crate::nearest::did_you_mean;
use crate::source::Chunk;

/// Examples kept of each rule.
pub const MAX_EXAMPLES: usize = 20;
/// Most rows whose keys are remembered for a uniqueness rule: about 500 MB.
pub const MAX_KEYS: usize = 1 << 24;

/// One thing that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Example {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// In a text file; counts from 1, with the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// In a file without lines; counts from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// What was found, cut where it is long.
    pub value: String,
}

impl Example {
    pub fn place(&self) -> String {
        let file = self.file.as_deref().unwrap_or_default();
        match (self.line, self.row) {
            (Some(line), _) => format!("{file} line {line}"),
            (None, Some(row)) => format!("{file} row {row}"),
            (None, None) => file.to_owned(),
        }
    }
}

/// The violations of one rule.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Found {
    pub r#type: Broken,
    pub rule: String,
    pub severity: Severity,
    /// The column; of several, the first one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    pub expected: String,
    /// All of them.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<Example>,
}

/// A file and what its columns are called there.
pub struct Place<'a> {
    pub file: &'a str,
    pub chunk: &'a Chunk,
    /// Rows of the files before this one.
    pub rows_before: u64,
}

impl Place<'_> {
    /// Row of the chunk among the rows of all files, in reading order.
    pub fn table_row(&self, row: usize) -> u64 {
        self.rows_before + self.chunk.file_row(row)
    }
}

/// Why a row of the chunk is left out: index of the row, index of the rule.
pub type Quarantined = Vec<(usize, usize)>;

#[derive(Debug)]
enum Memory {
    None,
    /// Row (over all files) of each key; none: too many.
    Keys(Option<HashMap<[u32; 4], u32>>),
    Missing {
        missing: u64,
    },
    Newest {
        newest: f64,
    },
    Ratings(Ratings),
}

struct Bound<'s> {
    rule: &'s Rule,
    severity: Severity,
    /// Index of each column that the rule reads.
    columns: Vec<usize>,
    /// The rule wants numbers, and no type is declared: what is no number breaks it.
    undeclared: bool,
    memory: Memory,
    count: u64,
    examples: Vec<Example>,
}

/// See the module.
pub struct Engine<'s> {
    bound: Vec<Bound<'s>>,
    reader: ValueReader,
    /// Columns that are read by a type, with that type.
    kinds: BTreeMap<usize, Kind>,
    names: Vec<String>,
    rows: u64,
    /// Rules that could not be held against these files, and why.
    pub skipped: Vec<String>,
}

/// The severity that counts.
fn severity(rule: &Rule, on_violation: OnViolation) -> Severity {
    match on_violation {
        OnViolation::ByRule => rule.severity,
        OnViolation::Fail => Severity::Fail,
        OnViolation::Warn => Severity::Warn,
        OnViolation::Quarantine if rule.check.broken().is_of_a_row() => Severity::Quarantine,
        OnViolation::Quarantine => rule.severity,
    }
}

impl<'s> Engine<'s> {
    /// For a table with these columns.
    pub fn new(schema: &'s DataSchema, names: &[String], on_violation: OnViolation, reader: ValueReader) -> Self {
        let index = |column: &str| names.iter().position(|name| name == column);
        let (mut bound, mut skipped, mut kinds) = (Vec::new(), Vec::new(), BTreeMap::new());
        let known = schema.columns();
        let strangers: Vec<&str> = names.iter().map(String::as_str).filter(|name| !known.contains(name)).collect();
        for rule in &schema.rules {
            let wanted = rule.check.columns();
            let columns: Vec<usize> = wanted.iter().filter_map(|column| index(column)).collect();
            let header = matches!(rule.check, Check::Required { .. });
            if columns.len() < wanted.len() && !header {
                let absent = wanted.iter().find(|column| index(column).is_none()).copied().unwrap_or_default();
                // A column that the schema knows is not the one that was meant.
                let nearest = did_you_mean(absent, strangers.iter().copied());
                let optional = schema.kind(absent).is_some() && nearest.is_empty();
                let why = if optional { "an optional column that is not there" } else { "no such column" };
                skipped.push(format!("{}: {absent:?} is {why}{nearest}", rule.name));
                continue;
            }
            let memory = match rule.check {
                Check::Unique { .. } => Memory::Keys(Some(HashMap::new())),
                Check::NullShare { .. } => Memory::Missing { missing: 0 },
                Check::Freshness { .. } => Memory::Newest { newest: f64::NAN },
                Check::Agreement { .. } => Memory::Ratings(Ratings::default()),
                _ => Memory::None,
            };
            let by_number = matches!(rule.check, Check::Range { .. } | Check::AllowedNumbers { .. });
            let undeclared = by_number && wanted.iter().all(|name| schema.kind(name).is_none());
            for (&column, name) in columns.iter().zip(&wanted) {
                let kind = schema.kind(name).or(by_number.then_some(Kind::Number));
                kinds.extend(kind.map(|kind| (column, kind)));
            }
            let severity = severity(rule, on_violation);
            bound.push(Bound { rule, severity, columns, undeclared, memory, count: 0, examples: Vec::new() });
        }
        let mut engine = Self { bound, reader, kinds, names: names.to_vec(), rows: 0, skipped };
        engine.check_header(None, names);
        engine
    }

    /// Whether there is anything to hold rows against.
    pub fn has_rules(&self) -> bool {
        !self.bound.is_empty()
    }

    /// The columns of one file: what must be there, and what may be.
    pub fn check_header(&mut self, file: Option<&str>, names: &[String]) {
        for bound in &mut self.bound {
            let absent = |column: &String| !names.contains(column);
            let values: Vec<String> = match &bound.rule.check {
                Check::Required { column } if absent(column) => {
                    let nearest = did_you_mean(column, names.iter().map(String::as_str));
                    vec![format!("no column {column:?}{nearest}")]
                }
                Check::NoOtherColumns { known } => {
                    names.iter().filter(|name| !known.contains(name)).map(|name| format!("column {name:?}")).collect()
                }
                _ => continue,
            };
            for value in values {
                let known = bound.examples.iter().any(|example| example.value == value);
                if !known {
                    bound.count += 1;
                    let file = file.map(str::to_owned);
                    bound.examples.push(Example { file, line: None, row: None, value });
                }
            }
        }
    }

    /// Holds every rule against a chunk. `columns` are all columns of the table as texts.
    pub fn observe(&mut self, place: &Place<'_>, columns: &[&StringArray]) -> Quarantined {
        let rows = place.chunk.rows;
        self.rows += rows as u64;
        let missing: BTreeMap<usize, Vec<bool>> = self
            .bound
            .iter()
            .flat_map(|bound| bound.columns.iter().copied())
            .map(|column| (column, column))
            .collect::<BTreeMap<_, _>>()
            .into_keys()
            .map(|column| (column, missing_of(columns[column], &self.reader)))
            .collect();
        let read: BTreeMap<usize, Typed<'_>> = self
            .kinds
            .iter()
            .map(|(&column, &kind)| (column, typed(kind, columns[column], &missing[&column], &self.reader)))
            .collect();
        let mut quarantined = Vec::new();
        for (index, bound) in self.bound.iter_mut().enumerate() {
            let broken = bound.broken_rows(place, columns, &missing, &read);
            bound.count += broken.len() as u64;
            for row in &broken {
                if bound.examples.len() < MAX_EXAMPLES {
                    let example = bound.example(place, columns, *row, &self.names);
                    bound.examples.push(example);
                }
            }
            if bound.severity == Severity::Quarantine {
                quarantined.extend(broken.into_iter().map(|row| (row, index)));
            }
        }
        quarantined.sort_unstable();
        quarantined
    }

    /// The name of a rule by its index in [`Quarantined`].
    pub fn rule_name(&self, index: usize) -> &str {
        &self.bound[index].rule.name
    }

    /// What was found, the gravest first. `now` is in milliseconds since the epoch.
    pub fn finish(mut self, now: f64) -> (Vec<Found>, Vec<String>) {
        let rows = self.rows;
        for bound in &mut self.bound {
            bound.finish(rows, now);
        }
        let mut found: Vec<Found> = self
            .bound
            .into_iter()
            .filter(|bound| bound.count > 0)
            .map(|bound| Found {
                r#type: bound.rule.check.broken(),
                rule: bound.rule.name.clone(),
                severity: bound.severity,
                column: bound.rule.check.columns().first().map(|column| (*column).to_owned()),
                expected: bound.rule.expected.clone(),
                count: bound.count,
                examples: bound.examples,
            })
            .collect();
        found.sort_by_key(|found| std::cmp::Reverse(found.severity));
        (found, self.skipped)
    }
}

fn missing_of(texts: &StringArray, reader: &ValueReader) -> Vec<bool> {
    (0..texts.len()).map(|row| texts.is_null(row) || reader.is_missing(texts.value(row))).collect()
}

fn text_of(column: &StringArray, row: usize) -> &str {
    if column.is_null(row) { "" } else { column.value(row) }
}

impl Bound<'_> {
    /// Rows of the chunk that break the rule, in order.
    fn broken_rows(
        &mut self,
        place: &Place<'_>,
        columns: &[&StringArray],
        missing: &BTreeMap<usize, Vec<bool>>,
        read: &BTreeMap<usize, Typed<'_>>,
    ) -> Vec<usize> {
        let rows = 0..place.chunk.rows;
        let first = self.columns.first().copied().unwrap_or(0);
        let there = |row: &usize| !missing[&first][*row];
        let text = |row: usize| columns[first].value(row).trim();
        let numbers = || match read.get(&first).map(|typed| &typed.cells) {
            Some(Cells::Numbers(numbers)) => numbers.as_slice(),
            _ => &[],
        };
        let undeclared = self.undeclared;
        let no_numbers = || match read.get(&first) {
            Some(typed) if undeclared => typed.wrong.as_slice(),
            _ => &[],
        };
        match (&self.rule.check, &mut self.memory) {
            (Check::Type { .. }, _) => read[&first].wrong.clone(),
            (Check::NotNull { .. }, _) => rows.filter(|row| !there(row)).collect(),
            (Check::Range { bounds, .. }, _) => unlike(numbers(), no_numbers(), |value| bounds.hold(value)),
            (Check::AllowedNumbers { allowed, .. }, _) => {
                unlike(numbers(), no_numbers(), |value| allowed.contains(&value))
            }
            (Check::AllowedTexts { allowed, .. }, _) => {
                rows.filter(there).filter(|&row| !allowed.iter().any(|value| value == text(row))).collect()
            }
            (Check::Pattern { regex, .. }, _) => {
                rows.filter(there).filter(|&row| !regex.is_match(columns[first].value(row))).collect()
            }
            (Check::Condition { expression }, _) => {
                let cells: Vec<&Cells<'_>> = self.columns.iter().map(|column| &read[column].cells).collect();
                let truths = expression.check(&cells, place.chunk.rows);
                truths.iter().enumerate().filter(|(_, truth)| **truth == Truth::False).map(|(row, _)| row).collect()
            }
            (Check::Unique { .. }, Memory::Keys(keys)) => repeated(keys, &self.columns, place, columns, missing),
            (Check::NullShare { .. }, Memory::Missing { missing: count }) => {
                *count += missing[&first].iter().filter(|missing| **missing).count() as u64;
                Vec::new()
            }
            (Check::Freshness { .. }, Memory::Newest { newest }) => {
                *newest = numbers().iter().copied().fold(*newest, f64::max);
                Vec::new()
            }
            (Check::Agreement { .. }, Memory::Ratings(ratings)) => {
                let [item, _, rating] = self.columns[..] else { return Vec::new() };
                for row in rows.filter(|&row| !missing[&item][row] && !missing[&rating][row]) {
                    ratings.add(columns[item].value(row).trim(), columns[rating].value(row).trim());
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn example(&self, place: &Place<'_>, columns: &[&StringArray], row: usize, names: &[String]) -> Example {
        let (line, at_row) = match place.chunk.at(row) {
            At::Line(line) => (Some(line), None),
            At::Row(row) => (None, Some(row)),
        };
        let value = match &self.columns[..] {
            [one] => shown(text_of(columns[*one], row)),
            several => {
                let each = several.iter().map(|&c| format!("{} = {}", names[c], shown(text_of(columns[c], row))));
                each.collect::<Vec<_>>().join(", ")
            }
        };
        let value = match &self.memory {
            Memory::Keys(Some(keys)) => {
                let key = key_of(self.columns.iter().map(|&column| text_of(columns[column], row).trim()));
                let before = keys.get(&key).copied().unwrap_or_default();
                format!("{value}, as in row {} of the table", u64::from(before) + 1)
            }
            _ => value,
        };
        Example { file: Some(place.file.to_owned()), line, row: at_row, value }
    }

    fn finish(&mut self, rows: u64, now: f64) {
        let value = match (&self.rule.check, &self.memory) {
            (Check::NullShare { max, .. }, Memory::Missing { missing }) => {
                let share = *missing as f64 / rows.max(1) as f64;
                (share > *max).then(|| format!("{missing} of {rows} values are missing ({})", report::percent(share)))
            }
            (Check::RowCount { min, max }, _) => (!(*min..=*max).contains(&rows)).then(|| format!("{rows} rows")),
            (Check::Freshness { max_age_ms, as_of, .. }, Memory::Newest { newest }) => {
                let as_of = as_of.unwrap_or(now);
                let stale = newest.is_nan() || as_of - newest > *max_age_ms;
                let days = (as_of - newest) / date::DAY_MS as f64;
                stale.then(|| {
                    if newest.is_nan() {
                        "no date at all".to_owned()
                    } else {
                        format!("the newest date is {}, {days:.1} days old", date::shown(*newest as i64))
                    }
                })
            }
            (Check::Agreement { measure, level, min, .. }, Memory::Ratings(ratings)) => {
                match ratings.measure(*measure, *level) {
                    Ok(value) if value >= *min => None,
                    Ok(value) => Some(format!("{} is {value:.4}", measure.as_str())),
                    Err(why) => Some(format!("{} is undefined: {why}", measure.as_str())),
                }
            }
            (Check::Unique { .. }, Memory::Keys(None)) => {
                Some(format!("more than {MAX_KEYS} rows: uniqueness of so many is not yet supported"))
            }
            _ => None,
        };
        if let Some(value) = value {
            self.count += 1;
            self.examples.insert(0, Example { file: None, line: None, row: None, value });
        }
    }
}

/// Rows whose number is there and does not hold, and those that hold no number where they must.
fn unlike(numbers: &[f64], no_numbers: &[usize], holds: impl Fn(f64) -> bool) -> Vec<usize> {
    let broken = |(row, value): (usize, &f64)| (!value.is_nan() && !holds(*value)).then_some(row);
    let mut rows: Vec<usize> = numbers.iter().enumerate().filter_map(broken).collect();
    rows.extend(no_numbers);
    rows.sort_unstable();
    rows
}

/// Rows whose key stood before. A key of which a part is missing is unlike any other, as in SQL.
fn repeated(
    keys: &mut Option<HashMap<[u32; 4], u32>>,
    columns: &[usize],
    place: &Place<'_>,
    texts: &[&StringArray],
    missing: &BTreeMap<usize, Vec<bool>>,
) -> Vec<usize> {
    let Some(known) = keys else { return Vec::new() };
    let mut broken = Vec::new();
    for row in 0..place.chunk.rows {
        if columns.iter().any(|column| missing[column][row]) {
            continue;
        }
        let key = key_of(columns.iter().map(|&column| texts[column].value(row).trim()));
        match known.entry(key) {
            std::collections::hash_map::Entry::Occupied(_) => broken.push(row),
            std::collections::hash_map::Entry::Vacant(place_of) => {
                place_of.insert(place.table_row(row) as u32);
            }
        }
    }
    if known.len() > MAX_KEYS {
        *keys = None;
    }
    broken
}
