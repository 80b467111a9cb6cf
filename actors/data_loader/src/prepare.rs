//! A plan's files to a dataset version in memory: read, checked, split, and with preprocessing fitted. Pure
//! of chance and time; blocking, so it runs off the async runtime.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::PathBuf;

use arrow_array::types::Int32Type;
use arrow_array::{DictionaryArray, FixedSizeBinaryArray, Float64Array, Int32Array, StringArray};
use frame::derive::Step;
use frame::manifest::{
    Encoding, Feature, FittedTransform, Lineage, MANIFEST_VERSION, Part, SampleIdScheme, Sequence, Shard, SplitInfo,
    Synthetic,
};
use frame::shard::Stored;
use frame::{ColumnValues, Encoder, Manifest, Table};
use messages::error::Code;
use messages::feed::Split;
use messages::plan::{AugmentationPlan, ColumnType, DataPlan, SplitStrategy, Task};
use messages::{ArtifactRef, WireError};
use scratch::{Entered, Scope};
use tokio_util::sync::CancellationToken;

use crate::augment::gathered::{self, Gathered};
use crate::augment::smote;
use crate::cache::{self, Steps};
use crate::check::names::{split_column, split_columns};
use crate::check::target::{self, TargetValues};
use crate::check::{Violation, Violations};
use crate::derive;
use crate::fit::{self, Fitted, fit};
use crate::load::{Kept, Loaded, MISSING_KEY, Values, alive, load_without};
use crate::memory;
use crate::pretrained::Pretrained;
use crate::quality::{self, Quality};
use crate::sequence::Samples;
use crate::source::{self, idx::Images};
use crate::split::report::{self, SplitReport};
use crate::split::{Parts, split, warn_of_small_classes};
use crate::storage::Stores;
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
    /// Columns made of others, those of images' normalization last.
    derived: Vec<Step>,
    stored: Stores,
    images: BTreeMap<String, Images>,
    pretrained: Option<Pretrained>,
    target: TargetValues,
    weights: Option<Vec<f32>>,
    parts: Parts,
    split: SplitInfo,
    fitted: Fitted,
    quality: Option<Quality>,
    /// What feeds need to augment rows.
    gathered: Gathered,
    synthetic: Option<Synthetic>,
    dataset_version: String,
    warnings: Vec<String>,
    /// What was stored before the data were read, by name.
    reports: BTreeMap<String, ArtifactRef>,
    /// What it was prepared in, and what is made of it belongs to.
    memory: Option<Scope>,
}

/// Reads, checks, splits and fits, all of it.
pub fn prepare(
    data: &DataPlan,
    task: Task,
    roots: &[PathBuf],
    cancelled: &CancellationToken,
) -> Result<Prepared, WireError> {
    prepare_by(data, task, roots, &mut Steps::uncached(), cancelled)
}

/// The same, as far as it is not in the step cache. Data that a schema refuses are an error.
pub fn prepare_by(
    data: &DataPlan,
    task: Task,
    roots: &[PathBuf],
    steps: &mut Steps,
    cancelled: &CancellationToken,
) -> Result<Prepared, WireError> {
    let Some(checked) = validate::of_plan(data, roots, bus::now_ms(), cancelled)? else {
        return prepare_without(data, task, roots, &Dropped::default(), steps, cancelled);
    };
    checked.report.verdict()?;
    let mut prepared = prepare_without(data, task, roots, &checked.dropped, steps, cancelled)?;
    prepared.tell(checked.report.warnings(), BTreeMap::new());
    Ok(prepared)
}

