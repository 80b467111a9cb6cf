//! The manifest of a dataset version: what it was made of, what its columns hold, how it is split, where
//! its shards lie, and the preprocessing fitted on its train part. Stored as JSON, kind [`ARTIFACT_KIND`],
//! name [`ARTIFACT_NAME`]; a reader needs nothing else to encode rows and to invert predictions.

use messages::ArtifactRef;
use messages::feed::Split;
use messages::plan::{SplitBy, SplitStrategy, Task};
use serde::{Deserialize, Serialize};

use crate::derive::Step;
use crate::error::Error;
use crate::feed_frame::row_bytes;
pub use crate::inference::Inference;
pub use crate::scale::{FittedScale, FittedTransform};

/// Kind under which shards and manifests are stored.
pub const ARTIFACT_KIND: &str = "dataset";
/// Name under which the manifest is stored.
pub const ARTIFACT_NAME: &str = "manifest.json";
/// Version of this schema. Readers accept this one and the previous one.
pub const MANIFEST_VERSION: u16 = 2;
/// Largest manifest that a reader accepts, in bytes.
pub const MAX_MANIFEST_BYTES: usize = 256 * 1024 * 1024;
/// Most encoded features of a row.
pub const MAX_FEATURES: usize = 1_000_000;
/// Names that begin so are the table's own, not the data's.
pub const RESERVED_PREFIX: &str = "within.";
/// Text of the feature into which rare categories fall.
pub const OTHER: &str = "<other>";
/// Text of a missing-value indicator.
pub const MISSING: &str = "<missing>";

/// A dataset version.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub schema: u16,
    /// The plan's free label.
    pub dataset_version: String,
    pub lineage: Lineage,
    /// Files in reading order.
    pub sources: Vec<Source>,
    /// Columns in the order of the files.
    pub columns: Vec<Column>,
    pub target: Target,
    /// Columns made of others before anything is encoded, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub derived: Vec<Step>,
    /// Fitted preprocessing, in the order of the encoded features.
    pub features: Vec<Feature>,
    /// Name of each encoded feature.
    pub feature_names: Vec<String>,
    /// Set where several rows make one sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<Sequence>,
    /// The encoder that a model begins with, where the plan names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<Pretrained>,
    /// What feeds need to augment rows of the training part, where the plan asks for it: synonyms, translations,
    /// colors, spreads, as the data_loader writes and reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<ArtifactRef>,
    /// Rows of the training part that were made up, and lie behind the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic: Option<Synthetic>,
    pub sample_id: SampleIdScheme,
    /// Whether rows carry weights.
    pub weighted: bool,
    pub split: SplitInfo,
    /// Train, val, test.
    pub parts: Vec<Part>,
    /// Set where the quality of the data was examined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
    /// What smaller types in shards save, where the plan asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<StorageReport>,
    pub warnings: Vec<String>,
    /// Why each column that is read has its type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inference: Vec<Inference>,
}

/// What an examination of the data's quality left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// What was found, by sample id.
    pub report: ArtifactRef,
    /// Labels that were changed: the targets of the shards are the corrected ones.
    pub corrected: u64,
    /// Each of them with what it was, one JSON object a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrections: Option<ArtifactRef>,
}

/// What the dataset version follows from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// BLAKE3 of the settings that it follows from; in manifests of version 1, of the whole plan.
    #[serde(alias = "plan_blake3")]
    pub settings_blake3: String,
    /// `version+commit` of the code that prepared it.
    pub code_version: String,
    /// What it was derived from beside its files: other dataset versions, rows in quarantine, corrections.
    #[serde(default)]
    pub parents: Vec<ArtifactRef>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As in the plan.
    pub path: String,
    /// BLAKE3 of its bytes.
    pub blake3: String,
    pub size_bytes: u64,
    pub rows: u64,
    /// Whether it is of the official test part.
    pub test: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnKind {
    Number,
    Category,
    Text,
    /// Read past: not a feature, and not target, id or weight either.
    Dropped,
}

/// What a column is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ColumnRole {
    Feature,
    Target,
    SampleId,
    Weight,
    /// Named by the split (group, time, strata) and not a feature.
    Split,
    /// Says which rows make one sample, or in which order.
    Sequence,
    /// Derived columns are made of it, and it is not a feature itself.
    Input,
    None,
}

/// One column of the files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub r#type: ColumnKind,
    pub role: ColumnRole,
    /// Of the train part; none for a dropped column.
    pub statistics: Option<Statistics>,
    /// Categories by falling count, then by text; at most [`MAX_LISTED_CATEGORIES`].
    #[serde(default)]
    pub categories: Vec<CategoryCount>,
}

