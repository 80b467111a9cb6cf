//! A plan's files to a dataset version in memory: read, checked, split, and with preprocessing fitted. Pure
//! of chance and time; blocking, so it runs off the async runtime.

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;

use arrow_array::types::Int32Type;
use arrow_array::{DictionaryArray, Float64Array, Int32Array, StringArray};
use frame::manifest::{Lineage, MANIFEST_VERSION, Part, SampleIdScheme, Shard, SplitInfo};
use frame::{ColumnValues, Manifest, Table};
use messages::WireError;
use messages::error::Code;
use messages::feed::Split;
use messages::plan::{DataPlan, SplitStrategy, Task};
use tokio_util::sync::CancellationToken;

use crate::check::target::{self, TargetValues};
use crate::check::{Violation, Violations};
use crate::fit::{Fitted, fit};
use crate::load::{Loaded, MISSING_KEY, Values, load};
use crate::source;
use crate::split::{Parts, split, warn_of_small_classes};

/// Rows of a shard.
pub const SHARD_ROWS: usize = 65_536;

/// Everything of a dataset version but its place in the artifact store.
#[derive(Debug)]
pub struct Prepared {
    loaded: Loaded,
    target: TargetValues,
    weights: Option<Vec<f32>>,
    parts: Parts,
    split: SplitInfo,
    fitted: Fitted,
    dataset_version: String,
    warnings: Vec<String>,
}

/// Reads, checks, splits and fits.
pub fn prepare(
    data: &DataPlan,
    task: Task,
    roots: &[PathBuf],
    cancelled: &CancellationToken,
) -> Result<Prepared, WireError> {
    let files = source::files(data, roots)?;
    let mut loaded = load(data, task, &files, cancelled)?;
    let mut warnings = std::mem::take(&mut loaded.warnings);
    let mut violations = Violations::default();
    let target = target::read(&data.target, task, &loaded, &mut violations);
    let weights = weights(&loaded, &mut violations);
    violations.check()?;
    let target = target.ok_or_else(|| WireError::from(Violation::new("has no values").column(&data.target.column)))?;
    if data.split.strategy != SplitStrategy::Time {
        warn_of_small_classes(task, &target, &mut warnings);
    }
    let (parts, split) = split(data, &loaded, &target, &mut violations, &mut warnings)?;
    target::check_parts(&data.target, &target, &parts.train, &mut violations, &mut warnings);
    if let Some(weights) = &weights
        && parts.train.iter().all(|&row| weights[row as usize] == 0.0)
    {
        violations.add(Violation::new("the sample weights of all rows of train are 0"));
    }
    violations.check()?;
    let fitted = fit(data, task, &loaded, &target, &parts.train, cancelled, &mut warnings)?;
    Ok(Prepared {
        loaded,
        target,
        weights,
        parts,
        split,
        fitted,
        dataset_version: data.dataset_version.clone(),
        warnings,
    })
}

/// Sample weights: none negative.
fn weights(loaded: &Loaded, violations: &mut Violations) -> Option<Vec<f32>> {
    let index = loaded.layout.uses.iter().position(|usage| usage.role == frame::manifest::ColumnRole::Weight)?;
    let Values::Number(numbers) = &loaded.columns[index] else { return None };
    for (row, weight) in numbers.iter().enumerate().filter(|(_, weight)| **weight < 0.0) {
        let (file, at) = loaded.place(row);
        let message = format!("{weight} is negative, expected a sample weight of 0 or more");
        violations.add(Violation::new(message).file(file).at(at).column(&loaded.layout.uses[index].name));
    }
    Some(numbers.iter().map(|&weight| weight as f32).collect())
}

impl Prepared {
    pub fn rows(&self, split: Split) -> usize {
        self.parts.rows(split).len()
    }

    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The cuts of a part into shards.
    pub fn shards(&self, split: Split) -> Vec<Range<usize>> {
        let rows = self.rows(split);
        (0..rows).step_by(SHARD_ROWS).map(|first| first..rows.min(first + SHARD_ROWS)).collect()
    }

