//! What runs: a [`JobPlan`] has every default filled in, everything validated, nothing optional
//! left that a default exists for, and remembers where each value came from.
//!
//! The keys of a job spec are the paths of these fields (`training.optimizer.learning_rate`), plus
//! the aliases of [`crate::spec`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::step::CacheMode;

mod augmentation;
mod checkpoint;
mod collective;
mod features;
mod preprocessing;
mod quality;
mod resources;
mod source;
mod split;
mod validation;

pub use augmentation::{
    AugmentationPlan, Chance, Coin, FeatureAugmentation, FeatureMethod, ImageAugmentation, ImageMethod, MixupPlan,
    SmotePlan, StylePlan, TextAugmentation, TextMethod, WordRange,
};
pub use checkpoint::CheckpointPlan;
pub use collective::{Collective, CollectiveMode};
pub use features::{Aggregate, DatePart, DeriveStep, Downcast, StoragePlan, TimeUnit, WindowUnit, terms};
pub use preprocessing::{
    CategoryEncoding, ColumnFittingPlan, FittingPlan, Impute, Normalize, Outliers, PreprocessingPlan, Scale,
    TargetEncodingPlan, TextCleaning, TextPlan, TokenizerType,
};
pub use quality::{OutlierMethod, QualityCheck, QualityPlan};
pub use resources::{ResourcePlan, StragglerPolicy};
pub use source::{ColumnSourcePlan, JoinKind, JoinPlan, TextEncoding};
pub use split::{FoldPlan, Gap, SplitBy, SplitPlan, SplitStrategy};
pub use validation::{OnViolation, ValidationPlan};

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "origin", rename_all = "snake_case")]
pub enum Origin {
    Default,
    BaseConfig {
        file: String,
        line: u32,
    },
    File {
        file: String,
        line: u32,
    },
    /// The spec's `overrides`.
    Override {
        #[serde(default)]
        file: String,
        line: u32,
    },
    /// `--set`.
    Set,
    Trial,
}

/// Kind of a spec. Only `job` runs in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Job,
    Sweep,
    Evaluation,
    Gates,
    Experiment,
}

/// What the model learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    Regression,
    BinaryClassification,
    Multiclass,
}

impl Task {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regression => "regression",
            Self::BinaryClassification => "binary_classification",
            Self::Multiclass => "multiclass",
        }
    }
}

/// A job, ready to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct JobPlan {
    pub schema: u16,
    pub kind: Kind,
    pub name: String,
    pub description: String,
    pub seed: u64,
    pub task: Task,
    pub data: DataPlan,
    pub model: ModelPlan,
    pub training: TrainingPlan,
    pub evaluation: EvaluationPlan,
    pub tracking: TrackingPlan,
    pub notifications: NotificationPlan,
    pub resources: ResourcePlan,
    pub limits: LimitPlan,
    /// Origin of each value by its path.
    pub origins: BTreeMap<String, Origin>,
    /// Accepted and worth saying: "accepted, no effect because …".
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DataPlan {
    /// Free label, such as `2023Q1`.
    pub dataset_version: String,
    /// Files of one table, in order; relative to the data roots. All of it is split, or, with
    /// `test_path`, this is train and val.
    pub path: Vec<String>,
    /// The official test part, if the data come with one.
    pub test_path: Vec<String>,
    pub format: DataFormat,
    pub csv: CsvPlan,
    pub target: TargetPlan,
    /// Column whose value identifies a sample; without one, the row's number does.
    pub id_column: Option<String>,
    /// Column of sample weights; not a feature.
    pub weight_column: Option<String>,
    /// Only these columns are features; empty: all but target, id, weight and excluded.
    pub include: Vec<String>,
    /// Columns that are not features: leaks, identifiers.
    pub exclude: Vec<String>,
    /// Declared types and treatment by column; the rest is inferred.
    pub columns: BTreeMap<String, ColumnPlan>,
    /// Columns made of others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub derive: Vec<DeriveStep>,
    pub preprocessing: PreprocessingPlan,
    #[serde(default)]
    pub text: TextPlan,
    #[serde(default)]
    pub sequence: SequencePlan,
    /// Tables that are joined to this one, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joins: Vec<JoinPlan>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub validation: ValidationPlan,
    pub split: SplitPlan,
    #[serde(default, skip_serializing_if = "is_default")]
    pub quality: QualityPlan,
    #[serde(default, skip_serializing_if = "is_default")]
    pub storage: StoragePlan,
    pub shuffle: bool,
    pub shuffle_seed: u64,
    /// MB (10^6 bytes) of encoded rows that are shuffled together.
    #[serde(default = "default_shuffle_window_mb", skip_serializing_if = "is_default_shuffle_window")]
    pub shuffle_window_mb: u32,
    pub drop_last: bool,
    /// What happens to rows of the training part on their way to the trainer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<AugmentationPlan>,
    /// How preparing the data uses the step cache; never changes the result.
    #[serde(default)]
    pub cache: CacheMode,
}