/// Prepares what is left without the dropped rows; these follow from the plan and the files.
pub fn prepare_without(
    data: &DataPlan,
    task: Task,
    roots: &[PathBuf],
    dropped: &Dropped,
    steps: &mut Steps,
    cancelled: &CancellationToken,
) -> Result<Prepared, WireError> {
    let files = source::files(data, roots)?;
    let read = steps.run(cache::Step::Read, |steps| {
        let loaded = load_without(data, task, &files, roots, memory::limit_bytes(), dropped, cancelled)?;
        steps.same_files(&loaded.sources)?;
        Ok(Kept::from(loaded))
    })?;
    let mut loaded = read.loaded(data, task, &files);
    let mut warnings = std::mem::take(&mut loaded.warnings);
    let mut violations = Violations::default();
    let images = images(data, &mut loaded, roots, &mut violations)?;
    steps.same_files(&loaded.sources)?;
    let pretrained = match &data.text.pretrained {
        Some(path) => Some(Pretrained::open(path, data.text.max_length, roots)?),
        None => None,
    };
    let mut assigned = assign(data, task, &loaded, violations, steps, &mut warnings)?;
    let quality = assigned.examine(data, task, &loaded, cancelled, &mut warnings)?;
    let part_rows = Split::ALL.map(|split| assigned.rows_of(split));
    let derived = derive::derive(data, &mut loaded, [&part_rows[0], &part_rows[1], &part_rows[2]], cancelled)?;
    let inputs = fit::Inputs {
        loaded: &loaded,
        train: &part_rows[0],
        task,
        target: &assigned.target,
        train_samples: &assigned.parts.train,
        images: &images,
        pretrained: pretrained.as_ref(),
    };
    let (mut fitted, of_fit) = steps.run(cache::Step::Fit, |_| {
        let mut warnings = Vec::new();
        Ok((fit(data, task, inputs, cancelled, &mut warnings)?, warnings))
    })?;
    warnings.extend(of_fit);
    let mut derived = [derive::cleaning(&data.text.clean, &loaded), derived].concat();
    derived.append(&mut fitted.normalized);
    let (gathered, synthetic) = match &data.augmentation {
        Some(plan) => assigned.augment(plan, roots, &images, &mut loaded, &mut fitted)?,
        None => (Gathered::default(), None),
    };
    // After synthetic rows: what lies between two whole numbers is none.
    let stored = Stores::of(data, &loaded, &fitted, &derived);
    let mut prepared = Prepared {
        loaded,
        samples: assigned.samples.map(|samples| sequence(data, samples)),
        derived,
        stored,
        images,
        pretrained,
        target: assigned.target,
        weights: assigned.weights,
        parts: assigned.parts,
        split: assigned.split,
        fitted,
        quality,
        gathered,
        synthetic,
        dataset_version: data.dataset_version.clone(),
        warnings,
        reports: BTreeMap::new(),
        memory: Scope::current(),
    };
    if data.augmentation.as_ref().is_some_and(AugmentationPlan::perturbs) {
        prepared.gathered.spreads = prepared.spreads(cancelled)?;
    }
    Ok(prepared)
}

/// Samples before anything is fitted: what is learned of them, and which part each is in.
struct Assigned {
    /// Set where several rows make one sample.
    samples: Option<Samples>,
    ids: Vec<u64>,
    target: TargetValues,
    weights: Option<Vec<f32>>,
    parts: Parts,
    split: SplitInfo,
}

fn assign(
    data: &DataPlan,
    task: Task,
    loaded: &Loaded,
    mut violations: Violations,
    steps: &mut Steps,
    warnings: &mut Vec<String>,
) -> Result<Assigned, WireError> {
    let samples = Samples::of(&data.sequence, loaded)?;
    let grouped = samples.as_ref().map(|samples| samples.last_rows(loaded, &split_columns(data)));
    let by_sample = grouped.as_ref().unwrap_or(loaded);
    let target = target::read(&data.target, task, by_sample, &mut violations);
    let weights = weights(by_sample, &mut violations);
    violations.check()?;
    let target = target.ok_or_else(|| WireError::from(Violation::new("has no values").column(&data.target.column)))?;
    if data.split.strategy != SplitStrategy::Time {
        warn_of_small_classes(task, &target, warnings);
    }
    let ids = match &samples {
        Some(samples) => samples.ids.clone(),
        None => row_ids(loaded, &(0..loaded.rows as u32).collect::<Vec<_>>()),
    };
    let (parts, split, of_split) = steps.run(cache::Step::Split, |_| {
        let mut warnings = Vec::new();
        let (parts, info) = split(data, by_sample, &target, &ids, &mut violations, &mut warnings)?;
        Ok((parts, info, warnings))
    })?;
    warnings.extend(of_split);
    target::check_parts(&data.target, &target, &parts.train, &mut violations, warnings);
    if let Some(weights) = &weights
        && parts.train.iter().all(|&row| weights[row as usize] == 0.0)
    {
        violations.add(Violation::new("the sample weights of all rows of train are 0"));
    }
    violations.check()?;
    Ok(Assigned { samples, ids, target, weights, parts, split })
}

impl Assigned {
    /// The rows of a part.
    fn rows_of(&self, split: Split) -> Vec<u32> {
        let part = self.parts.rows(split);
        self.samples.as_ref().map_or_else(|| part.to_vec(), |samples| samples.rows_of(part))
    }

