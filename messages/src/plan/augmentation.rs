//! How rows of the training part are changed on their way to the trainer, and which rows are made up. What an
//! epoch sees of a sample depends on (seed, epoch, sample id) only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// All of it. A plan has one only where the job asks for some augmentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AugmentationPlan {
    pub seed: u64,
    pub text_augmentation: bool,
    pub visual_augmentation: bool,
    /// Stands for every probability that is not given apart.
    pub prob: f64,
    pub text: TextAugmentation,
    pub image: ImageAugmentation,
    pub features: FeatureAugmentation,
    pub smote: SmotePlan,
}

impl AugmentationPlan {
    /// Whether the feed changes texts.
    pub fn changes_texts(&self) -> bool {
        self.text_augmentation && !self.text.methods.is_empty()
    }

    /// Whether the feed changes images.
    pub fn changes_images(&self) -> bool {
        self.visual_augmentation && !self.image.methods.is_empty()
    }

    pub fn perturbs(&self) -> bool {
        self.features.methods.contains(&FeatureMethod::Perturbation)
    }

    pub fn mixes(&self) -> bool {
        self.features.methods.contains(&FeatureMethod::Mixup)
    }

    /// Whether texts are changed by this method.
    pub fn uses_text(&self, method: TextMethod) -> bool {
        self.text_augmentation && self.text.methods.contains(&method)
    }

    /// Whether images are changed by this method.
    pub fn uses_image(&self, method: ImageMethod) -> bool {
        self.visual_augmentation && self.image.methods.contains(&method)
    }

    /// Whether a feed of the training part has anything to do.
    pub fn acts_in_feed(&self) -> bool {
        self.changes_texts() || self.changes_images() || self.perturbs() || self.mixes()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextMethod {
    /// Words by synonyms.
    SynonymReplacement,
    /// Synonyms of its words at random places.
    RandomInsertion,
    /// Words fall out.
    RandomDeletion,
    /// Two words change places.
    WordSwap,
    /// Into another language and back.
    BackTranslation,
}

impl TextMethod {
    pub const ALL: [Self; 5] =
        [Self::SynonymReplacement, Self::RandomInsertion, Self::RandomDeletion, Self::WordSwap, Self::BackTranslation];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::SynonymReplacement => "synonym_replacement",
            Self::RandomInsertion => "random_insertion",
            Self::RandomDeletion => "random_deletion",
            Self::WordSwap => "word_swap",
            Self::BackTranslation => "back_translation",
        }
    }
}

/// A text is changed with probability `prob`, by one of the methods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TextAugmentation {
    pub methods: Vec<TextMethod>,
    pub prob: f64,
    pub synonym_replacement: WordRange,
    pub random_insertion: WordRange,
    pub random_deletion: WordRange,
    pub word_swap: WordRange,
    /// A file `word<TAB>synonym,synonym` or a folder of WordNet's dictionary; none: that of the system.
    pub synonyms: Option<String>,
    /// Through which language texts go: a pair that the translator knows.
    pub languages: String,
}

/// How much of a text a method changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WordRange {
    /// Share of the words, at least one.
    pub range: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageMethod {
    Crop,
    Rotation,
    Flip,
    Brightness,
    Contrast,
    Saturation,
    Hue,
    Style,
    Blur,
    Noise,
    Cutout,
}

impl ImageMethod {
    /// In the order in which they are applied.
    pub const ALL: [Self; 11] = [
        Self::Crop,
        Self::Rotation,
        Self::Flip,
        Self::Brightness,
        Self::Contrast,
        Self::Saturation,
        Self::Hue,
        Self::Style,
        Self::Blur,
        Self::Noise,
        Self::Cutout,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Crop => "crop",
            Self::Rotation => "rotation",
            Self::Flip => "flip",
            Self::Brightness => "brightness",
            Self::Contrast => "contrast",
            Self::Saturation => "saturation",
            Self::Hue => "hue",
            Self::Style => "style",
            Self::Blur => "blur",
            Self::Noise => "noise",
            Self::Cutout => "cutout",
        }
    }
}

/// Each method is applied with its own probability, in the order of [`ImageMethod::ALL`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImageAugmentation {
    pub methods: Vec<ImageMethod>,
    /// Range: the smallest share of the area that stays.
    pub crop: Chance,
    /// Range: degrees to either side.
    pub rotation: Chance,
    pub flip: Coin,
    /// Range: the factor is within 1 +- this; so for contrast and saturation.
    pub brightness: Chance,
    pub contrast: Chance,
    pub saturation: Chance,
    /// Range: turns of the color circle to either side.
    pub hue: Chance,
    /// Range: the greatest share of the transferred colors.
    pub style: StylePlan,
    /// Range: the greatest standard deviation of the bell, in pixels.
    pub blur: Chance,
    /// Range: the greatest standard deviation, as a share of 255.
    pub noise: Chance,
    /// Range: the greatest side of the square, as a share of the shorter side.
    pub cutout: Chance,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Chance {
    pub prob: f64,
    pub range: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Coin {
    pub prob: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StylePlan {
    pub prob: f64,
    pub range: f64,
    /// IDX files of images whose colors are taken.
    pub references: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FeatureMethod {
    Perturbation,
    Mixup,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FeatureAugmentation {
    pub methods: Vec<FeatureMethod>,
    /// Range: standard deviation of the noise in those of the features.
    pub perturbation: Chance,
    pub mixup: MixupPlan,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MixupPlan {
    pub prob: f64,
    /// The share of the sample itself is Beta(alpha, alpha), or what is left of it to 1.
    pub alpha: f64,
}

/// Synthetic rows of rare classes, made when the data are prepared.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SmotePlan {
    /// Classes are brought up to this share of the largest class; none: no rows are made.
    pub ratio: Option<f64>,
    pub k_neighbors: u32,
}
