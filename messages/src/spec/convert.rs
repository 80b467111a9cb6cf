//! One written value against what its key may hold: the value in canonical form, or what was
//! expected and what was found.

use serde_json::{Value as Json, json};

use super::keys::{Choice, Fallback, Key, Range, Shape};
use super::located::{Node, Value, shorten};
use super::mistakes::Mistakes;
use super::nearest::nearest;

/// Longest text and longest list of a spec.
const MAX_TEXT_BYTES: usize = 64 * 1024;
const MAX_ITEMS: usize = 10_000;

/// The value in canonical form; none where a mistake was reported.
pub(crate) fn convert(key: &Key, node: &Node, path: &str, mistakes: &mut Mistakes) -> Option<Json> {
    if node.is_null() {
        if matches!(key.default, Fallback::Absent) {
            return Some(Json::Null);
        }
        if matches!(key.shape, Shape::Label) {
            return Some(json!(""));
        }
        if key.name() == "enabled" {
            return Some(json!(false));
        }
    }
    let mut reader = Reader { path, mistakes };
    match key.shape {
        Shape::Bool => reader.boolean(node),
        Shape::Whole { min, max } => reader.whole(node, min, max),
        Shape::Number(range) => reader.number(node, range),
        Shape::Text => reader.text(node, "a text").filter(|text| reader.not_blank(node, text)).map(Json::from),
        Shape::Label => reader.text(node, "a text").map(Json::from),
        Shape::Character { may_be_empty } => reader.character(node, may_be_empty),
        Shape::Choice(choices) => reader.choice(node, choices).map(Json::from),
        Shape::Choices(choices) => reader.list(node, |reader, item| reader.choice(item, choices).map(Json::from)),
        Shape::Texts => reader.list(node, |reader, item| reader.text(item, "a text").map(Json::from)),
        Shape::Wholes { min, max } => reader.list(node, |reader, item| reader.whole(item, min, max)),
        Shape::Numbers(range) => reader.list(node, |reader, item| reader.number(item, range)),
        Shape::Path => reader.local_path(node),
        Shape::Source => reader.source(node),
        Shape::Sources => reader.sources(node),
        Shape::WebUrl => reader.web_url(node),
        Shape::ServiceUri => reader.service_uri(node),
        Shape::Records(keys) => reader.list(node, |reader, item| reader.record(item, keys)),
        Shape::Patterns => reader.list(node, Reader::pattern),
        Shape::Device => reader.device(node),
        Shape::Monitor => reader.monitor(node),
        Shape::Any => Some(Json::Null),
        Shape::Document => reader.document(node),
    }
}

struct Reader<'m, 'p> {
    path: &'p str,
    mistakes: &'m mut Mistakes,
}

impl Reader<'_, '_> {
    fn refuse<T>(&mut self, node: &Node, expected: &str) -> Option<T> {
        self.mistakes.add(node.at, self.path, format!("expected {expected}, found {}", node.describe()));
        None
    }

    fn suggest<T>(&mut self, node: &Node, expected: &str, suggestion: Option<String>) -> Option<T> {
        let message = format!("expected {expected}, found {}", node.describe());
        self.mistakes.add_with(node.at, self.path, message, suggestion);
        None
    }

    fn boolean(&mut self, node: &Node) -> Option<Json> {
        match &node.value {
            Value::Bool(value) => Some(json!(value)),
            Value::Text(text) => {
                let meant = match text.to_lowercase().as_str() {
                    "yes" | "on" | "true" | "y" => Some("true".to_owned()),
                    "no" | "off" | "false" | "n" => Some("false".to_owned()),
                    _ => None,
                };
                self.suggest(node, "true or false", meant)
            }
            _ => self.refuse(node, "true or false"),
        }
    }

    fn whole(&mut self, node: &Node, min: i64, max: i64) -> Option<Json> {
        let expected = format!("a whole number from {min} to {max}");
        match &node.value {
            Value::Number(number) => match number.whole.and_then(|value| i64::try_from(value).ok()) {
                Some(value) if (min..=max).contains(&value) => Some(json!(value)),
                _ => self.refuse(node, &expected),
            },
            Value::Text(text) => self.suggest(node, &expected, unquoted(text)),
            _ => self.refuse(node, &expected),
        }
    }

