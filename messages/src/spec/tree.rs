//! A spec with its bases: read from files, carried by the wire, and read again there with every line
//! in its place. The wire carries the texts themselves, the bases beside the spec, so that nothing is
//! lost and nothing outside it is needed.

use super::located::{Node, Place, Value};
use super::mistakes::Mistakes;
use super::parse::{MAX_SPEC_BYTES, parse_text};
use super::{SpecError, SpecInput, json};
use crate::rpc::{SpecBase, SpecDocument, SpecFormat};

/// Longest chain of base configs.
const MAX_BASES: usize = 16;

/// What the user wrote: the spec and its bases, located, with the texts that they came from.
#[derive(Debug, Clone)]
pub struct SpecTree {
    document: SpecDocument,
    /// Names of the sources: the spec, then its bases, the nearest first.
    pub(crate) files: Vec<Option<String>>,
    /// The sources in the same order.
    pub(crate) roots: Vec<Node>,
}

/// Gives the text of a `base_config`, or why it cannot be read. Gets the path as it is written and the
/// name of the file that it is written in.
pub type Loader<'a> = dyn FnMut(&str, Option<&str>) -> Result<String, String> + 'a;

/// Reads a spec and the chain of its `base_config`s.
pub fn resolve_base(input: &SpecInput<'_>, loader: &mut Loader<'_>) -> Result<SpecTree, Vec<SpecError>> {
    let file = input.file.map(str::to_owned);
    let mut mistakes = Mistakes::new(vec![file.clone()]);
    let Some(root) = parse_root(0, input.text, input.format, &mut mistakes) else {
        return Err(mistakes.into_errors());
    };
    let (mut files, mut roots, mut bases) = (vec![file.clone()], vec![root], Vec::new());
    let mut names: Vec<String> = file.iter().map(|file| normal(file)).collect();
    let mut bytes = input.text.len();
    while let Some((path, at)) = base_of(roots.last().expect("invariant: the spec itself"), &mut mistakes) {
        let from = files.last().cloned().flatten();
        let name = beside(from.as_deref(), &path);
        if names.contains(&name) {
            mistakes.add(at, "base_config", format!("a cycle: {} → {name}", names.join(" → ")));
            break;
        }
        if bases.len() == MAX_BASES {
            mistakes.add(at, "base_config", format!("a chain of more than {MAX_BASES} base configs"));
            break;
        }
        let text = match loader(&path, from.as_deref()) {
            Ok(text) => text,
            Err(reason) => {
                mistakes.add(at, "base_config", format!("{path:?} cannot be read: {reason}"));
                break;
            }
        };
        bytes += text.len();
        if bytes > MAX_SPEC_BYTES {
            let message = format!("too large: {bytes} bytes with its bases, expected at most {MAX_SPEC_BYTES}");
            mistakes.add(at, "base_config", message);
            break;
        }
        let format = format_of(&name);
        let source = mistakes.source(Some(name.clone()));
        let Some(root) = parse_root(source, &text, format, &mut mistakes) else { break };
        roots.push(root);
        files.push(Some(name.clone()));
        names.push(name.clone());
        bases.push(SpecBase { text, format, file: name });
    }
    if mistakes.len() > 0 {
        return Err(mistakes.into_errors());
    }
    let document = SpecDocument::Text { text: input.text.to_owned(), format: input.format, file, bases };
    Ok(SpecTree { document, files, roots })
}

