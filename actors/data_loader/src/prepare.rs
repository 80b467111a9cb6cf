//! A plan's files to a dataset version in memory: read, checked, split, and with preprocessing fitted. Pure
//! of chance and time; blocking, so it runs off the async runtime.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;

use arrow_array::types::Int32Type;
use arrow_array::{DictionaryArray, FixedSizeBinaryArray, Float64Array, Int32Array, StringArray};
use frame::manifest::{Encoding, Feature, Lineage, MANIFEST_VERSION, Part, SampleIdScheme, Sequence, Shard, SplitInfo};
use frame::{ColumnValues, Manifest, Table};
use messages::WireError;
use messages::error::Code;
use messages::feed::Split;
use messages::plan::{ColumnType, DataPlan, SplitStrategy, Task};
use tokio_util::sync::CancellationToken;

use crate::check::names::split_column;
use crate::check::target::{self, TargetValues};
use crate::check::{Violation, Violations};
use crate::fit::{self, Fitted, fit};
use crate::load::{Loaded, MISSING_KEY, Values, load};
use crate::memory;
use crate::pretrained::Pretrained;
use crate::sequence::Samples;
use crate::source::{self, idx::Images};
use crate::split::{Parts, split, warn_of_small_classes};
use crate::validate::{self, Dropped};

/// Most samples of a shard.
pub const SHARD_ROWS: usize = 65_536;
/// A shard of images has fewer: about so many bytes.
const SHARD_BYTES: usize = 64 << 20;

/// Everything of a dataset version but its place in the artifact store.
#[derive(Debug)]
pub struct Prepared {
    loaded: Loaded,
    /// Set where several rows make one sample; target, weights and parts are then of samples.
    samples: Option<(Samples, Sequence)>,
    images: BTreeMap<String, Images>,
    pretrained: Option<Pretrained>,
    target: TargetValues,
    weights: Option<Vec<f32>>,
    parts: Parts,
    split: SplitInfo,
    fitted: Fitted,
    dataset_version: String,
    warnings: Vec<String>,
}

/// Validates, where the plan asks for it, then reads, checks, splits and fits.
pub fn prepare(
    data: &DataPlan,
    task: Task,
    roots: &[PathBuf],
    cancelled: &CancellationToken,
) -> Result<Prepared, WireError> {
    let Some(checked) = validate::of_plan(data, roots, bus::now_ms(), cancelled)? else {
        return prepare_without(data, task, roots, &Dropped::default(), cancelled);
    };
    checked.report.verdict()?;
    let mut prepared = prepare_without(data, task, roots, &checked.dropped, cancelled)?;
    prepared.warn(checked.report.warnings());
    Ok(prepared)
}

/// Reads, checks, splits and fits what is left without the dropped rows.
pub fn prepare_without(
    data: &DataPlan,
    task: Task,
    roots: &[PathBuf],
    dropped: &Dropped,
    cancelled: &CancellationToken,
) -> Result<Prepared, WireError> {
    let files = source::files(data, roots)?;
    let mut loaded = load(data, task, &files, roots, memory::limit_bytes(), dropped, cancelled)?;
    let mut warnings = std::mem::take(&mut loaded.warnings);
    let mut violations = Violations::default();
    let images = images(data, &mut loaded, roots, &mut violations)?;
    let pretrained = match &data.text.pretrained {
        Some(path) => Some(Pretrained::open(path, data.text.max_length, roots)?),
        None => None,
    };
    let samples = Samples::of(&data.sequence, &loaded)?;
    let grouped = samples.as_ref().map(|samples| samples.last_rows(&loaded, split_column(data)));
    let by_sample = grouped.as_ref().unwrap_or(&loaded);
    let target = target::read(&data.target, task, by_sample, &mut violations);
    let weights = weights(by_sample, &mut violations);
    violations.check()?;
    let target = target.ok_or_else(|| WireError::from(Violation::new("has no values").column(&data.target.column)))?;
    if data.split.strategy != SplitStrategy::Time {
        warn_of_small_classes(task, &target, &mut warnings);
    }
    let (parts, split) = split(data, by_sample, &target, &mut violations, &mut warnings)?;
    target::check_parts(&data.target, &target, &parts.train, &mut violations, &mut warnings);
    if let Some(weights) = &weights
        && parts.train.iter().all(|&row| weights[row as usize] == 0.0)
    {
        violations.add(Violation::new("the sample weights of all rows of train are 0"));
    }
    violations.check()?;
    let train_rows = samples.as_ref().map(|samples| samples.rows_of(&parts.train));
    let inputs = fit::Inputs {
        loaded: &loaded,
        train: train_rows.as_deref().unwrap_or(&parts.train),
        target: &target,
        train_samples: &parts.train,
        images: &images,
        pretrained: pretrained.as_ref(),
    };
    let fitted = fit(data, task, inputs, cancelled, &mut warnings)?;
    let samples = samples.map(|samples| {
        let sequence = Sequence {
            group_column: data.sequence.group_column.clone().unwrap_or_default(),
            order_column: data.sequence.order_column.clone(),
            max_steps: samples.max_steps(),
        };
        (samples, sequence)
    });
    Ok(Prepared {
        loaded,
        samples,
        images,
        pretrained,
        target,
        weights,
        parts,
        split,
        fitted,
        dataset_version: data.dataset_version.clone(),
        warnings,
    })
}

