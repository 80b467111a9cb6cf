//! Tables that stand beside the one that is read: small enough to be held, looked up by key for each row that streams
//! past.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, StringArray, UInt32Array};
use arrow_select::concat::concat;
use arrow_select::take::take;
use messages::WireError;
use messages::error::Code;
use messages::plan::{DataFormat, DataPlan, JoinKind, JoinPlan};

use super::arrays::converted;
use super::{Chunk, Opened, Summary, Want, file, glob};
use crate::check::{At, MAX_ROWS, Violation, Violations, shown};
use crate::nearest::did_you_mean;

/// Between the parts of a key.
const SEPARATOR: char = '\u{1f}';

/// All tables that are joined, read once.
#[derive(Debug, Default)]
pub struct Joins {
    tables: Vec<Table>,
}

#[derive(Debug)]
struct Table {
    plan: JoinPlan,
    summary: Summary,
    rows: HashMap<String, u32>,
    /// Names with the prefix, and values, of all columns but the keys.
    columns: Vec<(String, ArrayRef)>,
    seen: AtomicU64,
    alone: AtomicU64,
}

impl Joins {
    /// Reads the tables of the plan.
    pub fn read(plan: &DataPlan, roots: &[PathBuf], violations: &mut Violations) -> Result<Self, WireError> {
        let mut tables = Vec::new();
        for join in &plan.joins {
            if let Some(table) = Table::read(plan, join, roots, violations)? {
                tables.push(table);
            }
        }
        Ok(Self { tables })
    }

    /// Each table's file.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &Summary)> {
        self.tables.iter().map(|table| (table.plan.path.as_str(), &table.summary))
    }

    /// What became of the rows: a join that finds nothing is a mistake, one that finds little is told.
    pub fn report(&self, violations: &mut Violations, warnings: &mut Vec<String>) {
        for table in &self.tables {
            let (seen, alone) = (table.seen.load(Ordering::Relaxed), table.alone.load(Ordering::Relaxed));
            let on = table.plan.on.join(", ");
            if seen > 0 && alone == seen {
                let message = format!("has none of the {seen} keys ({on}) of the rows that it is joined to");
                violations.add(Violation::new(message).file(&table.plan.path).hint("data.joins: check on"));
            } else if alone > 0 {
                let what = if table.plan.how == JoinKind::Inner { "are left out" } else { "get missing values" };
                warnings.push(format!(
                    "{alone} of {seen} rows have a key ({on}) that {} does not have and {what}",
                    table.plan.path
                ));
            }
        }
    }
}

impl Table {
    fn read(
        plan: &DataPlan,
        join: &JoinPlan,
        roots: &[PathBuf],
        violations: &mut Violations,
    ) -> Result<Option<Self>, WireError> {
        let mut found = glob::find(&join.path, roots)?;
        let Some((path, real)) = found.pop().filter(|_| found.is_empty()) else {
            let message = format!("{}: is a pattern of several files, data.joins expects one", join.path);
            return Err(WireError::new(Code::NotSupported, message));
        };
        let right = file(path, real, DataFormat::Auto, false)?;
        let mut csv = plan.csv.clone();
        if join.path.to_ascii_lowercase().contains(".tsv") {
            csv.delimiter = "\t".into();
        }
        let Some(mut opened) = Opened::open(&right, &csv, violations)? else { return Ok(None) };
        let names = opened.columns().to_vec();
        let Some(keys) = places(&join.on, &names, &join.path, violations) else { return Ok(None) };
        let mut wanted: Vec<(usize, Want)> = keys.iter().map(|&key| (key, Want::Text)).collect();
        wanted.extend((0..names.len()).filter(|index| !keys.contains(index)).map(|index| (index, Want::Native)));
        opened.want(&wanted)?;
        let mut rows = HashMap::new();
        let mut parts: Vec<Vec<ArrayRef>> = vec![Vec::new(); wanted.len() - keys.len()];
        let mut first_places: Vec<At> = Vec::new();
        while let Some(chunk) = opened.next_chunk(violations)? {
            let texts: Vec<&StringArray> = chunk.columns[..keys.len()].iter().map(AsArray::as_string).collect();
            for row in 0..chunk.rows {
                let number = first_places.len() as u32;
                first_places.push(chunk.at(row));
                let Some(key) = key(&texts, row) else { continue };
                if let Some(first) = rows.get(&key).copied() {
                    let first: u32 = first;
                    let message = format!(
                        "the key {} stands in {} too: each row of a joined table needs its own",
                        shown(&key.replace(SEPARATOR, ", ")),
                        first_places[first as usize]
                    );
                    violations.add(Violation::new(message).file(&join.path).at(chunk.at(row)).column(&join.on[0]));
                    continue;
                }
                rows.insert(key, number);
            }
            if first_places.len() as u64 > MAX_ROWS {
                return Err(WireError::new(Code::TooLarge, format!("{}: more than {MAX_ROWS} rows", join.path)));
            }
            for (parts, column) in parts.iter_mut().zip(&chunk.columns[keys.len()..]) {
                parts.push(column.clone());
            }
        }
        let mut columns = Vec::with_capacity(parts.len());
        for (&(index, _), parts) in wanted[keys.len()..].iter().zip(parts) {
            columns.push((format!("{}{}", join.prefix, names[index]), whole(&parts)?));
        }
        let (seen, alone) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Some(Self { plan: join.clone(), summary: opened.finish()?, rows, columns, seen, alone }))
    }
}

