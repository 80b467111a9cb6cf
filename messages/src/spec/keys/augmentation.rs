//! The keys of augmentation: what the feed changes in rows of the training part, and which rows are made up.

use super::Fallback::{Absent, Derived};
use super::Shape::{Bool, Choices, Texts};
use super::{Choice, Key, SEED, Shape, above, also, closed, json, key, name, whole};

const TEXT_METHODS: &[Choice] = &[
    also("synonym_replacement", &["synonyms"]),
    name("random_insertion"),
    name("random_deletion"),
    also("word_swap", &["random_swap"]),
    also("back_translation", &["backtranslation"]),
];
const IMAGE_METHODS: &[Choice] = &[
    also("crop", &["random_crop", "crop_resize"]),
    name("rotation"),
    also("flip", &["horizontal_flip"]),
    name("brightness"),
    name("contrast"),
    name("saturation"),
    name("hue"),
    also("style", &["style_transfer"]),
    name("blur"),
    also("noise", &["gaussian_noise"]),
    also("cutout", &["cut_out"]),
];
const FEATURE_METHODS: &[Choice] = &[also("perturbation", &["noise"]), name("mixup")];
const PROB: Shape = closed(0.0, 1.0);
const OF_PROB: super::Fallback = Derived("data.augmentation.prob");

const fn prob(path: &'static str) -> Key {
    key(path, PROB, OF_PROB, "How often it is applied.")
}

/// The keys of augmentation.
pub(super) const KEYS: &[Key] = &[
    key("data.augmentation.seed", SEED, Derived("seed"), "Seed of all augmentation.")
        .alias(&["data.augmentation_seed"]),
    key(
        "data.augmentation.text_augmentation",
        Bool,
        json("false"),
        "Whether texts of the training part are changed, differently in each epoch.",
    ),
    key(
        "data.augmentation.visual_augmentation",
        Bool,
        json("false"),
        "Whether images of the training part are changed, differently in each epoch.",
    ),
    key("data.augmentation.prob", PROB, json("0.3"), "Probability of each change that has none of its own.")
        .alias(&["data.augmentation.augmentation_prob"]),
    // texts
    key(
        "data.augmentation.text.methods",
        Choices(TEXT_METHODS),
        json(r#"["synonym_replacement", "random_insertion", "random_deletion", "word_swap"]"#),
        "A text is changed by one of these. back_translation needs a translator.",
    )
    .alias(&["data.augmentation.methods", "data.augmentation.augmentation_methods"]),
    key("data.augmentation.text.prob", PROB, OF_PROB, "How often a text is changed."),
    share("data.augmentation.text.synonym_replacement.range", "Share of the words that are replaced, at least one."),
    share("data.augmentation.text.random_insertion.range", "Words that are inserted, as a share, at least one."),
    share("data.augmentation.text.random_deletion.range", "Probability with which each word falls out."),
    share("data.augmentation.text.word_swap.range", "Swaps, as a share of the words, at least one."),
    key(
        "data.augmentation.text.synonyms",
        Shape::Path,
        Absent,
        "In a data root: a file with lines `word<TAB>synonym,synonym`, or a folder with WordNet's dictionary. Without \
         it, /usr/share/wordnet of the host that prepares the data.",
    ),
    key(
        "data.augmentation.text.languages",
        Shape::Text,
        json(r#""eng-spa""#),
        "Back-translation: the texts' language and the one they go through.",
    ),
    // images
    key(
        "data.augmentation.image.methods",
        Choices(IMAGE_METHODS),
        json(r#"["crop", "flip", "brightness", "contrast", "saturation", "hue", "noise"]"#),
        "What may happen to an image, in this order; saturation and hue need three channels.",
    ),
    prob("data.augmentation.image.crop.prob"),
    key("data.augmentation.image.crop.range", above(0.0, 1.0), json("0.7"), "Smallest share of the area that stays."),
    prob("data.augmentation.image.rotation.prob"),
    key("data.augmentation.image.rotation.range", closed(0.0, 180.0), json("15.0"), "Degrees to either side."),
    prob("data.augmentation.image.flip.prob"),
    prob("data.augmentation.image.brightness.prob"),
    key("data.augmentation.image.brightness.range", PROB, json("0.2"), "The factor is within 1 +- this."),
    prob("data.augmentation.image.contrast.prob"),
    key("data.augmentation.image.contrast.range", PROB, json("0.2"), "The factor is within 1 +- this."),
    prob("data.augmentation.image.saturation.prob"),
    key("data.augmentation.image.saturation.range", PROB, json("0.2"), "The factor is within 1 +- this."),
    prob("data.augmentation.image.hue.prob"),
    key(
        "data.augmentation.image.hue.range",
        closed(0.0, 0.5),
        json("0.05"),
        "Turns of the color circle to either side.",
    ),
    prob("data.augmentation.image.style.prob"),
    key("data.augmentation.image.style.range", PROB, json("0.5"), "Greatest share of the colors that are transferred."),
    key(
        "data.augmentation.image.style.references",
        Texts,
        json("[]"),
        "IDX files (also .gz) in a data root with the images whose colors are transferred.",
    ),
    prob("data.augmentation.image.blur.prob"),
    key(
        "data.augmentation.image.blur.range",
        closed(0.0, 100.0),
        json("1.0"),
        "Greatest width of the bell, in pixels.",
    ),
    prob("data.augmentation.image.noise.prob"),
    key(
        "data.augmentation.image.noise.range",
        PROB,
        json("0.05"),
        "Greatest standard deviation of the noise, as a share of 255.",
    ),
    prob("data.augmentation.image.cutout.prob"),
    key(
        "data.augmentation.image.cutout.range",
        PROB,
        json("0.4"),
        "Greatest side of the square that is covered, as a share of the shorter side.",
    ),
    // numbers
    key(
        "data.augmentation.features.methods",
        Choices(FEATURE_METHODS),
        json("[]"),
        "perturbation: noise on numbers; mixup: samples and targets mixed with another's (regression and binary \
         classification of numbers and images).",
    ),
    prob("data.augmentation.features.perturbation.prob"),
    key(
        "data.augmentation.features.perturbation.range",
        closed(0.0, 10.0),
        json("0.1"),
        "Standard deviation of the noise, in those of the features.",
    ),
    prob("data.augmentation.features.mixup.prob"),
    key(
        "data.augmentation.features.mixup.alpha",
        above(0.0, 1.0),
        json("0.2"),
        "Of the Beta(alpha, alpha) that shares are drawn from.",
    ),
    key(
        "data.augmentation.smote.ratio",
        above(0.0, 1.0),
        Absent,
        "Synthetic rows (SMOTE) bring each class up to this share of the largest; without it none are made.",
    ),
    key(
        "data.augmentation.smote.k_neighbors",
        whole(1, 1_000),
        json("5"),
        "Nearest rows of the class that one is mixed with.",
    ),
];

const fn share(path: &'static str, doc: &'static str) -> Key {
    key(path, closed(0.0, 1.0), json("0.1"), doc)
}