/// Most categories that a manifest lists of one column; `distinct` counts all.
pub const MAX_LISTED_CATEGORIES: usize = 1_000;

/// Of one column's values in train, in row order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    /// Values that are there.
    pub count: u64,
    pub missing: u64,
    pub distinct: u64,
    /// Numbers only; none when no value is there.
    pub mean: Option<f64>,
    /// ddof 0.
    pub std: Option<f64>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub median: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CategoryCount {
    pub value: String,
    pub count: u64,
}

/// What is learned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub task: Task,
    pub column: String,
    /// Class texts by class index; binary: the negative, then the positive one. Empty for regression.
    pub classes: Vec<String>,
    /// Applied to what the model learns; inverted in [`Manifest::invert_target`].
    pub transform: FittedTransform,
    /// Regression: mean of the untransformed target in train. Binary: share of the positive class.
    /// Multiclass: 0. The mean baseline answers this.
    pub train_mean: f64,
    /// Share of each class in train; empty for regression.
    pub train_priors: Vec<f64>,
}

/// The encoded features of one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    pub column: String,
    /// Index of its first encoded feature.
    pub first: usize,
    pub encoding: Encoding,
}

/// How rows make samples. Counts of rows elsewhere in a manifest are then of samples; a shard holds the steps of
/// a sample behind each other, all with its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sequence {
    pub group_column: String,
    pub order_column: Option<String>,
    /// Steps of the longest sample.
    pub max_steps: u32,
}

/// Rows that were made up; which ones of which is recorded beside what augmentation needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Synthetic {
    /// `smote`.
    pub method: String,
    pub k_neighbors: u32,
    pub rows: u64,
    /// Rows of each class.
    pub class_counts: Vec<u64>,
}

/// A pretrained encoder: what its folder held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pretrained {
    /// As in the plan.
    pub path: String,
    /// Its `config.json`.
    pub config: String,
    /// Its `model.safetensors`.
    pub weights: ArtifactRef,
}

/// How a column is encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Encoding {
    /// The value (or, where it is missing, `impute`), scaled; then the indicator, if there is one.
    Number {
        impute: f64,
        missing_indicator: bool,
        scale: FittedScale,
        /// Bound of standardized values; 0: none.
        clip: f64,
    },
    /// One feature a category, in text order, then one for all others if rare categories were folded.
    /// A missing value is all zeros; so is an unseen category where nothing was folded.
    OneHot { categories: Vec<String>, other: bool },
    /// An index: 0 for missing, unseen and folded ones, then the categories from 1 in text order.
    Index { categories: Vec<String> },
    /// The place in this order, from 0; -1 for missing, unseen and folded ones. Then scaled.
    Ordinal { categories: Vec<String>, scale: FittedScale, clip: f64 },
    /// 1 or -1 in the feature that the text's hash names ([`crate::hash`]); all zeros for a missing one.
    Hashing { buckets: u32 },
    /// Mean target of the category in train, one feature for each output; then scaled. Rows of train bring values
    /// of their own, in columns named by [`out_of_fold`]: each is encoded by the means of other rows.
    Target { categories: Vec<String>, outputs: Vec<TargetMeans>, clip: f64 },
    /// The category's share of train, 0 for missing and unseen ones; then scaled.
    Frequency { categories: Vec<String>, shares: Vec<f64>, scale: FittedScale, clip: f64 },
    /// Token ids by this tokenizer (`kernels::text::Tokenizer` as text). A missing text is an empty one.
    Text { tokenizer: String, max_length: u32, vocab_size: u32 },
    /// Pixels of one byte, 0 to 255.
    Image { channels: u32, height: u32, width: u32 },
}

/// Mean targets of one output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetMeans {
    /// The class whose share it is; none for a number and for the positive of two classes.
    pub class: Option<String>,
    /// Of each category.
    pub means: Vec<f64>,
    /// Of rows where the category is missing.
    pub missing: f64,
    /// Of all rows: for a category that train does not know.
    pub prior: f64,
    pub scale: FittedScale,
}

/// The column of a shard that holds a target encoding's own values for rows of train.
pub fn out_of_fold(column: &str, output: usize) -> String {
    format!("{RESERVED_PREFIX}out_of_fold.{output}.{column}")
}

impl Encoding {
    /// How many encoded features it makes.
    pub fn width(&self) -> usize {
        match self {
            Self::Number { missing_indicator, .. } => 1 + usize::from(*missing_indicator),
            Self::OneHot { categories, other } => categories.len() + usize::from(*other),
            Self::Ordinal { .. } | Self::Frequency { .. } => 1,
            Self::Hashing { buckets } => *buckets as usize,
            Self::Target { outputs, .. } => outputs.len(),
            Self::Index { .. } | Self::Text { .. } | Self::Image { .. } => 0,
        }
    }

