//! JSON specs: a text to a located tree, and an object (a JSON or MessagePack client's) to a tree
//! without lines.

use serde_json::Value as Json;

use super::located::{Member, Node, Number, Place, Value, shorten};
use super::mistakes::Mistakes;
use super::parse::MAX_SPEC_DEPTH;

/// Parses a JSON text. `serde_json` judges the syntax; the scanner below only has to find where
/// everything stands in a text that is known to be right.
pub(crate) fn parse_json(source: u16, text: &str, mistakes: &mut Mistakes) -> Option<Node> {
    if let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(text) {
        let at = Place { source, line: error.line() as u32, column: error.column() as u32 };
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or("syntax error");
        mistakes.add(at, "", format!("not JSON: {}", shorten(message, 300)));
        return None;
    }
    let mut scanner = Scanner { text, offset: 0, line: 1, line_start: 0, source };
    if let Some(node) = scanner.value(0) {
        return Some(node);
    }
    let at = scanner.place();
    mistakes.add(at, "", format!("nested deeper than {MAX_SPEC_DEPTH} levels"));
    None
}

struct Scanner<'a> {
    text: &'a str,
    offset: usize,
    line: u32,
    line_start: usize,
    source: u16,
}

impl Scanner<'_> {
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.offset).copied().unwrap_or(0)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\r' | b'\n') {
            let newline = self.peek() == b'\n';
            self.offset += 1;
            if newline {
                self.line += 1;
                self.line_start = self.offset;
            }
        }
    }

    fn place(&self) -> Place {
        let column = self.text[self.line_start..self.offset].chars().count() as u32 + 1;
        Place { source: self.source, line: self.line, column }
    }

    /// The next value; none where it nests too deeply.
    fn value(&mut self, depth: usize) -> Option<Node> {
        if depth > MAX_SPEC_DEPTH {
            return None;
        }
        self.blanks();
        let at = self.place();
        let value = match self.peek() {
            b'{' => self.object(depth)?,
            b'[' => self.array(depth)?,
            b'"' => Value::Text(self.string()),
            _ => self.word(),
        };
        Some(Node { at, value })
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        let mut members = Vec::new();
        self.offset += 1;
        self.blanks();
        while self.peek() == b'"' {
            let key_at = self.place();
            let key = self.string();
            self.blanks();
            self.offset += 1; // the colon
            let node = self.value(depth + 1)?;
            members.push(Member { key, key_at, node });
            self.blanks();
            if self.peek() == b',' {
                self.offset += 1;
                self.blanks();
            }
        }
        self.offset += 1; // the brace
        Some(Value::Map(members))
    }

    fn array(&mut self, depth: usize) -> Option<Value> {
        let mut items = Vec::new();
        self.offset += 1;
        self.blanks();
        while !matches!(self.peek(), b']' | 0) {
            items.push(self.value(depth + 1)?);
            self.blanks();
            if self.peek() == b',' {
                self.offset += 1;
                self.blanks();
            }
        }
        self.offset += 1; // the bracket
        Some(Value::List(items))
    }

    fn string(&mut self) -> String {
        let start = self.offset;
        self.offset += 1;
        while !matches!(self.peek(), b'"' | 0) {
            self.offset += if self.peek() == b'\\' { 2 } else { 1 };
        }
        self.offset = (self.offset + 1).min(self.text.len());
        serde_json::from_str(&self.text[start..self.offset]).unwrap_or_default()
    }

    fn word(&mut self) -> Value {
        let rest = &self.text[self.offset..];
        let end = rest.find([' ', '\t', '\r', '\n', ',', ']', '}']).unwrap_or(rest.len());
        self.offset += end;
        match &rest[..end] {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            word => serde_json::from_str::<serde_json::Number>(word)
                .map_or(Value::Null, |number| Value::Number(number_of(&number, word))),
        }
    }
}

fn number_of(number: &serde_json::Number, spelling: &str) -> Number {
    let value = number.as_f64().unwrap_or(f64::NAN);
    let exact = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
    let whole = exact.or((value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i128));
    Number { spelling: spelling.to_owned(), value, whole }
}

/// An object that came as such; without lines.
pub(crate) fn object_node(
    source: u16,
    object: &serde_json::Map<String, Json>,
    mistakes: &mut Mistakes,
) -> Option<Node> {
    let at = Place { source, ..Place::default() };
    if object.values().any(|value| depth_of(value, 1) > MAX_SPEC_DEPTH) {
        mistakes.add(at, "", format!("nested deeper than {MAX_SPEC_DEPTH} levels"));
        return None;
    }
    let members = object.iter().map(|(key, value)| member(at, key, value)).collect();
    Some(Node { at, value: Value::Map(members) })
}

fn depth_of(value: &Json, depth: usize) -> usize {
    if depth > MAX_SPEC_DEPTH {
        return depth;
    }
    match value {
        Json::Array(items) => items.iter().map(|item| depth_of(item, depth + 1)).max().unwrap_or(depth),
        Json::Object(members) => members.values().map(|item| depth_of(item, depth + 1)).max().unwrap_or(depth),
        _ => depth,
    }
}

fn member(at: Place, key: &str, value: &Json) -> Member {
    Member { key: key.to_owned(), key_at: at, node: node(at, value) }
}

fn node(at: Place, value: &Json) -> Node {
    let value = match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Number(number_of(number, &number.to_string())),
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(|item| node(at, item)).collect()),
        Json::Object(members) => Value::Map(members.iter().map(|(key, value)| member(at, key, value)).collect()),
    };
    Node { at, value }
}
