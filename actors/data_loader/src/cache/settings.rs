//! The steps of preparing data, and the settings that each follows from: all of the plan's, but for those listed here.
//! So a setting that is new matters to every step until somebody says that it does not, and a mistake costs time, not
//! truth.

use std::collections::BTreeMap;

use messages::plan::{DataPlan, Task};
use serde_json::Value;

use super::recipe::flatten;

/// A step whose outcome is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// The files as typed columns.
    Read,
    /// Which part each sample belongs to.
    Split,
    /// Statistics, encodings, the target's transform.
    Fit,
    /// The shards in the artifact store.
    Shards,
    /// The whole: the manifest of the dataset version.
    Prepare,
}

/// Settings that no prepared data follow from: they are of the feed, or of the cache. (The names of the files are
/// inputs.)
const OF_NO_STEP: &[&str] = &[
    "data.path",
    "data.test_path",
    "data.shuffle",
    "data.shuffle_seed",
    "data.shuffle_window_mb",
    "data.drop_last",
    "data.cache",
];
/// Rows are augmented in the feed, and synthetic ones are made once everything is fitted.
const AUGMENTATION: &str = "data.augmentation";
/// The quality of rows is examined once they are split, and labels are corrected then.
const QUALITY: &str = "data.quality";
/// Only stands in the manifest.
const LABEL: &str = "data.dataset_version";
/// Settings of what is fitted, which neither reading nor splitting looks at, and which no shard holds: shards hold the
/// values as they were read.
const OF_FIT: &[&str] = &[
    "data.preprocessing.impute",
    "data.preprocessing.missing_indicator",
    "data.preprocessing.scale",
    "data.preprocessing.clip",
    "data.preprocessing.min_frequency",
    "data.preprocessing.max_categories",
    "data.preprocessing.categories",
    "data.columns.*.impute",
    "data.columns.*.scale",
    "data.text.tokenizer",
    "data.text.max_length",
    "data.text.vocab_size",
    "data.text.min_frequency",
    "data.text.pretrained",
    "data.target.transform",
];
/// Settings that only the rest of preparing looks at. (Which column a split goes by matters to reading.)
const AFTER_READ: &[&str] = &[
    "data.split.test_size",
    "data.split.val_size",
    "data.split.random_state",
    "data.target.positive",
    "data.target.strip_suffix",
];
/// Only whether missing values are refused matters to reading.
const IMPUTE: &[&str] = &["data.preprocessing.impute", "data.columns.*.impute"];
const REFUSE: &str = "refuse";

impl Step {
    pub const ALL: [Self; 5] = [Self::Read, Self::Split, Self::Fit, Self::Shards, Self::Prepare];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Split => "split",
            Self::Fit => "fit",
            Self::Shards => "shards",
            Self::Prepare => "prepare",
        }
    }

    /// Must grow with every change of this program that changes what the step makes of the same inputs, or how that is
    /// written. `tests/it/cache.rs` holds outcomes against it.
    pub fn version(self) -> u32 {
        match self {
            Self::Read | Self::Split => 1,
            // Both hold targets: what corrects labels is part of them.
            Self::Fit | Self::Shards => 2,
            // The manifest's own version is part of its outcome.
            Self::Prepare => 2 + 1_000 * u32::from(frame::manifest::MANIFEST_VERSION),
        }
    }

    /// The steps whose outcomes it takes.
    pub fn needs(self) -> &'static [Self] {
        match self {
            Self::Read => &[],
            Self::Split => &[Self::Read],
            Self::Fit | Self::Shards => &[Self::Split],
            Self::Prepare => &[Self::Fit],
        }
    }

    fn follows_from(self, path: &str) -> bool {
        let listed = |list: &[&str]| list.iter().any(|pattern| fits(pattern, path));
        let ignored = listed(OF_NO_STEP)
            || (path == LABEL && self != Self::Prepare)
            || (below(AUGMENTATION, path) && matches!(self, Self::Read | Self::Split | Self::Fit))
            || (below(QUALITY, path) && matches!(self, Self::Read | Self::Split))
            || match self {
                Self::Read => listed(OF_FIT) || listed(AFTER_READ),
                Self::Split | Self::Shards => listed(OF_FIT),
                Self::Fit | Self::Prepare => false,
            };
        !ignored
    }
}

/// Whether a path is the group's, or one of its settings'.
fn below(group: &str, path: &str) -> bool {
    path.strip_prefix(group).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether a path is the pattern's; `*` is any one name.
fn fits(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((before, after)) => {
            let name = path.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            name.is_some_and(|name| !name.replace("\\\\", "").replace("\\.", "").contains('.'))
        }
    }
}

/// The settings that a step follows from, by path.
pub fn settings_of(step: Step, data: &DataPlan, task: Task) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    flatten("data", &serde_json::to_value(data).expect("invariant: a plan serializes"), &mut leaves);
    leaves.insert("task".into(), Value::from(task.as_str()));
    let refuses: Vec<(String, Value)> = leaves
        .iter()
        .filter(|(path, value)| {
            step == Step::Read && value.is_string() && IMPUTE.iter().any(|pattern| fits(pattern, path))
        })
        .map(|(path, value)| (format!("{path} is refuse"), Value::from(value == REFUSE)))
        .collect();
    leaves.retain(|path, _| step.follows_from(path));
    leaves.extend(refuses);
    leaves
}

/// BLAKE3 of all settings that prepared data follow from, the names of the files included and their contents not.
pub fn settings_blake3(data: &DataPlan, task: Task) -> String {
    let settings = (settings_of(Step::Fit, data, task), &data.path, &data.test_path);
    let text = serde_json::to_vec(&settings).expect("invariant: settings serialize");
    blake3::hash(&text).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_star_is_one_name() {
        for (path, expected) in [
            ("data.columns.age.scale", true),
            ("data.columns.emp\\.var\\.rate.scale", true),
            ("data.columns.a\\\\.scale", true),
            ("data.columns.a.scale.scale", false),
            ("data.columns.scale", false),
            ("data.columns.age.type", false),
        ] {
            assert_eq!(fits("data.columns.*.scale", path), expected, "{path}");
        }
        assert!(fits("data.csv", "data.csv") && !fits("data.csv", "data.csv.trim"));
    }
}