    /// Some rows of a part.
    pub fn table(&self, split: Split, range: Range<usize>) -> Result<Table, WireError> {
        let rows = &self.parts.rows(split)[range];
        let ids =
            self.loaded.columns.iter().find_map(|values| if let Values::Id(ids) = values { Some(ids) } else { None });
        let sample_ids = rows.iter().map(|&row| ids.map_or(u64::from(row), |ids| ids[row as usize])).collect();
        let mut columns = Vec::with_capacity(self.fitted.features.len());
        for feature in &self.fitted.features {
            let values = match self.loaded.column(&feature.column) {
                Some((_, Values::Number(numbers))) => number_column(numbers, rows),
                Some((_, Values::Category { keys, texts })) => category_column(keys, texts, rows)?,
                _ => {
                    return Err(WireError::new(
                        Code::InternalError,
                        format!("feature column {:?} was not kept", feature.column),
                    ));
                }
            };
            columns.push((feature.column.clone(), values));
        }
        let pick = |values: &[f32]| rows.iter().map(|&row| values[row as usize]).collect::<Vec<f32>>();
        Table::new(sample_ids, columns, pick(&self.target.values), self.weights.as_deref().map(pick))
            .map_err(|e| WireError::new(Code::InternalError, e.to_string()))
    }

    /// The manifest, once the shards of train, val and test lie in the store.
    pub fn manifest(&self, lineage: Lineage, shards: [Vec<Shard>; 3]) -> Manifest {
        let parts = Split::ALL.into_iter().zip(shards).map(|(split, shards)| Part {
            split,
            rows: self.rows(split) as u64,
            class_counts: self.class_counts(split),
            shards,
        });
        let id_column = self
            .loaded
            .layout
            .uses
            .iter()
            .zip(&self.loaded.columns)
            .find(|(_, values)| matches!(values, Values::Id(_)));
        Manifest {
            schema: MANIFEST_VERSION,
            dataset_version: self.dataset_version.clone(),
            lineage,
            sources: self.loaded.sources.clone(),
            columns: self.fitted.columns.clone(),
            target: self.fitted.target.clone(),
            features: self.fitted.features.clone(),
            feature_names: self.fitted.feature_names.clone(),
            sample_id: match id_column {
                Some((usage, _)) => SampleIdScheme::Column { column: usage.name.clone() },
                None => SampleIdScheme::RowNumber,
            },
            weighted: self.weights.is_some(),
            split: self.split.clone(),
            parts: parts.collect(),
            warnings: self.warnings.clone(),
        }
    }

    fn class_counts(&self, split: Split) -> Vec<u64> {
        let mut counts = vec![0; self.target.classes.len()];
        if !counts.is_empty() {
            for &row in self.parts.rows(split) {
                counts[self.target.values[row as usize] as usize] += 1;
            }
        }
        counts
    }
}

fn number_column(numbers: &[f64], rows: &[u32]) -> ColumnValues {
    let values = rows.iter().map(|&row| Some(numbers[row as usize]).filter(|value| !value.is_nan()));
    ColumnValues::Number(values.collect::<Float64Array>())
}

/// A dictionary of the texts of these rows only, in the order of their first row.
fn category_column(keys: &[u32], texts: &[String], rows: &[u32]) -> Result<ColumnValues, WireError> {
    let mut places: HashMap<u32, i32> = HashMap::new();
    let mut used: Vec<&str> = Vec::new();
    let mut local = Vec::with_capacity(rows.len());
    for &row in rows {
        let key = keys[row as usize];
        if key == MISSING_KEY {
            local.push(None);
            continue;
        }
        let place = *places.entry(key).or_insert_with(|| {
            used.push(&texts[key as usize]);
            used.len() as i32 - 1
        });
        local.push(Some(place));
    }
    let array =
        DictionaryArray::<Int32Type>::try_new(Int32Array::from(local), std::sync::Arc::new(StringArray::from(used)));
    Ok(ColumnValues::Category(array.map_err(|e| WireError::new(Code::InternalError, e.to_string()))?))
}