/// Parts of a column as one; as texts where they are of several types.
fn whole(parts: &[ArrayRef]) -> Result<ArrayRef, WireError> {
    let Some(first) = parts.first() else { return Ok(Arc::new(StringArray::from(Vec::<&str>::new()))) };
    let failed = |e: arrow_schema::ArrowError| WireError::new(Code::TooLarge, format!("a joined table: {e}"));
    if parts.iter().all(|part| part.data_type() == first.data_type()) {
        return concat(&parts.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>()).map_err(failed);
    }
    let texts: Vec<ArrayRef> = parts.iter().filter_map(|part| converted(part, Want::Text)).collect();
    concat(&texts.iter().map(AsRef::as_ref).collect::<Vec<&dyn Array>>()).map_err(failed)
}

/// Index of each column; none where one is not there.
fn places(on: &[String], names: &[String], path: &str, violations: &mut Violations) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for name in on {
        if let Some(index) = names.iter().position(|other| other == name) {
            found.push(index);
        } else {
            let nearest = did_you_mean(name, names.iter().map(String::as_str));
            let message = format!("no such column, named by data.joins.on{nearest}");
            violations.add(Violation::new(message).file(path).column(name));
        }
    }
    (found.len() == on.len()).then_some(found)
}

/// The key of a row; none where a part of it is missing.
fn key(texts: &[&StringArray], row: usize) -> Option<String> {
    let mut key = String::new();
    for (index, texts) in texts.iter().enumerate() {
        let text = texts.is_valid(row).then(|| texts.value(row).trim()).filter(|text| !text.is_empty())?;
        if index > 0 {
            key.push(SEPARATOR);
        }
        key.push_str(text);
    }
    Some(key)
}

/// The joined tables beside one file.
pub struct Joined {
    joins: Arc<Joins>,
    /// For each table: where its keys stand in the columns so far, and where its own columns begin.
    places: Vec<(Vec<usize>, usize)>,
    keys: Vec<usize>,
    /// How each of all columns is wanted.
    wanted: HashMap<usize, Want>,
}

impl Joined {
    /// Adds the tables' columns behind those of a file. None where they do not fit: then the violations say why.
    pub fn new(joins: &Arc<Joins>, file: &str, columns: &mut Vec<String>, violations: &mut Violations) -> Option<Self> {
        let (mut found, mut keys) = (Vec::new(), Vec::new());
        for table in &joins.tables {
            let on = places(&table.plan.on, columns, file, violations)?;
            keys.extend(&on);
            found.push((on, columns.len()));
            for (name, _) in &table.columns {
                if columns.contains(name) {
                    let message = format!("is in {file} too: set data.joins.prefix");
                    violations.add(Violation::new(message).file(&table.plan.path).column(name));
                    return None;
                }
                columns.push(name.clone());
            }
        }
        Some(Self { joins: joins.clone(), places: found, keys, wanted: HashMap::new() })
    }

    /// Columns that must be read as texts, because they are looked up.
    pub fn keys(&self) -> &[usize] {
        &self.keys
    }

    pub fn want(&mut self, wanted: &[(usize, Want)]) {
        self.wanted = wanted.iter().copied().collect();
    }

    /// Sets the tables' columns for the rows of a chunk; an inner join takes rows out of all columns so far.
    pub fn join(&self, chunk: &mut Chunk, columns: &mut [Option<ArrayRef>]) -> Result<(), WireError> {
        for (table, (on, first)) in self.joins.tables.iter().zip(&self.places) {
            let texts: Vec<ArrayRef> = on
                .iter()
                .filter_map(|&index| columns[index].as_ref())
                .filter_map(|column| converted(column, Want::Text))
                .collect();
            let texts: Vec<&StringArray> = texts.iter().map(AsArray::as_string).collect();
            let mut partners: Vec<Option<u32>> =
                (0..chunk.rows).map(|row| key(&texts, row).and_then(|key| table.rows.get(&key).copied())).collect();
            let alone = partners.iter().filter(|partner| partner.is_none()).count() as u64;
            table.seen.fetch_add(chunk.rows as u64, Ordering::Relaxed);
            table.alone.fetch_add(alone, Ordering::Relaxed);
            if table.plan.how == JoinKind::Inner && alone > 0 {
                let kept: Vec<u32> = (0..chunk.rows as u32).filter(|&row| partners[row as usize].is_some()).collect();
                partners.retain(Option::is_some);
                let rows = UInt32Array::from(kept.clone());
                for column in columns.iter_mut().flatten() {
                    *column = taken(column, &rows)?;
                }
                let picked = chunk.picked.take();
                let picked = kept.iter().map(|&row| picked.as_ref().map_or(row, |picked| picked[row as usize]));
                chunk.picked = Some(picked.collect());
                chunk.rows = kept.len();
            }
            let partners = UInt32Array::from(partners);
            for (index, (_, values)) in (*first..).zip(&table.columns) {
                let needed = self.wanted.get(&index).copied();
                let is_key = self.keys.contains(&index);
                if needed.is_none() && !is_key {
                    continue;
                }
                let column = taken(values, &partners)?;
                let text = needed != Some(Want::Native);
                let column = if text { as_texts(&column) } else { column };
                columns[index] = Some(column);
            }
        }
        Ok(())
    }
}

fn taken(values: &ArrayRef, rows: &UInt32Array) -> Result<ArrayRef, WireError> {
    if values.is_empty() {
        return Ok(Arc::new((0..rows.len()).map(|_| None::<&str>).collect::<StringArray>()));
    }
    take(values.as_ref(), rows, None).map_err(|e| WireError::new(Code::InternalError, format!("joining: {e}")))
}

fn as_texts(column: &ArrayRef) -> ArrayRef {
    converted(column, Want::Text).unwrap_or_else(|| column.clone())
}