    fn number(&mut self, node: &Node, range: Range) -> Option<Json> {
        let expected = describe_range(range);
        match &node.value {
            Value::Number(number) if contains(range, number.value) => Some(json!(number.value)),
            Value::Text(text) => self.suggest(node, &expected, unquoted(text)),
            _ => self.refuse(node, &expected),
        }
    }

    fn text(&mut self, node: &Node, expected: &str) -> Option<String> {
        let Some(text) = node.scalar_text() else { return self.refuse(node, expected) };
        if text.len() > MAX_TEXT_BYTES {
            return self.refuse(node, &format!("{expected} of at most {MAX_TEXT_BYTES} bytes"));
        }
        if text.contains('\0') {
            return self.refuse(node, &format!("{expected} without NUL"));
        }
        Some(text)
    }

    fn not_blank(&mut self, node: &Node, text: &str) -> bool {
        if text.trim().is_empty() {
            self.refuse::<()>(node, "a text that is not empty");
            return false;
        }
        true
    }

    fn character(&mut self, node: &Node, may_be_empty: bool) -> Option<Json> {
        let expected = if may_be_empty { "one character or an empty text" } else { "one character" };
        let text = self.text(node, expected)?;
        // In plain YAML `\t` is two characters; everybody means the tab.
        let text = if matches!(text.as_str(), "\\t" | "tab") { "\t".to_owned() } else { text };
        match text.as_bytes() {
            [] if may_be_empty => Some(json!(text)),
            [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Some(json!(text)),
            _ => self.refuse(node, expected),
        }
    }

    fn choice(&mut self, node: &Node, choices: &'static [Choice]) -> Option<&'static str> {
        let now: Vec<_> = choices.iter().filter(|choice| !choice.not_yet).map(|choice| choice.name).collect();
        let expected = match now.as_slice() {
            [one] => (*one).to_owned(),
            names => format!("one of {}", names.join(", ")),
        };
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            _ => match node.scalar_text() {
                Some(text) => text,
                None => return self.refuse(node, &expected),
            },
        };
        let plain = text.to_lowercase();
        let found = choices.iter().find(|choice| choice.name == plain || choice.aliases.contains(&plain.as_str()));
        if let Some(choice) = found {
            return Some(choice.name);
        }
        let names =
            choices.iter().flat_map(|choice| std::iter::once(choice.name).chain(choice.aliases.iter().copied()));
        let suggestion = nearest(&text, names).map(str::to_owned);
        self.suggest(node, &expected, suggestion)
    }

    fn list(&mut self, node: &Node, mut item: impl FnMut(&mut Self, &Node) -> Option<Json>) -> Option<Json> {
        match &node.value {
            Value::List(items) if items.len() <= MAX_ITEMS => {
                let read: Vec<_> = items.iter().map(|node| item(self, node)).collect();
                read.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
            }
            Value::List(_) => self.refuse(node, &format!("a list of at most {MAX_ITEMS}")),
            Value::Null => self.refuse(node, "a list"),
            _ => item(self, node).map(|item| json!([item])),
        }
    }

    /// What the document says is checked by whoever reads it.
    fn document(&mut self, node: &Node) -> Option<Json> {
        let text = match node.value {
            Value::Map(_) => plain(node).to_string(),
            _ => {
                return self
                    .text(node, "a name, a path or a mapping")
                    .filter(|text| self.not_blank(node, text))
                    .map(Json::from);
            }
        };
        if text.len() > MAX_TEXT_BYTES {
            return self.refuse(node, &format!("a mapping of at most {MAX_TEXT_BYTES} bytes as JSON"));
        }
        Some(Json::from(text))
    }

    fn record(&mut self, node: &Node, keys: &'static [Key]) -> Option<Json> {
        let mut record = serde_json::Map::new();
        let outer = self.path;
        let mut whole = true;
        match &node.value {
            Value::Map(members) => {
                for member in members {
                    let path = format!("{outer}.{}", member.key);
                    let Some(key) = keys.iter().find(|key| key.path == member.key) else {
                        let suggestion = nearest(&member.key, keys.iter().map(|key| key.path)).map(str::to_owned);
                        let names: Vec<_> = keys.iter().map(|key| key.path).collect();
                        let message = format!("unknown key: expected {}", names.join(", "));
                        self.mistakes.add_with(member.key_at, &path, message, suggestion);
                        whole = false;
                        continue;
                    };
                    match convert(key, &member.node, &path, self.mistakes) {
                        Some(value) => drop(record.insert(member.key.clone(), value)),
                        None => whole = false,
                    }
                }
            }
            Value::Text(_) => match convert(&keys[0], node, outer, self.mistakes) {
                Some(value) => drop(record.insert(keys[0].path.to_owned(), value)),
                None => return None,
            },
            _ => return self.refuse(node, "a mapping"),
        }
        for key in keys {
            match key.default {
                Fallback::Required if !record.contains_key(key.path) && node.member(key.path).is_none() => {
                    self.mistakes.add(node.at, &format!("{outer}.{}", key.path), format!("missing: {}", key.doc));
                    whole = false;
                }
                Fallback::Json(text) => {
                    record.entry(key.path).or_insert_with(|| serde_json::from_str(text).unwrap_or(Json::Null));
                }
                _ => {}
            }
        }
        whole.then_some(Json::Object(record))
    }

    /// A local path or a URL of files that are only read. Whether its host is allowed is judged where it is read.
    fn source(&mut self, node: &Node) -> Option<Json> {
        let text = self.text(node, "a path")?;
        let Some((scheme, rest)) = text.split_once("://") else { return self.local_path(node) };
        let scheme = match scheme {
            "s3" | "s3a" => "s3",
            "gs" | "gcs" => "gs",
            "az" => "az",
            "http" => "http",
            "https" => "https",
            _ => return self.local_path(node),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            // Not repeated: it would end up in logs.
            let message = "forbidden: credentials inside the URL: expected them in the environment of the worker";
            self.mistakes.add(node.at, self.path, message);
            return None;
        }
        let control = text.chars().any(char::is_control);
        if host.is_empty() || path.is_empty() || control || path.split('/').any(|part| matches!(part, "" | "." | ".."))
        {
            return self.refuse(
                node,
                &format!("{scheme}://{}/path/of/a/file", if scheme.starts_with("http") { "host" } else { "bucket" }),
            );
        }
        if path.contains(['?', '#']) && scheme.starts_with("http") {
            return self.refuse(node, "a URL without query or fragment");
        }
        Some(json!(format!("{scheme}://{rest}")))
    }

    fn sources(&mut self, node: &Node) -> Option<Json> {
        let paths = self.list(node, Self::source)?;
        if paths.as_array().is_some_and(Vec::is_empty) && !matches!(self.path, "data.test_path") {
            return self.refuse(node, "at least one path");
        }
        Some(paths)
    }

    /// Lexical only: whether the file lies in a data root is judged where it is opened.
    fn local_path(&mut self, node: &Node) -> Option<Json> {
        let text = self.text(node, "a path")?;
        let path = match text.split_once("://") {
            Some(("file", rest)) if rest.starts_with('/') => rest,
            Some(("file", _)) => return self.refuse(node, "file:///… without a host"),
            Some((scheme, _)) if matches!(scheme, "s3" | "gs" | "gcs" | "az" | "abfs" | "abfss" | "hdfs") => {
                let message = format!("not yet supported: {}: {scheme}:// (a path below a data root is)", self.path);
                self.mistakes.add(node.at, self.path, message);
                return None;
            }
            Some((scheme, _)) => {
                let message = format!("forbidden: scheme {:?}: expected a path below a data root", shorten(scheme, 20));
                self.mistakes.add(node.at, self.path, message);
                return None;
            }
            None => text.as_str(),
        };
        if path.trim().is_empty() || path.chars().any(char::is_control) {
            return self.refuse(node, "a path");
        }
        if path.split(['/', '\\']).any(|part| part == "..") || path.starts_with('~') {
            let message = format!("forbidden: {path:?} leaves the data roots: expected a path below one, without `..`");
            self.mistakes.add(node.at, self.path, message);
            return None;
        }
        Some(json!(path))
    }

    fn web_url(&mut self, node: &Node) -> Option<Json> {
        let expected = "http:// or https:// with a host";
        let text = self.text(node, expected)?;
        let Some((scheme, rest)) = text.split_once("://") else { return self.refuse(node, expected) };
        if !matches!(scheme, "http" | "https") {
            let message = format!("forbidden: scheme {:?}: expected {expected}", shorten(scheme, 20));
            self.mistakes.add(node.at, self.path, message);
            return None;
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
        if authority.contains('@') {
            // Not repeated: it would end up in logs.
            let message = "forbidden: credentials inside the URL: expected them in the notifier's configuration";
            self.mistakes.add(node.at, self.path, message);
            return None;
        }
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        if host.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return self.refuse(node, expected);
        }
        Some(json!(text))
    }

    fn service_uri(&mut self, node: &Node) -> Option<Json> {
        let expected = "a URI or a path";
        let text = self.text(node, expected)?;
        let (scheme, rest) = text.split_once("://").unwrap_or(("", &text));
        if scheme.starts_with("mysql") {
            self.mistakes.add(
                node.at,
                self.path,
                "mysql:// is refused: expected sqlite://, postgresql:// or http(s)://",
            );
            return None;
        }
        if rest.split(['/', '?', '#']).next().is_some_and(|authority| authority.contains('@')) {
            let message = "forbidden: credentials inside the URI: expected them in a file or the environment";
            self.mistakes.add(node.at, self.path, message);
            return None;
        }
        if text.trim().is_empty() { self.refuse(node, expected) } else { Some(json!(text)) }
    }

    fn pattern(&mut self, node: &Node) -> Option<Json> {
        let expected = "a pattern of keys such as training.optimizer.*";
        let text = self.text(node, expected)?;
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '*' | '-');
        if text.is_empty() || !text.chars().all(legal) {
            return self.refuse(node, expected);
        }
        Some(json!(text))
    }