    /// What is to be said of the data's quality; corrected labels are the target from here on.
    fn examine(
        &mut self,
        data: &DataPlan,
        task: Task,
        loaded: &Loaded,
        cancelled: &CancellationToken,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Quality>, WireError> {
        if self.samples.is_some() || !data.quality.enabled {
            return Ok(None);
        }
        let Self { ids, target, parts, .. } = &*self;
        let inputs = quality::Inputs { data, task, loaded, target, parts, ids };
        let (found, changes) = quality::examine(&inputs, cancelled, warnings)?;
        quality::apply(&changes, &mut self.target, &self.parts.train)?;
        Ok(Some(found))
    }

    /// What feeds need to augment rows, and rows that are made up.
    fn augment(
        &mut self,
        plan: &AugmentationPlan,
        roots: &[PathBuf],
        images: &BTreeMap<String, Images>,
        loaded: &mut Loaded,
        fitted: &mut Fitted,
    ) -> Result<(Gathered, Option<Synthetic>), WireError> {
        let Self { target, weights, parts, .. } = self;
        let mut gathered = Gathered::default();
        gathered.synonyms = gathered::synonyms(plan, train_texts(fitted, loaded, &parts.train), roots)?;
        let channels = images.values().next().map_or(0, |images| images.channels as usize);
        let (styles, sources) = gathered::styles(plan, channels, roots)?;
        gathered.styles = styles;
        loaded.sources.extend(sources);
        let whole: Vec<&str> = images.keys().map(String::as_str).collect();
        let Some(made) = smote::extend(plan, &whole, loaded, target, weights.as_mut(), &mut parts.train)? else {
            return Ok((gathered, None));
        };
        for (_, values) in &mut fitted.out_of_fold {
            values.extend(made.bases.iter().map(|&base| values[base as usize]).collect::<Vec<_>>());
        }
        gathered.synthetic = made.records;
        let synthetic = Synthetic {
            method: "smote".into(),
            k_neighbors: plan.smote.k_neighbors,
            rows: gathered.synthetic.len() as u64,
            class_counts: made.class_counts,
        };
        Ok((gathered, Some(synthetic)))
    }
}

fn sequence(data: &DataPlan, samples: Samples) -> (Samples, Sequence) {
    let sequence = Sequence {
        group_column: data.sequence.group_column.clone().unwrap_or_default(),
        order_column: data.sequence.order_column.clone(),
        max_steps: samples.max_steps(),
    };
    (samples, sequence)
}

/// The texts of these rows of the column of words, if there is one.
fn train_texts<'a>(fitted: &Fitted, loaded: &'a Loaded, rows: &'a [u32]) -> impl Iterator<Item = &'a str> {
    let words = fitted.features.iter().find(|feature| matches!(feature.encoding, Encoding::Text { .. }));
    let texts = words.and_then(|feature| match loaded.column(&feature.column) {
        Some((_, Values::Text(texts))) => Some(texts),
        _ => None,
    });
    texts.into_iter().flat_map(|texts| rows.iter().map(|&row| texts.get(row as usize)))
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

/// Ids of rows: of their id column, else their numbers.
fn row_ids(loaded: &Loaded, rows: &[u32]) -> Vec<u64> {
    let ids = loaded.columns.iter().find_map(|values| if let Values::Id(ids) = values { Some(ids) } else { None });
    // A row keeps the number that it has in the files, whichever others are left out.
    let numbered = |row: u32| loaded.row_of.as_ref().map_or(row, |rows| rows[row as usize]);
    rows.iter().map(|&row| ids.map_or(u64::from(numbered(row)), |ids| ids[row as usize])).collect()
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
    pub fn tell(&mut self, warnings: Vec<String>, reports: BTreeMap<String, ArtifactRef>) {
        self.warnings.splice(0..0, warnings);
        self.reports.extend(reports);
    }

    /// What was stored before the data were read.
    pub fn reports(&self) -> &BTreeMap<String, ArtifactRef> {
        &self.reports
    }

    /// Fitted preprocessing, a column each.
    pub fn features(&self) -> &[Feature] {
        &self.fitted.features
    }

    /// Name of each encoded feature.
    pub fn feature_names(&self) -> &[String] {
        &self.fitted.feature_names
    }

    /// The cuts of a part into shards.
    pub fn shards(&self, split: Split) -> Vec<Range<usize>> {
        let rows = self.rows(split);
        let image_bytes: usize = self.images.values().map(Images::size).sum();
        let most = SHARD_BYTES.checked_div(image_bytes).unwrap_or(SHARD_ROWS).clamp(1, SHARD_ROWS);
        (0..rows).step_by(most).map(|first| first..rows.min(first + most)).collect()
    }

    /// What the shards hold beside what was read and split: columns, in order, and how their values are stored.
    pub fn shard_layout(&self) -> String {
        let kind = |feature: &Feature| {
            let encoding = serde_json::to_value(&feature.encoding).unwrap_or_default();
            (feature.column.clone(), encoding["type"].clone())
        };
        let features: Vec<_> = self.fitted.features.iter().map(kind).collect();
        // Values that fitting made for the rows of train stand in its shards too.
        let out_of_fold = self.fitted.out_of_fold.iter().map(|(name, values)| {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_bits().to_le_bytes()).collect();
            (name, blake3::hash(&bytes).to_hex().to_string())
        });
        let out_of_fold: Vec<_> = out_of_fold.collect();
        let stored = format!("{:?}", self.stored_types());
        let layout = (features, self.weights.is_some(), SHARD_ROWS, SHARD_BYTES, out_of_fold, stored);
        let text = serde_json::to_vec(&layout).expect("invariant: a layout serializes");
        blake3::hash(&text).to_hex().to_string()
    }

    /// The scope that it was prepared in, for a thread that makes something of it.
    pub fn enter(&self) -> Option<Entered> {
        self.memory.as_ref().map(Scope::enter)
    }

    /// Some samples of a part: a row each, or, of a sequence, a row a step.
    pub fn table(&self, split: Split, range: Range<usize>) -> Result<Table, WireError> {
        let samples = &self.parts.rows(split)[range];
        let Some((grouped, _)) = &self.samples else {
            return self.rows_table(split, samples, samples, &row_ids(&self.loaded, samples));
        };
        let rows = grouped.rows_of(samples);
        let mut sample_of = Vec::with_capacity(rows.len());
        for &sample in samples {
            sample_of.extend(std::iter::repeat_n(sample, grouped.rows(sample).len()));
        }
        let ids: Vec<u64> = sample_of.iter().map(|&sample| grouped.ids[sample as usize]).collect();
        self.rows_table(split, &rows, &sample_of, &ids)
    }

    /// `samples` says which sample each row belongs to.
    fn rows_table(&self, split: Split, rows: &[u32], samples: &[u32], ids: &[u64]) -> Result<Table, WireError> {
        let mut columns = Vec::with_capacity(self.stored.columns.len());
        for name in &self.stored.columns {
            columns.push((name.clone(), self.stored_column(name, rows)?));
        }
        if split == Split::Train {
            for (name, values) in &self.fitted.out_of_fold {
                columns.push((name.clone(), number_column(values, rows)));
            }
        }
        let pick = |values: &[f32]| samples.iter().map(|&sample| values[sample as usize]).collect::<Vec<f32>>();
        Table::new(ids.to_vec(), columns, pick(&self.target.values), self.weights.as_deref().map(pick))
            .map_err(|e| WireError::new(Code::InternalError, e.to_string()))
    }

    fn stored_column(&self, name: &str, rows: &[u32]) -> Result<ColumnValues, WireError> {
        match self.loaded.column(name).map(|(_, values)| values) {
            Some(Values::Number(numbers)) => match self.images.get(name) {
                Some(images) => image_column(images, numbers, rows),
                None => Ok(number_column(numbers, rows)),
            },
            Some(Values::Category { keys, texts }) => category_column(keys, texts, rows),
            Some(Values::Text(texts)) => {
                Ok(ColumnValues::Text(StringArray::from_iter_values(rows.iter().map(|&row| texts.get(row as usize)))))
            }
            _ => Err(WireError::new(Code::InternalError, format!("feature column {name:?} was not kept"))),
        }
    }

    /// What was found about the quality of the data, where that was asked for.
    pub fn quality(&self) -> Option<&Quality> {
        self.quality.as_ref()
    }

    /// What the split came to, and which part each sample is in, by its id.
    pub fn split_report(&self, data: &DataPlan) -> (SplitReport, Vec<(u64, Split)>) {
        let last: Option<Loaded> =
            self.samples.as_ref().map(|(samples, _)| samples.last_rows(&self.loaded, &split_columns(data)));
        let loaded = last.as_ref().unwrap_or(&self.loaded);
        let column = split_column(data).and_then(|name| loaded.column(name));
        let is_date = column.is_some_and(|(usage, _)| derive::is_date(data, &self.loaded, &usage.name));
        let targets = report::Targets { values: &self.target.values, classes: &self.target.classes };
        let values = column.map(|(_, values)| values);
        let report = report::report(&self.split, &self.parts, loaded.rows, &targets, values, is_date);
        let mut assigned = Vec::with_capacity(loaded.rows);
        for split in Split::ALL {
            let rows = self.parts.rows(split);
            let ids = match &self.samples {
                Some((samples, _)) => rows.iter().map(|&sample| samples.ids[sample as usize]).collect(),
                None => row_ids(&self.loaded, rows),
            };
            assigned.extend(ids.into_iter().map(|id| (id, split)));
        }
        (report, assigned)
    }

    /// The types in which columns lie in shards, where they are not a table's own.
    pub fn stored_types(&self) -> &BTreeMap<String, Stored> {
        &self.stored.types
    }

    /// Encodes these features of rows, one by one where rows are steps.
    pub fn encoder(&self, features: &[Feature]) -> Result<Encoder, WireError> {
        let failed = |e: frame::Error| WireError::new(Code::InternalError, e.to_string());
        Ok(Encoder::of(features, FittedTransform::None, false).map_err(failed)?.deriving(&self.derived))
    }

    /// Standard deviation (ddof 0) of each encoded feature that is a quantity, in train; 0 of the others.
    fn spreads(&self, cancelled: &CancellationToken) -> Result<Vec<f32>, WireError> {
        let failed = |e: frame::Error| WireError::new(Code::InternalError, e.to_string());
        let mut spreads = vec![0.0; self.fitted.feature_names.len()];
        let (mut numbers, mut first) = (Vec::new(), 0);
        for feature in self.fitted.features.iter().filter(|f| matches!(f.encoding, Encoding::Number { .. })) {
            numbers.push(Feature { first, ..feature.clone() });
            first += feature.encoding.width();
        }
        let encoder = self.encoder(&numbers)?;
        // Sum and sum of squares around the first value, which keeps digits.
        let mut sums = vec![(0.0, 0.0, 0.0); first];
        let mut count = 0.0;
        for range in self.shards(Split::Train) {
            alive(cancelled)?;
            let rows = encoder.encode(self.table(Split::Train, range)?.batch()).map_err(failed)?;
            for row in rows.features.chunks_exact(first.max(1)) {
                for (value, (origin, sum, squares)) in row.iter().zip(&mut sums) {
                    if count == 0.0 {
                        *origin = f64::from(*value);
                    }
                    let away = f64::from(*value) - *origin;
                    (*sum, *squares) = (*sum + away, *squares + away * away);
                }
                count += 1.0;
            }
        }
        let whole = self.fitted.features.iter().filter(|f| matches!(f.encoding, Encoding::Number { .. }));
        for (feature, number) in whole.zip(&numbers) {
            let (_, sum, squares) = sums[number.first];
            let mean: f64 = if count > 0.0 { sum / count } else { 0.0 };
            let variance = if count > 0.0 { squares / count - mean * mean } else { 0.0 };
            spreads[feature.first] = variance.max(0.0).sqrt() as f32;
        }
        Ok(spreads)
    }

    /// What feeds need to augment rows; empty where the plan asks for nothing of it.
    pub fn gathered(&self) -> &Gathered {
        &self.gathered
    }

    /// Translations of texts of the training part, once somebody has made them.
    pub fn set_translations(&mut self, translations: BTreeMap<String, String>) {
        self.gathered.translations = translations;
    }

    /// The distinct texts of the training part.
    pub fn train_texts(&self) -> BTreeSet<&str> {
        train_texts(&self.fitted, &self.loaded, &self.parts.train).collect()
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
        augmentation: Option<ArtifactRef>,
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
            derived: self.derived.clone(),
            features: self.fitted.features.clone(),
            feature_names: self.fitted.feature_names.clone(),
            sequence: self.samples.as_ref().map(|(_, sequence)| sequence.clone()),
            pretrained,
            augmentation,
            synthetic: self.synthetic.clone(),
            sample_id: match (&self.samples, id_column) {
                (Some((_, sequence)), _) => SampleIdScheme::Column { column: sequence.group_column.clone() },
                (None, Some((usage, _))) => SampleIdScheme::Column { column: usage.name.clone() },
                (None, None) => SampleIdScheme::RowNumber,
            },
            weighted: self.weights.is_some(),
            split: self.split.clone(),
            parts: parts.collect(),
            quality: None,
            storage: self.stored.report.clone(),
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