/// `data.shuffle_window_mb` of plans that do not say it.
pub const DEFAULT_SHUFFLE_WINDOW_MB: u32 = 1_000;

pub(crate) fn default_shuffle_window_mb() -> u32 {
    DEFAULT_SHUFFLE_WINDOW_MB
}

// Serde hands a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_default_shuffle_window(megabytes: &u32) -> bool {
    *megabytes == DEFAULT_SHUFFLE_WINDOW_MB
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DataFormat {
    /// By the file's suffix.
    Auto,
    Csv,
    /// CSV between tabs.
    Tsv,
    Parquet,
    /// One JSON object a line.
    JsonLines,
    /// Arrow IPC, as a file or a stream.
    Arrow,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CsvPlan {
    /// One character.
    pub delimiter: String,
    /// One character.
    pub quote: String,
    pub header: bool,
    /// Lines that begin with this character are skipped; empty: none are.
    pub comment: String,
    /// Blanks around fields and column names are cut off.
    pub trim: bool,
    /// One character, `.` or `,`.
    pub decimal: String,
    /// Texts that mean missing.
    pub null_values: Vec<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub encoding: TextEncoding,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetPlan {
    pub column: String,
    /// Binary: the text of the positive class; empty: `1`/`true`/`yes`, or the later of two in sorted order.
    pub positive: String,
    /// Cut off the end of a class's text, as the `.` of adult.test.
    pub strip_suffix: String,
    pub transform: TargetTransform,
    /// Binary from a number: positive above this.
    pub threshold: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TargetTransform {
    None,
    /// Regression: learn `ln(1 + y)`; predictions are transformed back before metrics.
    Log1p,
    /// Regression: learn `(y - mean) / std`, fitted on train; transformed back before metrics.
    Standard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// Inferred from the values.
    Auto,
    /// A quantity: imputed and scaled.
    Number,
    /// One of a set of texts or codes: one-hot, or an embedding.
    Category,
    /// Words: tokens of a text encoder.
    Text,
    /// The number of an image in the file `images`; or the path of an image file, or its bytes.
    Image,
    /// A date or a time: seconds since the epoch, whose parts are features.
    Datetime,
}

/// Treatment of one column; what is not set follows `preprocessing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ColumnPlan {
    pub r#type: ColumnType,
    /// Texts that mean missing in this column, beside `csv.null_values`.
    pub null_values: Vec<String>,
    pub impute: Option<Impute>,
    pub scale: Option<Scale>,
    /// Of an image column: the IDX file (also `.gz`) that its whole numbers, from 0, point into.
    #[serde(default)]
    pub images: Option<String>,
    #[serde(flatten)]
    pub source: ColumnSourcePlan,
    #[serde(flatten)]
    pub fitting: ColumnFittingPlan,
}

/// Rows that belong together are one sample: a sequence of steps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SequencePlan {
    /// Rows with the same value are one sample. Target, weight and what the split goes by are those of its last row.
    pub group_column: Option<String>,
    /// Steps stand in rising order of this; without it, in the order of the rows.
    pub order_column: Option<String>,
}
/// The model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelPlan {
    #[serde(flatten)]
    pub architecture: Architecture,
    pub initialization: Initialization,
    pub initialization_seed: u64,
    pub dropout_seed: u64,
    /// How many classes the author expects; checked against the data.
    #[serde(default)]
    pub num_classes: Option<u32>,
}

/// What is particular to a type of model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Architecture {
    Mlp(MlpPlan),
    Tabular(TabularPlan),
    TransformerClassifier(TransformerPlan),
    ImageClassifier(ImagePlan),
    LstmSequence(LstmPlan),
    AdScore(Box<AdScorePlan>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MlpPlan {
    pub hidden_layers: Vec<u32>,
    pub activation: Activation,
    pub dropout: f64,
    pub normalization: Normalization,
}

/// Numbers, and categories with embeddings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TabularPlan {
    pub hidden_layers: Vec<u32>,
    pub activation: Activation,
    pub dropout: f64,
    /// Width of each embedding; without one half the categories, at most 50.
    pub embedding_dim: Option<u32>,
}

