//! Walks every layer of a spec along the table of keys: what was written, under whatever name,
//! becomes entries by canonical path; what is unknown is refused with the nearest valid name.

use std::collections::BTreeMap;

use super::keys::{Index, Key, Step, index_of};
use super::located::{Member, Node, Place, Value};
use super::mistakes::Mistakes;
use crate::plan::Kind;

/// A value that the user wrote for a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written<'a> {
    pub node: &'a Node,
    pub key_at: Place,
    /// Index of the layer; a later one takes precedence.
    pub layer: usize,
}

/// Everything that was written for one key, in order of layers.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub key: &'static Key,
    /// The canonical path; free names may have dots.
    pub segments: Vec<String>,
    /// The path as it was written, in the layer that counts.
    pub as_written: String,
    pub all: Vec<Written<'a>>,
}

impl<'a> Entry<'a> {
    /// What counts.
    pub fn effective(&self) -> Written<'a> {
        *self.all.last().expect("invariant: an entry has a value")
    }
}

/// Entries by canonical path.
pub(crate) type Entries<'a> = BTreeMap<String, Entry<'a>>;

/// Keys of the top level that steer the reading itself.
const SPECIAL: [&str; 2] = ["base_config", "overrides"];

/// Reads all layers, lowest precedence first.
pub(crate) fn flatten<'a>(layers: &[&'a Node], kind: Kind, mistakes: &mut Mistakes) -> Entries<'a> {
    let mut walk = Walk { index: index_of(kind), kind, entries: Entries::new(), layer: 0, mistakes };
    for (layer, root) in layers.iter().enumerate() {
        walk.layer = layer;
        for member in root.members().iter().filter(|member| !SPECIAL.contains(&member.key.as_str())) {
            walk.member(&walk.index.root, member, "", &[]);
        }
    }
    walk.entries
}

struct Walk<'a, 'm> {
    index: &'static Index,
    kind: Kind,
    entries: Entries<'a>,
    layer: usize,
    mistakes: &'m mut Mistakes,
}

impl<'a> Walk<'a, '_> {
    fn member(&mut self, parent: &'static Step, member: &'a Member, parent_path: &str, names: &[&'a str]) {
        let path = if parent_path.is_empty() { member.key.clone() } else { format!("{parent_path}.{}", member.key) };
        let (mut step, mut below) = (parent, names.to_vec());
        // Free names are borrowed from the key itself: `segments` only says where to cut.
        let mut rest = member.key.as_str();
        let segments = if parent.child(rest).is_some_and(|(_, free)| !free) {
            vec![member.key.clone()]
        } else if parent.names().next().is_none() {
            // Only free names stand here: the whole key is one.
            vec![member.key.clone()]
        } else {
            parent.segments(&member.key)
        };
        for segment in &segments {
            let (name, tail) = rest.split_at(segment.len().min(rest.len()));
            rest = tail.strip_prefix('.').unwrap_or(tail);
            match step.child(name) {
                Some((next, free)) => {
                    if free {
                        below.push(name);
                    }
                    step = next;
                }
                None => return self.unknown(step, member, &path),
            }
        }
        self.value(step, member, &path, &below);
    }

    fn value(&mut self, step: &'static Step, member: &'a Member, path: &str, names: &[&'a str]) {
        match (&member.node.value, step.key) {
            (Value::Map(members), _) if step.is_group() => {
                for inner in members {
                    self.member(step, inner, path, names);
                }
            }
            // A group with nothing under it says nothing, and neither does a free name.
            (Value::Null, None) => {}
            (Value::Null, Some(key)) if step.is_group() && key.name() != "enabled" => {}
            (_, Some(key)) => self.entry(key, member, path, names),
            (_, None) => {
                let keys: Vec<_> = step.names().take(12).collect();
                let message = format!(
                    "expected a mapping{}, found {}",
                    if keys.is_empty() { String::new() } else { format!(" with keys such as {}", keys.join(", ")) },
                    member.node.describe()
                );
                self.mistakes.add(member.node.at, path, message);
            }
        }
    }

    fn entry(&mut self, key: &'static Key, member: &'a Member, path: &str, names: &[&'a str]) {
        let mut free = names.iter();
        let segments: Vec<String> = key
            .path
            .split('.')
            .map(|segment| if segment == "*" { free.next().copied().unwrap_or_default() } else { segment }.to_owned())
            .collect();
        let written = Written { node: &member.node, key_at: member.key_at, layer: self.layer };
        let entry = self.entries.entry(segments.join(".")).or_insert_with(|| Entry {
            key,
            segments,
            as_written: path.to_owned(),
            all: Vec::new(),
        });
        if let Some(known) = entry.all.last().filter(|known| known.layer == self.layer) {
            if *known.node != member.node {
                let message = format!(
                    "{} in line {}, but {} says {} in line {}: they are one setting, give it once",
                    member.node.describe(),
                    member.key_at.line,
                    entry.as_written,
                    known.node.describe(),
                    known.key_at.line,
                );
                self.mistakes.add(member.key_at, path, message);
            }
            return;
        }
        path.clone_into(&mut entry.as_written);
        entry.all.push(written);
    }

    fn unknown(&mut self, step: &Step, member: &Member, path: &str) {
        let parent = path.strip_suffix(member.key.as_str()).unwrap_or("").trim_end_matches('.');
        if parent.is_empty() {
            let owner = [(Kind::Sweep, "sweep"), (Kind::Evaluation, "evaluation"), (Kind::Gates, "gates")]
                .into_iter()
                .find(|(kind, _)| *kind != self.kind && index_of(*kind).root.child(&member.key).is_some());
            if let Some((_, owner)) = owner {
                let message = format!("a key of kind {owner}, and this spec is of another kind");
                self.mistakes.add(member.key_at, path, message);
                return;
            }
        }
        let suggestion = self.index.nearest(parent, step, &member.key);
        let message = match (&suggestion, step.names().count()) {
            (None, 1..=16) => format!("unknown key: expected one of {}", step.names().collect::<Vec<_>>().join(", ")),
            _ => "unknown key".to_owned(),
        };
        self.mistakes.add_with(member.key_at, path, message, suggestion);
    }
}
