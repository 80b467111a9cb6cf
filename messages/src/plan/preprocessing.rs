//! Fitted preprocessing: `data.preprocessing`, `data.text` and a column's own treatment.
//!
//! What came later is left out of a serialized plan where it is the default: the plan of a job that asks for
//! none of it keeps its hash.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DatePart, is_default};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Impute {
    Mean,
    Median,
    /// The most frequent value, of several the least.
    Mode,
    Zero,
    /// `impute_value`.
    Constant,
    /// Missing values fail the job.
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    None,
    /// `(x - mean) / std`, ddof 0, fitted on train.
    Standard,
    /// To 0..1, fitted on train.
    MinMax,
    /// `sign(x) ln(1 + |x|)`, then standard: for heavy tails.
    Log1p,
    /// `(x - median) / (third quartile - first)`, fitted on train.
    Robust,
    /// The share of train below, 0..1.
    Quantile,
    /// That share as a normal variate.
    QuantileNormal,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PreprocessingPlan {
    pub impute: Impute,
    /// A further 0/1 feature for each number column that has missing values in train.
    pub missing_indicator: bool,
    pub scale: Scale,
    /// Standardized numbers are clipped to +- this; 0: not at all.
    pub clip: f64,
    /// Categories of train with fewer rows fall together into one.
    pub min_frequency: u32,
    /// Most categories of one column; the rarest beyond fall together.
    pub max_categories: u32,
    #[serde(default)]
    pub categories: CategoryEncoding,
    #[serde(flatten)]
    pub fitting: FittingPlan,
}

/// What a category's mean target is fitted by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TargetEncodingPlan {
    /// A row of train is encoded by the means of the other folds.
    pub folds: u32,
    /// Rows of the whole mean that are mixed into each category's; none: by the variances (empirical Bayes).
    #[serde(default)]
    pub smoothing: Option<f64>,
}

impl Default for TargetEncodingPlan {
    fn default() -> Self {
        Self { folds: 5, smoothing: None }
    }
}

/// What a category becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CategoryEncoding {
    /// A 0/1 feature for each category.
    #[default]
    OneHot,
    /// An index, which the model embeds.
    Embedding,
    /// The place in an order, scaled; -1 for what is not in it.
    Ordinal,
    /// 1 or -1 in one of so many features, by the category's hash; nothing is fitted.
    Hashing,
    /// The mean target of the category in train, scaled; rows of train by the means of other folds.
    Target,
    /// The category's share of train, scaled.
    Frequency,
}

/// How texts become tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TextPlan {
    pub tokenizer: TokenizerType,
    /// Tokens of a row, special ones included; longer texts are cut.
    pub max_length: u32,
    /// Vocabulary and hashing: token ids are below this.
    pub vocab_size: u32,
    /// Vocabulary: words of train with fewer occurrences are unknown.
    pub min_frequency: u32,
    /// Folder of a pretrained encoder in a data root: its tokenizer, and its weights for the model to begin with.
    pub pretrained: Option<String>,
    /// Done to each text before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clean: Vec<TextCleaning>,
}

impl Default for TextPlan {
    fn default() -> Self {
        Self {
            tokenizer: TokenizerType::Vocabulary,
            max_length: 64,
            vocab_size: 30_000,
            min_frequency: 2,
            pretrained: None,
            clean: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerType {
    /// Words fitted on train.
    Vocabulary,
    /// Words by their hash; nothing is fitted.
    Hashing,
    /// That of `data.text.pretrained`.
    Pretrained,
}

/// Where numbers are cut off before they are scaled; bounds are fitted on train.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outliers {
    #[default]
    None,
    /// At the quantiles `outlier_quantile` and 1 - `outlier_quantile`.
    Quantile,
    /// At `outlier_iqr` interquartile ranges below the first and above the third quartile.
    Iqr,
}

/// Settings of fitted preprocessing. Part of `data.preprocessing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FittingPlan {
    /// What `impute: constant` puts in.
    #[serde(skip_serializing_if = "is_default")]
    pub impute_value: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub outliers: Outliers,
    #[serde(skip_serializing_if = "is_outlier_quantile")]
    pub outlier_quantile: f64,
    #[serde(skip_serializing_if = "is_outlier_iqr")]
    pub outlier_iqr: f64,
    /// Points of the quantile scalings.
    #[serde(skip_serializing_if = "is_quantiles")]
    pub quantiles: u32,
    /// Features of the hashing encoding.
    #[serde(skip_serializing_if = "is_hash_buckets")]
    pub hash_buckets: u32,
    /// Parts that a column of dates becomes.
    #[serde(skip_serializing_if = "is_date_parts")]
    pub date_parts: Vec<DatePart>,
    /// Of the target encoding.
    #[serde(skip_serializing_if = "is_default")]
    pub target_encoding: TargetEncodingPlan,
}

const OUTLIER_QUANTILE: f64 = 0.01;
const OUTLIER_IQR: f64 = 1.5;
const QUANTILES: u32 = 1_000;
const HASH_BUCKETS: u32 = 32;
const DATE_PARTS: [DatePart; 6] =
    [DatePart::Year, DatePart::Month, DatePart::Day, DatePart::Weekday, DatePart::Hour, DatePart::IsWeekend];

fn is_outlier_quantile<T: PartialEq<f64>>(value: &T) -> bool {
    *value == OUTLIER_QUANTILE
}

fn is_outlier_iqr<T: PartialEq<f64>>(value: &T) -> bool {
    *value == OUTLIER_IQR
}

fn is_quantiles<T: PartialEq<u32>>(value: &T) -> bool {
    *value == QUANTILES
}

fn is_hash_buckets<T: PartialEq<u32>>(value: &T) -> bool {
    *value == HASH_BUCKETS
}

fn is_date_parts(value: &[DatePart]) -> bool {
    *value == DATE_PARTS
}

impl Default for FittingPlan {
    fn default() -> Self {
        Self {
            impute_value: 0.0,
            outliers: Outliers::None,
            outlier_quantile: OUTLIER_QUANTILE,
            outlier_iqr: OUTLIER_IQR,
            quantiles: QUANTILES,
            hash_buckets: HASH_BUCKETS,
            date_parts: DATE_PARTS.to_vec(),
            target_encoding: TargetEncodingPlan::default(),
        }
    }
}

/// A column's own treatment. Part of `data.columns.NAME`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ColumnFittingPlan {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impute_value: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing_indicator: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<Outliers>,
    /// In place of `data.preprocessing.categories`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<CategoryEncoding>,
    /// Ordinal: the categories from the least to the greatest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Vec<String>>,
    /// Datetime: in place of `data.preprocessing.date_parts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date_parts: Option<Vec<DatePart>>,
    /// Datetime: the day that `days_since` counts from; else the earliest of train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date_reference: Option<String>,
    /// Image: mean and standard deviation of each channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub normalize: Option<Normalize>,
    /// Image: mean of each channel, of values from 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<Vec<f64>>,
    /// Image: standard deviation of each channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std: Option<Vec<f64>>,
}

/// How pixels are normalized beside the model's own scaling to -1..1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalize {
    None,
    /// By mean and standard deviation of train.
    Fitted,
    /// By `mean` and `std`.
    Given,
}

/// What is done to texts before they become tokens, in this order, in training and in serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextCleaning {
    /// Tags go, entities become their characters.
    RemoveHtml,
    RemoveUrls,
    Lower,
    /// Marks on letters go: é becomes e.
    StripAccents,
    /// Runs of blanks become one, those at the ends none.
    CollapseBlanks,
}