    fn device(&mut self, node: &Node) -> Option<Json> {
        let text = self.text(node, "auto, cpu, cuda or cuda:<number>")?.to_lowercase();
        let number = text.strip_prefix("cuda:").or(text.strip_prefix("gpu:"));
        match text.as_str() {
            "auto" | "cpu" | "cuda" => Some(json!(text)),
            "gpu" => Some(json!("cuda")),
            _ if number.is_some_and(|n| n.parse::<u16>().is_ok()) => Some(json!(text.replace("gpu", "cuda"))),
            _ => {
                let meant = nearest(&text, ["auto", "cpu", "cuda"]).map(str::to_owned);
                self.suggest(node, "auto, cpu, cuda or cuda:<number>", meant)
            }
        }
    }

    fn monitor(&mut self, node: &Node) -> Option<Json> {
        let text = self.text(node, "val_loss or val_<metric>")?;
        match text.strip_prefix("val_") {
            Some(rest) if !rest.is_empty() => Some(json!(text)),
            _ => {
                let meant = match text.as_str() {
                    "" | "loss" | "train_loss" => "val_loss".to_owned(),
                    name => format!("val_{name}"),
                };
                self.suggest(node, "val_loss or val_<metric>", Some(meant))
            }
        }
    }
}

/// The value without its places.
fn plain(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Number(number) => match number.whole.map(|whole| (i64::try_from(whole), u64::try_from(whole))) {
            Some((Ok(whole), _)) => json!(whole),
            Some((_, Ok(whole))) => json!(whole),
            _ => json!(number.value),
        },
        Value::Text(text) => json!(text),
        Value::List(items) => items.iter().map(plain).collect(),
        Value::Map(members) => members.iter().map(|member| (member.key.clone(), plain(&member.node))).collect(),
    }
}

/// A number that was written as a text.
fn unquoted(text: &str) -> Option<String> {
    let number: f64 = text.trim().parse().ok()?;
    number.is_finite().then(|| format!("{}, without quotes", text.trim()))
}

fn contains(range: Range, value: f64) -> bool {
    let low = if range.min_open { value > range.min } else { value >= range.min };
    let high = if range.max_open { value < range.max } else { value <= range.max };
    value.is_finite() && low && high
}

fn describe_range(range: Range) -> String {
    let low = if range.min_open { "above" } else { "from" };
    match (range.min.is_finite(), range.max.is_finite()) {
        (false, false) => "a finite number".into(),
        (true, false) => format!("a number {low} {}{}", range.min, if range.min_open { "" } else { " up" }),
        (false, true) => format!("a number up to {}", range.max),
        (true, true) => {
            let high = if range.max_open { "below" } else { "up to" };
            format!("a number {low} {} and {high} {}", range.min, range.max)
        }
    }
}