    /// Names of its encoded features.
    pub fn names(&self, column: &str) -> Vec<String> {
        match self {
            Self::Number { missing_indicator, .. } => {
                let mut names = vec![column.to_owned()];
                if *missing_indicator {
                    names.push(format!("{column}={MISSING}"));
                }
                names
            }
            Self::OneHot { categories, other } => {
                let mut names: Vec<_> = categories.iter().map(|c| format!("{column}={c}")).collect();
                if *other {
                    names.push(format!("{column}={OTHER}"));
                }
                names
            }
            Self::Ordinal { .. } => vec![column.to_owned()],
            Self::Frequency { .. } => vec![format!("{column}=<frequency>")],
            Self::Hashing { buckets } => (0..*buckets).map(|bucket| format!("{column}=<hash {bucket}>")).collect(),
            Self::Target { outputs, .. } => {
                let name = |means: &TargetMeans| match &means.class {
                    Some(class) => format!("{column}=<target {class}>"),
                    None => format!("{column}=<target>"),
                };
                outputs.iter().map(name).collect()
            }
            Self::Index { .. } | Self::Text { .. } | Self::Image { .. } => Vec::new(),
        }
    }

    /// Bytes that one row of it takes beside flat features, at most.
    fn row_bytes(&self) -> usize {
        match self {
            Self::Number { .. }
            | Self::OneHot { .. }
            | Self::Ordinal { .. }
            | Self::Hashing { .. }
            | Self::Target { .. }
            | Self::Frequency { .. } => 0,
            Self::Index { .. } => 4,
            Self::Text { max_length, .. } => 4 + 4 * *max_length as usize,
            Self::Image { channels, height, width } => {
                (*channels as usize).saturating_mul(*height as usize).saturating_mul(*width as usize)
            }
        }
    }
}

/// What names a sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "scheme", rename_all = "snake_case")]
pub enum SampleIdScheme {
    /// Row number from 0 over all files, first train and val's, then test's.
    RowNumber,
    /// First 8 bytes, little-endian, of the BLAKE3 of the column's text.
    Column { column: String },
}

/// How rows were split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SplitInfo {
    pub strategy: SplitStrategy,
    pub test_size: f64,
    pub val_size: f64,
    pub random_state: u64,
    /// The column that strata, groups or times came from.
    pub column: Option<String>,
    /// Whether the test part came with the data.
    pub official_test: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub by: SplitBy,
    /// Set where one of several folds is held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<Fold>,
    /// Which draw of the same split, from 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub repeat: u32,
    /// As in the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<String>,
    /// Rows that are in no part: in a gap, or after the fold of a time split.
    #[serde(default, skip_serializing_if = "is_default")]
    pub left_out: u64,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One fold of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fold {
    pub count: u32,
    /// From 0.
    pub index: u32,
}

/// Bytes of shards' columns as f64 and plain texts, and as they are stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageReport {
    pub columns: Vec<StoredColumn>,
    pub bytes_before: u64,
    pub bytes_after: u64,
    pub bytes_saved: u64,
}

/// One column in shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredColumn {
    pub name: String,
    pub stored: crate::shard::Stored,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// One part of the split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub split: Split,
    pub rows: u64,
    /// Rows of each class; empty for regression.
    pub class_counts: Vec<u64>,
    /// In row order.
    pub shards: Vec<Shard>,
}

/// One file of rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    pub artifact: ArtifactRef,
    pub rows: u64,
}

