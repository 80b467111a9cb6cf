//! Augmentation: probabilities that follow from one, what the job's data cannot give, keys that have no effect.

use super::super::draft::Draft;
use super::super::keys::JOB_KEYS;

const GROUP: &str = "data.augmentation.";
const SEED: &str = "data.augmentation.seed";
const TEXT: &str = "data.augmentation.text_augmentation";
const VISUAL: &str = "data.augmentation.visual_augmentation";
const FEATURES: &str = "data.augmentation.features.methods";
const RATIO: &str = "data.augmentation.smote.ratio";

/// Whether the job asks for any augmentation; without it a plan holds none.
pub(crate) fn is_on(draft: &Draft<'_>) -> bool {
    draft.flag(TEXT) == Some(true)
        || draft.flag(VISUAL) == Some(true)
        || !draft.texts(FEATURES).is_empty()
        || draft.number(RATIO).is_some()
}

pub(super) fn complete(draft: &mut Draft<'_>) {
    let (seed, prob) = (draft.whole("seed"), draft.number("data.augmentation.prob"));
    draft.derive(SEED, seed);
    let ends_in_prob = |path: &&str| {
        path.starts_with(GROUP) && path.rsplit('.').next() == Some("prob") && path.matches('.').count() > 2
    };
    for path in JOB_KEYS.iter().map(|key| key.path).filter(ends_in_prob) {
        draft.derive(path, prob);
    }
    without_effect(draft);
    sources(draft);
    mixup(draft);
    if draft.number(RATIO).is_some() && draft.text("task") == Some("regression") {
        draft.blame(RATIO, "SMOTE makes rows of rare classes; here task is regression");
    }
    if draft.number(RATIO).is_some() && draft.text("model.type") == Some("lstm_sequence") {
        draft.blame(RATIO, format!("{}: synthetic series", super::super::NOT_YET));
    }
}

/// Settings of what is switched off.
fn without_effect(draft: &mut Draft<'_>) {
    let on = is_on(draft);
    let written: Vec<String> = draft.entries.keys().filter(|path| path.starts_with(GROUP)).cloned().collect();
    for path in written {
        let of = |group: &str| path.starts_with(group);
        if path == SEED && !on {
            draft.warn(&path, "accepted, no effect because no augmentation is asked for");
        } else if of("data.augmentation.text.") && draft.flag(TEXT) != Some(true) {
            draft.warn(&path, "no effect because data.augmentation.text_augmentation is not true");
        } else if of("data.augmentation.image.") && draft.flag(VISUAL) != Some(true) {
            draft.warn(&path, "no effect because data.augmentation.visual_augmentation is not true");
        }
    }
}

/// Texts and images can be changed only where the data have some.
fn sources(draft: &mut Draft<'_>) {
    for (switch, kind) in [(TEXT, "text"), (VISUAL, "image")] {
        let declared = draft
            .entries
            .iter()
            .any(|(path, entry)| entry.key.path == "data.columns.*.type" && draft.text(path) == Some(kind));
        if draft.flag(switch) == Some(true) && !declared {
            draft.blame(switch, format!("the data have no column of type {kind}: declare one in data.columns"));
        }
    }
    let styled = draft.texts("data.augmentation.image.methods").iter().any(|method| method == "style");
    let references = "data.augmentation.image.style.references";
    if draft.flag(VISUAL) == Some(true) && styled && draft.texts(references).is_empty() {
        draft.blame(references, "missing: style takes the colors of reference images");
    }
}

/// Mixed samples have mixed targets: the loss must take them, and what is mixed must be numbers.
fn mixup(draft: &mut Draft<'_>) {
    if !draft.texts(FEATURES).iter().any(|method| method == "mixup") {
        return;
    }
    if draft.text("task") == Some("multiclass") {
        draft.blame(
            FEATURES,
            format!("{}: mixup of classes (cross_entropy takes whole classes only)", super::super::NOT_YET),
        );
    }
    let words = draft
        .entries
        .iter()
        .any(|(path, entry)| entry.key.path == "data.columns.*.type" && draft.text(path) == Some("text"));
    let indices = draft.text("data.preprocessing.categories") == Some("embedding");
    let series = draft.text("model.type") == Some("lstm_sequence");
    if words || indices || series {
        let what = if words {
            "words"
        } else if indices {
            "embedded categories"
        } else {
            "series"
        };
        let message = format!("mixup mixes numbers and pixels; this job has {what}, which cannot be mixed");
        draft.blame(FEATURES, message);
    }
}
