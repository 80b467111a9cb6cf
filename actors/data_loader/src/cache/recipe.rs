//! What an outcome follows from, its key, and the first thing that differs between two.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest value that a message shows, in characters.
const SHOWN: usize = 60;

/// BLAKE3 of a recipe, as 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Key(String);

impl Key {
    /// Reads what a file is named after.
    pub fn parse(text: &str) -> Option<Self> {
        let is_key = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        is_key.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Everything that the outcome of a step follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    pub step: String,
    pub version: u32,
    /// BLAKE3 of each input, by what it is: a file, or the key of a step before.
    pub inputs: BTreeMap<String, String>,
    /// The settings that matter, by path; each a scalar, a list, or an empty group.
    pub settings: BTreeMap<String, Value>,
}

impl Recipe {
    /// The same recipe gives the same key on every host.
    pub fn key(&self) -> Key {
        let canonical = serde_json::to_vec(self).expect("invariant: a recipe serializes");
        Key(blake3::hash(&canonical).to_hex().to_string())
    }

    /// What differs from `before`: the version first, then an input, then a setting. None: nothing.
    pub fn difference(&self, before: &Self) -> Option<Difference> {
        if self.version != before.version {
            let (old, new) = (before.version, self.version);
            return Some(Difference::Other(format!("version {old} of the step, now {new}")));
        }
        if let Some((name, old, new)) = first_difference(&before.inputs, &self.inputs) {
            let what = match (old, new) {
                (None, _) => "is new",
                (_, None) => "is no longer read",
                _ => "has another content",
            };
            return Some(Difference::Input { name: name.clone(), what });
        }
        let (path, old, new) = first_difference(&before.settings, &self.settings)?;
        let text = |value: Option<&Value>| value.map_or_else(|| "not set".to_owned(), shown);
        Some(Difference::Other(format!("{path}: {}, now {}", text(old), text(new))))
    }
}

/// What differs between two recipes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// An input; where it is a step before, that one knows more.
    Input {
        name: String,
        what: &'static str,
    },
    Other(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input { name, what } => write!(f, "{name} {what}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// The first key, in order, that one of the maps lacks or has with another value.
fn first_difference<'a, V: PartialEq>(
    old: &'a BTreeMap<String, V>,
    new: &'a BTreeMap<String, V>,
) -> Option<(&'a String, Option<&'a V>, Option<&'a V>)> {
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| (name, old.get(name), new.get(name))).find(|(_, old, new)| old != new)
}

/// A value, cut where it is long.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// The leaves of a value by their path. A dot within a name is written `\.`, so that no two paths are alike.
pub fn flatten(prefix: &str, value: &Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                let name = name.replace('\\', "\\\\").replace('.', "\\.");
                flatten(&format!("{prefix}.{name}"), value, leaves);
            }
        }
        leaf => drop(leaves.insert(prefix.to_owned(), leaf.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn recipe(version: u32, inputs: &[(&str, &str)], settings: &Value) -> Recipe {
        let mut leaves = BTreeMap::new();
        flatten("data", settings, &mut leaves);
        let inputs = inputs.iter().map(|(name, hash)| ((*name).to_owned(), (*hash).to_owned())).collect();
        Recipe { step: "fit".into(), version, inputs, settings: leaves }
    }

    #[test]
    fn the_first_difference_is_named() {
        let old = recipe(1, &[("a.csv", "1"), ("read", "2")], &json!({"csv": {"trim": true}, "split": {"seed": 1}}));
        let check = |new: &Recipe, expected: Option<&str>| {
            assert_eq!(new.difference(&old).map(|d| d.to_string()).as_deref(), expected);
            assert_eq!(new.key() == old.key(), expected.is_none());
        };
        check(&old.clone(), None);
        let settings = |value: &Value| recipe(1, &[("a.csv", "1"), ("read", "2")], value);
        check(
            &settings(&json!({"csv": {"trim": false}, "split": {"seed": 2}})),
            Some("data.csv.trim: true, now false"),
        );
        check(&settings(&json!({"split": {"seed": 1}})), Some("data.csv.trim: true, now not set"));
        check(
            &settings(&json!({"csv": {"trim": true, "quote": "x".repeat(100)}, "split": {"seed": 1}})),
            Some(&format!("data.csv.quote: not set, now \"{}…", "x".repeat(59))),
        );
        check(&Recipe { version: 2, ..old.clone() }, Some("version 1 of the step, now 2"));
        for (inputs, expected) in [
            (&[("a.csv", "3"), ("read", "2")][..], "a.csv has another content"),
            (&[("a.csv", "1"), ("b.csv", "1"), ("read", "2")][..], "b.csv is new"),
            (&[("a.csv", "1")][..], "read is no longer read"),
        ] {
            check(&recipe(1, inputs, &json!({"csv": {"trim": true}, "split": {"seed": 1}})), Some(expected));
        }
    }

    #[test]
    fn names_with_dots_are_told_apart() {
        let of = |value: &Value| recipe(1, &[], value).key();
        assert_ne!(of(&json!({"columns": {"a.b": {"c": 1}}})), of(&json!({"columns": {"a": {"b.c": 1}}})));
        assert_ne!(of(&json!({"columns": {"a\\": {"b": 1}}})), of(&json!({"columns": {"a": {"\\b": 1}}})));
        assert_ne!(of(&json!({"columns": {}})), of(&json!({"columns": []})));
    }
}