/// Writes a value; of references to artifacts, all but where they lie.
fn canonical(value: &serde_json::Value, out: &mut String) {
    use serde_json::Value;
    match value {
        Value::Object(members) => {
            let is_reference = members.contains_key("blake3") && members.contains_key("size_bytes");
            let mut names: Vec<&String> = members.keys().filter(|name| !(is_reference && *name == "uri")).collect();
            names.sort_unstable();
            out.push('{');
            for (index, name) in names.into_iter().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                out.push_str(&format!("{comma}{}:", Value::from(name.as_str())));
                canonical(&members[name], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

impl Manifest {
    /// The bytes to store, with the [`Self::id`]; the same manifest gives the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Stored<'a> {
            id: String,
            #[serde(flatten)]
            manifest: &'a Manifest,
        }
        let stored = Stored { id: self.id(), manifest: self };
        serde_json::to_vec_pretty(&stored).expect("invariant: a manifest serializes")
    }

    /// Identity of the dataset version: BLAKE3 of its content as JSON without blanks, members in the order of their
    /// names. Neither the free label nor where its artifacts lie is part of it: the same files, settings and code give
    /// the same id in every store.
    pub fn id(&self) -> String {
        let mut content = serde_json::to_value(self).expect("invariant: a manifest serializes");
        if let Some(members) = content.as_object_mut() {
            members.remove("dataset_version");
        }
        let mut text = String::new();
        canonical(&content, &mut text);
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    /// Reads a manifest, bounded in size, and checks that its parts agree.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(Error::malformed(format!(
                "manifest of {} bytes: expected at most {MAX_MANIFEST_BYTES}",
                bytes.len()
            )));
        }
        #[derive(Deserialize)]
        struct Head {
            schema: u16,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| Error::malformed(format!("not a manifest: {e}")))?;
        if !(MANIFEST_VERSION.saturating_sub(1)..=MANIFEST_VERSION).contains(&head.schema) {
            return Err(Error::version(format!(
                "manifest of schema version {}: this reader knows up to {MANIFEST_VERSION}",
                head.schema
            )));
        }
        let manifest: Self =
            serde_json::from_slice(bytes).map_err(|e| Error::malformed(format!("not a manifest: {e}")))?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Number of encoded features of a row.
    pub fn width(&self) -> usize {
        self.feature_names.len()
    }

    /// Largest size of an encoded row (of a sequence: all its steps) in a frame, in bytes.
    pub fn row_bytes(&self) -> usize {
        let steps = self.sequence.as_ref().map_or(1, |sequence| sequence.max_steps.max(1) as usize);
        let flat = self.width().saturating_mul(steps);
        let normalized = |column: &str| {
            self.derived.iter().any(|step| matches!(step, Step::NormalizeImage { column: own, .. } if own == column))
        };
        // Normalized pixels are floats.
        let bytes = |f: &Feature| f.encoding.row_bytes().saturating_mul(if normalized(&f.column) { 4 } else { 1 });
        let inputs: usize = self.features.iter().map(bytes).sum();
        // Offsets of steps beside them.
        row_bytes(flat, self.weighted).saturating_add(inputs).saturating_add(4)
    }

    /// Number of outputs that a model for this target has.
    pub fn outputs(&self) -> usize {
        match self.target.task {
            Task::Regression | Task::BinaryClassification => 1,
            Task::Multiclass => self.target.classes.len(),
        }
    }

    /// A part; a manifest has all three.
    pub fn part(&self, split: Split) -> Option<&Part> {
        self.parts.iter().find(|part| part.split == split)
    }

    pub fn rows(&self, split: Split) -> u64 {
        self.part(split).map_or(0, |part| part.rows)
    }

    /// Turns a regression model's outputs into values of the target column, in place.
    pub fn invert_target(&self, outputs: &mut [f32]) {
        if self.target.transform != FittedTransform::None {
            for value in outputs {
                *value = self.target.transform.invert(f64::from(*value)) as f32;
            }
        }
    }

    /// At most one text and one image; steps hold nothing but flat features.
    fn check_inputs(&self) -> Result<(), Error> {
        let count = |wanted: fn(&Encoding) -> bool| self.features.iter().filter(|f| wanted(&f.encoding)).count();
        let texts = count(|e| matches!(e, Encoding::Text { .. }));
        let images = count(|e| matches!(e, Encoding::Image { .. }));
        let indices = count(|e| matches!(e, Encoding::Index { .. }));
        if texts > 1 || images > 1 {
            let found = format!("{texts} text and {images} image columns");
            return Err(Error::malformed(format!("manifest: {found}, expected at most one of each")));
        }
        if self.sequence.is_some() && texts + images + indices > 0 {
            return Err(Error::malformed("manifest: a sequence with texts, images or indices"));
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        let mut names = Vec::new();
        for feature in &self.features {
            if feature.first != names.len() {
                return Err(Error::malformed(format!(
                    "manifest: feature column {:?} begins at {}, expected {}",
                    feature.column,
                    feature.first,
                    names.len()
                )));
            }
            names.extend(feature.encoding.names(&feature.column));
        }
        self.check_inputs()?;
        if names != self.feature_names {
            return Err(Error::malformed("manifest: feature_names are not those of its features"));
        }
        if names.len() > MAX_FEATURES {
            return Err(Error::malformed(format!(
                "manifest: {} features, expected at most {MAX_FEATURES}",
                names.len()
            )));
        }
        for split in Split::ALL {
            let part =
                self.part(split).ok_or_else(|| Error::malformed(format!("manifest: no {} part", split.as_str())))?;
            let rows = part.shards.iter().fold(0u64, |sum, shard| sum.saturating_add(shard.rows));
            if rows != part.rows {
                return Err(Error::malformed(format!(
                    "manifest: the {} part has {} rows but its shards {rows}",
                    split.as_str(),
                    part.rows
                )));
            }
        }
        Ok(())
    }
}
