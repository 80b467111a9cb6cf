//! What the keys of `data.quality` say together with others.

use super::Draft;
use crate::plan::Task;

const PREFIX: &str = "data.quality.";
const ENABLED: &str = "data.quality.enabled";
const CORRECT: &str = "data.quality.correct";

/// As in the default plan.
const UNUSED_SEED: i64 = 42;

/// On where anything is said about it, unless it is said to be off.
pub(super) fn complete(draft: &mut Draft<'_>, task: Option<Task>) {
    let said = draft.entries.keys().any(|path| path.starts_with(PREFIX) && !path.ends_with(".enabled"));
    let enabled = draft.flag(ENABLED).unwrap_or(said);
    if !draft.is_bad(ENABLED) {
        draft.put(ENABLED, enabled);
    }
    // A plan that asks for nothing is the same whatever its seed.
    let seed = if enabled { draft.whole("seed") } else { Some(UNUSED_SEED) };
    draft.derive("data.quality.seed", seed);
    if !enabled {
        return;
    }
    if draft.text("data.sequence.group_column").is_some() {
        let key = draft.as_written(ENABLED);
        draft.blame(
            ENABLED,
            format!("{}: {key}: the quality of sequences (data.sequence.group_column)", crate::spec::NOT_YET),
        );
    }
    let checks = draft.texts("data.quality.checks");
    let mislabels = checks.iter().any(|check| check == "mislabels");
    if draft.flag(CORRECT) == Some(true) {
        if task == Some(Task::Regression) {
            draft.blame(
                CORRECT,
                "the targets of a regression are numbers: suspicious ones are reported, none is corrected",
            );
        } else if !mislabels {
            draft.blame(CORRECT, "data.quality.checks does not list mislabels: expected both or none");
        }
    } else if draft.is_written("data.quality.correct_parts") {
        draft.warn("data.quality.correct_parts", "no effect because data.quality.correct is false");
    }
}
