//! A plan in the making: values by canonical path with the origin of each, the mistakes and warnings
//! so far. A path with a mistake has no value, so that one mistake is not reported twice.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::convert::convert;
use super::flatten::Entries;
use super::keys::{Choice, Fallback, JOB_KEYS, Key, Shape, Status};
use super::located::{Node, Place, Value};
use super::mistakes::Mistakes;
use crate::plan::Origin;

/// One source of values; a later layer takes precedence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub kind: LayerKind,
    pub root: &'a Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LayerKind {
    BaseConfig,
    File,
    Override,
    Set,
}

pub(crate) struct Draft<'a> {
    pub entries: Entries<'a>,
    pub mistakes: Mistakes,
    pub warnings: Vec<String>,
    pub values: BTreeMap<String, Json>,
    bad: BTreeSet<String>,
    layers: Vec<Layer<'a>>,
}

impl<'a> Draft<'a> {
    pub fn new(entries: Entries<'a>, layers: Vec<Layer<'a>>, mistakes: Mistakes) -> Self {
        Self { entries, mistakes, warnings: Vec::new(), values: BTreeMap::new(), bad: BTreeSet::new(), layers }
    }

    /// Checks every value that was written, also those that another layer overrides, and keeps what counts.
    pub fn read(&mut self) {
        for (path, entry) in &self.entries {
            let mut value = None;
            for written in &entry.all {
                value = convert(entry.key, written.node, &entry.as_written, &mut self.mistakes);
            }
            match value {
                Some(value) => drop(self.values.insert(path.clone(), value)),
                None => drop(self.bad.insert(path.clone())),
            }
        }
    }

    /// Answers the keys of this table that do not make it into the plan.
    pub fn answer_statuses(&mut self, answered_elsewhere: impl Fn(&Key) -> bool) {
        let mut refused = Vec::new();
        for (path, entry) in &self.entries {
            let written = entry.effective();
            match entry.key.status {
                Status::Plan | Status::Steers => {
                    if let Some((name, now)) = self.values.get(path).and_then(|value| not_yet(entry.key, value)) {
                        refused.push((written.node.at, path.clone(), format!("{name} (this version: {now})")));
                    }
                }
                Status::NoEffect(because) => {
                    let at = self.describe(written.key_at);
                    self.warnings.push(format!("{}{at}: accepted, no effect because {because}", entry.as_written));
                }
                Status::NotYet(_) if asks_for_nothing(written.node) => {
                    let at = self.describe(written.key_at);
                    self.warnings
                        .push(format!("{}{at}: accepted, no effect because it asks for nothing", entry.as_written));
                }
                Status::NotYet(_) if answered_elsewhere(entry.key) => {}
                Status::NotYet(what) => refused.push((written.key_at, path.clone(), what.to_owned())),
            }
        }
        for (at, path, what) in refused {
            let key = self.as_written(&path);
            self.mistakes.add(at, &key, format!("{}: {key}: {what}", super::NOT_YET));
        }
    }

    /// What the table says for keys that nobody wrote.
    pub fn fill_defaults(&mut self) {
        for key in JOB_KEYS.iter().filter(|key| matches!(key.status, Status::Plan) && !key.path.contains('*')) {
            if self.values.contains_key(key.path) || self.bad.contains(key.path) {
                continue;
            }
            match key.default {
                Fallback::Json(text) => {
                    let value = serde_json::from_str(text).expect("invariant: defaults are JSON");
                    self.values.insert(key.path.to_owned(), value);
                }
                Fallback::Absent => drop(self.values.insert(key.path.to_owned(), Json::Null)),
                Fallback::Required => {
                    let (at, _) = self.nearest_place(key.path);
                    self.mistakes.add(at, key.path, format!("missing: {}", key.doc));
                    self.bad.insert(key.path.to_owned());
                }
                Fallback::Derived(_) => {}
            }
        }
    }

    /// Keys that have a meaning only where another has a certain value. Written in the same layer or
    /// above it, they are a mistake; below, they are left over from a base and dropped.
    pub fn check_conditions(&mut self) {
        let mut dropped = Vec::new();
        for (path, entry) in &self.entries {
            let Some(when) = entry.key.when else { continue };
            let Some(actual) = self.text(when.key) else { continue };
            if when.values.contains(&actual) {
                continue;
            }
            let written = entry.effective();
            let on = self.entries.get(when.key).map(super::flatten::Entry::effective);
            let chosen = format!("{} is {actual}", when.key);
            if on.is_some_and(|on| on.layer > written.layer) {
                let at = self.describe(written.key_at);
                dropped.push((path.clone(), None, format!("{}{at}: no effect because {chosen}", entry.as_written)));
            } else {
                let at = on.map_or(" by default".to_owned(), |on| self.describe(on.key_at));
                let message = format!("belongs to {} {}; here {chosen}{at}", when.key, when.values.join(" or "));
                dropped.push((path.clone(), Some(written.key_at), message));
            }
        }
        for (path, mistake_at, message) in dropped {
            match mistake_at {
                Some(at) => {
                    let key = self.as_written(&path);
                    self.mistakes.add(at, &key, message);
                }
                None => self.warnings.push(message),
            }
            let default = self.entries.get(&path).map(|entry| entry.key.default);
            self.entries.remove(&path);
            self.bad.remove(&path);
            match default {
                Some(Fallback::Json(text)) => {
                    let value = serde_json::from_str(text).expect("invariant: defaults are JSON");
                    self.values.insert(path, value);
                }
                _ => drop(self.values.remove(&path)),
            }
        }
    }

