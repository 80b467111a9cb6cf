//! What the keys of sources say together: the delimiter that follows from suffixes, joins, dates and images.

use super::Draft;

/// Suffixes of files between tabs.
const TABS: [&str; 2] = [".tsv", ".tab"];
/// Suffixes of packed files, which stand behind that of the format.
const PACKED: [&str; 2] = [".gz", ".zst"];

pub(super) fn complete(draft: &mut Draft<'_>) {
    let paths = draft.texts("data.path");
    let tabs =
        draft.text("data.format") == Some("tsv") || (!paths.is_empty() && paths.iter().all(|path| has_tabs(path)));
    draft.derive("data.csv.delimiter", Some(if tabs { "\t" } else { "," }));
    joins(draft);
    columns(draft);
}

fn has_tabs(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    let plain = PACKED.iter().find_map(|suffix| lower.strip_suffix(suffix)).unwrap_or(&lower);
    TABS.iter().any(|suffix| plain.ends_with(suffix))
}

fn joins(draft: &mut Draft<'_>) {
    let Some(joins) = draft.value("data.joins").and_then(|joins| joins.as_array()).cloned() else { return };
    for join in &joins {
        let on = join["on"].as_array().map_or(0, Vec::len);
        if on == 0 {
            draft.blame("data.joins", "on: expected the name of at least one column");
        }
    }
}

/// Settings of columns that only one type has.
fn columns(draft: &mut Draft<'_>) {
    let settings: Vec<_> = draft
        .entries
        .iter()
        .filter(|(_, entry)| entry.segments.len() == 4 && entry.segments[1] == "columns")
        .map(|(path, entry)| (path.clone(), entry.key.name(), entry.segments[2].clone()))
        .collect();
    for (path, setting, column) in settings {
        let needs = match setting {
            "date_format" | "time_zone" => "datetime",
            "size" | "channels" => "image",
            _ => continue,
        };
        if draft.text(&format!("data.columns.{column}.type")) != Some(needs) {
            draft.blame(&path, format!("is of {needs} columns: set data.columns.{column}.type: {needs}"));
        } else if setting == "size" && draft.value(&path).is_some_and(|size| size.as_array().map_or(0, Vec::len) != 2) {
            draft.blame(&path, "expected two numbers: [height, width]");
        } else if setting == "channels" && draft.whole(&path) == Some(2) {
            draft.blame(&path, "expected 1 (gray) or 3 (color)");
        }
    }
}