/// A transformer over one text column, pooled, and a head. With `data.text.pretrained` the sizes are those of the
/// pretrained encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TransformerPlan {
    pub hidden_size: Option<u32>,
    pub num_layers: Option<u32>,
    pub num_heads: Option<u32>,
    pub intermediate_size: Option<u32>,
    pub activation: Activation,
    pub dropout: f64,
    pub pooling: Pooling,
    /// Of the head.
    pub hidden_layers: Vec<u32>,
}

/// Convolutions over one image column, pooled, and a head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImagePlan {
    /// Channels of each convolution.
    pub filters: Vec<u32>,
    pub kernel: u32,
    pub stride: u32,
    pub padding: u32,
    pub activation: Activation,
    pub normalization: Normalization,
    pub pooling: Pooling,
    /// Of the head.
    pub hidden_layers: Vec<u32>,
    pub dropout: f64,
}

/// LSTM layers over sequences (`data.sequence`), pooled, and a head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LstmPlan {
    pub hidden_size: u32,
    pub num_layers: u32,
    pub bidirectional: bool,
    pub dropout: f64,
    pub pooling: Pooling,
    /// Of the head.
    pub hidden_layers: Vec<u32>,
}

/// Text, image and table, each with an encoder, joined, and a head. A branch is there where the data have columns
/// for it and its type is not none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AdScorePlan {
    pub text_encoder: TextEncoderPlan,
    pub visual_encoder: VisualEncoderPlan,
    pub tabular_encoder: TabularEncoderPlan,
    pub fusion: FusionPlan,
    pub head: HeadPlan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextEncoderType {
    Transformer,
    None,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TextEncoderPlan {
    pub r#type: TextEncoderType,
    /// As in [`TransformerPlan`].
    pub hidden_size: Option<u32>,
    pub num_layers: Option<u32>,
    pub num_heads: Option<u32>,
    pub intermediate_size: Option<u32>,
    pub dropout: f64,
    pub pooling: Pooling,
    pub output_dim: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VisualEncoderType {
    Convolutional,
    None,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VisualEncoderPlan {
    pub r#type: VisualEncoderType,
    pub filters: Vec<u32>,
    pub kernel: u32,
    pub stride: u32,
    pub padding: u32,
    pub normalization: Normalization,
    pub pooling: Pooling,
    pub output_dim: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TabularEncoderType {
    Mlp,
    None,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TabularEncoderPlan {
    pub r#type: TabularEncoderType,
    pub hidden_layers: Vec<u32>,
    pub dropout: f64,
    /// As in [`TabularPlan`].
    pub embedding_dim: Option<u32>,
    pub output_dim: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FusionType {
    /// Side by side, then a hidden layer.
    Concat,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FusionPlan {
    pub r#type: FusionType,
    pub hidden_dim: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HeadPlan {
    pub hidden_layers: Vec<u32>,
    pub dropout: f64,
}

/// How the items of a sample (tokens, steps, pixels) become one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first item: the class token.
    Cls,
    Last,
    Mean,
    Max,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Relu,
    Gelu,
    GeluTanh,
    Sigmoid,
    Tanh,
    Silu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalization {
    None,
    LayerNorm,
    BatchNorm,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Initialization {
    Normal {
        mean: f64,
        std: f64,
    },
    TruncatedNormal {
        mean: f64,
        std: f64,
    },
    XavierUniform,
    XavierNormal,
    KaimingUniform,
    KaimingNormal,
    /// As the field's usual layers begin: uniform within 1 / sqrt(inputs), biases too; tokens normal with 0.02.
    Standard,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrainingPlan {
    pub epochs: u32,
    /// Rows of a global batch: one optimizer step (times `accumulation_steps`), whatever the world size.
    pub batch_size: u32,
    pub loss: Loss,
    /// Binary: weight of the positive class in the loss.
    pub positive_weight: f64,
    /// Multiclass: smoothing of the one-hot targets.
    pub label_smoothing: f64,
    #[serde(default)]
    pub class_weights: ClassWeights,
    /// Huber: errors up to this count squared.
    #[serde(default = "one")]
    pub huber_delta: f64,
    pub optimizer: OptimizerPlan,
    pub scheduler: SchedulerPlan,
    /// Largest global gradient norm; 0: not clipped.
    pub clip_grad_norm: f64,
    /// Largest absolute gradient value; 0: not clipped.
    pub clip_grad_value: f64,
    pub accumulation_steps: u32,
    pub early_stopping: Option<EarlyStoppingPlan>,
    /// Fixed cut of a global batch; part of the plan's hash, never changed by the world size.
    pub logical_shards: u32,
    pub checkpoint: CheckpointPlan,
    /// Steps between two progress events.
    pub log_interval: u32,
    pub precision: Precision,
    #[serde(default)]
    pub loss_scale: LossScalePlan,
    #[serde(default)]
    pub ema: EmaPlan,
}

fn one() -> f64 {
    1.0
}

/// Multiclass: weight of each class in the loss.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClassWeights {
    #[default]
    None,
    /// Rows / (classes * rows of the class), of train.
    Balanced,
}

/// Dynamic loss scaling of f16.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LossScalePlan {
    pub initial_scale: f64,
    pub growth_factor: f64,
    pub backoff_factor: f64,
    pub growth_interval: u32,
}

impl Default for LossScalePlan {
    fn default() -> Self {
        Self { initial_scale: 65_536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 }
    }
}

/// An exponential average of the weights, which is what is validated and announced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EmaPlan {
    /// 0: no average is kept.
    pub decay: f64,
    /// After step t the decay is at most (1 + t) / (10 + t).
    pub warmup: bool,
}

impl Default for EmaPlan {
    fn default() -> Self {
        Self { decay: 0.0, warmup: true }
    }
}

/// Parameters that are treated apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ParameterGroupPlan {
    /// Names of parameters; `*` stands for any run of characters. The first group that fits counts.
    pub pattern: String,
    /// Times the scheduled learning rate; 0 freezes.
    pub learning_rate_multiplier: f64,
    /// In place of the optimizer's, also for biases and norms.
    #[serde(default)]
    pub weight_decay: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    Mse,
    Mae,
    Huber,
    BceWithLogits,
    CrossEntropy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    F32,
    /// Weights and gradients of 16 bits beside f32 master weights.
    Bf16,
    /// The same with a loss scale that adapts itself.
    F16,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OptimizerPlan {
    pub r#type: OptimizerType,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    /// SGD only.
    pub momentum: f64,
    /// SGD only.
    #[serde(default)]
    pub nesterov: bool,
    /// Biases and norms are never decayed, unless a group says so.
    #[serde(default)]
    pub groups: Vec<ParameterGroupPlan>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerType {
    Adamw,
    Adam,
    Sgd,
    Lamb,
}

/// Learning-rate schedule. Lengths in epochs unless the name says steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SchedulerPlan {
    Constant,
    CosineAnnealing {
        #[serde(rename = "T_max")]
        t_max: u32,
        eta_min: f64,
    },
    LinearWarmup {
        warmup_steps: u32,
        start_factor: f64,
    },
    WarmupCosine {
        warmup_steps: u32,
        start_factor: f64,
        eta_min: f64,
    },
    ReduceOnPlateau {
        factor: f64,
        patience: u32,
        threshold: f64,
        cooldown: u32,
        min_lr: f64,
    },
    Step {
        step_size: u32,
        gamma: f64,
    },
    OneCycle {
        max_lr: f64,
        pct_start: f64,
        div_factor: f64,
        final_div_factor: f64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Min,
    Max,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EarlyStoppingPlan {
    pub monitor: String,
    pub patience: u32,
    pub min_delta: f64,
    pub mode: Mode,
    /// The model that is announced is the best by `monitor`, not the last.
    pub restore_best: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EvaluationPlan {
    /// Names of `kernels::metrics`; empty in a spec means the task's default ones.
    pub metrics: Vec<String>,
    pub primary_metric: String,
    /// Binary: positive at or above this probability.
    pub threshold: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TrackingPlan {
    pub experiment: String,
    pub tags: BTreeMap<String, String>,
    /// Patterns of plan paths to record, such as `training.optimizer.*`; empty: all.
    pub parameters: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NotificationPlan {
    pub webhooks: Vec<WebhookPlan>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WebhookPlan {
    /// `http(s)://`; the host must be allowed by the notifier's configuration.
    pub url: String,
    /// Names of terminal events: completed, failed, cancelled.
    pub events: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LimitPlan {
    /// From acceptance to the end of the job.
    pub deadline_s: u64,
    /// How often a task is tried.
    pub max_attempts: u32,
}

impl JobPlan {
    /// BLAKE3 of what is to be done: canonical JSON without names, origins and warnings. Two specs
    /// with the same hash do the same.
    pub fn content_blake3(&self) -> String {
        let mut value = serde_json::to_value(self).expect("invariant: a plan serializes");
        if let Some(map) = value.as_object_mut() {
            for key in
                ["origins", "warnings", "name", "description", "notifications", "tracking", "limits", "resources"]
            {
                map.remove(key);
            }
        }
        if let Some(data) = value.get_mut("data").and_then(serde_json::Value::as_object_mut) {
            data.remove("cache");
        }
        blake3::hash(value.to_string().as_bytes()).to_hex().to_string()
    }
}