/// Reads a spec that came by the wire. It must be self-contained: a `base_config` without its text is refused.
pub fn parse_document(document: &SpecDocument) -> Result<SpecTree, Vec<SpecError>> {
    match document {
        SpecDocument::Text { text, format, file, bases } => {
            let mut texts = bases.iter();
            let input = SpecInput { file: file.as_deref(), text, format: *format };
            let mut carried = 0;
            let tree = resolve_base(&input, &mut |_, _| {
                carried += 1;
                let base = texts.next();
                base.map(|base| base.text.clone()).ok_or_else(|| {
                    "a spec on the wire must be self-contained: `within submit` inlines base_config".to_owned()
                })
            })?;
            if carried < bases.len() {
                let mut mistakes = Mistakes::new(vec![file.clone()]);
                mistakes.add(Place::default(), "bases", "more texts than base_config names");
                return Err(mistakes.into_errors());
            }
            Ok(tree)
        }
        SpecDocument::Object(object) => {
            let mut mistakes = Mistakes::new(vec![None]);
            if object.contains_key("text") && object.get("format").is_some_and(|format| !format.is_object()) {
                let message = "a spec as text needs `text` (a text) and `format` (yaml or json)";
                mistakes.add(Place::default(), "format", message);
                return Err(mistakes.into_errors());
            }
            let root = json::object_node(0, object, &mut mistakes);
            if object.get("base_config").is_some_and(|base| !base.is_null()) {
                let message = "a spec that comes as an object must be self-contained: merge the base into it";
                mistakes.add(Place::default(), "base_config", message);
            }
            match root {
                Some(root) if mistakes.len() == 0 => {
                    Ok(SpecTree { document: document.clone(), files: vec![None], roots: vec![root] })
                }
                _ => Err(mistakes.into_errors()),
            }
        }
    }
}

impl SpecTree {
    /// For the wire: self-contained, and read there with the same lines.
    pub fn to_document(&self) -> SpecDocument {
        self.document.clone()
    }

    /// The name of the spec's file, if it has one.
    pub fn file(&self) -> Option<&str> {
        self.files.first()?.as_deref()
    }
}

fn parse_root(source: u16, text: &str, format: SpecFormat, mistakes: &mut Mistakes) -> Option<Node> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let node = parse_text(source, text, format, mistakes)?;
    match &node.value {
        Value::Map(_) => Some(node),
        Value::Null => {
            mistakes.add(
                Place { source, line: 1, column: 1 },
                "",
                "empty: expected a mapping with keys such as data, model, training",
            );
            None
        }
        _ => {
            let message =
                format!("expected a mapping with keys such as data, model, training, found {}", node.describe());
            mistakes.add(node.at, "", message);
            None
        }
    }
}

fn base_of(root: &Node, mistakes: &mut Mistakes) -> Option<(String, Place)> {
    let member = root.member("base_config")?;
    match &member.node.value {
        Value::Null => None,
        Value::Text(path) if !path.trim().is_empty() && !path.chars().any(char::is_control) => {
            Some((path.clone(), member.node.at))
        }
        _ => {
            let message = format!("expected a path, found {}", member.node.describe());
            mistakes.add(member.node.at, "base_config", message);
            None
        }
    }
}

fn format_of(name: &str) -> SpecFormat {
    if name.to_lowercase().ends_with(".json") { SpecFormat::Json } else { SpecFormat::Yaml }
}

/// `path` as seen from where `from` lies.
fn beside(from: Option<&str>, path: &str) -> String {
    match from.and_then(|from| from.rsplit_once('/')) {
        Some((folder, _)) if !path.starts_with('/') => normal(&format!("{folder}/{path}")),
        _ => normal(path),
    }
}

/// Without `.` and, where it can be told without looking, without `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "." => {}
            "" if !parts.is_empty() => {}
            ".." if parts.last().is_some_and(|last| !matches!(*last, ".." | "")) => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_bases_are_told_from_where_they_are_written() {
        for (from, path, expected) in [
            (Some("configs/hyperopt/sweep.yaml"), "../training/ad.yaml", "configs/training/ad.yaml"),
            (Some("/a/b.yaml"), "./c.yaml", "/a/c.yaml"),
            (Some("b.yaml"), "c.yaml", "c.yaml"),
            (Some("x/b.yaml"), "/abs/c.yaml", "/abs/c.yaml"),
            (Some("x/b.yaml"), "../../c.yaml", "../c.yaml"),
            (None, "../c.yaml", "../c.yaml"),
        ] {
            assert_eq!(beside(from, path), expected);
        }
    }
}
