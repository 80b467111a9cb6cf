//! A plan as parameters and tags: its leaves by path (`training.optimizer.learning_rate`), filtered by
//! the job's patterns, within MLflow's limits of keys and values.

use std::collections::BTreeMap;

use messages::plan::JobPlan;
use serde_json::Value;

use crate::row::Row;

/// Longest value of a parameter, in characters.
pub const MAX_PARAM_CHARS: usize = 6_000;
/// Longest value of a tag, in characters.
pub const MAX_TAG_CHARS: usize = 8_000;
/// Longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 250;

/// Parts of a plan that are no parameters: what the run was called and by whom it is watched. Webhook
/// addresses stay out of the tracker.
const NOT_PARAMETERS: [&str; 7] = ["schema", "description", "origins", "warnings", "notifications", "tracking", "name"];

/// The rows of a plan: experiment and name of the run, parameters, tags. The same plan gives the same rows.
pub fn plan_rows(plan: &JobPlan) -> Vec<Row> {
    let mut rows = vec![Row::Run {
        experiment: Some(plan.tracking.experiment.clone()),
        name: Some(plan.name.clone()),
        start: None,
        plan: None,
    }];
    let wanted =
        |path: &str| plan.tracking.parameters.is_empty() || plan.tracking.parameters.iter().any(|p| matches(p, path));
    let parameters = flatten(plan);
    let kept = parameters.into_iter().filter(|(path, _)| wanted(path));
    rows.extend(kept.map(|(path, value)| Row::Param { key: legal_key(&path), value: cut(&value, MAX_PARAM_CHARS) }));
    let own = [
        ("mlflow.runName", plan.name.clone()),
        ("mlflow.note.content", plan.description.clone()),
        ("within.task", plan.task.as_str().to_owned()),
        ("within.dataset_version", plan.data.dataset_version.clone()),
        ("within.plan.content_blake3", plan.content_blake3()),
    ];
    let own = own.into_iter().map(|(key, value)| (key.to_owned(), value));
    let users = plan.tracking.tags.iter().map(|(key, value)| (legal_key(key), value.clone()));
    let tags = own.chain(users).filter(|(_, value)| !value.is_empty());
    rows.extend(tags.map(|(key, value)| Row::Tag { key, value: cut(&value, MAX_TAG_CHARS) }));
    rows
}

/// Patterns of the plan that name no path of it, worth a word to the user.
pub fn unmatched_patterns(plan: &JobPlan) -> Vec<&str> {
    let parameters = flatten(plan);
    let nothing = |pattern: &&String| !parameters.keys().any(|path| matches(pattern, path));
    plan.tracking.parameters.iter().filter(nothing).map(String::as_str).collect()
}

/// The leaves of the plan by path. A list is one value, as JSON; what is not set is left out.
fn flatten(plan: &JobPlan) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    let value = serde_json::to_value(plan).expect("invariant: a plan serializes");
    let Value::Object(parts) = value else { return leaves };
    for (key, part) in parts.iter().filter(|(key, _)| !NOT_PARAMETERS.contains(&key.as_str())) {
        descend(key, part, &mut leaves);
    }
    leaves
}

fn descend(path: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Null => {}
        Value::Object(parts) => {
            for (key, part) in parts {
                descend(&format!("{path}.{key}"), part, leaves);
            }
        }
        Value::String(text) => {
            leaves.insert(path.to_owned(), text.clone());
        }
        other => {
            leaves.insert(path.to_owned(), other.to_string());
        }
    }
}

/// Whether a pattern names a path: `*` stands for any characters; without one, the path itself or all below it.
fn matches(pattern: &str, path: &str) -> bool {
    if !pattern.contains('*') {
        return path.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    }
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = path.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.is_empty()
}

/// The key as MLflow allows it: letters, digits, `_-./: ` and at most [`MAX_KEY_BYTES`]. What had to
/// change ends in a hash of the key as it was, so that two keys stay two.
pub fn legal_key(key: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || "_-./: ".contains(c);
    if !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.chars().all(legal) {
        return key.to_owned();
    }
    let hash = blake3::hash(key.as_bytes()).to_hex();
    let room = MAX_KEY_BYTES - 9;
    let kept: String = key.chars().map(|c| if legal(c) { c } else { '_' }).take(room).collect();
    format!("{kept}-{}", &hash[..8])
}

/// The text, cut to `max` characters and saying so.
pub fn cut(text: &str, max: usize) -> String {
    let count = text.chars().count();
    if count <= max {
        return text.to_owned();
    }
    let note = format!(" … (cut: {count} characters)");
    let kept: String = text.chars().take(max - note.chars().count()).collect();
    kept + &note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_name_paths() {
        let table = [
            ("training.optimizer.*", "training.optimizer.learning_rate", true),
            ("training.optimizer.*", "training.epochs", false),
            ("training.*", "training.optimizer.learning_rate", true),
            ("*", "seed", true),
            ("*.learning_rate", "training.optimizer.learning_rate", true),
            ("*learning*", "training.optimizer.learning_rate", true),
            ("training.*.type", "training.optimizer.type", true),
            ("training.*.type", "training.optimizer.type.x", false),
            ("training.*.type", "training.type", false),
            ("seed", "seed", true),
            ("training", "training.epochs", true),
            ("train", "training.epochs", false),
            ("a*a", "a", false),
            ("", "seed", false),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(matches(pattern, path), expected, "{pattern} on {path}");
        }
    }

    #[test]
    fn keys_are_legal_and_stay_apart() {
        assert_eq!(legal_key("training.optimizer.learning_rate"), "training.optimizer.learning_rate");
        let odd = legal_key("data.columns.größe (€).type");
        assert!(odd.starts_with("data.columns.gr__e (") || odd.starts_with("data.columns.gr"), "{odd}");
        assert_ne!(legal_key("a€"), legal_key("a$"));
        let long = legal_key(&"x".repeat(400));
        assert_eq!(long.len(), MAX_KEY_BYTES);
        assert_ne!(long, legal_key(&"x".repeat(401)));
        assert!(!legal_key("").is_empty());
    }

    #[test]
    fn long_values_are_cut_and_say_so() {
        assert_eq!(cut("short", 6_000), "short");
        assert_eq!(cut(&"é".repeat(6_000), 6_000).chars().count(), 6_000);
        let text = cut(&"é".repeat(7_000), 6_000);
        assert_eq!(text.chars().count(), 6_000);
        assert!(text.ends_with("(cut: 7000 characters)"));
    }
}