    pub fn value(&self, path: &str) -> Option<&Json> {
        self.values.get(path).filter(|value| !value.is_null())
    }

    pub fn text(&self, path: &str) -> Option<&str> {
        self.value(path)?.as_str()
    }

    pub fn number(&self, path: &str) -> Option<f64> {
        self.value(path)?.as_f64()
    }

    pub fn whole(&self, path: &str) -> Option<i64> {
        self.value(path)?.as_i64()
    }

    pub fn flag(&self, path: &str) -> Option<bool> {
        self.value(path)?.as_bool()
    }

    pub fn texts(&self, path: &str) -> Vec<String> {
        let items = self.value(path).and_then(Json::as_array);
        items.into_iter().flatten().filter_map(Json::as_str).map(str::to_owned).collect()
    }

    /// Sets what follows from other keys, unless the user wrote the key.
    pub fn derive(&mut self, path: &str, value: Option<impl Into<Json>>) {
        if let Some(value) = value
            && !self.bad.contains(path)
            && !self.values.contains_key(path)
        {
            self.values.insert(path.to_owned(), value.into());
        }
    }

    /// Replaces a value by its canonical form.
    pub fn put(&mut self, path: &str, value: impl Into<Json>) {
        self.values.insert(path.to_owned(), value.into());
    }

    /// Whether the user wrote the key, in whatever layer and under whatever name.
    pub fn is_written(&self, path: &str) -> bool {
        self.entries.contains_key(path)
    }

    pub fn is_bad(&self, path: &str) -> bool {
        self.bad.contains(path)
    }

    /// The layer of what counts.
    pub fn layer(&self, path: &str) -> Option<usize> {
        self.entries.get(path).map(|entry| entry.effective().layer)
    }

    pub fn as_written(&self, path: &str) -> String {
        self.entries.get(path).map_or_else(|| path.to_owned(), |entry| entry.as_written.clone())
    }

    /// A mistake in the value of a key.
    pub fn blame(&mut self, path: &str, message: impl Into<String>) {
        self.blame_with(path, message, None);
    }

    pub fn blame_with(&mut self, path: &str, message: impl Into<String>, suggestion: Option<String>) {
        let (at, _) = self.nearest_place(path);
        let key = self.as_written(path);
        self.mistakes.add_with(at, &key, message, suggestion);
        self.bad.insert(path.to_owned());
    }

    pub fn warn(&mut self, path: &str, message: &str) {
        let at = self.entries.get(path).map_or_else(String::new, |entry| self.describe(entry.effective().key_at));
        let key = self.as_written(path);
        self.warnings.push(format!("{key}{at}: {message}"));
    }

    /// ` (file:line)`, or as much as is known.
    pub fn describe(&self, at: Place) -> String {
        match (self.mistakes.file(at.source), at.line) {
            (Some(file), 0) => format!(" ({file})"),
            (Some(file), line) => format!(" ({file}:{line})"),
            (None, 0) => String::new(),
            (None, line) => format!(" (line {line})"),
        }
    }

    /// Where the key's value stands, else the deepest group around it in the file.
    fn nearest_place(&self, path: &str) -> (Place, bool) {
        if let Some(entry) = self.entries.get(path) {
            return (entry.effective().node.at, true);
        }
        let file = self.layers.iter().rev().find(|layer| layer.kind == LayerKind::File);
        let Some(file) = file else { return (Place::default(), false) };
        let (mut at, mut node) = (Place { line: 0, column: 0, ..file.root.at }, file.root);
        for segment in path.split('.') {
            let Some(member) = node.member(segment) else { break };
            at = member.key_at;
            node = &member.node;
        }
        (at, false)
    }

    /// Where what counts for a key came from.
    pub fn origin(&self, path: &str) -> Origin {
        let Some(entry) = self.entries.get(path) else { return Origin::Default };
        let written = entry.effective();
        let file = self.mistakes.file(written.key_at.source).unwrap_or_default().to_owned();
        let line = written.key_at.line;
        match self.layers.get(written.layer).map(|layer| layer.kind) {
            Some(LayerKind::BaseConfig) => Origin::BaseConfig { file, line },
            Some(LayerKind::Override) => Origin::Override { file, line },
            Some(LayerKind::Set) => Origin::Set,
            Some(LayerKind::File) | None => Origin::File { file, line },
        }
    }
}

/// A chosen name that does not work yet, and those that do.
fn not_yet(key: &Key, value: &Json) -> Option<(String, String)> {
    let now = |choices: &[Choice]| {
        choices.iter().filter(|choice| !choice.not_yet).map(|choice| choice.name).collect::<Vec<_>>().join(", ")
    };
    match key.shape {
        Shape::Choice(choices) => {
            let choice = choices.iter().find(|choice| Some(choice.name) == value.as_str())?;
            choice.not_yet.then(|| (choice.name.to_owned(), now(choices)))
        }
        _ => None,
    }
}

/// `false`, null or `{enabled: false}`: a feature that is switched off needs no support.
fn asks_for_nothing(node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Bool(false) => true,
        Value::List(items) => items.is_empty(),
        Value::Map(members) => {
            members.is_empty()
                || node.member("enabled").is_some_and(|member| matches!(member.node.value, Value::Bool(false)))
        }
        Value::Bool(true) | Value::Number(_) | Value::Text(_) => false,
    }
}