/// The images of each image column; every number must name one.
fn images(
    data: &DataPlan,
    loaded: &mut Loaded,
    roots: &[PathBuf],
    violations: &mut Violations,
) -> Result<BTreeMap<String, Images>, WireError> {
    let mut found = BTreeMap::new();
    for (name, column) in data.columns.iter().filter(|(_, column)| column.r#type == ColumnType::Image) {
        if let Some(gallery) = loaded.pictures.remove(name) {
            let images = Images::of_gallery(gallery, name);
            loaded.sources.push(images.source.clone());
            found.insert(name.clone(), images);
            continue;
        }
        let Some((usage, Values::Number(numbers))) = loaded.column(name) else { continue };
        if !usage.is_feature() {
            continue;
        }
        let path = column.images.as_deref().ok_or_else(|| {
            let expected = "expected the file of its images, or the size of the pictures that it names or holds";
            WireError::new(Code::ConfigError, format!("data.columns.{name}.images: missing: {expected}"))
        })?;
        let images = Images::open(path, roots)?;
        for (row, number) in numbers.iter().enumerate() {
            if number.fract() != 0.0 || !(0.0..images.count as f64).contains(number) {
                let (file, at) = loaded.place(row);
                let message =
                    format!("{number} names no image of {path}, expected 0 to {}", images.count.saturating_sub(1));
                violations.add(Violation::new(message).file(file).at(at).column(name));
            }
        }
        loaded.sources.push(images.source.clone());
        found.insert(name.clone(), images);
    }
    Ok(found)
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

    /// Adds what was found before the data were read.
    pub fn warn(&mut self, warnings: Vec<String>) {
        self.warnings.splice(0..0, warnings);
    }

    /// The cuts of a part into shards.
    pub fn shards(&self, split: Split) -> Vec<Range<usize>> {
        let rows = self.rows(split);
        let image_bytes: usize = self.images.values().map(Images::size).sum();
        let most = SHARD_BYTES.checked_div(image_bytes).unwrap_or(SHARD_ROWS).clamp(1, SHARD_ROWS);
        (0..rows).step_by(most).map(|first| first..rows.min(first + most)).collect()
    }

    /// Some samples of a part: a row each, or, of a sequence, a row a step.
    pub fn table(&self, split: Split, range: Range<usize>) -> Result<Table, WireError> {
        let samples = &self.parts.rows(split)[range];
        let Some((grouped, _)) = &self.samples else {
            return self.rows_table(samples, samples, &self.row_ids(samples));
        };
        let rows = grouped.rows_of(samples);
        let mut sample_of = Vec::with_capacity(rows.len());
        for &sample in samples {
            sample_of.extend(std::iter::repeat_n(sample, grouped.rows(sample).len()));
        }
        let ids: Vec<u64> = sample_of.iter().map(|&sample| grouped.ids[sample as usize]).collect();
        self.rows_table(&rows, &sample_of, &ids)
    }

    fn row_ids(&self, rows: &[u32]) -> Vec<u64> {
        let ids =
            self.loaded.columns.iter().find_map(|values| if let Values::Id(ids) = values { Some(ids) } else { None });
        // A row keeps the number that it has in the files, whichever others are left out.
        let numbered = |row: u32| self.loaded.row_of.as_ref().map_or(row, |rows| rows[row as usize]);
        rows.iter().map(|&row| ids.map_or(u64::from(numbered(row)), |ids| ids[row as usize])).collect()
    }

    /// `samples` says which sample each row belongs to.
    fn rows_table(&self, rows: &[u32], samples: &[u32], ids: &[u64]) -> Result<Table, WireError> {
        let mut columns = Vec::with_capacity(self.fitted.features.len());
        for feature in &self.fitted.features {
            columns.push((feature.column.clone(), self.feature_column(feature, rows)?));
        }
        let pick = |values: &[f32]| samples.iter().map(|&sample| values[sample as usize]).collect::<Vec<f32>>();
        Table::new(ids.to_vec(), columns, pick(&self.target.values), self.weights.as_deref().map(pick))
            .map_err(|e| WireError::new(Code::InternalError, e.to_string()))
    }

    fn feature_column(&self, feature: &Feature, rows: &[u32]) -> Result<ColumnValues, WireError> {
        let name = &feature.column;
        let values = self.loaded.column(name).map(|(_, values)| values);
        match (values, &feature.encoding) {
            (Some(Values::Number(numbers)), Encoding::Image { .. }) => image_column(&self.images[name], numbers, rows),
            (Some(Values::Number(numbers)), _) => Ok(number_column(numbers, rows)),
            (Some(Values::Category { keys, texts }), _) => category_column(keys, texts, rows),
            (Some(Values::Text(texts)), _) => {
                Ok(ColumnValues::Text(StringArray::from_iter_values(rows.iter().map(|&row| texts.get(row as usize)))))
            }
            _ => Err(WireError::new(Code::InternalError, format!("feature column {name:?} was not kept"))),
        }
    }

    /// The weights and sizes of the encoder that the model begins with.
    pub fn pretrained(&mut self) -> Option<(String, String, Vec<u8>)> {
        let found = self.pretrained.take()?;
        Some((found.path, found.config, found.weights))
    }

    /// The manifest, once the shards of train, val and test lie in the store.
    pub fn manifest(
        &self,
        lineage: Lineage,
        shards: [Vec<Shard>; 3],
        pretrained: Option<frame::manifest::Pretrained>,
    ) -> Manifest {
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
            sequence: self.samples.as_ref().map(|(_, sequence)| sequence.clone()),
            pretrained,
            sample_id: match (&self.samples, id_column) {
                (Some((_, sequence)), _) => SampleIdScheme::Column { column: sequence.group_column.clone() },
                (None, Some((usage, _))) => SampleIdScheme::Column { column: usage.name.clone() },
                (None, None) => SampleIdScheme::RowNumber,
            },
            weighted: self.weights.is_some(),
            split: self.split.clone(),
            parts: parts.collect(),
            warnings: self.warnings.clone(),
            inference: self.loaded.inference.clone(),
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

/// The pixels of the images that the numbers name; these were checked.
fn image_column(images: &Images, numbers: &[f64], rows: &[u32]) -> Result<ColumnValues, WireError> {
    let failed = |e: arrow_schema::ArrowError| WireError::new(Code::InternalError, format!("images: {e}"));
    let mut pixels = Vec::with_capacity(rows.len() * images.size());
    for &row in rows {
        pixels.extend_from_slice(images.pixels(numbers[row as usize] as usize));
    }
    let size = i32::try_from(images.size()).map_err(|_| WireError::new(Code::TooLarge, "images of 2^31 bytes"))?;
    FixedSizeBinaryArray::try_new(size, pixels.into(), None).map(ColumnValues::Image).map_err(failed)
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
